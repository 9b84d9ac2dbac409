"""User code that a graph of operators cannot hold, kept whole: custom backwards, tensor hooks.

torch.export records what the forward of a `torch.autograd.Function` computes and loses its
backward. While a model is captured, each call of such a Function therefore stands between markers,
which are operators as the tracer sees them. Afterwards everything between the markers of one call
becomes one node, whose target is a `Whole`: running it calls the Function itself, with its own
backward, and its `body` (what the forward computed) tells the rules how the features pass through
it. A hook that forward puts on a tensor is a `Whole` too, whose body is the identity, and so is the
end of a reentrant checkpoint: what runs inside it is recorded as it is, with its gradients.
"""

from __future__ import annotations

import operator
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch.autograd import Function
from torch.autograd.function import _SingleLevelFunction
from torch.utils.checkpoint import CheckpointFunction

from widthwise.errors import CaptureError
from widthwise.graph.memory import memory, written

_PLAIN = (
    int,
    float,
    complex,
    bool,
    str,
    type(None),
    type,
    torch.dtype,
    torch.device,
    torch.Size,
    types.FunctionType,
    types.BuiltinFunctionType,
)


@torch.library.custom_op("widthwise::enter", mutates_args=())
def _enter(x: Tensor, call: int, at: int) -> Tensor:
    """Mark a tensor that goes into a call; `at` is its place among the arguments."""
    return x.clone()


@torch.library.custom_op("widthwise::size", mutates_args=())
def _size(like: Tensor, n: int, call: int, at: int) -> Tensor:
    """Mark a size that goes into a call."""
    return like.new_empty(0)


@torch.library.custom_op("widthwise::leave", mutates_args=())
def _leave(x: Tensor, call: int, at: int) -> Tensor:
    """Mark a tensor that comes out of a call; `at` is its place among the outputs."""
    return x.clone()


@torch.library.custom_op("widthwise::hooked", mutates_args=())
def _hooked(x: Tensor, call: int) -> Tensor:
    """Mark a tensor that gets a hook."""
    return x.new_empty(0)


@torch.library.custom_op("widthwise::checkpointed", mutates_args=())
def _checkpointed(x: Tensor, given: list[Tensor], call: int) -> Tensor:
    """Mark what a reentrant checkpoint returns, and the tensors that it was given."""
    return x.clone()


_enter.register_fake(lambda x, call, at: torch.empty_like(x))
_leave.register_fake(lambda x, call, at: torch.empty_like(x))
_size.register_fake(lambda like, n, call, at: like.new_empty(0))
_hooked.register_fake(lambda x, call: x.new_empty(0))
_checkpointed.register_fake(lambda x, given, call: torch.empty_like(x))
for _marker in (_enter, _leave):
    _marker.register_autograd(lambda ctx, grad: (grad, None, None))
_checkpointed.register_autograd(
    lambda ctx, grad: (grad, [None] * ctx.given, None),
    setup_context=lambda ctx, inputs, output: setattr(ctx, "given", len(inputs[1])),
)

ENTER = torch.ops.widthwise.enter.default
SIZE = torch.ops.widthwise.size.default
LEAVE = torch.ops.widthwise.leave.default
HOOKED = torch.ops.widthwise.hooked.default
CHECKPOINTED = torch.ops.widthwise.checkpointed.default


class Whole:
    """The target of a graph's node that calls the user's own Python.

    Args:
        name: what the call is named in generated code and in messages.
        call: what runs, on the tensors and sizes of the call in order.
        body: what `call` computed on the example: one placeholder for each of them, then one for
            each tensor in `reads`; its output is a tensor or a tuple.

    `reads` are tensors that the body takes from elsewhere, such as constants; they are arguments of
    the node so that the rules see them, and are not passed on.
    """

    def __init__(self, name: str, call: Callable[..., Any], body: fx.Graph) -> None:
        self.__name__ = name
        self.call = call
        self.body = body

    def __call__(self, *given: Any, reads: tuple[Tensor, ...] = ()) -> Any:
        return self.call(*given)


