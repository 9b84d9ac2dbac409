"""Shapes of operators that torch can run and, in some versions, cannot trace.

torch.export needs to know an operator's result without its data. torch.ao's fake quantization calls
operators that torch never said this of; all of them give back what they got.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_WITH_MASK = """
    fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
""".split()
_ALONE = """
    _fake_quantize_learnable_per_tensor_affine _fake_quantize_learnable_per_channel_affine
""".split()

_library = torch.library.Library("aten", "IMPL")


def _masked(x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)


def _alike(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return torch.empty_like(x)


def _declare() -> None:
    for names, shape in ((_WITH_MASK, _masked), (_ALONE, _alike)):
        for name in names:
            known = torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "Meta")
            if not known:
                _library.impl(name, shape, "Meta")


_declare()
