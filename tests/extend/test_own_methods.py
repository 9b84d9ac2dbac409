"""Methods that a user registers for `widthwise compare`, by documented names alone."""

import csv

import pytest

from command_line import fails, widthwise, works
from widthwise.app.compare.methods import METHODS, Method, register_method

TASK = """
from dataclasses import replace

from widthwise.app.compare.methods import Made, Method, register_method
from widthwise.app.tasks.digits import task as digits
from widthwise.variant import Variant
from widthwise.variants import apply


def task():
    return replace(digits(), name="own")


def quarter(bench, budget):
    net = bench.net()
    made = apply(net, Variant(net.widths(0.25)), prepare=bench.calibrated)
    if made.bytes <= budget:
        yield Made("quarter", made)


def whole(bench, budget):
    net = bench.net()
    yield Made("whole", apply(net, Variant(net.full())))


register_method(Method("quarter", "quarter", "neurons", "a quarter of every axis", quarter))
register_method(Method("whole", "whole", "neurons", "all of it, whatever the budget", whole))
"""
SPEC = """
task = "own.py:task"
budgets = ["1kB", "40kB"]
seeds = 1
epochs = 1
methods = ["METHOD", "8 bits"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("own")
    (made / "own.py").write_text(TASK)
    for name in ("quarter", "whole", "quarters"):
        (made / f"{name}.toml").write_text(SPEC.replace("METHOD", name))
    return made


@pytest.fixture
def own(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_a_comparison_measures_a_method_of_the_tasks_file(own):
    works("compare", "quarter.toml", "--out", "out", "--workers", 1)
    rows = list(csv.DictReader((own / "out" / "comparison.csv").read_text().splitlines()))
    mine = {row["budget"]: row for row in rows if row["method"] == "quarter"}
    assert mine["1000"]["reached"] == "False"
    assert mine["40000"]["reached"] == "True"
    assert 0 < int(mine["40000"]["bytes"]) <= 40_000
    assert mine["40000"]["family"] == "neurons"
    page = (own / "out" / "comparison.html").read_text()
    assert "a quarter of every axis" in page


def test_a_network_that_is_too_large_is_refused(own):
    result = widthwise("compare", "whole.toml", "--out", "whole", "--workers", 1)
    assert result.exit_code == 1
    said = result.stderr.splitlines()[-1]
    assert "Error: The method 'whole' made a network of" in said
    assert "for a budget of 1,000" in said


def test_an_unknown_method_is_told_with_names_like_it(own):
    said = fails("compare", "quarters.toml", "--out", "quarters")
    assert "quarters.toml: There is no method 'quarters'; did you mean 'quarter'?" in said
    assert not (own / "quarters").exists()


def nothing(bench, budget):
    yield from ()


def other(bench, budget):
    yield from ()


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (Method("search", "mine", "search", "", nothing), "There is a method 'search' already"),
        (Method("mine", "mine", "quick", "", nothing), "family of 'mine' is 'quick'; give one of"),
        (Method("mine", "mine", "bits", "", nothing, "none"), "base of 'mine' is 'none'"),
        (Method("mine", "gwk", "bits", "", nothing, fixed=True), "of one group, and not made ali"),
    ],
)
def test_what_does_not_fit_is_refused(method, said):
    with pytest.raises(ValueError, match=said):
        register_method(method)
    assert "mine" not in METHODS


def test_a_second_method_of_a_name_is_refused_unless_it_is_meant(monkeypatch):
    method = Method("once", "once", "bits", "", nothing)
    monkeypatch.setitem(METHODS, "once", method)
    register_method(method)  # the same once more, as a file run again does
    again = Method("once", "once", "bits", "", other)
    with pytest.raises(ValueError, match="replace=True"):
        register_method(again)
    register_method(again, replace=True)
    assert METHODS["once"].make is other
