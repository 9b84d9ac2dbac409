"""What a network costs: parameters, multiply-accumulates, time.

    params(small)                               # numbers in the parameters
    macs(small, (x,))                           # multiply-accumulates for one example
    latency_ms(small, (x,)), runtime()          # 0.21, "PyTorch 2.13.0, CPU, 2 threads"
    onnx_latency_ms("small.onnx", (x,)), onnx_runtime()
"""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from widthwise.errors import FileError
from widthwise.measure.modes import evaluating

Args = tuple[Any, ...]


def params(module: nn.Module) -> int:
    """Numbers in the module's parameters; tied ones count once, buffers not at all."""
    return sum(p.numel() for p in module.parameters())


def batch_size(args: Args, kwargs: Mapping[str, Any] | None = None) -> int:
    """The first dim of the first input tensor that has dims; 1 where there is none."""
    for leaf in pytree.tree_leaves((args, dict(kwargs or {}))):
        if isinstance(leaf, Tensor) and leaf.dim():
            return max(1, leaf.shape[0])
    return 1
