"""The networks of each family; a family is imported when it is asked for."""

from __future__ import annotations

from bench.torchvision_operators import declare
from bench.zoo.names import FAMILIES
from bench.zoo.network import Network

# Small and quick ones, one for each thing that is known to be hard.
VISION = (
    "torchvision/densenet121",
    "torchvision/mobilenet_v3_small",
    "torchvision/regnet_y_400mf",
    "torchvision/resnet18",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/swin_v2_t",
    "timm/convit_tiny",
    "timm/efficientformerv2_s0",
    "timm/ghostnetv3_050",
    "timm/levit_128s",
    "timm/mobilevit_xxs",
    "timm/pit_ti_224",
    "timm/res2net50_14w_8s",
    "timm/xcit_nano_12_p16_224",
)
LANGUAGE = (
    "transformers/clip",
    "transformers/deberta_v2",
    "transformers/gpt2",
    "transformers/gpt_neox",
    "transformers/llama",
    "transformers/mamba",
    "transformers/mixtral",
    "transformers/qwen3",
    "transformers/segformer",
    "transformers/t5",
    "transformers/wav2vec2",
    "transformers/whisper",
)
SAMPLE = (*VISION, *LANGUAGE)
# Left out of the tests, for each takes more than a quarter of a minute of processor time.
SLOW = (
    "torchvision/densenet121",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/swin_v2_t",
    "timm/efficientformerv2_s0",
    "timm/ghostnetv3_050",
    "timm/levit_128s",
    "timm/mobilevit_xxs",
    "timm/res2net50_14w_8s",
    "timm/xcit_nano_12_p16_224",
    "transformers/segformer",
)


def networks(family: str) -> tuple[Network, ...]:
    """All networks of a family; raises ImportError when its package is not installed."""
    declare()
    if family == "torchvision":
        from bench.zoo import torchvision_nets as found
    elif family == "timm":
        from bench.zoo import timm_nets as found
    elif family == "transformers":
        from bench.zoo import transformers_nets as found
    elif family == "detection":
        from bench.zoo import detection_nets as found
    elif family == "nets":
        from bench.zoo import tiny_nets as found
    else:
        raise ValueError(f"There is no family {family!r}; there are {', '.join(FAMILIES)}.")
    return found.NETWORKS


def network(name: str) -> Network:
    """The network of this name (family/architecture); raises KeyError."""
    for found in networks(name.partition("/")[0]):
        if found.name == name:
            return found
    raise KeyError(f"There is no network {name!r}.")
