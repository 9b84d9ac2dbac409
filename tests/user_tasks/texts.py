"""Texts of different lengths and their class: DataLoaders with a collate function."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, SubsetRandomSampler

from widthwise.task import Recipe, Splits, Task

_RANDOM = torch.Generator().manual_seed(0)


def _text(label: int) -> Tensor:
    size = int(torch.randint(3, 10, (), generator=_RANDOM))
    return torch.randint(1, 20, (size,), generator=_RANDOM) + 20 * label


_TEXTS = [(_text(i % 2), i % 2) for i in range(200)]


def collate(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    words = pad_sequence([text for text, _ in items], batch_first=True)
    return words, torch.tensor([label for _, label in items])


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(41, 16, padding_idx=0)
        self.hidden = nn.Linear(16, 24)
        self.out = nn.Linear(24, 2)

    def forward(self, words: Tensor) -> Tensor:
        seen = (words != 0).unsqueeze(-1)
        mean = (self.embed(words) * seen).sum(1) / seen.sum(1).clamp(min=1)
        return self.out(F.relu(self.hidden(mean)))


def splits() -> Splits:
    parts = (range(120), range(120, 160), range(160, 200))
    loaders = (
        DataLoader(_TEXTS, 20, sampler=SubsetRandomSampler(part), collate_fn=collate)
        for part in parts
    )
    return Splits(*loaders)


def task() -> Task:
    recipe = Recipe(epochs=1, batch_size=20, lr=5e-3)
    example = (torch.ones(4, 7, dtype=torch.long),)
    return Task("texts", Classifier, lambda: example, splits, F.cross_entropy, recipe=recipe)
