"""Whether networks are faster, and which widths are fast: the rules, on made-up times."""

import math
import random

import pytest

from widthwise.benchmark import granularity as grains
from widthwise.benchmark import timing
from widthwise.benchmark.granularity import Granularity, coarsest_for, longer, offsets
from widthwise.benchmark.speed import BOTH, Speed
from widthwise.benchmark.timing import Spread, in_turns, judged, spread
from widthwise.benchmark.words import advice, interval, verdict_on

STILL = Spread(1.0, 0.99, 1.01)


# Medians, intervals, and what is said of a ratio.


@pytest.mark.parametrize(
    ("number", "low", "high"), [(1, 1, 1), (5, 1, 5), (6, 1, 6), (8, 1, 8), (9, 2, 8), (15, 4, 12)]
)
def test_the_interval_lies_between_two_of_the_numbers(number, low, high):
    values = [float(v) for v in range(1, number + 1)]
    random.Random(0).shuffle(values)
    assert spread(values) == Spread((number + 1) / 2, low, high)


def test_the_interval_holds_the_median_as_often_as_it_says():
    generator = random.Random(0)
    held = 0
    for _ in range(2000):
        found = spread(generator.expovariate(1) for _ in range(15))
        held += found.low <= math.log(2) <= found.high
    assert 0.95 <= held / 2000 <= 0.98  # by its ranks 96.5 %


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (Spread(1.9, 1.8, 2.0), "above"),
        (Spread(1.9, 1.01, 2.5), "above"),
        (Spread(1.09, 1.08, 1.095), "alike"),  # certainly more than 1, and of no use
        (Spread(1.0, 0.95, 1.05), "alike"),
        (Spread(1.15, 0.999, 1.19), "alike"),
        (Spread(1.15, 0.999, 1.4), "unclear"),
        (Spread(1.9, 0.9, 3.0), "unclear"),
        (Spread(0.9, 0.6, 1.05), "unclear"),
        (Spread(0.95, 0.93, 0.97), "alike"),
        (Spread(0.8, 0.7, 0.9), "below"),
    ],
)
def test_a_ratio_is_judged_by_its_interval(ratio, said):
    assert judged(ratio, 0.1) == said
    turned = Spread(1 / ratio.median, 1 / ratio.high, 1 / ratio.low)
    opposite = {"above": "below", "below": "above"}.get(said, said)
    assert judged(turned, 0.1) == opposite


def test_calls_take_turns_and_a_round_keeps_the_shortest_time(monkeypatch):
    monkeypatch.setattr(timing, "_PASSES", (3, 3))
    order, slow = [], iter([1.0] * 9 + [1e-3, 2e-3, 3e-3] * 4)

    def seconds(call, count):
        order.append(call)
        return next(slow)

    monkeypatch.setattr(timing, "_seconds", seconds)
    times = in_turns(["a", "b", "c"], 1)
    assert order == list("aaabbbccc" + "abc" + "cba" + "abc")
    assert times == [[1.0], [2.0], [1.0]]  # milliseconds


def test_every_round_times_every_call():
    called = {"a": 0, "b": 0}

    def call(name):
        called[name] += 1

    times = in_turns([lambda: call("a"), lambda: call("b")], 7)
    assert [len(each) for each in times] == [7, 7]
    assert all(ms > 0 for each in times for ms in each)
    assert min(called.values()) >= 7


# What is said of a network.


def rows(*ratios, noise=STILL):
    places = [(runtime, batch) for runtime in BOTH for batch in (1, 32)]
    return [
        Speed("small", runtime, batch, 1, Spread(1, 1, 1), ratio, noise)
        for (runtime, batch), ratio in zip(places, ratios, strict=False)
    ]


SAME, FAST, SLOW = Spread(1.02, 0.99, 1.05), Spread(1.9, 1.8, 2.0), Spread(0.83, 0.8, 0.9)
WILD = Spread(1.5, 0.8, 3.0)


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ((SAME, SAME, SAME, SAME), "small: 61 % smaller but not faster here."),
        (
            (SLOW, SAME, SLOW, SLOW),
            "small: 61 % smaller but not faster here; it is slower in PyTorch at batch 1, in ONNX "
            "Runtime at batch 1 and 32.",
        ),
        (
            (SAME, FAST),
            "small: 61 % smaller; in PyTorch no faster at batch 1 and 1.90 times as fast at batch "
            "32.",
        ),
        (
            (SAME, SAME, SLOW, FAST),
            "small: 61 % smaller; in PyTorch no faster at batch 1 and 32, in "
            "ONNX Runtime slower (0.83 times as fast) at batch 1 and 1.90 times as fast at batch "
            "32.",
        ),
        (
            (SAME, WILD),
            "small: 61 % smaller; in PyTorch no faster at batch 1 and too noisy to tell (0.80 to "
            "3.0 times as fast) at batch 32.",
        ),
    ],
)
def test_smaller_but_not_faster_is_said_where_it_is_so(ratios, said):
    assert verdict_on("small", 0.61, rows(*ratios)) == said


def test_nothing_is_claimed_where_the_full_network_differs_from_itself():
    assert {row.verdict for row in rows(SAME, FAST)} == {"alike", "above"}
    restless = rows(SAME, FAST, noise=Spread(1.2, 1.1, 1.3))
    assert {row.verdict for row in restless} == {"unclear"}
    assert "too noisy to tell" in verdict_on("small", 0.61, restless)


