"""What narrow networks learn from the full one follows from the criterion."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor, nn

from command_line import fails, widthwise, works
from widthwise import Distill, Elastic, SandwichLoss, TrainingError, distill, fit
from widthwise.app.tasks.arrays import Arrays
from widthwise.app.tasks.objectives import DISTILLATIONS, elastic_loss, taught_by
from widthwise.sampling.draws import sandwich
from widthwise.task import Task
from widthwise.train.config import RunConfig
from widthwise.train.distillation import DistillObjective, Teacher
from widthwise.train.losses import lesson
from widthwise.train.recipe import Recipe
from widthwise.train.soft import soft_target
from widthwise.train.teaching import DistillationWarning

N, C, T = 6, 4, 5


def rand(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator)


def classes(*shape: int, ignored: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    target = torch.randint(0, C, shape, generator=generator)
    if ignored is not None:
        target.view(-1)[::3] = ignored
    return target


def kl(narrow: Tensor, full: Tensor, counted: Tensor | None = None, dim: int = 1) -> Tensor:
    """By its definition, in double precision."""
    p, q = full.double().softmax(dim), narrow.double().softmax(dim)
    each = (p * (p.log() - q.log())).sum(dim)
    return each.mean() if counted is None else each[counted].mean()


def own_squares(out: Tensor, y: Tensor) -> Tensor:
    return (out - y).square().mean()


def pinball(out: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(0.9 * (y - out), 0.1 * (out - y)).mean()


def tokens(out: Tensor, y: Tensor) -> Tensor:
    """Of logits (N, T, C), as language models have them."""
    return F.cross_entropy(out.flatten(0, 1).float(), y.flatten(), ignore_index=-1)


def swapped(out: Tensor, y: Tensor) -> Tensor:
    return F.l1_loss(y, out)


def bce(narrow: Tensor, full: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(narrow, full.sigmoid())


logits, maps, images = (N, C), (N, C, T), (N, C, 3, 4)
weighted = nn.CrossEntropyLoss(weight=torch.rand(C), label_smoothing=0.1)
ignoring = nn.CrossEntropyLoss(ignore_index=255)
CASES: dict[str, tuple[Any, tuple[int, ...], Tensor, Any]] = {
    # criterion, shape of the outputs, target, (narrow, full) -> what is to be minimised
    "logits": (F.cross_entropy, logits, classes(N), kl),
    "weights and smoothing": (weighted, logits, classes(N), kl),
    "probabilities": (F.cross_entropy, logits, rand(N, C).softmax(1), kl),
    "partial": (partial(F.cross_entropy, label_smoothing=0.2), maps, classes(N, T), kl),
    "lambda": (lambda out, y: F.cross_entropy(out, y), maps, classes(N, T), kl),
    "as many steps as classes": (F.cross_entropy, (N, C, C), classes(N, C), kl),
    "segmentation": (
        ignoring,
        images,
        classes(N, 3, 4, ignored=255),
        partial(kl, counted=classes(N, 3, 4, ignored=255) != 255),
    ),
    "tokens": (
        tokens,
        (N, T, C),
        classes(N, T, ignored=-1),
        partial(kl, counted=classes(N, T, ignored=-1) != -1, dim=2),
    ),
    "log-probabilities": (
        lambda out, y: F.nll_loss(out.log_softmax(1), y),
        logits,
        classes(N),
        kl,
    ),
    "mse": (F.mse_loss, (N, 1), rand(N, 1), F.mse_loss),
    "l1": (nn.L1Loss(), (N, 3), rand(N, 3), F.l1_loss),
    "target first": (swapped, (N, 3), rand(N, 3), F.l1_loss),
    "huber": (
        nn.HuberLoss(delta=0.3),
        images,
        rand(*images),
        partial(F.huber_loss, delta=0.3),
    ),
    "smooth l1": (nn.SmoothL1Loss(beta=0.2), (N,), rand(N), partial(F.smooth_l1_loss, beta=0.2)),
    "binary logits": (nn.BCEWithLogitsLoss(), (N, 1), rand(N, 1).round().clamp(0, 1), bce),
    "binary": (
        lambda out, y: F.binary_cross_entropy(out.sigmoid(), y),
        (N, 3),
        rand(N, 3).sigmoid(),
        bce,
    ),
    "several labels": (
        F.multilabel_soft_margin_loss,
        (N, 3),
        rand(N, 3).round().clamp(0, 1),
        bce,
    ),
    "counts": (
        F.poisson_nll_loss,
        (N, 2),
        rand(N, 2).abs().round(),
        lambda narrow, full: F.poisson_nll_loss(narrow, full.exp()),
    ),
    "hand-written squares": (own_squares, (N, 2), rand(N, 2), F.mse_loss),
    "hand-written quantile": (pinball, (N, 1), rand(N, 1), pinball),
    "root": (lambda out, y: F.mse_loss(out, y).sqrt(), (N, 2), rand(N, 2),
             lambda narrow, full: F.mse_loss(narrow, full).sqrt()),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_distillation_is_that_of_the_criterion(name):
    criterion, shape, target, expected = CASES[name]
    full, narrow = rand(*shape), (rand(*shape) * 0.5 + 0.1).requires_grad_()
    found = lesson(full, Distill(), criterion)(narrow, target)
    wanted = expected(narrow, full)
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-5, atol=1e-6)
    (mine,) = torch.autograd.grad(found, narrow)
    (other,) = torch.autograd.grad(wanted, narrow)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)

    half = lesson(full, Distill(hard_weight=0.5), criterion)(narrow, target)
    if name != "root":  # which is none of the two losses' sum
        torch.testing.assert_close(half, ((found + criterion(narrow, target)) / 2).to(half.dtype))
    same = lesson(full, Distill(), criterion)(full.clone().requires_grad_(), target)
    if name != "root":  # whose slope there is none
        (flat,) = torch.autograd.grad(
            lesson(full, Distill(), criterion)(start := full.clone().requires_grad_(), target),
            start,
        )
        if "quantile" not in name:  # nor that of a kink
            assert flat.abs().max() < 1e-6
    assert same <= found


def test_normal_distributions_are_compared_as_such():
    """The divergence is 0 where mean and variance agree, and grows from there."""

    def criterion(out: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
        return F.gaussian_nll_loss(out[0], y, out[1].exp())

    full = (rand(N, 2), rand(N, 2) * 0.3)
    teach = lesson(full, Distill(), criterion)
    assert teach((full[0] + 0.0, full[1] + 0.0), rand(N, 2)).abs() < 1e-6
    p, q = (torch.distributions.Normal(m.double(), (v.double() / 2).exp()) for m, v in
            (full, (full[0] + 0.5, full[1] - 0.4)))  # fmt: skip
    wanted = torch.distributions.kl_divergence(p, q).mean()
    found = teach((full[0] + 0.5, full[1] - 0.4), rand(N, 2))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [2.0, 4.0])
def test_temperature_is_of_cross_entropies(temperature):
    full, narrow = rand(N, C), rand(N, C) * 0.5
    how = Distill(temperature=temperature)
    found = lesson(full, how, F.cross_entropy)(narrow, classes(N))
    torch.testing.assert_close(
        found,
        (kl(narrow / temperature, full / temperature) * temperature**2).float(),
        rtol=1e-4,
        atol=1e-6,
    )
    y = torch.ones(N, C)
    found = lesson(full, how, F.binary_cross_entropy_with_logits)(narrow, y)
    torch.testing.assert_close(
        found, bce(narrow / temperature, full / temperature) * temperature**2
    )
    found = lesson(full, how, F.mse_loss)(narrow, y)
    torch.testing.assert_close(found, F.mse_loss(narrow, full))


@dataclass
class SearchResult:
    """What a detector gives."""

    cls: Tensor
    box: Tensor


pytree.register_dataclass(SearchResult)


def heads(out: Any, y: Any) -> Tensor:
    get = out.__getitem__ if isinstance(out, dict) else partial(getattr, out)
    return F.cross_entropy(get("cls"), y["cls"]) + 3 * F.smooth_l1_loss(get("box"), y["box"])


@pytest.mark.parametrize("kind", [dict, SearchResult])
def test_several_heads_are_distilled_each_in_its_way_and_weight(kind):
    y = {"cls": classes(N), "box": rand(N, 2)}
    full = kind(cls=rand(N, C), box=rand(N, 2))
    narrow = kind(cls=rand(N, C) * 0.5, box=rand(N, 2) + 0.2)
    found = lesson(full, Distill(), heads)(narrow, y)
    get = (lambda o, n: o[n]) if kind is dict else getattr
    wanted = kl(get(narrow, "cls"), get(full, "cls"))
    wanted += 3 * F.smooth_l1_loss(get(narrow, "box"), get(full, "box"))
    torch.testing.assert_close(found.double(), wanted)


def test_masks_of_the_criterion_hold_for_what_is_distilled():
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1])

    def masked(out: Tensor, y: Tensor) -> Tensor:
        each = F.l1_loss(out, y, reduction="none").mean(1)
        return (each * mask).sum() / mask.sum()

    full, narrow = rand(N, 3), rand(N, 3) * 0.5
    found = lesson(full, Distill(), masked)(narrow, rand(N, 3) + 1)
    torch.testing.assert_close(found, masked(narrow, full))


def test_a_penalty_on_weights_is_not_distilled():
    weight = rand(3, 3).requires_grad_()

    def penalised(out: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(out, y) + 0.1 * F.l1_loss(weight, torch.zeros(3, 3))

    full, narrow = rand(N, 3), rand(N, 3) * 0.5
    found = lesson(full, Distill(), penalised)(narrow, rand(N, 3) + 1)
    torch.testing.assert_close(found, F.mse_loss(narrow, full) + 0.1 * weight.abs().mean())


def own_entropy(out: Tensor, y: Tensor) -> Tensor:
    return -out.log_softmax(1).gather(1, y[:, None]).mean()


def own_poisson(out: Tensor, y: Tensor) -> Tensor:
    return (out.exp() - y * out).mean()


@pytest.mark.parametrize(
    ("criterion", "target"),
    [(own_entropy, classes(N)), (own_poisson, rand(N, C).abs()), (F.multi_margin_loss, classes(N))],
)
def test_where_nothing_fits_the_criterion_is_alone_and_it_is_said_once(criterion, target):
    full, narrow = rand(N, C), rand(N, C) * 0.5
    teach = lesson(full, Distill(), criterion)
    with pytest.warns(DistillationWarning, match="from the target alone; give distill_loss="):
        found = teach(narrow, target)
    assert torch.equal(found, criterion(narrow, target))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        teach(narrow, target)


def test_a_part_that_does_not_fit_is_said():
    def both(out: dict[str, Tensor], y: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(out["cls"], y["cls"]) + (out["box"] - y["box"]).abs().mean()

    y = {"cls": classes(N), "box": rand(N, 2) + 1}
    full, narrow = ({"cls": rand(N, C) * s, "box": rand(N, 2) * s} for s in (1.0, 0.5))
    with pytest.warns(DistillationWarning, match="A part of the criterion"):
        found = lesson(full, Distill(), both)(narrow, y)
    wanted = kl(narrow["cls"], full["cls"]) + (narrow["box"] - y["box"]).abs().mean()
    torch.testing.assert_close(found.double(), wanted)


class WithLoss(nn.Module):
    """Computes its loss itself, as the models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 16), nn.Linear(16, C)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        out = self.fc2(self.fc1(x).relu())
        return {"loss": F.cross_entropy(out, labels), "logits": out}


