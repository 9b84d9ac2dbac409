"""From a module to a graph of operators.

`torch.export` (non-strict) records what the module computes for example inputs, with every
parameter and buffer as an input of the graph. It is done twice, in training and in evaluation
mode, because dropout, batch norm and auxiliary heads differ. The graphs hold names, not tensors:
running one fetches the user's own parameters, so nothing is copied.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.fx.experimental._config as shape_config
import torch.utils._pytree as pytree
from sympy import nextprime
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.nn.modules.batchnorm import _NormBase

import widthwise.graph.capture.meta_shapes  # noqa: F401 - what torch does not know of its own operators
from widthwise.errors import CaptureError
from widthwise.graph.capture.containers import for_shapes
from widthwise.graph.capture.describe import describe_call, shapes_of_keywords
from widthwise.graph.capture.diagnostics import cannot, check, check_graph
from widthwise.graph.capture.guards import (
    Guards,
    divisors,
    equalities,
    find_guards,
    mixes,
    never_one,
)
from widthwise.graph.capture.listening import Listener, Looks, listening
from widthwise.graph.capture.modes import computes_the_same, symbolic_run, turn_off_training
from widthwise.graph.capture.normalize import flatten, spell_out
from widthwise.graph.capture.own_functions import Calls, Whole, keep_whole, marked_functions
from widthwise.graph.capture.preflight import try_out, twin
from widthwise.graph.capture.recurrent import any_length
from widthwise.graph.capture.symbols import same_symbols

aten = torch.ops.aten


class EvaluationOnlyWarning(UserWarning):
    """Training mode could not be captured: training runs the network as in evaluation mode."""


@dataclass(frozen=True)
class Program:
    """What a module computes in one mode.

    graph: placeholders first (`state` then `inputs`), then operators in ATen.
    state: placeholder name -> name of the parameter, buffer or constant in the module.
    constants: tensors that the module made for itself while it was captured, by name.
    inputs: placeholder names of the flattened (args, kwargs), in order.
    sizes: every tensor's sizes by node; each symbolic size has a prime of its own (or a multiple of
    one, where it must be divisible), so that it never equals a number of features.
    guards: what must hold of the inputs' sizes.
    matters: for each of the flattened outputs, whether it must keep its size.
    instead: why this stands for training mode, which could not be captured; "" where it could.
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
    guards: Guards
    matters: tuple[bool, ...]
    instead: str = ""


def capture(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    dynamic_shapes: Any = None,
    outputs: Sequence[str] | None = None,
    alone: bool = False,
) -> tuple[Program, Program]:
    """Record what `model` computes on the example in training and in evaluation mode.

    The model is left as it was. Where training mode alone cannot be captured, the program of
    evaluation serves for both, and an EvaluationOnlyWarning says why. Raises CaptureError, naming
    what stood in the way, when the example does not fit the model or it cannot be captured.

    outputs: names of those that must keep their size, as `name_leaves` gives them; None for all.
    alone: the example is of one row and stands for such calls only, with all its sizes fixed.
    """
    check(model, args, kwargs)
    kwargs = dict(kwargs)
    if not alone:
        args, kwargs = _at_least_two(args, kwargs)
    freedom = (0,) if alone else _FREEDOM
    export = partial(_export, args=args, kwargs=kwargs, shapes=dynamic_shapes, freedom=freedom)
    with _plain_attention():
        try:
            training = export(_unshared(model).train())
        except CaptureError as error:
            recorded = export(_unshared(model).eval())
            evaluation = _program(recorded, training=False)
            warnings.warn(
                f"Training will run the network as in evaluation mode, without dropout: {error}",
                EvaluationOnlyWarning,
                stacklevel=3,
            )
            (evaluation,) = _finished([evaluation], args, kwargs, outputs)
            instead = dataclasses.replace(evaluation, training=True, instead=str(error))
            return instead, evaluation
        evaluation = _without_flags(training, model, args, kwargs) or _program(
            export(_unshared(model).eval()), training=False
        )
    both = [_program(training, training=True), evaluation]
    training_program, evaluation = _finished(both, args, kwargs, outputs)
    return training_program, evaluation


