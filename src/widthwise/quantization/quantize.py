"""Weights to codes: pure functions for a tensor, and one that does it to a module.

record = quantize(module, Uniform(4))              # in place: the weights are now quantized ones
record = quantize(module, {"fc1.weight": Uniform(4), "fc2.weight": Codebook(16)})
save(module, path, bits=record)                    # half a byte a weight; `load` needs nothing

uniform(weight, Uniform(3, per="group"))           # one tensor, unchanged -> Rounded
shared(weight, Codebook(8), weights=importance)    # -> Shared
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from widthwise.elastic.network import Elastic
from widthwise.errors import QuantizationError, or_rather
from widthwise.formats import Codebook, Format, Uniform
from widthwise.quantization.kmeans import centres
from widthwise.quantization.quantized import Quantized, Rounded, Shared, grouped

Calibration = Literal["minmax", "mse"]
"""minmax: the range reaches from the least to the largest weight. mse: the part of that range with
the least squared error, those beyond being set to its ends. In files, where likely codes take fewer
bytes, minmax is smaller."""

DTYPES: Final = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_SHARES: Final = tuple(n / 50 for n in range(50, 4, -1))  # of the range, from all to a tenth
_NEAR: Final = 2**16  # weights searched at a time: as many as a processor's cache holds


def quantizable(module: nn.Module) -> tuple[str, ...]:
    """The names of the parameters that are quantized unless told otherwise.

    All matrices and kernels, the first and last layers' too; vectors (biases, norms) are few and
    stay as they are. Tied ones once. What else should stay is left out with `tensors=`.
    """
    return tuple(
        name
        for name, p in _inner(module).named_parameters()
        if p.dtype in DTYPES and p.dim() >= 2 and p.numel()
    )


def quantize_(
    module: nn.Module,
    form: Format | Mapping[str, Format],
    *,
    tensors: Sequence[str] | None = None,
    weights: Mapping[str, Tensor] | None = None,
    calibration: Calibration = "mse",
) -> dict[str, Quantized]:
    """Quantize a module's weights in place; returns what they are now, by name, for `save`.

    Args:
        module: of an Elastic, its model; to store a narrow network, quantize its cut.
        form: of all of these tensors, or of each.
        tensors: names of parameters, `quantizable(module)` by default; not together with forms for
            each.
        weights: by tensor, of its shape, how much a squared error counts for each weight; all the
            same where there are none.
        calibration: how ranges are chosen.

    Raises:
        QuantizationError: For unknown names, tensors of a type that is not quantized, weights that
            are not finite, and importances that do not fit; nothing is changed then.
    """
    module = _inner(module)
    forms = formats(module, form, tensors)
    named = dict(module.named_parameters())
    given = weights or {}
    found: dict[str, Quantized] = {}
    for name, each in forms.items():
        try:
            found[name] = quantized(named[name], each, given.get(name), calibration)
        except QuantizationError as error:
            raise QuantizationError(f"{name!r} cannot be quantized: {error}") from error
    with torch.no_grad():
        for name, made in found.items():
            named[name].copy_(made.dense())
    return found


def quantized(
    tensor: Tensor, form: Format, weights: Tensor | None, calibration: Calibration
) -> Quantized:
    """`uniform` or `shared`, as the format says."""
    if isinstance(form, Uniform):
        return uniform(tensor, form, weights=weights, calibration=calibration)
    return shared(tensor, form, weights=weights)


def formats(
    module: nn.Module, form: Format | Mapping[str, Format], tensors: Sequence[str] | None
) -> dict[str, Format]:
    """Which tensor is quantized how. Raises QuantizationError."""
    if isinstance(form, Mapping):
        if tensors is not None:
            raise ValueError("Give forms by tensor, or one form and tensors=; not both.")
        forms = dict(form)
    else:
        forms = dict.fromkeys(quantizable(module) if tensors is None else tensors, form)
    if not forms:
        raise QuantizationError(
            "The module has no matrix or kernel to quantize; name the parameters, tensors=."
        )
    named = dict(module.named_parameters())
    for name in forms:
        if name not in named:
            raise QuantizationError(
                f"There is no parameter {name!r} to quantize{or_rather(name, named)}"
            )
    return forms


def uniform(
    tensor: Tensor,
    form: Uniform,
    *,
    weights: Tensor | None = None,
    calibration: Calibration = "mse",
) -> Rounded:
    """The tensor on evenly spaced weights, each within half a step of what it was inside the range.

    Args:
        tensor: any floating-point shape but an empty one; it is not changed.
        weights: of its shape, at least 0, how much each squared error counts; with "mse" only.
        calibration: "mse" tries 46 shares of the range, a tenth to all, for each scale by itself.

    Raises:
        QuantizationError: For weights that are not finite or beyond float32.
    """
    if calibration not in get_args(Calibration):
        raise ValueError(f"calibration is {calibration!r}; give one of {get_args(Calibration)}.")
    values = grouped(_floats(tensor), form)  # (rows, groups, weights)
    counts = None if weights is None else grouped(_importance(weights, tensor), form)
    low, high = values.amin(-1).clamp(max=0), values.amax(-1).clamp(min=0)
    if calibration == "mse":
        low, high = _least_squares(values, counts, low, high, form)
    best = _grid(low, high, form)
    empty = torch.empty(0, dtype=torch.uint8)
    return Rounded(form, empty, *best, tensor.dtype).of(tensor.detach())


def shared(tensor: Tensor, form: Codebook, *, weights: Tensor | None = None) -> Shared:
    """The tensor with its weights replaced by a few shared values, found by k-means.

    The squared error is at most what as many evenly spaced values have.

    Args:
        tensor: any floating-point shape but an empty one; it is not changed.
        weights: of its shape, at least 0, how much each squared error counts (with the magnitude of
            gradients, the gradient-weighted k-means of Yeom et al., 2022).

    Raises:
        QuantizationError: For weights that are not finite or beyond float32.
    """
    points = _floats(tensor).flatten().cpu().numpy().astype(np.float64)
    counts = None
    if weights is not None:
        counts = _importance(weights, tensor).flatten().cpu().numpy().astype(np.float64)
    found = np.unique(centres(points, counts, form.values).astype(np.float32))
    values = torch.from_numpy(found).to(tensor.device)
    return Shared(form, torch.empty(0), values, tensor.dtype).of(tensor.detach())


def _inner(module: nn.Module) -> nn.Module:
    return module.model if isinstance(module, Elastic) else module


def _floats(tensor: Tensor) -> Tensor:
    """In float32. Raises QuantizationError."""
    if tensor.dtype not in DTYPES or not tensor.numel() or tensor.is_meta:
        what = "without values" if tensor.is_meta or not tensor.numel() else f"of {tensor.dtype}"
        raise QuantizationError(f"a tensor {what} is not quantized; leave it out with tensors=.")
    found = tensor.detach().float()
    # The range must be a number too, and not only its ends.
    if not (found.amax() - found.amin()).isfinite():
        raise QuantizationError(
            "it has weights that are not finite, or too large; train it again, or clip them."
        )
    return found


def _importance(weights: Tensor, tensor: Tensor) -> Tensor:
    if weights.shape != tensor.shape or not (weights.isfinite() & (weights >= 0)).all():
        raise QuantizationError(
            f"the importances of shape {tuple(weights.shape)} must be of shape "
            f"{tuple(tensor.shape)}, finite and at least 0; compute them for this network."
        )
    return weights.detach().float().to(tensor.device)


def _grid(low: Tensor, high: Tensor, form: Uniform) -> tuple[Tensor, Tensor | None]:
    """Scales and zero points for ranges from low <= 0 to high >= 0, each (rows, groups)."""
    most = 2**form.bits - 1
    if form.symmetric:
        scales = torch.maximum(-low, high) / (most // 2)
        return torch.where(scales > 0, scales, 1.0), None
    scales = (high - low) / most
    scales = torch.where(scales > 0, scales, 1.0)
    return scales, (-low / scales).round().clamp(0, most).to(torch.uint8)


def _least_squares(
    values: Tensor, counts: Tensor | None, low: Tensor, high: Tensor, form: Uniform
) -> tuple[Tensor, Tensor]:
    """The parts of the ranges with the least squared error; of equal ones the widest."""
    flat = values.flatten(0, 1)  # the groups, whichever row they are of
    counts = None if counts is None else counts.flatten(0, 1)
    shape, low, high = low.shape, low.reshape(-1, 1), high.reshape(-1, 1)
    some = max(1, _NEAR // flat.shape[1])
    shares = []
    for at in range(0, len(flat), some):
        these = slice(at, at + some)
        count = None if counts is None else counts[these]
        shares.append(_best_share(flat[these], low[these], high[these], count, form))
    best = torch.cat(shares)
    return (low * best).view(shape), (high * best).view(shape)


def _best_share(
    rows: Tensor, low: Tensor, high: Tensor, counts: Tensor | None, form: Uniform
) -> Tensor:
    """The share of the range with the least squared error for each row: (rows, 1)."""
    by_row = replace(form, per="channel")
    best, least = torch.ones_like(low), torch.full_like(low, torch.inf)
    for share in _SHARES:
        grid = _grid(low * share, high * share, form)
        squares = (Rounded(by_row, rows, *grid, torch.float32).of(rows).dense() - rows).square_()
        error = (squares if counts is None else squares * counts).sum(-1, keepdim=True)
        best = torch.where(error < least, share, best)
        least = torch.minimum(least, error)
    return best
