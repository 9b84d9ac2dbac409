"""From a module to a graph of operators.

`torch.export` (non-strict) records what the module computes for example inputs, with every
parameter and buffer as an input of the graph. It is done twice, in training and in evaluation
mode, because dropout, batch norm and auxiliary heads differ. The graphs hold names, not tensors:
running one fetches the user's own parameters, so nothing is copied.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
import logging
import math
import operator
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx.experimental._config as shape_config
import torch.utils._pytree as pytree
from sympy import nextprime
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from widthwise.errors import CaptureError

aten = torch.ops.aten


@dataclass(frozen=True)
class Program:
    """What a module computes in one mode.

    graph: placeholders first (`state` then `inputs`), then operators in ATen.
    state: placeholder name -> name of the parameter, buffer or constant in the module.
    constants: tensors that the module made for itself while it was captured, by name.
    inputs: placeholder names of the flattened (args, kwargs), in order.
    sizes: every tensor's sizes by node; each symbolic size has a prime of its own, so that it
    never equals a number of features.
    """

    graph: fx.Graph
    training: bool
    state: dict[str, str]
    constants: dict[str, Tensor]
    inputs: list[str]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    example: list[Any]
    sizes: dict[fx.Node, Any]
    dynamic: frozenset[int]


def capture(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    training: bool,
    dynamic_shapes: Any = None,
) -> Program:
    """Record what `model` computes on the example, in one mode; the model is left as it was.

    Raises CaptureError, naming what stood in the way, when the example does not fit the model or
    the model cannot be captured.
    """
    args, kwargs = _at_least_two(args, dict(kwargs))
    modes = {m: m.training for m in model.modules()}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    # The fused kernels of nn.TransformerEncoder hide their heads; the plain path is equal.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        model.train(training)
        exported = _export(model, args, kwargs, dynamic_shapes)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, mode in modes.items():
            module.training = mode
    return _program(exported, training)


def _at_least_two(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Repeat an example batch of one: a recorded graph takes sizes of 1 for constants."""
    leaves = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.dim()]
    if not leaves or any(x.shape[0] != 1 for x in leaves):
        return args, kwargs
    result: tuple[Any, Any] = pytree.tree_map(
        lambda x: torch.cat([x, x]) if isinstance(x, Tensor) and x.dim() else x, (args, kwargs)
    )
    return result


def _dynamic(leaf: Any, most: int) -> Any:
    """Which sizes of an example tensor may vary: the batch of images, any size of smaller tensors.

    Sizes that the model needs as they are (features, say) are found out and kept by the export.
    """
    if not isinstance(leaf, Tensor):
        return None
    count = 1 if leaf.dim() > 3 else leaf.dim()
    return dict.fromkeys(range(min(count, most)), Dim.AUTO)


def _export(model: nn.Module, args: Any, kwargs: Any, dynamic_shapes: Any) -> ExportedProgram:
    if dynamic_shapes is not None:
        choices = [dynamic_shapes]
    else:
        # Some networks cannot be captured with every size free: give up freedom dim by dim.
        choices = [
            (pytree.tree_map(lambda x, m=most: _dynamic(x, m), (args, kwargs)))
            for most in (3, 1, 0)
        ]
    failure: Exception | None = None
    for attempt, choice in enumerate(choices):
        shapes = choice if dynamic_shapes is not None else _by_name(model, args, choice)
        try:
            return _export_once(model, args, kwargs, shapes)
        except Exception as error:  # noqa: BLE001 - the user's code runs inside
            failure = failure or error
            if attempt == 0 and _explains_itself(model, args, kwargs):
                try:
                    return _export_once(model, args, kwargs, shapes)
                except Exception as second:  # noqa: BLE001 - the same
                    failure = second
    raise CaptureError(_cannot(model, failure)) from failure


def _by_name(model: nn.Module, args: Any, choice: Any) -> Any:
    """torch.export wants dynamic shapes by parameter name once there are keyword arguments."""
    shapes, kwshapes = choice
    parameters = inspect.signature(model.forward).parameters
    named: dict[str, Any] = {}
    positional = list(shapes)
    for name, p in parameters.items():
        if p.kind is p.VAR_POSITIONAL:
            named[name] = tuple(positional)
            positional = []
        elif p.kind is p.VAR_KEYWORD:
            named[name] = {k: v for k, v in kwshapes.items() if k not in parameters}
        elif positional:
            named[name] = positional.pop(0)
        elif name in kwshapes:
            named[name] = kwshapes[name]
    return {k: v for k, v in named.items() if v != {} or k in kwshapes}


