"""Programs put together at random: each Elastic is its program, or is refused in a sentence.

A few here; `bench/random_programs.py` runs thousands.
"""

import random

import pytest
import torch
from bench.conformance import verdicts

import widthwise as ww
from random_nets import PROGRAM_STEPS, Recipe, build, generate
from random_nets.agreement import agree
from widthwise.elastic.engine import Engine

pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")

# One of each kind, alone: (source, step, numbers).
ALONE = (
    ("vector", "size_branch", (0,)), ("signal", "size_branch", (1,)),
    ("signal", "size_branch", (4,)), ("vector", "size_branch", (6,)),
    ("signal", "size_branch", (8,)), ("vector", "size_branch", (9,)),
    ("vector", "without_gradients", (0, 1)), ("vector", "without_gradients", (0, 2)),
    ("image", "without_gradients", (1,)), ("vector", "without_gradients", (7,)),
    ("vector", "checkpointed", (0,)), ("image", "checkpointed", (3,)),
    ("vector", "shared_norm", (1, 0)),
    ("vector", "shared_norm", (0, 0)), ("image", "shared_norm", (1, 0)),
    ("vector", "own_function", (2,)), ("tokens", "own_function", (0, 2)),
    ("vector", "hooked", (0,)), ("vector", "hooked", (3,)), ("signal", "in_place", (3, 0, 1)),
    ("vector", "written_state", (1,)), ("vector", "written_state", (2,)),
    ("image", "written_state", (4,)), ("vector", "written_state", (5,)),
    ("signal", "written_state", (6,)),
    ("vector", "noise", (2,)), ("vector", "optional", (0,)),
)  # fmt: skip
RANDOM = range(7)  # seeds


@pytest.mark.sample(6)
@pytest.mark.parametrize(("source", "step", "numbers"), ALONE)
def test_a_step_agrees_alone(source, step, numbers):
    found = agree(Recipe(source, ((step, numbers),)))
    assert found.findings
    assert found.wrong == ()


@pytest.mark.sample(2)
@pytest.mark.parametrize("seed", RANDOM)
def test_a_random_program_agrees(seed):
    assert agree(generate(random.Random(seed).choice, 3, programs=True)).wrong == ()


def test_every_step_of_programs_is_used_and_most_programs_run():
    used, failed = set(), 0
    for seed in range(150):
        recipe = generate(random.Random(seed).choice, 4, programs=True)
        used |= {name for name, _ in recipe.steps}
        model, args = build(recipe)
        try:
            model(*args)
        except RuntimeError:
            failed += 1
    assert used >= set(PROGRAM_STEPS["image"])
    assert failed < 10


def test_a_program_that_itself_fails_is_left_out():
    recipe = Recipe("vector", (("activation", (2,)), ("in_place", (1, 2))))
    assert agree(recipe).findings == ()


def test_a_wrong_capture_is_seen(monkeypatch):
    recipe = Recipe("vector", (("activation", (2,)), ("optional", (0,))))
    right = ww.Elastic.forward

    def wrong(self, *args, **kwargs):
        y = right(self, *args, **kwargs)
        return y + y - y.detach()

    monkeypatch.setattr(ww.Elastic, "forward", wrong)
    first = agree(recipe).wrong[0]
    assert (first.check, first.verdict) == ("evaluation", verdicts.DIFFERENT)
    assert "gradient of" in first.text


def test_a_wrong_cut_is_seen(monkeypatch):
    recipe = Recipe("vector", (("linear", (2,)),))
    assert agree(recipe).wrong == ()
    right = Engine.cut

    def wrong(self, widths, **options):
        module, patches, reason = right(self, widths, **options)
        with torch.no_grad():
            next(module.parameters()).mul_(1.01)
        return module, patches, reason

    monkeypatch.setattr(Engine, "cut", wrong)
    assert {f.check.split()[0] for f in agree(recipe).wrong} == {"cut"}
