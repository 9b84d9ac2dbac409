"""One unit of a comparison: the methods of a group, at one budget, for one seed.

    outcomes = measure(spec, Unit("weights obd", (10_000,), seed=0), base)

Choices are made on validation data, or on none; the test data are looked at once, by the network
that was read back from its file. A method that cannot be as small gives an outcome that says so.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from widthwise.app.compare.bases import Base
from widthwise.app.compare.bench import Bench
from widthwise.app.compare.method import Made, Method
from widthwise.app.compare.methods import group
from widthwise.app.compare.outcome import Outcome
from widthwise.app.compare.spec import Spec
from widthwise.elastic.network import GraphModuleWarning, NothingToCutWarning
from widthwise.errors import BudgetError, QuantizationError, RunError, ScoreError, WidthError
from widthwise.train.batches import own_randomness
from widthwise.variants import CompressedModel


@dataclass(frozen=True)
class Unit:
    """What is measured together. budgets: one; of methods of fixed sizes, all."""

    group: str
    budgets: tuple[int, ...]
    seed: int

    @property
    def name(self) -> str:
        """For its file."""
        sizes = "+".join(map(str, self.budgets))
        return f"{self.group.replace(' ', '-')}-{sizes}-{self.seed}"


def units(spec: Spec, groups: Sequence[str]) -> list[Unit]:
    """All that a comparison consists of, seed by seed."""
    found = []
    for seed in range(spec.seeds):
        for name in groups:
            fixed = group(name)[0].fixed
            each = [spec.budgets] if fixed else [(budget,) for budget in spec.budgets]
            found += [Unit(name, budgets, seed) for budgets in each]
    return found


def measure(spec: Spec, unit: Unit, base: Base) -> list[Outcome]:
    """The outcomes of all methods of a unit, whether they are asked for or not.

    Raises TaskError, DataError, CaptureError, TrainingError, FileError, and RunError for a network
    that a method should not have made.
    """
    with warnings.catch_warnings(), own_randomness():
        warnings.simplefilter("ignore", GraphModuleWarning)
        warnings.simplefilter("ignore", NothingToCutWarning)
        bench = Bench(spec, unit.seed, base)  # which imports the task, that may register methods
        methods = group(unit.group)
        how = _fixed if methods[0].fixed else _fitting
        return how(bench, unit, methods)


def _fitting(bench: Bench, unit: Unit, methods: Sequence[Method]) -> list[Outcome]:
    (budget,) = unit.budgets
    found: dict[str, Outcome] = {}
    try:
        for made, seconds in _made(bench, methods, budget):
            if made.applied.bytes > budget:
                raise RunError(
                    f"The method {made.method!r} made a network of {made.applied.bytes:,} bytes "
                    f"for a budget of {budget:,}; let it make none that is larger."
                )
            found[made.method] = _outcome(bench, made, budget, seconds)
    except (BudgetError, ScoreError, WidthError, QuantizationError) as error:
        why = str(error)
    else:
        why = "It has no network of so few bytes."
    names = [method.name for method in methods]
    return [found.get(n) or Outcome(n, budget, unit.seed, False, note=why) for n in names]


def _made(bench: Bench, methods: Sequence[Method], budget: int) -> Iterator[tuple[Made, float]]:
    """The networks of a group, each with the seconds by the processor that it took to make."""
    names = [method.name for method in methods]
    began = time.process_time()
    for made in methods[0].make(bench, budget):
        seconds = time.process_time() - began
        if made.method not in names:
            raise RunError(
                f"The methods {', '.join(names)} made a network of {made.method!r}; give it the "
                "name of one of them."
            )
        yield made, seconds
        began = time.process_time()  # what the measurement took is not counted


def _outcome(bench: Bench, made: Made, budget: int, seconds: float) -> Outcome:
    return bench.outcome(made.method, budget, made.applied, note_of(made.applied), seconds)


def _fixed(bench: Bench, unit: Unit, methods: Sequence[Method]) -> list[Outcome]:
    """Networks of certain sizes: for every budget the best that fits, by validation data."""
    whole = max(unit.budgets)
    found: dict[str, list[Outcome]] = {}
    for made, seconds in _made(bench, methods, whole):
        found.setdefault(made.method, []).append(_outcome(bench, made, whole, seconds))
    return [
        outcome
        for method in methods
        for outcome in _by_budget(bench, method.name, unit, found.get(method.name, []))
    ]


def _by_budget(bench: Bench, name: str, unit: Unit, made: Sequence[Outcome]) -> Iterator[Outcome]:
    counted: set[int] = set()
    for budget in unit.budgets:
        best: Outcome | None = None
        for outcome in made:
            fits = outcome.bytes <= budget
            if fits and (
                best is None or bench.better(outcome.metric["valid"], best.metric["valid"])
            ):
                best = outcome
        if best is None:
            smallest = min((o.bytes for o in made), default=0)
            why = f"Its smallest network takes {smallest:,} bytes."
            yield Outcome(name, budget, unit.seed, False, note=why)
            continue
        # What was spent on one network is counted once.
        spent = 0.0 if best.bytes in counted else best.own_seconds
        counted.add(best.bytes)
        yield Outcome(**{**best.to_dict(), "budget": budget, "own_seconds": spent})


def note_of(made: CompressedModel) -> str:
    """What a network is, in a few words."""
    variant = made.variant
    full = made.cut.manifest.sizes
    cut = [f"{name} {w}" for name, w in variant.widths.items() if w != full.get(name)]
    parts = [", ".join(cut[:6]) + (f" and {len(cut) - 6} more" if len(cut) > 6 else "")]
    if variant.sparsity:
        zeros = sum(int((p == 0).sum()) for p in made.module.parameters())
        parts.append(f"{zeros / sum(p.numel() for p in made.module.parameters()):.1%} zeros")
    forms = dict.fromkeys(_form(form) for form in variant.bits.values())
    parts.append(" and ".join(forms))
    return "; ".join(part for part in parts if part) or "full width"


def _form(form: object) -> str:
    values = getattr(form, "values", None)
    return f"{values} shared values" if values else f"{form.bits} bits"  # type: ignore[attr-defined]
