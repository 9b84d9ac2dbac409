"""The units of work of `minified.py`: what is measured on one trained network.

Every function takes a `Trained` and returns accuracies in per cent, by method and size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import widthwise as ww
from widthwise.app.tasks import BUILT_IN
from widthwise.app.tasks.arrays import Arrays
from widthwise.app.tasks.mlp import MLP
from widthwise.pruning import (
    allocate,
    dropout_ablation,
    held_at_zero,
    keep,
    magnitude,
    merge,
    obd,
    obd_sd,
    order,
    output_error,
    prune_,
    random,
    reconstruct_,
    taylor,
)
from widthwise.task import Splits
from widthwise.train.config import RunConfig
from widthwise.train.distillation import distill
from widthwise.train.fit import fit
from widthwise.train.recipe import Recipe

SPARSITIES = (0.8, 0.9, 0.95, 0.98)
WIDTHS = (64, 32, 16, 8)
LONG, SHORT, ROUNDS = 10, 2, 5  # epochs of a training, epochs of fine-tuning, rounds of OBD
BATCH = 256
SAMPLES, SCORED = 10_000, 500  # training samples that scores are computed on, in batches of
WEIGHT_SELECTORS = ("random", "magnitude", "taylor", "obd", "obd_hutchinson", "obd_sd")
FEATURE_SELECTORS = (
    "random",
    "magnitude",
    "dropout-ablation",
    "obd",
    "obd_sd",
    "merge",
    "output-error",
)

Rates = dict[str, float]
Found = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """One reading of OBD-SD: the arguments of `pruning.obd_sd`."""

    curvature: str
    spread: float


class Trained:
    """A task's network, trained with one seed, and all that cells need of it.

    rates: peak learning rates by what is trained (`minified_choices.py` says which). folder: where
    the training is kept. judged: the part of the data that accuracy is of, "valid" or "test".
    """

    def __init__(
        self, task: str, seed: int, rates: Rates, reading: Reading, folder: Path, judged: str
    ) -> None:
        self.task, self.seed, self.rates, self.reading = BUILT_IN[task](), seed, rates, reading
        splits = _splits(task)
        train, data = splits.train, splits.valid if judged == "valid" else splits.test
        assert isinstance(train, Arrays)
        assert isinstance(data, Arrays)
        self.train, self.data = train, data
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(train), generator=generator)[:SAMPLES]
        self.batches = [train.batch(some) for some in chosen.split(SCORED)]
        torch.manual_seed(seed)
        self.model = self.task.model()
        fit(
            self.model,
            train,
            F.cross_entropy,
            recipe=Recipe(epochs=LONG, batch_size=BATCH, lr=rates["full"]),
            run=RunConfig(
                folder=folder / f"{task}-{seed}-{rates['full']:g}", seed=seed, progress=False
            ),
        )
        self.scored: dict[tuple[str, str], dict[str, Tensor]] = {}

    @cached_property
    def net(self) -> ww.Elastic:
        """For scores; it is never put in another order."""
        return self.elastic()

    def elastic(self) -> ww.Elastic:
        """One of its own, to be ordered."""
        return ww.Elastic(copy.deepcopy(self.model), self.train.inputs[:2])

    def fresh(self, widths: dict[str, int], salt: int = 0) -> nn.Module:
        """A network of this shape as it is before any training."""
        torch.manual_seed(1_000 + self.seed + salt)
        first, last = self.model.fc1, self.model.fc3
        made = MLP(first.in_features, first.out_features, last.out_features)
        if widths:
            made.fc1 = nn.Linear(first.in_features, widths["fc1"])
            made.fc2 = nn.Linear(widths["fc1"], widths["fc2"])
            made.fc3 = nn.Linear(widths["fc2"], last.out_features)
        return made

    def accuracy(self, module: nn.Module) -> float:
        """In per cent of the judged data."""
        module.eval()
        with torch.no_grad():
            right = module(self.data.inputs).argmax(1) == self.data.targets
        return 100 * right.float().mean().item()

    def trained(self, module: nn.Module, what: str, epochs: int) -> float:
        """Train in place, at the rate chosen for `what`; the accuracy."""
        recipe = Recipe(epochs=epochs, batch_size=BATCH, lr=self.rates[what])
        seed = 1_000 + self.seed
        fit(
            module,
            self.train,
            F.cross_entropy,
            recipe=recipe,
            run=RunConfig(seed=seed, progress=False),
        )
        return self.accuracy(module)

    def distilled(self, module: nn.Module, what: str, epochs: int) -> float:
        """Train in place on what the full network says; the accuracy."""
        lr, seed = self.rates[what], 1_000 + self.seed
        distill(
            module,
            self.model,
            self.train,
            recipe=Recipe(epochs=epochs, batch_size=BATCH, lr=lr),
            seed=seed,
        )
        return self.accuracy(module)

    def scores(self, selector: str, of: Any) -> dict[str, Tensor]:
        """Scores of the features or single weights."""
        if (selector, of) not in self.scored:
            self.scored[selector, of] = self._scores(selector, of)
        return self.scored[selector, of]

    def _scores(self, selector: str, of: Any) -> dict[str, Tensor]:
        net, data, loss, seed = self.net, self.batches, F.cross_entropy, self.seed
        how: Any = {"curvature": self.reading.curvature, "spread": self.reading.spread}
        makers: dict[str, Callable[[], dict[str, Tensor]]] = {
            "random": lambda: random(net, of=of, seed=seed),
            "magnitude": lambda: magnitude(net, of=of),
            "taylor": lambda: taylor(net, data, loss, of=of),
            "obd": lambda: obd(net, data, loss, of=of, seed=seed),
            "obd_hutchinson": lambda: obd(
                net, data, loss, of=of, curvature="hutchinson", seed=seed
            ),
            "obd_sd": lambda: obd_sd(net, data, loss, of=of, seed=seed, **how),
            "dropout-ablation": lambda: dropout_ablation(net, data, loss, passes=32, seed=seed),
            "output-error": lambda: output_error(net, data, loss),
        }
        return makers[selector]()


@cache
def _splits(task: str) -> Splits:
    return BUILT_IN[task]().splits()


def full(trained: Trained) -> Found:
    """The network itself."""
    return {"accuracy": trained.accuracy(trained.model)}


def weights(trained: Trained, selector: str) -> Found:
    """Single weights pruned: as cut, and after the short fine-tuning."""
    found: Found = {"cut": {}, "tuned": {}}
    for sparsity in SPARSITIES:
        masks = keep(trained.scores(selector, "weights"), sparsity)
        pruned = copy.deepcopy(trained.model)
        with held_at_zero(pruned, masks):
            found["cut"][sparsity] = trained.accuracy(pruned)
            found["tuned"][sparsity] = trained.trained(pruned, "mask", SHORT)
    return found


def rounds(trained: Trained, sparsity: float = 0.95) -> Found:
    """OBD in rounds, each fine-tuned for a short time; and at once, with as many epochs after it.

    At once with one short fine-tuning is among `weights`.
    """

    def score(module: nn.Module) -> dict[str, Tensor]:
        net = ww.Elastic(module, trained.train.inputs[:2])
        return obd(net, trained.batches, F.cross_entropy, of="weights", seed=trained.seed)

    def tune(epochs: int, what: str) -> Callable[[nn.Module], object]:
        return lambda module: trained.trained(module, what, epochs)

    plans: dict[str, tuple[int, Callable[[nn.Module], object]]] = {
        "at once, as many epochs": (1, tune(ROUNDS * SHORT, "mask, long")),
        "in rounds": (ROUNDS, tune(SHORT, "mask")),
    }
    found: Found = {}
    for name, (number, between) in plans.items():
        module = copy.deepcopy(trained.model)
        prune_(module, score, sparsity, rounds=number, between=between)
        found[name] = trained.accuracy(module)
    return found


def masks_anew(trained: Trained) -> Found:
    """The masks of obd_sd on new random weights."""
    return {"from scratch": _masked(trained, lambda: trained.fresh({}), "mask anew")}


def masks_long(trained: Trained) -> Found:
    """The masks of obd_sd on the trained weights, fine-tuned for a whole training."""
    return {"tuned, long": _masked(trained, lambda: copy.deepcopy(trained.model), "mask, long")}


def _masked(trained: Trained, start: Callable[[], nn.Module], what: str) -> dict[float, float]:
    found = {}
    for sparsity in SPARSITIES:
        module = start()
        masks = keep(trained.scores("obd_sd", "weights"), sparsity)
        with held_at_zero(module, masks):
            found[sparsity] = trained.trained(module, what, LONG)
    return found


def features(trained: Trained, selector: str) -> Found:
    """Both layers cut to one width: as cut, reconstructed, and each of these fine-tuned."""
    found: Found = {"cut": {}, "reconstructed": {}, "tuned": {}, "reconstructed, tuned": {}}
    for width, small, fitted in _cuts(trained, selector):
        found["cut"][width] = trained.accuracy(small)
        found["reconstructed"][width] = trained.accuracy(fitted)
        found["tuned"][width] = trained.trained(small, "shape", SHORT)
        found["reconstructed, tuned"][width] = trained.trained(fitted, "shape", SHORT)
    return found


def features_long(trained: Trained) -> Found:
    """Cut by obd_sd and fine-tuned for a whole training."""
    return {
        "tuned, long": {
            width: trained.trained(small, "shape, long", LONG)
            for width, small, _ in _cuts(trained, "obd_sd")
        }
    }


def _cuts(trained: Trained, selector: str) -> Iterator[tuple[int, nn.Module, nn.Module]]:
    """(width, the network as cut, the same reconstructed) for each width."""
    net, data = trained.elastic(), trained.batches
    if selector != "merge":
        order(net, trained.scores(selector, "features"))
    for width in WIDTHS:
        widths = {"fc1": width, "fc2": width}
        small = merge(net, widths, data) if selector == "merge" else net.cut(widths)
        yield width, small, reconstruct_(copy.deepcopy(small), net, widths, data)


def shapes_anew(trained: Trained) -> Found:
    """The small shapes from new random weights."""
    shapes = {w: trained.fresh({"fc1": w, "fc2": w}) for w in WIDTHS}
    return {"from scratch": {w: trained.trained(m, "shape anew", LONG) for w, m in shapes.items()}}


def ours(trained: Trained) -> Found:
    """Allocated at the parameters of each equal width, reconstructed, and trained for a short time.

    And the same shape from new random weights.
    """
    names = ("cut", "reconstructed", "tuned", "distilled", "from scratch", "widths", "parameters")
    found: Found = {name: {} for name in names}
    for width, widths, small, fitted in _allocated(trained):
        found["widths"][width] = [widths["fc1"], widths["fc2"]]
        found["parameters"][width] = sum(p.numel() for p in small.parameters())
        found["cut"][width] = trained.accuracy(small)
        found["reconstructed"][width] = trained.accuracy(fitted)
        copied = copy.deepcopy(fitted)
        found["tuned"][width] = trained.trained(copied, "shape", SHORT)
        found["distilled"][width] = trained.distilled(fitted, "distilled", SHORT)
        found["from scratch"][width] = trained.trained(trained.fresh(widths), "shape anew", LONG)
    return found


def ours_long(trained: Trained) -> Found:
    """The same, trained for as long as the network."""
    found: Found = {"tuned, long": {}, "distilled, long": {}}
    for width, _, _, fitted in _allocated(trained):
        copied = copy.deepcopy(fitted)
        found["tuned, long"][width] = trained.trained(copied, "shape, long", LONG)
        found["distilled, long"][width] = trained.distilled(fitted, "distilled, long", LONG)
    return found


def ours_unreconstructed(trained: Trained) -> Found:
    """Allocated in the same way, and fine-tuned from what the cut is."""
    found: Found = {"not reconstructed, tuned": {}, "not reconstructed, tuned, long": {}}
    for width, _, small, _ in _allocated(trained):
        for name, epochs in (("", SHORT), (", long", LONG)):
            value = trained.trained(copy.deepcopy(small), f"shape{name}", epochs)
            found[f"not reconstructed, tuned{name}"][width] = value
    return found


def _allocated(
    trained: Trained,
) -> Iterator[tuple[int, dict[str, int], nn.Module, nn.Module]]:
    """(equal width, our widths at as many parameters, as cut, reconstructed)."""
    scores = trained.scores("output-error", "features")
    net = trained.elastic()
    order(net, scores)
    for width in WIDTHS:
        equal = trained.fresh({"fc1": width, "fc2": width})
        limit = sum(p.numel() for p in equal.parameters())
        widths = dict(allocate(net, scores, max_params=limit))
        small = net.cut(widths)
        fitted = reconstruct_(copy.deepcopy(small), net, widths, trained.batches)
        yield width, widths, small, fitted


CELLS: dict[str, Callable[[Trained], Found]] = {
    "full": full,
    **{f"weights {s}": partial(weights, selector=s) for s in WEIGHT_SELECTORS},
    "rounds": rounds,
    "masks anew": masks_anew,
    **{f"features {s}": partial(features, selector=s) for s in FEATURE_SELECTORS},
    "shapes anew": shapes_anew,
    "ours": ours,
}
# Measured after all others, in this order.
LONG_CELLS: dict[str, Callable[[Trained], Found]] = {
    "features long": features_long,
    "ours not reconstructed": ours_unreconstructed,
    "masks long": masks_long,
    "ours long": ours_long,
}
