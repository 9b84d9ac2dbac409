"""Pruning in the Trainer of Lightning.

    pruner = GradualPruner(module, Schedule(0.9, begin=500, end=5_000))
    Trainer(max_epochs=10, callbacks=[PruningCallback(pruner)]).fit(module, data)

Lightning's checkpoints hold the masks, and a resumed training goes on with them. The same callback
in another Trainer goes on where the first one ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim.swa_utils import AveragedModel

from widthwise.pruning.gradual import GradualPruner


class PruningCallback(Callback):
    """Calls `pruner.step()` after every optimizer step, however many batches each takes.

    Averages of the weights that other callbacks keep (EMA, SWA) are pruned as well, wherever they
    are looked at: in validation, in checkpoints and at the end.

    pruner: made with the module that is trained, or with a part of it.
    """

    def __init__(self, pruner: GradualPruner) -> None:
        self.pruner = pruner
        self._step = 0  # of the trainer, whose count begins again in another one

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count, where the trainer is."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prune, where the batch ended a step."""
        for _ in range(trainer.global_step - self._step):
            self.pruner.step()
        self._step = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune averages."""
        self._averages(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune averages, before they are validated in the place of the weights."""
        self._averages(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Prune averages, which a checkpoint may hold in the place of the weights."""
        self._averages(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune averages, which may become the weights."""
        self._averages(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the masks once more, to whatever other callbacks have put in at the end."""
        self.pruner.apply()

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoints."""
        return dict(self.pruner.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From one of Lightning's checkpoints. Raises ScoreError for masks of another network."""
        self.pruner.load_state_dict(state_dict)

    def _averages(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for average in _averages(trainer, pl_module):
            for name, part in pl_module.named_modules():
                if part is self.pruner.module:
                    self.pruner.apply(average.get_submodule(name))


def _averages(trainer: Trainer, pl_module: LightningModule) -> Iterator[nn.Module]:
    """Copies of the module that other callbacks hold."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for value in vars(callback).values():
            copy = value.module if isinstance(value, AveragedModel) else value
            if type(copy) is type(pl_module) and copy is not pl_module:
                yield copy
