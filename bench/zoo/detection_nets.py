"""Segmentation and detection networks of torchvision, as far as they are networks.

What chooses boxes (anchors, non-maximum suppression) has no features and is left out.
"""

from __future__ import annotations

from functools import partial

import torch
from bench.zoo.network import Made, Network
from torch import Tensor, nn
from torchvision.models import detection, segmentation
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone


class Maps(nn.Module):
    """A detector's backbone and heads: maps of scores and boxes, without the choice of boxes."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(batch, 3, height, width) -> maps by name."""
        maps: dict[str, Tensor] = self.head(list(self.backbone(x).values()))
        return maps


class Proposals(nn.Module):
    """The backbone and the proposal head of a two-stage detector."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.rpn.head

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(batch, 3, height, width) -> scores and boxes of every level."""
        found: tuple[list[Tensor], list[Tensor]] = self.head(list(self.backbone(x).values()))
        return found


def _x(size: int) -> Tensor:
    return torch.randn(2, 3, size, size)


def _segmentation(name: str) -> Made:
    aux = None if name.startswith("lraspp") else True
    options = {} if aux is None else {"aux_loss": aux}
    model = getattr(segmentation, name)(weights=None, weights_backbone=None, **options)
    return model, (_x(64),), {}


def _maps(name: str, size: int) -> Made:
    detector = getattr(detection, name)(weights=None, weights_backbone=None)
    return Maps(detector), (_x(size),), {}


def _proposals(name: str) -> Made:
    detector = getattr(detection, name)(weights=None, weights_backbone=None)
    return Proposals(detector), (_x(64),), {}


def _box_head() -> Made:
    detector = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    heads = nn.Sequential(detector.roi_heads.box_head, detector.roi_heads.box_predictor)
    return heads, (torch.randn(3, 256, 7, 7),), {}


def _mask_head() -> Made:
    detector = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    heads = nn.Sequential(detector.roi_heads.mask_head, detector.roi_heads.mask_predictor)
    return heads, (torch.randn(2, 256, 14, 14),), {}


def _resnet_fpn(name: str) -> Made:
    return resnet_fpn_backbone(backbone_name=name, weights=None), (_x(64),), {}


def _mobilenet_fpn() -> Made:
    model = mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True)
    return model, (_x(64),), {}


SEGMENTATION = (
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "fcn_resnet50",
    "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
)
MAPS = {
    "fcos_resnet50_fpn": 64,
    "retinanet_resnet50_fpn": 64,
    "retinanet_resnet50_fpn_v2": 64,
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
}
PROPOSALS = ("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2")

NETWORKS = (
    *(Network(f"detection/{n}", partial(_segmentation, n)) for n in SEGMENTATION),
    *(
        Network(f"detection/{n}", partial(_maps, n, s), "backbone and heads")
        for n, s in MAPS.items()
    ),
    *(
        Network(f"detection/{n}", partial(_proposals, n), "backbone and proposal head")
        for n in PROPOSALS
    ),
    Network("detection/fasterrcnn_box_head", _box_head, "head alone"),
    Network("detection/maskrcnn_mask_head", _mask_head, "head alone"),
    Network("detection/resnet18_fpn", partial(_resnet_fpn, "resnet18")),
    Network("detection/resnet50_fpn", partial(_resnet_fpn, "resnet50")),
    Network("detection/mobilenet_v3_fpn", _mobilenet_fpn),
)