@dataclass(frozen=True)
class FunctionCall:
    """A call of an autograd Function; tensors and sizes among its leaves stand as None."""

    kind: type[Function]
    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec
    given: tuple[int, ...]

    def __call__(self, *given: Any) -> Any:
        leaves = list(self.leaves)
        for at, value in zip(self.given, given, strict=True):
            leaves[at] = value
        return self.kind.apply(*pytree.tree_unflatten(leaves, self.spec))


@dataclass(frozen=True)
class TensorHook:
    """Registers a hook on a tensor, where that takes part in gradients."""

    hook: Callable[[Tensor], Any]

    def __call__(self, tensor: Tensor) -> Tensor:
        if tensor.requires_grad:
            tensor.register_hook(self.hook)
        return tensor


@dataclass(frozen=True)
class CheckpointEnd:
    """Gives what a reentrant checkpoint gives: no gradients, where none of its inputs has any.

    With gradients it is a tensor of its own, which may be written to though the inside needs what
    it made for its gradients.
    """

    def __call__(self, tensor: Tensor, *given: Tensor) -> Tensor:
        return tensor.clone() if any(g.requires_grad for g in given) else tensor.detach()


@dataclass(frozen=True)
class Marked:
    """A call that stands between markers; `single` if it returns one tensor rather than several."""

    call: FunctionCall | TensorHook | CheckpointEnd
    single: bool = True


