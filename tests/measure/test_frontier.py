"""The frontier: picking within budgets, combining seeds, and its file."""

import json
import math
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import widthwise as ww
from widthwise.common.units import format_size, parse_size
from widthwise.measure.combine import combine
from widthwise.measure.frontier import Frontier, Point

METRICS = st.floats(-1e6, 1e6, allow_nan=False)
COUNTS = st.integers(0, 10**9)
SEEDS = st.integers(-(2**63), 2**64 - 1)  # those of torch


@st.composite
def frontiers(draw, min_points=1, latency=True):
    widths = draw(st.lists(st.integers(1, 500), min_size=min_points, max_size=12, unique=True))
    points = tuple(
        Point(
            widths=ww.Widths({"fc1": w, "fc2.heads": 1 + w // 2}),
            metric=draw(METRICS),
            spread=None,
            bytes=draw(COUNTS),
            params=draw(COUNTS),
            macs=draw(COUNTS),
            latency_ms=draw(st.floats(0, 1e3)) if latency else None,
        )
        for w in widths
    )
    better, seeds = draw(st.booleans()), (draw(SEEDS),)
    done = draw(st.sampled_from(["", "reconstruct"]))
    return Frontier(points, "accuracy", better, "valid", "PyTorch", 1, seeds, done)


def point(width, metric, size, latency=None):
    return Point(ww.Widths({"a": width}), metric, None, size, size // 4, size, latency)


SMALL = Frontier(
    (point(1, 0.5, 1000), point(2, 0.8, 2000), point(3, 0.8, 2500), point(4, 0.9, 4000)),
    "accuracy", True, "valid", "PyTorch 2.13.0, CPU, 1 thread",
)  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "width"),
    [
        ({"max_bytes": 10**6}, 4),
        ({"max_bytes": "2.5kB"}, 2),  # as good as 3, and smaller
        ({"max_bytes": 1999}, 1),
        ({"max_params": 625}, 2),
        ({"max_macs": 4000}, 4),
        ({"min_metric": 0.6}, 4),
        ({"min_metric": 0.6, "max_bytes": "3kB"}, 2),
    ],
)
def test_pick(budget, width):
    assert SMALL.pick(**budget).widths == {"a": width}


@given(frontiers(), st.data())
def test_a_pick_is_feasible_and_the_best(frontier, data):
    some = data.draw(st.sampled_from(frontier.points))
    limits = {
        "max_bytes": some.bytes,
        "max_params": some.params,
        "max_macs": some.macs,
        "max_latency_ms": some.latency_ms,
        "min_metric": some.metric,
    }
    chosen = data.draw(st.sets(st.sampled_from(sorted(limits)), min_size=1))
    sign = 1 if frontier.higher_is_better else -1

    def meets(p):
        return all(
            sign * p.metric >= sign * limits[name]
            if name == "min_metric"
            else getattr(p, name.removeprefix("max_")) <= limits[name]
            for name in chosen
        )

    picked = frontier.pick(**{name: limits[name] for name in chosen})
    feasible = [p for p in frontier.points if meets(p)]
    assert meets(picked)
    assert all(sign * picked.metric >= sign * p.metric for p in feasible)
    assert picked.bytes == min(p.bytes for p in feasible if p.metric == picked.metric)


@given(frontiers(), COUNTS, COUNTS)
def test_a_larger_budget_is_never_worse(frontier, a, b):
    small, large = sorted((a, b))
    try:
        first = frontier.pick(max_bytes=small)
    except ww.BudgetError:
        return
    second = frontier.pick(max_bytes=large)
    assert (first.metric <= second.metric) == frontier.higher_is_better or (
        first.metric == second.metric
    )


@given(frontiers())
def test_best_points_rise_and_none_is_beaten(frontier):
    best = frontier.best()
    sign = 1 if frontier.higher_is_better else -1
    assert [p.bytes for p in best] == sorted({p.bytes for p in best})
    assert [sign * p.metric for p in best] == sorted({sign * p.metric for p in best})
    for p in frontier.points:
        assert any(q.bytes <= p.bytes and sign * q.metric >= sign * p.metric for q in best)


def test_without_a_budget_it_says_what_to_give():
    with pytest.raises(ww.BudgetError, match="max_bytes"):
        SMALL.pick()


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"max_bytes": 999}, "at most 999 B; the nearest has 1.00 kB (1000 bytes), accuracy 0.5"),
        ({"min_metric": 0.95}, "accuracy of at least 0.95; the nearest has accuracy 0.9"),
        ({"max_bytes": "2kB", "min_metric": 0.85}, "accuracy 0.8"),
        ({"max_params": 10}, "at most 10 parameters; the nearest has 250 parameters"),
    ],
)
def test_what_cannot_be_met_names_the_nearest(budget, said):
    with pytest.raises(ww.BudgetError) as raised:
        SMALL.pick(**budget)
    assert said in str(raised.value)
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)