def test_samples_of_a_second_have_the_interval_turned_round():
    row = Speed("small", "PyTorch", 32, 1, Spread(2.0, 1.0, 4.0), SAME, STILL)
    assert row.samples_per_second == Spread(16000, 8000, 32000)


def test_a_ratio_reads_in_few_figures():
    assert interval(Spread(1.234, 0.9876, 2.345)) == "1.23 (0.99-2.3)"
    assert interval(Spread(12.34, 9.99, 20)) == "12 (10-20)"


# Which widths are fast.


def costs(time, coarsest, *, rounds=7, noise=0.0):
    """Rounds of made-up times, a function of the width, at the widths that are timed."""
    generator = random.Random(0)
    return {
        step: [
            time(2 * coarsest + step) * generator.uniform(1 - noise, 1 + noise)
            for _ in range(rounds)
        ]
        for step in offsets(coarsest)
    }


def slower_off(of, by=1.2):
    """A product of two axes, slower at widths that are no multiple of this."""
    return lambda width: (width + 0.01 * width**2) * (by if width % of else 1)


def in_blocks(of, overhead=0.0):
    """Kernels that compute whole blocks."""
    return lambda width: overhead + (-(-width // of) * of) ** 2


def measured(times, coarsest, noise=STILL):
    return Granularity("PyTorch", 32, coarsest, longer(times, coarsest), noise)


@pytest.mark.parametrize("coarsest", [8, 16, 32, 64])
@pytest.mark.parametrize("of", [1, 4, 8, 16, 32, 64])
def test_the_multiples_that_are_not_slower_are_recommended(of, coarsest):
    row = measured(costs(slower_off(of), coarsest), coarsest)
    if of > coarsest:  # all that is tried is equally slow, but for the one that is double
        assert row.recommended in (1, coarsest)
        return
    assert row.recommended == of
    lost = {g: r.median for g, r in row.longer.items()}
    assert lost == pytest.approx({g: 1.2 if g < of else 1.0 for g in lost})


def test_few_per_cent_are_no_reason():
    assert measured(costs(slower_off(16, by=1.03), 64), 64).recommended == 1
    assert measured(costs(slower_off(16, by=1.08), 64), 64).recommended == 16


def test_blocks_matter_where_widths_are_narrow_and_calls_more_than_overhead():
    assert measured(costs(in_blocks(16), 32), 32).recommended == 16
    assert measured(costs(in_blocks(16, overhead=1e6), 32), 32).recommended == 1
    assert measured(costs(in_blocks(4), 16), 16).recommended == 4
    assert measured(costs(in_blocks(4), 64), 64).recommended == 1


def test_noise_is_no_recommendation():
    time = slower_off(8)
    assert measured(costs(time, 64, rounds=41, noise=0.01), 64).recommended == 8
    assert measured(costs(time, 64, noise=0.5), 64).recommended is None
    restless = Spread(1.2, 1.1, 1.3)
    assert measured(costs(time, 64), 64, noise=restless).recommended is None


def test_slow_multiples_are_not_hidden_by_fast_odd_widths():
    times = costs(slower_off(1), 32)
    assert measured(times, 32).recommended == 1
    for step in (-16, 16):
        times[step] = [1.2 * ms for ms in times[step]]
    assert measured(times, 32).recommended == 32


@pytest.mark.parametrize("coarsest", grains.COARSEST)
def test_two_widths_of_every_granularity_are_timed(coarsest):
    steps = offsets(coarsest)
    assert len(set(steps)) == len(steps)
    classes = [math.gcd(2 * coarsest + step, 64) for step in steps]
    finer = [g for g in grains.FINER if g < coarsest]
    assert classes[3:] == [g for g in finer for _ in range(2)]
    assert all(c >= coarsest for c in classes[:3])
    assert all(0 < 2 * coarsest + step < 4 * coarsest for step in steps)


@pytest.mark.parametrize(
    ("sizes", "coarsest"),
    [([64, 64], 16), ([256], 64), ([16, 32, 64], 8), ([200], 32), ([8, 16], None), ([], None)],
)
def test_how_coarse_is_decided_by_the_axes(sizes, coarsest):
    assert coarsest_for(sizes) == coarsest


def test_advice_says_where_it_holds():
    def row(runtime, batch, **longer):
        found = {int(g[1:]): Spread(r, r, r) for g, r in longer.items()}
        return Granularity(runtime, batch, 16, found, STILL)

    flat = row("PyTorch", 1, _1=1.01, _4=1.0, _8=1.0)
    assert advice([flat]) == [
        "Any width is as good here: multiples of up to 16 gain less than 5 %."
    ]
    eights = row("ONNX Runtime", 32, _1=1.31, _4=1.12, _8=1.0)
    assert advice([flat, eights]) == [
        "Take multiples of 8 in ONNX Runtime at batch 32: other widths take up to 31 % longer than "
        "their size needs.",
        "Any width is as good here in PyTorch at batch 1: multiples of up to 16 gain less than "
        "5 %.",
    ]
    wild = Granularity("PyTorch", 32, 16, {1: WILD, 4: STILL, 8: STILL}, STILL)
    assert advice([wild]) == ["Which widths are fast is too noisy to tell."]
    sixteens = row("PyTorch", 1, _1=1.0, _4=1.0, _8=1.2)
    assert "multiples of 16 (the coarsest tried): other" in advice([sixteens])[0]
