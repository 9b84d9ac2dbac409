"""The graph of evaluation mode from the graph of training mode, without capturing twice.

Most networks do the same in both modes but for flags: dropout, batch statistics. Their evaluation
graph is the training graph with the flags turned off. Whether that is so is not assumed: the model
in evaluation mode and the derived graph both run on the example, every operator that they call is
recorded, and what comes out must be built of the same operators on the same arguments.
Where it is not, or anything stands in the way, the model has to be captured again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._export.utils import _compiling_state_context
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)

from widthwise.graph.capture.listening import Looks, listening
from widthwise.graph.capture.own_functions import plain_checkpoints
from widthwise.graph.capture.preflight import kept_state, silently
from widthwise.graph.capture.recorder import recorded

aten = torch.ops.aten

# Arguments that say "training", and what evaluation passes for them.
_FLAGS = {"train": False, "training": False, "use_input_stats": False, "dropout_p": 0.0}


def turn_off_training(graph: fx.Graph, state: Mapping[str, str]) -> None:
    """Turn off the flags of training in a captured graph; `state` names its tensors."""
    for node in list(graph.nodes):
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        if node.target is aten.add_.Tensor and _counts_batches(node.args[0], state):
            node.replace_all_uses_with(node.args[0])  # the next count of a module that runs twice
            graph.erase_node(node)
            continue
        if node.target is aten.batch_norm.default and node.args[3] is None:
            continue  # without running statistics it takes its input's in both modes
        for i, argument in enumerate(node.target._schema.arguments):
            value = _FLAGS.get(argument.name)
            if value is not None and i < len(node.args):
                node.args = (*node.args[:i], value, *node.args[i + 1 :])
            elif value is not None and argument.name in node.kwargs:
                node.kwargs = {**node.kwargs, argument.name: value}


def _counts_batches(source: Any, state: Mapping[str, str]) -> bool:
    return isinstance(source, fx.Node) and state.get(source.name, "").endswith(
        "num_batches_tracked"
    )


def computes_the_same(
    graph: fx.Graph,
    state: Mapping[str, str],
    constants: Mapping[str, Tensor],
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    looks: Looks,
) -> bool:
    """Whether a graph calls the operators that the model calls, on the same arguments.

    state: placeholder -> tensor name; constants: the ones that the model does not hold. looks:
    notes whether the model's code looked at sizes. False as well where that cannot be told.
    """
    tensors = dict(model.named_buffers(remove_duplicate=False))
    tensors |= dict(model.named_parameters(remove_duplicate=False))
    known: dict[Any, int] = {}
    try:
        with kept_state(model), silently(gradients=True), plain_checkpoints():
            once = {id(t): t.detach() for t in tensors.values()}
            # Frozen parameters as well: they may learn later, and inputs have gradients, too.
            for parameter in model.parameters():
                if _differentiable(parameter):
                    once[id(parameter)].requires_grad_()
            held: dict[str, Tensor] = {n: once[id(t)] for n, t in tensors.items()}
            call = pytree.tree_map_only(
                Tensor, lambda t: _learning(t.detach().clone()), (args, dict(kwargs))
            )
            own = {**held, **constants}
            flat = [*(own[n] for n in state.values()), *pytree.tree_leaves(call)]
            network = fx.Interpreter(nn.Module(), graph=graph)
            runs: list[Callable[[], Any]] = [
                lambda: torch.func.functional_call(model, held, *call),
                lambda: network.run(*flat),
            ]
            with listening(model, looks):
                (_, wanted), (_, mine) = (recorded(known, held, call, run) for run in runs)
    except Exception:  # noqa: BLE001 - the user's code runs inside; then it has to be captured
        return False
    return wanted is not None and bool(wanted == mine)


def _differentiable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _learning(tensor: Tensor) -> Tensor:
    """A tensor that takes part in gradients and may be written to."""
    return tensor.requires_grad_().clone() if _differentiable(tensor) else tensor


def symbolic_run(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    free: Sequence[tuple[bool, ...] | None],
) -> list[Any] | None:
    """Run a model on tensors without data, the free sizes of its inputs symbols.

    Whatever it decides on them is recorded in the symbols' shape environment. Returns the flattened
    inputs; None where the model does not run so.

    free: for each of the flattened inputs, which of its sizes; None for a number.
    """
    tensors = dict(model.named_buffers(remove_duplicate=False))
    tensors |= dict(model.named_parameters(remove_duplicate=False))
    shapes = ShapeEnv()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True, shape_env=shapes) as mode:
            once = {id(t): _without_data(mode, t) for t in tensors.values()}
            leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
            inputs = [
                _symbolic(mode, leaf, which, i)
                for i, (leaf, which) in enumerate(zip(leaves, free, strict=True))
            ]
            call = pytree.tree_unflatten(inputs, spec)
            fakes: dict[str, Tensor] = {n: once[id(t)] for n, t in tensors.items()}
            # As export does it, with torch's rules for symbols in the place of its kernels.
            with _compiling_state_context(), enable_python_dispatcher():
                torch.func.functional_call(model, fakes, *call)
    except Exception:  # noqa: BLE001 - the user's code runs inside; then it has to be captured
        return None
    return inputs


def _without_data(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    """A tensor of fixed sizes in the mode that is on, made the fast way where it is a plain one."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.is_quantized:
        return mode.from_tensor(tensor.detach(), static_shapes=True)
    like: dict[str, Any] = {"dtype": tensor.dtype, "device": tensor.device}
    return torch.empty_strided(tensor.shape, tensor.stride(), **like)


def _symbolic(mode: FakeTensorMode, leaf: Any, free: tuple[bool, ...] | None, i: int) -> Any:
    if free is None:
        return leaf
    dims = [DimDynamic.DYNAMIC if f else DimDynamic.STATIC for f in free]
    context: Any = StatelessSymbolicContext(dynamic_sizes=dims)
    return mode.from_tensor(leaf, source=ConstantSource(f"input_{i}"), symbolic_context=context)
