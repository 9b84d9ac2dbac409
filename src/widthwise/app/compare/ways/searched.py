"""The searched combination of widths, zeros and bits, from one training along levels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from widthwise.app.compare.bench import Bench
from widthwise.app.compare.method import Made, Method
from widthwise.app.runs.finalists import Recovery
from widthwise.app.runs.postprocessing import TAUGHT_IN_BITS
from widthwise.measure.budget import Budget
from widthwise.measure.evaluation import Evaluation
from widthwise.variants.search import Candidates
from widthwise.variants.search import search as search_for

_VALIDATED: Final = 3_000  # items that trials are judged on


def search(bench: Bench, budget: int) -> Iterator[Made]:
    """The best on validation data of the few best variants of a search along the levels.

    Each of these is trained for as long as a cut in few bits.
    """
    net = bench.net()
    whole = bench.spec.recipe(bench.task)
    recovery = Recovery(
        net,
        bench.task,
        bench.data.train,
        bench.statistics,
        replace(whole, epochs=max(2, round(TAUGHT_IN_BITS * whole.epochs))),
        bench.evaluation("valid"),
        bench.calibrated,
        bench.seed,
    )
    found = search_for(
        net,
        Evaluation(_some(bench), bench.task.metric),
        Budget(budget),
        candidates=Candidates(levels=net.levels, prepare=bench.calibrated, train=recovery.brief),
        trials=bench.spec.trials,
        seed=bench.seed,
    )
    made = recovery.best(found, max_bytes=budget)
    if made is not None:
        yield Made("search", made)


METHODS: Final = (
    Method(
        "search",
        "search",
        "search",
        "widths, zeros and bits searched, post-processed",
        search,
        "family",
    ),
)


def _some(bench: Bench) -> list[Any]:
    """The first batches of the validation data."""
    batches: list[Any] = []
    items = 0
    for batch in bench.evaluation("valid").again():
        batches.append(batch)
        items += len(batch[1])
        if items >= _VALIDATED:
            break
    return batches
