"""Constraints: tied axes have one width, kept ones stay, every width is one that was allowed."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import widthwise as ww
from elastic_nets import close, run
from nets import net as find
from widthwise.graph import rules
from widthwise.graph.axes import Axis, Grid
from widthwise.graph.rules.op import Result
from widthwise.sampling.draws import draw_widths, narrowest, one_per_octave, smallest
from widthwise.store.file import prepare
from widthwise.store.manifest import from_text, to_text

HIDDEN = "layers.*.mlp.gate_proj"
HEADS = "layers.*.attn.q_proj.heads"
GROUP = "layers.*.attn.q_proj.heads_group"


def elastic(name, **asked):
    """(net, args, kwargs) of the test set under constraints, its weights random."""
    torch.manual_seed(0)
    described = find(name)
    model = described.build()
    args, kwargs = described.example()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = ww.Elastic(model, args, kwargs, constraints=ww.Constraints(**asked)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net, args, kwargs


def mlp(*hidden):
    torch.manual_seed(0)
    layers = []
    for before, after in zip((6, *hidden), hidden, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], 3))


def small(*hidden, **asked):
    return ww.Elastic(mlp(*hidden), torch.randn(4, 6), constraints=ww.Constraints(**asked))


def allowed(net, widths):
    return all(net.axes[n].grid.allows(w, net.axes[n].size) for n, w in widths.items())


# ---------------------------------------------------------------- what holds for every network


CASES = [
    ("llama", {"tie": (HIDDEN, HEADS, GROUP, "*.v_proj.head_size"), "multiple_of": {HIDDEN: 4}}),
    ("llama", {"keep": ("embed_tokens",), "at_least": {HEADS: 2}}),
    ("llama_sdpa", {"keep": ("*.heads",), "multiple_of": {"*": 2}}),
    ("encoder", {"tie": ("*.heads", "*.head_size", "*.linear1"), "at_least": {"*.linear1": 5}}),
    ("gpt", {"tie": ("h.*.mlp.0", "h.*.heads"), "keep": ("*.head_size/1",)}),
    ("vit", {"multiple_of": {"*": 4, "*.heads": 1}}),
    ("transformer", {"tie": ("*.heads", "*.head_size", "*.linear1")}),
    ("resnet", {"multiple_of": {"*": 4}, "at_least": {"*": 5}}),
    ("densenet", {"multiple_of": {"*": 3}}),
    ("lstm_2", {"at_least": {"*": 3}, "multiple_of": {"lstm": 2}}),
    ("shuffle_module", {"multiple_of": {"*": 2}}),
]


@pytest.mark.sample(3)
@pytest.mark.parametrize(("name", "asked"), CASES)
def test_whatever_chooses_widths_chooses_allowed_ones(name, asked):
    net, args, kwargs = elastic(name, **asked)
    full = run(net.model, args, kwargs)
    assert close(run(net, args, kwargs), full)
    chosen = [net.widths(share) for share in (0.01, 0.3, 0.5, 0.77)]
    chosen += [
        net.widths(0.5, multiple_of=3),
        net.full(),
        *ww.even_levels(net),
        *ww.even_levels(net, 5),
    ]
    for draw in (ww.Draw(), ww.Draw(step=3), ww.PUBLISHED):
        chosen += [draw_widths(net.free, draw, 0, step) for step in range(40)]
        chosen.append(narrowest(net.free, draw))
    assert all(allowed(net, widths) for widths in chosen)
    assert len(set(chosen)) > 3
    for widths in chosen[:3]:
        cut = net.engine.cut(widths)[0].eval()
        assert close(run(cut, args, kwargs), run(net, args, kwargs, widths=widths))


def test_without_constraints_nothing_changes():
    net, free = small(16, 12), small(16, 12, multiple_of={"*": 1})
    assert net.constraints == ww.Constraints()
    assert [a.name for a in net.axes.values()] == [a.name for a in free.axes.values()]
    assert net.widths(0.3) == free.widths(0.3)


# ---------------------------------------------------------------- tie


def test_tied_layers_have_one_width():
    plain, _, _ = elastic("llama")
    net, args, kwargs = elastic("llama", tie=(HIDDEN,))
    assert len(net.free) == len(plain.free) - 1
    axis = net.free[HIDDEN]
    assert axis.tied == ("layers.0.mlp.gate_proj", "layers.1.mlp.gate_proj")
    assert [*map(str, axis.places)] == [str(p) for n in axis.tied for p in plain.free[n].places]
    cut = net.cut({HIDDEN: 5})
    assert [layer.mlp.up_proj.out_features for layer in cut.layers] == [5, 5]
    assert close(run(cut.eval(), args, kwargs), run(net, args, kwargs, widths={HIDDEN: 5}))
    with pytest.raises(ww.WidthError, match=r"layers.1.mlp.gate_proj'; it is tied into 'layers.\*"):
        net.complete({"layers.1.mlp.gate_proj": 5})


def test_one_axis_has_the_name_of_its_pattern_too():
    """So that code does not depend on the number of layers."""
    net, _, _ = elastic("llama_sdpa", tie=(HIDDEN,))
    assert net.free[HIDDEN].tied == ("layers.0.mlp.gate_proj",)


def test_an_output_of_another_size_is_not_meant():
    net = small(8, 8, tie=("*",))
    assert net.free["*"].tied == ("0", "2")
    assert net.axes["4"].fixed_because == "it is an output of the model"


def test_patterns_that_share_an_axis_tie_all():
    net = small(8, 8, 8, 8, tie=("[02]", "[24]"))
    assert {name: a.tied for name, a in net.free.items()} == {"[24]": ("0", "2", "4"), "6": ()}


def test_grouped_heads_and_head_sizes_stay_axes_of_their_own():
    """Query heads are key heads x group; these and the head sizes tie over layers, each alone."""
    net, _, _ = elastic("llama", tie=(HEADS, GROUP, "layers.*.attn.v_proj.head_size"))
    heads, group = net.free[HEADS], net.free[GROUP]
    assert (heads.size, heads.role, heads.inner_of) == (2, "heads", None)
    assert (group.size, group.inner_of) == (2, HEADS)
    assert net.free["layers.*.attn.v_proj.head_size"].inner_of == HEADS
    for widths, rows in [({HEADS: 1}, (12, 6)), ({GROUP: 1}, (12, 12)), ({}, (24, 12))]:
        cut, _, _ = net.engine.cut(widths, same_class=False)
        state = cut.state_dict()
        for layer in (0, 1):
            q, k = (state[f"layers.{layer}.attn.{n}_proj.weight"] for n in "qk")
            assert (q.shape[0], k.shape[0]) == rows


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"tie": ("*.attn.*",)}, r"'\*.attn.\*' cannot be tied, because 'layers.* has"),
        ({"tie": ("*.heads*",)}, r"heads_group' lies inside 'layers.0.attn.q_proj.heads'"),
        ({"tie": (HEADS, GROUP, "layers.0.*.heads*")}, "lies inside"),
        ({"tie": ("*.mlp", HIDDEN)}, r"No axis matches the constraint '\*.mlp'.*gate_proj"),
        ({"keep": ("layers.7.*",)}, "No axis matches the constraint 'layers.7"),
        ({"multiple_of": {"nothing": 2}}, "No axis matches the constraint 'nothing'"),
        ({"at_least": {"nothing": 2}}, "No axis matches the constraint 'nothing'"),
    ],
)
def test_constraints_that_do_not_fit(asked, said):
    with pytest.raises(ww.WidthError, match=said):
        elastic("llama", **asked)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tie": "layers.*"}, {"keep": "embed"}, {"tie": (3,)}, {"multiple_of": 8},
        {"multiple_of": {"*": 0}}, {"at_least": {"*": 1.5}}, {"at_least": {"*": True}},
    ],
)  # fmt: skip
def test_values_of_another_form(wrong):
    with pytest.raises(ValueError, match=f"Constraints.{next(iter(wrong))} is .*; give"):
        ww.Constraints(**wrong)


class Ordered(nn.Module):
    """Two hidden layers alike, but the order of the second one's features matters."""

    def __init__(self):
        super().__init__()
        self.into = nn.ModuleList([nn.Linear(5, 8), nn.Linear(8, 8)])
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.into[1](self.into[0](x).relu()).cumsum(-1))


