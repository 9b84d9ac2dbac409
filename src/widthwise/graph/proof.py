"""The shuffle proof: an axis is real when shuffling its features everywhere changes nothing.

It runs on the network cut to a few features for each axis, with all parameters and statistics made
random in float64 or complex128: ones, zeros and equal rows would hide mistakes, small widths cost
nothing, and in double precision a wrong axis stands far above rounding. All axes are shuffled
together; only when that fails are they searched for the wrong ones, which are then fixed, with that
reason. The search shuffles fewer and fewer axes of the same narrow network, so that it is fast.

It needs shapes only, so a model on the meta device is proven without its weights ever being made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from widthwise.graph.axes import Axes, find_axes
from widthwise.graph.capture.own_functions import inline_bodies
from widthwise.graph.derandomize import without_chance
from widthwise.graph.dims import Factor, fix, fully_fixed
from widthwise.graph.relate import Related, Relations
from widthwise.graph.rewrite import cut_graph
from widthwise.graph.single import in_single
from widthwise.graph.slicing import layout, part

TOLERANCE = 1e-8  # relative; correct networks stay below 1e-13, a wrong head split gives 1e-5


def prove(
    relations: Relations, axes: Axes, state: Mapping[str, Tensor], parameters: set[str]
) -> Axes:
    """The axes that pass; those that do not are fixed in the relations and listed so.

    `state` holds the model's tensors by name; it is read, never written.
    """
    while axes.free:
        with torch.device("cpu"):  # the user may be inside `with torch.device("meta")`
            wrong = _wrong(relations, axes, state)
        if not wrong:
            return axes
        for factor, name in axes.of.items():
            if name in wrong:
                fix((factor,), wrong[name])
        axes = find_axes(relations, parameters)
    return axes


def _wrong(relations: Relations, axes: Axes, state: Any) -> dict[str, str]:
    """Which axes are wrong and why; none when all pass together."""
    names = list(axes.free)
    try:
        # One narrow network serves to find all the axes that must not be shuffled.
        trial = _Trial(relations, axes, state, names)
        found = _bisect(names, trial.shuffled)
        if not found:
            trial.run_narrower(names)
        return found
    except Exception:  # noqa: BLE001, S110 - a wrong graph fails in any way; which axis does it?
        pass
    return _bisect(names, lambda some: _problem(relations, axes, state, some))


def _bisect(names: list[str], problem: Callable[[list[str]], str | None]) -> dict[str, str]:
    """Which of these axes have a problem, and which; none when they have none together."""
    found = problem(names)
    if found is None:
        return {}
    if len(names) == 1:
        return {names[0]: found}
    half = len(names) // 2
    wrong = _bisect(names[:half], problem) | _bisect(names[half:], problem)
    return wrong or dict.fromkeys(names, found)  # each half is right alone, not together


def _problem(relations: Relations, axes: Axes, state: Any, names: list[str]) -> str | None:
    """What happens when these axes are cut and shuffled, the others whole; None when nothing."""
    try:
        trial = _Trial(relations, axes, state, names)
        found = trial.shuffled(names)
        if found is None:
            trial.run_narrower(names)
        return found
    except Exception as error:  # noqa: BLE001 - a wrong graph fails in any way
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        return f"cut to a few features the network does not run ({text})"


class _Trial:
    """The network with some axes cut to a few features, with random weights, and its outputs."""

    def __init__(self, relations: Relations, axes: Axes, state: Any, names: list[str]) -> None:
        self.relations, self.axes, self.state = relations, axes, state
        self.widths = {
            name: min(axis.size, 4 + i % 3) if name in names else axis.size
            for i, (name, axis) in enumerate(axes.free.items())
        }
        self.generator = torch.Generator().manual_seed(0)
        self.orders = {name: _shuffled(self.widths[name], self.generator) for name in names}
        self.random = _random_state(relations, axes, state, self.widths, self.generator)
        self.graphs = [_narrow(related, axes, self.widths) for related in relations.programs]
        self.outputs = self._run(self.random)

    def _run(self, random: Mapping[str, Tensor]) -> list[Any]:
        pairs = zip(self.relations.programs, self.graphs, strict=True)
        return [_outputs(related, graph, random) for related, graph in pairs]

    def shuffled(self, names: list[str]) -> str | None:
        """Whether shuffling the features of these axes changes an output."""
        for some in _rounds({name: self.orders[name] for name in names}):
            random = _shuffled_state(self.relations, self.axes, self.random, self.widths, some)
            if not all(map(_agree, self.outputs, self._run(random))):
                return "shuffling its features changes the output"
        return None

    def run_narrower(self, names: list[str]) -> None:
        """Run once more, narrower: what was not cut yet shows only here that a size is literal."""
        full = {name: axis.size for name, axis in self.axes.free.items()}
        narrow = {n: w - w // 2 if w == full[n] else w for n, w in self.widths.items()}
        if any(narrow[name] < self.widths[name] for name in names):
            narrow |= {n: w for n, w in self.widths.items() if n not in names}
            random = _random_state(self.relations, self.axes, self.state, narrow, self.generator)
            for related in self.relations.programs:
                _outputs(related, _narrow(related, self.axes, narrow), random)


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
        made[name] = random_like(value, g) if _continuous(value) else value.clone()
    return made


def _stand_in(value: Tensor, choices: int) -> Tensor:
    """Values for a tensor on the meta device: ones, to be made random; integers below `choices`.

    The integers of a model mostly pick rows (position or relative-position tables): zero is in
    every table. The tokens of an input must differ, or attention would average equal tokens. Masks
    alternate, so that nothing is masked as a whole.
    """
    if value.is_floating_point() or value.is_complex():
        return torch.ones(value.shape, dtype=value.dtype)
    top = 2 if value.dtype is torch.bool else choices
    row = torch.arange(value.shape[-1] if value.dim() else 1) % top
    return row.flip(0).to(value.dtype).expand(value.shape or (1,)).reshape(value.shape).clone()


def random_like(value: Tensor, g: torch.Generator) -> Tensor:
    """Random float64 values as a trained tensor might hold them; positive ones stay positive.

    Complex values, in complex128, are two such numbers each. Sparse matrices stay.
    """
    if value.layout is not torch.strided:
        return value.double()
    if value.is_complex():
        return torch.view_as_complex(random_like(torch.view_as_real(value.resolve_conj()), g))
    noise = _noise(value.shape, g)
    positive = bool((value > 0).all() if value.dim() > 1 else (value >= 0).all())
    if value.dim() > 1 and value.numel() > 1 and not positive:
        # Uniform with the variance that keeps activations at unit scale.
        spread: float = (12.0 / value[0].numel()) ** 0.5
        return (noise - 0.5) * spread
    if positive:
        return value.double() * (0.5 + noise) + 0.1 * noise
    return value.double() + 0.5 * (noise - 0.5)


_PERIOD = 131_071  # a prime: equal rows of a large tensor lie as many rows from each other


def _noise(shape: torch.Size, g: torch.Generator) -> Tensor:
    """Uniform float64 numbers in [0, 1), which come again in large tensors: drawing takes long."""
    drawn = torch.rand(min(shape.numel(), _PERIOD), generator=g, dtype=torch.float64)
    if shape.numel() > _PERIOD:
        drawn = drawn.repeat(-(-shape.numel() // _PERIOD))[: shape.numel()]
    return drawn.view(shape)


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


def _narrow(related: Related, axes: Axes, widths: Mapping[str, int]) -> fx.Interpreter:
    """The network cut to these widths, in double precision and without chance."""
    graph = cut_graph(related, axes, widths)
    inline_bodies(graph)
    without_chance(graph)
    in_single(graph)
    for node in graph.nodes:
        if node.op == "call_function":
            node.args = fx.node.map_aggregate(node.args, in_double)
            node.kwargs = fx.node.map_aggregate(node.kwargs, in_double)
    return fx.Interpreter(torch.nn.Module(), graph=graph)  # compiling it takes longer than running


def _outputs(
    related: Related, network: fx.Interpreter, state: Mapping[str, Tensor]
) -> list[Tensor]:
    """The outputs that matter, for the example."""
    program = related.program
    tensors = [state[target].clone() for target in program.state.values()]
    inputs = [_example(x) if isinstance(x, Tensor) else x for x in program.example]
    # New tensors without a dtype of their own take the default one.
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            outputs = network.run(*tensors, *inputs)
    finally:
        torch.set_default_dtype(usual)
    pairs = zip(outputs, program.matters, strict=True)
    return [o for o, matters in pairs if matters and isinstance(o, Tensor)]


def _example(x: Tensor) -> Tensor:
    """An example input on the CPU, in double precision."""
    if x.is_meta:
        x = _stand_in(x, 2)
        return random_like(x, torch.Generator().manual_seed(0)) if _continuous(x) else x
    x = x.detach().cpu()
    return x.to(_DOUBLE.get(x.dtype, x.dtype))


def _continuous(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


_DOUBLE = dict.fromkeys(
    (torch.float32, torch.float16, torch.bfloat16), torch.float64
) | dict.fromkeys((torch.complex64, torch.complex32), torch.complex128)


def in_double(value: Any) -> Any:
    """An argument as the proof has it: numbers in double precision, everything on the CPU."""
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return _DOUBLE.get(value, value) if isinstance(value, torch.dtype) else value


def _agree(first: list[Tensor], second: list[Tensor]) -> bool:
    for a, b in zip(first, second, strict=True):
        if not _continuous(a):
            if not torch.equal(a, b):
                return False
            continue
        if a.numel() and a.isnan().all():
            return False  # it would hide any difference
        scale = a[a.isfinite()].abs().max() if a.isfinite().any() else torch.tensor(1.0)
        if not torch.allclose(a, b, rtol=TOLERANCE, atol=float(TOLERANCE * scale), equal_nan=True):
            return False
    return True