def test_a_loss_that_the_model_computes_is_distilled_too():
    torch.manual_seed(0)
    x, y = rand(N, 6), classes(N)
    net = Elastic(WithLoss(), (x, y))

    def criterion(out: dict[str, Tensor], target: Any) -> Tensor:
        return out["loss"]

    loss = SandwichLoss(net, criterion, passes=2, distill=Distill(), emphasis=0)
    plan = sandwich(net.free, net.draw, net.seed, 0, loss.plan)
    for _ in range(2):
        net.step = 0
        full, narrow = (net(x, y, widths=w) for w in plan)
        wanted = (full["loss"] + kl(narrow["logits"], full["logits"])) / 2
        torch.testing.assert_close(loss((x, y), y).double(), wanted.double())
    small = net.cut({"fc1": 3})
    taught = DistillObjective([small], Teacher(net.eval(), criterion=criterion))
    found = taught((x, y), y)
    wanted = kl(small(x, y)["logits"], net(x, y)["logits"])
    torch.testing.assert_close(found.double(), wanted.double())


def test_what_is_always_zero_is_an_error():
    with pytest.raises(TrainingError, match=r"\[6, 1\] are one class along dim 1"):
        lesson(rand(N, 1), Distill(), F.cross_entropy)(rand(N, 1) + 1, torch.zeros(N).long())
    with pytest.raises(TrainingError, match="one class"):
        soft_target(rand(N, 1, 4, 4), 1.0)
    with pytest.raises(TrainingError, match="teaches nothing"):
        lesson(rand(N, 3), Distill(), F.mse_loss, lambda a, b: 0 * (a - b).sum())(
            rand(N, 3) + 1, rand(N, 3)
        )
    with pytest.raises(TrainingError, match="no gradient"):
        lesson(rand(N, 3), Distill(), F.mse_loss, lambda a, b: F.mse_loss(a.detach(), b))(
            (rand(N, 3) + 1).requires_grad_(), rand(N, 3)
        )


