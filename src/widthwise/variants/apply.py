"""From a network and a variant, as data, to the smaller network itself.

variant = Variant(net.widths(0.5), {"fc1.weight": 0.8}, {"fc1.weight": quantization.Uniform(4)})
made = apply(net, variant)              # cut, zeros, bits, in this order; the net is unchanged
made.bytes                              # of its file
made.save("small.safetensors")          # load("small.safetensors", build=make_model)

def train(module, quantizer): fit(module, data, loss, quantizer=quantizer, recipe=recipe)
made = apply(net, variant, train=train)     # zeros stay zero, quantized weights quantized

variant_of("small.safetensors")             # what a file holds
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from widthwise.elastic.network import Elastic, warn_of_graph
from widthwise.elastic.recalibration import Recalibrate, remembered
from widthwise.errors import ScoreError, or_rather
from widthwise.formats import Format
from widthwise.pruning.masks import Masks, held_at_zero, keep
from widthwise.quantization import Quantized, StraightThrough, quantize_
from widthwise.quantization.quantize import Calibration
from widthwise.quantization.quantized import on_cpu
from widthwise.store.file import Stored, read
from widthwise.store.file import prepare as prepared
from widthwise.store.manifest import Measured
from widthwise.store.packed.tensors import Pack
from widthwise.variant import Variant, Widths

V = TypeVar("V")

Prepare = Callable[[nn.Module, Widths], nn.Module]
"""(cut network, its widths) -> the network to go on with, with new statistics for example."""

Score = Callable[[nn.Module], Mapping[str, Tensor]]
"""Cut network -> how much each weight matters, by tensor, of its shape."""

Train = Callable[[nn.Module, StraightThrough | None], object]
"""Trains a module in place; the quantizer, where there are bits, steps after the optimizer."""


def magnitudes(module: nn.Module) -> dict[str, Tensor]:
    """The absolute value of every parameter, by name."""
    return {name: p.detach().abs() for name, p in module.named_parameters()}


@dataclass(frozen=True)
class CompressedModel:
    """A variant of a network, made.

    module: it, on its own; its zeros are exact and its quantized weights are what a file holds.
    cut: what it was made from, for its file. masks: which weights stay, bool, by tensor.
    record: the quantized tensors, for its file.
    """

    variant: Variant
    module: nn.Module
    cut: Stored
    masks: Masks = field(default_factory=dict)
    record: Mapping[str, Quantized] = field(default_factory=dict)

    @property
    def pack(self) -> Pack:
        """How it is stored: without its zeros, where it was given any."""
        return "zeros" if self.variant.sparsity else "none"

    @property
    def stored(self) -> Stored:
        """The network as its file holds it. Raises FileError."""
        return self.cut.holding(self.module, self.pack, self.record)

    @property
    def bytes(self) -> int:
        """Bytes of the file that `save` writes."""
        return self.stored.bytes

    def save(self, path: str | os.PathLike[str], metric: Measured | None = None) -> Path:
        """Write it to one file, whole or not at all; returns the path. Raises FileError."""
        return self.stored.write(path, metric)


def apply(
    net: Elastic,
    variant: Variant,
    *,
    prepare: Prepare | None = None,
    score: Score = magnitudes,
    train: Train | None = None,
    calibration: Calibration | None = None,
    recalibrate: Recalibrate = True,
) -> CompressedModel:
    """Cut a network, zero its least weights, quantize what is left; the network is unchanged.

    Args:
        prepare: changes the cut before anything else is done to it.
        score: which weights go; the lowest ones of each tensor do, zeros that a training made among
            the first.
        train: training of the result, in which zeros stay zero and weights are quantized
            straight-through; without it, they are quantized once.
        calibration: how ranges of quantized weights are chosen, as `quantization.quantize_` takes
            it. None is "mse", and "minmax" where the result is trained: fewer bytes then, and as
            good.
        recalibrate: running statistics of the cut are re-estimated, as `Elastic.cut` does it and
            takes it; where there is no data, what `prepare` does is trusted to.

    Raises:
        WidthError: For widths that the network cannot have.
        ScoreError: For tensors that are not there or would have nothing left.
        QuantizationError: For tensors that cannot be quantized. What the functions given raise is
            raised, too.
    """
    widths = Widths(net.complete(variant.widths))
    cut = prepared(net, widths)
    warn_of_graph(net.model, cut.reason)
    module = cut.module
    if recalibrate is not True or prepare is None or remembered(net.model):
        net.engine.recalibrated(module, widths, recalibrate)
    if prepare is not None:
        module = prepare(module, widths)
    masks = _masks(module, _named_there(net, module, variant.sparsity), score)
    with held_at_zero(module, masks):
        record = _written(module, _named_there(net, module, variant.bits), train, calibration)
    return CompressedModel(variant, module.eval(), cut, masks, record)


def _masks(module: nn.Module, sparsity: Mapping[str, float], score: Score) -> Masks:
    """The masks of each tensor by itself. Raises ScoreError."""
    named = dict(module.named_parameters())
    for name in sparsity:
        if name not in named:
            raise ScoreError(f"There is no parameter {name!r} to prune{or_rather(name, named)}")
        if named[name].dim() < 2:
            raise ScoreError(f"{name!r} is a vector, which is not pruned; leave it out.")
    some = {name: share for name, share in sparsity.items() if share > 0}
    if not some:
        return {}
    scores = score(module)
    masks: Masks = {}
    for name, share in some.items():
        if name not in scores:
            raise ScoreError(f"There are no scores of {name!r}; give some of every pruned tensor.")
        masks |= keep({name: scores[name]}, share, scope="layer")
    return masks


def _named_there(net: Elastic, module: nn.Module, named: Mapping[str, V]) -> dict[str, V]:
    """The same by the names of the module; of tied tensors, graph modules may keep another."""
    there, state = dict(module.named_parameters()), net.engine.state()
    first = {id(state[name]): name for name in there if name in state}
    return {
        n if n in there or n not in state else first.get(id(state[n]), n): value
        for n, value in named.items()
    }


def _written(
    module: nn.Module, bits: Mapping[str, Format], train: Train | None, how: Calibration | None
) -> dict[str, Quantized]:
    """Quantize and train a module in place; what its weights are then."""
    if train is None:
        return quantize_(module, bits, calibration=how or "mse") if bits else {}
    quantizer = StraightThrough(module, bits, calibration=how or "minmax") if bits else None
    train(module, quantizer)
    module.cpu()
    return {} if quantizer is None else {n: on_cpu(q) for n, q in quantizer.record.items()}


def variant_of(path: str | os.PathLike[str]) -> Variant:
    """The variant that a file holds: its widths, the zeros there are, and its bits.

    Files do not say what is a parameter, so that a buffer with zeros (a causal mask) is among the
    sparse tensors too.

    Raises:
        FileError: When the file cannot be read or is damaged.
    """
    tensors, manifest = read(path)
    matrices = {n: t for n, t in tensors.items() if t.dim() >= 2 and t.is_floating_point()}
    shares = {n: _share_of_zeros(t) for n, t in matrices.items() if t.numel()}
    zeros = {name: share for name, share in shares.items() if 0 < share < 1}
    return Variant(manifest.widths, zeros, {n: c.format for n, c in manifest.coded.items()})


def _share_of_zeros(tensor: Tensor) -> float:
    return 1 - torch.count_nonzero(tensor).item() / tensor.numel()
