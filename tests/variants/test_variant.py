"""A variant as data, and what `apply` makes of it: widths, zeros and bits in every combination."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import widthwise as ww
from elastic_nets import made as elastic
from widthwise.errors import QuantizationError, ScoreError, WidthError
from widthwise.quantization import Codebook, Uniform

X = torch.randn(32, 20, generator=torch.Generator().manual_seed(1))
Y = torch.randint(4, (32,), generator=torch.Generator().manual_seed(2))
WEIGHTS = ("0.weight", "2.weight", "4.weight")
ZEROS = {"0.weight": 0.7, "2.weight": 0.25}
FORMS = {
    "float": {},
    "8": dict.fromkeys(WEIGHTS, Uniform(8)),
    "4": dict.fromkeys(WEIGHTS, Uniform(4)),
    "2": dict.fromkeys(WEIGHTS, Uniform(2)),
    "shared": dict.fromkeys(WEIGHTS, Codebook(6)),
    "mixed": {"0.weight": Codebook(16), "2.weight": Uniform(3, per="group", group=5)},
}


def build():
    return nn.Sequential(
        nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4)
    )


@pytest.fixture
def net():
    torch.manual_seed(0)
    return ww.Elastic(build(), X[:2])


def few_steps(module, quantizer):
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(module(X), Y).backward()
        optimizer.step()
        if quantizer is not None:
            quantizer.step()


# ---------------------------------------------------------------- as data

NAMES = st.sampled_from(["a", "b.weight", "c.0"])
FORMATS = st.one_of(
    st.builds(Uniform, st.integers(2, 8), st.booleans(), st.sampled_from(["tensor", "group"])),
    st.builds(Codebook, st.integers(2, 256)),
)

pytestmark = pytest.mark.sample(12)  # the same networks in every test, each captured once
VARIANTS = st.builds(
    ww.Variant,
    st.dictionaries(NAMES, st.integers(1, 99)),
    st.dictionaries(NAMES, st.floats(0, 1, exclude_max=True)),
    st.dictionaries(NAMES, FORMATS),
)


@given(VARIANTS)
def test_a_variant_comes_back_from_json(variant):
    again = ww.Variant.from_dict(json.loads(json.dumps(variant.to_dict())))
    assert again == variant
    assert hash(again) == hash(variant)


@given(VARIANTS, VARIANTS)
def test_variants_are_equal_when_all_their_parts_are(a, b):
    assert (a == b) == (a.to_dict() == b.to_dict())


def test_the_order_of_names_does_not_matter():
    one = ww.Variant({"a": 1, "b": 2}, {"x": 0.5, "y": 0.0}, {"x": Uniform(4), "y": Codebook(4)})
    two = ww.Variant({"b": 2, "a": 1}, {"y": 0.0, "x": 0.5}, {"y": Codebook(4), "x": Uniform(4)})
    assert one == two
    assert len({one, two, ww.Variant()}) == 2
    assert one != ww.Variant({"a": 1, "b": 2})


def test_what_a_variant_was_made_of_may_change():
    zeros = {"x": 0.5}
    variant = ww.Variant(sparsity=zeros)
    zeros["x"] = 0.9
    assert variant.sparsity == {"x": 0.5}
    with pytest.raises(TypeError):
        variant.sparsity["x"] = 0.9
    with pytest.raises(AttributeError):
        variant.widths = {}


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_a_share_of_zeros_is_below_one(share):
    with pytest.raises(ValueError, match="sparsity of 'x'"):
        ww.Variant(sparsity={"x": share})


@pytest.mark.parametrize("form", [4, "int4", None])
def test_bits_are_formats(form):
    with pytest.raises(ValueError, match="bits of 'x'"):
        ww.Variant(bits={"x": form})


def test_widths_are_checked():
    with pytest.raises(WidthError):
        ww.Variant({"a": 0})


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        {"widths": {}, "sparsity": {}, "bits": {"x": {"colour": 1}}},
        {"widths": {}, "sparsity": {}, "bits": {"x": {"bits": 9}}},
        {"widths": [], "sparsity": {"x": "much"}, "bits": {}},
        {"widths": {}, "sparsity": 3, "bits": {}},
    ],
)
def test_what_is_no_variant_is_refused(data):
    with pytest.raises(ValueError):
        ww.Variant.from_dict(data)


# ---------------------------------------------------------------- applied


@pytest.mark.parametrize("train", [None, few_steps], ids=["plain", "trained"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zeros", [{}, ZEROS], ids=["dense", "sparse"])
@pytest.mark.parametrize("widths", [{}, {"0": 13, "2": 7}], ids=["full", "cut"])
def test_what_is_loaded_is_the_module(net, tmp_path, widths, zeros, form, train):
    before = {name: p.clone() for name, p in net.model.named_parameters()}
    variant = ww.Variant(widths, zeros, FORMS[form])
    made = ww.apply(net, variant, train=train)
    path = made.save(tmp_path / "x.safetensors")
    again = ww.load(path, build)
    mine, theirs = made.module.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor.view(torch.int32), theirs[name].view(torch.int32))
    assert torch.equal(again(X), made.module(X))
    assert path.stat().st_size == made.bytes
    assert {n: p.shape for n, p in again.named_parameters()} == {
        n: p.shape for n, p in net.cut(widths).named_parameters()
    }
    for name, share in zeros.items():
        gone = ~made.masks[name]
        assert int(gone.sum()) == round(share * gone.numel())
        assert not mine[name][gone].any()
        assert form != "float" or mine[name][~gone].all()
    for name, p in net.model.named_parameters():
        assert torch.equal(p, before[name])
    found = ww.variant_of(path)
    assert found.widths == net.complete(widths)
    assert found.bits == FORMS[form]
    for name, share in zeros.items():
        assert found.sparsity[name] >= round(share * mine[name].numel()) / mine[name].numel()
    assert train is None or not torch.equal(mine["4.bias"], before["4.bias"])


def test_zeros_and_bits_make_files_smaller():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 99), nn.ReLU(), nn.Linear(99, 99), nn.ReLU())
    net = ww.Elastic(model.append(nn.Linear(99, 4)), X[:2])
    sizes = [
        ww.apply(net, ww.Variant({}, zeros, bits)).bytes
        for zeros, bits in [
            ({}, {}),
            (dict.fromkeys(WEIGHTS, 0.8), {}),
            ({}, FORMS["8"]),
            ({}, FORMS["2"]),
            (dict.fromkeys(WEIGHTS, 0.8), FORMS["2"]),
        ]
    ]
    assert sizes[0] > sizes[1]
    assert sizes[0] > sizes[2] > sizes[3] > sizes[4]
    assert sizes[4] < sizes[1]


def test_the_least_weights_of_each_tensor_go(net):
    made = ww.apply(net, ww.Variant({}, ZEROS))
    for name, mask in made.masks.items():
        weights = net.model.get_parameter(name).detach().abs()
        assert weights[mask].min() >= weights[~mask].max()


def test_scores_decide_which_weights_go(net):
    def reversed_(module):
        return {name: -p.detach().abs() for name, p in module.named_parameters()}

    made = ww.apply(net, ww.Variant({}, ZEROS), score=reversed_)
    for name, mask in made.masks.items():
        weights = net.model.get_parameter(name).detach().abs()
        assert weights[mask].max() <= weights[~mask].min()


def test_the_cut_is_prepared_first(net):
    seen = []

    def prepare(module, widths):
        seen.append((module[0].out_features, dict(widths)))
        nn.init.constant_(module[4].bias, 7.0)
        return module

    made = ww.apply(net, ww.Variant({"0": 5}), prepare=prepare)
    assert seen == [(5, {"0": 5, "2": 16})]
    assert (made.module[4].bias == 7).all()


def test_the_zeros_of_a_trained_network_stay(net):
    made = ww.apply(net, ww.Variant({}, ZEROS, FORMS["4"]), train=few_steps)
    again = ww.apply(net, ww.Variant({}, ZEROS, FORMS["4"]))
    assert not torch.equal(made.module[0].weight, again.module[0].weight)
    assert {n: int(m.sum()) for n, m in made.masks.items()} == {
        n: int(m.sum()) for n, m in again.masks.items()
    }


@pytest.mark.filterwarnings("ignore::widthwise.GraphModuleWarning")
@pytest.mark.parametrize("name", ["cnn", "gpt", "lstm_2", "vit"])
def test_graph_modules_and_other_networks_keep_their_names(name, tmp_path):
    described, net, _, _ = elastic(name)
    tensors = ww.prunable(net.model)
    variant = ww.Variant(
        net.widths(0.5),
        dict.fromkeys(tensors, 0.5),
        dict.fromkeys(ww.quantization.quantizable(net.model), Uniform(4)),
    )
    made = ww.apply(net, variant)
    path = made.save(tmp_path / "x.safetensors")
    again = ww.load(path, described.build)
    mine = dict(made.module.named_parameters())
    for n, p in again.named_parameters():
        assert torch.equal(p, mine[n])
    # Of tied tensors, a graph module may have another name first.
    found, parameters = ww.variant_of(path), dict(made.module.named_parameters())
    assert len(found.bits) == len(variant.bits)
    pruned = {n: share for n, share in found.sparsity.items() if n in parameters}
    again = ww.apply(net, ww.Variant(found.widths, pruned, found.bits))
    assert again.bytes == pytest.approx(made.bytes, rel=0.05)


def test_names_that_are_not_there(net):
    with pytest.raises(ScoreError, match=r"'0\.wieght'.*did you mean '0\.weight'"):
        ww.apply(net, ww.Variant({}, {"0.wieght": 0.5}))
    with pytest.raises(QuantizationError, match="did you mean"):
        ww.apply(net, ww.Variant({}, {}, {"0.wieght": Uniform(4)}))
    with pytest.raises(WidthError, match="'1'"):
        ww.apply(net, ww.Variant({"1": 3}))


def test_what_cannot_be_pruned(net):
    with pytest.raises(ScoreError, match="vector"):
        ww.apply(net, ww.Variant({}, {"0.bias": 0.5}))
    with pytest.raises(ScoreError, match="nothing is left"):
        ww.apply(net, ww.Variant({"0": 1, "2": 1}, {"2.weight": 0.9}))
    with pytest.raises(ScoreError, match=r"no scores of '0\.weight'"):
        ww.apply(net, ww.Variant({}, {"0.weight": 0.5}), score=lambda module: {})
    with pytest.raises(ScoreError, match="fits no parameter"):
        ww.apply(
            net, ww.Variant({}, {"0.weight": 0.5}), score=lambda m: {"0.weight": torch.rand(3, 3)}
        )
