"""The training loop, on Hugging Face Accelerate.

    history = fit(net, train, F.cross_entropy, recipe=Recipe(epochs=15))      # all widths
    history = fit(module, train, F.cross_entropy, recipe=Recipe())            # any module, plainly
    history = fit(net, train, SandwichLoss(net, F.cross_entropy))             # another objective
    history = fit(..., valid=valid, metric=ACCURACY, folder="runs/a")   # checkpoints in the folder
    history = fit(..., valid=valid, metric=ACCURACY, folder="runs/a")   # again: goes on, or is done

The data's order, the learning rate and every random number are functions of seed and step, so a
run that was stopped, in whatever way, ends with the very weights of one that was not. In a script
that torchrun or `accelerate launch` starts, the processes share each batch.
"""

from __future__ import annotations

from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

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
from widthwise.train.family import FamilyLoss
from widthwise.train.history import History
from widthwise.train.job import Job
from widthwise.train.losses import Criterion, Objective
from widthwise.train.phases import train_family
from widthwise.train.ranks import is_first
from widthwise.train.recipe import Recipe
from widthwise.train.run import LongerWarning, TrainingRun

__all__ = ["LongerWarning", "fit"]


def fit(
    net: nn.Module,
    train: Any,
    loss: Objective | Criterion,
    *,
    recipe: Recipe | None = None,
    valid: Any = None,
    metric: Metric | Any = None,
    pruner: GradualPruner | None = None,
    quantizer: StraightThrough | None = None,
    folder: str | PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
    workers: int = 0,
    cpu: bool = False,
    save_every: float = 300.0,
    accumulate: int = 1,
    shard: bool = False,
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
        pruner: prunes the network while it is trained, a step for each of the optimizer's; its
            schedule counts from the beginning of the run, and the run goes on only with the same.
            Zeros that are meant (of a pruner before, of masks, of a file stored without them) stay
            zero with and without one; `widthwise.elastic.zeros.free(module)` gives them up.
        quantizer: trains with quantized weights, which the network has at the end; likewise.
            Averages of them would be none, so that it goes without `Recipe(ema=)`.
        folder: where the run is kept, after every epoch and (unless there are several processes)
            every `save_every` seconds. When it holds an unfinished run, that one goes on; when the
            run is finished, its weights are loaded, or trained on where the recipe has more epochs
            (with a warning). A run is known by its recipe, seed, loss, network and data
            (`train.identity`).
        seed: of the order of the data, its augmentation and dropout. The draws of widths have a
            seed of their own, the Elastic's; its `step` starts at 0.
        progress: a bar on a terminal, else a line for each epoch; False shows nothing.
        workers: processes that fetch ahead, for data sets that are slow to index.
        cpu: stay on the CPU even where there is a GPU.
        accumulate: pieces in which each process runs its share of a batch, one after another, to
            save memory. All pieces of a step have the same widths.
        shard: of several processes, each keeps only its share of the weights, of their gradients
            and of the optimizer's state (FSDP2). The network is whole again at the end. Goes
            without pruner, quantizer and float16.

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
    place = None if folder is None else Path(folder)
    form = takes(net)
    with own_randomness():  # looking at an item may draw numbers
        train = adapt(train, form)
        valid = None if valid is None else adapt(valid, form)
    if isinstance(net, Elastic) and not isinstance(loss, Objective) and net.draw == Draw():
        loss = FamilyLoss(net, loss)
    job = Job(
        net,
        train,
        loss,
        recipe or Recipe(),
        valid,
        None if metric is None else as_metric(metric),
        pruner,
        quantizer,
        place,
        seed,
        workers,
        cpu,
        save_every,
        accumulate,
        shard,
    )
    job.check()
    with own_randomness(), held(place) if place is not None and is_first() else nullcontext():
        if isinstance(job.loss, FamilyLoss):
            return train_family(job, job.loss, progress)
        return TrainingRun(job).go(progress)
