"""Load one level of a progressive file and classify with it: NumPy alone, no torch, no widthwise.

    python examples/numpy_loader.py net.safetensors 2 < inputs.npy    # the third level

It reads what docs/format.md says, as far as a plain MLP needs it: tensors that are cut along whole
dims, nothing stored whole or scaled. Layers run in the order of their names, with ReLU in between.
"""

import hashlib
import io
import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np


def load(path, level):
    """The tensors of a level by name; reads no more of the file than it needs."""
    with Path(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        stream = file.read(header["widthwise"]["shape"][0])
        levels = json.loads(zlib.decompressobj(-15).decompress(stream))
        axes = list(levels["axes"].values())  # [size, width of level 0, width of level 1, ...]
        tensors = {}
        for k in range(level + 1):
            begin, end = header[f"shell.{k}"]["data_offsets"]
            data = file.read(end - begin)
            if hashlib.sha256(data).hexdigest() != levels["sha256"][k]:
                raise ValueError(f"shell {k} is damaged")
            numbers = np.frombuffer(data, "<f4")
            for name in sorted(levels["tensors"]):
                dtype, *dims = levels["tensors"][name]
                if dtype != "F32" or not all(isinstance(d, int) for d in dims):
                    raise ValueError(f"{name} is not one of a plain MLP")
                wide = [d if d >= 0 else axes[-d - 1][k + 1] for d in dims]
                narrow = [d if d >= 0 else axes[-d - 1][k] for d in dims] if k else None
                count = math.prod(wide) - (math.prod(narrow) if k else 0)
                tensors[name] = grown(tensors.get(name), numbers[:count], wide)
                numbers = numbers[count:]
    return tensors


def grown(narrow, new, wide):
    """The wider tensor: the narrower one in its first corner, the new numbers around it."""
    inside = np.zeros(wide, bool)
    if narrow is not None:
        inside[tuple(slice(n) for n in narrow.shape)] = True
    made = np.empty(wide, np.float32)
    made[~inside] = new
    if narrow is not None:
        made[inside] = narrow.ravel()
    return made


def classify(tensors, x):
    """The logits of an MLP. x: (n, ...) -> (n, classes)."""
    x = x.reshape(len(x), -1)
    layers = sorted({name.rpartition(".")[0] for name in tensors})
    for i, layer in enumerate(layers):
        x = x @ tensors[f"{layer}.weight"].T + tensors[f"{layer}.bias"]
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return x


if __name__ == "__main__":
    inputs = np.load(io.BytesIO(sys.stdin.buffer.read()))
    print(classify(load(sys.argv[1], int(sys.argv[2])), inputs).argmax(1))
