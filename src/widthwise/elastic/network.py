"""`Elastic`: one network that runs at every width.

net = Elastic(model, (x,))          # model is any nn.Module; nothing in it is edited
print(net.explain())                # what can be cut, what cannot and why
net(x)                              # train(): at drawn widths; eval(): at full width
net(x, widths=0.5)                  # at half of every axis
small = net.cut(0.5)                # a plain module, without widthwise
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from inspect import signature
from typing import Any, Final

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from widthwise.elastic import zeros
from widthwise.elastic.placed import placed
from widthwise.elastic.recalibration import (
    Recalibrate,
    caller,
    estimate,
    no_data,
    of_width,
    remember,
    remembered,
)
from widthwise.elastic.scaling import scaled_dims
from widthwise.elastic.structure import Structure
from widthwise.errors import CaptureError, DataError
from widthwise.graph.axes import Axes, Axis
from widthwise.graph.capture.agreement import check_agreement
from widthwise.graph.capture.captured import (
    Asked,
    Captured,
    apart,
    capture_example,
    capture_further,
    tensors,
)
from widthwise.graph.capture.diagnostics import check
from widthwise.graph.capture.program import Program
from widthwise.graph.capture.signature import showing
from widthwise.graph.constraints import Constraints
from widthwise.graph.cut import counting_norms, cut_state, graph_module, make_on_cpu
from widthwise.graph.dims import fully_fixed, size
from widthwise.graph.explain import Inspection, inspect
from widthwise.graph.rebuild.module import Patch, own_class
from widthwise.graph.rebuild.realizable import realizable
from widthwise.graph.relate import Related, Relations
from widthwise.graph.rewrite import keeper
from widthwise.graph.runner import Runner, Runners
from widthwise.graph.sharded import whole
from widthwise.graph.shared import shared_nodes
from widthwise.graph.slicing import KeptDim, count, layout
from widthwise.sampling.draws import Draw, draw_widths, narrowest
from widthwise.sampling.levels import at_share
from widthwise.variant import AnyWidths, Widths

_MOST_FORMS: Final = 8  # forms of call, besides the example's, that one network captures
_CAPTURED: Final = frozenset(
    """activation_checkpointing_enable gradient_checkpointing_enable gradient_checkpointing_disable
    resize_token_embeddings set_attn_implementation""".split()
)  # methods that change what forward does, which a captured graph would not notice


class GraphModuleWarning(UserWarning):
    """A cut is a graph module rather than the user's class; the message says why."""


class NothingToCutWarning(UserWarning):
    """No axis of the model can be cut; `explain()` says why."""


