"""An Elastic made of a random program is the program, or is refused in one sentence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from bench.conformance import verdicts
from bench.conformance.cuts import cuts, ordering, stored
from bench.conformance.networks import full_width
from bench.conformance.subject import Subject, capture, double, quietly
from bench.conformance.verdicts import Finding

from random_nets import RandomNet, Recipe, build


@dataclass(frozen=True)
class Agreement:
    """findings: all that was checked; empty where the program itself fails on its example."""

    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """What differs from the model, or raises something that is no refusal."""
        return tuple(f for f in self.findings if f.verdict in verdicts.WRONG)

    @property
    def refused(self) -> str:
        """Why the program cannot be captured; empty where it was."""
        first = next(iter(self.findings), None)
        return first.text if first is not None and first.verdict == verdicts.REFUSED else ""


def agree(recipe: Recipe) -> Agreement:
    """Hold the Elastic of a recipe's network against the network itself."""
    with double():
        model, args = _built(recipe)
        if any(quietly(model.train(t), model, args, {}).error for t in (True, False)):
            return Agreement(())
        subject, traced = capture(lambda: (*_built(recipe), {}), fresh=True)
        if subject is None:
            return Agreement((traced,))
        return Agreement((traced, *full_width(subject), *_of_cuts(subject, recipe)))


def _built(recipe: Recipe) -> tuple[RandomNet, tuple[torch.Tensor]]:
    model, (x,) = build(recipe)
    return model.double(), (x.double() if x.is_floating_point() else x,)


def _of_cuts(subject: Subject, recipe: Recipe) -> list[Finding]:
    found = list(cuts(subject))
    if subject.net.free:
        found += [ordering(subject), stored(subject, lambda: _built(recipe)[0])]
    return found
