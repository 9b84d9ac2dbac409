"""What `widthwise cut` can do to a cut network before it is stored, step by step.

    PostProcessing((PostProcess.RECONSTRUCT, PostProcess.FINE_TUNE), epochs=3)
    PostProcessing((PostProcess.MERGE,))       # features that go are merged into those that stay
    PostProcessing((PostProcess.SCRATCH,))     # the same shape, newly initialised and trained

The last two make the network that the others then change, so they come first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import torch
from torch import nn
from torch.utils.data import Dataset

from widthwise.elastic.network import Elastic
from widthwise.elastic.recalibration import Recalibrate
from widthwise.errors import FileError, ScoreError, TrainingError
from widthwise.measure.frontier import Frontier
from widthwise.measure.shape_costs import Costs
from widthwise.pruning import merge, reconstruct_
from widthwise.quantization import StraightThrough
from widthwise.task import Task
from widthwise.train.batches import own_randomness
from widthwise.train.config import RunConfig
from widthwise.train.distillation import Teacher, distill
from widthwise.train.fit import fit
from widthwise.train.recipe import Recipe
from widthwise.train.refit import refit_output_
from widthwise.train.teaching import HALF
from widthwise.variant import Widths

Batches = list[tuple[Any, Any]]

EPOCHS: Final = 5  # of a fine-tuning
TAUGHT: Final = 0.2  # of the recipe's epochs: a distillation
TAUGHT_SMALL: Final = 0.3  # the same of the smallest networks, which gain longer
TAUGHT_IN_BITS: Final = 0.4  # the same of networks in few bits
SMALL: Final = 0.03  # of the multiply-accumulates of the full network
LARGE: Final = 0.5  # of them: larger networks gained nothing, and take the longest
SLOWER: Final = 10  # times, than the recipe that trained the network


class PostProcess(StrEnum):
    """The steps by the names that the command line has for them."""

    NONE = "none"
    REFIT = "refit"
    DISTILL = "distill"
    RECONSTRUCT = "reconstruct"
    FINE_TUNE = "fine-tune"
    MERGE = "merge"
    SCRATCH = "scratch"


_FIRST: Final = (PostProcess.MERGE, PostProcess.SCRATCH)
_TRAINED: Final = (PostProcess.FINE_TUNE, PostProcess.SCRATCH)
_TAKING_EPOCHS: Final = (PostProcess.DISTILL, *_TRAINED)


@dataclass(frozen=True)
class PostProcessing:
    """The steps, in their order. epochs, lr: of those that train.

    Raises ValueError for steps that do not go together.
    """

    names: tuple[PostProcess, ...] = ()
    epochs: int | None = None
    lr: float | None = None

    def __post_init__(self) -> None:
        if PostProcess.NONE in self.names and len(self.names) > 1:
            raise ValueError("none goes with no other post-processing; leave it out.")
        for name in _FIRST:
            if name in self.names[1:]:
                raise ValueError(f"{name} makes the network that is post-processed; name it first.")
        if (self.epochs, self.lr) != (None, None) and not {*_TAKING_EPOCHS} & {*self.names}:
            raise ValueError(
                "epochs and a learning rate are for distill, fine-tune and scratch; name one."
            )
        _with(Recipe(), self.epochs, self.lr)

    def without_last(self) -> PostProcessing:
        """These but for the last one."""
        return PostProcessing(self.names[:-1])


def fine_tuning(recipe: Recipe, epochs: int | None = None, lr: float | None = None) -> Recipe:
    """The recipe for training a network on: few epochs at a tenth of the learning rate."""
    return _with(recipe, epochs or EPOCHS, lr or recipe.lr / SLOWER)


def begun(
    net: Elastic,
    widths: Mapping[str, int],
    how: PostProcessing,
    batches: Callable[[], Batches],
    recalibrate: Recalibrate = True,
) -> nn.Module:
    """The cut network to touch up: `net.cut(widths)`, or its features merged.

    recalibrate: as `Elastic.cut` takes it. Raises WidthError, also where features cannot be merged.
    """
    if PostProcess.MERGE in how.names:
        return merge(net, widths, batches(), recalibrate=recalibrate)
    return net.cut(widths, recalibrate=recalibrate)


def post_process(
    modules: Sequence[nn.Module],
    net: Elastic,
    widths: Sequence[Mapping[str, int]],
    task: Task,
    train: Dataset[Any],
    how: PostProcessing,
    batches: Callable[[], Batches],
    *,
    statistics: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> None:
    """Change cut networks in place, one step after the other; they are on the CPU afterwards.

    modules: what `begun` gave, at these widths. batches: of training data, for the steps that need
    no whole training. statistics: whether `reconstruct_` re-estimates batch norms'.

    Raises TrainingError, ScoreError.
    """
    for name in how.names:
        if name is PostProcess.DISTILL:
            for epochs, places in _taught(net, widths, task.recipe, how).items():
                distill(
                    [modules[i] for i in places],
                    _teacher(task, net),
                    train,
                    recipe=_teaching(task.recipe, epochs, how.lr),
                    by_size=how.lr is None,
                    seed=seed,
                    progress=progress,
                )
        for module, kept in zip(modules, widths, strict=True):
            if name is PostProcess.REFIT:
                refit_output_(module, train, task.loss)
            elif name is PostProcess.RECONSTRUCT:
                reconstruct_(module, net, kept, batches(), statistics=statistics, progress=progress)
            elif name in _TRAINED:
                recipe = fine_tuning(task.recipe, how.epochs, how.lr)
                if name is PostProcess.SCRATCH:
                    initialise(module, seed)
                    recipe = _with(task.recipe, how.epochs, how.lr)
                fit(
                    module,
                    train,
                    task.loss,
                    recipe=recipe,
                    run=RunConfig(seed=seed, progress=progress),
                )
            module.cpu()


def teach_in_bits(
    module: nn.Module,
    net: Elastic,
    task: Task,
    train: Dataset[Any],
    quantizer: StraightThrough,
    *,
    seed: int = 0,
    progress: bool = False,
) -> None:
    """Train a cut network whose weights are quantized, in place, taught by the full network.

    module: it, or a ModuleList of several. Where the task wants no distillation it is one network,
    and the targets alone teach.
    quantizer: of `module`, whose `record` says what its weights are then. Raises TrainingError.
    """
    epochs = max(2, round(TAUGHT_IN_BITS * task.recipe.epochs))
    if task.distill is None:
        recipe = replace(task.recipe, epochs=epochs, ema=None)
        fit(
            module,
            train,
            task.loss,
            recipe=recipe,
            compress=quantizer,
            run=RunConfig(seed=seed, progress=progress),
        )
        return
    distill(
        module,
        _teacher(task, net),
        train,
        recipe=_teaching(task.recipe, epochs),
        by_size=True,
        quantizer=quantizer,
        seed=seed,
        progress=progress,
    )


def _teacher(task: Task, net: nn.Module) -> Teacher:
    """The full network, and what a task's cuts learn from it."""
    return Teacher(net, task.distill or HALF, task.loss, task.distill_loss)


