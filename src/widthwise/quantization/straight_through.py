"""Training with quantized weights, as objects to call in any training loop.

quantizer = StraightThrough(module, Uniform(2))
for inputs, target in batches:
    optimizer.zero_grad()
    criterion(module(inputs), target).backward()
    optimizer.step()
    quantizer.step()                          # the module holds quantized weights, always
save(module, path, bits=quantizer.record)

tuner = SharedValues(module, quantize(module, Codebook(16)))   # trains only the shared values
    ...backward(); tuner.sum_gradients(); optimizer.step(); tuner.step()
save(module, path, bits=tuner.record)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from widthwise.elastic.network import Elastic
from widthwise.errors import QuantizationError
from widthwise.formats import Format
from widthwise.quantization.quantize import Calibration, formats, quantize_, quantized
from widthwise.quantization.quantized import Quantized, Shared


class StraightThrough:
    """Train a module whose weights are quantized (straight-through; Courbariaux et al., 2015).

    Gradients are taken at the quantized weights, which the module holds, and applied to float ones
    kept beside them: what the optimizer did to the one is done to the other, which is quantized
    again. (A decay of weights acts on the quantized ones.) Weights that were zero when this was
    made, and that a pruner or `held_at_zero` keeps at zero, stay exactly zero.

    Args:
        module: its parameters are quantized at once, in place; of an Elastic, its model's.
        form: as `quantize` takes it.
        tensors: as `quantize` takes them.
        calibration: as `quantize` takes it; in training, ranges from the least to the largest
            weight are as good as ranges by least squares, and codes take fewer bytes.
        frequency: steps after which scales, zero points and codebooks are chosen again, of the
            float weights; in between weights move among the same values.

    Raises:
        QuantizationError: As `quantize` does.
        ValueError: For a frequency below 1.
    """

    def __init__(
        self,
        module: nn.Module,
        form: Format | Mapping[str, Format],
        *,
        tensors: Sequence[str] | None = None,
        calibration: Calibration = "minmax",
        frequency: int = 100,
    ) -> None:
        if type(frequency) is not int or frequency < 1:
            raise ValueError(f"frequency is {frequency!r}; give a number of steps of at least 1.")
        self.module = module.model if isinstance(module, Elastic) else module
        self.frequency, self.calibration = frequency, calibration
        self._formats = formats(self.module, form, tensors)
        named = dict(self.module.named_parameters())
        self._floats = {name: named[name].detach().clone() for name in self._formats}
        self._record = quantize_(self.module, self._formats, calibration=calibration)
        self._taken = 0

    @property
    def steps(self) -> int:
        """How many optimizer steps were counted."""
        return self._taken

    @property
    def record(self) -> dict[str, Quantized]:
        """The weights as they are now, by name, for `save`."""
        return dict(self._record)

    @property
    def floats(self) -> dict[str, Tensor]:
        """The float weights that are quantized, as they are now, by name."""
        return dict(self._floats)

    @torch.no_grad()
    def step(self) -> None:
        """Call after every optimizer step. Raises QuantizationError for weights not finite."""
        self._taken += 1
        anew = self._taken % self.frequency == 0
        named = dict(self.module.named_parameters())
        for name, form in self._formats.items():
            parameter, held = named[name], self._floats[name].to(named[name].device)
            held += parameter - self._record[name].dense().to(parameter.device)
            self._floats[name] = held
            if anew:
                found = quantized(held, form, None, self.calibration)
            else:
                found = _moved(self._record[name], held)
            self._record[name] = found
            parameter.copy_(found.dense())

    def settings(self) -> dict[str, Any]:
        """What sets this training apart, as JSON: a run resumes only with the same."""
        forms = {name: repr(form) for name, form in self._formats.items()}
        return {"formats": forms, "calibration": self.calibration, "frequency": self.frequency}

    def state_dict(self) -> dict[str, Tensor]:
        """Copies on the CPU of all that a resumed training needs, the module's weights among it."""
        state = {"steps": torch.tensor(self._taken)}
        for name, found in self._record.items():
            state[f"float/{name}"] = self._floats[name].to("cpu", copy=True)
            for part, tensor in found.parts.items():
                state[f"{part}/{name}"] = tensor.to("cpu", copy=True)
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave. Raises QuantizationError for other tensors' state."""
        held = {f"float/{name}": tuple(t.shape) for name, t in self._floats.items()}
        if {n: tuple(t.shape) for n, t in state.items() if n.startswith("float/")} != held:
            raise QuantizationError(
                "The weights do not fit the network; make the object with the module and the "
                "arguments that it had."
            )
        named = dict(self.module.named_parameters())
        for name, found in self._record.items():
            device = named[name].device
            parts = {part: state[f"{part}/{name}"].to(device, copy=True) for part in found.parts}
            self._floats[name] = state[f"float/{name}"].to(device, copy=True)
            self._record[name] = found.with_parts(parts).of(self._floats[name])
            named[name].copy_(self._record[name].dense())
        self._taken = int(state["steps"])


