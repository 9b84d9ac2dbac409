"""What an `Elastic` knows of its model: the captured graphs, how they run, and how they are cut.

`net.engine` is for the library; users have what they need on the network itself. All widths that an
engine takes are of free axes by name, full where an axis is not named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Final

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from widthwise.elastic import zeros
from widthwise.elastic.placed import placed
from widthwise.elastic.recalibration import (
    Recalibrate,
    of_width,
    reestimate_,
)
from widthwise.elastic.scaling import scaled_dims
from widthwise.elastic.structure import Structure
from widthwise.errors import CaptureError
from widthwise.graph.axes import Axes
from widthwise.graph.capture.agreement import check_agreement
from widthwise.graph.capture.captured import (
    Asked,
    Captured,
    apart,
    capture_example,
    capture_further,
    tensors,
)
from widthwise.graph.capture.program import Program
from widthwise.graph.cut import counting_norms, cut_state, graph_module, make_on_cpu
from widthwise.graph.dims import fully_fixed, size
from widthwise.graph.rebuild.module import Patch, own_class
from widthwise.graph.relate import Related, Relations
from widthwise.graph.rewrite import keeper
from widthwise.graph.runner import Runner, Runners
from widthwise.graph.sharded import whole
from widthwise.graph.shared import shared_nodes
from widthwise.graph.slicing import KeptDim, count, layout

_MOST_FORMS: Final = 8  # forms of call, besides the example's, that one network captures


class Engine:
    """The captured graphs of a model, in both modes and for each form of call that came.

    `scaled` are the (tensor, dim) that are multiplied by full size / width, where the draw has a
    scale; before them or behind them stand the activations (see `scaling`).

    Args:
        model: the user's module, whose parameters it runs with.
        args: example inputs, as `model` takes them.
        kwargs: example inputs by name.
        asked: whether to prove, the constraints and the outputs that matter.
        scale: multiply activations by full size / width, as draws with a scale ask for.
        dynamic_shapes: as for torch.export.export; None frees the sizes that can be.

    Raises:
        CaptureError: Naming operator, module and remedy, when the model cannot be captured.
        WidthError: For constraints that do not fit its axes.
    """

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        asked: Asked,
        *,
        scale: bool,
        dynamic_shapes: Any = None,
    ) -> None:
        self.model = model
        self._asked = asked
        first = capture_example(model, args, kwargs, asked, dynamic_shapes)
        self._captured = [first]  # for the example, then for each other form of call that came
        self.scaled: frozenset[tuple[str, int]] = (
            _scaled_dims(model, first) if scale else frozenset()
        )
        self._served = [self._runners_of(first)]
        if asked.prove:
            self._check_agreement(first, self._served[0])
        self._structure = Structure(model)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: the graphs are shared or written, what runs them is rebuilt."""
        return {**self.__dict__, "_served": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What `__getstate__` gave."""
        self.__dict__.update(state)
        self._served = [self._runners_of(each) for each in self._captured]

    # ------------------------------------------------------------ what was found

    @property
    def programs(self) -> tuple[Program, ...]:
        """The graphs of the example's form, of training and of evaluation mode."""
        return self._captured[0].programs

    @property
    def relations(self) -> Relations:
        """What the rules found in the captured graphs of both modes."""
        return self._captured[0].relations

    @property
    def table(self) -> Axes:
        """All axes, and which factors of the relations belong to which."""
        return self._captured[0].axes

    @property
    def evaluation(self) -> Related:
        """The captured graph of evaluation mode, with what the rules found in it."""
        return next(r for r in self.relations.programs if not r.program.training)

    @property
    def unknown(self) -> dict[str, str]:
        """Operators without a rule, and a module that runs each; what they touch is fixed."""
        return dict(self.relations.unknown)

    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The (args, kwargs) that the model was captured with, on the model's device."""
        return self._example_of(self._captured[0])

    def _example_of(self, captured: Captured) -> tuple[tuple[Any, ...], dict[str, Any]]:
        program = captured.programs[-1]
        tensor = next(self.model.parameters(), None)
        device = "cpu" if tensor is None else tensor.device
        leaves = [x.to(device) if isinstance(x, Tensor) else x for x in program.example]
        args, kwargs = pytree.tree_unflatten(leaves, program.in_spec)
        return tuple(args), dict(kwargs)

    def state(self) -> dict[str, Tensor]:
        """The user's own tensors by name, as they are now, constants included.

        Of sharded parameters, whole copies; then all processes must ask for them together, and so
        for a cut.
        """
        return tensors(self.model, self.programs)

    # ------------------------------------------------------------ running

    def serving(
        self, training: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Runner, list[Any]]:
        """The runner for a call of this form, and its inputs.

        Raises:
            CaptureError: For inputs of a form that cannot be captured, and a model that was
                changed after the capture.
        """
        if not torch.compiler.is_compiling():
            self._check_unchanged()
        for captured, each in zip(self._captured, self._served, strict=True):
            runner = each.runners[training]
            inputs = runner.form.match(args, kwargs)
            if inputs is not None:
                self._check_trains(training, captured)
                return runner, inputs
        runner = self._learn(args, kwargs).runners[training]
        self._check_trains(training, self._captured[-1])
        return runner, runner.form.flatten(args, kwargs)

    def at(self, widths: Iterable[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The model in evaluation mode at one width for each free axis, in order, unchecked.

        For exporters, whose widths are symbols rather than numbers.

        Args:
            widths: a number or a symbol for each free axis.
            args: as the model takes them.
            kwargs: as the model takes them.
        """
        named = dict(zip(self.table.free, widths, strict=True))
        runner = self._served[0].runners[False]
        return runner(named, runner.form.flatten(args, dict(kwargs)))

    def each(
        self, widths: Iterable[Mapping[str, int]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[Any]:
        """The outputs at each of several widths, in evaluation mode: see `Elastic.each`."""
        runner, inputs = self.serving(False, args, kwargs)
        runners = next(r for r in self._served if r.runners[False] is runner)
        return runners.each(widths, inputs)

    def _check_trains(self, training: bool, captured: Captured) -> None:
        """Refuse a call in training mode that only evaluation mode can be captured for."""
        instead = captured.programs[0].instead
        if training and instead and not self.programs[0].instead:
            said = instead[0].lower() + instead[1:]
            raise CaptureError(f"These inputs cannot be used in training mode: {said}")

    @torch.compiler.disable
    def _learn(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Runners:
        """Capture a call that no graph serves: of another form, or of sizes that decide much."""
        forms = [each.runners[False].form for each in self._served]
        form = next((f for f in forms if f.differs_in_sizes(args, kwargs)), forms[0])
        what = form.refuse(args, kwargs)
        if len(self._captured) > _MOST_FORMS:
            raise CaptureError(
                f"{what}, as the inputs of {_MOST_FORMS} calls before, each of which is captured "
                "by itself; give numbers that change as tensors, and read sizes by x.shape rather "
                "than by len(x) or int()."
            )
        try:
            further = capture_further(
                self.model, self._captured[0], args, kwargs, self._asked, len(self._captured)
            )
        except CaptureError as error:
            if form.differs_in_sizes(args, kwargs):
                raise CaptureError(f"{what}; capture it again.") from error
            raise CaptureError(f"{what}, and {error}") from error
        runners = self._runners_of(further)
        if self._asked.prove:
            with apart(self.model):
                self._check_agreement(further, runners)
        self._captured.append(further)
        self._served.append(runners)
        return runners

    def _runners_of(self, captured: Captured) -> Runners:
        # Runners scale what is consumed; what is scaled here may be what makes the features.
        relations = replace(captured.relations, consumed=set(self.scaled))
        return Runners(self.model, replace(captured, relations=relations), scale=True)

    # ------------------------------------------------------------ holding it to the model

    def _check_agreement(self, captured: Captured, runners: Runners) -> None:
        """See that at full width this is the model, in every mode that was captured."""
        if any(t.is_meta for t in [*self.model.parameters(), *self.model.buffers()]):
            return
        full = self.table.complete({})
        training, evaluation = captured.programs
        args, kwargs = self._example_of(captured)
        alone = training.graph is evaluation.graph
        for program in (evaluation,) if alone else captured.programs:
            runner = runners.runners[program.training]
            check_agreement(
                self.model,
                partial(_run, runner, full),
                args,
                kwargs,
                training=program.training,
                gradients=alone or program.training,
            )

    def _check_unchanged(self) -> None:
        """Refuse a model that was changed after the capture in what its graphs hold."""
        what = self._structure.changed()
        if what is not None:
            raise CaptureError(
                f"After the capture, {what}, which the captured graph does not hold; "
                "make a new Elastic of the model as it is now."
            )
        names = self._structure.other_values() if self._asked.prove else []
        if not names:
            return
        try:
            with apart(self.model):
                for captured, runners in zip(self._captured, self._served, strict=True):
                    self._check_agreement(captured, runners)
        except CaptureError as error:
            raise CaptureError(
                f"After the capture, {names[0]} was changed, which forward computes with and the "
                "captured graph holds as it was; keep it in a buffer and fill that."
            ) from error
        self._structure.accept(names)

    # ------------------------------------------------------------ cutting

    def cut(
        self, widths: Mapping[str, int], *, same_class: bool = True
    ) -> tuple[nn.Module, tuple[Patch, ...], str | None]:
        """A plain module at these widths, the sizes set on the user's class, and why it is none.

        Args:
            widths: by axis.
            same_class: False asks for the graph module at once.

        Returns:
            The module, with the statistics of full width; the sizes that were set on the user's
            class; and the reason for a graph module, None where it is of the user's class.

        Raises:
            WidthError: For widths that the network cannot have.
        """
        # Into a model without weights, tables may be put that no checkpoint holds.
        if not any(p.is_meta for p in self.model.parameters()):
            self._check_unchanged()
        with whole(self.model):
            made = self._cut(self.table.complete(widths), same_class)
        zeros.follow(self.model, made[0])
        return made

    def _cut(
        self, kept: Mapping[str, int], same_class: bool
    ) -> tuple[nn.Module, tuple[Patch, ...], str | None]:
        full = self.state()
        state = cut_state(self.relations, self.table, kept, full, self.scaled)
        graph, training = graph_module(self.model, self.relations, self.table, kept, state)
        lost = _what_a_graph_loses(self.model, training)
        found: Any = None
        if same_class:
            found = own_class(
                self.model, self.relations, self.table, kept, full, state, graph.eval(), training
            )
        if any(t.is_meta for t in state.values()):
            make_on_cpu(graph)
        if not same_class:
            return graph, (), "; and ".join(lost) or None
        if isinstance(found, str):
            reason = "; and ".join([found, *lost])
            return graph.train(self.model.training and training is None), (), reason
        return *found, None

    def kept(self, widths: Mapping[str, int]) -> dict[str, tuple[KeptDim, ...]]:
        """For every tensor that these widths cut, by each of its names, what is kept of its dims.

        Raises:
            WidthError: For widths that the network cannot have.
        """
        keep = keeper(self.table, self.table.complete(widths))
        state, scaled = self.state(), self.scaled
        found = {
            id(state[name]): tuple(
                KeptDim(
                    d, layout(t, keep), size(t) / count(t, keep) if (name, d) in scaled else 1.0
                )
                for d, t in enumerate(dims)
                if not fully_fixed(t)
            )
            for name, dims in self.relations.state.items()
        }
        return {name: found[id(t)] for name, t in state.items() if found.get(id(t))}

    # ------------------------------------------------------------ running statistics

    def statistics(self, widths: Mapping[str, int]) -> tuple[str, ...]:
        """The running means of the layers that see other values at these widths than at full."""
        narrower = self.table.complete(widths) != self.table.complete({})
        return self.width_statistics if narrower else ()

    @cached_property
    def width_statistics(self) -> tuple[str, ...]:
        """The running means of the layers that see other values at other widths."""
        shared = shared_nodes(self.evaluation, self.scaled)
        return tuple(of_width(self.programs[0], self.evaluation.program, shared))

    def recalibrated(
        self,
        module: nn.Module,
        widths: Mapping[str, int],
        recalibrate: Recalibrate = True,
    ) -> nn.Module:
        """A cut at these widths, its running statistics re-estimated in place.

        At full width the model's own are right, and nothing is done. Where there is no data, a
        StatisticsWarning tells the caller's line and the remedy.

        Args:
            module: what `cut` returned; changed in place.
            widths: the widths that it was cut at.
            recalibrate: as for `Elastic.cut`.

        Returns:
            The module.
        """
        return reestimate_(module, self.model, self.statistics(widths), recalibrate)


def _scaled_dims(model: nn.Module, captured: Captured) -> frozenset[tuple[str, int]]:
    relations, axes = captured.relations, captured.axes
    behind = placed(model, relations, axes, tensors(model, captured.programs))
    return scaled_dims(relations, axes, behind)


def _run(runner: Runner, widths: Mapping[str, int], args: Any, kwargs: Any) -> Any:
    return runner(widths, runner.form.flatten(args, kwargs))


def _what_a_graph_loses(model: nn.Module, training: nn.Module | None) -> list[str]:
    """What a cut graph module does otherwise than the model; training: its graph, if another."""
    lost = []
    if training is not None:
        lost.append(
            "training mode does other things, which it leaves out: it computes evaluation only"
        )
    elif counting := counting_norms(model):
        lost.append(f"{counting[0]!r} averages all batches, for which it has a momentum of 0.1")
    return lost
