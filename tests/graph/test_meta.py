"""Networks without weights: traced, proven and cut on the meta device, and from checkpoints."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import widthwise as ww
from elastic_nets import close, made, random_widths, run
from nets import net as find
from widthwise.graph import proof, rules
from widthwise.store.stream import INDEX
from wrong_rules import BROKEN, Ordered, order_blind_all

NAMES = (
    "mlp buffer resnet unet weight_norm shuffle_view vit gpt llama transformer lstm_bidirectional "
    "tied_autoencoder text dict_kwargs"
).split()
STREAMED = "mlp resnet densenet vit llama lstm_2 tied_autoencoder".split()


def without_weights(name, **more):
    described = find(name)
    torch.manual_seed(0)
    args, kwargs = described.example()
    with torch.device("meta"):
        model = described.build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ww.NothingToCutWarning)
        return ww.Elastic(model, args, kwargs, **more).eval()


def quiet_cut(net, widths):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ww.GraphModuleWarning)
        return net.cut(widths)


# ---------------------------------------------------------------- trace, prove, cut


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", NAMES)
def test_a_network_without_weights_has_the_same_axes(name):
    real, net = made(name)[1], without_weights(name)
    assert net.free
    assert dict(net.full()) == dict(real.full())
    assert all(p.is_meta for p in net.parameters())
    widths = random_widths(net, 0)
    small = quiet_cut(net, widths)
    assert all(p.is_meta for p in small.parameters())
    wanted = quiet_cut(real, widths).state_dict()
    assert small.state_dict().keys() <= wanted.keys() | real.engine.state().keys()
    for key, tensor in small.state_dict().items():
        assert tensor.shape == wanted[key].shape


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["resnet", "gpt", "llama"])
def test_weights_may_come_later(name):
    """To the elastic network, and to a cut of it."""
    _, real, args, kwargs = made(name)
    net = without_weights(name)
    widths = random_widths(net, 1)
    small = quiet_cut(net, widths).to_empty(device="cpu").eval()
    fill(small, quiet_cut(real, widths))
    wanted = run(real, args, kwargs, widths=widths)
    assert close(run(small, args, kwargs), wanted)
    net.model.to_empty(device="cpu")
    fill(net.model, real.model)
    assert close(run(net, args, kwargs, widths=widths), wanted)


def fill(module, other):
    """Give a module the values that another one's tensors of the same names hold."""
    held, values = (
        {**dict(m.named_buffers()), **dict(m.named_parameters(remove_duplicate=False))}
        for m in (module, other)
    )
    with torch.no_grad():
        for name, tensor in held.items():
            tensor.copy_(values[name])


def test_a_cut_graph_is_loaded_into_a_model_without_weights(tmp_path):
    described, real, args, kwargs = made("gpt")
    widths = random_widths(real, 1)
    path = ww.save(real, tmp_path / "a", widths=widths)
    with torch.device("meta"):
        model = described.build()
    loaded = ww.load(path, build=lambda: model)
    assert isinstance(loaded, torch.fx.GraphModule)
    assert close(run(loaded, args, kwargs), run(real, args, kwargs, widths=widths))


@pytest.mark.sample(3)
@pytest.mark.parametrize(("operator", "broken", "name"), BROKEN)
def test_a_broken_rule_is_caught_without_weights(monkeypatch, operator, broken, name):
    right = made(name)[1]
    monkeypatch.setitem(rules.RULES, operator, broken)
    unproven, net = without_weights(name, prove=False), without_weights(name)
    reasons = " ".join(a.fixed_because or "" for a in net.axes.values())
    assert "shuffling" in reasons or "does not run" in reasons
    assert len(net.free) < len(unproven.free)
    assert sum(net.full().values()) < sum(right.full().values())


@pytest.mark.parametrize("operator", [lambda x: x.cumsum(-1), lambda x: x.flip(-1)])
def test_order_matters_without_weights_too(monkeypatch, operator):
    """Only what is computed tells here: all shapes are right."""
    for name in ("cumsum", "flip"):
        monkeypatch.setitem(rules.RULES, name, order_blind_all)
    with torch.device("meta"):
        model, x = Ordered(operator), torch.randn(3, 5)
    assert ww.Elastic(model, (x,), prove=False).free
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ww.NothingToCutWarning)
        net = ww.Elastic(model, (x,))
    assert not net.free
    assert "shuffling" in net.axes["first"].fixed_because


class Tables(nn.Module):
    """Buffers of integers and booleans, whose values the proof has to make up."""

    def __init__(self):
        super().__init__()
        self.register_buffer("positions", torch.arange(5).unsqueeze(0))
        self.register_buffer("pairs", torch.arange(5)[:, None] - torch.arange(5) + 4)
        self.register_buffer("mask", torch.ones(5, 5, dtype=torch.bool).tril())
        self.embed = nn.Embedding(9, 8)
        self.place = nn.Embedding(5, 8)
        self.bias = nn.Embedding(9, 1)
        self.q, self.k, self.v = (nn.Linear(8, 6) for _ in range(3))
        self.out = nn.Linear(6, 3)

    def forward(self, tokens):
        x = self.embed(tokens) + self.place(self.positions)
        scores = self.q(x) @ self.k(x).transpose(1, 2) + self.bias(self.pairs).squeeze(-1)
        return self.out(scores.masked_fill(~self.mask, float("-inf")).softmax(-1) @ self.v(x))


def test_integers_and_masks_that_have_no_values():
    tokens = torch.randint(0, 9, (2, 5))
    real = ww.Elastic(Tables(), tokens)
    with torch.device("meta"):
        model = Tables()
    for example in (tokens, tokens.to("meta")):
        net = ww.Elastic(model, example)
        assert dict(net.full()) == dict(real.full()) == {"embed": 8, "q": 6, "v": 6}


