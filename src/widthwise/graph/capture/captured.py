"""What is known of a model once it is captured: for its example, and for calls of other forms.

The graphs hold one form of call (form.py). A call of another form (a mask that the example did not
have, another flag, labels) is captured when it comes, related together with the example's graphs,
and proven. It serves if every axis means the same in it: the same features of the same tensors.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from widthwise.errors import CaptureError
from widthwise.graph.axes import Axes, find_axes
from widthwise.graph.capture import pickled
from widthwise.graph.capture.argument_names import check_names
from widthwise.graph.capture.containers import make_known
from widthwise.graph.capture.program import EvaluationOnlyWarning, Program, capture
from widthwise.graph.constraints import Constraints, constrain
from widthwise.graph.dims import Term, fully_fixed, resolve
from widthwise.graph.proof import prove
from widthwise.graph.relate import Relations, relate
from widthwise.graph.sharded import whole


@dataclass(frozen=True)
class Asked:
    """How a model is captured: as the arguments of `Elastic` of these names."""

    prove: bool
    constraints: Constraints
    outputs: tuple[str, ...] | None


@dataclass(frozen=True)
class Captured:
    """The graphs of a model for one form of call. Nothing in it changes, so copies share it.

    programs: of training and of evaluation mode. relations: what the rules found in them.
    axes: what can be cut.
    """

    programs: tuple[Program, ...]
    relations: Relations
    axes: Axes

    def __deepcopy__(self, memo: object) -> Captured:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (pickled.flat((self.programs, self.relations, self.axes)),)


def _again(flat: Any) -> Captured:
    return Captured(*pickled.whole(flat))


def capture_example(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], asked: Asked, shapes: Any
) -> Captured:
    """Capture a model on its example. Raises CaptureError, WidthError."""
    make_known((args, dict(kwargs)))
    programs = capture(model, args, kwargs, dynamic_shapes=shapes, outputs=asked.outputs)
    check_names(model, programs, further=False)
    relations = relate(programs)
    return Captured(programs, relations, _axes(model, relations, programs, asked))


def capture_further(
    model: nn.Module,
    first: Captured,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    asked: Asked,
    number: int,
) -> Captured:
    """Capture a model for a call of another form than its example's.

    number: how many forms there are so far; constants of this one are named by it. Raises
    CaptureError where the model cannot be captured for it, or has other axes.
    """
    with apart(model):
        make_known((args, dict(kwargs)))
        args, kwargs = pytree.tree_map_only(
            Tensor, lambda t: t.detach().clone(), (args, dict(kwargs))
        )
        with warnings.catch_warnings():
            if not first.programs[0].instead:  # a call in training mode is refused
                warnings.simplefilter("ignore", EvaluationOnlyWarning)
            some = capture(model, args, kwargs, outputs=asked.outputs, alone=_single(args, kwargs))
        programs = tuple(_numbered(program, number) for program in some)
        check_names(model, programs, further=True)
        relations = relate([*first.programs, *programs])
        _show_what_stays(relations, len(first.programs))
        axes = _axes(model, relations, programs, asked)
    wrong = _meaning_other(first, Captured(programs, relations, axes))
    if wrong is not None:
        axis = axes.table.get(wrong)
        because = "" if axis is None or axis.fixed_because is None else f" ({axis.fixed_because})"
        raise CaptureError(
            f"axis {wrong!r} cannot be cut in the same way as with the example{because}; give the "
            "example these arguments, too."
        )
    newest = relations.programs[-len(programs) :]
    programs = tuple(related.program for related in newest)
    return Captured(programs, dataclasses.replace(relations, programs=newest), axes)


def _single(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call is of one row, for which models take branches of their own."""
    leaves = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.dim()]
    return bool(leaves) and all(t.shape[0] == 1 for t in leaves)


@contextmanager
def apart(model: nn.Module) -> Iterator[None]:
    """Capture as it would be done outside: whatever modes are on, and leaving random numbers."""
    tensors = [*model.parameters(), *model.buffers()]
    devices = {t.device for t in tensors if t.device.type not in ("cpu", "meta")}
    with ExitStack() as stack:
        for kind in {"cpu", *(d.type for d in devices)}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        for kind in {d.type for d in devices}:
            same = [d.index for d in devices if d.type == kind]
            stack.enter_context(torch.random.fork_rng(same, device_type=kind))
        stack.enter_context(torch.random.fork_rng([]))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(whole(model))
        yield


