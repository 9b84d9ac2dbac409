"""Networks of transformers that look at images, from small configurations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from bench.zoo.network import Network
from bench.zoo.transformers_nets import ENCODER, WORDS, make, words

VIT = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_labels": 5,
}
STAGES = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1], "num_labels": 5}
SWIN = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "num_labels": 5,
}
SEGFORMER = {
    "hidden_sizes": [16, 24, 32, 48],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [2, 2, 4, 4],
    "decoder_hidden_size": 32,
    "num_labels": 5,
}
TEXT_TOWER = {**ENCODER, "max_position_embeddings": 16}
TOWERS = {"text_config": TEXT_TOWER, "vision_config": VIT}


def image(size: int = 32) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two images."""
    return (torch.randn(2, 3, size, size),), {}


def image_and_text() -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two texts and two images."""
    return (), {"input_ids": words(), "pixel_values": torch.randn(2, 3, 32, 32)}


def _network(
    name: str, model: str, options: dict[str, Any], example: Callable[[], Any] = image
) -> Network:
    return Network(f"transformers/{name}", partial(make, model, options, example))


_large = partial(image, 64)

NETWORKS = (
    _network("beit", "BeitForImageClassification", {**VIT, "use_relative_position_bias": True}),
    _network(
        "bit",
        "BitForImageClassification",
        {**STAGES, "embedding_size": 32, "hidden_sizes": [32, 64, 96, 128], "num_groups": 8},
        _large,
    ),
    _network("blip_vision", "BlipVisionModel", VIT),
    _network("clip", "CLIPModel", {**TOWERS, "projection_dim": 40}, image_and_text),
    _network("clip_vision", "CLIPVisionModel", VIT),
    _network("convnext", "ConvNextForImageClassification", STAGES, _large),
    _network("convnextv2", "ConvNextV2ForImageClassification", STAGES, _large),
    _network(
        "cvt",
        "CvtForImageClassification",
        {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3], "num_labels": 5},
        _large,
    ),
    _network("deit", "DeiTForImageClassification", VIT),
    _network("dinov2", "Dinov2ForImageClassification", VIT),
    _network("dinov2_registers", "Dinov2WithRegistersForImageClassification", VIT),
    _network("dinov3", "DINOv3ViTModel", VIT),
    _network(
        "dpt",
        "DPTForSemanticSegmentation",
        {
            **VIT,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 24, 32, 48],
            "fusion_hidden_size": 32,
            "is_hybrid": False,
        },
    ),
    _network(
        "efficientnet",
        "EfficientNetForImageClassification",
        {
            "image_size": 64,
            "width_coefficient": 0.5,
            "depth_coefficient": 0.5,
            "hidden_dim": 640,
            "num_labels": 5,
        },
        _large,
    ),
    _network(
        "focalnet",
        "FocalNetForImageClassification",
        {
            "image_size": 32,
            "embed_dim": 16,
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
            "num_labels": 5,
        },
    ),
    _network(
        "hiera",
        "HieraForImageClassification",
        {
            "embed_dim": 32,
            "image_size": [64, 64],
            "depths": [1, 1, 2, 1],
            "num_heads": [1, 2, 4, 8],
            "num_labels": 5,
        },
        _large,
    ),
    _network(
        "levit",
        "LevitForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
            "num_labels": 5,
        },
        _large,
    ),
    _network(
        "mobilenet_v2",
        "MobileNetV2ForImageClassification",
        {"image_size": 64, "depth_multiplier": 0.5, "num_labels": 5},
        _large,
    ),
    _network(
        "mobilevit",
        "MobileViTForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64],
            "num_attention_heads": 4,
            "num_labels": 5,
        },
        _large,
    ),
    _network("poolformer", "PoolFormerForImageClassification", {**STAGES}, _large),
    _network(
        "pvt",
        "PvtForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 3, 4],
            "num_labels": 5,
        },
        _large,
    ),
    _network(
        "regnet",
        "RegNetForImageClassification",
        {**STAGES, "embedding_size": 16, "groups_width": 8},
        _large,
    ),
    _network("resnet", "ResNetForImageClassification", {**STAGES, "embedding_size": 16}, _large),
    _network("segformer", "SegformerForSemanticSegmentation", SEGFORMER, _large),
    _network("siglip", "SiglipModel", TOWERS, image_and_text),
    _network("siglip_vision", "SiglipVisionModel", VIT),
    _network("swin", "SwinForImageClassification", SWIN),
    _network("swinv2", "Swinv2ForImageClassification", SWIN),
    _network(
        "vilt",
        "ViltModel",
        {**VIT, "vocab_size": WORDS, "max_position_embeddings": 16},
        image_and_text,
    ),
    _network("vit", "ViTForImageClassification", VIT),
    _network(
        "yolos",
        "YolosForObjectDetection",
        {**VIT, "image_size": [32, 32], "num_detection_tokens": 5},
    ),
)
