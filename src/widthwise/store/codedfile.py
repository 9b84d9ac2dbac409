"""The quantized tensors of a file: what is stored in their place, and back.

    stored, coded = code_tensors({"fc.weight": w, "fc.bias": b}, record)
    stored             # {"fc.weight.codes": ..., "fc.weight.scales": ..., "fc.bias": b}
    coded              # {"fc.weight": Coded(...)}, for the manifest
    decode_tensors(stored, coded, path)

Parts are ordinary entries of the safetensors file, named after the tensor as in packedfile.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor

from widthwise.bits.quantized import Quantized
from widthwise.errors import FileError
from widthwise.store.coding import Coded, decode, encode


def code_tensors(
    tensors: Mapping[str, Tensor], record: Mapping[str, Quantized]
) -> tuple[dict[str, Tensor], dict[str, Coded]]:
    """What to store in the place of these tensors, and how those of the record are stored.

    Raises FileError for a record that is not of these tensors, bit for bit.
    """
    stored = dict(tensors)
    coded: dict[str, Coded] = {}
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
        coded[name], parts = encode(found)
        del stored[name]
        named = {f"{name}.{part}": part_of for part, part_of in parts.items()}
        if twice := named.keys() & tensors.keys():
            raise FileError(f"{min(twice)} is also a part of the quantized {name}; rename it.")
        stored |= named
    return stored, coded


def decode_tensors(
    stored: Mapping[str, Tensor], coded: Mapping[str, Coded], path: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """The tensors that were coded, as weights. path: named in messages. Raises FileError."""
    tensors = dict(stored)
    for name, how in coded.items():
        try:
            parts = {part: tensors.pop(f"{name}.{part}") for part in how.parts}
            if name in tensors:
                raise ValueError("it is there twice")
            tensors[name] = decode(how, parts).dense()
        except KeyError as error:
            raise FileError(f"{path} lacks the part {error}; save it again.") from error
        except ValueError as error:
            raise FileError(
                f"{path} has a quantized {name} that widthwise did not write ({error}); save it "
                "again."
            ) from error
    return tensors


def _equal(tensor: Tensor, other: Tensor) -> bool:
    """Of the same bits: -0.0 is another weight, for it is not what would be loaded."""
    flat = [t.cpu().contiguous().reshape(-1).view(torch.uint8) for t in (tensor, other)]
    return torch.equal(*flat)