@pytest.mark.parametrize(
    ("criterion", "returned"),
    [
        (lambda o, y: F.mse_loss(o, y, reduction="none"), r"tensor of shape \[6, 3\].*mean"),
        (lambda o, y: {"a": F.mse_loss(o, y)}, "a dict; return one 0-dim tensor"),
        (lambda o, y: F.mse_loss(o, y).item(), "a float; return"),
    ],
)
def test_a_loss_that_is_no_number_is_an_error(criterion, returned):
    net = Elastic(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)), rand(4, 3))
    for loss in (SandwichLoss(net, criterion), criterion):
        with pytest.raises(TrainingError, match=returned):
            fit(
                net,
                Arrays(rand(N, 3), rand(N, 3)),
                loss,
                recipe=Recipe(epochs=1),
                run=RunConfig(progress=False),
            )


def regression(outputs: int) -> tuple[Elastic, Arrays]:
    torch.manual_seed(0)
    x = torch.randn(256, 4)
    y = (x @ torch.randn(4, outputs)).tanh() + 1
    net = Elastic(nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, outputs)), x[:4])
    data = Arrays(x, y)
    fit(
        net,
        data,
        SandwichLoss(net, F.mse_loss),
        recipe=Recipe(epochs=20, lr=1e-2, batch_size=32),
        run=RunConfig(progress=False),
    )
    return net, data


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_cut_regression_network_comes_nearer_to_the_full_one(outputs):
    net, data = regression(outputs)
    for criterion in (None, F.mse_loss):
        small = net.cut(net.widths(1 / 8))
        far = F.mse_loss(small(data.inputs), net(data.inputs))
        distill(
            small,
            Teacher(net, criterion=criterion),
            data,
            recipe=Recipe(epochs=10, batch_size=32, lr=3e-2),
        )
        assert F.mse_loss(small(data.inputs), net(data.inputs)) < 0.5 * far