def test_an_output_that_is_no_number_proves_nothing():
    nan, one = torch.full((2,), float("nan")), torch.ones(2)
    assert not proof._agree([nan], [nan])
    assert proof._agree([torch.cat([nan, one])], [torch.cat([nan, one])])


# ---------------------------------------------------------------- cut a checkpoint


def checkpoint(model, folder, files):
    """The model's weights under the names of its state dict, tied ones once, in several files."""
    folder.mkdir()
    seen, kept = set(), {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            kept[name] = tensor.detach().contiguous()
    where = {name: f"part-{i % files}.safetensors" for i, name in enumerate(kept)}
    for file in set(where.values()):
        save_file({n: t for n, t in kept.items() if where[n] == file}, folder / file)
    if files > 1:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", STREAMED)
def test_a_checkpoint_is_cut_as_the_network_is(name, tmp_path):
    described, real, args, kwargs = made(name)
    source = checkpoint(real.model, tmp_path / "full", files=3)
    net = without_weights(name)
    for key, buffer in real.model.named_buffers():
        if key not in real.model.state_dict():  # what is in no checkpoint
            owner, _, last = key.rpartition(".")
            setattr(net.model.get_submodule(owner), last, buffer)
    for seed in range(2):
        widths = random_widths(real, seed)
        path = ww.cut_file(net, source, tmp_path / "cut", widths=widths)
        loaded = ww.load(path, build=described.build)
        wanted = quiet_cut(real, widths).eval()
        assert close(run(loaded, args, kwargs), run(wanted, args, kwargs), 1e-6)
        ours, theirs = (dict(m.named_parameters()) for m in (loaded, wanted))
        assert all(torch.equal(ours[n], theirs[n]) for n in ours if n in theirs)
        assert set(ours) & set(theirs)


@pytest.mark.parametrize("name", ["resnet", "tied_autoencoder", "llama"])
def test_the_file_is_that_of_save(name, tmp_path):
    """Of a network with weights both write the same bytes, whatever form the source has."""
    real = made(name)[1]
    widths = random_widths(real, 5)
    one, many = (checkpoint(real.model, tmp_path / str(n), files=n) for n in (1, 4))
    saved = ww.save(real, tmp_path / "saved", widths=widths).read_bytes()
    for source in (one, one / "part-0.safetensors", many, many / INDEX):
        path = ww.cut_file(real, source, tmp_path / "cut", widths=widths)
        assert path.read_bytes() == saved


def test_the_published_scale_and_the_models_own_type(tmp_path):
    described, _, args, _ = made("mlp")
    model = described.build()
    net = ww.Elastic(model, args, draw=ww.PUBLISHED)
    source = checkpoint(described.build().double(), tmp_path / "full", files=1)
    path = ww.cut_file(net, source, tmp_path / "cut", widths=net.widths(0.5))
    model.load_state_dict(load_file(source / "part-0.safetensors"))
    wanted = net.cut(net.widths(0.5)).state_dict()
    found = load_file(path)
    assert found.keys() == wanted.keys()
    for key, tensor in found.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, wanted[key])


BROKEN_SOURCES = {
    "missing": "lacks",
    "shape": "full size",
    "truncated": "cannot be read",
    "no_file": "cannot be read",
    "no_folder": "cannot be read",
    "no_index": "no model.safetensors.index.json",
    "bad_index": "is not an index",
    "outside": "not beside it",
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", BROKEN_SOURCES)
def test_broken_sources_are_refused_and_leave_nothing(kind, tmp_path):
    real = made("resnet")[1]
    source = checkpoint(real.model, tmp_path / "full", files=2)
    index, first = source / INDEX, source / "part-0.safetensors"
    table = json.loads(index.read_text())["weight_map"]
    if kind == "missing":
        name = next(iter(dict(real.model.named_parameters())))
        index.write_text(json.dumps({"weight_map": {k: v for k, v in table.items() if k != name}}))
    elif kind == "shape":
        save_file({n: t.repeat(2, *[1] * (t.dim() - 1)) if t.dim() else t
                   for n, t in load_file(first).items()}, first)  # fmt: skip
    elif kind == "truncated":
        first.write_bytes(first.read_bytes()[:-10])
    elif kind == "no_file":
        first.unlink()
    elif kind == "no_folder":
        shutil.rmtree(source)
    elif kind == "no_index":
        index.unlink()
    elif kind == "bad_index":
        index.write_text("{}")
    elif kind == "outside":
        index.write_text(json.dumps({"weight_map": dict.fromkeys(table, "../a.safetensors")}))
    out = tmp_path / "out"
    out.mkdir()
    net = without_weights("resnet")
    with pytest.raises(ww.FileError, match=BROKEN_SOURCES[kind]) as refused:
        ww.cut_file(net, source, out / "cut", widths=net.widths(0.5))
    assert "\n" not in str(refused.value)
    assert not list(out.iterdir())


def test_a_failure_half_way_leaves_what_was_there(tmp_path, monkeypatch):
    """A file that is damaged while it is read, say."""
    real = made("resnet")[1]
    source = checkpoint(real.model, tmp_path / "full", files=2)
    out = tmp_path / "out"
    out.mkdir()
    (out / "cut").write_text("before")
    from widthwise.store import stream

    monkeypatch.setattr(stream, "_part", lambda *_: torch.zeros(1))
    with pytest.raises(ww.FileError, match="another shape"):
        ww.cut_file(real, source, out / "cut", widths=real.widths(0.5))
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("cut", "before")]
