"""Inputs and outputs of every kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nets.base import Example, Net, tokens


class TextClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, 9, padding_idx=0)
        self.fc1 = nn.Linear(9, 12)
        self.fc2 = nn.Linear(12, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens != 0).unsqueeze(-1)
        total = (self.embed(tokens) * mask).sum(dim=1)
        mean = total / mask.sum(dim=1).clamp(min=1)
        return self.fc2(torch.relu(self.fc1(mean)))


@dataclass
class TabularOutput:
    """logits: (N, 3); confidence: (N,)."""

    logits: Tensor
    confidence: Tensor


class Tabular(nn.Module):
    """Takes a dict and keyword arguments, returns a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.category = nn.Embedding(7, 6)
        self.dense = nn.Linear(5, 8)
        self.fc = nn.Linear(6 + 8, 10)
        self.head = nn.Linear(10, 3)

    def forward(
        self, batch: dict[str, Tensor], *, weight: Tensor | None = None, temperature: float = 1.0
    ) -> TabularOutput:
        h = torch.cat([self.category(batch["category"]), torch.relu(self.dense(batch["x"]))], -1)
        h = torch.relu(self.fc(h))
        if weight is not None:
            h = h * weight.unsqueeze(-1)
        logits = self.head(h) / temperature
        return TabularOutput(logits, logits.softmax(-1).amax(-1))


class TwoTowers(nn.Module):
    """Takes several tensors, returns a dict that holds a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(11, 7)
        self.item = nn.Embedding(13, 9)
        self.user_tower = nn.Sequential(nn.Linear(7, 10), nn.ReLU(), nn.Linear(10, 8))
        self.item_tower = nn.Sequential(nn.Linear(9 + 2, 12), nn.ReLU(), nn.Linear(12, 8))
        self.bias = nn.Linear(8, 1)

    def forward(self, user: Tensor, item: Tensor, price: Tensor) -> dict[str, Any]:
        u = self.user_tower(self.user(user))
        i = self.item_tower(torch.cat([self.item(item), price], dim=-1))
        biases = self.bias(u).squeeze(-1), self.bias(i).squeeze(-1)
        return {"score": (u * i).sum(dim=-1) + biases[0] + biases[1], "biases": biases}


def _tabular_example() -> Example:
    batch = {"x": torch.randn(3, 5), "category": torch.randint(0, 7, (3,))}
    return (batch,), {"weight": torch.rand(3), "temperature": 2.0}


def _towers_example() -> Example:
    return (torch.randint(0, 11, (3,)), torch.randint(0, 13, (3,)), torch.randn(3, 2)), {}


INPUTS: tuple[Net, ...] = (
    Net("text", TextClassifier, tokens((17, (3, 7))), 2, "9, 12"),
    Net("dict_kwargs", Tabular, _tabular_example, 3, "6, 8, 10"),
    Net("several_inputs", TwoTowers, _towers_example, 5, "7, 9, 10, 12, joint 8"),
)
