"""How the loss depends on each weight, batch after batch.

All scores from derivatives are statistics of one stream: for a batch, what each weight
*contributes* to the loss, in first order (derivative x weight) or in second (weight x curvature x
weight). Contributions of the weights that share a gate add up to the gate's, so one stream
serves features and single weights.

The network runs in evaluation mode. Its parameters are neither changed nor given a `.grad`, and
frozen ones count too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from widthwise.common.calling import outputs_for
from widthwise.common.messages import first_line
from widthwise.common.modes import evaluating
from widthwise.elastic.network import Elastic
from widthwise.elastic.recalibration import noted
from widthwise.errors import ScoreError
from widthwise.graph.capture.diagnostics import first_sentence
from widthwise.measure.data import pairs

Criterion = Callable[[Any, Any], Tensor]
Batches = Any  # data in any form that `measure.data` reads
Weights = dict[str, Tensor]


def slopes(model: nn.Module, batches: Batches, criterion: Criterion) -> Iterator[Weights]:
    """First-order contributions to the mean loss of each batch, of the shape of each weight."""
    for inputs, target in nonempty(batches, model):
        tensors, loss, _ = _differentiable(model, inputs, target, criterion)
        yield _times(tensors, _derivatives([loss], tensors))


def derivatives(model: nn.Module, batches: Batches, criterion: Criterion) -> Iterator[Weights]:
    """Derivatives of the mean loss of each batch by each weight."""
    for inputs, target in nonempty(batches, model):
        tensors, loss, _ = _differentiable(model, inputs, target, criterion)
        yield _derivatives([loss], tensors)


def signed_slopes(
    model: nn.Module, batches: Batches, criterion: Criterion, generator: torch.Generator
) -> Iterator[tuple[Weights, int]]:
    """First-order contributions to a sum of the samples' losses with random signs, and how many.

    The square of such a sum has the sum of the samples' squares as its mean, since the signs of two
    samples are as often equal as not: one backward pass estimates, without bias, what would take
    one for each sample, the diagonal of the empirical Fisher information.

    A sample is one entry of the first dim of the outputs; the criterion is a mean over them.
    """
    for inputs, target in nonempty(batches, model):
        tensors, _, outputs = _differentiable(model, inputs, target, criterion)
        reached = output_slopes(outputs, target, criterion)
        samples = max(len(x) if x.dim() else 1 for x, _ in reached)
        signs = torch.randint(0, 2, (samples,), generator=generator) * 2.0 - 1.0
        turned = [per_sample(g, signs.to(g) * samples) for _, g in reached]
        yield _times(tensors, _derivatives([x for x, _ in reached], tensors, turned)), samples


def curvatures(
    model: nn.Module,
    batches: Batches,
    criterion: Criterion,
    directions: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
) -> Iterator[Weights]:
    """Weight x (H d) for the mean loss of each batch, with its Hessian H.

    directions: tensors -> d by name, of the shape of each; called for every batch. Nothing of H but
    its product with d is ever made. Raises ScoreError for a model that has no second derivative.
    """
    for inputs, target in nonempty(batches, model):
        # Fused attention and recurrent kernels have no second derivative.
        kernels = sdpa_kernel(SDPBackend.MATH), _without_mkldnn(), _without_cudnn(model)
        with kernels[0], kernels[1], kernels[2], torch.enable_grad(), _twice():
            tensors, loss, _ = _differentiable(model, inputs, target, criterion)
            if not loss.requires_grad:
                raise ScoreError(_INDEPENDENT)
            along = {n: d.detach() for n, d in directions(tensors).items()}
            slope = torch.autograd.grad(
                loss, list(tensors.values()), create_graph=True, allow_unused=True
            )
            moved = [
                _real_product(along[n], g).sum()
                for n, g in zip(tensors, slope, strict=True)
                if g is not None and g.requires_grad and n in along
            ]
            _differentiable_twice(moved)
            curved = _derivatives(moved, tensors)
        yield _times(tensors, curved)


@contextmanager
def _twice() -> Iterator[None]:
    """Tell of operators that can be differentiated once only."""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in _ONCE):
            raise
        raise _once(first_sentence(error)) from error


def _differentiable_twice(values: Iterable[Tensor]) -> None:
    """Raise ScoreError where a function has a `once_differentiable` backward.

    What is differentiated through it by other tensors than its own would be zero without a word.
    """
    ahead: list[Any] = [x.grad_fn for x in values]
    seen = set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::Error":
            raise _once("an autograd.Function of it is differentiable once")
        ahead += [following for following, _ in node.next_functions]


def _once(why: str) -> ScoreError:
    return ScoreError(
        f"The loss has no second derivative ({why}); use the score obd, or "
        'curvature="fisher", which need the first alone.'
    )


@contextmanager
def _without_cudnn(model: nn.Module) -> Iterator[None]:
    """For recurrent layers, of which cuDNN has no second derivative."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
        yield


@contextmanager
def _without_mkldnn() -> Iterator[None]:
    """As `torch.backends.mkldnn.flags` does, which warns where there is no Intel GPU."""
    flags = torch.backends.mkldnn.flags(enabled=False)
    with _no_warnings():
        flags.__enter__()
    try:
        yield
    finally:
        with _no_warnings():
            flags.__exit__(None, None, None)


