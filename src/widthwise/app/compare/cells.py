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
from widthwise.app.compare.methods import METHODS
from widthwise.app.compare.outcome import Outcome
from widthwise.app.compare.spec import Spec
from widthwise.app.compare.ways import family, from_trained, from_training, quantized, searched
from widthwise.app.compare.ways.made import Made
from widthwise.elastic.network import GraphModuleWarning, NothingToCutWarning
from widthwise.errors import BudgetError, QuantizationError, ScoreError, WidthError
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
        for group in groups:
            each = [spec.budgets] if fixed(group) else [(budget,) for budget in spec.budgets]
            found += [Unit(group, budgets, seed) for budgets in each]
    return found


def fixed(group: str) -> bool:
    """Whether its networks are of certain sizes, whatever the budget."""
    return any(m.group == group and m.family == "bits" for m in METHODS.values())


def measure(spec: Spec, unit: Unit, base: Base) -> list[Outcome]:
    """The outcomes of all methods of a unit, whether they are asked for or not.

    Raises TaskError, DataError, CaptureError, TrainingError, FileError.
    """
    with warnings.catch_warnings(), own_randomness():
        warnings.simplefilter("ignore", GraphModuleWarning)
        warnings.simplefilter("ignore", NothingToCutWarning)
        bench = Bench(spec, unit.seed, base)
        return _fixed(bench, unit) if fixed(unit.group) else _fitting(bench, unit)


def _fitting(bench: Bench, unit: Unit) -> list[Outcome]:
    (budget,) = unit.budgets
    found: dict[str, Outcome] = {}
    began = time.process_time()
    try:
        for made in _made(bench, unit.group, budget):
            seconds = time.process_time() - began
            assert made.applied.bytes <= budget, "made too large"
            found[made.method] = bench.outcome(
                made.method, budget, made.applied, note_of(made.applied), seconds
            )
            began = time.process_time()
    except (BudgetError, ScoreError, WidthError, QuantizationError) as error:
        why = str(error)
    else:
        why = "It has no network of so few bytes."
    names = [m.name for m in METHODS.values() if m.group == unit.group]
    return [found.get(n) or Outcome(n, budget, unit.seed, False, note=why) for n in names]


def _made(bench: Bench, group: str, budget: int) -> Iterator[Made]:
    kind, _, detail = group.partition(" ")
    if kind in ("elastic", "published"):
        return from_trained.cuts(bench, group, budget)
    if kind == "family":
        return family.cuts(bench, group, budget)
    if kind == "small-dense":
        return from_training.small_dense(bench, group, budget)
    if kind == "neurons":
        return from_trained.neurons(bench, detail, budget)
    if kind == "weights":
        return from_trained.weights(bench, detail, budget)
    if kind == "gradual":
        return from_training.gradual(bench, group, budget)
    return searched.search(bench, budget)


def _fixed(bench: Bench, unit: Unit) -> list[Outcome]:
    """Networks of certain sizes: for every budget the best that fits, by validation data."""
    whole = max(unit.budgets)
    found: dict[str, list[Outcome]] = {}
    began = time.process_time()
    for made in quantized.all_sizes(bench, unit.group):
        seconds = time.process_time() - began
        outcome = bench.outcome(made.method, whole, made.applied, note_of(made.applied), seconds)
        found.setdefault(made.method, []).append(outcome)
        began = time.process_time()
    names = [m.name for m in METHODS.values() if m.group == unit.group]
    return [
        outcome for name in names for outcome in _by_budget(bench, name, unit, found.get(name, []))
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
