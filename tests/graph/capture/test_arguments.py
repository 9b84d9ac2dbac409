"""Arguments of forward: what the example did not have is used as the model uses it, or refused."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypedDict

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import Unpack

import widthwise as ww


class Mode(Enum):
    SUM = "sum"
    MEAN = "mean"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        self.eval()

    def run(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h: Tensor = self.a(x).relu()
        return self.b(h if mask is None else h * mask)  # type: ignore[no-any-return]


class Optional(Net):
    def forward(
        self,
        x: Tensor,
        scale: float = 1.0,
        mask: Tensor | None = None,
        *,
        mode: Mode = Mode.SUM,
        both: bool = False,
        how: str = "plain",
    ) -> Any:
        y = self.run(x, mask) * scale
        y = y / 2 if mode is Mode.MEAN else y
        y = y.tanh() if how == "bounded" else y
        return (y, x.mean(0)) if both else y


class Anything(Net):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        y = self.run(args[0], kwargs.get("mask"))
        y = y + args[1] if len(args) > 1 else y
        return {"y": y, "double": y * 2} if kwargs.get("more") else {"y": y}


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(3) > 0).float()[:, None]
CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((X, 5.0), {}),
    ((X,), {"scale": 5.0}),
    ((X,), {"scale": torch.tensor(3.0)}),
    ((X, 1.0, MASK), {}),
    ((), {"mask": MASK, "x": X}),
    ((X,), {"mask": MASK.bool()}),
    ((X,), {"mode": Mode.MEAN}),
    ((X,), {"both": True, "how": "bounded"}),
]


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b)


@pytest.fixture(scope="module")
def optional() -> ww.Elastic:
    return ww.Elastic(Optional(), X)


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_what_the_example_had_not_is_used(optional: ww.Elastic, number: int) -> None:
    args, kwargs = CALLS[number]
    net = optional.eval()
    same(net(*args, **kwargs), net.model(*args, **kwargs))
    # At other widths it is what the cut network computes, which is of the user's class.
    same(net(*args, widths=0.5, **kwargs), net.cut(0.5)(*args, **kwargs))
    (each,) = net.each([0.5], *args, **kwargs)
    same(each, net(*args, widths=0.5, **kwargs))


def test_a_new_form_trains_at_drawn_widths_as_the_cut_does(optional: ww.Elastic) -> None:
    net = optional.train()
    net.seed, net.step = 0, 0
    before = torch.get_rng_state()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        net(X, mask=MASK, widths=0.5)  # captured outside of these modes
    assert torch.equal(before, torch.get_rng_state())
    net.zero_grad()
    net(X, mask=MASK, widths=0.5).sum().backward()
    cut = net.cut(0.5)
    cut(X, mask=MASK).sum().backward()
    grad = net.model.a.weight.grad
    assert grad is not None
    same(grad[:4], cut.a.weight.grad)
    assert not grad[4:].any()
    net.zero_grad()


def test_what_is_the_default_is_the_example_s_form() -> None:
    net = ww.Elastic(Optional(), (X,), {"scale": 1.0, "how": "plain"}).eval()
    for args, kwargs in (
        ((X,), {}),
        ((X, 1.0, None), {}),
        ((), {"x": X, "mask": None, "both": False, "mode": Mode.SUM, "scale": 1.0}),
    ):
        same(net(*args, **kwargs), net.model(X))
    assert len(net.engine._captured) == 1
    # 1 and True are equal to 1.0 and not the same to every operator.
    same(net(X, scale=1), net.model(X))
    assert len(net.engine._captured) == 2


def test_any_arguments_and_keywords() -> None:
    net = ww.Elastic(Anything(), (X,), {"mask": MASK}).eval()
    hidden = torch.randn(3, 2)
    for args, kwargs in (
        ((X,), {"mask": MASK}),
        ((X.repeat(2, 1),), {"mask": MASK.repeat(2, 1)}),
        ((X,), {}),
        ((X, hidden), {}),
        ((X, hidden), {"mask": MASK, "more": True}),
    ):
        same(net(*args, **kwargs), net.model(*args, **kwargs))
    small = net.cut(0.5, same_class=False)
    same(small(X, mask=MASK), net(X, mask=MASK, widths=0.5))
    with pytest.raises(TypeError, match="mask"):
        small(X)


class Known(TypedDict, total=False):
    items: Tensor


class Swallows(Net):
    def forward(self, x: Tensor, mask: Tensor | None = None, **kwargs: Unpack[Known]) -> Any:
        return self.run(x, mask)


@pytest.mark.parametrize("name", ["msk", "masks", "atention_mask"])
def test_a_keyword_that_nothing_reads_is_refused(name: str) -> None:
    net = ww.Elastic(Swallows(), X).eval()
    with pytest.raises(ww.CaptureError, match=f"does nothing with the argument '{name}'"):
        net(X, **{name: MASK})
    for known in ("num_items_in_batch", "items"):  # trainers' own, and what the type names
        same(net(X, **{known: torch.tensor(3)}), net.model(X))


def test_a_misspelled_name_is_refused_in_the_example_too() -> None:
    for wrong in (MASK, True):
        with pytest.raises(ww.CaptureError, match=r"'maks'; leave it out; did you mean 'mask'"):
            ww.Elastic(Swallows(), (X,), {"maks": wrong})
    net = ww.Elastic(Optional(), X)
    with pytest.raises(ww.CaptureError, match="unexpected keyword argument 'msk'"):
        net(X, msk=MASK)
    # A batch may hold more than the model reads.
    ww.Elastic(Swallows(), (X,), {"token_types": torch.zeros(3)})


@dataclass
class Batch:
    x: Tensor
    extra: tuple[Tensor, float]


class Tokens(UserDict[str, Any]):
    """As a tokenizer's batch."""