def _export_once(model: nn.Module, args: Any, kwargs: Any, shapes: Any) -> ExportedProgram:
    with _quietly(), shape_config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
        return torch.export.export(model, args, kwargs or None, dynamic_shapes=shapes, strict=False)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep to itself what torch.export prints on its way.

    It warns of module attributes that recurrent layers set in passing, where nothing is lost, and
    prints pages before an error, whose gist the CaptureError tells.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        printed = io.StringIO()
        with warnings.catch_warnings(), redirect_stdout(printed), redirect_stderr(printed):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _explains_itself(model: nn.Module, args: Any, kwargs: Any) -> bool:
    """Run the model for real: an example that does not fit shows here, in the model's own words.

    Returns whether capturing is worth another try, because an output type was made known.
    """
    try:
        with torch.no_grad(), _kept_buffers(model):
            out = model(*args, **kwargs)
    except Exception as error:
        raise CaptureError(
            f"The model does not run on the example inputs: {_first_line(error)}; "
            "give an example that model(*args, **kwargs) accepts."
        ) from error
    return _register_dataclasses(out)


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    saved = {name: b.clone() for name, b in model.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, b in model.named_buffers():
                b.copy_(saved[name])


def _register_dataclasses(value: Any) -> bool:
    """Teach torch.export the dataclasses that the model returns; say whether one was new."""
    if isinstance(value, (list, tuple)):
        return _register_all(value)
    if isinstance(value, dict):
        return _register_all(value.values())
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return False
    inner = _register_all(getattr(value, f.name) for f in dataclasses.fields(value))
    if type(value) in pytree.SUPPORTED_NODES:
        return inner
    kind = type(value)
    named = f"{kind.__module__}.{kind.__qualname__}"
    torch.export.register_dataclass(kind, serialized_type_name=named)
    return True


def _register_all(values: Iterable[Any]) -> bool:
    new = [
        _register_dataclasses(v) for v in values
    ]  # all of them, not only up to the first new one
    return any(new)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _cannot(model: nn.Module, error: Exception | None) -> str:
    name = type(model).__name__
    text = str(error)
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        place = next((ln.strip() for ln in text.splitlines() if ln.strip().startswith("File ")), "")
        return (
            f"{name} cannot be captured because its control flow depends on data"
            f"{' (' + place + ')' if place else ''}; use torch.where or torch.cond there, or give "
            "widthwise the part of the model without it."
        )
    assert error is not None
    return (
        f"torch.export cannot capture {name} ({type(error).__name__}: {_first_line(error)}); make "
        "torch.export.export(model, args) succeed, or give widthwise a part for which it does."
    )


def _program(exported: ExportedProgram, training: bool) -> Program:
    """Pull apart what torch.export returns, and tidy the graph."""
    graph = exported.graph
    state: dict[str, str] = {}
    inputs: list[str] = []
    constants: dict[str, Tensor] = {}
    for spec in exported.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(spec.arg.name)
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            state[spec.arg.name] = str(spec.target)
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            state[spec.arg.name] = str(spec.target)
            constants[str(spec.target)] = exported.constants[str(spec.target)]
        else:
            raise CaptureError(
                f"The model holds an object of kind {spec.kind.name} ({spec.target}) that cannot "
                "be carried along; replace it by tensors or plain numbers."
            )
    _tidy(exported.graph_module, graph)
    # Parameters that nothing reads are not part of what the module computes.
    for node in list(graph.find_nodes(op="placeholder")):
        if node.name in state and not node.users:
            del state[node.name]
            graph.erase_node(node)
    sizes, dynamic = _sizes(graph)
    return Program(
        graph=graph,
        training=training,
        state=state,
        constants={k: v for k, v in constants.items() if k in state.values()},
        inputs=inputs,
        in_spec=exported.call_spec.in_spec,
        out_spec=exported.call_spec.out_spec,
        example=pytree.tree_leaves(exported.example_inputs),
        sizes=sizes,
        dynamic=dynamic,
    )


_CHECKS = {
    aten._assert_scalar.default,
    aten._assert_tensor_metadata.default,
    aten._assert_async.msg,
    aten.sym_constrain_range_for_size.default,
    aten.sym_constrain_range.default,
}


def _tidy(owner: fx.GraphModule, graph: fx.Graph) -> None:
    """Bring a captured graph to the form that the rules expect."""
    _inline_regions(owner, graph)
    for node in list(graph.nodes):
        if node.target in _CHECKS:
            graph.erase_node(node)
        elif node.target in (aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims):
            _explicit_squeeze(graph, node)
        elif node.target is aten.scaled_dot_product_attention.default:
            _explicit_scale(node)
        elif node.target in _SPLITS:
            _explicit_split(node)
    graph.eliminate_dead_code()
    graph.lint()


def _explicit_squeeze(graph: fx.Graph, node: fx.Node) -> None:
    """Say which dims are squeezed, so that a dim cut to width 1 is not squeezed as well."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    shape = source.meta["val"].shape
    asked: Any = node.args[1] if len(node.args) > 1 else list(range(len(shape)))
    dims = [d % len(shape) for d in (asked if isinstance(asked, (list, tuple)) else [asked])]
    dims = [d for d in dims if isinstance(shape[d], int) and shape[d] == 1]
    if dims:
        node.target = aten.squeeze.dims
        node.args = (source, dims)
    else:
        node.replace_all_uses_with(source)
        graph.erase_node(node)


_SPLITS = {aten.split.Tensor, aten.split.sizes, aten.chunk.default}


def _explicit_split(node: fx.Node) -> None:
    """Say how large each piece is, so that pieces can be cut one by one."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    rank = source.meta["val"].dim()
    given: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    dim = int(given) % rank
    counts = [piece.shape[dim] for piece in node.meta["val"]]
    if all(isinstance(c, int) for c in counts):
        node.target = aten.split_with_sizes.default
        node.args = (source, counts, dim)
        node.kwargs = {}


def _explicit_scale(node: fx.Node) -> None:
    """Freeze attention's scale at full width: a cut head size must not change it."""
    query = node.args[0]
    assert isinstance(query, fx.Node)
    head_size = query.meta["val"].shape[-1]
    if node.kwargs.get("scale") is None and isinstance(head_size, int):
        node.kwargs = {**node.kwargs, "scale": 1.0 / math.sqrt(head_size)}


def _inline_regions(owner: fx.GraphModule, graph: fx.Graph) -> None:
    """Put the bodies of `no_grad` and autocast regions in line; the regions only set modes."""
    for node in list(graph.nodes):
        name = getattr(node.target, "__name__", "")
        if node.op != "call_function" or not name.startswith("wrap_with_"):
            continue
        at = next(
            i for i, a in enumerate(node.args) if isinstance(a, fx.Node) and a.op == "get_attr"
        )
        body = getattr(owner, str(node.args[at].target))
        _inline_regions(body, body.graph)
        values = dict(
            zip(body.graph.find_nodes(op="placeholder"), node.args[at + 1 :], strict=True)
        )
        with graph.inserting_before(node):
            result = graph.graph_copy(body.graph, values)
        results = result if isinstance(result, (tuple, list)) else (result,)
        for user in list(node.users):
            if user.target is operator.getitem:
                user.replace_all_uses_with(results[user.args[1]])
                graph.erase_node(user)
        graph.erase_node(node)


def _sizes(graph: fx.Graph) -> tuple[dict[fx.Node, Any], frozenset[int]]:
    """Every node's sizes as plain integers, symbols standing as primes."""
    prime = 1_000_000
    values: dict[Any, int] = {}
    known: dict[Any, int] = {}

    def number(s: Any) -> Any:
        nonlocal prime
        if not isinstance(s, torch.SymInt):
            return s
        expression = s.node.expr
        if expression not in known:
            for symbol in sorted(expression.free_symbols, key=str):
                if symbol not in values:
                    prime = values[symbol] = int(nextprime(prime))
            known[expression] = int(expression.xreplace(values))
        return known[expression]

    def sizes_of(value: Any) -> Any:
        if isinstance(value, Tensor):
            return [number(s) for s in value.shape]
        if isinstance(value, (tuple, list)):
            return [sizes_of(v) for v in value]
        return number(value)

    sizes = {n: sizes_of(n.meta["val"]) for n in graph.nodes if "val" in n.meta}
    return sizes, frozenset(known.values())
