"""Running statistics belong to a width: they are re-estimated where a network is cut.

The statistics that batch norms gathered at full width do not suit a narrower network (Yu &
Huang, "Universally Slimmable Networks", 2019). Whatever sees data (`fit`, `Evaluation`, `sweep`,
scores) lets the model remember the inputs of some batches; a cut estimates its statistics on them.

    remember(model, (inputs for inputs, target in loader))
    estimate(small, remembered(model))

The inputs lie in a table beside the models, not inside of them: they go when the model goes, and no
file, copy or pickle holds them.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

from widthwise.common.calling import outputs_for
from widthwise.errors import DataError
from widthwise.graph.capture.program import Program

ITEMS: Final = 4_096  # for statistics, and no further batch once there are as many
BYTES: Final = 64_000_000
_JOINED: Final = 64  # rows that come alone, in one batch

Recalibrate = bool | Iterable[tuple[Any, Any]]
"""True: re-estimate on remembered batches, or warn where there are none; batches of (inputs,
target): on these, which are remembered; False: keep the statistics of full width."""

_OPERATORS = (torch.ops.aten.batch_norm.default, torch.ops.aten.instance_norm.default)
_BETWEEN = (str(Path(__file__).parents[1]), str(Path(nn.__file__).parent / "modules" / "module.py"))
_REMEMBERED: WeakKeyDictionary[nn.Module, tuple[Any, ...]] = WeakKeyDictionary()


class StatisticsWarning(UserWarning):
    """A narrower network has the running statistics of full width; the message has the remedy."""


def remember(model: nn.Module, inputs: Iterable[Any]) -> None:
    """Let a model remember the inputs of some batches, in the place of those that it had.

    inputs: of each batch a tensor, a tuple of arguments or a dict. A sequence is kept as it is; of
    anything else, copies on the CPU of the first batches, up to `ITEMS` items or `BYTES` bytes.
    A batch of one row has no variance: such rows are joined where all are alone, else left out.
    Models without running statistics remember nothing, and nothing is then read. Raises DataError
    when there is no batch.
    """
    if not has_statistics(model):
        return
    if not isinstance(inputs, Sequence):
        sample = Sample()
        for each in inputs:
            sample.add(each)
            if sample.full:
                break
        inputs = sample.batches
    if not len(inputs):
        raise _nothing()
    _REMEMBERED[model] = tuple(_several(inputs))


def remembered(model: nn.Module) -> tuple[Any, ...]:
    """The inputs that a model remembers, the first batch first."""
    return _REMEMBERED.get(model, ())


class Sample:
    """Copies on the CPU of some batches' inputs, evenly spaced over all that were added."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self._seen = 0
        self._every = 1

    @property
    def full(self) -> bool:
        """Whether there are enough."""
        tensors = [
            [x for x in pytree.tree_leaves(b) if isinstance(x, Tensor)] for b in self.batches
        ]
        items = sum(xs[0].shape[0] for xs in tensors if xs and xs[0].dim())
        return items >= ITEMS or sum(x.nbytes for xs in tensors for x in xs) >= BYTES

    def add(self, inputs: Any) -> None:
        """Take a batch, or leave it out."""
        if self._seen % self._every == 0:
            if len(self.batches) > 1 and self.full:
                self.batches = self.batches[::2]
                self._every *= 2
            if self._seen % self._every == 0:
                self.batches.append(pytree.tree_map_only(Tensor, _copied, inputs))
        self._seen += 1


