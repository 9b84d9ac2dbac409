"""What a network says of itself: true numbers, and a text that stays short for hundreds of axes."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import widthwise as ww
from elastic_nets import made
from nets import NETS
from places import ROOT
from widthwise.graph import explain
from widthwise.graph.cut import cut_state
from widthwise.graph.explain import _key, _last, _pattern, _relative, _sizes


def inspected(model, *inputs, **asked):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ww.NothingToCutWarning)
        net = ww.Elastic(model, inputs, prove=False, constraints=ww.Constraints(**asked))
    assert net.explain() == str(net.inspect())
    return net.inspect()


class Block(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.up, self.middle, self.down = (
            nn.Linear(6, hidden), nn.Linear(hidden, hidden + 2), nn.Linear(hidden + 2, 6)
        )  # fmt: skip

    def forward(self, x):
        return x + self.down(self.middle(self.up(self.norm(x)).relu()).relu())


def deep(*hidden):
    return nn.Sequential(nn.Linear(5, 6), *map(Block, hidden), nn.Linear(6, 3))


def held(module):
    """Parameters, and bytes of parameters and buffers, counted one by one."""
    tensors = [*module.parameters(), *module.buffers()]
    return explain.Size(
        sum(p.numel() for p in module.parameters()),
        sum(t.numel() * t.element_size() for t in tensors),
    )


@pytest.mark.parametrize("name", [n.name for n in NETS])
def test_every_axis_is_listed_with_its_size(name):
    _, net, _, _ = made(name)
    found = net.inspect()
    assert found.full == held(net.model)
    assert {n: s for group in found.cuttable for n, s in group.sizes.items()} == net.full()
    fixed = {a.name: a.size for a in net.axes.values() if a.fixed_because}
    assert {n: s for why in found.staying for n, s in why.sizes.items()} == fixed


@pytest.mark.parametrize("name", [n.name for n in NETS])
def test_sizes_are_those_of_the_cuts(name):
    """Parameters that no axis reaches, buffers and tied weights included."""
    _, net, _, _ = made(name)
    found = net.inspect()
    narrowest = dict.fromkeys(net.free, 1)
    for size, widths in [(found.half, net.widths(0.5)), (found.smallest, narrowest)]:
        kept = net.complete(widths)
        cut = cut_state(
            net.engine.relations, net.engine.table, kept, net.engine.state(), frozenset()
        )
        assert size == held(with_tensors(net.model, cut))


def with_tensors(model, state):
    """A copy of a model that holds these tensors; those that they do not name are its own."""
    full = dict(model.named_parameters(remove_duplicate=False))
    full |= dict(model.named_buffers(remove_duplicate=False))
    return copy.deepcopy(model, {id(full[n]): t for n, t in state.items() if n in full})


def test_shares_and_layers():
    model = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 5, bias=False))
    found = inspected(model, torch.randn(4, 3))
    (group,) = found.cuttable
    assert (group.pattern, group.sizes, group.used_by) == ("0", {"0": 10}, ("0", "2"))
    assert group.share == found.reached == 1.0
    assert found.full == explain.Size(90, 360)
    assert found.half == explain.Size(45, 180)
    assert found.smallest == explain.Size(9, 36)


def test_the_text_of_a_small_network():
    text = str(inspected(deep(4), torch.randn(2, 5)))
    assert text == (
        """\
Sequential: 169 parameters, 676 bytes
3 axes can be cut
  of the parameters they reach  98 %
  half of every axis leaves     65 parameters (38 %), 260 bytes
  the smallest network has      20 parameters (12 %), 80 bytes

  axis      size  share  features of
  0            6   78 %  0, norm, up and 2 more
  1.up         4   31 %  up, middle
  1.middle     6   39 %  middle, down

