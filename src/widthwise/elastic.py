"""`Elastic`: one network that runs at every width.

net = Elastic(model, (x,))          # model is any nn.Module; nothing in it is edited
print(net.explain())                # what can be cut, what cannot and why
net(x)                              # train(): at drawn widths; eval(): at full width
net(x, widths=net.widths(0.5))      # at half of every axis
small = net.cut(net.widths(0.5))    # a plain module, without widthwise
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from widthwise import zeros
from widthwise.choose.draws import Draw, draw_widths
from widthwise.graph.agreement import check_agreement
from widthwise.graph.axes import Axes, Axis, find_axes
from widthwise.graph.capture import capture
from widthwise.graph.constraints import Constraints, constrain
from widthwise.graph.cut import cut_state, graph_module, make_on_cpu
from widthwise.graph.dims import fully_fixed, size
from widthwise.graph.explain import Inspection, inspect
from widthwise.graph.expressible import expressible
from widthwise.graph.own_class import Patch, own_class
from widthwise.graph.proof import prove
from widthwise.graph.refusal import check
from widthwise.graph.relate import Related, Relations, relate
from widthwise.graph.rewrite import elastic_graph, keeper
from widthwise.graph.runner import Runner
from widthwise.graph.sharded import whole
from widthwise.graph.shared import shared_nodes, split_graph
from widthwise.graph.slicing import KeptDim, count, layout
from widthwise.recalibration import (
    Recalibrate,
    caller,
    estimate,
    no_data,
    of_width,
    remember,
    remembered,
)
from widthwise.variant import Widths


class GraphModuleWarning(UserWarning):
    """A cut is a graph module rather than the user's class; the message says why."""


class NothingToCutWarning(UserWarning):
    """No axis of the model can be cut; `explain()` says why."""


