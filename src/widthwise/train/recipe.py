"""How long and how fast to train, as data.

Recipe(epochs=15, lr=2e-3)                       # Adam, one cycle: up for 30 %, down to zero
Recipe(warmup=0.05)                              # cosine with a short warm-up
Recipe(warmup=0, decay="none")                   # a constant rate
Recipe(weight_decay=0.05, clip=1.0)              # AdamW with clipped gradients, as for a ViT
Recipe(ema=0.999)                                # keep a moving average of the weights
Recipe(sam=0.05)                                 # look for flat minima, at twice the cost
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train.

    Args:
        epochs: passes over the training data.
        batch_size: items in each step, over all processes together.
        lr: peak of the learning-rate schedule.
        weight_decay: decoupled (AdamW), on tensors of at least two dims; 0 is plain Adam.
        warmup: share of all steps in which the rate rises, on a cosine, from lr / 25 to lr.
        decay: how the rate falls to zero after that: "cosine", "linear" or "none".
        betas: decay rates of Adam's two moving averages.
        clip: largest norm of all gradients together, or None.
        ema: decay rate of a moving average of the weights, such as 0.999, or None. The averaged
            weights are then what is evaluated and what training leaves in the module.
        sam: radius of sharpness-aware minimisation (`train.sam.SAM`), such as 0.05, or None.
        precision: "float32", or the type of a mixed-precision run.

    Raises:
        ValueError: For values outside these ranges.
    """

    epochs: int = 15
    batch_size: int = 256
    lr: float = 2e-3
    weight_decay: float = 0.0
    warmup: float = 0.3
    decay: Literal["cosine", "linear", "none"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float | None = None
    ema: float | None = None
    sam: float | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"

    def __post_init__(self) -> None:
        for name, value in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Recipe.{name} is {value!r}; give an integer of at least 1.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"Recipe.lr is {self.lr}; give a number above 0, such as 2e-3.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"Recipe.weight_decay is {self.weight_decay}; give 0 or more.")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"Recipe.warmup is {self.warmup}; give a share from 0 to 1.")
        if self.decay not in ("cosine", "linear", "none"):
            raise ValueError(f"Recipe.decay is {self.decay!r}; give 'cosine', 'linear' or 'none'.")
        if not (len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas)):
            raise ValueError(f"Recipe.betas is {self.betas}; give two numbers from 0 to below 1.")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"Recipe.clip is {self.clip}; give a number above 0, or None.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"Recipe.ema is {self.ema}; give a number between 0 and 1, or None.")
        if self.sam is not None and not (math.isfinite(self.sam) and self.sam > 0):
            raise ValueError(f"Recipe.sam is {self.sam}; give a number above 0, or None.")
        if self.sam is not None and self.precision == "float16":
            raise ValueError(
                "Recipe.sam does not go with float16, whose gradients are scaled; use bfloat16."
            )
        if self.precision not in ("float32", "bfloat16", "float16"):
            raise ValueError(
                f"Recipe.precision is {self.precision!r}; give 'float32', 'bfloat16' or 'float16'."
            )


def rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of step 0..steps - 1, a function of these alone."""
    done = step / steps
    if done < recipe.warmup:
        rise = (1 - math.cos(math.pi * done / recipe.warmup)) / 2
        return recipe.lr * (1 + 24 * rise) / 25
    if recipe.decay == "none":
        return recipe.lr
    left = (1 - done) / (1 - recipe.warmup)
    return recipe.lr * (left if recipe.decay == "linear" else (1 - math.cos(math.pi * left)) / 2)
