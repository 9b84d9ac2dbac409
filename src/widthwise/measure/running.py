"""A metric of several networks over the same batches, whatever the size of these.

    measured(metric, batches, 3)        # [0.91, 0.88, 0.71]

`batches` is gone through once, or a second time where the metric turns out to need all outputs at
once: a mean of F1 scores of batches is not the F1 score.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
import torch.distributed as dist
import torch.utils._pytree as pytree
from torch import Tensor, nn

from widthwise.errors import TrainingError
from widthwise.graph.sharded import summed
from widthwise.measure import scikit
from widthwise.measure.metric import Metric, Stateful
from widthwise.measure.pairs import needing

Batches = Callable[[], Iterable[tuple[Iterable[Any], Any]]]
"""() -> for each batch: the outputs of each network, and the target."""

_HELD: Final = 64  # sums that wait on a device
_APART: Final = 1e-3  # relative difference of sums that agree: rounding is less


def measured(metric: Metric, batches: Batches, number: int, several: bool = False) -> list[float]:
    """The metric of each of `number` networks; [] where there is no batch.

    several: each process of torch.distributed has batches of its own, and all get the metric of
    all. Raises TrainingError, ValueError for a metric that does not fit.
    """
    for kind in (_Collected,) if metric.whole else (_kind(metric), _Collected):
        tally = kind(metric, number)
        for outputs, target in batches():
            for i, out in enumerate(outputs):
                with needing(target, f"the metric {metric.name}"):
                    tally.add(i, *metric.read(out, target))
                if tally.unfit:
                    break
            if tally.unfit:
                break
        tally.seal()
        if not _any(tally.unfit, several):
            break
    if not _any(not tally.empty, several):
        return []
    return [_number(metric, value) for value in tally.values(several)]


def _any(condition: bool, several: bool) -> bool:
    """Whether it is so in any process."""
    return bool(summed(torch.tensor(int(condition)))) if several else condition


def _kind(metric: Metric) -> type[_Tally]:
    return _States if isinstance(metric.batch, Stateful) else _Sums


def _number(metric: Metric, value: Any) -> float:
    try:
        found = metric.finish(value)
    except OverflowError:
        return math.inf
    if isinstance(found, Tensor) and found.numel() == 1:
        found = found.item()
    try:
        return float(found)
    except (TypeError, ValueError):
        raise TrainingError(
            f"The metric {metric.name!r} came to {_told(found)}; let it give one number."
        ) from None


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"a {type(value).__name__}"


class _Tally(ABC):
    """What is known of the batches so far."""

    def __init__(self, metric: Metric, number: int) -> None:
        self.metric, self.number = metric, number
        self.unfit = False  # whether this cannot give the metric of the whole
        self.empty = True

    @abstractmethod
    def add(self, which: int, outputs: Any, target: Any) -> None:
        """Take in a batch of one network."""

    def seal(self) -> None:  # noqa: B027  most have nothing to do
        """There are no more batches."""

    @abstractmethod
    def values(self, several: bool) -> list[Any]:
        """For each network, what `finish` is given."""


class _Sums(_Tally):
    """Sums and counts."""

    def __init__(self, metric: Metric, number: int) -> None:
        super().__init__(metric, number)
        self.held: list[list[tuple[Any, Any]]] = [[] for _ in range(number)]
        self.totals: list[Any] = [0.0] * number
        self.counts = [0.0] * number

    def add(self, which: int, outputs: Any, target: Any) -> None:
        """See `_Tally.add`."""
        pair = _pair(self.metric.batch(outputs, target))
        if pair is None:
            self.unfit = True
            return
        if which == 0 and self.metric.additive is None:
            self.unfit = not self._adds_up(pair, outputs, target)
        self.empty = False
        self.held[which].append(pair)
        if len(self.held[which]) == _HELD:
            self._settle(which)

    def values(self, several: bool) -> list[Any]:
        """See `_Tally.values`."""
        for which in range(self.number):
            self._settle(which)
        totals = torch.stack(
            [torch.as_tensor(t, dtype=torch.float64) for t in self._alike(several)]
        )
        counts = torch.tensor(self.counts, dtype=torch.float64)
        if several:
            totals, counts = summed(totals), summed(counts)
        if totals.dim() > 1:
            return [t / c for t, c in zip(totals, counts, strict=True)]
        pairs = zip(totals.tolist(), counts.tolist(), strict=True)
        return [total / count if count else math.nan for total, count in pairs]

    def _alike(self, several: bool) -> list[Any]:
        """The totals; processes without a batch do not know that they are vectors."""
        if not several:
            return self.totals
        entries = torch.as_tensor(self.totals[0]).numel()
        most = torch.tensor(entries)
        dist_most = int(_largest(most))
        if dist_most == entries:
            return self.totals
        return [torch.zeros(dist_most, dtype=torch.float64) for _ in self.totals]

    def _settle(self, which: int) -> None:
        sums = [s for s, _ in self.held[which]]
        for total in _double(sums):
            self.totals[which] = self.totals[which] + total
        self.counts[which] += sum(float(c) for _, c in self.held[which])
        self.held[which] = []

    def _adds_up(self, pair: tuple[Any, Any], outputs: Any, target: Any) -> bool:
        """Whether two parts of a batch, of different sizes, give what the batch gives."""
        parts = _parts((outputs, target))
        if parts is None:
            return True
        found = [_pair(self.metric.batch(*part)) for part in parts]
        if any(p is None for p in found):
            return False
        sums = [torch.as_tensor(p[0]).detach().double().cpu() for p in found if p is not None]
        counts = [float(p[1]) for p in found if p is not None]
        whole = torch.as_tensor(pair[0]).detach().double().cpu()
        near = torch.allclose(sum(sums), whole, rtol=_APART, atol=1e-6, equal_nan=True)  # type: ignore[arg-type]
        return near and math.isclose(sum(counts), float(pair[1]), rel_tol=_APART)


def _largest(value: Tensor) -> Tensor:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, int(value))
    return torch.tensor(max(found))


def _pair(value: Any) -> tuple[Any, Any] | None:
    """A sum and a count, None for anything else."""
    if not (isinstance(value, tuple | list) and len(value) == 2):
        return None
    total, count = value
    return (total.detach() if isinstance(total, Tensor) else total), count


def _double(sums: list[Any]) -> Iterable[Any]:
    """Numbers in float64, in one transfer where they are on a device."""
    if sums and all(isinstance(s, Tensor) for s in sums) and len({s.shape for s in sums}) == 1:
        stacked = torch.stack(sums).cpu().double()
        return stacked.tolist() if stacked.dim() == 1 else list(stacked)
    return [s.cpu().double() if isinstance(s, Tensor) and s.dim() else float(s) for s in sums]


def _parts(batch: Any) -> tuple[Any, Any] | None:
    """The first third of a batch and the rest; None where it cannot be divided."""
    leaves, spec = pytree.tree_flatten(batch)
    tensors = [t for t in leaves if isinstance(t, Tensor)]
    if len(tensors) != len(leaves) or any(t.dim() == 0 for t in tensors):
        return None
    sizes = {len(t) for t in tensors}
    if len(sizes) != 1 or (size := sizes.pop()) < 2:
        return None
    at = max(1, size // 3)
    first, rest = ([t[:at] for t in leaves], [t[at:] for t in leaves])
    return pytree.tree_unflatten(first, spec), pytree.tree_unflatten(rest, spec)


class _States(_Tally):
    """A copy of an object with `update` and `compute` for each network."""

    def __init__(self, metric: Metric, number: int) -> None:
        super().__init__(metric, number)
        self.states = [fresh(metric.batch) for _ in range(number)]
        self.guesses = _guesses(metric.batch)
        self.within: list[Tensor] = []  # whether the predictions of a batch lie in [0, 1]

    def add(self, which: int, outputs: Any, target: Any) -> None:
        """See `_Tally.add`."""
        self.empty = False
        if self.guesses and isinstance(outputs, Tensor) and outputs.is_floating_point():
            self.within.append(((outputs >= 0) & (outputs <= 1)).all())
        state = self.states[which]
        if isinstance(state, nn.Module) and isinstance(outputs, Tensor):
            state.to(outputs.device)
        state.update(outputs, target)

    def seal(self) -> None:
        """See `_Tally.seal`."""
        if self.within:
            found = torch.stack(self.within)
            # Of logits that happen to lie in [0, 1] torchmetrics makes no probabilities.
            self.unfit = bool(found.any()) and not bool(found.all())

    def values(self, several: bool) -> list[Any]:
        """See `_Tally.values`."""
        return [computed(state, several) for state in self.states]


def fresh(state: Any) -> Any:
    """A copy of a stateful metric that has seen nothing."""
    made = copy.deepcopy(state)
    made.reset()
    return made


def computed(state: Any, several: bool) -> Any:
    """The value of a stateful metric; of all processes where it can talk to them, else refused."""
    parts = list(state.modules()) if isinstance(state, nn.Module) else [state]
    able = [p for p in parts if hasattr(p, "distributed_available_fn")]
    if several and not able:
        raise TrainingError(
            f"{type(state).__name__} cannot add up what several processes have seen; use an object "
            "of torchmetrics, or a function of (outputs, target)."
        )
    for part in able:
        part.distributed_available_fn = (lambda: True) if several else (lambda: False)
    return state.compute()


def _guesses(state: Any) -> bool:
    """Whether a metric tells logits from probabilities by their range, batch by batch."""
    parts = state.modules() if isinstance(state, nn.Module) else ()
    return any("torchmetrics.classification" in type(p).__module__ for p in parts)


class _Collected(_Tally):
    """All outputs, on the CPU."""

    def __init__(self, metric: Metric, number: int) -> None:
        super().__init__(metric, number)
        self.outputs: list[list[Any]] = [[] for _ in range(number)]
        self.targets: list[list[Any]] = [[] for _ in range(number)]

    def add(self, which: int, outputs: Any, target: Any) -> None:
        """See `_Tally.add`."""
        self.empty = False
        self.outputs[which].append(_on_cpu(outputs))
        same = self.targets[0][-1] if which and self.metric.reads is None else None
        self.targets[which].append(_on_cpu(target) if same is None else same)

    def values(self, several: bool) -> list[Any]:
        """See `_Tally.values`."""
        return [self._value(i, several) for i in range(self.number)]

    def _value(self, which: int, several: bool) -> Any:
        outputs, targets = self.outputs[which], self.targets[which]
        if several:
            outputs, targets = _gathered(outputs), _gathered(targets)
        out, target = self._joined(outputs), self._joined(targets)
        return whole_value(self.metric, out, target)

    def _joined(self, parts: list[Any]) -> Any:
        try:
            return _joined(parts)
        except (RuntimeError, ValueError):
            raise TrainingError(
                f"The metric {self.metric.name!r} needs all outputs at once, but their "
                "shapes differ between batches; let it give (sum, count) of a batch, or be an "
                "object with update() and compute()."
            ) from None


def whole_value(metric: Metric, outputs: Any, target: Any) -> Any:
    """What `finish` is given, of all outputs at once."""
    if scikit.is_one(metric.batch):
        return scikit.value(metric.batch, outputs, target)
    if isinstance(metric.batch, Stateful):
        state = fresh(metric.batch)
        if isinstance(state, nn.Module):
            state.cpu()
        state.update(outputs, target)
        return computed(state, False)
    found = metric.batch(outputs, target)
    pair = _pair(found)
    if pair is None:
        return found
    total, count = pair
    return (total if isinstance(total, Tensor) and total.dim() else float(total)) / count


def _on_cpu(value: Any) -> Any:
    return pytree.tree_map_only(Tensor, lambda t: t.detach().cpu(), value)


def _gathered(parts: list[Any]) -> list[Any]:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, parts)
    return [part for some in found for part in some]


def _joined(parts: list[Any]) -> Any:
    """Batches as one: tensors are concatenated along dim 0, lists of anything else joined."""
    if all(isinstance(p, list) and not any(isinstance(x, Tensor) for x in p) for p in parts):
        return [item for part in parts for item in part]
    leaves = [pytree.tree_flatten(part) for part in parts]
    (_, spec), *_ = leaves
    if any(other != spec for _, other in leaves):
        raise ValueError("The parts differ in form.")
    columns = zip(*(flat for flat, _ in leaves), strict=True)
    return pytree.tree_unflatten([_column(list(column)) for column in columns], spec)


def _column(values: list[Any]) -> Any:
    if all(isinstance(v, Tensor) for v in values):
        return torch.stack(values) if values[0].dim() == 0 else torch.cat(values)
    return values[0] if all(v is None for v in values) else values
