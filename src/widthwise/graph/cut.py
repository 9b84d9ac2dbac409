"""The cut: a plain module at given widths, which knows nothing of widthwise.

The graphs of both modes are specialised to the widths. Where they differ in nothing but dropout
and statistics they become one `torch.fx.GraphModule` that listens to `train()` and `eval()`;
otherwise the evaluation graph alone is returned.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.nn.modules.batchnorm import _NormBase

from widthwise.graph.axes import Axes
from widthwise.graph.capture.program import Program
from widthwise.graph.dims import fully_fixed, size
from widthwise.graph.relate import Related, Relations
from widthwise.graph.rewrite import cut_graph, keeper
from widthwise.graph.slicing import count, layout, part


def cut_state(
    relations: Relations,
    axes: Axes,
    widths: Mapping[str, int],
    state: Mapping[str, Tensor],
    scaled: frozenset[tuple[str, int]],
) -> dict[str, Tensor]:
    """Copies of the kept parts of all tensors, by name; parameters stay parameters.

    scaled: (tensor, dim) that are multiplied by full size / width (structural dropout's scale).
    """
    kept = keeper(axes, widths)
    made: dict[str, Tensor] = {}
    copies: dict[int, Tensor] = {}  # tied tensors stay tied
    for name, dims in relations.state.items():
        full = state[name]
        if id(full) in copies:
            made[name] = copies[id(full)]
            continue
        specs = tuple((d, layout(t, kept)) for d, t in enumerate(dims) if not fully_fixed(t))
        with torch.no_grad():
            value = part(full.detach(), specs).clone()
            value = value.contiguous() if value.layout is torch.strided else value
            for d, term in enumerate(dims):
                if (name, d) in scaled and not fully_fixed(term):
                    value *= size(term) / count(term, kept)
        if isinstance(full, nn.Parameter):
            value = nn.Parameter(value, requires_grad=full.requires_grad)
        made[name] = copies[id(full)] = value
    return made


def graph_module(
    model: nn.Module,
    relations: Relations,
    axes: Axes,
    widths: Mapping[str, int],
    state: Mapping[str, Tensor],
) -> tuple[fx.GraphModule, fx.GraphModule | None]:
    """The cut network as a graph module over the given cut tensors.

    Returns it and None where one graph serves both modes, so that it can be trained; otherwise the
    graph of evaluation and, for comparison only, the graph of training.
    """
    training, evaluation = sorted(relations.programs, key=lambda r: not r.program.training)
    merged = _merge(*(_with_state(model, r, axes, widths) for r in (training, evaluation)))
    if merged is not None:
        module = _module(model, merged, evaluation.program, state)
        return module.train(model.training), None
    modules = [
        _module(model, _with_state(model, r, axes, widths), r.program, state)
        for r in (evaluation, training)
    ]
    return modules[0].eval(), modules[1].train()


def _module(
    model: nn.Module, graph: fx.Graph, program: Program, state: Mapping[str, Tensor]
) -> fx.GraphModule:
    check_inputs(graph, program)
    _calling_convention(graph, program, model)
    attributes: dict[str, Any] = {n: t for n, t in state.items() if _reads(graph, n)}
    module = fx.GraphModule(attributes | {"training": False}, graph, type(model).__name__)
    module.meta = {}
    for node in module.graph.nodes:
        # Traces of the user's files have no place in what is shipped.
        node.meta = {}
    return module


def _reads(graph: fx.Graph, name: str) -> bool:
    return any(n.op == "get_attr" and n.target == name for n in graph.nodes)


def _with_state(
    model: nn.Module, related: Related, axes: Axes, widths: Mapping[str, int]
) -> fx.Graph:
    """The cut graph with its tensors as attributes rather than inputs."""
    graph = cut_graph(related, axes, widths)
    for node in graph.find_nodes(op="placeholder"):
        target = related.program.state.get(node.name)
        if target is not None:
            node.op, node.target = "get_attr", target
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default):
        if isinstance(node.args[3], fx.Node):
            layer = model.get_submodule(str(node.args[3].target).rpartition(".")[0])
            # As the layer says now; what counts batches, a graph cannot say.
            momentum = getattr(layer, "momentum", None)
            if momentum is not None:
                node.args = (*node.args[:6], momentum, *node.args[7:])
    return graph


def counting_norms(model: nn.Module) -> list[str]:
    """The norms that take the mean of all batches, by name: a graph module cannot."""
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, _NormBase) and layer.track_running_stats and layer.momentum is None
    ]


def _merge(train: fx.Graph, evaluation: fx.Graph) -> fx.Graph | None:
    """One graph for both modes, if they differ only in flags and rates; None otherwise."""
    first = next(iter(train.nodes))
    with train.inserting_before(first):
        mode = train.create_node("get_attr", "training")
    others = [n for n in evaluation.nodes if n.op not in ("placeholder", "get_attr")]
    matched: dict[fx.Node, fx.Node] = {}
    position = 0
    for node in list(train.nodes):
        if node is mode or node.op in ("placeholder", "get_attr"):
            continue
        if _counts_batches(node):
            node.args = (node.args[0], mode)  # adds 1 in training, 0 in evaluation
            continue
        if position == len(others) or not _unite(train, mode, node, others[position], matched):
            return None
        matched[others[position]] = node
        position += 1
    if position < len(others):
        return None
    train.lint()
    return train


def _counts_batches(node: fx.Node) -> bool:
    source = node.args[0] if node.args else None
    if node.target is not torch.ops.aten.add_.Tensor or not isinstance(source, fx.Node):
        return False
    # A module that runs twice counts on from its first count.
    return str(source.target).endswith("num_batches_tracked") or _counts_batches(source)


def _unite(
    graph: fx.Graph, mode: fx.Node, node: fx.Node, other: fx.Node, matched: dict[fx.Node, fx.Node]
) -> bool:
    """Make a node of the training graph serve evaluation too; False if they do other things."""
    if node.op != other.op or (node.op != "output" and node.target != other.target):
        return False
    mine, its = _all_arguments(node), _all_arguments(other)
    if len(mine[0]) != len(its[0]) or set(mine[1]) != set(its[1]):
        return False
    try:
        with graph.inserting_before(node):
            args = [
                _either(graph, mode, a, b, matched) for a, b in zip(mine[0], its[0], strict=True)
            ]
            kwargs = {k: _either(graph, mode, v, its[1][k], matched) for k, v in mine[1].items()}
    except _DifferentError:
        return False
    node.args = tuple(args)
    node.kwargs = {k: v for k, v in kwargs.items() if k in node.kwargs or k in other.kwargs}
    return True


def _all_arguments(node: fx.Node) -> tuple[list[Any], dict[str, Any]]:
    """Arguments with the defaults of the operator's schema filled in."""
    args, kwargs = list(node.args), dict(node.kwargs)
    if isinstance(node.target, torch._ops.OpOverload):
        for i, argument in enumerate(node.target._schema.arguments):
            if argument.kwarg_only:
                kwargs.setdefault(argument.name, argument.default_value)
            elif i >= len(args):
                args.append(kwargs.pop(argument.name, argument.default_value))
    return args, kwargs


class _DifferentError(Exception):
    """The two modes compute different things."""


def _either(graph: fx.Graph, mode: fx.Node, a: Any, b: Any, matched: Mapping[Any, Any]) -> Any:
    if isinstance(a, fx.Node):
        same = isinstance(b, fx.Node) and (
            matched.get(b) is a or (a.op == b.op != "call_function" and a.target == b.target)
        )
        if same:
            return a
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return type(a)(_either(graph, mode, x, y, matched) for x, y in zip(a, b, strict=True))
    elif a is True and b is False:
        return mode
    elif isinstance(a, float) and b == 0.0 and a != b:
        return graph.call_function(operator.mul, (mode, a))  # a rate, zero in evaluation
    elif type(a) is type(b) and a == b:
        return a
    raise _DifferentError


def make_on_cpu(graph: fx.GraphModule) -> None:
    """Let operators that make tensors make them on the CPU.

    For a graph without weights: once it has some, tensors on the meta device would spoil its
    results without an error.
    """
    for node in graph.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cpu")}
    graph.recompile()


def check_inputs(graph: fx.Graph, program: Program) -> None:
    """Let the graph refuse sizes and numbers that are not those that it was captured with."""
    placeholders = graph.find_nodes(op="placeholder")
    first = next(n for n in graph.nodes if n.op not in ("placeholder", "get_attr"))
    with graph.inserting_before(first):
        for node, example in zip(placeholders, program.example, strict=True):
            if example is None or isinstance(example, (bool, int, float, str)):
                equal = graph.call_function(operator.eq, (node, example))
                message = f"Input {node.target} must be {example!r}."
                graph.call_function(torch._assert, (equal, message))
        for i, (node, fixed) in enumerate(zip(placeholders, fixed_sizes(program), strict=True)):
            for d, wanted in fixed.items():
                found = graph.call_function(torch.ops.aten.sym_size.int, (node, d))
                line = program.guards.lines.get((i, d), "")
                why = f", which the model fixes{line}" if line else ""
                message = f"Dim {d} of input {node.target} must have size {wanted}{why}."
                equal = graph.call_function(operator.eq, (found, wanted))
                graph.call_function(torch._assert, (equal, message))
        if not program.guards.empty:
            sizes = {
                at: graph.call_function(torch.ops.aten.sym_size.int, (placeholders[at[0]], at[1]))
                for at in program.guards.used
            }
            for held, message in program.guards.add_to(graph, sizes):
                graph.call_function(torch._assert, (held, message))


def fixed_sizes(program: Program) -> list[dict[int, int]]:
    """For each input of the graph: the dims that must have the example's size, and that size."""
    sizes = {n.name: s for n, s in program.sizes.items() if n.op == "placeholder"}
    found: list[dict[int, int]] = []
    for name, guarded, value in zip(
        program.inputs, program.guards.sizes, program.example, strict=True
    ):
        found.append({})
        for d, guard in enumerate(guarded or ()):
            if sizes[name][d] not in program.dynamic or not guard.free_symbols:
                found[-1][d] = value.shape[d]
    return found


def _calling_convention(graph: fx.Graph, program: Program, model: nn.Module) -> None:
    """Give the graph the call signature and the outputs of the user's model."""
    args_spec, kwargs_spec = program.in_spec.children()
    names = [
        p.name
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ][: args_spec.num_children]
    inputs = graph.find_nodes(op="placeholder")
    plain = all(c.is_leaf() for c in args_spec.children()) and not kwargs_spec.num_children
    output = next(n for n in graph.nodes if n.op == "output")
    if plain and len(names) == len(inputs) and program.out_spec.is_leaf():
        for node, name in zip(inputs, names, strict=True):
            _rename(graph, node, name)
        output.args = (output.args[0][0],)  # type: ignore[index]
        return
    names += [f"arg_{i}" for i in range(len(names), args_spec.num_children)]
    names += list(kwargs_spec.context if kwargs_spec.num_children else ())
    spec: pytree.TreeSpec = program.in_spec
    graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(names, spec, program.out_spec)))


def _rename(graph: fx.Graph, node: fx.Node, name: str) -> None:
    if node.name == name and node.target == name:
        return
    with graph.inserting_before(node):
        renamed = graph.placeholder(name)
    node.replace_all_uses_with(renamed)
    graph.erase_node(node)
