"""Draws: widths come as often as their law says, and nothing but seed and step decides them."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from widthwise.graph.axes import Axis
from widthwise.sampling.draws import (
    PUBLISHED,
    Draw,
    Sandwich,
    draw_widths,
    drawn_width,
    hashed,
    narrowest,
    one_per_octave,
    same_share,
    sandwich,
    share_kept,
    smallest,
    uniforms,
)
from widthwise.variant import Widths

STEPS = 20_000
LAWS = ["uniform", "log-uniform"]
DRAWS = st.builds(
    Draw,
    p=st.floats(0, 1),
    lowest=st.integers(1, 40),
    step=st.integers(1, 20),
    law=st.sampled_from(LAWS),
    shared=st.booleans(),
)


def axes(*sizes: int) -> dict[str, Axis]:
    return {f"fc{i}": Axis(f"fc{i}", size, ()) for i, size in enumerate(sizes, 1)}


def law(size: int, draw: Draw) -> dict[int, float]:
    """Probability of every width of a cut, from the definition."""
    widths = range(min(draw.lowest, max(draw.step, size // 4)), size, draw.step)
    if draw.law == "uniform":
        return dict.fromkeys(widths, 1 / len(widths))
    share = {w: math.log((w + draw.step) / w) for w in widths}
    return {w: s / sum(share.values()) for w, s in share.items()}


def likelihood(counts: Counter[int], expected: dict[int, float]) -> float:
    """p-value of a chi-square test; widths too rare for it are put together."""
    if set(counts) - set(expected):
        return 0.0
    total, pooled, current = sum(counts.values()), [], [0.0, 0.0]
    for width, share in sorted(expected.items()):
        current = [current[0] + counts[width], current[1] + share * total]
        if current[1] >= 10:
            pooled.append(current)
            current = [0.0, 0.0]
    pooled[-1] = [pooled[-1][0] + current[0], pooled[-1][1] + current[1]]
    seen, wanted = zip(*pooled, strict=True)
    return float(stats.chisquare(seen, wanted).pvalue)


def drawn(draw: Draw, size: int, seed: int = 3, index: int = 0) -> Counter[int]:
    """How often each width of one axis is drawn; the axis' size stands for no cut."""
    one = axes(size)
    return Counter(
        draw_widths(one, draw, seed, step, index).get("fc1", size) for step in range(STEPS)
    )


# ---------------------------------------------------------------- frequencies


@pytest.mark.sample(8)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize(
    ("size", "lowest", "step"),
    [(256, 1, 1), (256, 4, 1), (64, 8, 8), (30, 4, 7), (32, 4, 7), (6, 4, 1), (100, 3, 50)],
)
def test_widths_follow_their_law(size, lowest, step, kind, shared):
    draw = Draw(p=1, lowest=lowest, step=step, law=kind, shared=shared)
    assert likelihood(drawn(draw, size), law(size, draw)) > 0.001


def test_the_frequency_test_can_fail():
    draw = Draw(p=1, lowest=4, law="uniform")
    expected = law(64, draw)
    right = drawn(draw, 64)
    # the full size counted among the widths of a cut
    broken = Counter(drawn_width(65, draw, u) for u in uniforms(3, (0,), STEPS))
    assert likelihood(broken, expected) == 0
    # the widest drawn half as often as the others, the narrowest that much more
    broken = right.copy()
    broken[63] //= 2
    broken[4] += right[63] - broken[63]
    assert likelihood(broken, expected) < 1e-6
    # another law
    assert likelihood(drawn(replace(draw, law="log-uniform"), 64), expected) < 1e-100
    # rounded rather than floored: half a share for the narrowest
    ends = Counter(4 + min(59, round(u * 59.5)) for u in uniforms(3, (0,), STEPS))
    assert likelihood(ends, expected) < 1e-6


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shared", [True, False])
def test_p_is_the_probability_of_a_cut(p, shared):
    """The author's later code compares acos(1 - 2p) instead."""
    draw = Draw(p=p, lowest=1, law="uniform", shared=shared)
    counts = drawn(draw, 50)
    whole = counts.pop(50)
    assert stats.binomtest(whole, STEPS, 1 - p).pvalue > 0.001
    assert likelihood(counts, law(50, draw)) > 0.001
    broken = min(1.0, math.acos(1 - 2 * p))
    assert stats.binomtest(whole, STEPS, 1 - broken).pvalue < 1e-6


def test_the_published_setting_is_the_published_law():
    assert Draw(p=0.5, lowest=1, step=1, law="uniform", shared=False, scale=True) == PUBLISHED
    counts = drawn(PUBLISHED, 256)
    assert 0.49 < counts[256] / STEPS < 0.51  # only the steps without a cut are full
    assert sorted(counts) == list(range(1, 257))


def test_every_octave_is_drawn_equally_often():
    counts = drawn(Draw(p=1, lowest=4), 256)
    octaves = Counter({int(math.log2(w)): 0 for w in counts})
    for width, count in counts.items():
        octaves[int(math.log2(width))] += count
    assert stats.chisquare(list(octaves.values())).pvalue > 0.001
    assert sorted(octaves) == [2, 3, 4, 5, 6, 7]


