"""What cuts are stored as, told from shapes, beside cuts that are made."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import widthwise as ww
from elastic_nets import close, made, random_widths, run
from nets import NETS
from widthwise.measure.cost import params
from widthwise.measure.shape_costs import Costs
from widthwise.store import shapes as shapes_file
from widthwise.store.file import prepare
from widthwise.store.shapes import Shapes

MADE: list[dict[str, int]] = []


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many cuts are made and proven."""
    MADE.clear()

    def counting(net: ww.Elastic, widths: Any) -> Any:
        MADE.append(dict(widths))
        return prepare(net, widths)

    monkeypatch.setattr(shapes_file, "prepare", counting)


def tried(net: ww.Elastic) -> list[ww.Widths]:
    """Widths of which at least one is not among the three that are proven."""
    some = [net.widths(f) for f in (0.15, 0.3, 0.6, 0.85)]
    return [net.complete(w) for w in (*some, random_widths(net, 1))]


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", [n.name for n in NETS])
def test_files_are_as_long_as_told(name: str) -> None:
    _, net, args, kwargs = made(name)
    widths = tried(net)
    shapes = Shapes(net, widths)
    stored = {w: shapes.stored(w) for w in widths}
    for w in (w for w in widths if dict(w) not in MADE):  # the others are what `prepare` made
        wanted = prepare(net, w)
        assert stored[w].bytes == wanted.bytes
        assert stored[w].manifest == wanted.manifest
        assert stored[w].reason is None or wanted.reason is not None
        assert stored[w].params == params(wanted.module)
        cut = shapes.module(w)
        assert type(cut) is type(wanted.module) or wanted.reason is not None
        assert params(cut) == stored[w].params
        assert close(run(cut.eval(), args, kwargs), run(wanted.module.eval(), args, kwargs))


def test_three_cuts_are_made() -> None:
    _, net, *_ = made("mlp_batchnorm")
    widths = ww.even_levels(net, 12)
    shapes = Shapes(net, widths)
    assert len([shapes.stored(w).bytes for w in widths]) == len(widths) > 8
    assert len([shapes.module(w) for w in widths]) == len(widths)
    proven = [w for w in MADE if w != dict(net.full())]
    assert len(proven) == 3


class Stepped(nn.Module):
    """Of its own class at some widths only: it holds a size that no dim tells."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        if self.first.out_features > 8:
            h = h * 2.0
        return self.second(h)


def test_where_cuts_differ_in_kind_each_is_made() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = ww.Elastic(Stepped(), torch.randn(4, 6))
    widths = [ww.Widths({"first": n}) for n in range(2, 16)]
    kinds = [prepare(net, w).reason is None for w in widths]
    assert len(set(kinds)) == 2
    shapes = Shapes(net, widths)
    assert [shapes.stored(w).reason is None for w in widths] == kinds
    assert [shapes.stored(w).bytes for w in widths] == [prepare(net, w).bytes for w in widths]


class Counting(nn.Module):
    """Counts its calls, in both modes, and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.second(self.first(x).relu() + torch.rand_like(x[:, :1]))


def test_counting_costs_leaves_buffers_and_chance_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = ww.Elastic(Counting(), torch.randn(4, 6)).eval()
    before, drawn = net.model.calls.clone(), torch.get_rng_state()
    assert Costs(net, "macs").total(net.full()) == 6 * 8 + 8 * 3
    assert torch.equal(net.model.calls, before)
    assert torch.equal(torch.get_rng_state(), drawn)