def test_an_axis_is_proven_before_it_is_tied(monkeypatch):
    """With a rule that says too much, one axis of a tie is refused: then all of it stays."""
    monkeypatch.setitem(rules.RULES, "cumsum", lambda op: Result([*op.dims("self")]))
    tie = ww.Constraints(tie=("into.*",))
    unproven = ww.Elastic(Ordered(), torch.randn(2, 5), prove=False, constraints=tie)
    assert list(unproven.free) == ["into.*"]
    with pytest.warns(ww.NothingToCutWarning):
        net = ww.Elastic(Ordered(), torch.randn(2, 5), constraints=tie)
    assert "into.1: shuffling" in net.axes["into.*"].fixed_because
    assert list(ww.Elastic(Ordered(), torch.randn(2, 5)).free) == ["into.0"]


def test_normalised_and_inner_axes_stay_so_when_tied():
    net, _, _ = elastic("encoder", tie=("*.heads", "*.head_size"))
    plain, _, _ = elastic("encoder")
    for name in ("*.heads", "*.head_size"):
        tied = net.free[name]
        assert tied.normalised == any(plain.free[n].normalised for n in tied.tied)
    assert net.free["*.head_size"].inner_of == "*.heads"
    assert "*.head_size" not in net.widths(0.5)


# ---------------------------------------------------------------- keep


