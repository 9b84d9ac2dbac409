"""The training loop, on Hugging Face Accelerate.

    history = fit(net, train, F.cross_entropy, recipe=Recipe(epochs=15))      # all widths
    history = fit(module, train, F.cross_entropy, recipe=Recipe())            # any module, plainly
    history = fit(net, train, SandwichLoss(net, F.cross_entropy))             # another objective
    history = fit(..., valid=valid, metric=ACCURACY)                          # after every epoch
    history = fit(..., run=RunConfig(folder="runs/a"))   # checkpoints in the folder
    history = fit(..., run=RunConfig(folder="runs/a"))   # again: goes on, or is done

The data's order, the learning rate and every random number are functions of seed and step, so a
run that was stopped, in whatever way, ends with the very weights of one that was not. In a script
that torchrun or `accelerate launch` starts, the processes share each batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Final

from torch import nn

from widthwise.common.lock import held
from widthwise.elastic.network import Elastic
from widthwise.measure.data import adapt
from widthwise.measure.metric import Metric, as_metric
from widthwise.measure.pairs import takes
from widthwise.pruning.gradual import GradualPruner
from widthwise.quantization import StraightThrough
from widthwise.sampling.draws import Draw
from widthwise.train.batches import own_randomness
from widthwise.train.config import RunConfig
from widthwise.train.family import FamilyLoss
from widthwise.train.history import History
from widthwise.train.job import Job
from widthwise.train.losses import Criterion, Objective
from widthwise.train.phases import train_family
from widthwise.train.ranks import is_first
from widthwise.train.recipe import Recipe
from widthwise.train.run import LongerWarning, TrainingRun

__all__ = ["LongerWarning", "fit"]

Compressor = GradualPruner | StraightThrough
"""What changes the weights after every step of the optimizer."""

_LOCK: Final = ".training.lock"


def fit(
    net: nn.Module,
    train: Any,
    loss: Objective | Criterion,
    *,
    recipe: Recipe | None = None,
    valid: Any = None,
    metric: Metric | Any = None,
    compress: Compressor | Sequence[Compressor] | None = None,
    run: RunConfig | None = None,
) -> History:
    """Train a network in place, and leave it in evaluation mode.

    The global random generators are left as they were.

    Args:
        net: an `Elastic`, or any module, which is then trained plainly. It moves to the device
            used.
        train: a Dataset, a DataLoader, a list of batches, tensors (inputs, targets), an
            iterable of batches with a length; items or batches of (inputs, target), inputs a
            tensor, a tuple or a dict (`measure.data`). A DataLoader gives its own batches, by its
            sampler and collate_fn; the others are put into batches of `recipe.batch_size`. Data
            sets with a method `batch(indices)` are fetched a batch at a time.
        valid: data on which `metric` is measured, in the same forms.
        loss: a criterion (outputs, target) -> mean loss, or an objective. An Elastic is trained by
            a criterion as by `FamilyLoss(net, criterion)`: its full width first, then along levels
            that its scores choose; one that was made with a draw of its own, at one drawn width a
            step.
        recipe: how long and how fast; the default is `Recipe()`.
        metric: measured on `valid` after every epoch, at full width: a Metric, an object of
            torchmetrics, or a function of sklearn.metrics.
        compress: a `GradualPruner`, which prunes the network while it is trained, a step for each
            of the optimizer's; its schedule counts from the beginning of the run, and the run goes
            on only with the same. Or a `StraightThrough`, which trains with quantized weights,
            which the network has at the end; averages of them would be none, so that it goes
            without `Recipe(ema=)`. Or both. Zeros that are meant (of a pruner before, of masks, of
            a file stored without them) stay zero with and without a pruner;
            `widthwise.elastic.zeros.free(module)` gives them up.
        run: where and how the training runs: folder, seed, progress, devices and processes; by
            default `RunConfig()`.

    Returns:
        What the run was like.

    Raises:
        TrainingError: When the loss or the weights stop being finite, the precision is not to be
            had, or the processes of one training were started with different settings.
        RunError: When the folder is in use or holds another run.
        FileError: When the checkpoint is damaged or cannot be written.
        ValueError: For arguments that do not fit together.
        KeyboardInterrupt: On Ctrl-C, after the step at hand was saved; it says how to go on.
    """
    run = run or RunConfig()
    form = takes(net)
    with own_randomness():  # looking at an item may draw numbers
        train = adapt(train, form)
        valid = None if valid is None else adapt(valid, form)
    if isinstance(net, Elastic) and not isinstance(loss, Objective) and net.draw == Draw():
        loss = FamilyLoss(net, loss)
    measure = None if metric is None else as_metric(metric)
    pruner, quantizer = _compressors(compress)
    job = Job(net, train, loss, recipe or Recipe(), valid, measure, pruner, quantizer, run)
    job.check()
    place = run.place
    alone = held(place, _LOCK) if place is not None and is_first() else nullcontext()
    with own_randomness(), alone:
        if isinstance(job.loss, FamilyLoss):
            return train_family(job, job.loss, run.progress)
        return TrainingRun(job).go(run.progress)


def _compressors(
    given: Compressor | Sequence[Compressor] | None,
) -> tuple[GradualPruner | None, StraightThrough | None]:
    """The pruner and the quantizer. Raises ValueError for two of a kind, and for other things."""
    several = [given] if isinstance(given, GradualPruner | StraightThrough) else list(given or ())
    pruners = [each for each in several if isinstance(each, GradualPruner)]
    quantizers = [each for each in several if isinstance(each, StraightThrough)]
    if len(pruners) > 1 or len(quantizers) > 1 or len(pruners) + len(quantizers) < len(several):
        raise ValueError(
            "compress takes a GradualPruner, a StraightThrough, or one of each in a tuple."
        )
    return next(iter(pruners), None), next(iter(quantizers), None)
