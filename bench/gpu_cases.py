"""The networks that `gpu.py` measures: a ResNet-50, a ViT-B and a GPT of 12 layers, at any width.

A *share* builds the network small: the same depth, every width times the share. It is what somebody
would have written who wanted that size from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchvision_operators


@dataclass(frozen=True)
class Case:
    """One network. build: (share of its widths) -> it, newly initialised.

    inputs: (batch) -> its one argument, on the CPU. target: (batch) -> what `loss` takes besides
    the outputs. batch: of a training step. eager, compiled: the largest ratios of an elastic step
    to a plain one that are allowed; None for any.
    """

    name: str
    build: Callable[[float], nn.Module]
    inputs: Callable[[int], Tensor]
    target: Callable[[int], Tensor]
    batch: int
    eager: float | None = None
    compiled: float | None = None


class Logits(nn.Module):
    """A causal language model that returns its logits (B, T, vocabulary)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (B, T) int64."""
        logits: Tensor = self.model(input_ids=tokens).logits
        return logits


def loss(outputs: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over the last dim of the outputs, in float32."""
    return F.cross_entropy(outputs.flatten(0, -2).float(), target.flatten())


def resnet50(share: float, *, small: bool) -> nn.Module:
    """A ResNet of bottlenecks, 3 + 4 + 6 + 3 of them, of 1,000 classes; small: 1 each, narrow."""
    torchvision_operators.declare()
    from timm.models.resnet import Bottleneck, ResNet

    wide = 16 if small else 64
    channels = tuple(round(wide * 2**i * share) for i in range(4))
    return ResNet(cast(Any, Bottleneck), (1,) * 4 if small else (3, 4, 6, 3), channels=channels)


def vit_b(share: float, *, small: bool) -> nn.Module:
    """A vision transformer of 12 blocks, 12 heads of 64, patches of 16; small: 2 and 4 of 16."""
    torchvision_operators.declare()
    from timm.models.vision_transformer import VisionTransformer

    heads, size, depth = (4, 16, 2) if small else (12, 64, 12)
    kept = round(heads * share)
    return VisionTransformer(
        img_size=64 if small else 224, embed_dim=kept * size, num_heads=kept, depth=depth
    )


def gpt(share: float, *, small: bool) -> nn.Module:
    """A GPT-2 of 12 layers, 12 heads of 64 and 50,304 tokens; small: 2, 4 of 16, and 256."""
    torchvision_operators.declare()
    from transformers import GPT2Config, GPT2LMHeadModel

    heads, size, depth = (4, 16, 2) if small else (12, 64, 12)
    kept = round(heads * share)
    config = GPT2Config(
        vocab_size=256 if small else 50_304,
        n_embd=kept * size,
        n_head=kept,
        n_layer=depth,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    return Logits(GPT2LMHeadModel(config))


def cases(*, small: bool) -> list[Case]:
    """All of them; small: of a size that a processor takes a few seconds for."""
    side, length = (64, 32) if small else (224, 1024)
    vocabulary = 256 if small else 50_304

    def images(batch: int) -> Tensor:
        return torch.randn(batch, 3, side, side)

    def labels(batch: int) -> Tensor:
        return torch.randint(0, 1000, (batch,))

    def tokens(batch: int) -> Tensor:
        return torch.randint(0, vocabulary, (batch, length))

    def made(model: Any) -> Callable[[float], nn.Module]:
        return lambda share: model(share, small=small)

    def batch(of: int) -> int:
        return 2 if small else of

    return [
        Case("ResNet-50", made(resnet50), images, labels, batch(128), 0.9, 1.0),
        Case("ViT-B/16", made(vit_b), images, labels, batch(128)),
        Case("GPT, 12 layers", made(gpt), tokens, tokens, batch(16), 0.9, 1.0),
    ]
