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
from inspect import signature
from typing import Any, Final

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from widthwise.elastic.engine import Engine
from widthwise.elastic.recalibration import (
    Recalibrate,
    caller,
    no_data,
)
from widthwise.errors import CaptureError
from widthwise.graph.axes import Axis
from widthwise.graph.capture.captured import (
    Asked,
)
from widthwise.graph.capture.diagnostics import check
from widthwise.graph.capture.signature import showing
from widthwise.graph.constraints import Constraints
from widthwise.graph.explain import Inspection, inspect
from widthwise.graph.rebuild.realizable import realizable
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
        self.engine = Engine(
            model,
            tuple(args),
            kwargs or {},
            Asked(prove, self.constraints, self.outputs),
            scale=self._draw.scale,
            dynamic_shapes=dynamic_shapes,
        )
        self.register_load_state_dict_pre_hook(_keep_step)
        self.train(model.training)
        if not self.free:
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
        """For copies and pickles: the class that shows the model's signature is made again."""
        kind = type(self)
        return _blank, (getattr(kind, "shown_on", kind), type(self.model)), dict(self.__dict__)

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
        return dict(self.engine.table.table)

    @property
    def free(self) -> dict[str, Axis]:
        """The axes that can be cut, by name."""
        return self.engine.table.free

    def widths(self, kept: float, multiple_of: int = 1) -> Widths:
        """Every free axis at this fraction of its size, rounded to a multiple, at least one.

        Of a network that was trained along `levels`, the widths between them that keep this
        fraction in the mean over its axes, never below the narrowest level.

        Rounded to what the constraints allow, too. Axes that lie inside another (a head size inside
        its heads) stay full.

        Raises:
            WidthError: For a fraction outside (0, 1].
        """
        equal = self.engine.table.fraction(kept, multiple_of)
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
        return Widths(self.engine.table.complete(self._named(widths)))

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
            widths = self._next_draw() if self.training else {}
        elif not (torch.compiler.is_compiling() or self.training or self._told):
            self._tell_of_statistics(widths)
        # A dict: compiled graphs take its numbers for symbols.
        kept = self.engine.table.complete(self._named(widths))
        runner, inputs = self.engine.serving(self.training, args, kwargs)
        return runner(kept, inputs)

    @torch.compiler.disable  # the widths are inputs of the compiled graph, which serves all of them
    def _next_draw(self) -> Widths:
        """Draw the widths of the next training step and advance `step`."""
        widths = draw_widths(self.free, self.draw, self.seed, self.step)
        self.step += 1
        return widths

    def _tell_of_statistics(self, widths: AnyWidths) -> None:
        names = self.engine.statistics(self._named(widths))
        self._told = bool(names) or not self.engine.width_statistics
        if names:
            remedy = "cut(widths) re-estimates them, and sweep does so for every width"
            warnings.warn(no_data(names, remedy), stacklevel=caller())

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
        return self.engine.each(map(self.complete, widths), args, kwargs)

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
        complete = self.complete(widths)
        module, _, reason = self.engine.cut(complete, same_class=same_class)
        warn_of_graph(self.model, reason)
        return self.engine.recalibrated(module, complete, recalibrate)

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
            self.engine.relations,
            self.engine.table,
            self.complete(widths),
            lambda tried: isinstance(self.engine.cut(tried)[0], type(self.model)),
        )

    def inspect(self) -> Inspection:
        """What can be cut, what cannot and why, as data."""
        return inspect(self.model, self.engine.relations, self.engine.table)

    def explain(self) -> str:
        """What can be cut, what cannot and why, as text; of many layers alike, one line."""
        return str(self.inspect())


def warn_of_graph(model: nn.Module, reason: str | None) -> None:
    """Tell, of the caller's line, why a cut is a graph module; nothing where it is not one."""
    if reason is not None:
        warnings.warn(
            f"The cut network is a graph module and not a {type(model).__name__}, "
            f"because {reason}.",
            GraphModuleWarning,
            stacklevel=3,
        )


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
