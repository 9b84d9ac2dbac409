"""Networks put together at random: what holds for the test set holds for all of them.

A few dozen here; `bench/random_programs.py --networks` runs thousands.
"""

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from random_nets import STEPS, Recipe, build, generate, shorter
from random_nets.checks import DisagreementError, check
from widthwise.graph import rules
from widthwise.graph.rules import matrix, normalisation
from widthwise.graph.rules.op import Result

EXAMPLES = 60
# One of everything that matters most.
RECIPES = (
    Recipe("image", (("residual", (0,)), ("grouped_shuffle", (0, 1)), ("to_vector", (1,)))),
    Recipe("image", (("norm", (1,)), ("pixels", (1,)), ("to_sequence", (1,)), ("attention", ()))),
    Recipe("tokens", (("attention", (1, 0, 1)), ("grouped_query", (0, 1)), ("glu", (0,)))),
    Recipe("signal", (("recurrence", (0, 0, 3)), ("cell_loop", (0, 1)), ("to_vector", (5,)))),
    Recipe("vector", (("split_and_mix", (1,)), ("concatenate", (2,)), ("heads_einsum", (0, 0, 1)))),
)


@st.composite
def recipes(draw):
    return generate(lambda options: draw(st.sampled_from(list(options))), most=5)


@given(recipes())
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_everything_agrees(recipe):
    check(recipe, seeds=(0,))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: "-".join(name for name, _ in r.steps))
def test_everything_agrees_on_chosen_ones(recipe):
    found = check(recipe, seeds=(0,))
    assert found.axes
    assert found.cuts == 1


def test_a_recipe_is_built_the_same_every_time():
    recipe = generate(random.Random(3).choice)
    assert recipe == generate(random.Random(3).choice)
    (first, (x,)), (second, (y,)) = build(recipe), build(recipe)
    assert torch.equal(x, y)
    assert torch.equal(first.eval()(x), second.eval()(y))


def test_every_step_is_used_and_runs():
    used = set()
    for seed in range(600):
        recipe = generate(random.Random(seed).choice)
        used |= {name for name, _ in recipe.steps}
        model, args = build(recipe)
        assert model(*args).isfinite().all(), recipe
    assert used == {name for steps in STEPS.values() for name in steps}


def test_shorter_recipes_are_recipes():
    recipe = generate(random.Random(5).choice)
    for smaller in shorter(recipe):
        assert smaller != recipe
        model, args = build(smaller)
        assert model(*args).isfinite().all(), smaller


def untied(op):
    """linear whose input and weight are not related."""
    return Result([*op.dims("input")[:-1], *op.dims("weight")[:-1]])


def shapeless(op):
    """layer norm whose shape does not follow."""
    return Result(normalisation.layer_norm(op).outputs)


def uncontracted(op):
    """linear that does not say that it sums over features."""
    op.contract = lambda *terms: None
    return matrix.linear(op)


@pytest.mark.parametrize(
    ("operator", "broken", "names"),
    [
        ("linear", untied, {"proof"}),
        ("layer_norm", shapeless, {"proof", "shapes"}),
        ("linear", uncontracted, {"graph"}),
    ],
)
def test_the_checks_can_fail(monkeypatch, operator, broken, names):
    recipe = Recipe("vector", (("linear", (2,)), ("layer_norm", ()), ("linear", (1,))))
    check(recipe, seeds=(0,))
    monkeypatch.setitem(rules.RULES, operator, broken)
    with pytest.raises(DisagreementError) as caught:
        check(recipe, seeds=(0,))
    assert caught.value.check in names
