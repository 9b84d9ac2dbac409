"""How many bits each tensor needs, and how much an error of each weight matters.

    form = few_values(model, batches, criterion, tolerance=0.01)     # Bin & Quant: by tensor
    record = quantization.quantize_(model, form)

    weights = gradient_magnitude(model, batches, criterion)          # GWK
    record = quantization.quantize_(model, quantization.Codebook(16), weights=weights)

Both without training (Yeom et al., 2022). The loss is taken in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from widthwise.errors import ScoreError
from widthwise.pruning.scores.gradients import Batches, Criterion, Weights, derivatives, losses
from widthwise.quantization import Codebook, shared
from widthwise.quantization.quantize import formats

_COUNTS: Final = (2, 4, 8, 16, 32, 64, 128, 256)


def gradient_magnitude(model: nn.Module, batches: Batches, criterion: Criterion) -> Weights:
    """The mean over batches of |d loss / d weight|, by tensor, of its shape.

    It is what gradient-weighted k-means (GWK; Yeom et al., 2022) weighs squared errors with.

    Args:
        model: the network, left as it is.
        batches: (inputs, target), gone through once, in evaluation mode.
        criterion: (outputs, target) -> mean loss.

    Raises:
        ScoreError: As scores do.
    """
    total: Weights = {}
    count = 0
    for found in derivatives(model, batches, criterion):
        count += 1
        for name, slope in found.items():
            total[name] = total[name] + slope.abs() if name in total else slope.abs()
    return {name: value / count for name, value in total.items()}


def few_values(
    model: nn.Module,
    batches: Batches,
    criterion: Criterion,
    *,
    tolerance: float,
    tensors: Sequence[str] | None = None,
    counts: Sequence[int] = _COUNTS,
    weights: Mapping[str, Tensor] | None = None,
) -> dict[str, Codebook]:
    """For each tensor the fewest shared values that it needs (Bin & Quant; Yeom et al., 2022).

    A tensor's weights are replaced by shared values, that tensor alone, and the mean loss over the
    batches measured; the fewest values are taken with which, and with more of which, it rises by at
    most `tolerance`, in units of the loss. Where all raise it by more: the most. The rises of all
    tensors together are about their sum. The model is not changed.

    Holds a byte for each weight and count.

    Args:
        counts: numbers of values to try, 2 to 256.
        weights: for `quantization.shared`, by tensor.
        tensors: names; `quantization.quantizable(model)` by default.

    Raises:
        ScoreError: For a tolerance below 0 and as scores do.
        QuantizationError: For unknown tensors and weights that are not finite.
    """
    if not tolerance >= 0:
        raise ScoreError(f"The tolerance is {tolerance}; give a rise of the loss of at least 0.")
    forms = [Codebook(count) for count in sorted(counts)]
    names = tuple(formats(model, forms[-1], tensors))
    named = dict(model.named_parameters())
    given = weights or {}
    tried = [(n, form) for n in names for form in forms]
    made = [(n, shared(named[n], form, weights=given.get(n))) for n, form in tried]

    aliases: dict[int, list[str]] = {}
    for alias, p in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(p), []).append(alias)  # a tied tensor changes under all its names

    def changed() -> Iterator[dict[str, Tensor]]:
        for name, found in made:
            yield dict.fromkeys(aliases[id(named[name])], found.dense())

    rises = torch.zeros(len(made), dtype=torch.float64)
    batched = 0
    for plain, others in losses(model, batches, criterion, changed):
        rises += torch.tensor(others, dtype=torch.float64) - plain
        batched += 1
    rises /= batched
    by_tensor = dict(zip(names, rises.view(len(names), len(forms)).tolist(), strict=True))
    return {name: _fewest(found, forms, tolerance) for name, found in by_tensor.items()}


def _fewest(rises: Sequence[float], forms: Sequence[Codebook], tolerance: float) -> Codebook:
    """The last one, counting down, up to which all are within the tolerance."""
    best = forms[-1]
    for rise, form in zip(reversed(rises), reversed(forms), strict=True):
        if rise > tolerance:
            break
        best = form
    return best
