"""What a method of a comparison is: its name, and the function that makes its networks.

    def half(bench, budget):                       # (Bench, bytes) -> the networks, one by one
        net = bench.net()
        yield Made("half", apply(net, Variant(net.widths(0.5)), prepare=bench.calibrated))

    Method("half", "half", "elastic", "half of every axis", half)

Methods that share work are a group: one function makes the networks of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from widthwise.app.compare.bases import Kind
from widthwise.app.compare.bench import Bench
from widthwise.variants import CompressedModel

Family = Literal[
    "elastic", "small-dense", "neurons", "weights", "gradual pruning", "bits", "search"
]

BITS: Final = (8, 4, 3, 2)  # of the built-in methods that quantize


@dataclass(frozen=True)
class Made:
    """A network that a method made for a budget.

    method: the name of the method. applied: its network, whose file fits.
    """

    method: str
    applied: CompressedModel


Make: TypeAlias = Callable[[Bench, int], Iterator[Made]]


@dataclass(frozen=True)
class Method:
    """One way to a smaller network.

    Methods of a group have the same `make`, `base` and `fixed`.

    Args:
        name: as a comparison's file names it.
        group: what is measured together, since it shares work; the name itself for a method alone.
        family: what it is a kind of, by which pages and pictures show it.
        label: what it is, for a reader.
        make: (bench, budget in bytes) -> the networks of the group that fit, each with the name of
            its method. A BudgetError, ScoreError, WidthError or QuantizationError says why there
            is none.
        base: the training that the networks come from.
        fixed: whether the networks are of certain sizes, whatever the budget: they are made once,
            for the largest budget, and every budget takes the best that fits.
    """

    name: str
    group: str
    family: Family
    label: str
    make: Make
    base: Kind = "plain"
    fixed: bool = False

    @property
    def has_new_weights(self) -> bool:
        """Whether its networks begin with new weights, and share no training."""
        return self.family in ("small-dense", "gradual pruning")
