"""The next value of a time series, by a recurrent network: windows as dicts with their target."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from widthwise.measure.metric import Metric
from widthwise.task import Recipe, Splits, Task

_SERIES = torch.sin(torch.arange(360) / 5.0) + 0.1 * torch.sin(torch.arange(360) / 1.7)


class Windows(Dataset[dict[str, Tensor]]):
    def __init__(self, begin: int, end: int) -> None:
        self.starts = range(begin, end)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        at = self.starts[index]
        return {"past": _SERIES[at : at + 12, None], "target": _SERIES[at + 12 : at + 13]}


class Forecast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 16, batch_first=True)
        self.out = nn.Linear(16, 1)

    def forward(self, past: Tensor) -> Tensor:
        states, _ = self.lstm(past)
        return self.out(states[:, -1])


def distances(outputs: Tensor, target: Tensor) -> tuple[Tensor, int]:
    return (outputs - target).abs().sum(), target.numel()


def task() -> Task:
    return Task(
        name="series",
        model=Forecast,
        example=lambda: (torch.zeros(4, 12, 1),),
        splits=lambda: Splits(Windows(0, 200), Windows(212, 260), Windows(272, 340)),
        loss=F.l1_loss,
        metric=Metric("MAE", distances, higher_is_better=False),
        recipe=Recipe(epochs=1, batch_size=40, lr=1e-2),
    )
