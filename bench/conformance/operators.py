"""Torch's own operator and module samples, each between two linear layers.

The features of a linear layer are mixed into the operator's first tensor, whose last dim (and, for
tensors of three dims and more, whose second) they are; another linear layer reads the result. So
the operator stands where widths change. Its other tensors are buffers in one half of the samples
and inputs, whose gradients are compared, in the other. Needs the package `expecttest`, which
torch's testing code imports.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from bench.conformance.cuts import cuts
from bench.conformance.networks import row
from bench.conformance.subject import Made, capture, double
from bench.conformance.verdicts import Finding
from torch import Tensor, nn

SAMPLES = 4  # of each operator, spread evenly over torch's
FED = 5  # features of the input of the first linear layer
LARGEST = 4096  # entries of a tensor; larger samples only cost time
LAYOUTS = (torch.strided, torch.sparse_coo)  # others cannot be copied as tensors are


def names() -> list[str]:
    """Every operator and module of torch's tests that computes with floating numbers."""
    return [*_operators(), *_modules()]


def _operators() -> dict[str, Any]:
    from torch.testing._internal.common_methods_invocations import op_db

    found = {}
    for op in op_db:
        if torch.float64 in op.dtypes:
            variant = f".{op.variant_test_name}" if op.variant_test_name else ""
            found[f"operators/{op.name}{variant}"] = op
    return found


def _modules() -> dict[str, Any]:
    from torch.testing._internal.common_modules import module_db

    return {f"operators/nn.{m.name.removeprefix('nn.')}": m for m in module_db}


def check(name: str) -> dict[str, Any]:
    """The findings on some samples of one operator or module, as plain values."""
    began = time.process_time()
    findings: list[Finding] = []
    for number, make in enumerate(_some(list(samples(name)))):
        found = conform(make)
        findings += [Finding(f"sample {number}, {f.check}", f.verdict, f.text) for f in found]
    return row(name, findings) | {"seconds": round(time.process_time() - began, 1)}


def _some(found: list[Any]) -> list[Any]:
    step = max(len(found) / SAMPLES, 1)
    return [found[int(i * step)] for i in range(min(SAMPLES, len(found)))]


def samples(name: str) -> Iterator[partial[Made]]:
    """What builds each sample's network; only samples that run between the layers."""
    operator, module = _operators().get(name), _modules().get(name)
    if operator is None and module is None:
        raise KeyError(f"There is no operator {name!r}.")
    torch.manual_seed(0)
    drawn = _of_operator(operator) if operator is not None else _of_module(module)
    for number, (make, inputs) in enumerate(drawn):
        tensors = [x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
        first = next((x for x in tensors if _takes_features(x)), None)
        if first is None or any(x.numel() > LARGEST or x.layout not in LAYOUTS for x in tensors):
            continue
        for dim in (-1, 1) if first.dim() > 2 else (-1,):
            built = partial(_between, make, inputs, dim, bool(number % 2))
            if _runs(built):
                yield built


def _of_operator(op: Any) -> Iterator[tuple[Any, Any]]:
    for sample in op.sample_inputs("cpu", torch.float64):
        yield partial(_Function, _unseeded(op)), ((sample.input, *sample.args), dict(sample.kwargs))


def _unseeded(op: Any) -> Any:
    """The operator; random ones are wrapped, in torch's tests, in what sets the seed in forward."""
    if "wrapper_set_seed" not in getattr(getattr(op.op, "__code__", None), "co_names", ()):
        return op.op
    found: Any = None if op.variant_test_name == "in_place" else torch
    for part in op.name.split("."):
        found = getattr(found, part, None)
    return found or getattr(torch.Tensor, f"{op.name}_", op.op)


def _of_module(info: Any) -> Iterator[tuple[Any, Any]]:
    drawn = info.module_inputs_func(info, "cpu", torch.float64, False, training=True)
    for sample in drawn:
        given = sample.forward_input
        if given is not None:
            made = sample.constructor_input
            yield partial(info.module_cls, *made.args, **made.kwargs), (given.args, given.kwargs)


def _takes_features(x: Tensor) -> bool:
    return x.dtype == torch.float64 and x.dim() > 0 and x.shape[-1] > 1 and x.numel() > 0


class _Function(nn.Module):
    """An operator as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Between(nn.Module):
    """A linear layer whose features go into an operator's first tensor, and one behind it."""

    def __init__(self, operator: nn.Module, inputs: Any, dim: int, others_are_inputs: bool) -> None:
        super().__init__()
        self.operator, self.dim = operator, dim
        leaves, self.spec = pytree.tree_flatten(inputs)
        leaves = [x.detach() if isinstance(x, Tensor) else x for x in leaves]
        self.first = next(i for i, x in enumerate(leaves) if _is_first(x))
        self.constants = [None if isinstance(x, Tensor) else x for x in leaves]
        self.given = []
        for number, x in enumerate(leaves):
            if others_are_inputs and isinstance(x, Tensor) and number != self.first:
                self.given.append(number)
            elif isinstance(x, Tensor):
                self.register_buffer(f"tensor_{number}", x.clone())
        self.feed = nn.Linear(FED, leaves[self.first].shape[dim])
        self.heads = nn.ModuleList()

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        outputs = self.operate(x, *others)
        if not self.heads:
            return outputs
        leaves = [y for y in pytree.tree_leaves(outputs) if isinstance(y, Tensor)]
        return [head(y) for head, y in zip(self.heads, leaves, strict=True)]

    def operate(self, x: Tensor, *others: Tensor) -> Any:
        """What the operator returns."""
        leaves = list(self.constants)
        given = dict(zip(self.given, others, strict=True))
        for number in range(len(leaves)):
            if number in given:
                leaves[number] = given[number]
            elif hasattr(self, f"tensor_{number}"):
                leaves[number] = getattr(self, f"tensor_{number}")
        features = 0.05 * torch.tanh(self.feed(x))
        leaves[self.first] = leaves[self.first] + features.movedim(-1, self.dim)
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return self.operator(*args, **kwargs)


def _is_first(x: Any) -> bool:
    return isinstance(x, Tensor) and _takes_features(x)


def _between(make: Any, inputs: Any, dim: int, others_are_inputs: bool) -> Made:
    net = Between(make(), inputs, dim, others_are_inputs).double()
    leaves = pytree.tree_leaves(inputs)
    moved = leaves[net.first].movedim(dim, -1)
    x = torch.randn(*moved.shape[:-1], FED, dtype=torch.float64)
    args = (x, *(leaves[n].detach().clone() for n in net.given))
    with torch.no_grad():
        outputs = pytree.tree_leaves(net.operate(*args))
    for y in outputs:
        if isinstance(y, Tensor):
            readable = y.dtype == torch.float64 and y.dim() > 0 and y.shape[-1] > 1
            net.heads.append(nn.Linear(y.shape[-1], 3).double() if readable else nn.Identity())
    return net, args, {}


def _runs(build: Any) -> bool:
    try:
        with double(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, args, kwargs = build()
            model(*args, **kwargs)
    except Exception:  # noqa: BLE001 - a sample that needs its tensor as it is
        return False
    return True


def conform(make: Any) -> list[Finding]:
    """Hold the Elastic against the model at full width, and cuts against the Elastic."""
    with double(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        subject, traced = capture(make)
        if subject is None:
            return [traced]
        found = [traced, subject.check("training", training=True, calls=2)]
        found.append(subject.check("evaluation"))
        return found + list(cuts(subject, seeds=(0,), modes=(False,)))