def tensors(model: nn.Module, programs: Sequence[Program]) -> dict[str, Tensor]:
    """The model's tensors by name, as they are now, and the constants of these programs.

    The constants are on the device of the first parameter.
    """
    found: dict[str, Tensor] = {}
    parameter = next(model.parameters(), None)
    for program in programs:
        for name, constant in program.constants.items():
            found[name] = constant if parameter is None else constant.to(parameter.device)
    with whole(model):
        found.update(model.named_buffers(remove_duplicate=False))
        found.update(model.named_parameters(remove_duplicate=False))
    return found


def _axes(
    model: nn.Module, relations: Relations, programs: Sequence[Program], asked: Asked
) -> Axes:
    """The axes; the proof runs on these programs, the last ones of the relations."""
    parameters = {n for n, _ in model.named_parameters(remove_duplicate=False)}
    axes = find_axes(relations, parameters)
    if asked.prove:
        every = [related.program for related in relations.programs]
        newest = dataclasses.replace(relations, programs=relations.programs[-len(programs) :])
        axes = prove(newest, axes, tensors(model, every), parameters)
    return constrain(axes, asked.constraints)


def _numbered(program: Program, number: int) -> Program:
    """The program with names of constants that no other form's have, and outputs that may narrow.

    Outputs that the example has keep their sizes for its sake. What only this form shows, such as
    the hidden states of all layers, comes at the widths that it has, as from a cut network.
    """
    names = {name: f"{name}@{number}" for name in program.constants}
    return dataclasses.replace(
        program,
        constants={names[name]: t for name, t in program.constants.items()},
        state={node: names.get(name, name) for node, name in program.state.items()},
        matters=(False,) * len(program.matters),
    )


def _show_what_stays(relations: Relations, first: int) -> None:
    """Let the proof compare the outputs of further programs that no axis narrows."""
    for related in relations.programs[first:]:
        outputs: Any = next(n for n in related.program.graph.nodes if n.op == "output").args[0]
        stays = tuple(all(map(fully_fixed, related.dims.get(out, ()))) for out in outputs)
        related.program = dataclasses.replace(related.program, matters=stays)


def _meaning_other(first: Captured, further: Captured) -> str | None:
    """An axis that can be cut with the example and does not mean the same here."""
    free = first.axes.free
    for name, axis in free.items():
        here = further.axes.free.get(name)
        if here is None or (here.size, here.grid) != (axis.size, axis.grid):
            return name
    for tensor, dims in first.relations.state.items():
        for d, (term, now) in enumerate(zip(dims, further.relations.state[tensor], strict=True)):
            consumed = [(tensor, d) in each.relations.consumed for each in (first, further)]
            same = fully_fixed(term) or consumed[0] == consumed[1]
            if not same or _spelled(term, first.axes) != _spelled(now, further.axes, free):
                return next(n for n, a in free.items() if any(p.tensor == tensor for p in a.places))
    return None


def _spelled(term: Term, axes: Axes, free: Mapping[str, Any] | None = None) -> list[Any]:
    """A term as nested lists: names of axes, and numbers for what stays (or is none of `free`)."""
    free = axes.free if free is None else free
    words: list[Any] = []
    for factor in resolve(term):
        word: Any = axes.of.get(factor)
        if factor.parts:
            word = _joined([_spelled(part, axes, free) for part in factor.parts])
        elif word not in free:
            word = factor.size
        if isinstance(word, int) and words and isinstance(words[-1], int):
            words[-1] *= word
        else:
            words.append(word)
    return words


def _joined(parts: list[list[Any]]) -> Any:
    """A sum, with neighbours that stay as one number."""
    words: list[Any] = []
    for part in parts:
        stays = not part or (len(part) == 1 and isinstance(part[0], int))
        word: Any = (part[0] if part else 1) if stays else part
        if stays and words and isinstance(words[-1], int):
            words[-1] += word
        else:
            words.append(word)
    return words[0] if len(words) == 1 and isinstance(words[0], int) else words
