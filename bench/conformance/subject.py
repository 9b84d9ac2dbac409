"""A model, a second one built alike to hold it against, and the Elastic made of the first."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from bench.conformance import verdicts
from bench.conformance.observe import Record, compare, observe, said
from bench.conformance.verdicts import Finding
from torch import Tensor, nn

import widthwise as ww
from widthwise.graph.capture.agreement import KeptTableWarning
from widthwise.graph.capture.program import EvaluationOnlyWarning

Made = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
Around = Callable[[nn.Module], AbstractContextManager[Any]]


class Subject:
    """Holds an Elastic against its model.

    make: returns (model, args, kwargs), alike every time that torch's seed is the same. fresh:
    build the reference again for every call, since it may keep what it saw in attributes. The model
    is traced with the weights that it comes with; both then get the same other ones, so that
    weights which a graph holds as numbers show.

    Everything is in double precision; use it within `double()`. Raises what Elastic(...) raises.
    """

    def __init__(self, make: Callable[[], Made], *, fresh: bool = False) -> None:
        self._make, self._fresh = make, fresh
        self.reference, self.args, self.kwargs = self.made()
        self.net = self.elastic(self.args, self.kwargs)

    def elastic(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ww.Elastic:
        """The model made elastic on an example; its weights become other ones afterwards."""
        model, _, _ = self.made()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            net = ww.Elastic(model, *_copies(args, kwargs))
        only = [w for w in told if issubclass(w.category, EvaluationOnlyWarning)]
        self.only_evaluation = str(only[0].message) if only else ""
        # Then it is held against the first call of a model.
        self._fresh |= any(issubclass(w.category, KeptTableWarning) for w in told)
        vary(model)
        self.saved = tensors(model)
        return net

    def made(self) -> Made:
        """The model, built again."""
        torch.manual_seed(0)
        model, args, kwargs = self._make()
        args, kwargs = pytree.tree_map_only(Tensor, _doubled, (args, kwargs))
        return model.double(), args, kwargs

    def check(
        self,
        name: str,
        *,
        training: bool = False,
        args: tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        calls: int = 1,
        net: ww.Elastic | None = None,
        around: Around = nullcontext,
    ) -> Finding:
        """Call both with these inputs (None: the example's) in a mode and compare all they do.

        around: a context, given the model, that calls and their backward passes run in.
        """
        args = self.args if args is None else args
        kwargs = self.kwargs if kwargs is None else kwargs
        theirs, needs = self._expected(args, kwargs, training, calls, around)
        if training and self.only_evaluation:
            return Finding(name, verdicts.REFUSED, self.only_evaluation)
        elastic = (net or self.net).train(training)
        put(elastic.model, self.saved)
        call = partial(elastic, widths={})
        with around(elastic.model):
            ours = quietly(
                call, elastic.model, args, kwargs, calls=calls, inputs_need_gradients=needs
            )
        return compare(name, ours, theirs)

    def _expected(
        self, args: Any, kwargs: Any, training: bool, calls: int, around: Around
    ) -> tuple[Record, bool]:
        """What the model does, and whether inputs asked for gradients (some write to them)."""
        for needs in (True, False):
            if self._fresh:
                self.reference, _, _ = self.made()
            model = self.reference.train(training)
            put(model, self.saved)
            with around(model):
                record = quietly(
                    model, model, args, kwargs, calls=calls, inputs_need_gradients=needs
                )
            if record.error is None:
                break
        return record, needs


@contextmanager
def double() -> Iterator[None]:
    """Tensors are made in double precision, so that rounding hides nothing."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def _doubled(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def capture(make: Callable[[], Made], *, fresh: bool = False) -> tuple[Subject | None, Finding]:
    """The subject, and what tracing it found: a refusal is one sentence."""
    try:
        subject = Subject(make, fresh=fresh)
    except ww.errors.WidthwiseError as error:
        return None, Finding("capture", verdicts.REFUSED, said(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        return None, Finding("capture", verdicts.ERROR, said(error))
    return subject, Finding("capture", verdicts.EQUAL)


def quietly(*args: Any, **kwargs: Any) -> Record:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return observe(*args, **kwargs)


def _copies(args: Any, kwargs: Any) -> tuple[Any, Any]:
    copies: tuple[Any, Any] = pytree.tree_map_only(Tensor, Tensor.clone, (args, kwargs))
    return copies


def vary(model: nn.Module) -> None:
    """Give parameters and statistics other values of the same scale, alike every time."""
    draws = torch.Generator().manual_seed(3)

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=draws, dtype=x.dtype)

    with torch.no_grad():
        for p in model.parameters():
            if p.is_floating_point() and not p.is_meta and p.numel():
                spread = float(p.std()) if p.numel() > 1 else 0.0
                p.add_(0.3 * (spread or 0.1) * noise(p))
        for name, b in model.named_buffers():
            if name.endswith("running_var"):
                b.mul_(1 + 0.2 * noise(b).abs())
            elif name.endswith("running_mean"):
                b.add_(0.1 * noise(b))


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {n: t.detach().clone() for n, t in _held(model).items()}


def put(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Set parameters and buffers to copies taken before, whatever replaced them since."""
    held = _held(model)
    with torch.no_grad():
        for name, value in saved.items():
            now = held.get(name)
            if now is not None and now.shape == value.shape and not now.is_inference():
                now.copy_(value)
            else:
                path, _, last = name.rpartition(".")
                model.get_submodule(path)._buffers[last] = value.clone()


def _held(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_buffers()), **dict(model.named_parameters())}
