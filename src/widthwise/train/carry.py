"""What a training keeps beside the weights, carried over to a cut network.

    small = net.cut(widths)
    optimizer = carry_optimizer(optimizer, net, small, widths)      # momentum and all
    average = carry_average(average, net, small, widths)            # of the weights

Both slice what they carry as the cut slices the weights, so that training the cut network on is
training the elastic one on at these widths.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from widthwise.elastic.network import Elastic
from widthwise.errors import TrainingError, WidthError
from widthwise.graph.slicing import KeptDim, part
from widthwise.train.ema import Average
from widthwise.train.job import module_of

Opt = TypeVar("Opt", bound=Optimizer)
Avg = TypeVar("Avg", AveragedModel, Average)

# A draw with scale multiplies weights by s where they are cut. State follows with a power of s: a
# gradient, whose loss is the same, by 1 / s, the square of one by 1 / s^2, what is a weight by s.
_POWERS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("momentum_buffer", "exp_avg", "exp_inf", "grad_avg", "prev"), -1),
    **dict.fromkeys(("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"), -2),
    **dict.fromkeys(("ax", "step_size"), 1),
    "acc_delta": 2,
}


def carry_optimizer(
    optimizer: Opt, net: Elastic, small: nn.Module, widths: Mapping[str, int]
) -> Opt:
    """Make an optimizer for a cut network that goes on where the network's own is.

    Tensors of a parameter's shape (momentum, second moments) are cut as the parameter is, numbers
    such as `step` are copied. Parameters of others, of a loss say, stay in their groups as they
    are. Options of the groups are kept, `initial_lr` among them, so that a schedule goes on with
    `LRScheduler(new, ..., last_epoch=old.last_epoch)`.

    Args:
        optimizer: over parameters of `net`, or some of them; left as it is.
        net: the elastic network, in the order of features that the optimizer has trained.
        small: its cut at these widths, of the user's class or a graph module.
        widths: those that it was cut to.

    Returns:
        A new optimizer of the same class, with the same groups over the cut's parameters.

    Raises:
        TrainingError: for state that cannot be cut, and optimizers that cannot be made again.
        WidthError: where `small` is not the cut at these widths.

    Example:
        small = net.cut(widths)
        optimizer = carry_optimizer(optimizer, net, small, widths)
        F.cross_entropy(small.train()(x), y).backward()
        optimizer.step()
    """
    kind = type(optimizer).__name__
    pairs = _Pairs.of(net, small, widths)
    groups: list[dict[str, Any]] = []
    known: set[int] = set()
    for group in optimizer.param_groups:
        found = [(i, pairs.there(p)) for i, p in enumerate(group["params"])]
        kept = [(i, p) for i, p in found if p is not None]
        options = {**group, "params": [p for _, p in kept]}
        if "param_names" in group:
            options["param_names"] = [group["param_names"][i] for i, _ in kept]
        groups.append(options)
        known |= {id(p) for _, p in kept}
    pairs.check_new(known, kind)
    made = _made(optimizer, [group for group in groups if group["params"]])
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            new = pairs.there(parameter)
            if new is not None and parameter in optimizer.state:
                state = optimizer.state[parameter]
                made.state[new] = {k: pairs.cut(parameter, k, v, kind) for k, v in state.items()}
    return made


def carry_average(average: Avg, net: Elastic, small: nn.Module, widths: Mapping[str, int]) -> Avg:
    """Make an average of weights for a cut network that goes on where the network's own is.

    Args:
        average: a `torch.optim.swa_utils.AveragedModel` of the network or of its model, or the
            `Average` of `widthwise.train.ema`; left as it is.
        net: as for `carry_optimizer`.
        small: as for `carry_optimizer`.
        widths: as for `carry_optimizer`.

    Returns:
        A new average of the same kind: the old one cut to these widths. Its running statistics are
        `small`'s, for they belong to the width.

    Raises:
        WidthError: where `small` is not the cut at these widths.

    Example:
        ema = AveragedModel(net.model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
        ...
        ema = carry_average(ema, net, small, widths)
        ema.update_parameters(small)
    """
    pairs = _Pairs.of(net, small, widths)
    made: Any
    if isinstance(average, Average):
        made, old = Average(small, average.decay), average.model
        new: AveragedModel = made.model
    else:
        old = average
        new = made = AveragedModel(
            small,
            avg_fn=old.avg_fn,
            multi_avg_fn=old.multi_avg_fn,
            use_buffers=old.use_buffers,
        )
    owned = {name.removesuffix("running_mean") for name in net.engine.statistics(widths)}
    theirs, buffers = _named(module_of(old.module)), dict(new.module.named_buffers())
    with torch.no_grad():
        for name, tensor in _named(new.module).items():
            own = name in buffers and name.removesuffix(name.rpartition(".")[2]) in owned
            if name in theirs and not own:
                tensor.copy_(pairs.slice(name, theirs[name], 1, tensor.shape))
        new.n_averaged.copy_(old.n_averaged)
    return made  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Pairs:
    """The parameters of a network and of its cut.

    names: id of a full parameter -> a name by which the cut has it; None where the cut lacks it.
    small: the cut's parameters by each name. kept: what the cut keeps, by name of a tensor.
    """

    names: Mapping[int, str | None]
    small: Mapping[str, nn.Parameter]
    kept: Mapping[str, tuple[KeptDim, ...]]

    @classmethod
    def of(cls, net: Elastic, small: nn.Module, widths: Mapping[str, int]) -> _Pairs:
        """Raises WidthError."""
        mine = dict(module_of(small).named_parameters(remove_duplicate=False))
        names: dict[int, str | None] = {}
        for name, parameter in net.model.named_parameters(remove_duplicate=False):
            if names.get(id(parameter)) is None:
                names[id(parameter)] = name if name in mine else None
        return cls(names, mine, net.engine.kept(widths))

    def there(self, parameter: Tensor) -> Tensor | None:
        """The cut's parameter for a full one; one of another module is its own."""
        if id(parameter) not in self.names:
            return parameter
        name = self.names[id(parameter)]
        return None if name is None else self.small[name]

    def cut(self, parameter: Tensor, key: str, value: Any, kind: str) -> Any:
        """One entry of a parameter's state, for the cut's parameter. Raises TrainingError."""
        name = self.names.get(id(parameter))
        if name is None or value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, Tensor) and value.dim() == 0:
            return value.clone()
        if not isinstance(value, Tensor) or value.shape != parameter.shape:
            form = f"a {type(value).__name__}"
            if isinstance(value, Tensor):
                form = f"of shape {tuple(value.shape)}, not {tuple(parameter.shape)},"
            raise TrainingError(
                f"The {kind}'s state {key!r} of {name!r} is {form} and cannot be cut; make a new "
                f"{kind} with the parameters of the cut network."
            )
        scaled = any(k.scale != 1 for k in self.kept.get(name, ()))
        if scaled and key not in _POWERS:
            raise TrainingError(
                f"How the {kind}'s state {key!r} of {name!r} follows the scale of the draws is not "
                f"known; make a new {kind} with the parameters of the cut network."
            )
        found = self.slice(name, value, _POWERS.get(key, 0), self.small[name].shape)
        return found.to(self.small[name].device)

    def slice(self, name: str, value: Tensor, power: int, wanted: torch.Size) -> Tensor:
        """A tensor cut as the parameter of that name, times a power of its scale.

        Raises WidthError for another shape than is wanted.
        """
        kept = self.kept.get(name, ())
        found = part(value.detach(), tuple((k.dim, k.layout) for k in kept)).clone()
        for k in kept:
            if k.scale != 1:
                found *= k.scale**power
        if found.shape != wanted:
            raise WidthError(
                f"{name!r} of the module is not what the network's cut at these widths has; give "
                "the widths that it was cut to."
            )
        return found

    def check_new(self, known: set[int], kind: str) -> None:
        """Raise TrainingError where the cut learns what the network has not."""
        full = {id(self.small[name]) for name in self.names.values() if name is not None}
        for name, parameter in self.small.items():
            if parameter.requires_grad and id(parameter) not in full | known:
                raise TrainingError(
                    f"The cut network has a parameter {name!r} that the network has not; make a "
                    f"new {kind} with the parameters of the cut network."
                )


def _named(module: nn.Module) -> dict[str, Tensor]:
    named: dict[str, Tensor] = dict(module.named_buffers(remove_duplicate=False))
    return named | dict(module.named_parameters(remove_duplicate=False))


def _made(optimizer: Opt, groups: list[dict[str, Any]]) -> Opt:
    """A new optimizer of the same class. Raises TrainingError."""
    kind = type(optimizer)
    taken = inspect.signature(kind.__init__).parameters
    defaults = {name: v for name, v in optimizer.defaults.items() if name in taken}
    try:
        return kind(groups, **defaults)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise TrainingError(
            f"A new {kind.__name__} cannot be made from groups and options alone ({reason}); give "
            "the optimizer inside of a wrapper, or make a new one with the parameters of the cut "
            "network."
        ) from error
