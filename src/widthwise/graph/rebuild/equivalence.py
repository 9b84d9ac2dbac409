"""Whether a module computes what a cut graph computes: never assumed, always tried.

Both run on the example with random weights in the place of the user's, for small or zero ones
would hide a difference. A small difference could still drown in rounding (a scale that is slightly
off, where little of the signal passes), so in the end both must call the same operators on the same
arguments, or agree in double precision.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode

from widthwise.graph.capture.preflight import twin
from widthwise.graph.capture.program import Program, quietly
from widthwise.graph.capture.recorder import recorded
from widthwise.graph.proof import in_double, random_like
from widthwise.graph.relate import Relations

DOUBLE = 1e-11  # relative difference in double precision; right classes stay below 1e-13
LARGE = 65_536  # numbers in an example above which one row of it serves for the check


@dataclass(frozen=True)
class Outcome:
    """What came of a try: problem is None where the module computes the same.

    calls: module calls that were finished. stack: the modules that were running when it failed.
    """

    problem: str | None
    calls: int
    stack: tuple[nn.Module, ...]


class Reference:
    """What the cut graph computes; used as a context, in which its tensors hold random values.

    evaluation: the cut graph of evaluation mode; training: its training mode, None where the
    same operators serve both modes, so that one mode tells for both.
    """

    def __init__(
        self, relations: Relations, evaluation: fx.GraphModule, training: fx.GraphModule | None
    ) -> None:
        program = relations.programs[-1].program
        self.call: Any = pytree.tree_unflatten(_few_rows(program), program.in_spec)
        self.graphs = [evaluation] if training is None else [evaluation, training]
        self.constants = {name for r in relations.programs for name in r.program.constants}
        self.wanted: list[_Ran] = []
        self.known: dict[Any, int] = {}  # of the recordings, which are compared
        # Without weights there are no numbers to compare, only what is called on what.
        self.without_values = any(t.is_meta for t in _tensors(evaluation).values())

    def __enter__(self) -> Reference:
        self._saved: list[tuple[Tensor, Tensor]] = []
        if not self.without_values:
            self._saved = _randomised(self.graphs[0], self.constants)
            self.wanted = [self._recorded(graph) for graph in self.graphs]
        return self

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for tensor, value in self._saved:
                tensor.copy_(value)

    def differs(self, module: nn.Module) -> str | None:
        """How the module differs from the cut graph, or None; its mode may be changed."""
        return self.compare(module).problem

    def compare(self, module: nn.Module) -> Outcome:
        """Run the module on the cut graph's tensors, which it must hold, and compare.

        It is a twin that runs: some models keep what they computed, here from random weights.
        """
        outcome = Outcome(None, 0, ())
        module = twin(module)
        if self.without_values:
            for training, graph in zip((False, True), self.graphs, strict=False):
                outcome = _compared_without_values(module.train(training), graph, self.call)
                if outcome.problem is not None:
                    break
            return outcome
        for training, graph, wanted in zip((False, True), self.graphs, self.wanted, strict=False):
            outcome = _compared(module.train(training), self.call, wanted.outputs)
            if outcome.problem is None and not (
                self._calls_the_same(module, wanted) or _same_numbers(module, graph, self.call)
            ):
                outcome = Outcome(_ANOTHER, outcome.calls, ())
            if outcome.problem is not None:
                break
        return outcome

    def _calls_the_same(self, module: nn.Module, wanted: _Ran) -> bool:
        """Whether the module calls the graph's operators; False where it cannot be told."""
        if wanted.record is None:
            return False
        try:
            return bool(self._recorded(twin(module)).record == wanted.record)
        except Exception:  # noqa: BLE001 - the user's code runs inside
            return False

    def _recorded(self, module: nn.Module) -> _Ran:
        """Run a module that holds the cut graph's tensors."""
        state = {name: t for graph in self.graphs for name, t in _tensors(graph).items()}
        records: list[Any] = []

        def run(*args: Any, **kwargs: Any) -> Any:
            call = (args, kwargs)
            out, record = recorded(self.known, state, call, lambda: module(*args, **kwargs))
            records.append(record)
            return out

        return _Ran(_run(module, self.call, run), records[0])


@dataclass(frozen=True)
class _Ran:
    """What a module gave, and what `recorded` says of it."""

    outputs: list[Tensor]
    record: Any


def _compared(module: nn.Module, call: Any, wanted: list[Tensor]) -> Outcome:
    seen = _Calls()
    try:
        with seen.watched():
            found = _run(module, call)
    except Exception as error:  # noqa: BLE001 - the user's code runs inside
        text = (str(error).splitlines() or [type(error).__name__])[0][:160].rstrip(".")
        problem = f"its code does not run at these sizes ({text})"
        return Outcome(problem, seen.finished, tuple(seen.stack))
    same = _close(found, wanted)
    return Outcome(None if same else _ANOTHER, seen.finished + 1, ())


