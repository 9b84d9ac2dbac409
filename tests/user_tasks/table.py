"""Regression on a table, as someone writes it who starts from numpy arrays."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from widthwise.measure.metric import Metric
from widthwise.task import Recipe, Splits, Task

_RANDOM = np.random.default_rng(0)
_X = _RANDOM.normal(size=(400, 6))  # float64, as numpy and pandas give it
_Y = (np.sin(_X[:, :1]) + 0.5 * _X[:, 1:2]).astype(np.float32)


def model() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)
    )


def splits() -> Splits:
    x, y = torch.from_numpy(_X), torch.from_numpy(_Y)
    return Splits(*(TensorDataset(x[a:b], y[a:b]) for a, b in ((0, 256), (256, 320), (320, 400))))


def squares(outputs: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, int]:
    return (outputs - target).square().sum(), target.numel()


def task() -> Task:
    metric = Metric("RMSE", squares, higher_is_better=False, finish=lambda mean: mean**0.5)
    recipe = Recipe(epochs=2, batch_size=32, lr=5e-3)
    return Task("table", model, lambda: (torch.zeros(4, 6),), splits, F.mse_loss, metric, recipe)
