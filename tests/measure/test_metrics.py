"""Metrics mean the same whatever the size of the batches, and for every way of measuring."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from torchvision_operators import declare
from widthwise import (
    ACCURACY,
    DataError,
    Elastic,
    Evaluation,
    Metric,
    TrainingError,
    fit,
    search,
    sweep,
)
from widthwise.app.tasks.arrays import Arrays
from widthwise.measure.budget import Budget
from widthwise.measure.metric import as_metric
from widthwise.task import Task
from widthwise.train.config import RunConfig
from widthwise.train.default_metric import default_metric
from widthwise.train.recipe import Recipe

sklearn = pytest.importorskip("sklearn.metrics")
declare()  # torchmetrics imports torchvision
tm = pytest.importorskip("torchmetrics")

N, C = 150, 3
torch.manual_seed(0)
X = torch.randn(N, 4)
Y = (X[:, 0] > 0.8).long() + (X[:, 1] > 1.5).long()  # of rare classes
VALUES = X[:, :2].sum(1, keepdim=True)


def network(outputs: int = C) -> Elastic:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, outputs))
    return Elastic(model, X[:4]).eval()


def macro(out: Tensor, y: Tensor) -> tuple[float, int]:
    """As one writes it first: the F1 of a batch times its size."""
    return sklearn.f1_score(y, out.argmax(1), average="macro", zero_division=0) * len(y), len(y)


def corpus(out: Tensor, y: Tensor) -> float:
    """As BLEU is: a geometric mean of precisions over everything."""
    hits = torch.stack([((out.argmax(1) == c) & (y == c)).sum() + 1 for c in range(C)])
    return float((hits / (len(y) + C)).log().mean().exp())


def mean_loss(out: Tensor, y: Tensor) -> tuple[Tensor, int]:
    """A mean, counted once for each batch."""
    return F.cross_entropy(out, y), 1


def counts(out: Tensor, y: Tensor) -> tuple[Tensor, int]:
    found = out.argmax(1)
    return torch.stack([((found == c) & (y == c)).sum() for c in range(C)]), len(y)


def token_nll(out: Tensor, y: Tensor) -> tuple[Tensor, int]:
    return F.cross_entropy(out, y, reduction="sum"), len(y)


f1 = partial(sklearn.f1_score, average="macro", zero_division=0)
KINDS: dict[str, tuple[Any, Any]] = {
    # metric, its value from all outputs
    "accuracy": (ACCURACY, lambda o: (o.argmax(1) == Y).double().mean()),
    "perplexity": (
        Metric("perplexity", token_nll, False, math.exp),
        lambda o: F.cross_entropy(o, Y).exp(),
    ),
    "batch F1 times size": (Metric("F1", macro), lambda o: f1(Y, o.argmax(1))),
    "mean of batches": (Metric("loss", mean_loss, False), lambda o: F.cross_entropy(o, Y)),
    "corpus": (Metric("corpus", corpus), lambda o: corpus(o, Y)),
    "vector": (
        Metric("hits", counts, finish=lambda v: v.min()),
        lambda o: counts(o, Y)[0].min() / N,
    ),
    "sklearn F1": (f1, lambda o: f1(Y, o.argmax(1))),
    "sklearn AUC": (
        partial(sklearn.roc_auc_score, multi_class="ovr"),
        lambda o: sklearn.roc_auc_score(Y, o.softmax(1), multi_class="ovr"),
    ),
    "sklearn log loss": (sklearn.log_loss, lambda o: F.cross_entropy(o, Y)),
    "torchmetrics F1": (
        tm.classification.MulticlassF1Score(C, average="macro"),
        lambda o: f1(Y, o.argmax(1)),
    ),
    "torchmetrics AP": (
        tm.classification.MulticlassAveragePrecision(C),
        lambda o: (
            sum(sklearn.average_precision_score(c == Y, o.softmax(1)[:, c]) for c in range(C)) / C
        ),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_metric_is_one_of_the_whole_split(kind):
    metric, wanted = KINDS[kind]
    net = network()
    widths = [net.widths(0.25), net.full()]
    with torch.no_grad():
        true = [float(wanted(net(X, widths=w))) for w in widths]
    for size in (7, 64, N):
        loader = DataLoader(Arrays(X, Y), size)  # type: ignore[arg-type]
        evaluation = Evaluation(loader, metric)
        assert evaluation.at(net, widths) == pytest.approx(true, abs=1e-5)
        assert evaluation(net) == pytest.approx(true[1], abs=1e-5)
        recipe = Recipe(epochs=1, batch_size=size, lr=1e-12)
        history = fit(
            net,
            Arrays(X, Y),
            F.cross_entropy,
            recipe=recipe,
            valid=Arrays(X, Y),
            metric=metric,
            run=RunConfig(progress=False),
        )
        assert history.metric == pytest.approx(true[1], abs=1e-4)


@pytest.mark.parametrize(
    ("metric", "true"),
    [
        (tm.regression.R2Score(), sklearn.r2_score),
        (sklearn.r2_score, sklearn.r2_score),
        (tm.MeanSquaredError(squared=False), lambda y, o: F.mse_loss(o, y).sqrt()),
        (sklearn.mean_absolute_error, sklearn.mean_absolute_error),
    ],
)
def test_regressions(metric, true):
    net = network(1)
    with torch.no_grad():
        wanted = float(true(VALUES, net(X)))
    for size in (7, N):
        evaluation = Evaluation(DataLoader(Arrays(X, VALUES), size), metric)  # type: ignore[arg-type]
        assert evaluation(net) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 2)])
def test_binary_scores_of_logits_do_not_depend_on_their_range_in_a_batch(shape):
    """torchmetrics takes logits for probabilities where all of a batch lie in [0, 1]."""
    out = (X[:, 0] * 0.3 + X[:, 1] * 0.2 + 0.5).sort().values
    y = (X[:, 0] > 0).long()[X[:, 0].argsort()]
    wanted = sklearn.roc_auc_score(y, out)
    given = torch.stack([torch.zeros(N), out], 1) if shape == (N, 2) else out.view(shape)
    metrics = [sklearn.roc_auc_score]
    if shape == (N,):
        metrics.append(tm.classification.BinaryAUROC())
    for metric in metrics:
        for size in (5, 30, N):
            batches = [(given[i : i + size], y[i : i + size]) for i in range(0, N, size)]
            assert Evaluation(batches, metric)(nn.Identity()) == pytest.approx(wanted, abs=1e-6)


def test_segmentation_and_targets_that_are_ignored():
    out = torch.randn(6, C, 4, 5)
    y = torch.randint(0, C, (6, 4, 5))
    y[:, 0] = -100
    found, true = out.argmax(1)[y >= 0], y[y >= 0]
    batches = [(out[:2], y[:2]), (out[2:], y[2:])]
    value = Evaluation(batches, partial(sklearn.f1_score, average="macro"))(nn.Identity())
    assert value == pytest.approx(sklearn.f1_score(true, found, average="macro"))
    metric = tm.classification.MulticlassAccuracy(C, average="micro", ignore_index=-100)
    assert Evaluation(batches, metric)(nn.Identity()) == pytest.approx(
        (found == true).double().mean().item()
    )
    metric = default_metric(nn.CrossEntropyLoss(ignore_index=-100))
    assert metric.name == "accuracy"
    assert Evaluation(batches, metric)(nn.Identity()) == pytest.approx(
        (found == true).double().mean().item()
    )


class Two(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"cls": x[:, :3], "box": x}


def test_several_outputs_are_read_as_one_is_told():
    batches = [(X[:50], {"cls": Y[:50]}), (X[50:], {"cls": Y[50:]})]
    wanted = f1(Y, X[:, :3].argmax(1))

    def reads(out: Any, y: Any) -> Any:
        return out["cls"], y["cls"]

    for one in (f1, tm.classification.MulticlassF1Score(C)):
        metric = Metric("F1", one, reads=reads)
        assert Evaluation(batches, metric)(Two()) == pytest.approx(wanted)
        with pytest.raises(ValueError, match="Which of 2 outputs the metric F1 reads"):
            Evaluation(batches, Metric("F1", one))(Two())


def test_an_object_of_ones_own_will_do():
    class Spread:
        higher_is_better = False

        def __init__(self) -> None:
            self.seen: list[Tensor] = []

        def update(self, preds: Tensor, target: Tensor) -> None:
            self.seen.append(preds)

        def compute(self) -> Tensor:
            return torch.cat(self.seen).std()

        def reset(self) -> None:
            self.seen = []

    given = Spread()
    evaluation = Evaluation([(X[:50], None), (X[50:], None)], given)
    assert evaluation.metric.name == "Spread"
    assert not evaluation.metric.higher_is_better
    assert evaluation(nn.Identity()) == pytest.approx(X.std().item())
    assert given.seen == []  # a copy was used
    with pytest.raises(DataError, match="no batch"):
        Evaluation([], given)(nn.Identity())


def test_directions():
    assert as_metric(tm.classification.BinaryAUROC()).higher_is_better
    assert not as_metric(tm.MeanAbsoluteError()).higher_is_better
    assert not Metric("MSE", tm.MeanSquaredError()).higher_is_better
    assert Metric("MSE", tm.MeanSquaredError(), True).higher_is_better
    assert as_metric(sklearn.matthews_corrcoef).higher_is_better
    assert not as_metric(sklearn.mean_squared_error).higher_is_better
    assert as_metric(ACCURACY) is ACCURACY
    with pytest.raises(ValueError, match=r"give Metric\('corpus', corpus, higher_is_better=True\)"):
        Evaluation([], corpus)
    with pytest.raises(ValueError, match="Whether a higher AUC is better"):
        Metric("AUC", sklearn.auc)
    with pytest.raises(ValueError, match="give a Metric"):
        as_metric("F1")
    with pytest.raises(ValueError, match="made of a value of type str"):
        Metric("F1", "macro")


def test_what_no_number_comes_of_is_one_sentence():
    both = tm.MetricCollection(
        [tm.classification.MulticlassF1Score(C), tm.classification.MulticlassAccuracy(C)]
    )
    batches = [(torch.randn(6, C), torch.arange(6) % C)] * 2
    with pytest.raises(TrainingError, match="came to a dict; let it give one number"):
        Evaluation(batches, Metric("both", both, True))(nn.Identity())
    with pytest.raises(TrainingError, match="came to a NoneType"):
        Evaluation(batches, Metric("none", lambda out, y: None))(nn.Identity())
    ragged = [(torch.randn(2, t, C), torch.zeros(2, t)) for t in (3, 4)]
    with pytest.raises(TrainingError, match="shapes differ between batches; let it give"):
        Evaluation(ragged, Metric("m", lambda out, y: float(out.mean())))(nn.Identity())
    with pytest.raises(TrainingError, match="metric 'm' on the validation data is nan"):
        fit(
            network(),
            Arrays(X, Y),
            F.cross_entropy,
            recipe=Recipe(epochs=1),
            valid=Arrays(X, Y),
            metric=Metric("m", lambda out, y: (math.nan, len(y))),
            run=RunConfig(progress=False),
        )


def test_sweep_and_search_take_them():
    net = network()
    evaluation = Evaluation(DataLoader(Arrays(X, Y), 20), f1)  # type: ignore[arg-type]
    frontier = sweep(net, evaluation, [net.widths(0.5), net.full()], latency=False)
    assert (frontier.metric, frontier.higher_is_better) == ("f1_score", True)
    with torch.no_grad():
        assert frontier.points[-1].metric == pytest.approx(f1(Y, net(X).argmax(1)))
    found = search(net, evaluation, Budget(max_bytes="2kB"), trials=2)

    def of_module(module: nn.Module) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(module(X), Y))

    with pytest.raises(ValueError, match="Whether a higher of_module is better"):
        search(net, of_module, Budget(max_bytes="2kB"), trials=2)
    other = search(
        net, Evaluation.by(of_module, higher_is_better=False), Budget(max_bytes="2kB"), trials=3
    )
    assert [t.metric for t in other.tried] == sorted(t.metric for t in other.tried)
    assert found.best.bytes <= 2000


def weird(out: Tensor, y: Tensor) -> Tensor:
    return (out.squeeze(1) - y).square().mean() + 1


@pytest.mark.parametrize(
    ("loss", "name", "outputs", "target", "value"),
    [
        (F.cross_entropy, "accuracy", torch.eye(3), torch.tensor([0, 1, 1]), 2 / 3),
        (partial(F.cross_entropy, label_smoothing=0.1), "accuracy", torch.eye(2), torch.eye(2), 1),
        (nn.BCEWithLogitsLoss(), "accuracy", torch.tensor([[1.0], [-1]]), torch.ones(2, 1), 0.5),
        (lambda o, y: F.nll_loss(o.log_softmax(1), y), "accuracy",
         torch.eye(3)[..., None].expand(3, 3, 3), torch.arange(3)[:, None].expand(3, 3), 1),
        (F.mse_loss, "RMSE", torch.tensor([[3.0], [0]]), torch.zeros(2, 1), math.sqrt(4.5)),
        (lambda o, y: F.mse_loss(o.squeeze(1), y), "RMSE", torch.tensor([[3.0], [0]]),
         torch.zeros(2), math.sqrt(4.5)),
        (nn.L1Loss(), "MAE", torch.tensor([[3.0], [0]]), torch.zeros(2, 1), 1.5),
        (nn.HuberLoss(), "loss", torch.tensor([[3.0], [0]]), torch.zeros(2, 1), 1.25),
        (F.poisson_nll_loss, "loss", torch.zeros(2, 1), torch.ones(2, 1), 1.0),
        (weird, "loss", torch.tensor([[3.0], [0]]), torch.zeros(2), 5.5),
    ],
)  # fmt: skip
def test_the_default_metric_follows_from_the_loss(loss, name, outputs, target, value):
    task = Task("t", nn.Identity, lambda: (X,), None, loss)  # type: ignore[arg-type]
    metric = task.metric
    assert metric.name == name
    assert metric.higher_is_better == (name == "accuracy")
    batches = [(outputs[i : i + 1], target[i : i + 1]) for i in range(len(outputs))]
    assert Evaluation(batches, metric)(nn.Identity()) == pytest.approx(value)
    assert Evaluation([(outputs, target)], metric)(nn.Identity()) == pytest.approx(value)


def test_accuracy_knows_where_classes_may_lie():
    out = torch.randn(4, C, 5)
    y = out.argmax(1)
    assert Evaluation([(out, y)], ACCURACY)(nn.Identity()) == 1
    assert Evaluation([(out.transpose(1, 2), y)], ACCURACY)(nn.Identity()) == 1
    with pytest.raises(ValueError, match="are none; give the metric="):
        Evaluation([(torch.randn(4, 1), torch.randn(4, 1))], ACCURACY)(nn.Identity())


def test_whether_sums_add_up_is_seen():
    """The checker is shown what does not add up, and believes what it is told."""
    seen: list[int] = []

    def uneven(out: Tensor, y: Tensor) -> tuple[float, int]:
        seen.append(len(y))
        return float(len(y) ** 2), len(y)

    batches = [(X[:60], Y[:60]), (X[60:], Y[60:])]
    assert Evaluation(batches, Metric("m", uneven))(nn.Identity()) == N
    assert seen[-1] == N
    told = Metric("m", uneven, additive=True)
    assert Evaluation(batches, told)(nn.Identity()) == pytest.approx((60**2 + 90**2) / N)
    seen.clear()
    assert Evaluation(batches, Metric("m", uneven, additive=False))(nn.Identity()) == N
    assert seen == [N]