@given(frontiers())
def test_the_nearest_named_meets_the_budget_that_it_names(frontier):
    smallest = min(p.bytes for p in frontier.points)
    assert frontier.pick(max_bytes=smallest).bytes == smallest
    if smallest:
        with pytest.raises(ww.BudgetError) as raised:
            frontier.pick(max_bytes=smallest - 1)
        named = f"({smallest} bytes)" if smallest >= 1000 else f"{smallest} B"
        assert named in str(raised.value)


def test_a_latency_budget_needs_latency():
    with pytest.raises(ww.BudgetError, match="latency=True"):
        SMALL.pick(max_latency_ms=1.0)
    some = Frontier((point(1, 0.5, 10, 2.0), point(2, 0.9, 20)), "a", True, "valid", "")
    assert some.pick(max_latency_ms=3).widths == {"a": 1}  # what was not timed does not count


def test_lower_is_better():
    losses = Frontier((point(1, 4.0, 10), point(2, 3.0, 20)), "perplexity", False, "valid", "")
    assert losses.pick(max_bytes=30).metric == 3.0
    assert losses.pick(min_metric=4.0, max_bytes=15).metric == 4.0
    with pytest.raises(ww.BudgetError, match="perplexity of at most 2"):
        losses.pick(min_metric=2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, "3", True])
def test_limits_must_be_numbers(bad):
    with pytest.raises(ww.BudgetError, match="give a number"):
        SMALL.pick(max_params=bad)


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("300kB", 300_000), ("1.2MB", 1_200_000), ("500 kB", 500_000), ("64KiB", 65_536),
        ("12", 12), ("7B", 7), (" 3 mb ", 3_000_000), ("0.5GiB", 2**29), (".5kB", 500), (77, 77),
        ("0.0015kB", 1),
    ],
)  # fmt: skip
def test_parse_size(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "bad", ["", "kB", "-3kB", "3 parsecs", "1e5", "3k B", "٣kB", -1, True, 1.5]
)
def test_what_is_not_a_size_is_refused(bad):
    with pytest.raises(ww.BudgetError, match="300kB"):
        parse_size(bad)