These stay as they are:
  2: 3, because it is an output of the model"""
    )


@pytest.mark.sample(0)
def test_three_hundred_axes_fit_a_screen():
    found = inspected(deep(*[4] * 100, *[7] * 50), torch.randn(2, 5))
    assert sum(len(group.sizes) for group in found.cuttable) == 301
    lines = str(found).splitlines()
    assert len(lines) < 20
    assert max(map(len, lines)) <= 120
    (up,) = [line for line in lines if line.startswith("  *.up")]
    assert up.split()[:5] == ["*.up", "x150", "4,", "7", "52"]
    assert found.cuttable[1].sizes["1.up"] == 4
    assert found.cuttable[1].used_by == ("*.up", "*.middle")


@torch.library.custom_op("widthwise_tests::swirl", mutates_args=())
def swirl(x: Tensor) -> Tensor:
    """An operator that has no rule."""
    return x.flip(-1)


@swirl.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_reasons_that_differ_in_the_layer_only_are_one():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.into = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))
            self.out = nn.Linear(4, 2)

        def forward(self, x):
            for layer in self.into:
                x = swirl(layer(x))
            return self.out(x)

    found = inspected(Odd(), torch.randn(3, 4))
    text = str(found)
    assert list(found.unknown) == ["widthwise_tests.swirl.default"]
    assert "0 axes can be cut" in text
    assert "  6 of size 4: into.*" in text
    assert "  widthwise_tests.swirl.default" in text
    assert "docs/rules.md" in text
    assert (ROOT / "docs/rules.md").exists()


def test_several_outputs_come_with_a_remedy():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            hidden = self.first(x)
            return self.last(hidden), hidden

    (why,) = inspected(Two(), torch.randn(3, 4)).staying
    assert why.sizes == {"first": 6, "last": 3}
    assert "wrap the model" in why.remedy
    (only,) = inspected(deep(4), torch.randn(2, 5)).staying
    assert only.remedy is None


def test_constraints_are_told():
    asked = {"tie": ("*.up",), "multiple_of": {"*.middle": 2}, "at_least": {"*.middle": 3}}
    found = inspected(deep(4, 4), torch.randn(2, 5), keep=("0",), **asked)
    text = str(found)
    assert "(2 tied)" in text
    assert "(multiples of 2, at least 3)" in text
    assert "0: 6, because you asked to keep it whole" in text
    assert [group.tied for group in found.cuttable] == [2, 0, 0]
    assert found.smallest.params > inspected(deep(4, 4), torch.randn(2, 5)).smallest.params


def test_json_holds_all_of_it():
    _, net, _, _ = made("llama")
    found = net.inspect()
    data = json.loads(found.to_json())
    assert data == json.loads(json.dumps(asdict(found)))
    assert data["cuttable"][1]["sizes"] == {"layers.0.attn.q_proj.heads": 2}
    assert data["staying"][-1]["because"] == "it is an output of the model"


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["layers.0.mlp", "layers.11.mlp"], "layers.*.mlp"),
        (["layer1.0.conv1", "layer1.1.conv1"], "layer1.*.conv1"),
        (["layer1.0.conv1", "layer2.0.conv1"], "layer*.0.conv1"),
        (["h.0.head_size/1"], "h.0.head_size/1"),
        (["blocks.3", "blocks.4"], "blocks.*"),
        (["0[1]", "12[1]"], "*[1]"),
        (["it (view in layers.1)", "it (view in layers.2)"], "it (view in layers.*)"),
    ],
)
def test_patterns_are_what_names_have_in_common(names, pattern):
    assert len({_key(name) for name in names}) == 1
    assert _pattern(names) == pattern


def test_layers_of_one_name_in_a_block_are_not_one():
    assert _key("0.conv1") != _key("0.conv2")
    assert _key("h.0.head_size/1") != _key("h.0.head_size/2")


def test_names_are_short():
    assert [_last(n) for n in ("layers.*.mlp.up", "blocks.0", "0", "a.*.1")] == [
        "up", "blocks.0", "0", "a.*.1"
    ]  # fmt: skip
    assert _relative("l.*.q.heads", "l.*.v.head_size") == "q.heads"
    assert _relative("heads", "heads_group") == "heads"
    assert [_sizes([3, 3]), _sizes([9, 3]), _sizes(range(5, 12))] == ["3", "3, 9", "5 to 11"]


def test_remedies_are_for_reasons_that_exist():
    sources = [p.read_text() for p in Path(explain.__file__).parent.rglob("*.py")]
    for words in explain._REMEDIES:
        assert sum(words in text for text in sources) >= 2, words
