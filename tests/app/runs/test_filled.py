"""Budgets of bytes are filled between two measured widths."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

import widthwise as ww
from widthwise.app.runs import cuts, opening
from widthwise.app.runs.folder import Run
from widthwise.app.runs.postprocessing import PostProcess
from widthwise.app.runs.record import Record, Settings
from widthwise.app.tasks import BUILT_IN
from widthwise.measure.frontier import Frontier, Point
from widthwise.sampling.levels import along
from widthwise.store.file import prepare


class Halves(nn.Module):
    """Its code names a size, so that every cut is a graph module."""

    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(6, 16), nn.Linear(8, 3)

    def forward(self, x):
        hidden = torch.relu(self.a(x))
        return self.o(hidden[:, :8] - hidden[:, 8:])


def opened(net, levels):
    task = BUILT_IN["digits"]()
    settings = Settings("digits", "default", 0, asdict(task.recipe))
    record = Record(settings, "", {}, "finished", "", levels=[dict(w) for w in levels])
    return opening.Opened(Run(Path("nowhere")), record, task, net)


def mlp():
    torch.manual_seed(0)
    layers = nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)
    return ww.Elastic(nn.Sequential(*layers), torch.randn(4, 6))


def frontier(net, widths, metrics):
    points = []
    for w, metric in zip(widths, metrics, strict=True):
        stored = prepare(net, w)
        own = stored.reason is None
        points.append(
            Point(net.complete(w), metric, None, stored.bytes, stored.params, 1, None, own)
        )
    return Frontier(tuple(points), "accuracy", True, "valid", "")


@pytest.mark.parametrize("part", [0.3, 0.7, 0.999])
def test_the_widest_between_two_measured_networks(part):
    net = mlp()
    swept = frontier(net, [net.widths(s) for s in (0.2, 0.7, 1.0)], [0.7, 0.8, 0.9])
    low, high = swept.points[:2]
    most = round(low.bytes + part * (high.bytes - low.bytes))
    found = cuts.filled(opened(net, [low.widths, high.widths]), swept, low, most)
    path = along(net.free, (low.widths, high.widths), 12)
    after = path[path.index(found) + 1]
    assert low.bytes < prepare(net, found).bytes <= most < prepare(net, after).bytes


def test_a_measured_network_stays_where_nothing_is_gained():
    net = mlp()
    swept = frontier(net, [net.widths(s) for s in (0.25, 0.5, 1.0)], [0.9, 0.8, 0.9])
    run = opened(net, [p.widths for p in swept.points])
    low, middle, full = swept.points
    assert cuts.filled(run, swept, low, low.bytes) == low.widths  # no room
    assert cuts.filled(run, swept, low, middle.bytes) == low.widths  # the next one is no better
    assert cuts.filled(run, swept, full, 10 * full.bytes) == full.widths  # there is no next one
    apart = replace(run, record=replace(run.record, levels=()))
    assert cuts.filled(apart, swept, low, middle.bytes - 1) == low.widths
    with pytest.raises(ww.BudgetError):
        cuts.filled(run, swept, low, "much")


def test_the_class_of_the_measured_network_is_kept():
    net = ww.Elastic(Halves(), torch.randn(4, 6))
    swept = frontier(net, [net.widths(0.25), net.full()], [0.7, 0.9])
    low, high = swept.points
    run = opened(net, [low.widths, high.widths])
    assert low.own_class is False
    assert cuts.filled(run, swept, low, high.bytes - 1) != low.widths
    named = replace(swept, points=(replace(low, own_class=True), high))
    assert cuts.filled(run, named, named.points[0], high.bytes - 1) == low.widths


def test_networks_that_keep_most_are_not_taught():
    net = mlp()
    run = opened(net, [net.widths(0.25), net.full()])
    taught = (PostProcess.DISTILL,)
    widths = [net.widths(0.25), net.widths(0.9), net.full()]
    assert [how.names for how in cuts.shipped_post_processing(run, widths)] == [taught, (), ()]
