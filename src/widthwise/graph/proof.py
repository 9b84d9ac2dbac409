"""The shuffle proof: an axis is real when shuffling its features everywhere changes nothing.

It runs on the network cut to a few features for each axis, with all parameters and statistics made
random in float64: ones, zeros and equal rows would hide mistakes, small widths cost nothing, and in
double precision a wrong axis stands far above rounding. All axes are shuffled together; only when
that fails are they searched for the wrong ones, which are then fixed, with that reason.

It needs shapes only, so a model on the meta device is proven without its weights ever being made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from widthwise.graph.axes import Axes, find_axes
from widthwise.graph.dims import Factor, fix, fully_fixed
from widthwise.graph.own_functions import inline_bodies
from widthwise.graph.relate import Related, Relations
from widthwise.graph.rewrite import cut_graph
from widthwise.graph.slicing import layout, part

TOLERANCE = 1e-8  # relative; correct networks stay below 1e-13, a wrong head split gives 1e-5
_RANDOM = {"randn_like", "rand_like", "randn", "rand"}
_DROPOUTS = {"p", "dropout_p", "dropout"}


def prove(
    relations: Relations, axes: Axes, state: Mapping[str, Tensor], parameters: set[str]
) -> Axes:
    """The axes that pass; those that do not are fixed in the relations and listed so.

    `state` holds the model's tensors by name; it is read, never written.
    """
    while axes.free:
        with torch.device("cpu"):  # the user may be inside `with torch.device("meta")`
            wrong = _wrong(relations, axes, state, list(axes.free))
        if not wrong:
            return axes
        for factor, name in axes.of.items():
            if name in wrong:
                fix((factor,), wrong[name])
        axes = find_axes(relations, parameters)
    return axes


def _wrong(relations: Relations, axes: Axes, state: Any, names: list[str]) -> dict[str, str]:
    """Which of these axes are wrong and why, by bisecting; none when they pass together."""
    problem = _problem(relations, axes, state, names)
    if problem is None:
        return {}
    if len(names) == 1:
        return {names[0]: problem}
    half = len(names) // 2
    found = _wrong(relations, axes, state, names[:half])
    found |= _wrong(relations, axes, state, names[half:])
    return found or dict.fromkeys(names, problem)  # each half is right alone, not together


def _problem(relations: Relations, axes: Axes, state: Any, names: list[str]) -> str | None:
    """What happens when the features of these axes are shuffled; None when nothing does."""
    small = {
        name: min(axis.size, 4 + i % 3) if name in names else axis.size
        for i, (name, axis) in enumerate(axes.free.items())
    }
    generator = torch.Generator().manual_seed(0)
    orders = {name: _shuffled(small[name], generator) for name in names}
    try:
        random = _random_state(relations, axes, state, small, generator)
        plain = [_outputs(related, axes, small, random) for related in relations.programs]
        for some in _rounds(orders):
            shuffled = _shuffled_state(relations, axes, random, small, some)
            for related, first in zip(relations.programs, plain, strict=True):
                if not _agree(first, _outputs(related, axes, small, shuffled)):
                    return "shuffling its features changes the output"
        # What was not cut above shows only here that some size does not follow it.
        narrow = {n: w - w // 2 if w == axes.free[n].size else w for n, w in small.items()}
        if any(narrow[name] < small[name] for name in names):
            narrow |= {n: w for n, w in small.items() if n not in names}
            random = _random_state(relations, axes, state, narrow, generator)
            for related in relations.programs:
                _outputs(related, axes, narrow, random)
    except Exception as error:  # noqa: BLE001 - a wrong graph fails in any way
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        return f"cut to a few features the network does not run ({text})"
    return None


def _rounds(orders: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """All orders together; then the short ones in turns, of any two once one without the other.

    Two features can be shuffled in one way only, so two wrong axes of two might undo each other.
    """
    yield orders
    short = [name for name, order in orders.items() if 1 < len(order) < 4]
    for bit in range((len(short) - 1).bit_length() if short else 0):
        yield {n: orders[n] for i, n in enumerate(short) if i >> bit & 1}


def _shuffled(size: int, generator: torch.Generator) -> Tensor:
    """A permutation that is not the identity, nor one that a roll or a flip would not notice."""
    while True:
        order = torch.randperm(size, generator=generator)
        if size < 3 or not (
            _commutes(order, torch.arange(size).roll(1))
            or (size > 3 and _commutes(order, torch.arange(size).flip(0)))
        ):
            break
    return order.flip(0) if size == 2 and order[0] == 0 else order


def _commutes(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a[b], b[a])


def _random_state(
    relations: Relations, axes: Axes, state: Mapping[str, Tensor], widths: dict[str, int], g: Any
) -> dict[str, Tensor]:
    """Cut, random tensors in float64; signs of all-positive ones (variances) are kept."""
    made: dict[str, Tensor] = {}
    for name, dims in relations.state.items():
        specs = tuple(
            (d, layout(t, lambda f: widths[axes.of[f]] if f in axes.of else f.size))
            for d, t in enumerate(dims)
            if not fully_fixed(t)
        )
        with torch.no_grad():
            value = part(state[name].detach(), specs)
        value = _stand_in(value, 1) if value.is_meta else value.cpu()
        made[name] = random_like(value, g) if value.is_floating_point() else value.clone()
    return made


def _stand_in(value: Tensor, choices: int) -> Tensor:
    """Values for a tensor on the meta device: ones, to be made random; integers below `choices`.

    The integers of a model mostly pick rows (position or relative-position tables): zero is in
    every table. Those of an input must differ, or attention would average equal tokens. Masks
    alternate, so that nothing is masked as a whole.
    """
    if value.is_floating_point() or value.is_complex():
        return torch.ones(value.shape, dtype=value.dtype)
    top = 2 if value.dtype is torch.bool else choices
    row = torch.arange(value.shape[-1] if value.dim() else 1) % top
    return row.flip(0).to(value.dtype).expand(value.shape or (1,)).reshape(value.shape).clone()


def random_like(value: Tensor, g: torch.Generator) -> Tensor:
    """Random float64 values as a trained tensor might hold them; positive ones stay positive."""
    noise = torch.rand(value.shape, generator=g, dtype=torch.float64)
    positive = bool((value > 0).all() if value.dim() > 1 else (value >= 0).all())
    if value.dim() > 1 and value.numel() > 1 and not positive:
        # Uniform with the variance that keeps activations at unit scale.
        spread: float = (12.0 / value[0].numel()) ** 0.5
        return (noise - 0.5) * spread
    if positive:
        return value.double() * (0.5 + noise) + 0.1 * noise
    return value.double() + 0.5 * (noise - 0.5)


def _shuffled_state(
    relations: Relations, axes: Axes, state: Any, widths: dict[str, int], orders: dict[str, Tensor]
) -> dict[str, Tensor]:
    def full(f: Factor) -> int:
        return widths[axes.of[f]] if f in axes.of else f.size

    def order(f: Factor) -> Any:
        return orders.get(axes.of[f], full(f)) if f in axes.of else f.size

    return {
        name: part(
            state[name],
            tuple((d, layout(t, order, full)) for d, t in enumerate(dims) if not fully_fixed(t)),
        )
        for name, dims in relations.state.items()
    }


def _outputs(
    related: Related, axes: Axes, widths: Mapping[str, int], state: Mapping[str, Tensor]
) -> list[Any]:
    program = related.program
    graph = cut_graph(related, axes, widths)
    inline_bodies(graph)
    _without_chance(graph)
    tensors = [state[target].clone() for target in program.state.values()]
    inputs = [_example(x) if isinstance(x, Tensor) else x for x in program.example]
    # New tensors without a dtype of their own take the default one.
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            outputs = fx.GraphModule(torch.nn.Module(), graph)(*tensors, *inputs)
    finally:
        torch.set_default_dtype(usual)
    pairs = zip(outputs, program.matters, strict=True)
    return [o for o, matters in pairs if matters and isinstance(o, Tensor)]


def _example(x: Tensor) -> Tensor:
    """An example input on the CPU, in double precision."""
    if x.is_meta:
        x = _stand_in(x, 2)
        return random_like(x, torch.Generator().manual_seed(0)) if x.is_floating_point() else x
    x = x.detach().cpu()
    return x.double() if x.is_floating_point() else x


def _without_chance(graph: fx.Graph) -> None:
    """Randomness off, every float in double precision, everything on the CPU."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        node.args = fx.node.map_aggregate(node.args, in_double)
        node.kwargs = fx.node.map_aggregate(node.kwargs, in_double)
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = node.target._schema.name.removeprefix("aten::")
        arguments = [a.name for a in node.target._schema.arguments]
        if "dropout" in name or name in {"scaled_dot_product_attention", "lstm", "gru", "rnn_tanh"}:
            for i, argument in enumerate(arguments):
                if argument in _DROPOUTS and i < len(node.args):
                    node.args = (*node.args[:i], 0.0, *node.args[i + 1 :])
        elif name in _RANDOM:
            _constant(node, name)


def _constant(node: fx.Node, name: str) -> None:
    """Equal entries instead of random ones, which shuffling would not carry along."""
    like = name.endswith("_like")
    node.target = torch.ops.aten.ones_like.default if like else torch.ops.aten.ones.default
    known = {a.name for a in node.target._schema.arguments}
    node.kwargs = {k: v for k, v in node.kwargs.items() if k in known}


def in_double(value: Any) -> Any:
    """An argument as the proof has it: floats in double precision, everything on the CPU."""
    if isinstance(value, torch.device):
        return torch.device("cpu")
    narrow = (torch.float32, torch.float16, torch.bfloat16)
    return torch.float64 if value in narrow and isinstance(value, torch.dtype) else value


def _agree(first: list[Any], second: list[Any]) -> bool:
    for a, b in zip(first, second, strict=True):
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return False
            continue
        if a.numel() and a.isnan().all():
            return False  # it would hide any difference
        scale = a[a.isfinite()].abs().max() if a.isfinite().any() else torch.tensor(1.0)
        if not torch.allclose(a, b, rtol=TOLERANCE, atol=float(TOLERANCE * scale), equal_nan=True):
            return False
    return True