def test_kept_axes_stay_whole():
    net, _, _ = elastic("llama", keep=("embed_tokens", "layers.0.*"))
    assert all(name.startswith("layers.1.") for name in net.free)
    assert net.axes["embed_tokens"].fixed_because == "you asked to keep it whole"
    cut = net.engine.cut(net.widths(0.5))[0]
    for name, tensor in cut.state_dict().items():
        if "layers.1" not in name and "inv_freq" not in name:
            assert tensor.shape == net.model.state_dict()[name].shape, name
    with pytest.raises(ww.WidthError, match="cannot be cut because you asked to keep it whole"):
        net.complete({"embed_tokens": 5})
    assert net.complete({"embed_tokens": 10}) == net.full()


def test_what_lies_inside_a_kept_axis_is_cut_instead():
    plain, _, _ = elastic("llama_sdpa")
    net, _, _ = elastic("llama_sdpa", keep=("*.heads", "*.heads_group"))
    size = "layers.0.attn.v_proj.head_size"
    assert size not in plain.widths(0.5)
    assert net.widths(0.5)[size] == 3
    # Kept heads leave their groups, and what lies inside the groups stays inside those.
    net, _, _ = elastic("llama_sdpa", keep=("*.heads",))
    assert net.free["layers.0.attn.q_proj.heads_group"].inner_of is None
    assert net.free["layers.0.attn.q_proj.head_size"].inner_of == "layers.0.attn.q_proj.heads_group"


def test_one_kept_axis_keeps_all_that_are_tied_to_it():
    net = small(8, 8, 8, tie=("[02]",), keep=("2",))
    assert list(net.free) == ["4"]
    assert net.axes["[02]"].fixed_because == "you asked to keep it whole"


def test_keeping_everything_says_so():
    with pytest.warns(ww.NothingToCutWarning):
        net = small(8, keep=("*",))
    assert "0: 8, because you asked to keep it whole" in net.explain()
    assert ww.even_levels(net) == [ww.Widths()]


# ---------------------------------------------------------------- multiple_of, at_least


def test_widths_are_multiples_or_full():
    net = small(20, 30, multiple_of={"*": 8, "2": 5}, at_least={"0": 9})
    assert net.free["0"].grid == Grid(8, 9)
    assert net.free["2"].grid == Grid(5)  # the last pattern counts
    assert net.widths(0.01) == {"0": 16, "2": 5}
    assert net.widths(0.5) == {"0": 16, "2": 15}
    assert net.widths(0.5, multiple_of=2) == {"0": 16, "2": 20}
    assert net.complete({"0": 16}) == {"0": 16, "2": 30}
    for widths, said in [
        ({"0": 17}, "multiples of 8 from 16 on; give 16 or 20"),
        ({"0": 8}, "multiples of 8 from 16 on; give 16"),
        ({"2": 11}, "multiples of 5; give 10 or 15"),
        ({"2": 31}, "give 1 to 30"),
    ]:
        with pytest.raises(ww.WidthError, match=said):
            net.complete(widths)
    with pytest.raises(ww.WidthError, match="smallest width is 7; give 7"):
        small(20, at_least={"*": 7}).complete({"0": 2})


def test_an_axis_with_no_narrower_width_stays():
    net = small(8, 30, multiple_of={"*": 8}, at_least={"0": 2})
    assert net.axes["0"].fixed_because == "you asked for multiples of 8 and at least 2 features"
    assert list(net.free) == ["2"]


GRIDS = st.builds(Grid, st.integers(1, 40), st.integers(1, 60))


