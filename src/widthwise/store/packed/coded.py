"""The quantized tensors of a file: what is stored of them, and back.

coded = code_tensors({"fc.weight": w, "fc.bias": b}, record)
coded              # {"fc.weight": (Coded(...), {"codes": ..., "scales": ...})}
decode_tensors({"fc.weight": how}, {"fc.weight": parts}, path)
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor

from widthwise.errors import FileError
from widthwise.quantization.quantized import Quantized
from widthwise.store.packed.coding import Coded, decode, encode
from widthwise.store.packed.forms import Parts


def code_tensors(
    tensors: Mapping[str, Tensor], record: Mapping[str, Quantized]
) -> dict[str, tuple[Coded, Parts]]:
    """How the tensors of the record are stored, and their parts.

    Raises FileError for a record that is not of these tensors, bit for bit.
    """
    for name, found in record.items():
        if name not in tensors:
            raise FileError(f"The record has {name}, which is not stored; quantize this network.")
        tensor = tensors[name].detach()
        same = tensor.dtype == found.dtype and tensor.shape == found.codes.shape
        if not same or tensor.is_meta or not _equal(tensor, found.dense()):
            raise FileError(
                f"{name} is not what the record says, but cut or trained since; quantize the "
                "network that is stored."
            )
    return {name: encode(found) for name, found in record.items()}


def decode_tensors(
    coded: Mapping[str, Coded], stored: Mapping[str, Parts], path: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """The tensors that were coded, as weights. path: named in messages. Raises FileError."""
    tensors: dict[str, Tensor] = {}
    for name, how in coded.items():
        try:
            tensors[name] = decode(how, stored[name]).dense()
        except KeyError as error:
            raise FileError(f"{path} lacks a part of {name} ({error}); save it again.") from error
        except ValueError as error:
            raise FileError(
                f"{path} has a quantized {name} that widthwise did not write ({error}); save it "
                "again."
            ) from error
    return tensors


def _equal(tensor: Tensor, other: Tensor) -> bool:
    """Whether all bits are equal: -0.0 is another weight, for it is not what would be loaded."""
    flat = [t.cpu().contiguous().reshape(-1).view(torch.uint8) for t in (tensor, other)]
    return torch.equal(*flat)
