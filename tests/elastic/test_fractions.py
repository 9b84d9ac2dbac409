"""Widths as one number: a fraction of every axis, wherever widths are given."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import widthwise as ww
from widthwise.measure.evaluation import AtWidths
from widthwise.pruning import merge
from widthwise.variant import Variant

ONE = ww.Evaluation.by(lambda module: 1.0, higher_is_better=True, name="one")


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))


X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> ww.Elastic:
    return ww.Elastic(build(), X).eval()


def test_a_fraction_means_the_same_everywhere(net: ww.Elastic, tmp_path: Path) -> None:
    half = net.widths(0.5)
    wanted = net(X, widths=half)
    assert net.complete(0.5) == net.complete(half)
    assert torch.equal(net(X, widths=0.5), wanted)
    assert torch.equal(next(iter(net.each([0.5], X))), wanted)
    assert torch.equal(AtWidths(net, 0.5)(X), wanted)
    torch.testing.assert_close(net.cut(0.5)(X), wanted)
    torch.testing.assert_close(net.cut(0.5, same_class=False)(X), wanted)
    assert net.engine.kept(0.5) == net.engine.kept(half)
    assert net.realizable(0.5) == net.complete(half)
    loaded = ww.load(ww.save(net, tmp_path / "half.safetensors", widths=0.5), build=build)
    torch.testing.assert_close(loaded(X), wanted)
    frontier = ww.sweep(net, ONE, [0.5, 1.0], latency=False)
    assert [p.widths for p in frontier.points] == [half, net.full()]
    assert merge(net, 0.5)(X).shape == (5, 3)


@pytest.mark.parametrize("full", [1, 1.0])
def test_all_of_every_axis(net: ww.Elastic, full: float) -> None:
    assert net.complete(full) == net.full()


@pytest.mark.parametrize("wrong", [0, 0.0, 1.5, -1, True, "0.5", math.nan, [0.5], 2])
def test_what_is_no_fraction_is_refused(net: ww.Elastic, wrong: Any, tmp_path: Path) -> None:
    sentence = "give a number above 0, at most 1, or a mapping from the names of axes"
    for use in (
        net.cut,
        net.complete,
        net.engine.kept,
        net.widths,
        lambda w: net(X, widths=w),
        lambda w: list(net.each([w], X)),
        lambda w: ww.save(net, tmp_path / "x.safetensors", widths=w),
        lambda w: ww.sweep(net, ONE, [w], latency=False),
    ):
        with pytest.raises(ww.WidthError, match=sentence):
            use(wrong)


def test_a_variant_names_its_axes(net: ww.Elastic) -> None:
    for make in (ww.Widths, Variant):
        with pytest.raises(ww.WidthError, match=r"such as net.widths\(0.5\)"):
            make(0.5)  # type: ignore[arg-type]
