"""Pruning in the Trainer of Hugging Face transformers.

    pruner = GradualPruner(model, Schedule(0.9, begin=500, end=5_000))
    Trainer(model, args, ..., callbacks=[PruningCallback(pruner)]).train()

The masks are stored beside each checkpoint that the Trainer writes, and go on from there. The same
callback in another Trainer goes on where the first one ended.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

import safetensors.torch
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from widthwise.common.atomic import write_whole
from widthwise.elastic.recalibration import caller
from widthwise.elastic.zeros import ZerosLostWarning
from widthwise.errors import FileError
from widthwise.pruning.gradual import GradualPruner

NAME: Final = "pruner.safetensors"


class PruningCallback(TrainerCallback):
    """Calls `pruner.step()` after every optimizer step.

    Where the Trainer loads the best model at its end, that gets the masks of the end, and a
    ZerosLostWarning says how many of its weights they made zero.

    pruner: made with the model that is trained. Raises FileError where training is resumed from a
    checkpoint without its masks.
    """

    def __init__(self, pruner: GradualPruner) -> None:
        self.pruner = pruner

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up the masks of the checkpoint that is resumed."""
        if state.global_step == 0:
            return  # a new training, with the pruner as it is
        path = _beside(args, state)
        try:
            tensors = safetensors.torch.load(path.read_bytes())
        except (OSError, SafetensorError) as error:
            raise FileError(
                f"The masks in {path} cannot be read ({error}); resume from a checkpoint in the "
                "output folder that was written with this callback, or start over."
            ) from error
        self.pruner.load_state_dict(tensors)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prune."""
        self.pruner.step()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Apply the masks to the weights that the Trainer leaves."""
        back = self.pruner.apply()
        if back:
            warnings.warn(
                f"{back} weights that are pruned at the end were not in the best model, and are "
                "zero now, so that its metric may be another; evaluate it again.",
                ZerosLostWarning,
                stacklevel=caller(),
            )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Store the masks beside the checkpoint."""
        if state.is_world_process_zero:
            data = safetensors.torch.save(self.pruner.state_dict())
            write_whole(_beside(args, state), [data])


def _beside(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / NAME
