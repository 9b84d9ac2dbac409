"""An Elastic in other libraries' trainers: at full width everything is as with the model."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import widthwise as ww
from torchvision_operators import declare

declare()  # the libraries import torchvision


class Words(Dataset[dict[str, Tensor]]):
    """Rows of tokens of two lengths, and labels, some of which do not count."""

    def __init__(self, classes: int | None = None) -> None:
        self.classes = classes

    def __len__(self) -> int:
        return 16

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        ids = torch.randint(3, 40, (6,), generator=torch.Generator().manual_seed(i))
        if self.classes is not None:
            mask = (torch.arange(6) < 3 + i % 4).long()
            return {"input_ids": ids, "attention_mask": mask, "labels": ids[0] % self.classes}
        labels = torch.where(torch.arange(6) < i % 5, -100, ids)
        return {"input_ids": ids, "labels": labels}


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, use_cache=False, **sizes, **heads))


def bert() -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    more = {"num_attention_heads": 2, "num_labels": 3, "max_position_embeddings": 16}
    return BertForSequenceClassification(BertConfig(vocab_size=40, **sizes, **rates, **more))


class Scored(nn.Module):
    """A model of one's own that takes any keyword, as trainers advise, and reads none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.hidden = nn.Embedding(40, 12), nn.Linear(12, 16)
        self.out = nn.Linear(16, 3)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Any:
        logits = self.out(self.hidden(self.embed(input_ids).mean(1)).relu())
        if labels is None:
            return {"logits": logits}
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def full(model: nn.Module, example: dict[str, Tensor]) -> ww.Elastic:
    """The elastic network, which draws the full width at every step."""
    return ww.Elastic(model, (), example, draw=ww.Draw(p=0.0))


def example(data: Words, names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: torch.stack([data[i][name] for i in range(3)]) for name in names}


def trained(
    model: nn.Module, data: Words, folder: Path, **more: Any
) -> tuple[Any, list[dict[str, float]], dict[str, float]]:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=2,
        per_device_eval_batch_size=5,
        gradient_accumulation_steps=3,
        max_steps=2,
        learning_rate=1e-2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        seed=0,
        **more,
    )

    def measured(found: Any) -> dict[str, float]:
        return {
            "mean": float(abs(found.predictions).mean()),
            "labels": float(found.label_ids.sum()),
        }

    trainer = Trainer(
        model, arguments, train_dataset=data, eval_dataset=data, compute_metrics=measured
    )
    trainer.train()
    steps = [
        {k: h[k] for k in ("loss", "grad_norm")} for h in trainer.state.log_history if "loss" in h
    ]
    found = trainer.evaluate()
    return trainer, steps, {k: found[k] for k in ("eval_loss", "eval_mean", "eval_labels")}


CASES: dict[str, tuple[Callable[[], Any], Words, tuple[str, ...], dict[str, Any]]] = {
    "language model": (llama, Words(), ("input_ids", "labels"), {}),
    "language model, smoothed": (
        llama,
        Words(),
        ("input_ids",),
        {"label_smoothing_factor": 0.1},
    ),
    "classifier, mask not in the example": (bert, Words(3), ("input_ids", "labels"), {}),
    "model of one's own": (Scored, Words(3), ("input_ids", "labels"), {}),
}