@given(st.integers(0, 10**15), st.sampled_from(["", "B", "kB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_sizes_round_trip(number, unit):
    factor = parse_size(f"1{unit}")
    assert parse_size(f"{number}{unit}") == number * factor
    assert parse_size(number) == number


@given(st.integers(0, 10**14))
def test_shown_sizes_have_three_figures(size):
    shown = format_size(size)
    assert abs(parse_size(shown) - size) <= max(0.00501 * size, 0)
    assert len(shown.split()[0]) <= 4


# ---------------------------------------------------------------- several seeds


def test_combine_gives_mean_and_sample_deviation():
    values = [0.90, 0.93, 0.96]
    several = [
        Frontier(
            (point(1, v, 10, 1.0 + v), point(2, v / 2, 20)), "a", True, "valid", "cpu", 1, (i,)
        )
        for i, v in enumerate(values)
    ]
    both = combine(several)
    assert both.seeds == (0, 1, 2)
    assert both.points[0].metric == pytest.approx(0.93)
    assert both.points[0].spread == pytest.approx(statistics.stdev(values))
    assert both.points[0].latency_ms == pytest.approx(1.93)
    assert both.points[1].latency_ms is None
    assert combine(several[:1]).points[0].spread is None
    assert both.post_process == ""
    assert (
        combine([replace(f, post_process="reconstruct") for f in several]).post_process
        == "reconstruct"
    )


@pytest.mark.parametrize(
    "other",
    [
        Frontier((point(3, 0.5, 10),), "a", True, "valid", ""),
        Frontier((point(1, 0.5, 10),), "b", True, "valid", ""),
        Frontier((point(1, 0.5, 10),), "a", False, "valid", ""),
        Frontier((point(1, 0.5, 10),), "a", True, "test", ""),
        Frontier((point(1, 0.5, 99),), "a", True, "valid", ""),
        Frontier((point(1, 0.5, 10),), "a", True, "valid", "", post_process="reconstruct"),
        None,
    ],
)
def test_what_does_not_match_is_not_combined(other):
    first = Frontier((point(1, 0.5, 10),), "a", True, "valid", "")
    with pytest.raises(ww.WidthError):
        combine([first, other] if other else [])


# ---------------------------------------------------------------- the file


@given(frontiers())
def test_json_round_trip(frontier):
    assert Frontier.from_json(frontier.to_json()) == frontier


def test_file_round_trip(tmp_path):
    path = SMALL.save(tmp_path / "frontier.json")
    assert Frontier.load(path) == SMALL
    assert [p.name for p in tmp_path.iterdir()] == ["frontier.json"]


def _without(name):
    data = json.loads(SMALL.to_json())
    del data[name]
    return json.dumps(data)


def _with(**changes):
    return json.dumps(json.loads(SMALL.to_json()) | changes)


def _in_point(**changes):
    data = json.loads(SMALL.to_json())
    data["points"][0] |= changes
    return json.dumps(data)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "null", "[" * 100_000, SMALL.to_json()[:-30], b"\xff\xfe", '{"format": 3}',
        _without("points"), _without("metric"), _with(extra=1), _with(points={}), _with(seeds=None),
        _with(metric=3), _with(higher_is_better=1), _with(version="1"), _with(version=0.5),
        _with(post_process=None),
        _in_point(metric=None), _in_point(metric="0.5"), _in_point(bytes=1.5), _in_point(params=-1),
        _in_point(widths={"a": 0}), _in_point(widths=[1]), _in_point(spread=-1.0), _in_point(x=1),
        _in_point(metric=True), _in_point(metric=float("nan")), _in_point(metric=float("inf")),
        _in_point(metric=10**400), _in_point(latency_ms=-2), _in_point(widths={"a": True}),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_refused_in_a_sentence(text, tmp_path):
    path = tmp_path / "f.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ww.FileError) as raised:
        Frontier.load(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_from_before_post_processing_is_of_plain_cuts():
    assert Frontier.from_json(_without("post_process")) == SMALL


def test_a_newer_file_asks_for_an_update():
    with pytest.raises(ww.FileError, match="newer"):
        Frontier.from_json(_with(version=2, surprise=1))


def test_a_missing_file(tmp_path):
    with pytest.raises(ww.FileError, match="cannot be read"):
        Frontier.load(tmp_path / "none.json")


def test_what_is_not_a_number_is_not_written(tmp_path):
    bad = Frontier((point(1, math.nan, 10),), "a", True, "valid", "")
    with pytest.raises(ww.FileError):
        bad.save(tmp_path / "f.json")
    assert not list(tmp_path.iterdir())
