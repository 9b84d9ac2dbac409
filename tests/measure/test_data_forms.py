"""Data in every form that people have it: each works everywhere, or is refused in one sentence."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from widthwise import ACCURACY, DataError, Elastic, Evaluation, Metric, Recipe, fit, pruning
from widthwise.measure.data import adapt, pairs
from widthwise.measure.pairs import Pair, pair, takes
from widthwise.measure.recalibrate import recalibrate_
from widthwise.measure.sweep import sweep
from widthwise.train.config import RunConfig
from widthwise.train.distillation import distill
from widthwise.train.family import FamilyLoss
from widthwise.train.losses import SingleDraw
from widthwise.train.refit import refit_output_

X = torch.randn(70, 5, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


class One(nn.Module):
    """One input, batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)).relu())


class Two(nn.Module):
    """Two inputs that are both needed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.b((self.a(left) + self.a(right)).relu())


class Whole(nn.Module):
    """One argument, which is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = One()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.inner(batch["x"])


class Words(nn.Module):
    """Sequences of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.h, self.o = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.o(self.h(self.e(ids)).relu().mean(1))


class Made(Dataset[Any]):
    """A data set of whatever a function gives for a number."""

    def __init__(self, item: Callable[[int], Any], count: int = 70) -> None:
        self.item, self.count = item, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


class Flow(IterableDataset[Any]):
    """The items one after another."""

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(X, Y, strict=True))


class Sized(Flow):
    """Which says how many there are."""

    def __len__(self) -> int:
        return 70


class Hugging:
    """What a `datasets.Dataset` is like: columns, lists of numbers, a `batch` of another kind."""

    def __len__(self) -> int:
        return 70

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": X[index].tolist(), "label": int(Y[index])}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self[i] for i in indices]

    def batch(self, batch_size: int) -> Any:
        raise AssertionError


def padded(items: list[Any]) -> tuple[Tensor, Tensor]:
    texts = nn.utils.rnn.pad_sequence([text for text, _ in items], batch_first=True)
    return texts, torch.tensor([label for _, label in items])


def text(i: int) -> tuple[Tensor, int]:
    return torch.full((3 + i % 4,), 1 + i % 19), int(Y[i])


def net_of(model: nn.Module, *args: Any) -> Elastic:
    torch.manual_seed(0)
    for part in model.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    return Elastic(model, args)


LISTED = [(X[i : i + 10], Y[i : i + 10]) for i in range(0, 70, 10)]
ONE: dict[str, Any] = {
    "data set": TensorDataset(X, Y),
    "loader": DataLoader(TensorDataset(X, Y), 10, shuffle=True),
    "loader with a generator": DataLoader(
        TensorDataset(X, Y), 10, shuffle=True, generator=torch.Generator()
    ),
    "loader of one at the end": DataLoader(TensorDataset(X, Y), 23),
    "loader that drops": DataLoader(TensorDataset(X, Y), 32, drop_last=True),
    "loader with a subset": DataLoader(
        TensorDataset(X, Y), 10, sampler=SubsetRandomSampler([*range(40)])
    ),
    "loader with weights": DataLoader(
        TensorDataset(X, Y), 10, sampler=WeightedRandomSampler([1.0] * 70, 40)
    ),
    "loader of batches": DataLoader(Made(lambda i: LISTED[i], 7), batch_size=None),
    "loader of a flow": DataLoader(Sized(), 10),
    "flow with a length": Sized(),
    "list of items": list(zip(X, Y, strict=True)),
    "list of batches": LISTED,
    "data set of batches": Made(lambda i: LISTED[i], 7),
    "tensors": (X, Y),
    "arrays": (X.double().numpy(), Y.numpy()),
    "columns": {"x": X, "labels": Y},
    "dicts": Made(lambda i: {"x": X[i], "labels": Y[i]}),
    "dicts of another name": Made(lambda i: {"features": X[i], "y": Y[i]}),
    "user dicts": Made(lambda i: UserDict({"x": X[i], "label": Y[i]})),
    "like datasets": Hugging(),
    "float64 arrays": Made(lambda i: (X[i].double().numpy(), np.int64(Y[i]))),
}


@pytest.mark.parametrize("form", ONE)
def test_every_form_trains_and_is_measured(form: str) -> None:
    net = net_of(One(), X[:4])
    data, recipe = ONE[form], Recipe(epochs=2, batch_size=10)
    history = fit(
        net,
        data,
        F.cross_entropy,
        recipe=recipe,
        valid=data,
        metric=ACCURACY,
        run=RunConfig(progress=False),
    )
    steps = {"loader of one at the end": 3, "loader that drops": 2}
    small = "subset" in form or "weights" in form
    assert history.steps == 2 * (4 if small else steps.get(form, 7))
    assert 0 <= Evaluation(data, ACCURACY)(net) <= 1
    if form != "data set of batches":  # whose entries a plain module takes for items
        recalibrate_(net.cut(net.widths(0.5)), data)
    assert pruning.taylor(net, data, F.cross_entropy).keys() == net.free.keys()


def test_the_order_of_a_loader_is_kept_and_others_are_drawn() -> None:
    seen: list[int] = []

    def noting(outputs: Tensor, target: Tensor) -> Tensor:
        seen.extend(target.tolist())
        return outputs.square().mean()

    data = TensorDataset(X, torch.arange(70))
    net = net_of(One(), X[:4])
    loss = SingleDraw(net, noting)
    fit(net, DataLoader(data, 10), loss, recipe=Recipe(epochs=1), run=RunConfig(progress=False))
    assert seen == [*range(70)]
    seen.clear()
    fit(net, data, loss, recipe=Recipe(epochs=1, batch_size=10), run=RunConfig(progress=False))
    assert seen != [*range(70)]
    assert sorted(seen) == [*range(70)]


@pytest.mark.parametrize("form", ["loader", "loader with weights", "flow with a length"])
def test_a_run_on_a_loader_goes_on_as_if_it_had_not_stopped(tmp_path, form: str) -> None:
    def run(folder: Any, most: int) -> Elastic:
        calls = iter(range(most))

        def loss(outputs: Tensor, target: Tensor) -> Tensor:
            if next(calls, None) is None:
                raise RuntimeError
            return F.cross_entropy(outputs, target)

        loss.__module__, loss.__qualname__ = "torch.nn.functional", "cross_entropy"
        net = net_of(One(), X[:4])
        recipe = Recipe(epochs=2, batch_size=10)
        single = SingleDraw(net, loss)
        fit(
            net,
            ONE[form],
            single,
            recipe=recipe,
            run=RunConfig(folder=folder, progress=False, save_every=0.0),
        )
        return net

    whole = run(None, 100)
    with pytest.raises(RuntimeError):
        run(tmp_path, 6)
    again = run(tmp_path, 100)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_sequences_of_different_lengths_need_a_collate_function() -> None:
    loader = DataLoader(Made(text), 10, collate_fn=padded)
    net = net_of(Words(), torch.ones(4, 6, dtype=torch.long))
    recipe = Recipe(epochs=1)
    fit(net, loader, F.cross_entropy, recipe=recipe, run=RunConfig(progress=False))
    assert 0 <= Evaluation(loader, ACCURACY)(net) <= 1
    refit_output_(net.cut(net.widths(0.5)), loader, F.cross_entropy, steps=2)
    distill(net.cut(net.widths(0.5)), net, loader, recipe=Recipe(epochs=1, batch_size=256, lr=1e-3))
    with pytest.raises(DataError, match=r"different sizes \(\(\d,\) and .* collate_fn that pads"):
        fit(net, Made(text), F.cross_entropy, recipe=recipe, run=RunConfig(progress=False))
    with pytest.raises(DataError, match="different sizes"):
        Evaluation(Made(text), ACCURACY)(net)


@pytest.mark.parametrize(
    "data",
    [
        Made(lambda i: (X[i], X[i], Y[i])),
        Made(lambda i: ([X[i], X[i]], Y[i])),
        Made(lambda i: {"left": X[i], "right": X[i], "target": Y[i]}),
        ((X, X), Y),
    ],
)
def test_several_inputs(data: Any) -> None:
    net = net_of(Two(), X[:4], X[:4])
    fit(
        net,
        data,
        F.cross_entropy,
        recipe=Recipe(epochs=1, batch_size=35),
        run=RunConfig(progress=False),
    )
    assert 0 <= Evaluation(data, ACCURACY)(net) <= 1


def test_an_argument_that_is_a_dict() -> None:
    net = net_of(Whole(), {"x": X[:4]})
    for data in (Made(lambda i: ({"x": X[i]}, Y[i])), Made(lambda i: {"x": X[i], "label": Y[i]})):
        fit(
            net,
            data,
            F.cross_entropy,
            recipe=Recipe(epochs=1, batch_size=35),
            run=RunConfig(progress=False),
        )


def no_target(outputs: Tensor, target: Any) -> Tensor:
    assert target is None
    return outputs.square().mean()


LONE: dict[str, Any] = {
    "items": Made(lambda i: X[i]),
    "tuples of one": TensorDataset(X),
    "with None": Made(lambda i: (X[i], None)),
    "batches of two": [X[i : i + 2] for i in range(0, 70, 2)],
    "a tensor": X,
    "an array": X.numpy(),
    "by name": Made(lambda i: {"x": X[i]}),
    "loader": DataLoader(TensorDataset(X), 10),
}


@pytest.mark.parametrize("form", LONE)
def test_inputs_alone_are_never_inputs_and_target(form: str) -> None:
    net = net_of(One(), X[:4])
    data = LONE[form]
    loss = FamilyLoss(net, no_target, distill=None)
    fit(net, data, loss, recipe=Recipe(epochs=1, batch_size=10), run=RunConfig(progress=False))
    assert (
        sum(
            len(p.inputs if isinstance(p.inputs, Tensor) else p.inputs["x"])
            for p in pairs(data, net)
        )
        == 70
    )
    cut = recalibrate_(net.cut(net.widths(0.5)), data)
    assert torch.isfinite(cut(X)).all()
    with pytest.raises(DataError, match=r"without a target.*give items \(inputs, target\)"):
        fit(
            net,
            data,
            F.cross_entropy,
            recipe=Recipe(epochs=1, batch_size=10),
            run=RunConfig(progress=False),
        )
    with pytest.raises(DataError, match="without a target"):
        Evaluation(data, Metric("m", lambda out, y: ((out.argmax(1) == y).float().sum(), len(y))))(
            net
        )


def test_two_lone_inputs_are_not_input_and_target() -> None:
    form = takes(net_of(Two(), X[:4], X[:4]))
    assert pair([X[:2], X[:2]], form).target is None
    assert pair((X[:2], X[:2], Y[:2]), form).target is not None
    assert isinstance(pair((X[:2], Y[:2]), takes(net_of(One(), X[:4]))), Pair)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (Flow(), "Flow has no length"),
        ((x for x in LISTED), "only once; give list"),
        ([], "is empty"),
        (TensorDataset(X[:0], Y[:0]), "is empty"),
        (3, "type int cannot be gone through"),
        ({"train": LISTED}, "cannot be indexed"),
        ((X, X), "may be .*TensorDataset"),
        (Made(lambda i: (X[i], X[i], Y[i])), "3 values for an item and the network takes 1 input"),
        (Made(lambda i: {"x": X[i], "id": i, "labels": Y[i]}), "have 'id', which the network does"),
        (Made(lambda i: {"a": X[i], "b": X[i], "c": X[i]}), "none of these is an argument"),
        (Made(lambda i: (X[i], {"boxes": torch.zeros(i % 3, 4)})), "different sizes"),
        (Made(lambda i: (X[i], object())), "cannot be put into a batch"),
        (Made(lambda i: (X[i], {"a": 1} if i % 2 else {"b": 1})), "Not all items have"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(data: Any, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        fit(
            net_of(One(), X[:4]),
            data,
            F.cross_entropy,
            recipe=Recipe(epochs=1),
            run=RunConfig(progress=False),
        )
    assert str(caught.value).count(". ") == 0


def test_a_list_that_may_be_items_or_batches_is_refused_where_nothing_tells() -> None:
    with pytest.raises(DataError, match="one of items or of batches"):
        fit(One(), LISTED, F.cross_entropy, run=RunConfig(progress=False))
    fit(
        One(),
        list(zip(X, Y, strict=True)),
        F.cross_entropy,
        recipe=Recipe(epochs=1),
        run=RunConfig(progress=False),
    )
    assert 0 <= Evaluation(LISTED, ACCURACY)(One()) <= 1


def test_whole_batches_are_not_split() -> None:
    with pytest.raises(ValueError, match="whole batches, which are not split"):
        fit(
            net_of(One(), X[:4]),
            LISTED,
            F.cross_entropy,
            run=RunConfig(accumulate=2, progress=False),
        )


def test_a_generator_that_is_needed_twice_says_so() -> None:
    net = net_of(One(), X[:4])
    sweep(net, Evaluation(iter(LISTED), ACCURACY), [net.full()], latency=False)
    with pytest.raises(DataError, match="gone through again, such as a DataLoader or a list"):
        sweep(net, Evaluation(iter(LISTED), ACCURACY), latency=False, post_process=lambda m, _: m)


def test_the_adapter_leaves_adapted_data_alone() -> None:
    data = adapt(TensorDataset(X, Y))
    assert adapt(data) is data
    assert len(list(data.ordered(32))) == 3