def test_axes_are_independent_unless_shared():
    two = axes(8, 8)
    draw = Draw(p=1, lowest=1, law="uniform", shared=False)

    def table(draw: Draw) -> list[list[int]]:
        counts = Counter(tuple(draw_widths(two, draw, 1, s).values()) for s in range(STEPS))
        return [[counts[a, b] + 1 for a in range(1, 8)] for b in range(1, 8)]

    assert stats.chi2_contingency(table(draw)).pvalue > 0.001
    assert stats.chi2_contingency(table(replace(draw, shared=True))).pvalue < 1e-100


def test_steps_seeds_and_passes_are_independent():
    draw, one = Draw(p=1, lowest=1, law="uniform"), axes(9)

    def widths(seed: int = 0, index: int = 0, shift: int = 0) -> list[int]:
        return [draw_widths(one, draw, seed, s + shift, index)["fc1"] for s in range(STEPS)]

    first = widths()
    for other in (widths(shift=1), widths(seed=1), widths(index=1)):
        counts = Counter(zip(first, other, strict=True))
        table = [[counts[a, b] for a in range(1, 9)] for b in range(1, 9)]
        assert stats.chi2_contingency(table).pvalue > 0.001


def test_uniforms_are_uniform_in_every_bit():
    values = [u for step in range(STEPS) for u in uniforms(0, (step,), 1)]
    assert stats.kstest(values, "uniform").pvalue > 0.001
    bits = [hashed(0, (step, 5)) for step in range(STEPS)]
    for place in range(64):
        ones = sum(b >> place & 1 for b in bits)
        assert stats.binomtest(ones, STEPS).pvalue > 1e-4


# ---------------------------------------------------------------- several passes


@pytest.mark.parametrize("of", [2, 3, 6])
@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize("shared", [True, False])
def test_passes_of_a_step_come_from_all_parts_of_the_law(of, kind, shared):
    draw = Draw(p=1, lowest=4, law=kind, shared=shared)
    two = axes(256, 256)
    bounds = [drawn_width(256, draw, i / of) for i in range(of)] + [256]
    together: Counter[int] = Counter()
    for step in range(2000):
        passes = [draw_widths(two, draw, 7, step, i, of) for i in range(of)]
        for name in two:
            found = sorted(widths[name] for widths in passes)
            for i, width in enumerate(found):
                assert bounds[i] <= width <= bounds[i + 1]
        together.update(widths["fc1"] for widths in passes)
    assert likelihood(together, law(256, draw)) > 0.001


def test_axes_take_the_parts_in_orders_of_their_own():
    draw = Draw(p=1, shared=False)
    two = axes(256, 256)
    both = Counter(
        tuple(draw_widths(two, draw, 0, s, 0, 2)[n] >= 32 for n in two) for s in range(4000)
    )
    assert stats.chisquare(list(both.values())).pvalue > 0.001
    assert len(both) == 4


def test_sandwich_is_full_drawn_narrowest():
    two = axes(256, 64)
    found = sandwich(two, Draw(p=0.1), 0, 5, Sandwich(passes=5))
    assert found[0] == Widths()
    assert found[-1] == narrowest(two, Draw()) == Widths({"fc1": 4, "fc2": 4})
    middle = [widths["fc1"] for widths in found[1:-1]]
    assert middle == sorted(middle, reverse=True)
    assert 64 < middle[0] < 256
    assert 4 <= middle[2] < 17
    assert len(sandwich(two, Draw(), 0, 5, Sandwich(3, narrowest=False))) == 3
    assert sandwich(two, Draw(), 0, 5) == sandwich(two, Draw(), 0, 5, Sandwich(4))


def test_sandwich_without_strata_draws_from_the_whole_law():
    one, draw = axes(64), Draw(lowest=4)
    plan = Sandwich(4, stratified=False)
    counts = Counter(
        widths["fc1"] for s in range(STEPS) for widths in sandwich(one, draw, 0, s, plan)[1:-1]
    )
    assert likelihood(counts, law(64, draw)) > 0.001


@pytest.mark.parametrize(
    ("size", "lowest", "passes"), [(256, 4, 7), (256, 1, 9), (100, 4, 6), (8, 4, 3), (4, 1, 3)]
)
def test_a_pass_for_every_octave(size, lowest, passes):
    assert one_per_octave(axes(size, 4), Draw(lowest=lowest)) == Sandwich(passes, narrowest=False)
    assert one_per_octave({}, Draw()).passes == 2


def test_share_kept_is_the_mean_over_the_axes():
    many = axes(8, 4) | {"size": Axis("size", 9, (), inner_of="fc1")}
    assert share_kept(many, Widths()) == 1
    assert share_kept(many, {"fc1": 2, "fc2": 4, "size": 3}) == pytest.approx(0.625)
    assert share_kept({}, Widths()) == 1


# ---------------------------------------------------------------- bounds and edges


