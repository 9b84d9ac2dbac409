"""The device that a command computes on, told to Accelerate by the variable that it reads.

with computing_on("cpu"): ...                 # trainings stay on the CPU, also of child processes
with computing_on("cuda") as place: ...       # RunError where there is none; net.to(place)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

import torch

from widthwise.errors import RunError

Device = Literal["auto", "cpu", "cuda", "mps"]
_VARIABLE: Final = "ACCELERATE_USE_CPU"  # as `accelerate launch --cpu` sets it


@contextmanager
def computing_on(device: Device) -> Iterator[torch.device]:
    """Inside, trainings run on this device; "auto" leaves it to Accelerate, which takes a GPU.

    Yields where networks are measured: on the CPU unless another device is named, since latencies
    are then the numbers of the CPU on every machine. Raises RunError where the device is not there.
    """
    if device == "auto":
        yield torch.device("cpu")
        return
    if device != "cpu" and not _there(device):
        raise RunError(
            f"torch {torch.__version__} finds no {device} device here; leave out --device, or give "
            "--device cpu."
        )
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = "true" if device == "cpu" else "false"
    try:
        yield torch.device(device)
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


def _there(device: Literal["cuda", "mps"]) -> bool:
    backend = torch.cuda if device == "cuda" else torch.backends.mps
    return bool(backend.is_available())
