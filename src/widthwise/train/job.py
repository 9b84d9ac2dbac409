"""What a training is asked to do: the arguments of `fit`, and what follows from them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from widthwise.common.calling import outputs_for
from widthwise.elastic.network import Elastic
from widthwise.elastic.zeros import meant
from widthwise.measure.data import Items, Stream
from widthwise.measure.metric import Metric
from widthwise.pruning.gradual import GradualPruner
from widthwise.quantization import StraightThrough
from widthwise.train.config import RunConfig
from widthwise.train.criteria import one_number
from widthwise.train.family import FamilyLoss
from widthwise.train.identity import configured, described, sampled
from widthwise.train.layer import StructuralDropout
from widthwise.train.losses import Criterion, Objective, SandwichLoss, SingleDraw, name_of
from widthwise.train.recipe import Recipe
from widthwise.train.state import state_of
from widthwise.train.tracking import check_trackers


@dataclass(frozen=True)
class Job:
    """The arguments of `fit`, and what follows from them."""

    net: nn.Module
    train: Items | Stream
    loss: Objective | Criterion
    recipe: Recipe
    valid: Items | Stream | None
    metric: Metric | None
    pruner: GradualPruner | None
    quantizer: StraightThrough | None
    run: RunConfig

    def check(self) -> None:
        """Raise ValueError for arguments that do not fit together."""
        check_trackers(self.run.trackers, self.run.place)
        if (self.valid is None) != (self.metric is None):
            raise ValueError("Give valid and metric together, or neither.")
        if (
            isinstance(self.loss, (SingleDraw, SandwichLoss, FamilyLoss))
            and self.loss.net is not self.net
        ):
            raise ValueError(
                "The loss was made for another network; make it with the one you train."
            )
        for name, each in self.after_steps().items():
            if each.steps or each.module is not module_of(self.net):
                raise ValueError(f"Make a new {name}, with the network that you train.")
            if self.run.shard:
                raise ValueError(f"A {name} needs whole weights; train without shard.")
        if self.run.shard and self.held():
            raise ValueError("Zeros that stay need whole weights; train without shard.")
        if self.quantizer is not None and self.recipe.ema is not None:
            raise ValueError("Averages of quantized weights are not quantized; train without ema.")
        if self.run.shard and self.recipe.precision == "float16":
            raise ValueError(
                "Gradients of sharded weights cannot be scaled, as float16 needs; use bfloat16."
            )

    def objective(self) -> Callable[[Any, Any], Tensor]:
        """(inputs, target) -> loss."""
        if isinstance(self.loss, Objective):
            return self.loss
        net, criterion = self.net, self.loss
        return lambda inputs, target: one_number(criterion(outputs_for(net, inputs), target))

    def speeds(self) -> Mapping[str, float]:
        """Times the learning rate, by parameter name; 1 for those that are not named."""
        return self.loss.speeds if isinstance(self.loss, Objective) else {}

    def identity(self) -> dict[str, Any]:
        """What decides the trained weights, as JSON: a checkpoint goes on with the same only."""
        loss, net = self.loss, self.net
        state = state_of(module_of(net))
        shapes = [(name, list(t.shape), str(t.dtype)) for name, t in state.items()]
        identity = {
            "recipe": asdict(self.recipe),
            "seed": self.run.seed,
            "loss": loss.settings() if isinstance(loss, Objective) else name_of(loss),
            "draws": {name or "net": asdict(d.draw) for name, d in self.drawing().items()},
            "draws_seed": net.seed if isinstance(net, Elastic) else None,
            "model": {
                "parameters": sum(p.numel() for p in net.parameters()),
                "tensors": "#" + hashlib.sha256(repr(shapes).encode()).hexdigest()[:16],
                **configured(net),
            },
            "data": None if self.run.folder is None else sampled(self.train),
            "functions": functions_of(self.loss, net),
            "metric": None if self.metric is None else self.metric.name,
            "pruning": None if self.pruner is None else self.pruner.settings(),
        }
        if self.quantizer is not None:
            identity["bits"] = self.quantizer.settings()
        if zeros := self.held():
            identity["zeros"] = {name: int((~mask).sum()) for name, mask in zeros.items()}
        if self.run.accumulate > 1:
            identity["accumulate"] = self.run.accumulate
        return identity

    def held(self) -> dict[str, Tensor]:
        """Masks of the zeros that are meant and that no pruner looks after."""
        pruned = {} if self.pruner is None else self.pruner.masks
        floats = {} if self.quantizer is None else self.quantizer.floats
        found = meant(module_of(self.net), floats)
        return {name: mask for name, mask in found.items() if name not in pruned}

    def after_steps(self) -> dict[str, GradualPruner | StraightThrough]:
        """What changes the weights after every optimizer step, in this order, by name."""
        pair = {"pruner": self.pruner, "quantizer": self.quantizer}
        return {name: each for name, each in pair.items() if each is not None}

    def drawing(self) -> dict[str, Elastic | StructuralDropout]:
        """What draws widths, by module name."""
        if isinstance(self.net, Elastic):
            return {"": self.net}
        return {n: m for n, m in self.net.named_modules() if isinstance(m, StructuralDropout)}


def functions_of(loss: Objective | Criterion, net: nn.Module) -> dict[str, Any]:
    """What the functions are that a loss is made of, by their part in it."""
    parts: dict[str, Any] = {"loss": loss}
    if isinstance(loss, Objective):
        parts = {name: getattr(loss, name, None) for name in ("criterion", "distill_loss")}
    return {n: described(f, module_of(net)) for n, f in parts.items() if f is not None}


def module_of(net: nn.Module) -> nn.Module:
    """The user's own module."""
    return net.model if isinstance(net, Elastic) else net
