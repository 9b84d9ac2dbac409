"""What is measured is never narrower than what training draws."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import widthwise as ww
from command_line import works
from widthwise.app.runs import opening
from widthwise.app.runs.folder import Run
from widthwise.measure.frontier import Frontier
from widthwise.pruning import allocated_levels, magnitude
from widthwise.train.losses import SingleDraw
from widthwise.variants import sizing
from widthwise.variants.space import Line

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
BATCHES = [(X, Y)]


def built(sizes: tuple[int, int] = (40, 12), **more: object) -> ww.Elastic:
    """Two hidden layers; by default draws go down to 4 features of 40, and a quarter of 12."""
    torch.manual_seed(0)
    first, second = sizes
    model = nn.Sequential(
        nn.Linear(6, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 3)
    )
    return ww.Elastic(model, X[:4], **more)


def trained(**more: object) -> ww.Elastic:
    net = built(**more)
    loss = ww.SandwichLoss(net, F.cross_entropy)
    ww.fit(net, BATCHES, loss, recipe=ww.Recipe(epochs=1), run=ww.RunConfig(progress=False))
    return net


def least(levels: list) -> dict[str, int]:
    """The narrowest width of each axis that is anywhere among these."""
    return {name: min(widths[name] for widths in levels) for name in ("0", "2")}


DRAWN, ONE = {"0": 4, "2": 3}, {"0": 1, "2": 1}


def test_what_training_draws() -> None:
    assert dict(built().lowest) == ONE  # whatever it was trained by, it was not drawn here
    assert dict(trained().lowest) == DRAWN
    assert dict(copy.deepcopy(trained()).lowest) == DRAWN
    assert dict(built(draw=ww.Draw()).lowest) == DRAWN  # which is said to be drawn
    assert dict(built(draw=ww.Draw(lowest=8)).lowest) == {"0": 8, "2": 3}
    assert dict(built(draw=ww.PUBLISHED).lowest) == ONE
    assert dict(built(draw=ww.Draw(p=0)).lowest) == ONE
    net = built()
    net.draw = ww.Draw(lowest=2)
    assert dict(net.lowest) == {"0": 2, "2": 2}
    loaded = built()
    loaded.load_state_dict(trained().state_dict())
    assert dict(loaded.lowest) == DRAWN


def test_plain_training_draws_nothing_and_single_draws_do() -> None:
    for draw, wanted in ((ww.Draw(p=0), ONE), (ww.Draw(shared=False), DRAWN)):
        net = built(draw=draw)
        loss = SingleDraw(net, F.cross_entropy)
        ww.fit(net, BATCHES, loss, recipe=ww.Recipe(epochs=1), run=ww.RunConfig(progress=False))
        assert dict(net.lowest) == wanted


def test_rungs_are_what_is_drawn() -> None:
    net = built(draw=ww.Draw())
    levels = [{"0": 2, "2": 5}, {"0": 9, "2": 6}]
    ww.SandwichLoss(net, F.cross_entropy, levels=levels)
    assert dict(net.lowest) == levels[0]
    assert least(ww.even_levels(net)) == levels[0]
    ww.SandwichLoss(net, F.cross_entropy)
    assert dict(net.lowest) == DRAWN


def test_constraints_hold_too() -> None:
    constraints = ww.Constraints(multiple_of={"0": 8})
    assert dict(built(draw=ww.Draw(), constraints=constraints).lowest) == {"0": 8, "2": 3}
    assert dict(built(constraints=constraints).lowest) == {"0": 8, "2": 1}


@pytest.mark.parametrize("count", [None, 5, 40])
def test_levels_of_a_trained_network(count: int | None) -> None:
    assert least(ww.even_levels(trained(), count)) == DRAWN
    assert least(ww.even_levels(built(), count, lowest=0.01)) == ONE
    for widths in ww.even_levels(trained(), count, multiple_of=3):
        assert widths["0"] in (*range(6, 40, 3), 40)
        assert widths["2"] in range(3, 13, 3)
    same = [w["0"] for w in ww.even_levels(trained(sizes=(20, 20)), count)]
    assert same[0] == 4
    assert sorted(set(same)) == same  # none comes twice


def test_sweeps_by_default() -> None:
    evaluate = ww.Evaluation(BATCHES, ww.ACCURACY)
    points = ww.sweep(trained(), evaluate, latency=False).points
    assert least([p.widths for p in points]) == DRAWN
    asked = ww.sweep(trained(), evaluate, [{"0": 1, "2": 2}], latency=False).points
    assert dict(asked[0].widths) == {"0": 1, "2": 2}  # which was asked for


def test_allocated_levels() -> None:
    net = trained()
    scores = magnitude(net)
    scores["2"] *= 1e-3  # so that this axis would go first
    assert least(allocated_levels(net, scores, lowest=0.01)) == DRAWN
    assert least(allocated_levels(net, scores, lowest=0.01, drawn=False)) == ONE
    assert least(allocated_levels(built(), scores, lowest=0.01)) == ONE


def test_searches_and_comparisons() -> None:
    net = trained()
    for levels in ([], [net.widths(0.2), net.widths(0.5)]):
        line = Line(net, levels)
        places = [line.lowest, line.lowest // 2, -3, line.highest]
        found = [line.widths(p, {"0": t, "2": -t}) for p in places for t in (-1.0, 0.0, 1.0)]
        assert least(found) == DRAWN
        assert line.widths(line.lowest, {"0": 1.0}) == Line(net, levels).widths(line.lowest, {})
    assert least(sizing.along(net)) == DRAWN
    assert least(sizing.along(built())) == ONE


def swept(out: Path) -> int:
    """The narrowest width of any axis among those that a sweep measures by default."""
    works("sweep", out, "--no-latency")
    points = Frontier.load(Run(out).frontier).points
    return min(width for point in points for width in point.widths.values())


@pytest.mark.parametrize(("method", "narrowest"), [("default", 4), ("plain", 1)])
def test_sweeps_of_runs(tmp_path: Path, method: str, narrowest: int) -> None:
    out, ordered = tmp_path / "run", tmp_path / "ordered"
    works("train", "digits", "--out", out, "--epochs", 1, "--method", method)
    assert swept(out) == narrowest
    if method == "plain":
        works("order", "digits", "--from", out, "--out", ordered, "--score", "magnitude")
        assert swept(ordered) == 1


def test_sweeps_of_what_is_trained_along_rungs(tmp_path: Path) -> None:
    """By fractions, too, no axis is narrower than the narrowest level has it."""
    plain, ordered, out = (tmp_path / name for name in ("plain", "ordered", "out"))
    works("train", "digits", "--out", plain, "--epochs", 1, "--method", "plain")
    works("order", "digits", "--from", plain, "--out", ordered, "--score", "taylor")
    works("train", "digits", "--from", ordered, "--out", out, "--epochs", 1)
    opened = opening.open_run(Run(out))
    opening.know_levels(opened)
    lowest = opened.net.lowest
    assert min(lowest.values()) < 64
    for by in ("fraction", "scores"):
        works(
            "sweep", out, "--no-latency", "--allocation", by, "--no-reconstruct", "--num-widths", 6
        )
        for point in Frontier.load(Run(out).frontier).points:
            assert all(point.widths[axis] >= width for axis, width in lowest.items())