@pytest.mark.sample(1)
@pytest.mark.filterwarnings("ignore")  # the trainers warn of many things
@pytest.mark.parametrize("name", CASES)
def test_hugging_face(name: str, tmp_path: Path) -> None:
    build, data, names, more = CASES[name]
    plain, steps, metrics = trained(build(), data, tmp_path, **more)
    net = full(build(), example(data, names))
    elastic, its_steps, its_metrics = trained(net, data, tmp_path, **more)
    assert len(steps) == len(its_steps) == 2
    for a, b in zip(steps, its_steps, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert metrics == pytest.approx(its_metrics, rel=1e-4)
    for attribute in ("label_names", "model_accepts_loss_kwargs", "can_return_loss"):
        assert getattr(plain, attribute) == getattr(elastic, attribute)
    for each in (plain, elastic):
        each._set_signature_columns_if_needed()
    assert plain._signature_columns == elastic._signature_columns
    for (key, a), b in zip(
        plain.model.named_parameters(), elastic.model.model.parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.filterwarnings("ignore")
def test_checkpoints_of_hugging_face_hold_the_step(tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    def run(steps: int, resume: bool) -> ww.Elastic:
        data = Words(3)
        net = ww.Elastic(Scored(), (), example(data, ("input_ids", "labels")))
        arguments = TrainingArguments(
            str(tmp_path),
            max_steps=steps,
            save_steps=2,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(net, arguments, train_dataset=data)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2") if resume else None)
        return net

    whole = run(4, resume=False)
    resumed = run(4, resume=True)
    assert whole.step == resumed.step == 4
    torch.testing.assert_close(whole.model.out.weight, resumed.model.out.weight)


@pytest.mark.filterwarnings("ignore")
def test_the_signature_is_the_model_s() -> None:
    from transformers.utils.generic import can_return_loss, find_labels

    for build in (bert, Scored):
        model = build()
        net = full(model, example(Words(3), ("input_ids",)))
        assert inspect.signature(net.forward) == inspect.signature(model.forward)
        assert inspect.signature(type(net).forward) == inspect.signature(type(model).forward)
        assert find_labels(type(net)) == find_labels(type(model)) == ["labels"]
        assert can_return_loss(type(net)) == can_return_loss(type(model))
        assert isinstance(net, ww.Elastic)
        assert type(net) is type(copy.deepcopy(net))
        for name in ("config", "main_input_name", "loss_type", "accepts_loss_kwargs"):
            assert getattr(net, name, None) is getattr(model, name, None)


@pytest.mark.filterwarnings("ignore")
def test_questions_are_found_by_the_class_name() -> None:
    from transformers.utils.generic import find_labels

    class TinyForQuestionAnswering(Scored):
        def forward(self, input_ids: Tensor, start_positions: Tensor | None = None) -> Any:  # type: ignore[override]
            return self.out(self.hidden(self.embed(input_ids)))

    net = ww.Elastic(TinyForQuestionAnswering(), torch.zeros(2, 3, dtype=torch.int64))
    assert find_labels(type(net)) == ["start_positions"]


@pytest.mark.filterwarnings("ignore")
def test_options_of_transformers_in_the_example_and_after_it() -> None:
    ids = example(Words(3), ("input_ids",))["input_ids"]
    options: tuple[dict[str, Any], ...] = (
        {"return_dict": False},
        {"output_hidden_states": True},
        {"output_attentions": True, "return_dict": True},
    )
    for build in (llama, bert):
        model = build().eval()
        later = ww.Elastic(model, ids)
        for option in options:
            net = ww.Elastic(model, (ids,), option) if option == options[0] else later
            found, wanted = net(ids, **option), model(ids, **option)
            torch.testing.assert_close(_tensors(found), _tensors(wanted))
            assert type(found) is type(wanted)
        with pytest.raises(ww.CaptureError, match=r"'retrun_dict'.*did you mean 'return_dict'"):
            later(ids, retrun_dict=False)


def _tensors(out: Any) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    items = out.values() if isinstance(out, dict) else out
    return [t for item in items for t in _tensors(item)] if items is not None else []


@pytest.mark.filterwarnings("ignore")
def test_lightning_s_averages(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning.pytorch import LightningModule, Trainer
        from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging

    x = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))

    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    class Module(LightningModule):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, index: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), (batch[0][:, 0] > 0).long())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def run(net: nn.Module, callback: Any) -> nn.Module:
        module = Module(net)
        Trainer(
            max_epochs=3,
            accelerator="cpu",
            callbacks=[callback],
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, DataLoader(TensorDataset(x), batch_size=4))
        return module.net

    for make in (
        lambda: EMAWeightAveraging(decay=0.5),
        lambda: StochasticWeightAveraging(0.05, swa_epoch_start=1),
    ):
        plain = run(build(), make())
        net: Any = run(ww.Elastic(build(), x[:4], draw=ww.Draw(p=0.0)), make())
        for a, b in zip(plain.state_dict().values(), net.model.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b)
        net.eval()
        torch.testing.assert_close(net.cut(0.5)(x), net(x, widths=0.5))
        assert copy.deepcopy(net).step == net.step