@given(GRIDS, st.integers(1, 300), st.floats(0, 400))
def test_a_grid_is_what_it_says(grid, size, width):
    every = [w for w in range(1, size + 1) if grid.allows(w, size)]
    expected = {w for w in range(grid.at_least, size) if w % grid.multiple_of == 0} | {size}
    assert set(every) == expected
    near = grid.near(width, size)
    assert near in expected
    assert abs(near - width) <= max(grid.multiple_of, min(abs(w - width) for w in every))


@given(
    st.builds(ww.Draw, p=st.just(1.0), lowest=st.integers(1, 40), step=st.integers(1, 20),
              law=st.sampled_from(["uniform", "log-uniform"]), shared=st.booleans()),
    st.lists(st.tuples(st.integers(2, 300), GRIDS), min_size=1, max_size=4),
    st.integers(0, 50),
)  # fmt: skip
def test_draws_keep_to_the_grids(draw, axes, step):
    many = {f"a{i}": Axis(f"a{i}", size, (), grid=grid) for i, (size, grid) in enumerate(axes)}
    for widths in (draw_widths(many, draw, 0, step), narrowest(many, draw)):
        for name, width in widths.items():
            axis = many[name]
            assert axis.grid.allows(width, axis.size)
            assert width == axis.size or width >= smallest(axis.size, draw, axis.grid)


def test_draws_reach_every_width_of_a_grid():
    one = {"a": Axis("a", 60, (), grid=Grid(8, 10))}
    for draw in (ww.Draw(p=1), ww.Draw(p=1, shared=False, law="uniform")):
        seen = {draw_widths(one, draw, 0, step)["a"] for step in range(300)}
        assert seen == {16, 24, 32, 40, 48, 56}
    assert one_per_octave(one, ww.Draw()).passes == 1 + round(math.log2(60 / 8))


def test_a_wide_axis_with_a_least_width_does_not_hold_the_others():
    two = {"wide": Axis("wide", 64, (), grid=Grid(1, 48)), "other": Axis("other", 32, ())}
    draw = ww.Draw(p=1)
    seen = [draw_widths(two, draw, 0, step) for step in range(300)]
    assert min(w.get("other", 32) for w in seen) == 4
    assert min(w.get("wide", 64) for w in seen) == 48


# ---------------------------------------------------------------- training, files


def test_training_and_sweeping_keep_to_constraints():
    asked = {"tie": ("[02]",), "multiple_of": {"*": 4}}
    net = small(16, 16, 12, **asked)
    loss = ww.SandwichLoss(net, nn.functional.cross_entropy)
    loss(torch.randn(4, 6), torch.tensor([0, 1, 2, 0])).backward()
    batches = [(torch.randn(8, 6), torch.randint(3, (8,)))]
    frontier = ww.sweep(net, ww.Evaluation(batches, ww.ACCURACY), latency=False)
    assert all(set(p.widths) == {"[02]", "4"} and allowed(net, p.widths) for p in frontier.points)
    assert len(frontier.points) > 2


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "asked",
    [
        {"tie": ("*.heads", "*.linear1")},
        {"keep": ("embed",)},
        {"tie": ("*.linear1",), "multiple_of": {"*": 4, "*.heads": 3}},
    ],
)
def test_a_constrained_graph_comes_back_from_its_file(asked, tmp_path):
    net, args, kwargs = elastic("encoder", **asked)
    widths = net.widths(0.5)
    stored = prepare(net, widths)
    assert stored.manifest.kind == "graph"
    assert from_text(to_text(stored.manifest), "x").constraints == net.constraints
    path = ww.save(net, tmp_path / "x.safetensors", widths=widths)
    again = ww.load(path, build=find("encoder").build)
    assert close(run(again, args, kwargs), run(net, args, kwargs, widths=widths))


def test_without_its_constraints_such_a_file_would_not_load(tmp_path, monkeypatch):
    net, _, _ = elastic("encoder", tie=("*.heads",))
    widths = net.widths(0.5)
    monkeypatch.setattr(net, "constraints", ww.Constraints())
    path = ww.save(net, tmp_path / "x.safetensors", widths=widths)
    with pytest.raises(ww.FileError, match="its axes are others"):
        ww.load(path, build=find("encoder").build)


def test_files_without_constraints_do_not_mention_them():
    assert "constraints" not in to_text(prepare(small(8)).manifest)
    text = to_text(prepare(small(8, 8, tie=("*",))).manifest)
    with pytest.raises(ww.FileError, match="manifest that widthwise did not write"):
        from_text(text.replace('"keep"', '"keeps"'), "x")