@given(DRAWS, st.lists(st.integers(1, 300), min_size=1, max_size=4), st.integers(), st.integers(0))
def test_every_draw_keeps_to_its_bounds(draw, sizes, seed, step):
    many = axes(*sizes)
    found = draw_widths(many, draw, seed, step)
    for name, width in found.items():
        size = many[name].size
        assert smallest(size, draw) <= width < size
        assert (width - smallest(size, draw)) % draw.step == 0
    assert draw_widths(many, draw, seed, step) == found


@given(DRAWS, st.integers(1, 300), st.floats(0, 1, exclude_max=True))
def test_every_place_of_a_law_is_a_width(draw, size, place):
    width = drawn_width(size, draw, place)
    if size <= smallest(size, draw):
        assert width == size
    else:
        assert width in law(size, draw)


@given(DRAWS, st.integers(1, 300), st.integers(1, 300), st.floats(0, 1, exclude_max=True))
def test_a_shared_cut_keeps_the_share(draw, size, widest, place):
    size, widest = min(size, widest), max(size, widest)
    width = drawn_width(widest, draw, place)
    kept = same_share(size, draw, width, widest)
    assert 1 <= kept <= size
    if width < widest and smallest(size, draw) < kept < size:
        assert abs(kept - size * width / widest) <= draw.step / 2


def test_shared_means_the_same_share_as_an_even_cut():
    draw = Draw(p=1, lowest=4)
    many = axes(64, 32, 16)
    for step in range(300):
        widths = dict.fromkeys(many, 0) | dict(draw_widths(many, draw, 0, step))
        share = widths["fc1"] / 64
        for name, axis in many.items():
            assert (widths[name] or axis.size) == max(4, round(share * axis.size))


def test_narrow_axes_stay_whole():
    draw = Draw(p=1, lowest=8, shared=False)
    for shared in (True, False):
        found = draw_widths(axes(64, 2, 1), replace(draw, step=3, shared=shared), 0, 1)
        assert list(found) == ["fc1"]
    assert draw_widths(axes(1), draw, 0, 1) == Widths()
    assert narrowest(axes(64, 1), draw) == Widths({"fc1": 8, "fc2": 1})


def test_small_axes_are_drawn_down_to_a_quarter():
    """Twelve heads beside a stream of 768 would otherwise hardly be cut."""
    draw = Draw(lowest=4)
    sizes = (768, 12, 8, 4, 3, 1)
    assert [smallest(s, draw) for s in sizes] == [4, 3, 2, 1, 1, 1]
    assert smallest(16, Draw(lowest=8, step=8)) == 8  # never off the grid
    seen = {draw_widths(axes(768, 12), draw, 0, step).get("fc2", 12) for step in range(300)}
    assert seen == set(range(3, 13))


def test_axes_inside_another_stay_full():
    both = {
        "heads": Axis("heads", 8, ()),
        "size": Axis("size", 32, (), inner_of="heads"),
    }
    draw = Draw(p=1, lowest=1)
    assert list(draw_widths(both, draw, 0, 0)) == ["heads"]
    assert list(narrowest(both, draw)) == ["heads"]
    assert draw_widths({}, draw, 0, 0) == Widths()


def test_p_zero_never_cuts_and_p_one_always_does():
    for step in range(2000):
        assert not draw_widths(axes(16), Draw(p=0, lowest=1), 0, step)
        assert draw_widths(axes(16), Draw(p=1, lowest=1), 0, step)


def test_draws_are_the_same_everywhere_and_for_ever():
    """Golden: a run begun with one version of widthwise continues with the next."""
    assert hashed(0, ()) == 0xE220A8397B1DCDAF  # SplitMix64's first number for seed 0
    two = axes(256, 256)
    published = [dict(draw_widths(two, PUBLISHED, 0, s)) for s in range(4)]
    assert published == [{"fc1": 13}, {}, {"fc1": 147, "fc2": 167}, {"fc2": 240}]
    assert [draw_widths(two, Draw(), 1, s)["fc2"] for s in range(3)] == [21, 165, 40]


@pytest.mark.parametrize(
    "wrong",
    [
        {"p": 1.5},
        {"p": -0.1},
        {"p": math.nan},
        {"lowest": 0},
        {"lowest": 2.5},
        {"step": 0},
        {"step": True},
        {"law": "normal"},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"Draw\.(p|lowest|step|law) is .*give"):
        Draw(**wrong)


def test_a_sandwich_of_too_few_passes_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        Sandwich(1)
    with pytest.raises(ValueError, match="at least 1"):
        Sandwich(0, narrowest=False)
    assert Sandwich(1, narrowest=False).drawn == 0


@pytest.mark.parametrize("draw", [Draw(), PUBLISHED])
def test_a_draw_costs_microseconds(draw):
    two = axes(256, 256)
    best = math.inf
    for _ in range(5):
        began = time.process_time()
        for step in range(1000):
            draw_widths(two, draw, 0, step)
        best = min(best, time.process_time() - began)
    assert best / 1000 < 60e-6
