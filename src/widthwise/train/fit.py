"""The training loop, on Hugging Face Accelerate.

    history = fit(net, train, SandwichLoss(net, F.cross_entropy), recipe=Recipe(epochs=15))
    history = fit(module, train, F.cross_entropy, recipe=Recipe())      # any module, plainly
    history = fit(..., valid=valid, metric=ACCURACY, folder="runs/a")   # checkpoints in the folder
    history = fit(..., valid=valid, metric=ACCURACY, folder="runs/a")   # again: goes on, or is done

The data's order, the learning rate and every random number are functions of seed and step, so a
run that was stopped, in whatever way, ends with the very weights of one that was not.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from widthwise.bits import StraightThrough
from widthwise.choose.draws import hashed
from widthwise.errors import TrainingError
from widthwise.measure.metric import Metric, outputs_for
from widthwise.sparse import GradualPruner
from widthwise.store.lock import held
from widthwise.train import checkpoint
from widthwise.train.batches import Plan, length, own_randomness, placed, reseed, stream
from widthwise.train.checkpoint import Checkpoint
from widthwise.train.ema import Average
from widthwise.train.history import Epoch, History
from widthwise.train.job import Job, module_of
from widthwise.train.losses import Criterion, Objective, SandwichLoss, SingleDraw
from widthwise.train.progress import Display, Pace
from widthwise.train.recipe import Recipe, rate
from widthwise.train.sam import SAM
from widthwise.train.setup import accelerator_for, optimizer_for
from widthwise.train.state import gather, restore

if TYPE_CHECKING:
    pass


def fit(
    net: nn.Module,
    train: Dataset[Any],
    loss: Objective | Criterion,
    *,
    recipe: Recipe | None = None,
    valid: Dataset[Any] | None = None,
    metric: Metric | None = None,
    pruner: GradualPruner | None = None,
    quantizer: StraightThrough | None = None,
    folder: str | PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
    workers: int = 0,
    cpu: bool = False,
    save_every: float = 300.0,
) -> History:
    """Train a network in place, and leave it in evaluation mode.

    net: an `Elastic`, or any module, which is then trained plainly. It moves to the device used.
    train, valid: map-style data sets of (inputs, target); inputs a tensor, a tuple or a dict. Those
        with a method `batch(indices)` are fetched a batch at a time.
    loss: an objective such as `SandwichLoss(net, criterion)`, or a criterion (outputs, target) ->
        mean loss, which for an Elastic is that of one drawn width a step.
    recipe: how long and how fast; the default is `Recipe()`.
    metric: measured on `valid` after every epoch, at full width.
    pruner: prunes the network while it is trained, a step for each of the optimizer's; its schedule
        counts from the beginning of the run, and the run goes on only with the same.
    quantizer: trains with quantized weights, which the network has at the end; likewise. Averages
        of them would be none, so that it goes without `Recipe(ema=)`.
    folder: where the run is kept, after every epoch and (unless there are several processes) every
        `save_every` seconds. When it holds an unfinished run, that one goes on; when the run is
        finished, its weights are loaded.
    seed: of the order of the data, its augmentation and dropout. The draws of widths have a seed
        of their own, that of the Elastic; its `step` starts at 0.
    progress: a bar on a terminal, else a line for each epoch; False shows nothing.
    workers: processes that fetch ahead, for data sets that are slow to index.
    cpu: stay on the CPU even where there is a GPU.

    Returns what the run was like. The global random generators are left as they were.

    Raises TrainingError when the loss or the weights stop being finite, or the precision is not to
    be had; RunError when the folder is in use or holds another run; FileError when the checkpoint
    is damaged or cannot be written; ValueError for arguments that do not fit together.
    KeyboardInterrupt (Ctrl-C) waits for the step at hand, saves, and says how to go on.
    """
    if (valid is None) != (metric is None):
        raise ValueError("Give valid and metric together, or neither.")
    if isinstance(loss, (SingleDraw, SandwichLoss)) and loss.net is not net:
        raise ValueError("The loss was made for another network; make it with the one you train.")
    for name, each in (("pruner", pruner), ("quantizer", quantizer)):
        if each is not None and (each.steps or each.module is not module_of(net)):
            raise ValueError(f"Make a new {name}, with the network that you train.")
    if quantizer is not None and recipe is not None and recipe.ema is not None:
        raise ValueError("Averages of quantized weights are not quantized; train without ema.")
    place = None if folder is None else Path(folder)
    job = Job(
        net,
        train,
        loss,
        recipe or Recipe(),
        valid,
        metric,
        pruner,
        quantizer,
        place,
        seed,
        workers,
        cpu,
        save_every,
    )
    with own_randomness():
        run = _Run(job)
        with held(place) if place is not None and run.main else nullcontext():
            return run.go(progress)


class _Step(nn.Module):
    """One training step's loss as a module, so that Accelerate can wrap all its passes at once."""

    def __init__(self, net: nn.Module, loss: Callable[[Any, Any], Tensor]) -> None:
        super().__init__()
        self.net = net
        self.loss = loss

    def forward(self, inputs: Any, target: Any) -> Tensor:
        return self.loss(inputs, target)


