"""A training under way: what `fit` does step by step, from its checkpoint or from the start."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from widthwise.elastic import zeros
from widthwise.elastic.recalibration import caller, remember
from widthwise.errors import TrainingError
from widthwise.graph.sharded import make_whole
from widthwise.measure.pairs import needing
from widthwise.pruning.masks import held_at_zero
from widthwise.sampling.draws import hashed
from widthwise.train import checkpoint
from widthwise.train.batches import pieces, placed, planned, reseed, stream
from widthwise.train.checkpoint import Checkpoint
from widthwise.train.clock import Clock
from widthwise.train.ema import Average
from widthwise.train.history import Epoch, History
from widthwise.train.interrupt import Interrupt
from widthwise.train.job import Job, module_of
from widthwise.train.losses import StepLoss
from widthwise.train.memory import give_back
from widthwise.train.progress import Display, Pace
from widthwise.train.ranks import agree, computing, digest, parallel, spread, unsynced
from widthwise.train.recipe import rate
from widthwise.train.sam import SAM
from widthwise.train.setup import accelerator_for, optimizer_for
from widthwise.train.state import gather, restore
from widthwise.train.tracking import tracked
from widthwise.train.validation import validated


class LongerWarning(UserWarning):
    """A finished training goes on for more epochs, at another learning rate than one in one go."""


_Part = tuple[Any, Any, float]  # inputs, target, weight of the loss


class TrainingRun:
    """A run under way.

    notes: what checkpoints keep beside what the run is known by. fresh: whether it begins, in the
    place of what the folder holds, rather than goes on from there. before, after: epochs of a
    longer training that this is a part of, with one cycle of the learning rate for all of it.
    """

    def __init__(
        self,
        job: Job,
        notes: Mapping[str, Any] | None = None,
        *,
        fresh: bool = False,
        before: int = 0,
        after: int = 0,
    ) -> None:
        self.job = job
        self.fresh = fresh
        self.before = before
        self.shown_epochs = before + job.recipe.epochs + after
        self.module = module_of(job.net)
        recipe = job.recipe
        self.accelerator = accelerator_for(recipe, job.run)
        self.main: bool = self.accelerator.is_main_process
        processes = self.accelerator.num_processes
        self.plan = planned(
            job.train, recipe.batch_size, job.run.seed, processes, job.run.accumulate
        )
        self.steps = self.plan.steps * recipe.epochs
        self.shown_steps = self.plan.steps * self.shown_epochs
        self.identity = job.identity() | dict(notes or {})
        self.held = job.held()
        alone = not self.held and not job.after_steps()
        self.zeros = zeros.shares(self.module) if alone else {}
        self.module.to(self.accelerator.device)
        step = StepLoss(job.net, job.objective())
        self.objective = parallel(self.accelerator, step, shard=job.run.shard)
        self.optimizer = optimizer_for(self.module, recipe, job.speeds())
        # Accelerate's wrapper of an optimizer looks up signatures and installed packages at every
        # step, 0.2 ms in all; only scaled gradients need it.
        scaled = self.accelerator.scaler is not None
        self.stepper: Any = (
            self.accelerator.prepare_optimizer(self.optimizer) if scaled else self.optimizer
        )
        self.sam = None if recipe.sam is None else SAM(self.optimizer, recipe.sam)
        self.average = None if recipe.ema is None else Average(self.module, recipe.ema)
        self.step = 0
        self.epochs: list[Epoch] = []
        self.losses = (0.0, 0)  # sum and number, of the epoch at hand
        self.pending: list[Tensor] = []  # losses of the last steps, not looked at yet
        self.last = math.nan  # the last loss looked at
        self.kept: int | None = None  # the step of the last checkpoint
        self.clock = Clock()  # of the epoch at hand
        self.tidy = Pace(self.steps, 60.0)
        self.interrupt = Interrupt()

    def go(self, progress: bool) -> History:
        """Train to the end."""
        job = self.job
        for module in job.drawing().values():
            module.step = 0
        self.optimizer.zero_grad()  # what a loop before has left is no part of the first step
        if self.fresh:
            self._save()
        else:
            self._resume()
        self._agree()
        name = job.metric.name if job.metric else None
        display = Display(
            self.shown_steps,
            self.shown_epochs,
            self._shown(self.step),
            name,
            shown=progress and self.main,
        )
        # Several processes would not all hear it between the same two steps.
        listening = self.interrupt.listening(self.accelerator.num_processes == 1)
        tracking = tracked(self.accelerator, job.run.trackers)
        with display, listening, tracking, held_at_zero(self.module, self.held):
            for epoch in range(len(self.epochs), job.recipe.epochs):
                self._epoch(epoch, display)
                if self.interrupt.heard:
                    self._stop()
        make_whole(self.module)
        if self.average is not None:
            make_whole(self.average.model)
            self.average.keep()
        warning = zeros.lost(self.module, self.zeros)
        if warning is not None:
            warnings.warn(warning, stacklevel=caller())
        self._remember()
        job.net.eval()
        return History(tuple(self.epochs), self.step)

    def _remember(self) -> None:
        """Let the module remember some data, for the running statistics of what is cut from it."""
        job = self.job
        size = job.recipe.batch_size
        inputs = (x for x, _ in stream(job.train, self.plan.epoch(0), job.run.seed, 0, size=size))
        remember(self.module, inputs)

    def _epoch(self, epoch: int, display: Display) -> None:
        job = self.job
        first = epoch * self.plan.steps
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        shares = [pieces(b, rank, count, job.run.accumulate) for b in self.plan.epoch(epoch)]
        number = self.step * len(shares[0])  # of the next piece, of all epochs
        shares = shares[self.step - first :]
        job.net.train()
        # Processes that look at the losses together must do so at the same steps, not times.
        alone = count == 1
        look = Pace(50, 1.0 if alone else math.inf)
        write = Pace(self.steps, job.run.save_every if alone else math.inf)
        parts = [piece.indices for share in shares for piece in share]
        # Augmented by numbers of their own, as one process has them on the first.
        seed = hashed(job.run.seed, (rank,)) if rank else job.run.seed
        fetched = stream(job.train, parts, seed, number, job.run.workers, job.recipe.batch_size)
        for share in shares:
            self._step([(*self._placed(next(fetched)), piece.weight) for piece in share])
            if look.due():
                display.step(self._shown(self.step), self._look())
                look.reset()
            if self.interrupt.heard:
                self._stop()
            if write.due():
                self._save()
                write.reset()
            if self.tidy.due():
                give_back()
                self.tidy.reset()
        display.step(self._shown(self.step), self._look())
        self.epochs.append(self._measured())
        self._log(self.before + epoch + 1, self.epochs[-1])
        self.losses = (0.0, 0)
        self.clock = Clock()
        self._save()
        display.epoch(self.before + epoch + 1, self.epochs[-1])

    def _log(self, number: int, epoch: Epoch) -> None:
        """Tell the trackers, where there are any, what an epoch, counted from 1, came to."""
        if not self.job.run.trackers:
            return
        job, values = self.job, {"loss": epoch.loss}
        if job.metric is not None and epoch.metric is not None:
            values[job.metric.name] = epoch.metric
        values["lr"] = rate(job.recipe, self._shown(self.step) - 1, self.shown_steps)
        self.accelerator.log(values | {"seconds": epoch.seconds}, step=number)

    def _placed(self, pair: tuple[Any, Any]) -> tuple[Any, Any]:
        device = self.accelerator.device
        return placed(pair[0], device), placed(pair[1], device)

    def _step(self, batch: Sequence[_Part]) -> None:
        recipe = self.job.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = rate(recipe, self._shown(self.step), self.shown_steps) * group["speed"]
        loss = self._passes(batch)
        if recipe.clip is not None:
            self.accelerator.clip_grad_norm_(self.module.parameters(), recipe.clip)
        self.stepper.step()
        self.optimizer.zero_grad()
        for each in self.job.after_steps().values():
            each.step()
        if self.average is not None:
            self.average.update()
        self.pending.append(loss)
        self.step += 1

    def _passes(self, batch: Sequence[_Part]) -> Tensor:
        """Forward and backward, twice where sharpness counts; the loss at the weights."""
        draws = {module: module.step for module in self.job.drawing().values()}
        loss = self._pass(batch)
        if self.sam is None:
            return loss
        if self.job.pruner is not None:
            self.job.pruner.mask_gradients()
        kept = [(b, b.clone()) for b in self.module.buffers()]
        for module, number in draws.items():
            module.step = number
        self.sam.climb()
        try:
            self._pass(batch)  # at the same widths
        finally:
            self.sam.descend()
        for buffer, value in kept:
            buffer.copy_(value)  # statistics belong to the weights themselves
        return loss

    def _pass(self, batch: Sequence[_Part]) -> Tensor:
        """The loss of a process' pieces, all at the same widths, with its gradients."""
        draws = {module: module.step for module in self.job.drawing().values()}
        *others, last = batch
        losses: list[Tensor] = []
        for part in others:
            with unsynced(self.objective):
                losses.append(self._piece(part, len(losses)))
            for module, number in draws.items():
                module.step = number
        losses.append(self._piece(last, len(losses)))
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _piece(self, part: _Part, number: int) -> Tensor:
        inputs, target, weight = part
        rank = self.accelerator.process_index
        reseed(hashed(self.job.run.seed, (self.step, 1, rank, *([number] if number else []))))
        with computing(self.accelerator, self.objective), needing(target, "the loss"):
            loss: Tensor = self.objective(inputs, target)
        if self.step == 0 or not isinstance(loss, Tensor):
            _check_loss(loss)
        if weight != 1.0:
            loss = loss * weight
        self.accelerator.backward(loss)
        return loss.detach()

    def _look(self) -> float:
        """Look at the losses since the last look; a GPU is waited for here and nowhere else."""
        if self.pending:
            found = torch.stack(self.pending)
            found = found.to(torch.promote_types(found.dtype, torch.float32))
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

    def _shown(self, step: int) -> int:
        """A step, counted from the beginning of the longer training that this is a part of."""
        return self.before * self.plan.steps + step

    def _failed(self, what: str, step: int) -> TrainingError:
        kept = ""
        if self.kept is not None:
            kept = f"; the checkpoint of step {self._shown(self.kept)} is kept"
        return TrainingError(
            f"The {what} at step {self._shown(step)} of {self.shown_steps}; train again with a "
            f"lower learning rate than {self.job.recipe.lr:g}, and look for values in the data "
            f"that are not finite{kept}."
        )

    def _measured(self) -> Epoch:
        # Statistics, of which each process has its own; the checkpoint has the first's.
        spread(self.module.buffers())
        if self.average is not None:
            spread(self.average.model.buffers())
            if self.job.pruner is not None:
                # An average over masks is less sparse than each.
                self.job.pruner.apply(self.average.model.module)
        with self.average.shown() if self.average is not None else nullcontext():
            value = validated(self.job, self.accelerator)
        total, count = self.losses
        return Epoch(total / count, value, self.clock.wall, self.clock.processor)

    def _save(self) -> None:
        folder = self.job.run.place
        if folder is None:
            return
        self._look()
        if not self.main and not self.job.run.shard:
            return
        tensors = gather(self.module, self.optimizer, self.average)
        if not self.main:
            return
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
                seconds=self.clock.wall,
                processor=self.clock.processor,
                scaler=None if scaler is None else scaler.state_dict(),
                tensors=tensors,
            ),
        )
        self.kept = self.step

    def _resume(self) -> None:
        folder = self.job.run.place
        found = None if folder is None else checkpoint.load(folder)
        if found is None or folder is None:
            return
        if checkpoint.longer(found, self.identity, self.steps):
            self._go_on(found, folder)
        else:
            checkpoint.check(found, self.identity, folder)
            self.identity |= {n: v for n, v in found.run.items() if n == "longer" and v}
        self.step = self.kept = found.step
        self.epochs, self.losses = list(found.epochs), found.losses
        self.clock = Clock(found.seconds, found.processor)
        for name, module in self.job.drawing().items():
            module.seed, module.step = found.draws[name]
        restore(found.tensors, self.module, self.optimizer, self.average)
        named = [(n.partition("/"), t) for n, t in found.tensors.items()]
        for which, each in self.job.after_steps().items():
            each.load_state_dict({n[2]: t for n, t in named if n[0] == which})
        if self.accelerator.scaler is not None and found.scaler is not None:
            self.accelerator.scaler.load_state_dict(found.scaler)

    def _go_on(self, found: Checkpoint, folder: Path) -> None:
        """Train a finished run for more epochs, saying so."""
        before, now = len(found.epochs), self.job.recipe.epochs
        recipe = {**self.identity["recipe"], "epochs": before}
        checkpoint.check(found, self.identity | {"recipe": recipe}, folder)
        self.identity["longer"] = [*found.run.get("longer", []), before]
        warnings.warn(
            f"The finished run of {before} epochs in {folder} is trained on to {now}, from where "
            f"its learning rate had fallen to at the rate that {now} epochs have after {before}, "
            f"so that the result differs from one training of {now} epochs.",
            LongerWarning,
            stacklevel=caller(),
        )

    def _agree(self) -> None:
        """Raise TrainingError for processes that would not do the same."""
        if self.accelerator.num_processes > 1:
            states = {n: digest(e.state_dict()) for n, e in self.job.after_steps().items()}
            agree(self.accelerator, self.identity | states | {"step": self.step})

    def _stop(self) -> None:
        self._look()
        self._save()
        folder = self.job.run.place
        raise KeyboardInterrupt(
            f"Stopped after step {self._shown(self.step)} of {self.shown_steps}; "
            + (
                f"the same call or command with {folder} goes on from there."
                if folder is not None
                else "nothing was kept, for there is no folder to keep it in."
            )
        )


def _check_loss(loss: Any) -> None:
    """Raise TrainingError for a loss that is not one number."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return
    what = f"{loss.numel()} values" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    raise TrainingError(
        f"The loss of a batch is {what} and not one number; return the mean of the batch, for "
        "example with reduction='mean'."
    )
