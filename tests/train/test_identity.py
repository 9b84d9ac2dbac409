"""What a run is known by."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from widthwise import Elastic, Recipe, RunError, SandwichLoss, fit
from widthwise.measure.data import adapt
from widthwise.train.config import RunConfig
from widthwise.train.fit import LongerWarning
from widthwise.train.identity import configured, described, differences, sampled

X, Y = torch.randn(64, 6), torch.arange(64) % 3


class Focal:
    """A loss with settings of its own."""

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(outputs * self.gamma, target)


def weighing(weight: Tensor) -> Any:
    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(outputs, target, weight)

    return loss


def _other(outputs: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(outputs, target) * 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.CrossEntropyLoss(torch.ones(3)), nn.CrossEntropyLoss(torch.tensor([9.0, 1, 1]))),
        (nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss()),
        (Focal(1.0), Focal(2.0)),
        (weighing(torch.ones(3)), weighing(torch.tensor([9.0, 1, 1]))),
        (partial(F.cross_entropy, label_smoothing=0.1), F.cross_entropy),
        (partial(F.cross_entropy, weight=torch.ones(3)), partial(F.cross_entropy, weight=None)),
        (lambda o, t: F.cross_entropy(o, t), lambda o, t: F.cross_entropy(o, t) * 2),
        (_other, weighing(torch.ones(3))),
    ],
)
def test_losses_that_differ_in_their_values_are_told_apart(one: Any, other: Any) -> None:
    assert not differences(described(one), described(one))
    assert differences(described(one), described(other))


def test_a_loss_that_holds_the_network_is_the_same_after_training() -> None:
    model = nn.Linear(6, 3)

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(outputs, target) + model.weight.square().sum()

    before = described(loss, model)
    nn.init.ones_(model.weight)
    assert described(loss, model) == before


def test_networks_that_differ_in_numbers_alone_are_told_apart() -> None:
    def net(p: float, act: type[nn.Module] = nn.ReLU) -> Elastic:
        return Elastic(nn.Sequential(nn.Linear(6, 8), act(), nn.Dropout(p), nn.Linear(8, 3)), X[:4])

    assert configured(net(0.1)) == configured(net(0.1))
    assert "Dropout.p was 0.1 and is 0.5" in differences(configured(net(0.1)), configured(net(0.5)))
    assert "graph differs" in differences(configured(net(0.1)), configured(net(0.1, nn.GELU)))


class Noisy(Dataset[Any]):
    """Items by a generator of their own."""

    random = np.random.default_rng(0)

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        return self.random.normal(size=6).astype("float32"), index % 3


def test_data_are_told_apart_by_a_few_items() -> None:
    same = sampled(adapt(TensorDataset(X, Y)))
    assert same == sampled(adapt(TensorDataset(X.clone(), Y)))
    assert differences(same, sampled(adapt(TensorDataset(X + 1, Y)))) == ["values differs"]
    assert differences(same, sampled(adapt(TensorDataset(X[1:], Y[1:]))))
    loaders = [DataLoader(TensorDataset(X, Y), size) for size in (8, 16)]
    assert differences(*(sampled(adapt(each)) for each in loaders)) == [
        "batch_size was 8 and is 16"
    ]
    assert sampled(adapt(Noisy()))["values"] is None  # nothing is claimed of them


def net() -> Elastic:
    torch.manual_seed(0)
    return Elastic(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), X[:4])


def go(folder: Any, criterion: Any = F.cross_entropy, data: Any = None, epochs: int = 2) -> Any:
    made = net()
    data = TensorDataset(X, Y) if data is None else data
    recipe = Recipe(epochs=epochs, batch_size=32)
    loss = SandwichLoss(made, criterion)
    return fit(made, data, loss, recipe=recipe, run=RunConfig(folder=folder, progress=False))


def test_other_weights_of_classes_or_other_data_are_another_run(tmp_path) -> None:
    one, other = (nn.CrossEntropyLoss(torch.tensor([w, 1.0, 1])) for w in (1.0, 9.0))
    assert len(go(tmp_path, one).epochs) == 2
    assert len(go(tmp_path, one).epochs) == 2
    with pytest.raises(RunError, match=r"functions\.criterion\.weight differs"):
        go(tmp_path, other)
    with pytest.raises(RunError, match=r"data\.values differs"):
        go(tmp_path, one, TensorDataset(X + 1, Y))


def test_a_finished_run_goes_on_for_more_epochs(tmp_path) -> None:
    first = go(tmp_path)
    with pytest.warns(LongerWarning, match="run of 2 epochs .* trained on to 4"):
        longer = go(tmp_path, epochs=4)
    assert longer.epochs[:2] == first.epochs
    assert len(longer.epochs) == 4
    assert go(tmp_path, epochs=4) == longer
    with pytest.raises(RunError, match=r"recipe\.epochs was 4 and is 3"):
        go(tmp_path, epochs=3)
