"""Networks of transformers, from the small configurations in transformers.toml.

The models are given as they are; `use_cache` is off, since a cache is state and not an output.
"""

from __future__ import annotations

import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from bench.zoo.network import Made, Network
from torch import Tensor

TABLE = tomllib.loads(Path(__file__).with_name("transformers.toml").read_text())
LENGTH = 7  # of a text, in words
WORDS = 99


def words(length: int = LENGTH) -> Tensor:
    """Random text, (2, length)."""
    return torch.randint(3, WORDS, (2, length))


def _image(size: int) -> Tensor:
    return torch.randn(2, 3, size, size)


def _answered(x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (x,), {"decoder_input_ids": words(5), "use_cache": False}


EXAMPLES = {  # the sections of the table: what a network is called with
    "text": lambda: ((words(),), {}),
    "uncached": lambda: ((words(),), {"use_cache": False}),  # it would return its cache
    "pair": lambda: _answered(words()),
    "sound": lambda: ((torch.randn(2, 800),), {}),  # half a tenth of a second at 16 kHz
    "spectrum_and_text": lambda: _answered(torch.randn(2, 20, 32)),
    "spectrum": lambda: ((torch.randn(2, 64, 32),), {}),  # 64 steps and 32 bands
    "image": lambda: ((_image(32),), {}),
    "large": lambda: ((_image(64),), {}),
    "image_and_text": lambda: ((), {"input_ids": words(), "pixel_values": _image(32)}),
}


def options(said: dict[str, Any]) -> dict[str, Any]:
    """A configuration with what it has from others; tables in it are configurations too."""
    found = options(TABLE["like"][said["like"]]) if "like" in said else {}
    own = {k: v for k, v in said.items() if k not in ("like", "class", "none")}
    found |= {k: options(v) if isinstance(v, dict) else v for k, v in own.items()}
    return found | dict.fromkeys(said.get("none", ()))


def make(said: dict[str, Any], example: str) -> Made:
    """A model class of transformers with the configuration that it names."""
    kind = getattr(transformers, said["class"])
    return kind(kind.config_class(**options(said))), *EXAMPLES[example]()


NETWORKS = tuple(
    Network(f"transformers/{name}", partial(make, said, example))
    for example in EXAMPLES
    for name, said in TABLE[example].items()
)