class Elastic(nn.Module):
    """A module whose hidden layers can be run and cut at any width; shares `model`'s parameters.

    model: any module that torch.export can capture; it is neither edited nor copied.
    args, kwargs: example inputs, as for `model(*args, **kwargs)`. Their batch size (and, for inputs
        of up to three dims, the other sizes too where the model allows) may differ later.
    draw: how training draws widths; by default structural dropout with log-uniform widths.
    seed: of the draws, which are a function of (seed, step) and nothing else.
    dynamic_shapes: as for torch.export.export, instead of the sizes widthwise frees by itself.
    prove: run the shuffle proof on every axis, and see on the example that outputs, gradients and
        buffers at full width are the model's (recommended).
    constraints: axes that share a width or stay whole, and which widths the others may have.
    outputs: names of the outputs that matter, such as ("logits",) or ("0",), where a model returns
        inner features as well: those then come at the widths that they have. By default all matter.

    `step` is the number of the next draw; set it to resume. In train mode every call advances it.

    Raises CaptureError, naming operator, module and remedy, when the model cannot be captured, and
    WidthError for constraints that do not fit its axes.
    """

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
        super().__init__()
        self.model = model
        self._draw = draw if draw is not None else Draw()
        self.constraints = constraints if constraints is not None else Constraints()
        self.seed = seed
        self.step = 0
        if any(p.is_meta for p in model.parameters()):
            args, kwargs = pytree.tree_map_only(Tensor, lambda x: x.to("meta"), (args, kwargs))
        self.outputs = None if outputs is None else tuple(outputs)
        self._programs = capture(
            model, tuple(args), kwargs or {}, dynamic_shapes=dynamic_shapes, outputs=self.outputs
        )
        self._relations: Relations = relate(self._programs)
        self._table: Axes = self._find(prove)
        self._runners = {
            related.program.training: Runner(
                model, related.program, elastic_graph(related, self._table, self._scaled())
            )
            for related in self._relations.programs
        }
        self._many: Runner | None = None
        if prove:
            self._check_agreement()
        self.train(model.training)
        if not self._table.free:
            warnings.warn(
                "No axis of this model can be cut; print(net.explain()) says why.",
                NothingToCutWarning,
                stacklevel=2,
            )

    def _check_agreement(self) -> None:
        """See that at full width this is the model, in every mode that was captured."""
        if any(t.is_meta for t in [*self.model.parameters(), *self.model.buffers()]):
            return
        full = self._table.complete({})
        training, evaluation = self._programs
        args, kwargs = self.example()
        for program in (evaluation,) if training.graph is evaluation.graph else self._programs:
            check_agreement(
                self.model,
                partial(self._runners[program.training], full),
                args,
                kwargs,
                training=program.training,
            )

    def _find(self, proof: bool) -> Axes:
        parameters = {n for n, _ in self.model.named_parameters(remove_duplicate=False)}
        axes = find_axes(self._relations, parameters)
        proven = prove(self._relations, axes, self.state(), parameters) if proof else axes
        return constrain(proven, self.constraints)

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
        self._draw = draw

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

        Rounded to what the constraints allow, too. Axes that lie inside another (a head size inside
        its heads) stay full. Raises WidthError for a fraction outside (0, 1].
        """
        return self._table.fraction(kept, multiple_of)

    def full(self) -> Widths:
        """Every free axis at its size."""
        return Widths({name: axis.size for name, axis in self.free.items()})

    def complete(self, widths: Mapping[str, int]) -> Widths:
        """The widths with the axes that they do not name at full size.

        Raises WidthError for unknown axes and widths that an axis cannot have.
        """
        return Widths(self._table.complete(widths))

    def forward(self, *args: Any, widths: Mapping[str, int] | None = None, **kwargs: Any) -> Any:
        """The model at the given widths; without them, drawn ones in train mode, full ones in eval.

        Raises WidthError for unknown axes and widths outside 1..size, CaptureError for inputs of
        another form than the example.
        """
        if widths is None:
            widths = self.drawn() if self.training else {}
        return self._runners[self.training](self._table.complete(widths), args, kwargs)

    def at(self, widths: Iterable[Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The model in evaluation mode at one width for each of `free`, in order, unchecked.

        For exporters, whose widths are symbols rather than numbers.
        """
        named = dict(zip(self.free, widths, strict=True))
        return self._runners[False](named, args, dict(kwargs))

    def each(self, widths: Iterable[Mapping[str, int]], *args: Any, **kwargs: Any) -> Iterator[Any]:
        """The outputs at each of several widths, in evaluation mode and without gradients.

        As `net(*args, widths=w, **kwargs)` for every w, but what all widths share (up to the first
        operator that mixes features which can be cut) is computed once, at full width. Its memory
        is that of one full-width pass. Raises as `forward`.
        """
        if self._many is None:
            related = self.evaluation
            shared, rest = split_graph(related, self._table, self._scaled())
            self._many = Runner(self.model, related.program, rest, shared)
        return self._many.each(map(self._table.complete, widths), args, kwargs)

    @torch.compiler.disable  # the widths are inputs of the compiled graph, which serves all of them
    def drawn(self) -> Widths:
        """Draw the widths of the next training step and advance `step`."""
        widths = draw_widths(self.free, self.draw, self.seed, self.step)
        self.step += 1
        return widths

    def _scaled(self) -> frozenset[tuple[str, int]]:
        return frozenset(self._relations.consumed) if self.draw.scale else frozenset()

    @property
    def relations(self) -> Relations:
        """What the rules found in the captured graphs of both modes."""
        return self._relations

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
        program = self._programs[-1]
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
        state: dict[str, Tensor] = {}
        for program in self._programs:
            state.update(program.constants)
        with whole(self.model):
            state.update(self.model.named_buffers(remove_duplicate=False))
            state.update(self.model.named_parameters(remove_duplicate=False))
        return state

    def cut(
        self,
        widths: Mapping[str, int],
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
        widths: Mapping[str, int],
        recalibrate: Recalibrate = True,
    ) -> nn.Module:
        """The network's cut at these widths, its running statistics re-estimated in place.

        At full width the model's own are right, and nothing is done. Where there is no data, a
        StatisticsWarning tells the caller's line and the remedy. recalibrate: as for `cut`.
        """
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

    def statistics(self, widths: Mapping[str, int]) -> tuple[str, ...]:
        """The running means of the layers that see other values at these widths than at full."""
        narrower = dict(self._table.complete(widths)) != dict(self.full())
        return self._width_statistics if narrower else ()

    @cached_property
    def _width_statistics(self) -> tuple[str, ...]:
        shared = shared_nodes(self.evaluation, self._scaled())
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

    def expressible(self, widths: Mapping[str, int]) -> Widths:
        """Widths near these at which `cut` returns the user's own class.

            small = net.cut(net.expressible(net.widths(0.5)))

        First these widths are tried, then such that heads x head size are the stream, layers are
        alike, heads stay whole; in the last resort kinds of axes are cut one after another. Takes
        as long as a cut for each try. Raises WidthError.
        """
        return expressible(
            self._relations,
            self._table,
            widths,
            lambda tried: isinstance(self.cut_with_patches(tried)[0], type(self.model)),
        )

    def cut_with_patches(
        self, widths: Mapping[str, int], *, same_class: bool = True
    ) -> tuple[nn.Module, tuple[Patch, ...], str | None]:
        """As `cut`, with the sizes set on the user's class, or what to tell of a graph module."""
        with whole(self.model):
            made = self._cut(self._table.complete(widths), same_class)
        zeros.follow(self.model, made[0])
        return made

    def _cut(
        self, kept: Mapping[str, int], same_class: bool
    ) -> tuple[nn.Module, tuple[Patch, ...], str | None]:
        full = self.state()
        state = cut_state(self._relations, self._table, kept, full, self._scaled())
        graph, training = graph_module(self.model, self._relations, self._table, kept, state)
        only = "training mode does other things, which it leaves out: it computes evaluation only"
        found: Any = None
        if same_class:
            found = own_class(
                self.model, self._relations, self._table, kept, full, state, graph.eval(), training
            )
        if any(t.is_meta for t in state.values()):
            make_on_cpu(graph)
        if not same_class:
            return graph, (), None if training is None else only
        if isinstance(found, str):
            reason = found if training is None else f"{found}; and {only}"
            return graph.train(self.model.training and training is None), (), reason
        return *found, None

    def kept(self, widths: Mapping[str, int]) -> dict[str, tuple[KeptDim, ...]]:
        """For every tensor that these widths cut, by each of its names, what is kept of its dims.

        Raises WidthError.
        """
        keep = keeper(self._table, self._table.complete(widths))
        state, scaled = self.state(), self._scaled()
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