@dataclass
class Calls:
    """What was marked while a model was captured: the calls by the numbers of their markers."""

    made: list[Marked] = field(default_factory=list)

    def hook(self, tensor: Tensor, hook: Callable[[Tensor], Any]) -> None:
        """Mark that a hook is put on a tensor."""
        self.made.append(Marked(TensorHook(hook)))
        HOOKED(tensor, len(self.made) - 1)

    def checkpoint(self, run: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run what a reentrant checkpoint runs, and mark what comes out of it."""
        given = [x for x in args if isinstance(x, Tensor)]

        def end(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if not given:
                return value.detach()
            self.made.append(Marked(CheckpointEnd()))
            return CHECKPOINTED(value, given, len(self.made) - 1)

        out = run(*args)
        return tuple(map(end, out)) if isinstance(out, tuple) else end(out)

    def mark(self, kind: type[Function], args: tuple[Any, ...], apply: Callable[..., Any]) -> Any:
        """Run a Function between markers and return what it returns."""
        leaves, spec = pytree.tree_flatten(args)
        given = tuple(i for i, x in enumerate(leaves) if isinstance(x, (Tensor, torch.SymInt)))
        first = next((x for x in leaves if isinstance(x, Tensor)), None)
        if first is None:
            return apply(*args)
        for leaf in leaves:
            if not isinstance(leaf, (Tensor, torch.SymInt, *_PLAIN)):
                raise CaptureError(
                    f"{kind.__name__}.apply is given a {type(leaf).__name__}, which a captured "
                    "graph cannot hold; give it the tensors and numbers of it that it needs."
                )
        number = len(self.made)
        kept = tuple(None if i in given else x for i, x in enumerate(leaves))
        call = FunctionCall(kind, kept, spec, given)
        self.made.append(Marked(call))
        for at in given:
            if isinstance(leaves[at], Tensor):
                leaves[at] = ENTER(leaves[at], number, at)
            else:
                SIZE(first, leaves[at], number, at)
        returned = apply(*pytree.tree_unflatten(leaves, spec))
        if isinstance(returned, Tensor):
            return LEAVE(returned, number, 0)
        self.made[number] = Marked(call, single=False)
        return tuple(
            LEAVE(x, number, at) if isinstance(x, Tensor) else x for at, x in enumerate(returned)
        )


@contextmanager
def marked_functions(calls: Calls) -> Iterator[None]:
    """Mark what autograd Functions do in this thread.

    torch shows such a call nowhere but on its way from `Function.apply` to the compiled `apply` of
    the base class. As long as a model is captured, a step in between marks it, however the user got
    hold of `apply`. Other threads, torch's own Functions, and Functions that are called inside
    others go through unchanged.
    """
    inside = False

    def mark(kind: type[Function], bound: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        nonlocal inside
        if kind is CheckpointFunction:
            return calls.checkpoint(args[0], args[2:])
        own = kind.__module__.partition(".")[0] not in ("torch", "functorch")
        if inside or not own:
            return bound(*args)
        inside = True
        try:
            return calls.mark(kind, args, bound)
        finally:
            inside = False

    with _instead_of_apply(mark):
        yield


@contextmanager
def plain_checkpoints() -> Iterator[None]:
    """Let reentrant checkpoints in this thread do what a captured graph does in their place."""

    def run(kind: type[Function], bound: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if kind is not CheckpointFunction:
            return bound(*args)
        given = [x for x in args[2:] if isinstance(x, Tensor)]
        return pytree.tree_map_only(
            Tensor, lambda t: CheckpointEnd()(t, *given), args[0](*args[2:])
        )

    with _instead_of_apply(run):
        yield


@contextmanager
def _instead_of_apply(
    step: Callable[[type[Function], Callable[..., Any], tuple[Any, ...]], Any],
) -> Iterator[None]:
    """Take a step in between, given a Function, its compiled `apply` and the arguments."""
    compiled = torch._C._FunctionBase.__dict__["apply"]  # type: ignore[attr-defined]
    thread = threading.get_ident()

    def apply(kind: type[Function], *args: Any) -> Any:
        bound = compiled.__get__(None, kind)
        return step(kind, bound, args) if threading.get_ident() == thread else bound(*args)

    _SingleLevelFunction.apply = classmethod(apply)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del _SingleLevelFunction.apply  # type: ignore[attr-defined]


def keep_whole(graph: fx.Graph, calls: Calls) -> None:
    """Make one node of everything between the markers of each call.

    Raises CaptureError for a Function that writes to its arguments.
    """
    for number, marked in enumerate(calls.made):
        if isinstance(marked.call, TensorHook):
            _keep_hook(graph, number, marked.call)
        elif isinstance(marked.call, CheckpointEnd):
            _keep_end(graph, number, marked.call)
        else:
            _keep_function(graph, number, marked.call, marked.single)
    graph.lint()


def inline_bodies(graph: fx.Graph) -> None:
    """Put what user code computed in the place of the nodes that call it, gradients aside."""
    for node in list(graph.nodes):
        if not isinstance(node.target, Whole):
            continue
        body = node.target.body
        given = [*node.args, *node.kwargs.get("reads", ())]
        values = dict(zip(body.find_nodes(op="placeholder"), given, strict=True))
        with graph.inserting_before(node):
            result: Any = graph.graph_copy(body, values)
        if isinstance(result, tuple):
            for user in list(node.users):
                user.replace_all_uses_with(result[user.args[1]])  # type: ignore[index]
                graph.erase_node(user)
        else:
            node.replace_all_uses_with(result)
        graph.erase_node(node)


def _keep_hook(graph: fx.Graph, number: int, call: TensorHook) -> None:
    for marker in _markers(graph, HOOKED, number):
        tensor = marker.args[0]
        assert isinstance(tensor, fx.Node)
        body = fx.Graph()
        source = body.placeholder("given_0")
        source.meta = dict(tensor.meta)
        body.output(source)
        with graph.inserting_before(marker):
            kept = graph.call_function(Whole("hooked", call, body), (tensor,))
        kept.meta = dict(tensor.meta)
        order = {n: i for i, n in enumerate(graph.nodes)}
        users = [n for n in graph.nodes if tensor in n.all_input_nodes]
        for user in users:
            tensor.users.setdefault(user)  # regions that torch took apart forget some
        graph.erase_node(marker)
        for user in users:
            if user is not marker and order[user] > order[kept]:
                user.replace_input_with(tensor, kept)


def _keep_end(graph: fx.Graph, number: int, call: CheckpointEnd) -> None:
    for marker in _markers(graph, CHECKPOINTED, number):
        tensor, given, _ = marker.args
        sources: Any = [tensor, *given]  # type: ignore[misc, union-attr]
        with graph.inserting_before(marker):
            end = graph.call_function(
                Whole("checkpoint_end", call, _body(sources, [], tensor)), tuple(sources)
            )
        end.meta = dict(marker.meta)
        marker.replace_all_uses_with(end)
        graph.erase_node(marker)


def _keep_function(graph: fx.Graph, number: int, call: FunctionCall, single: bool) -> None:
    enters = {n.args[2]: n for n in _markers(graph, ENTER, number)}
    sizes = {n.args[3]: n for n in _markers(graph, SIZE, number)}
    leaves = _markers(graph, LEAVE, number)
    markers = [*enters.values(), *sizes.values()]
    if leaves:
        inner = _between(graph, set(markers), leaves[0])
        _check_writes(graph, call, set(enters.values()), inner)
        reads = _reads(inner, leaves, set(markers))
        sources = [enters.get(at, sizes.get(at)) for at in call.given]
        outputs = None if single else {int(n.args[2]): n.args[0] for n in leaves}  # type: ignore[arg-type]
        body = _body([*sources, *reads], inner, leaves[0].args[0] if single else outputs)
        given = tuple(
            enters[at].args[0] if at in enters else sizes[at].args[1] for at in call.given
        )
        with graph.inserting_before(leaves[0]):
            node = graph.call_function(
                Whole(call.kind.__name__, call, body),
                given,
                {"reads": tuple(reads)} if reads else {},
            )
        _take_over(graph, node, leaves, single)
        for dead in reversed(inner):
            if not dead.users:
                graph.erase_node(dead)
    for marker in markers:
        if marker.target is ENTER:
            source = marker.args[0]
            assert isinstance(source, fx.Node)
            marker.replace_all_uses_with(source)
        graph.erase_node(marker)


def _markers(graph: fx.Graph, kind: Any, number: int) -> list[fx.Node]:
    at = {ENTER: 1, SIZE: 2, LEAVE: 1, HOOKED: 1, CHECKPOINTED: 2}[kind]
    return [n for n in graph.find_nodes(op="call_function", target=kind) if n.args[at] == number]


def _between(graph: fx.Graph, first: set[fx.Node], last: fx.Node) -> list[fx.Node]:
    """The operators after all of the first nodes and before the last one, in order."""
    found: list[fx.Node] = []
    for node in graph.nodes:
        if node in first:
            found = []
        elif node is last:
            break
        else:
            found.append(node)
    return found


def _check_writes(
    graph: fx.Graph, call: FunctionCall, enters: set[fx.Node], inner: list[fx.Node]
) -> None:
    lies_in = memory(graph)
    for node in inner:
        if any(lies_in[w] in enters for w in written(node)):
            raise CaptureError(
                f"{call.kind.__name__} writes to its arguments in forward, which narrower networks "
                "would lose; let it compute a new tensor."
            )


def _reads(inner: list[fx.Node], leaves: list[fx.Node], markers: set[fx.Node]) -> list[fx.Node]:
    """What a call takes from elsewhere than its arguments."""
    known = {*inner, *markers}
    used = [s for n in (*inner, *leaves) for s in n.all_input_nodes]
    return list(dict.fromkeys(s for s in used if s not in known))


def _body(sources: list[Any], inner: list[fx.Node], outputs: Any) -> fx.Graph:
    body = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    for i, source in enumerate(sources):
        placeholder = body.placeholder(f"given_{i}")
        if source is not None:
            placeholder.meta = dict(source.meta)
            new[source] = placeholder
    for node in inner:
        new[node] = body.node_copy(node, lambda n: new[n])
    if isinstance(outputs, dict):
        width = max(outputs) + 1
        body.output(tuple(new[outputs[i]] if i in outputs else None for i in range(width)))
    else:
        body.output(new[outputs])
    return body


def _take_over(graph: fx.Graph, node: fx.Node, leaves: list[fx.Node], single: bool) -> None:
    """Let a call's node stand for the markers of its outputs."""
    node.meta = dict(leaves[0].meta)
    if single:
        leaves[0].replace_all_uses_with(node)
    else:
        values: list[Any] = [None] * (max(int(n.args[2]) for n in leaves) + 1)  # type: ignore[arg-type]
        for leaf in leaves:
            at: Any = leaf.args[2]
            values[at] = leaf.meta.get("val")
            with graph.inserting_before(leaf):
                item = graph.call_function(operator.getitem, (node, at))
            item.meta = dict(leaf.meta)
            leaf.replace_all_uses_with(item)
        node.meta["val"] = values
    for leaf in leaves:
        graph.erase_node(leaf)
