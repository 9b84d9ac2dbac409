"""Lets torchvision be imported where its compiled operators cannot be loaded.

Its builds for another torch (one with CUDA, say) bring models but no operators, so that importing
torchvision fails on two names, and with it transformers and timm. Model definitions need no more
than the names.
"""

from importlib.util import find_spec

import torch

_NAMES = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared = torch.library.Library("torchvision", "FRAGMENT")


def declare() -> None:
    """Declare the operators if importing torchvision fails without; harmless if called again."""
    if find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name, schema in _NAMES.items():
            if not hasattr(torch.ops.torchvision, name):
                _declared.define(schema)