@contextmanager
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def losses(
    model: nn.Module,
    batches: Batches,
    criterion: Criterion,
    changed: Callable[[], Iterable[Mapping[str, Tensor]]],
) -> Iterator[tuple[float, list[float]]]:
    """For each batch its mean loss, and those with each of several sets of changed tensors."""
    for inputs, target in nonempty(batches, model):
        with evaluating(model):
            call = partial(_loss, model, inputs, target, criterion)
            plain = call({})[0].item()
            others = [call(dict(tensors))[0].item() for tensors in changed()]
        yield plain, others


def tensors_of(model: nn.Module) -> Weights:
    """The model's real and complex parameters, detached; tied ones by the first of their names."""
    return {name: p.detach() for name, p in model.named_parameters() if _floats(p)}


def nonempty(batches: Batches, model: nn.Module) -> Iterator[tuple[Any, Any]]:
    """The batches of data in whatever form, some of which the model remembers.

    Raises ScoreError when there is none, DataError.
    """
    found = False
    see, remember = noted(model.model if isinstance(model, Elastic) else model)
    for inputs, target in pairs(batches, model):
        found = True
        yield see(inputs), target
    remember()
    if not found:
        raise ScoreError(
            "There is no batch to compute scores on; give batches of (inputs, target) that can be "
            "gone through again, such as a DataLoader or a list."
        )


def _differentiable(
    model: nn.Module, inputs: Any, target: Any, criterion: Criterion
) -> tuple[Weights, Tensor, Any]:
    """(weights, the mean loss of a batch, outputs), ready for derivatives by the weights."""
    # A tied tensor is one leaf under all its names, and goes by the first of them.
    leaves = {id(p): p.detach().requires_grad_() for p in model.parameters() if _floats(p)}
    named = model.named_parameters(remove_duplicate=False)
    with evaluating(model), torch.enable_grad():
        every = {name: leaves[id(p)] for name, p in named if _floats(p)}
        loss, outputs = _loss(model, inputs, target, criterion, every)
    return {n: leaves[id(p)] for n, p in model.named_parameters() if _floats(p)}, loss, outputs


def _floats(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _loss(
    model: nn.Module, inputs: Any, target: Any, criterion: Criterion, tensors: Weights
) -> tuple[Tensor, Any]:
    outputs = outputs_for(partial(_call, model, tensors), inputs)
    try:
        loss = criterion(outputs, target)
    except (IndexError, RuntimeError, ValueError, TypeError) as error:
        raise ScoreError(
            f"The loss failed on a batch ({first_line(error)}); check that the targets fit the "
            "outputs, labels from 0 to the number of classes minus 1."
        ) from error
    if loss.dim() or not loss.isfinite():
        what = f"of shape {tuple(loss.shape)}" if loss.dim() else f"{loss.item()}"
        raise ScoreError(f"The loss of a batch is {what}; it must be one finite number, the mean.")
    return loss, outputs


def _call(model: nn.Module, tensors: Weights, *args: Any, **kwargs: Any) -> Any:
    return functional_call(model, tensors, args, kwargs, tie_weights=False)


def output_slopes(outputs: Any, target: Any, criterion: Criterion) -> list[tuple[Tensor, Tensor]]:
    """The output tensors that the loss depends on, with its derivatives by them."""
    found, spec = pytree.tree_flatten(outputs)
    # Cut off from the network, and so from each other: one output may be made of another.
    given = [x.detach().requires_grad_() if _learns(x) else x for x in found]
    with torch.enable_grad():
        loss = criterion(pytree.tree_unflatten(given, spec), target)
    leaves = [x for x in given if _learns(x)]
    known = loss.requires_grad and leaves
    slope = torch.autograd.grad(loss, leaves, allow_unused=True) if known else ()
    pairs = zip(filter(_learns, found), slope, strict=False)
    reached = [(x, g) for x, g in pairs if g is not None]
    if not reached:
        raise ScoreError(_INDEPENDENT)
    return reached


def _learns(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


# What torch says of functions that have a first derivative and no second.
_ONCE = ("is not implemented", "differentiate twice", "ouble backward")

_INDEPENDENT = (
    "The loss does not depend on the network's parameters; give a criterion (outputs, target) -> "
    "mean loss that is made of its outputs."
)


def per_sample(slope: Tensor, factors: Tensor) -> Tensor:
    """Each sample's share of the derivative times its factor; what is shared by all stays."""
    if not slope.dim() or len(slope) != len(factors):
        return slope
    return slope * factors.view(-1, *[1] * (slope.dim() - 1))


def _derivatives(
    of: Sequence[Tensor], tensors: Weights, given: Sequence[Tensor] | None = None
) -> Weights:
    """Derivatives by each of the tensors; zeros where there is no dependence."""
    if not any(x.requires_grad for x in of):
        raise ScoreError(_INDEPENDENT)
    found = torch.autograd.grad(of, list(tensors.values()), given, allow_unused=True)
    if all(g is None for g in found):
        raise ScoreError(_INDEPENDENT)
    pairs = zip(tensors.items(), found, strict=True)
    return {n: torch.zeros_like(t) if g is None else g for (n, t), g in pairs}


def _times(tensors: Weights, slope: Weights) -> Weights:
    return {name: _real_product(tensors[name].detach(), g) for name, g in slope.items()}


def _real_product(x: Tensor, slope: Tensor) -> Tensor:
    """How much the loss changes along x, to first order: real, for complex numbers too.

    The derivative of a real loss by x + iy is torch's dL/dx + i dL/dy.
    """
    return (x.conj() * slope).real if x.is_complex() else x * slope