class _Run:
    """A run under way."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.module = module_of(job.net)
        recipe = job.recipe
        self.accelerator = accelerator_for(recipe, job.cpu)
        self.main: bool = self.accelerator.is_main_process
        self.plan = Plan(
            length(job.train), recipe.batch_size, job.seed, self.accelerator.num_processes
        )
        self.steps = self.plan.steps * recipe.epochs
        self.identity = job.identity()
        self.module.to(self.accelerator.device)
        self.optimizer = optimizer_for(self.module, recipe)
        # Accelerate's wrapper of an optimizer looks up signatures and installed packages at every
        # step, 0.2 ms in all; only scaled gradients need it.
        scaled = self.accelerator.scaler is not None
        self.stepper: Any = (
            self.accelerator.prepare_optimizer(self.optimizer) if scaled else self.optimizer
        )
        self.sam = None if recipe.sam is None else SAM(self.optimizer, recipe.sam)
        self.average = None if recipe.ema is None else Average(self.module, recipe.ema)
        self.objective = self.accelerator.prepare_model(_Step(job.net, job.objective()))
        self.step = 0
        self.epochs: list[Epoch] = []
        self.losses = (0.0, 0)  # sum and number, of the epoch at hand
        self.pending: list[Tensor] = []  # losses of the last steps, not looked at yet
        self.last = math.nan  # the last loss looked at
        self.kept: int | None = None  # the step of the last checkpoint
        self.began = time.monotonic()
        self.interrupted = False

    def go(self, progress: bool) -> History:
        """Train to the end."""
        job = self.job
        for module in job.drawing().values():
            module.step = 0
        self._resume()
        name = job.metric.name if job.metric else None
        display = Display(
            self.steps, job.recipe.epochs, self.step, name, shown=progress and self.main
        )
        with display, self._interruptible():
            for epoch in range(len(self.epochs), job.recipe.epochs):
                self._epoch(epoch, display)
                if self.interrupted:
                    self._stop()
        if self.average is not None:
            self.average.keep()
            if job.pruner is not None:
                job.pruner.apply()  # an average over masks is less sparse than each
        job.net.eval()
        return History(tuple(self.epochs), self.step)

    def _epoch(self, epoch: int, display: Display) -> None:
        job = self.job
        first = epoch * self.plan.steps
        share = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        batches = [indices[share] for indices in self.plan.epoch(epoch)[self.step - first :]]
        job.net.train()
        device = self.accelerator.device
        # Processes that look at the losses together must do so at the same steps, not times.
        alone = self.accelerator.num_processes == 1
        look = Pace(50, 1.0 if alone else math.inf)
        write = Pace(self.steps, job.save_every if alone else math.inf)
        for inputs, target in stream(job.train, batches, job.seed, self.step, job.workers):
            self._step(placed(inputs, device), placed(target, device))
            if look.due():
                display.step(self.step, self._look())
                look.reset()
            if self.interrupted:
                self._stop()
            if write.due():
                self._save()
                write.reset()
        display.step(self.step, self._look())
        self.epochs.append(self._measured())
        self.losses = (0.0, 0)
        self.began = time.monotonic()
        self._save()
        display.epoch(epoch + 1, self.epochs[-1])

    def _step(self, inputs: Any, target: Any) -> None:
        recipe = self.job.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = rate(recipe, self.step, self.steps)
        loss = self._passes(inputs, target)
        if recipe.clip is not None:
            self.accelerator.clip_grad_norm_(self.module.parameters(), recipe.clip)
        self.stepper.step()
        self.optimizer.zero_grad()
        for each in self.job.after_steps().values():
            each.step()
        if self.average is not None:
            self.average.update()
        self.pending.append(loss.detach())
        self.step += 1

    def _passes(self, inputs: Any, target: Any) -> Tensor:
        """Forward and backward, twice where sharpness counts; the loss at the weights."""
        draws = {module: module.step for module in self.job.drawing().values()}
        loss = self._pass(inputs, target)
        if self.sam is None:
            return loss
        if self.job.pruner is not None:
            self.job.pruner.mask_gradients()
        kept = [(b, b.clone()) for b in self.module.buffers()]
        for module, number in draws.items():
            module.step = number
        self.sam.climb()
        try:
            self._pass(inputs, target)  # at the same widths
        finally:
            self.sam.descend()
        for buffer, value in kept:
            buffer.copy_(value)  # statistics are those of the weights themselves
        return loss

    def _pass(self, inputs: Any, target: Any) -> Tensor:
        reseed(hashed(self.job.seed, (self.step, 1, self.accelerator.process_index)))
        loss: Tensor = self.objective(inputs, target)
        self.accelerator.backward(loss)
        return loss

    def _look(self) -> float:
        """Look at the losses since the last look; a GPU is waited for here and nowhere else."""
        if self.pending:
            found = torch.stack(self.pending).float()
            if self.accelerator.num_processes > 1:
                found = self.accelerator.reduce(found, "mean")
            values: list[float] = found.tolist()
            self.pending.clear()
            for i, value in enumerate(values):
                if not math.isfinite(value):
                    raise self._failed(f"loss is {value}", self.step - len(values) + i + 1)
            total, count = self.losses
            self.losses = (math.fsum((total, *values)), count + len(values))
            self.last = values[-1]
        return self.last

    def _failed(self, what: str, step: int) -> TrainingError:
        kept = f"; the checkpoint of step {self.kept} is kept" if self.kept is not None else ""
        return TrainingError(
            f"The {what} at step {step} of {self.steps}; train anew with a lower learning rate than"
            f" {self.job.recipe.lr:g}, and look for values in the data that are not finite{kept}."
        )

    def _measured(self) -> Epoch:
        value = None
        if self.job.metric is not None and self.job.valid is not None:
            with self.average.shown() if self.average is not None else nullcontext():
                value = self._metric(self.job.metric, self.job.valid)
        total, count = self.losses
        return Epoch(total / count, value, time.monotonic() - self.began)

    @torch.no_grad()
    def _metric(self, metric: Metric, valid: Dataset[Any]) -> float:
        """The metric of the network as it is, in evaluation mode at full width."""
        job, reach = self.job, self.accelerator
        job.net.eval()
        indices = torch.arange(length(valid))[reach.process_index :: reach.num_processes]
        batches = indices.split(job.recipe.batch_size)
        sums = torch.zeros(2, dtype=torch.float64, device=reach.device)
        for inputs, target in stream(valid, batches, job.seed, 0, job.workers):
            with reach.autocast():
                outputs = outputs_for(job.net, placed(inputs, reach.device))
            total, count = metric.batch(outputs, placed(target, reach.device))
            sums[0] += total
            sums[1] += count
        total, count = reach.reduce(sums, "sum").tolist()
        return metric.finish(total / count)

    def _save(self) -> None:
        folder = self.job.folder
        if folder is None or not self.main:
            return
        self._look()
        tensors = gather(self.module, self.optimizer, self.average)
        for which, each in self.job.after_steps().items():
            tensors |= {f"{which}/{name}": t for name, t in each.state_dict().items()}
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise self._failed(f"tensor {name} is not finite", self.step)
        scaler = self.accelerator.scaler
        checkpoint.save(
            folder,
            Checkpoint(
                step=self.step,
                run=self.identity,
                epochs=tuple(self.epochs),
                losses=self.losses,
                draws={name: (d.seed, d.step) for name, d in self.job.drawing().items()},
                seconds=time.monotonic() - self.began,
                scaler=None if scaler is None else scaler.state_dict(),
                tensors=tensors,
            ),
        )
        self.kept = self.step

    def _resume(self) -> None:
        folder = self.job.folder
        found = None if folder is None else checkpoint.load(folder)
        if found is None or folder is None:
            return
        checkpoint.check(found, self.identity, folder)
        self.step = self.kept = found.step
        self.epochs, self.losses = list(found.epochs), found.losses
        self.began = time.monotonic() - found.seconds
        for name, module in self.job.drawing().items():
            module.seed, module.step = found.draws[name]
        restore(found.tensors, self.module, self.optimizer, self.average)
        named = [(n.partition("/"), t) for n, t in found.tensors.items()]
        for which, each in self.job.after_steps().items():
            each.load_state_dict({n[2]: t for n, t in named if n[0] == which})
        if self.accelerator.scaler is not None and found.scaler is not None:
            self.accelerator.scaler.load_state_dict(found.scaler)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C is heard between two steps; a second one at once."""
        alone = self.accelerator.num_processes == 1
        if not alone or threading.current_thread() is not threading.main_thread():
            yield
            return

        def hear(number: int, frame: FrameType | None) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, before)

        before = signal.signal(signal.SIGINT, hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _stop(self) -> None:
        self._look()
        self._save()
        folder = self.job.folder
        raise KeyboardInterrupt(
            f"Stopped after step {self.step} of {self.steps}; "
            + (
                f"the same call or command with {folder} goes on from there."
                if folder is not None
                else "nothing was kept, for there is no folder to keep it in."
            )
        )
