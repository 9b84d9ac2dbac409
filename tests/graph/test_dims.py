"""The algebra of dims: what unifying, splitting and regrouping must keep."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from widthwise.graph.dims import (
    additive,
    concatenated,
    fix,
    free_factors,
    fresh,
    fully_fixed,
    regroup,
    resolve,
    show,
    size,
    split,
    unify,
    why,
)
from widthwise.graph.slicing import count, layout, positions

SIZES = st.lists(st.integers(2, 6), min_size=1, max_size=4)


def all_positions(term):
    """The entries of a dim with every axis at full width: all of them, in order."""
    return positions(layout(term, lambda f: f.size)).tolist()


def test_a_variable_becomes_the_product_it_meets():
    channels, heads, head_size = fresh(12), fresh(3), fresh(4)
    unify(channels, (*heads, *head_size))
    assert resolve(channels) == (*heads, *head_size)
    assert show(channels) == "?3 x ?4"


def test_blocks_align_at_equal_products():
    batch, rows = fresh(5, "batch"), fresh(12)
    unify((*batch, *rows), (*fresh(5, "batch"), *fresh(3), *fresh(4)))
    assert [f.size for f in resolve(rows)] == [3, 4]


def test_two_products_split_at_common_boundaries():
    a, b = (*fresh(12), *fresh(4)), (*fresh(3), *fresh(16))
    unify(a, b)
    assert [f.size for f in resolve(a)] == [f.size for f in resolve(b)]
    assert resolve(a) == resolve(b)


def test_fixed_spreads_with_its_reason():
    a, b = fresh(8, "it counts classes"), fresh(8)
    unify(a, b)
    assert fully_fixed(b)
    assert why(b) == "it counts classes"


def test_different_sizes_are_both_fixed_and_say_so():
    a, b = fresh(8), fresh(6)
    unify(a, b)
    assert fully_fixed(a)
    assert "8 and 6" in why(b)


def test_a_concatenation_meets_a_variable_and_a_split():
    a, b, whole = fresh(4), fresh(6), fresh(10)
    unify(whole, concatenated([a, b]))
    parts = additive(whole, [4, 6])
    assert parts == [a, b]


def test_sums_are_cut_at_all_boundaries():
    left = concatenated([fresh(6), fresh(4)])
    right = concatenated([fresh(4), fresh(6)])
    unify(left, right)
    assert [size(p) for p in resolve(left)[0].parts] == [4, 2, 4]
    assert [size(p) for p in resolve(right)[0].parts] == [4, 2, 4]
    fix(left, "because")
    assert fully_fixed(right)


def test_a_sum_of_equal_parts_is_slots_times_a_part():
    part_a, part_b = fresh(5), fresh(5)
    unify(concatenated([part_a, part_b]), (*fresh(2), *fresh(5)))
    assert resolve(part_a) == resolve(part_b)


def test_shifted_sums_end():
    """x[:, 1:] and x[:, :-1] meet each other: everything is fixed rather than split for ever."""
    x = fresh(40)
    first, second = additive(x, [1, 39]), additive(x, [39, 1])
    assert first is not None
    assert second is not None
    unify(first[1], second[0])
    assert size(x) == 40


def test_a_variable_cannot_contain_itself():
    a = fresh(4)
    unify(a, (*a,))
    b, c = fresh(8), fresh(2)
    unify((*b,), concatenated([fresh(4), fresh(4)]))
    assert size(b) == 8
    assert size(c) == 2


@given(SIZES)
def test_regrouping_keeps_every_entry_in_place(sizes):
    """Merging all dims into one and splitting them again returns the same terms."""
    dims = [fresh(s) for s in sizes]
    merged = regroup(dims, [math.prod(sizes)])
    assert merged is not None
    assert all_positions(merged[0]) == list(range(math.prod(sizes)))
    assert regroup(merged, sizes) == dims


@given(st.integers(2, 6), st.integers(2, 6), st.data())
def test_positions_of_a_cut_product(outer, inner, data):
    """Keeping a of the outer and b of the inner features keeps exactly those entries of a grid."""
    a, b = data.draw(st.integers(1, outer)), data.draw(st.integers(1, inner))
    first, second = fresh(outer), fresh(inner)
    kept = {first[0]: a, second[0]: b}
    term = (*first, *second)
    expected = [i * inner + j for i in range(a) for j in range(b)]
    assert positions(layout(term, kept.__getitem__)).tolist() == expected
    assert count(term, kept.__getitem__) == a * b


@given(st.lists(st.integers(2, 5), min_size=2, max_size=4), st.data())
def test_positions_of_a_cut_sum(sizes, data):
    parts = [fresh(s) for s in sizes]
    kept = {p[0]: data.draw(st.integers(1, s)) for p, s in zip(parts, sizes, strict=True)}
    expected, offset = [], 0
    for p, s in zip(parts, sizes, strict=True):
        expected += [offset + i for i in range(kept[p[0]])]
        offset += s
    assert positions(layout(concatenated(parts), kept.__getitem__)).tolist() == expected


@given(st.integers(2, 5), st.integers(2, 5))
def test_splitting_a_free_dim_names_two_axes(outer, inner):
    term = fresh(outer * inner)
    pair = split(term, outer, inner)
    assert pair is not None
    assert [f.size for f in free_factors(term)] == [outer, inner]


@pytest.mark.parametrize(("outer", "inner"), [(4, 3), (3, 4), (2, 6), (12, 1), (1, 12)])
def test_a_fixed_dim_can_be_read_in_any_way(outer, inner):
    term = (*fresh(3, "fixed"), *fresh(4, "fixed"))
    pair = split(term, outer, inner)
    assert pair is not None
    assert (size(pair[0]), size(pair[1])) == (outer, inner)


def test_a_free_product_is_not_split_across_its_factors():
    assert split((*fresh(3), *fresh(4)), 2, 6) is None