def _finished(programs: list[Program], args: Any, kwargs: Any, outputs: Any) -> list[Program]:
    """The programs with the example itself, and with the outputs marked that matter."""
    example = pytree.tree_leaves((args, kwargs))
    return [_choose(dataclasses.replace(p, example=example), outputs) for p in programs]


@dataclass(frozen=True)
class _Recorded:
    """What torch.export made of a model, user code kept whole, and what a listener noted.

    graph: what was exported, or what was derived from it for another mode. guards: where the model
    decided on sizes in another run than the one that was exported.
    """

    exported: ExportedProgram
    graph: fx.Graph
    lines: dict[int, str]
    inside: set[int]
    guards: Guards | None = None


def _choose(program: Program, outputs: Sequence[str] | None) -> Program:
    """The program with the outputs marked that matter."""
    if outputs is None:
        return program
    names = name_leaves(program.out_spec)
    for wanted in outputs:
        if not any(_is_in(name, wanted) for name in names):
            known = ", ".join(map(repr, names))
            raise CaptureError(f"The model has no output {wanted!r}; it has {known}.")
    matters = tuple(any(_is_in(name, wanted) for wanted in outputs) for name in names)
    return dataclasses.replace(program, matters=matters)


def _is_in(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(f"{wanted}.")


def name_leaves(spec: pytree.TreeSpec) -> list[str]:
    """What the leaves of a model's output are called: "logits", "0", "hidden_states.2", ..."""
    names = [""] * spec.num_leaves

    def walk(value: Any, path: str) -> None:
        if isinstance(value, int):
            names[value] = path
            return
        if dataclasses.is_dataclass(value):
            items: Any = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
        elif isinstance(value, Mapping):
            items = value.items()
        elif isinstance(value, (list, tuple)):
            items = zip(getattr(value, "_fields", range(len(value))), value, strict=True)
        else:
            items = ()
        for key, inner in items:
            walk(inner, f"{path}.{key}" if path else str(key))

    walk(pytree.tree_unflatten(list(range(spec.num_leaves)), spec), "")
    return names


@contextmanager
def _plain_attention() -> Iterator[None]:
    """The fused kernels of nn.TransformerEncoder hide their heads; the plain path is equal."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _without_flags(
    training: _Recorded, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Program | None:
    """The program of evaluation from the one of training, if they differ in nothing but flags."""
    graph = copy.deepcopy(training.graph)
    inputs = (g.find_nodes(op="placeholder") for g in (training.graph, graph))
    for old, new in zip(*inputs, strict=True):
        new.name = old.name  # copying changes names such as `input`
    state, inputs_of, constants = _state(training.exported)
    turn_off_training(graph, state)
    with quietly(), _free_sizes():
        looks = Looks()
        evaluated = _unshared(model).eval()
        if not computes_the_same(graph, state, constants, evaluated, args, kwargs, looks):
            return None
        # Norms without statistics of their own refuse single values in evaluation mode, too.
        asks = any(isinstance(m, _NormBase) and m.running_mean is None for m in evaluated.modules())
        guards = None if looks.any or asks else _undecided(training, inputs_of)
        if guards is None:
            guards = _evaluation_guards(training, inputs_of, _unshared(model).eval(), args, kwargs)
    if guards is None:
        return None
    return _program(dataclasses.replace(training, graph=graph, guards=guards), training=False)


def _unshared(model: nn.Module) -> nn.Module:
    """A twin whose norms have a number for a momentum, for torch.export cannot count batches.

    What the layers of the model itself say is read at every call.
    """
    copied = twin(model)
    for module in copied.modules():
        if isinstance(module, _NormBase) and module.momentum is None:
            module.momentum = _MOMENTUM
    return copied


_MOMENTUM = 0.1  # any number


def _undecided(training: _Recorded, names: list[str]) -> Guards | None:
    """The guards of a model whose code looks at no size; None where it decided on one."""
    values = {n.name: n.meta.get("val") for n in training.graph.find_nodes(op="placeholder")}
    given = [(name, values.get(name)) for name in names]
    guards = find_guards(given, training.lines, training.inside, recorded=False)
    return None if guards.conditions else guards


def _evaluation_guards(
    training: _Recorded, names: list[str], model: nn.Module, args: Any, kwargs: Any
) -> Guards | None:
    """What the model decides on sizes in evaluation mode; None where that cannot be told."""
    values = {n.name: n.meta.get("val") for n in training.graph.find_nodes(op="placeholder")}
    free = [
        tuple(isinstance(s, torch.SymInt) and bool(s.node.expr.free_symbols) for s in v.shape)
        if isinstance(v, Tensor)
        else None
        for v in map(values.get, names)
    ]
    calls = Calls()
    listener = Listener(calls)
    with any_length(), listening(model, listener):
        inputs = symbolic_run(model, args, kwargs, free)
    return (
        None
        if inputs is None
        else find_guards(
            list(zip(names, inputs, strict=True)),
            listener.lines,
            listener.inside,
            recorded=False,
            given=listener.given,
        )
    )


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


# How many dims of a tensor may vary: where that many cannot, fewer are tried.
_FREEDOM = (3, 1, 0)


def _export(
    model: nn.Module, args: Any, kwargs: Any, shapes: Any, freedom: Sequence[int]
) -> _Recorded:
    if shapes is not None:
        choices = [shapes_of_keywords(model, shapes)]
    else:
        choices = [for_shapes(partial(_dynamic, most=most), (args, kwargs)) for most in freedom]
    try_out(model, args, kwargs)
    args, kwargs = describe_call(model, args, kwargs)
    failure: Exception | None = None
    for choice in choices:
        given = choice if shapes is not None else _by_name(model, args, choice)
        try:
            recorded = _export_once(model, args, kwargs, given)
        except CaptureError:
            raise
        except Exception as error:  # noqa: BLE001 - the user's code runs inside
            failure = failure or error
            continue
        if choice is choices[-1] or not _mixes(recorded.graph):
            return recorded
    assert failure is not None
    raise CaptureError(cannot(model, failure)) from failure


def _mixes(graph: fx.Graph) -> bool:
    """Whether fewer free sizes would leave more features free."""
    sizes = (
        s
        for node in graph.find_nodes(op="placeholder")
        if isinstance(node.meta.get("val"), Tensor)
        for s in node.meta["val"].shape
    )
    symbol = next((s for s in sizes if isinstance(s, torch.SymInt)), None)
    return symbol is not None and mixes(symbol.node.shape_env)


def _by_name(model: nn.Module, args: Any, choice: Any) -> Any:
    """torch.export wants dynamic shapes by parameter name once there are keyword arguments."""
    shapes, kwshapes = choice
    parameters = inspect.signature(model.forward).parameters
    named: dict[str, Any] = {}
    positional = list(shapes)
    for name, p in parameters.items():
        if p.kind is p.VAR_POSITIONAL:
            if positional:
                named[name] = tuple(positional)
            positional = []
        elif p.kind is not p.VAR_KEYWORD and positional:
            named[name] = positional.pop(0)
        elif name in kwshapes:
            named[name] = kwshapes[name]
    return named


def _export_once(model: nn.Module, args: Any, kwargs: Any, shapes: Any) -> _Recorded:
    _make_none_plain(model)
    calls = Calls()
    listener = Listener(calls)
    marked = marked_functions(calls)
    with quietly(), _free_sizes(), any_length(), marked, listening(model, listener):
        exported = torch.export.export(
            model, args, kwargs or None, dynamic_shapes=shapes, strict=False
        )
    flatten(exported.graph_module, exported.graph)
    keep_whole(exported.graph, calls)
    return _Recorded(exported, exported.graph, listener.lines, listener.inside)


def _free_sizes() -> Any:
    """Sizes of 0 and 1 are sizes like any other: what the model decides on them becomes a guard."""
    return shape_config.patch(  # type: ignore[attr-defined]
        use_duck_shape=False, backed_size_oblivious=True
    )


def _make_none_plain(model: nn.Module) -> None:
    """Let buffers that are None be plain attributes of a model that nobody else uses.

    When forward makes such a buffer, torch.export writes it to the model's first input.
    """
    for module in model.modules():
        for name in [n for n, b in module._buffers.items() if b is None]:
            del module._buffers[name]
            vars(module)[name] = None
        vars(module)["register_buffer"] = partial(_register, module)


def _register(module: nn.Module, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
    """As `register_buffer`, for what forward makes: a plain attribute unless it is a buffer."""
    if name in module._buffers:
        type(module).register_buffer(module, name, tensor, persistent)
    else:
        vars(module)[name] = tensor


@contextmanager
def quietly() -> Iterator[None]:
    """Keep to itself what torch.export prints on its way.

    It warns of module attributes that recurrent layers set in passing, where nothing is lost, and
    prints pages before an error, whose gist the CaptureError tells.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        printed = io.StringIO()
        with warnings.catch_warnings(), redirect_stdout(printed), redirect_stderr(printed):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _program(recorded: _Recorded, *, training: bool) -> Program:
    """Pull apart what torch.export returns, and tidy the graph."""
    exported, graph = recorded.exported, recorded.graph
    state, inputs, constants = _state(exported)
    squeezed = spell_out(graph, state)
    check_graph(graph)
    # Parameters that no operator reads are not part of what the module computes.
    for node in list(graph.find_nodes(op="placeholder")):
        if node.name in state and not node.users:
            del state[node.name]
            graph.erase_node(node)
    sizes, dynamic = _sizes(graph)
    values = {n.name: n.meta.get("val") for n in graph.find_nodes(op="placeholder")}
    given = [(name, values.get(name)) for name in inputs]
    guards = find_guards(given, recorded.lines, recorded.inside, recorded=True)
    if recorded.guards is not None:
        lines = {**guards.lines, **recorded.guards.lines}
        guards = dataclasses.replace(recorded.guards, lines=lines)
    squeezes = never_one([value for _, value in given], squeezed)
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
        guards=dataclasses.replace(guards, conditions=(*guards.conditions, *squeezes)),
        matters=(True,) * exported.call_spec.out_spec.num_leaves,
    )