def test_without_a_criterion_the_targets_say_what_is_distilled():
    def value(full: Tensor, narrow: Tensor, target: Any) -> Tensor:
        teacher, student = nn.Linear(2, 2), nn.Linear(2, 2)
        teacher.forward, student.forward = lambda x: full, lambda x: narrow
        return DistillObjective([student], Teacher(teacher))(rand(N, 2), target)

    full, narrow = rand(N, C), rand(N, C) * 0.5
    torch.testing.assert_close(value(full, narrow, classes(N)).double(), kl(narrow, full))
    torch.testing.assert_close(value(full, narrow, rand(N, C)), F.mse_loss(narrow, full))
    torch.testing.assert_close(value(full, narrow, None), F.mse_loss(narrow, full))
    full, narrow = rand(N, T, C), rand(N, T, C) * 0.5
    found = value(full, narrow, classes(N, T)).double()
    torch.testing.assert_close(found, kl(narrow, full, dim=2))
    with pytest.raises(TrainingError, match="dim 1 or the last; give the criterion="):
        value(rand(N, C, C), rand(N, C, C) * 0.5, classes(N, C))


def test_there_must_be_something_to_learn():
    net, data = regression(1)
    with pytest.raises(TrainingError, match="gives the very outputs"):
        distill(net.cut(net.full()), net, data)
    with pytest.raises(TrainingError, match="shares its weights"):
        distill(net.model, net, data)


def test_a_task_says_how_its_networks_learn():
    def gap(narrow: Tensor, full: Tensor) -> Tensor:
        return (narrow - full).abs().amax()

    net, data = regression(2)
    task = Task("t", lambda: net.model, lambda: (data.inputs,), lambda: None, F.mse_loss)  # type: ignore[arg-type, return-value]
    loss = elastic_loss(net, task)
    assert (loss.distill, loss.distill_loss) == (Distill(hard_weight=0.5), None)
    own = replace(task, distill=Distill(hard_weight=0.25), distill_loss=gap)
    assert elastic_loss(net, own).settings()["distill"] == {"temperature": 1.0, "hard_weight": 0.25}
    assert elastic_loss(net, own).distill_loss is gap
    for name, wanted in {"auto": (own.distill, gap), "none": (None, None)}.items():
        loss = elastic_loss(net, DISTILLATIONS[name](own))
        assert (loss.distill, loss.distill_loss) == wanted
    student = net.cut(net.widths(0.25))
    x, y = data.inputs, data.targets
    full, narrow = net.eval()(x), student(x)
    found = taught_by(net, student, DISTILLATIONS["outputs"](task))(x, y)
    wanted = (F.mse_loss(narrow, full) + F.mse_loss(narrow, y)) / 2
    torch.testing.assert_close(found, wanted)
    found = taught_by(net, student, DISTILLATIONS["none"](task))(x, y)
    torch.testing.assert_close(found, F.mse_loss(narrow, y))


def test_the_command_line_sets_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "digits", "--out", "run", "--epochs", 1, "--distillation"]
    works(*words, "none")
    assert '"distillation": "none"' in Path("run/run.json").read_text()
    assert "--distillation none" in Path("run/run.json").read_text()
    assert "distillation" in fails(*words, "outputs")  # another run
    assert widthwise(*words, "none", "--method", "plain", "--overwrite").exit_code == 2