class Nested(Net):
    def forward(self, batch: Any) -> Tensor:
        if isinstance(batch, Batch):
            return self.run(batch.x, batch.extra[0]) * batch.extra[1]
        if isinstance(batch, (list, tuple)):
            factor = 3 if isinstance(batch, list) else 1
            return self.run(*batch) * factor
        return self.run(batch["x"], batch.get("mask"))


INPUTS = (
    Batch(X, (MASK, 2.0)),
    Tokens({"x": X, "mask": MASK}),
    {"x": X, "mask": MASK},
    [X, MASK],
    (X, MASK),
)


@pytest.mark.sample(2)
@pytest.mark.parametrize("example", INPUTS, ids=lambda v: type(v).__name__)
def test_nested_inputs(example: Any) -> None:
    net = ww.Elastic(Nested(), (example,)).eval()
    for batch in (example, {"mask": MASK, "x": X}, (X, MASK), [X], Batch(X, (MASK, 4.0))):
        same(net(batch), net.model(batch))


def test_numbers_that_change_again_and_again_are_refused() -> None:
    net = ww.Elastic(Optional(), X, prove=False).eval()
    for i in range(8):
        same(net(X, scale=1.5 + i), net.model(X, 1.5 + i))
    with pytest.raises(ww.CaptureError, match=r"'scale'.*give numbers that change as tensors"):
        net(X, scale=20.0)
    same(net(X), net.model(X))


class Fixes(Net):
    """With a prior its hidden features stand for something."""

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        h = self.a(x).relu()
        return self.b(h if prior is None else h + prior)  # type: ignore[no-any-return]


def test_arguments_that_fix_an_axis_are_refused_by_name() -> None:
    net = ww.Elastic(Fixes(), X).eval()
    with pytest.raises(ww.CaptureError, match=r"'prior'.*axis 'a' cannot be cut.*example these"):
        net(X, prior=torch.randn(3, 8))
    with pytest.warns(ww.NothingToCutWarning):
        both = ww.Elastic(Fixes(), (X,), {"prior": torch.randn(3, 8)}).eval()
    same(both(X, prior=torch.ones(3, 8)), both.model(X, torch.ones(3, 8)))


class Gated(Fixes):
    """A part that only a call with a gate reads."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 8)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        h: Tensor = self.a(x).relu()
        y: Tensor = self.b(h if gate is None else h * self.gate(gate).sigmoid())
        return y


def test_parameters_that_the_example_does_not_reach_follow_the_axes() -> None:
    net = ww.Elastic(Gated(), X).eval()
    same(net(X, X), net.model(X, X))
    w = net.model
    want = w.b.weight[:, :4] @ (w.a(X).relu() * w.gate(X).sigmoid())[:, :4].T + w.b.bias[:, None]
    same(net(X, X, widths={"a": 4}), want.T)


def test_a_parameter_called_widths() -> None:
    class Widths(Net):
        def forward(self, x: Tensor, widths: int = 1) -> Tensor:
            return self.run(x) * widths

    with pytest.raises(ww.CaptureError, match="parameter 'widths'"):
        ww.Elastic(Widths(), X)


def test_dynamic_shapes_of_keywords() -> None:
    batch = torch.export.Dim("batch", min=2)
    for shapes in (
        {"args": ({0: batch},), "kwargs": {"mask": {0: batch}}},
        {"args": ({0: batch},), "mask": {0: batch}},
    ):
        net = ww.Elastic(Anything(), (X,), {"mask": MASK}, dynamic_shapes=shapes).eval()
        big = X.repeat(3, 1), MASK.repeat(3, 1)
        same(net(big[0], mask=big[1]), net.model(big[0], mask=big[1]))


def test_a_graph_module_refuses_other_numbers() -> None:
    net = ww.Elastic(Optional(), (X,), {"scale": 2.0, "both": True}).eval()
    small = net.cut(0.5, same_class=False)
    same(small(X, scale=2.0, both=True), net(X, scale=2.0, both=True, widths=0.5))
    with pytest.raises(AssertionError, match=r"Input scale must be 2\.0"):
        small(X, scale=3.0, both=True)
    with pytest.raises(TypeError):
        small(X, scale=2.0, both=True, mask=MASK)


def test_mode_none_and_mask_tensor_swap_places() -> None:
    """An example with a mask, and a call without."""
    net = ww.Elastic(Optional(), (X, 1.0, MASK)).eval()
    same(net(X), net.model(X))
    same(net(X, mask=None), net.model(X))
    same(net(X, mask=MASK), net.model(X, mask=MASK))
    with pytest.raises(ww.CaptureError, match="only the sizes of dims"):
        net(X, mask=torch.ones(3, 8))