def _state(exported: ExportedProgram) -> tuple[dict[str, str], list[str], dict[str, Tensor]]:
    """Placeholder -> tensor name, the placeholders of inputs, and constants by name."""
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
    return state, inputs, constants


def _sizes(graph: fx.Graph) -> tuple[dict[fx.Node, Any], frozenset[int]]:
    """Every node's sizes as plain integers, symbols standing as primes, or multiples of primes."""
    prime = 1_000_000
    values: dict[Any, int] = {}
    known: dict[Any, int] = {}
    same = same_symbols(graph)
    equal: dict[Any, Any] | None = None
    multiples: dict[Any, int] = {}

    def number(s: Any) -> Any:
        nonlocal prime, equal, multiples
        if not isinstance(s, torch.SymInt):
            return s
        if equal is None:
            equal, multiples = equalities(s.node.shape_env), divisors(s.node.shape_env)
        expression = s.node.expr.xreplace(same).xreplace(equal)
        if expression not in known:
            for symbol in sorted(expression.free_symbols, key=str):
                if symbol not in values:
                    prime = int(nextprime(prime))
                    values[symbol] = prime * multiples.get(symbol, 1)
            known[expression] = int(expression.xreplace(values))
        return known[expression]

    def sizes_of(value: Any) -> Any:
        if isinstance(value, Tensor):
            return [number(s) for s in value.shape]
        if isinstance(value, (tuple, list)):
            return [sizes_of(v) for v in value]
        return number(value)

    bodies = [n.target.body for n in graph.nodes if isinstance(n.target, Whole)]
    nodes = [n for g in (graph, *bodies) for n in g.nodes if "val" in n.meta]
    sizes = {n: sizes_of(n.meta["val"]) for n in nodes}
    # A symbol that the model fixed stands in no expression any more.
    return sizes, frozenset(v for e, v in known.items() if e.free_symbols)