def _teaching(recipe: Recipe, epochs: int, lr: float | None = None) -> Recipe:
    """The distillation of a task's cuts: Adam, at the rate of the task's recipe or another one."""
    return Recipe(epochs=epochs, batch_size=recipe.batch_size, lr=lr or recipe.lr)


def macs_kept(net: Elastic, widths: Sequence[Mapping[str, int]]) -> list[float]:
    """Multiply-accumulates of cuts, as shares of the full network's; 1 where nothing multiplies."""
    macs = Costs(net, "macs")
    full = macs.total(net.full())
    return [macs.total(net.complete(w)) / full if full else 1.0 for w in widths]


def _taught(
    net: Elastic, widths: Sequence[Mapping[str, int]], recipe: Recipe, how: PostProcessing
) -> dict[int, list[int]]:
    """Epochs of a distillation -> the places of the networks that it takes in one go."""
    found: dict[int, list[int]] = {}
    for i, share in enumerate(macs_kept(net, widths)):
        length = TAUGHT_SMALL if share < SMALL else TAUGHT
        epochs = how.epochs or max(2, round(length * recipe.epochs))
        found.setdefault(epochs, []).append(i)
    return found


def reconstruction_of(
    net: Elastic, batches: Batches, *, statistics: bool = True
) -> Callable[[nn.Module, Widths], nn.Module]:
    """For `sweep`: what RECONSTRUCT does to each cut, and nothing at full width.

    batches, statistics: as for `post_process`. What is returned raises ScoreError.
    """

    def reconstructed(module: nn.Module, widths: Widths) -> nn.Module:
        if net.complete(widths) == dict(net.full()):
            return module
        try:
            return reconstruct_(module, net, widths, batches, statistics=statistics).cpu()
        except ScoreError as error:
            raise ScoreError(f"{error} Or leave the cuts as they are: --no-reconstruct.") from error

    return reconstructed


def usual(frontier: Frontier | None, *, reconstructed: bool) -> PostProcessing:
    """What is done to a cut where nothing is named: what was done to the points of the frontier.

    frontier: of the run; without one, it is what a sweep would do. reconstructed: whether a sweep
    would reconstruct. Raises FileError when the frontier names what is no post-processing.
    """
    name = (
        (PostProcess.RECONSTRUCT if reconstructed else "")
        if frontier is None
        else frontier.post_process
    )
    try:
        return PostProcessing((PostProcess(name),)) if name else PostProcessing()
    except ValueError as error:
        raise FileError(
            f"The frontier was measured with unknown post-processing ({name[:50]!r}); "
            "name one with --post-process, or sweep again."
        ) from error


def initialise(module: nn.Module, seed: int) -> nn.Module:
    """Give a module new random weights, by the `reset_parameters` of everything that holds some.

    Raises TrainingError, having changed nothing, where something holds tensors and has no such
    method.
    """
    holders = [
        (name, m)
        for name, m in module.named_modules()
        if any(True for _ in m.parameters(recurse=False)) or any(True for _ in m.buffers(False))
    ]
    for name, holder in holders:
        if not callable(getattr(holder, "reset_parameters", None)):
            raise TrainingError(
                f"{type(module).__name__} cannot be newly initialised, for {name or 'it'} "
                f"({type(holder).__name__}) holds tensors and has no reset_parameters(); give its "
                "class that method, or use fine-tune."
            )
    with own_randomness():
        torch.manual_seed(seed)
        for _, holder in holders:
            holder.reset_parameters()  # type: ignore[operator]
    return module


def _with(recipe: Recipe, epochs: int | None, lr: float | None) -> Recipe:
    """The recipe with what is given in the place of its own."""
    given = {name: v for name, v in {"epochs": epochs, "lr": lr}.items() if v is not None}
    return replace(recipe, **given)  # type: ignore[arg-type]