def _compared_without_values(module: nn.Module, graph: fx.GraphModule, call: Any) -> Outcome:
    """Compare operators alone, as is all that can be done with models on the meta device."""
    seen = _Calls()
    try:
        with seen.watched(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            held = _tensors(module)
            made = {id(t): mode.from_tensor(t.detach()) for t in held.values()}  # tied ones once
            fakes: dict[str, Tensor] = {name: made[id(t)] for name, t in held.items()}
            _calling(module, fakes, pytree.tree_map_only(Tensor, mode.from_tensor, call))()
    except Exception as error:  # noqa: BLE001 - the user's code runs inside
        text = (str(error).splitlines() or [type(error).__name__])[0][:160].rstrip(".")
        problem = f"its code does not run at these sizes ({text})"
        return Outcome(problem, seen.finished, tuple(seen.stack))
    same = _same_without_values(module, graph, call)
    return Outcome(None if same else _ANOTHER, seen.finished + 1, ())


_ANOTHER = "its code computes something else at these sizes"


def _same_without_values(module: nn.Module, graph: fx.GraphModule, call: Any) -> bool:
    """Whether both call the same operators on the same arguments; False where it cannot be told."""
    known: dict[Any, int] = {}
    names = {id(t): n for n, t in _tensors(graph).items()}
    try:
        with quietly(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fakes: dict[int, Tensor] = {
                id(t): mode.from_tensor(t.detach()) for t in _tensors(graph).values()
            }
            inputs = pytree.tree_map_only(Tensor, mode.from_tensor, call)
            found = []
            for each in (twin(module), graph):
                mine: dict[str, Tensor] = {
                    n: fakes[id(t)] for n, t in _tensors(each).items() if id(t) in fakes
                }
                shared: dict[str, Tensor] = {names[key]: fake for key, fake in fakes.items()}
                found.append(recorded(known, shared, inputs, _calling(each, mine, inputs))[1])
    except Exception:  # noqa: BLE001 - the user's code runs inside
        return False
    return found[0] is not None and bool(found[0] == found[1])


def _calling(module: nn.Module, tensors: dict[str, Tensor], call: Any) -> Callable[[], Any]:
    return lambda: torch.func.functional_call(module, tensors, *call)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _same_numbers(module: nn.Module, graph: fx.GraphModule, call: Any) -> bool:
    """Whether both agree in double precision, in which a wrong scale stands far above rounding."""
    wide = pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, call)
    memo: dict[int, Any] = {}
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        mine = copy.deepcopy(module, memo).double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch's, of how it copies graphs
            its: Any = copy.deepcopy(graph, memo).double()
        found = _run(mine, wide)
        if any(t.is_floating_point() and not t.isfinite().any() for t in found):
            return False  # not a number would hide any difference
        # The graph names dtypes outright; the class may do so too, or take its input's.
        if _close(found, _run(its, wide), DOUBLE, DOUBLE):
            return True
        for node in its.graph.nodes:
            node.args = fx.node.map_aggregate(node.args, in_double)
            node.kwargs = fx.node.map_aggregate(node.kwargs, in_double)
        its.recompile()
        return _close(found, _run(its, wide), DOUBLE, DOUBLE)
    except Exception:  # noqa: BLE001 - the user's code runs inside, and may insist on its dtype
        return False
    finally:
        torch.set_default_dtype(usual)


class _Calls:
    """Which modules are running, and how many have finished."""

    def __init__(self) -> None:
        self.finished = 0
        self.stack: list[nn.Module] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        hooks = nn.modules.module
        handles = [
            hooks.register_module_forward_pre_hook(self._begins),
            hooks.register_module_forward_hook(self._ends),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begins(self, module: nn.Module, args: Any) -> None:
        self.stack.append(module)

    def _ends(self, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop()
        self.finished += 1


def _randomised(module: nn.Module, constants: set[str]) -> list[tuple[Tensor, Tensor]]:
    """Put random values into the module's tensors; returns each with a copy of what it held.

    Constants stay: what a model makes while it runs, it makes again.
    """
    named = [*module.named_parameters(), *module.named_buffers()]
    held = [
        t
        for n, t in named
        if t.is_floating_point() and t.layout is torch.strided and n not in constants
    ]
    saved = [(t, t.detach().clone()) for t in held]
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for t in held:
            t.copy_(random_like(t, g))
    return saved


def _few_rows(program: Program) -> list[Any]:
    """The example; of a large one, a single row, which is as good a check and takes less time."""
    if sum(x.numel() for x in program.example if isinstance(x, Tensor)) < LARGE:
        return program.example
    sizes: dict[str, Any] = {
        n.name: program.sizes.get(n) for n in program.graph.find_nodes(op="placeholder")
    }
    batched = [sizes[name][:1] for name in program.inputs if isinstance(sizes[name], list)]
    if any(b != batched[0] or b[0] not in program.dynamic for b in batched):
        return program.example
    return [x[:1] if isinstance(x, Tensor) else x for x in program.example]


def _run(module: nn.Module, call: Any, run: Callable[..., Any] | None = None) -> list[Tensor]:
    """The tensors that a module gives, or `run`, which calls it; its buffers stay as they are."""
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    args, kwargs = call
    with quietly(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            out = (run or module)(*args, **kwargs)
        finally:
            for name, b in module.named_buffers():
                if name in buffers:
                    b.copy_(buffers[name])
    return [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor)]


def _close(
    mine: list[Tensor], theirs: list[Tensor], relative: float = 1e-4, absolute: float = 1e-5
) -> bool:
    return len(mine) == len(theirs) and all(
        a.shape == b.shape
        and torch.allclose(a, b, rtol=relative, atol=absolute * _largest(b), equal_nan=True)
        for a, b in zip(mine, theirs, strict=True)
    )


def _largest(value: Tensor) -> float:
    """The largest finite magnitude of a float tensor; 0 for others."""
    finite = value[value.isfinite()] if value.is_floating_point() else value[:0].flatten()
    return float(finite.abs().max()) if finite.numel() else 0.0