class Elastic(nn.Module):
    """A module whose hidden layers can be run and cut at any width; shares `model`'s parameters.

    `step` is the number of the next draw; in train mode every call advances it. `state_dict` holds
    it, under the key `_extra_state`; a state dict without it leaves it as it is. Copies, deep ones
    and pickled ones, have parameters, draws and a step of their own.

    `levels` are the widths, from narrow to full, that a training went along (`FamilyLoss`), none
    before one.

    What an Elastic does not have itself it reads from `model`: `net.config`, `net.generate`. A
    method of the model runs the model, at full width. `forward` has the model's signature, so that
    trainers do with it what they do with the model.

    Args:
        model: any module that torch.export can capture; it is neither edited nor copied.
        *args: example inputs, as `model` takes them. Their batch size (and, for inputs of up to
            three dims, the other sizes too where the model allows) may differ later.
        **kwargs: example inputs by name.
        draw: how training draws widths; by default structural dropout with log-uniform widths.
        seed: of the draws, which are a function of (seed, step) and nothing else.
        dynamic_shapes: as for torch.export.export, instead of the sizes widthwise frees by itself.
        prove: run the shuffle proof on every axis, and see on the example that outputs, gradients
            and buffers at full width are the model's (recommended).
        constraints: axes that share a width or stay whole, and which widths the others may have.
        outputs: names of the outputs that matter, such as ("logits",) or ("0",), where a model
            returns inner features as well: those then come at the widths that they have. By default
            all matter.

    Raises:
        CaptureError: Naming operator, module and remedy, when the model cannot be captured.
        WidthError: For constraints that do not fit its axes.
    """

    def __new__(cls, model: nn.Module | None = None, *args: Any, **kwargs: Any) -> Elastic:
        """A network of the class that shows the model's signature."""
        if isinstance(model, nn.Module) and not hasattr(cls, "shown_on"):
            cls = showing(cls, type(model))
        return super().__new__(cls)

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...] | Tensor,
        kwargs: Mapping[str, Any] | None = None,
        *,
        draw: Draw | None = None,
        seed: int = 0,
        dynamic_shapes: Any = None,
        prove: bool = True,
        constraints: Constraints | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        args = (args,) if isinstance(args, Tensor) else args
        check(model, args, kwargs or {})
        _check_name(model)
        super().__init__()
        self.model = model
        self._draw, self._draw_given = draw if draw is not None else Draw(), draw is not None
        self.drawn_levels: tuple[
            Widths, ...
        ] = ()  # what a loss draws from in the place of the draw
        self.constraints = constraints if constraints is not None else Constraints()
        self.seed = seed
        self.step = 0
        self.levels: tuple[Widths, ...] = ()
        self._told = False  # whose the running statistics of a narrower call are
        if any(p.is_meta for p in model.parameters()):
            args, kwargs = pytree.tree_map_only(Tensor, lambda x: x.to("meta"), (args, kwargs))
        self.outputs = None if outputs is None else tuple(outputs)
        self._asked = Asked(prove, self.constraints, self.outputs)
        first = capture_example(model, tuple(args), kwargs or {}, self._asked, dynamic_shapes)
        self._captured = [first]  # for the example, then for each other form of call that came
        self._scaled = self._scaled_dims(first)
        self._served = [self._runners_of(first)]
        self.register_load_state_dict_pre_hook(_keep_step)
        if prove:
            self._check_agreement(first, self._served[0])
        self._structure = Structure(model)
        self.train(model.training)
        if not self._table.free:
            warnings.warn(
                "No axis of this model can be cut; print(net.explain()) says why.",
                NothingToCutWarning,
                stacklevel=2,
            )

    def __getattr__(self, name: str) -> Any:
        """What the network does not have itself, of the model."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            model = self.__dict__.get("_modules", {}).get("model")
            if model is None or name.startswith("_"):
                raise
            if name in _CAPTURED:
                raise AttributeError(
                    f"An Elastic has no {name!r}, because its graphs hold what that changes; call "
                    "it on the model before it is made elastic."
                ) from None
            if not hasattr(model, name):
                raise AttributeError(
                    f"An Elastic has no {name!r}, and neither has its {type(model).__name__}."
                ) from None
        return getattr(model, name)

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        """For copies and pickles: the graphs are shared or written, what runs them is rebuilt."""
        kind = type(self)
        made = (getattr(kind, "shown_on", kind), type(self.model))
        return _blank, made, {**self.__dict__, "_served": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What `__reduce_ex__` gave."""
        super().__setstate__(state)
        self._served = [self._runners_of(each) for each in self._captured]

    def get_extra_state(self) -> Tensor:
        """The step, an int64 tensor (), for `state_dict`."""
        return torch.tensor(self.step)

    def set_extra_state(self, state: Tensor) -> None:
        """The step from a state dict."""
        self.step = int(state)

    def _get_name(self) -> str:
        """The model's class: trainers choose by it how labels are shifted."""
        return type(self.model).__name__

    def __repr__(self) -> str:
        """As of any module, called Elastic."""
        return "Elastic" + super().__repr__().removeprefix(self._get_name())

    def _check_agreement(self, captured: Captured, runners: Runners) -> None:
        """See that at full width this is the model, in every mode that was captured."""
        if any(t.is_meta for t in [*self.model.parameters(), *self.model.buffers()]):
            return
        full = self._table.complete({})
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

    @property
    def draw(self) -> Draw:
        """How training draws widths; may be replaced by one with the same scale."""
        return self._draw

    @draw.setter
    def draw(self, draw: Draw) -> None:
        if draw.scale != self._draw.scale:
            raise ValueError(
                "The scale is part of the network's graphs; make a new Elastic(model, args, "
                f"draw=...) for draws with scale={draw.scale}."
            )
        self._draw, self._draw_given = draw, True

    @property
    def lowest(self) -> Widths:
        """The narrowest width of each free axis that training draws; inner axes are left out.

        Those of the narrowest level, where training goes along some; else as
        `draw` says. Where nothing is drawn, the least that constraints allow, mostly 1: with
        `Draw(p=0)`, and before any training where no draw was given.
        """
        outer = {name: axis for name, axis in self.free.items() if axis.inner_of is None}
        known = self.levels or self.drawn_levels
        if known:
            return Widths({name: min(widths[name] for widths in known) for name in outer})
        if self.draw.p > 0 and (self._draw_given or self.step):
            return narrowest(outer, self.draw)
        return Widths({name: axis.near(1) for name, axis in outer.items()})

    def raised(self, widths: AnyWidths) -> Widths:
        """The widths with every axis at `lowest` or above, since narrower ones would be noise.

        Raises:
            WidthError: For widths that the network cannot have.
        """
        lowest = self.lowest
        return Widths({n: max(w, lowest.get(n, w)) for n, w in self.complete(widths).items()})

    @property
    def axes(self) -> dict[str, Axis]:
        """All axes by name; `Axis.fixed_because` is None for those that can be cut."""
        return dict(self._table.table)

    @property
    def free(self) -> dict[str, Axis]:
        """The axes that can be cut, by name."""
        return self._table.free

    def widths(self, kept: float, multiple_of: int = 1) -> Widths:
        """Every free axis at this fraction of its size, rounded to a multiple, at least one.

        Of a network that was trained along `levels`, the widths between them that keep this
        fraction in the mean over its axes, never below the narrowest level.

        Rounded to what the constraints allow, too. Axes that lie inside another (a head size inside
        its heads) stay full.

        Raises:
            WidthError: For a fraction outside (0, 1].
        """
        equal = self._table.fraction(kept, multiple_of)
        if not self.levels:
            return equal
        found = at_share(self.free, self.levels, kept)
        return Widths({name: self.free[name].near(found[name], multiple_of) for name in equal})

    def full(self) -> Widths:
        """Every free axis at its size."""
        return Widths({name: axis.size for name, axis in self.free.items()})

    def complete(self, widths: AnyWidths) -> Widths:
        """A width for every free axis: what all functions make of the widths that they are given.

        Raises:
            WidthError: For unknown axes, widths that an axis cannot have, and a fraction outside
                (0, 1].

        Example:
            net.complete({"fc1": 64})   # axes that are not named stay full
            net.complete(0.5)           # as net.widths(0.5)
        """
        return Widths(self._table.complete(self._named(widths)))

    def _named(self, widths: AnyWidths) -> Mapping[str, int]:
        return widths if isinstance(widths, Mapping) else self.widths(widths)

    def forward(self, *args: Any, widths: AnyWidths | None = None, **kwargs: Any) -> Any:
        """The model at the given widths; without them, drawn ones in train mode, full ones in eval.

        At every width batch norms use the running statistics of full width; in evaluation mode a
        StatisticsWarning says so once. A network that `cut` returns has statistics of its own.

        Args:
            *args: as the model takes them.
            **kwargs: as the model takes them.
            widths: features of each axis by name (the others stay full), or a fraction of all.

        Returns:
            What the model returns.

        Raises:
            WidthError: For unknown axes and widths outside 1..size.
            CaptureError: For inputs of another form than the example.
        """
        if widths is None:
            widths = self.drawn() if self.training else {}
        elif not (torch.compiler.is_compiling() or self.training or self._told):
            self._tell_of_statistics(widths)
        # A dict: compiled graphs take its numbers for symbols.
        kept = self._table.complete(self._named(widths))
        runner, inputs = self._serving(self.training, args, kwargs)
        return runner(kept, inputs)

    def _tell_of_statistics(self, widths: AnyWidths) -> None:
        names = self.statistics(widths)
        self._told = bool(names) or not self._width_statistics
        if names:
            remedy = "cut(widths) re-estimates them, and sweep does so for every width"
            warnings.warn(no_data(names, remedy), stacklevel=caller())

    def at(self, widths: Iterable[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The model in evaluation mode at one width for each of `free`, in order, unchecked.

        For exporters, whose widths are symbols rather than numbers.

        Args:
            widths: a number or a symbol for each of `free`.
            args: as the model takes them.
            kwargs: as the model takes them.
        """
        named = dict(zip(self.free, widths, strict=True))
        runner = self._runners[False]
        return runner(named, runner.form.flatten(args, dict(kwargs)))

    def each(self, widths: Iterable[AnyWidths], *args: Any, **kwargs: Any) -> Iterator[Any]:
        """The outputs at each of several widths, in evaluation mode and without gradients.

        As `net(*args, widths=w, **kwargs)` for every w, but what all widths share (up to the first
        operator that mixes features which can be cut) is computed once, at full width. Its memory
        is what one full-width pass takes.

        Args:
            widths: as `forward` takes them, one after another.
            *args: as the model takes them.
            **kwargs: as the model takes them.

        Returns:
            One output for each of `widths`, computed when it is asked for.

        Raises:
            WidthError: As `forward` does.
            CaptureError: As `forward` does.
        """
        runner, inputs = self._serving(False, args, kwargs)
        runners = next(r for r in self._served if r.runners[False] is runner)
        return runners.each(map(self.complete, widths), inputs)

    def _serving(
        self, training: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Runner, list[Any]]:
        """The runner for a call of this form, and its inputs. Raises CaptureError."""
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

    def _check_trains(self, training: bool, captured: Captured) -> None:
        """Refuse a call in training mode that only evaluation mode can be captured for."""
        instead = captured.programs[0].instead
        if training and instead and not self._programs[0].instead:
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

    @torch.compiler.disable  # the widths are inputs of the compiled graph, which serves all of them
    def drawn(self) -> Widths:
        """Draw the widths of the next training step and advance `step`."""
        widths = draw_widths(self.free, self.draw, self.seed, self.step)
        self.step += 1
        return widths

    @property
    def scaled(self) -> frozenset[tuple[str, int]]:
        """The (tensor, dim) that are multiplied by full size / width, where the draw has a scale.

        Before them or behind them stand the activations: see `scaling`.
        """
        return self._scaled

    def _scaled_dims(self, captured: Captured) -> frozenset[tuple[str, int]]:
        if not self._draw.scale:
            return frozenset()
        relations, axes = captured.relations, captured.axes
        behind = placed(self.model, relations, axes, tensors(self.model, captured.programs))
        return scaled_dims(relations, axes, behind)

    def _runners_of(self, captured: Captured) -> Runners:
        # Runners scale what is consumed; what is scaled here may be what makes the features.
        relations = replace(captured.relations, consumed=set(self._scaled))
        return Runners(self.model, replace(captured, relations=relations), scale=True)

    @property
    def _programs(self) -> tuple[Program, ...]:
        """The graphs of the example's form, of training and of evaluation mode."""
        return self._captured[0].programs

    @property
    def _runners(self) -> dict[bool, Runner]:
        """What runs them, by whether it is the mode of training."""
        return self._served[0].runners

    @property
    def relations(self) -> Relations:
        """What the rules found in the captured graphs of both modes."""
        return self._captured[0].relations

    @property
    def _relations(self) -> Relations:
        return self._captured[0].relations

    @property
    def _table(self) -> Axes:
        return self._captured[0].axes

    @property
    def table(self) -> Axes:
        """All axes, and which factors of the relations belong to which."""
        return self._table

    @property
    def evaluation(self) -> Related:
        """The captured graph of evaluation mode, with what the rules found in it."""
        return next(r for r in self._relations.programs if not r.program.training)

    @property
    def unknown(self) -> dict[str, str]:
        """Operators without a rule, and a module that runs each; what they touch is fixed."""
        return dict(self._relations.unknown)

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
        return tensors(self.model, self._programs)

    def cut(
        self,
        widths: AnyWidths,
        *,
        same_class: bool = True,
        recalibrate: Recalibrate = True,
    ) -> nn.Module:
        """A plain module at these widths, with its own copies of the kept parameters.

        It is of the user's class where that class computes the same at these sizes (checked on the
        example), otherwise a torch.fx.GraphModule, and a GraphModuleWarning says why.
        A graph module of a model that does different things in training and evaluation computes
        evaluation only, and the warning says so.

        Running statistics (batch norms) belong to a width: of a narrower network they are
        re-estimated on the data that `fit`, `sweep`, scores or `Evaluation` let the model remember;
        where there are none, a StatisticsWarning says so.

        Args:
            widths: by axis; axes that are not named stay at full size.
            same_class: False asks for the graph module at once.
            recalibrate: batches of (inputs, target) to estimate statistics on, which the model
                remembers then; False keeps the statistics of full width.

        Raises:
            WidthError: for widths that the network cannot have.
            DataError: where `recalibrate` has no batch.
        """
        module, _, reason = self.cut_with_patches(widths, same_class=same_class)
        self.warn_of_graph(reason)
        return self.recalibrated(module, widths, recalibrate)

    def recalibrated(
        self,
        module: nn.Module,
        widths: AnyWidths,
        recalibrate: Recalibrate = True,
    ) -> nn.Module:
        """The network's cut at these widths, its running statistics re-estimated in place.

        At full width the model's own are right, and nothing is done. Where there is no data, a
        StatisticsWarning tells the caller's line and the remedy.

        Args:
            module: what `cut` returned; changed in place.
            widths: the widths that it was cut at.
            recalibrate: as for `cut`.

        Returns:
            The module.
        """
        if recalibrate is None:
            raise DataError("recalibrate is True, False or batches of (inputs, target), not None.")
        if not isinstance(recalibrate, bool):
            given = recalibrate
            pairs: Any = (
                [x for x, _ in given] if isinstance(given, Sequence) else (x for x, _ in given)
            )
            remember(self.model, pairs)
        names = self.statistics(widths)
        if recalibrate is False or not names:
            return module
        inputs = remembered(self.model)
        if not inputs:
            remedy = "give recalibrate=batches of training data here, or train with fit"
            warnings.warn(no_data(names, remedy), stacklevel=caller())
            return module
        modes = [(m, m.training) for m in module.modules()]
        estimate(module, inputs, names)
        remember(module, inputs)
        for each, training in modes:
            each.training = training
        return module

    def statistics(self, widths: AnyWidths) -> tuple[str, ...]:
        """The running means of the layers that see other values at these widths than at full."""
        narrower = self.complete(widths) != self.full()
        return self._width_statistics if narrower else ()

    @cached_property
    def _width_statistics(self) -> tuple[str, ...]:
        shared = shared_nodes(self.evaluation, self._scaled)
        return tuple(of_width(self._programs[0], self.evaluation.program, shared))

    def warn_of_graph(self, reason: str | None) -> None:
        """Tell, of the caller's line, why a cut is a graph module; nothing where it is not one."""
        if reason is not None:
            warnings.warn(
                f"The cut network is a graph module and not a {type(self.model).__name__}, "
                f"because {reason}.",
                GraphModuleWarning,
                stacklevel=3,
            )

    def realizable(self, widths: AnyWidths) -> Widths:
        """Widths near these at which `cut` returns the user's own class.

        First these widths are tried, then such that heads x head size are the stream, layers are
        alike, heads stay whole; in the last resort kinds of axes are cut one after another. Takes
        as long as a cut for each try.

        Raises:
            WidthError: For widths that the network cannot have.

        Example:
            small = net.cut(net.realizable(0.5))
        """
        return realizable(
            self._relations,
            self._table,
            self.complete(widths),
            lambda tried: isinstance(self.cut_with_patches(tried)[0], type(self.model)),
        )

    def cut_with_patches(
        self, widths: AnyWidths, *, same_class: bool = True
    ) -> tuple[nn.Module, tuple[Patch, ...], str | None]:
        """As `cut`, with the sizes set on the user's class, or what to tell of a graph module."""
        # Into a model without weights, tables may be put that no checkpoint holds.
        if not any(p.is_meta for p in self.model.parameters()):
            self._check_unchanged()
        with whole(self.model):
            made = self._cut(self.complete(widths), same_class)
        zeros.follow(self.model, made[0])
        return made

    def _cut(
        self, kept: Mapping[str, int], same_class: bool
    ) -> tuple[nn.Module, tuple[Patch, ...], str | None]:
        full = self.state()
        state = cut_state(self._relations, self._table, kept, full, self._scaled)
        graph, training = graph_module(self.model, self._relations, self._table, kept, state)
        lost = _what_a_graph_loses(self.model, training)
        found: Any = None
        if same_class:
            found = own_class(
                self.model, self._relations, self._table, kept, full, state, graph.eval(), training
            )
        if any(t.is_meta for t in state.values()):
            make_on_cpu(graph)
        if not same_class:
            return graph, (), "; and ".join(lost) or None
        if isinstance(found, str):
            reason = "; and ".join([found, *lost])
            return graph.train(self.model.training and training is None), (), reason
        return *found, None

    def kept(self, widths: AnyWidths) -> dict[str, tuple[KeptDim, ...]]:
        """For every tensor that these widths cut, by each of its names, what is kept of its dims.

        Raises:
            WidthError: For widths that the network cannot have.
        """
        keep = keeper(self._table, self.complete(widths))
        state, scaled = self.state(), self._scaled
        found = {
            id(state[name]): tuple(
                KeptDim(
                    d, layout(t, keep), size(t) / count(t, keep) if (name, d) in scaled else 1.0
                )
                for d, t in enumerate(dims)
                if not fully_fixed(t)
            )
            for name, dims in self._relations.state.items()
        }
        return {name: found[id(t)] for name, t in state.items() if found.get(id(t))}

    def inspect(self) -> Inspection:
        """What can be cut, what cannot and why, as data."""
        return inspect(self.model, self._relations, self._table)

    def explain(self) -> str:
        """What can be cut, what cannot and why, as text; of many layers alike, one line."""
        return str(self.inspect())


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


def _check_name(model: nn.Module) -> None:
    if "widths" in signature(model.forward).parameters:
        raise CaptureError(
            f"{type(model).__name__}.forward has a parameter 'widths', by which an Elastic is told "
            "its own; call it otherwise."
        )


def _blank(base: type[Elastic], model: type[nn.Module]) -> Elastic:
    """A network without anything, to be given its state."""
    kind: type[Elastic] = showing(base, model)
    return kind.__new__(kind)


def _keep_step(net: Elastic, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Let a state dict without a step leave it as it is."""
    state.setdefault(f"{prefix}_extra_state", net.get_extra_state())
