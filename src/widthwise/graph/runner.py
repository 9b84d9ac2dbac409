"""Running a captured graph on the model's own tensors, at any widths.

Tensors are found anew at every call, whatever replaced them meanwhile, and inputs that the graph
was not captured for are refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from widthwise.errors import CaptureError
from widthwise.graph.capture import Program
from widthwise.graph.cut import fixed_sizes
from widthwise.graph.sharded import gathered


class Form:
    """The form of the inputs that a graph was captured for."""

    def __init__(self, model: nn.Module, program: Program) -> None:
        self.signature = inspect.signature(model.forward)
        self.program = program
        self.fixed = fixed_sizes(program)

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The arguments as the graph takes them. Raises CaptureError for another form."""
        spec = self.program.in_spec
        if (
            len(args) == spec.child(0).num_children
            and not kwargs
            and not spec.child(1).num_children
        ):
            flat, given = pytree.tree_flatten((args, kwargs))
        else:
            flat, given = pytree.tree_flatten(self._arranged(args, kwargs))
        if given != spec:
            raise CaptureError(
                "The inputs have another form than the example that the model was captured with; "
                "pass the same arguments, nested in the same way."
            )
        for i, (value, fixed) in enumerate(zip(flat, self.fixed, strict=True)):
            self._check(i, value, fixed)
        refused = self.program.guards.refuse(flat)
        if refused is not None:
            raise CaptureError(refused)
        return flat

    def _check(self, i: int, value: Any, fixed: dict[int, int]) -> None:
        """Refuse what the captured graph would silently compute something else for."""
        name, example = self.program.inputs[i], self.program.example[i]
        if not isinstance(value, Tensor):
            if value != example:
                raise CaptureError(
                    f"The argument {name} is {value!r}, but the model was captured with "
                    f"{example!r}; numbers are part of the graph: capture it again for this one."
                )
            return
        other = [d for d, s in fixed.items() if value.dim() > d and value.shape[d] != s]
        if value.dim() != example.dim() or other:
            line = self.program.guards.lines.get((i, other[0]), "") if other else ""
            why = f", since the model fixes dim {other[0]}{line}" if line else ""
            raise CaptureError(
                f"The input {name} has shape {tuple(value.shape)}, but the model was captured with "
                f"{tuple(example.shape)}, where only the sizes of dims "
                f"{[d for d in range(example.dim()) if d not in fixed]} may vary{why}; capture it "
                "again."
            )

    def _arranged(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """The arguments as the example gave them, by position or by keyword."""
        spec = self.program.in_spec
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise CaptureError(
                f"The model's forward does not take these inputs: {error}."
            ) from error
        names = list(self.signature.parameters)
        positional = names[: spec.child(0).num_children]
        if any(n not in bound.arguments for n in positional):
            return args, kwargs
        wanted = spec.child(1).context or []
        return (
            tuple(bound.arguments[n] for n in positional),
            {n: bound.arguments[n] for n in wanted if n in bound.arguments},
        )


class Runner:
    """An elastic graph ready to run on the model's own tensors."""

    def __init__(
        self, model: nn.Module, program: Program, graph: fx.Graph, shared: fx.Graph | None = None
    ) -> None:
        self.model = model
        self.program = program
        self.form = Form(model, program)
        self.module = fx.GraphModule(nn.Module(), graph)
        self.shared = None if shared is None else fx.GraphModule(nn.Module(), shared)
        self.sources = [_source(model, program, name) for name in program.state.values()]
        held = (source[name] for source, name in self.sources)
        self.device = next((t.device for t in held), torch.device("cpu"))

    def __call__(self, widths: Mapping[str, int], args: tuple[Any, ...], kwargs: Any) -> Any:
        outputs = self.module(*widths.values(), *self._inputs(args, kwargs))
        return pytree.tree_unflatten(outputs, self.program.out_spec)

    def each(
        self, many: Iterable[Mapping[str, int]], args: tuple[Any, ...], kwargs: Any
    ) -> Iterator[Any]:
        """The outputs at each of the widths; the shared part is run once."""
        assert self.shared is not None
        inputs = self._inputs(args, kwargs)
        with torch.no_grad():
            given = self.shared(*inputs)
        sums: dict[int, Any] = {}
        for widths in many:
            with torch.no_grad():
                outputs = self.module.forward(*widths.values(), *inputs, *given, sums)
            yield pytree.tree_unflatten(outputs, self.program.out_spec)

    def _inputs(self, args: tuple[Any, ...], kwargs: Any) -> list[Any]:
        """The model's tensors as they are now, and the flattened arguments."""
        state = [holder[name] for holder, name in self.sources]
        if state and state[0].device != self.device:
            self._move(state[0].device)
            state = [holder[name] for holder, name in self.sources]
        return [*gathered(state), *self.form.flatten(args, kwargs)]

    def _move(self, device: torch.device) -> None:
        """Operators that make tensors make them on the model's device."""
        for module in filter(None, (self.module, self.shared)):
            for node in module.graph.nodes:
                if "device" in node.kwargs:
                    node.kwargs = {**node.kwargs, "device": device}
            module.recompile()
        self.program.constants.update(
            {name: t.to(device) for name, t in self.program.constants.items()}
        )
        self.sources = [_source(self.model, self.program, n) for n in self.program.state.values()]
        self.device = device


def _source(model: nn.Module, program: Program, name: str) -> tuple[dict[str, Any], str]:
    """Where a tensor is held, so that it is found anew at every call, whatever replaced it."""
    if name in program.constants:
        return program.constants, name
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    holder: dict[str, Any] = module._parameters if last in module._parameters else module._buffers
    return holder, last
