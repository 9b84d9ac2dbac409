"""Pruning inside other libraries' trainers: the same as in a loop of one's own, and resumed."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from torchvision_operators import declare
from widthwise.errors import FileError
from widthwise.pruning.gradual import GradualPruner, Schedule

declare()  # both libraries import torchvision
PLAN = Schedule(0.8, begin=2, end=12, frequency=2)
WANTED = round(0.8 * 24 * 12)


def data() -> TensorDataset:
    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, x[:, :4].argmax(1))


class Net(nn.Module):
    """Gives its loss, as transformers' trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(12, 24)
        self.out = nn.Linear(24, 4)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.out(F.relu(self.hidden(x)))
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def collate(items: list[Any]) -> dict[str, Tensor]:
    return {"x": torch.stack([i[0] for i in items]), "labels": torch.stack([i[1] for i in items])}


@pytest.mark.filterwarnings("ignore")  # the trainers warn of many things
def test_hugging_face(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    from widthwise.adapters.huggingface import NAME, PruningCallback

    def trained(steps: int, resume: str | None = None) -> tuple[Net, GradualPruner]:
        model = Net()
        pruner = GradualPruner(model, PLAN)
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=steps,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            save_steps=6,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            seed=0,
        )
        trainer = Trainer(
            model,
            arguments,
            data_collator=collate,
            train_dataset=data(),
            callbacks=[PruningCallback(pruner)],
        )
        trainer.train(resume_from_checkpoint=resume)
        return model, pruner

    whole, pruner = trained(16)
    assert pruner.steps == 16
    assert int((whole.hidden.weight == 0).sum()) == WANTED
    resumed, again = trained(16, str(tmp_path / "checkpoint-6"))
    assert again.steps == 16
    torch.testing.assert_close(resumed.hidden.weight, whole.hidden.weight)
    (tmp_path / "checkpoint-6" / NAME).unlink()
    with pytest.raises(FileError, match="cannot be read"):
        trained(16, str(tmp_path / "checkpoint-6"))


@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning.pytorch import LightningModule, Trainer

    from widthwise.adapters.lightning import PruningCallback

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return self.net(*batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    def trained(epochs: int, resume: Path | None = None) -> tuple[Module, GradualPruner]:
        module = Module()
        pruner = GradualPruner(module, PLAN)
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            accumulate_grad_batches=2,
            callbacks=[PruningCallback(pruner)],
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(data(), batch_size=4), ckpt_path=resume, weights_only=False)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module, pruner

    whole, pruner = trained(2)  # 16 batches, 8 steps an epoch
    assert pruner.steps == 16
    assert int((whole.net.hidden.weight == 0).sum()) == WANTED
    trained(1)
    resumed, again = trained(2, tmp_path / "1.ckpt")
    assert again.steps == 16
    torch.testing.assert_close(resumed.net.hidden.weight, whole.net.hidden.weight)


@pytest.mark.filterwarnings("ignore")
def test_lightning_again_averaged_and_swapped(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning.pytorch import LightningModule, Trainer
        from lightning.pytorch.callbacks import (
            Callback,
            EMAWeightAveraging,
            ModelCheckpoint,
            StochasticWeightAveraging,
        )

    from widthwise.adapters.lightning import PruningCallback

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()
            self.validated: list[int] = []

        def training_step(self, batch: Any, index: int) -> Tensor:
            return self.net(*batch)["loss"]

        def validation_step(self, batch: Any, index: int) -> None:
            self.validated.append(int((self.net.hidden.weight == 0).sum()))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    class Older(Callback):
        """Puts back what was there in the beginning, at the very end."""

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.state = {n: t.clone() for n, t in pl_module.state_dict().items()}

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.load_state_dict(self.state)

    def fitted(module: Module, *callbacks: Callback, epochs: int = 2) -> None:
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[*callbacks, ModelCheckpoint(tmp_path, filename="last", save_last=True)],
            default_root_dir=tmp_path,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        loader = DataLoader(data(), batch_size=8)
        trainer.fit(module, loader, loader)

    def zeros(module: Module) -> int:
        return int((module.net.hidden.weight == 0).sum())

    wanted = round(0.8 * 24 * 12)
    average = EMAWeightAveraging(decay=0.9)
    for order in (1, -1):  # whichever callback comes first
        module = Module()
        pruning = PruningCallback(GradualPruner(module, PLAN))
        fitted(module, *[pruning, average][::order])
        assert zeros(module) == wanted
        assert module.validated[-1] == wanted
        stored = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
        assert int((stored["net.hidden.weight"] == 0).sum()) == wanted
        fitted(module, pruning, epochs=1)  # the same callback in a second trainer
        assert pruning.pruner.steps == 24
        assert zeros(module) == wanted
    module = Module()
    pruning = PruningCallback(GradualPruner(module, PLAN))
    fitted(module, pruning, StochasticWeightAveraging(1e-2, swa_epoch_start=1), epochs=3)
    assert zeros(module) == wanted
    module = Module()
    pruning = PruningCallback(GradualPruner(module.net, PLAN))  # of a part of it
    fitted(module, pruning, Older())
    assert zeros(module) == wanted


@pytest.mark.sample(0)
@pytest.mark.filterwarnings("ignore")
def test_hugging_face_again_and_the_best_model(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    from widthwise.adapters.huggingface import PruningCallback
    from widthwise.elastic.zeros import ZerosLostWarning

    def trainer(model: Net, pruner: GradualPruner, compute: Any = None, **more: Any) -> Trainer:
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path),
            "max_steps": 16,
            "per_device_train_batch_size": 4,
            "save_strategy": "no",
            "learning_rate": 1e-2,
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
        }
        return Trainer(
            model,
            TrainingArguments(**{**settings, **more}),
            data_collator=collate,
            train_dataset=data(),
            eval_dataset=data(),
            compute_metrics=compute,
            callbacks=[PruningCallback(pruner)],
        )

    model = Net()
    pruner = GradualPruner(model, PLAN)
    trainer(model, pruner).train()
    trainer(model, pruner, max_steps=4).train()
    assert pruner.steps == 20
    assert int((model.hidden.weight == 0).sum()) == WANTED
    for step, best_step in ((-1, 4), (1, 16)):  # each evaluation is worse, or better
        scores = itertools.count(100, step)
        model = Net()
        best = trainer(
            model,
            GradualPruner(model, PLAN),
            compute=lambda _, scores=scores: {"score": next(scores)},
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=4,
            save_steps=4,
            load_best_model_at_end=True,
            metric_for_best_model="score",
        )
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            best.train()
        assert str(best.state.best_model_checkpoint).endswith(f"checkpoint-{best_step}")
        assert int((model.hidden.weight == 0).sum()) == WANTED
        lost = any(issubclass(w.category, ZerosLostWarning) for w in said)
        assert lost is (best_step == 4)  # when the schedule had only begun
