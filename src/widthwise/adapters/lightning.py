"""Pruning in the Trainer of Lightning.

    pruner = GradualPruner(module, Schedule(0.9, begin=500, end=5_000))
    Trainer(max_epochs=10, callbacks=[PruningCallback(pruner)]).fit(module, data)

Lightning's checkpoints hold the masks, and a resumed training goes on with them.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from widthwise.sparse import GradualPruner


class PruningCallback(Callback):
    """Calls `pruner.step()` after every optimizer step, however many batches each takes.

    pruner: a new one, made with the module that is trained, or with a part of it.
    """

    def __init__(self, pruner: GradualPruner) -> None:
        self.pruner = pruner

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prune, where the batch ended a step."""
        for _ in range(trainer.global_step - self.pruner.steps):
            self.pruner.step()

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoints."""
        return dict(self.pruner.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From one of Lightning's checkpoints. Raises ScoreError for masks of another network."""
        self.pruner.load_state_dict(state_dict)