def _moved(found: Quantized, held: Tensor) -> Quantized:
    """The same values for weights that have moved, perhaps to another device."""
    if not held.isfinite().all():
        raise QuantizationError(
            "The weights are not finite any more; train with a lower learning rate."
        )
    return found.with_parts({n: part.to(held.device) for n, part in found.parts.items()}).of(held)


class SharedValues:
    """Fine-tune shared values while every weight keeps its code (Han, Mao, Dally, 2015).

    The gradients of all weights that share a value are summed to its gradient, so that any
    optimizer moves them alike; the value zero stays zero, and with it what was pruned.

    Args:
        module: its weights are the record's.
        record: from `quantize`; only tensors with codebooks are looked at, others are kept as they
            are recorded.

    Raises:
        QuantizationError: For a record without codebooks, or of other weights.
    """

    def __init__(self, module: nn.Module, record: Mapping[str, Quantized]) -> None:
        self.module = module.model if isinstance(module, Elastic) else module
        self._record = dict(record)
        named = dict(self.module.named_parameters())
        for name, found in self._record.items():
            if name not in named or not torch.equal(named[name].detach(), found.dense()):
                raise QuantizationError(
                    f"{name!r} of the module is not what the record says; quantize it again."
                )
        if not any(isinstance(found, Shared) for found in self._record.values()):
            raise QuantizationError("The record has no codebook; quantize with Codebook(...).")

    @property
    def record(self) -> dict[str, Quantized]:
        """The weights as they are now, by name, for `save`."""
        return dict(self._record)

    @torch.no_grad()
    def sum_gradients(self) -> None:
        """Call after the backward pass: a weight's gradient becomes its value's."""
        named = dict(self.module.named_parameters())
        for name, found in self._shared().items():
            gradient = named[name].grad
            if gradient is not None:
                sums = torch.zeros_like(found.values)
                sums.index_add_(0, found.codes.flatten().int(), gradient.float().flatten())
                sums[found.values == 0] = 0
                gradient.copy_(sums[found.codes.long()])

    @torch.no_grad()
    def step(self) -> None:
        """Call after the optimizer's step: each value is the mean of its weights."""
        named = dict(self.module.named_parameters())
        for name, found in self._record.items():
            if isinstance(found, Shared):
                self._record[name] = found = _means(found, named[name].detach())
            named[name].copy_(found.dense())

    def _shared(self) -> dict[str, Shared]:
        return {n: found for n, found in self._record.items() if isinstance(found, Shared)}


def _means(found: Shared, tensor: Tensor) -> Shared:
    """The codes with the mean weight of each as its value; unused ones and zero stay."""
    codes = found.codes.flatten().int()
    sums = torch.zeros_like(found.values, dtype=torch.float64)
    sums.index_add_(0, codes, tensor.double().flatten())
    counts = torch.bincount(codes, minlength=len(sums))
    stay = (counts == 0) | (found.values == 0)
    values = torch.where(stay, found.values, (sums / counts.clamp(min=1)).float())
    return replace(found, values=values)
