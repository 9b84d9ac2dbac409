"""A training run for tests that kill it: `python fit_run.py FOLDER [LIMIT]`.

Everything that could make a resumed run differ is in it: dropout, augmentation, batch norm, drawn
widths, a moving average. It says when each step is done. With a LIMIT in bytes, writing a larger
file fails, as on a full disk.
"""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fitting import fitted
from widthwise import Draw, Elastic, WidthwiseError
from widthwise.app.tasks.arrays import Arrays
from widthwise.measure.metric import ACCURACY
from widthwise.train.history import History
from widthwise.train.losses import Distill, SandwichLoss
from widthwise.train.recipe import Recipe

RECIPE = Recipe(epochs=4, batch_size=8, lr=1e-2, weight_decay=0.01, clip=1.0, ema=0.9)


def noise(x: Tensor) -> Tensor:
    return x + 0.1 * torch.randn_like(x)


def data(augment: Any = noise) -> Arrays:
    x = torch.randn(70, 6, generator=torch.Generator().manual_seed(1))  # 9 steps, the last of 6
    return Arrays(x, (x[:, :3] ** 2).argmax(1), augment=augment)


def build(seed: int = 0) -> Elastic:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)
    )
    return Elastic(model, torch.randn(4, 6), draw=Draw(p=0.7), seed=4)


def run(folder: Path | None, criterion: Any = F.cross_entropy, **changes: Any) -> Any:
    """One run; returns the network and its history. The initial weights may differ at a resume."""
    net = build(changes.pop("build_seed", 0))
    settings: dict[str, Any] = {
        "recipe": RECIPE,
        "valid": data(None),
        "metric": ACCURACY,
        "seed": 5,
        **changes,
    }
    # Without a hard share the criterion is called once in a step, which tests count on.
    loss = SandwichLoss(net, criterion, passes=3, distill=Distill())
    history: History = fitted(net, settings.pop("train", data()), loss, folder=folder, **settings)
    return net, history


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in net.state_dict().items()}


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) > 2:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
    steps = 0

    def criterion(outputs: Tensor, target: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        print(f"step {steps}", flush=True)
        return F.cross_entropy(outputs, target)

    criterion.__module__, criterion.__qualname__ = "torch.nn.functional", "cross_entropy"
    try:
        run(Path(sys.argv[1]), criterion, save_every=0.0)
    except WidthwiseError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