def _several(batches: Sequence[Any]) -> Sequence[Any]:
    """The batches of several rows, or batches of one row as batches of several."""
    several = [inputs for inputs in batches if _rows(inputs) != 1]
    if several:
        return several
    flat = [pytree.tree_flatten(inputs) for inputs in batches]
    forms = {(str(spec), *(getattr(x, "shape", x) for x in leaves)) for leaves, spec in flat}
    if len(forms) > 1 or not all(isinstance(x, Tensor) and x.dim() for x in flat[0][0]):
        return batches
    columns = zip(*(leaves for leaves, _ in flat), strict=True)
    pieces = [torch.cat(column).tensor_split(-(-len(flat) // _JOINED)) for column in columns]
    return [pytree.tree_unflatten(leaves, flat[0][1]) for leaves in zip(*pieces, strict=True)]


def _rows(inputs: Any) -> int:
    """The size of the first dim of the first tensor; 0 where there is none."""
    sizes = (len(x) for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor) and x.dim())
    return next(sizes, 0)


def _nothing() -> DataError:
    return DataError(
        "There is no batch to estimate statistics on; give batches that can be gone through "
        "again, such as a DataLoader or a list."
    )


def _copied(x: Tensor) -> Tensor:
    return x.detach().to("cpu", copy=True)


def noted(module: nn.Module) -> tuple[Callable[[Any], Any], Callable[[], None]]:
    """What looks at a pass over data: inputs -> inputs, and the end.

    At the end the module remembers a sample of what was seen, if it remembered nothing before.
    """
    if not has_statistics(module) or remembered(module):
        return (lambda inputs: inputs), (lambda: None)
    sample = Sample()

    def see(inputs: Any) -> Any:
        sample.add(inputs)
        return inputs

    return see, lambda: remember(module, sample.batches) if sample.batches else None


def has_statistics(module: nn.Module) -> bool:
    """Whether the module keeps running statistics that can be re-estimated."""
    if isinstance(module, fx.GraphModule):
        return any(_statistics(node) for node in module.graph.nodes)
    return any(_keeps(m) for m in module.modules())


def estimate(module: nn.Module, inputs: Iterable[Any], only: Collection[str] | None = None) -> None:
    """Estimate the statistics of a cut network in place: their mean over some batches.

    Dropout stays off and no weight changes; the module is left in evaluation mode.
    inputs: of each batch a tensor, a tuple of arguments or a dict. only: names of the running means
    of the layers whose statistics are estimated; None for all of them.

    Raises DataError when there is no batch.
    """
    module.eval()
    graph = isinstance(module, fx.GraphModule)
    gathering = _in_graph(module, only) if graph else _in_layers(module, only)
    device = next((t.device for t in (*module.parameters(), *module.buffers())), None)
    count = 0
    with torch.no_grad(), torch.random.fork_rng([]), gathering as run:
        for each in inputs:
            count += 1
            run(pytree.tree_map_only(Tensor, lambda x: x.to(device), each))
    if not count:
        raise _nothing()


def reestimate_(
    module: nn.Module, model: nn.Module, names: Sequence[str], recalibrate: Recalibrate
) -> nn.Module:
    """The module, with running statistics of its own, where there are data to estimate them on.

    Args:
        module: what was cut from `model`; changed in place.
        model: the full network, which remembers batches.
        names: the running means that are others at the module's widths; none: nothing is done.
        recalibrate: see `Recalibrate`. A StatisticsWarning tells where no batch is remembered.

    Raises:
        DataError: Where `recalibrate` is None or has no batch.
    """
    if recalibrate is None:
        raise DataError("recalibrate is True, False or batches of (inputs, target), not None.")
    if not isinstance(recalibrate, bool):
        given = recalibrate
        pairs: Any = [x for x, _ in given] if isinstance(given, Sequence) else (x for x, _ in given)
        remember(model, pairs)
    if recalibrate is False or not names:
        return module
    inputs = remembered(model)
    if not inputs:
        remedy = "give recalibrate=batches of training data here, or train with fit"
        warnings.warn(no_data(names, remedy), stacklevel=caller())
        return module
    modes = [(m, m.training) for m in module.modules()]
    estimate(module, inputs, names)
    remember(module, inputs)
    for each, training in modes:
        each.training = training
    return module


def no_data(names: Sequence[str], remedy: str) -> StatisticsWarning:
    """For a narrower network whose layers keep the statistics of full width."""
    first = names[0].removesuffix(".running_mean")
    others = f" and of {len(names) - 1} more" if len(names) > 1 else ""
    return StatisticsWarning(
        f"The running statistics of {first}{others} were estimated at full width, with which a "
        f"narrower network is worse than it could be; {remedy}."
    )


def caller() -> int:
    """The stack level, for `warnings.warn`, of the line that called this package.

    Where modules of this package are called, torch's own call of them lies between.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_BETWEEN):
        level, frame = level + 1, frame.f_back
    return level


def of_width(training: Program, evaluation: Program, shared: Collection[fx.Node]) -> list[str]:
    """The running means of the layers whose statistics are other ones at every width.

    shared: operators of the evaluation graph whose values at any width are parts of the full ones.
    Of layers that training holds in evaluation mode, statistics are numbers like weights.
    """
    frozen = {name for node, name in _norms(training) if not node.args[5]}
    if training.graph is evaluation.graph:
        frozen = set()  # training mode could not be captured
    found = [name for node, name in _norms(evaluation) if node.args[0] not in shared]
    return [name for name in dict.fromkeys(found) if name not in frozen]


def _norms(program: Program) -> Iterator[tuple[fx.Node, str]]:
    """The operators that keep statistics, each with the name of its running mean."""
    for node in program.graph.nodes:
        statistics = _statistics(node)
        if statistics:
            yield node, program.state.get(statistics[0].name, "")


def _keeps(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and module.running_mean is not None


def _statistics(node: fx.Node) -> list[fx.Node]:
    """The running mean and variance that an operator of a graph reads."""
    if node.target not in _OPERATORS:
        return []
    return [a for a in node.args[3:5] if isinstance(a, fx.Node)]


@contextmanager
def _in_layers(
    module: nn.Module, only: Collection[str] | None
) -> Iterator[Callable[[Any], object]]:
    """Norm layers in training mode, everything else in evaluation mode."""
    found = {
        layer: layer.momentum
        for name, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, _NormBase) and layer.running_mean is not None
        if only is None or f"{name}.running_mean".removeprefix(".") in only
    }
    calls = dict.fromkeys(found, 0)

    def count(layer: Any, args: Any) -> None:
        calls[layer] += 1  # a layer may be called several times for a batch
        layer.momentum = 1 / calls[layer]  # the running average over all calls so far

    handles = []
    for layer in found:
        layer.reset_running_stats()
        layer.training = True
        handles.append(layer.register_forward_pre_hook(count))
    try:
        yield lambda inputs: outputs_for(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
        for layer, momentum in found.items():
            layer.momentum = momentum
            layer.training = False


@contextmanager
def _in_graph(module: Any, only: Collection[str] | None) -> Iterator[Callable[[Any], object]]:
    """The graph over the same tensors, its statistics updated at rates that are attributes."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(module.graph, copies)
    graph.output(output)
    graph.set_codegen(module.graph._codegen)
    uses: dict[str, int] = {}
    rates: list[tuple[str, str, int]] = []  # attribute, statistics, which of their uses
    for node in list(graph.nodes):
        statistics = _statistics(node)
        if not statistics or (only is not None and str(statistics[0].target) not in only):
            continue
        for each in statistics:
            module.get_buffer(str(each.target)).zero_()  # no value from before, NaN say, remains
        name = str(statistics[0].target)
        uses[name] = uses.get(name, 0) + 1
        rates.append((f"_rate_{len(rates)}", name, uses[name]))
        with graph.inserting_before(node):
            rate = graph.create_node("get_attr", rates[-1][0])
        # (input, weight, bias, mean, variance, training, momentum, ...)
        node.args = (*node.args[:5], True, rate, *node.args[7:])
    holder: Any = module
    for attribute, _, _ in rates:
        setattr(holder, attribute, 1.0)
    try:
        made: Any = fx.GraphModule(module, graph).eval()
    finally:
        for attribute, _, _ in rates:
            delattr(holder, attribute)
    done = 0

    def run(inputs: Any) -> None:
        nonlocal done
        for attribute, name, use in rates:
            setattr(made, attribute, 1 / (done * uses[name] + use))
        outputs_for(made, inputs)
        done += 1

    yield run
