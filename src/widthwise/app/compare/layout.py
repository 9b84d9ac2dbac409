"""The order of convolutions' weights in memory.

Processors compute convolutions faster on channels-last tensors, up to twice as fast
(bench/layout.py); what one computes then has that order too. A user's own module is left as it is:
code that flattens its weights with `view` would fail.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

M = TypeVar("M", bound=nn.Module)


def channels_last(module: M) -> M:
    """The same module, whose convolutions' weights, (O, I, H, W), are laid out as (O, H, W, I)."""
    convert_conv2d_weight_memory_format(module, torch.channels_last)
    return module
