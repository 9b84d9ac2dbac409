"""An Elastic is a module: copied, pickled, averaged, sent to a process, stored with its step."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import widthwise as ww


@dataclass
class Out:
    logits: Tensor
    hidden: Tensor


class Net(nn.Module):
    """Norms, tied weights, a constant of its own, and a dataclass to return."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.b = nn.Linear(8, 8)
        self.c = nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Out:
        h = self.norm(self.a(x)).relu() * torch.tensor([2.0])
        h = F.dropout(h, 0.1, self.training)
        h = self.b(h if mask is None else h * mask).relu()
        return Out(self.c(h), x.mean(-1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        return {"logits": self.head(self.rnn(x[:, None])[0][:, -1])}


X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(5) % 3


def logits(out: Any) -> Tensor:
    found: Tensor = out["logits"] if isinstance(out, dict) else out.logits
    return found


def deep(net: ww.Elastic) -> ww.Elastic:
    return copy.deepcopy(net)


def pickled(net: ww.Elastic) -> ww.Elastic:
    made: ww.Elastic = pickle.loads(pickle.dumps(net))
    return made


def saved(net: ww.Elastic) -> ww.Elastic:
    data = io.BytesIO()
    torch.save(net, data)
    data.seek(0)
    made: ww.Elastic = torch.load(data, weights_only=False)
    return made


COPIES = (deep, pickled, saved)


@pytest.fixture(params=[Net, Recurrent])
def net(request: pytest.FixtureRequest) -> ww.Elastic:
    made = ww.Elastic(request.param(), X, seed=7)
    made.step = 5
    return made


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_a_network_of_its_own(
    net: ww.Elastic, how: Callable[[ww.Elastic], ww.Elastic], tmp_path: Path
) -> None:
    other = how(net)
    assert (other.seed, other.step, other.draw) == (7, 5, net.draw)
    assert type(other) is type(net)
    assert other.explain() == net.explain()
    net.eval()
    before = logits(net(X)).clone()
    other.eval()
    assert torch.equal(logits(other(X)), before)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    assert torch.equal(logits(other(X)), before)  # on its own parameters
    with torch.no_grad():
        next(other.parameters()).zero_()
    assert not torch.equal(logits(other(X)), before)  # and on those
    other.train()
    logits(other(X)).sum().backward()
    assert (net.step, other.step) == (5, 6)
    assert all(p.grad is None for p in net.parameters())
    other.eval()
    small = other.cut(0.5)
    torch.testing.assert_close(logits(small(X)), logits(other(X, widths=0.5)))
    graph = other.cut(0.5, same_class=False)
    torch.testing.assert_close(logits(graph(X)), logits(other(X, widths=0.5)))
    (each,) = other.each([0.5], X)
    torch.testing.assert_close(logits(each), logits(other(X, widths=0.5)))
    path = ww.save(other, tmp_path / "x.safetensors", widths=0.5)
    loaded = ww.load(path, build=type(net.model)).eval()
    torch.testing.assert_close(logits(loaded(X)), logits(other(X, widths=0.5)))
    assert logits(how(other)(X)).shape == (5, 3)  # a copy of a copy


@pytest.mark.sample(1)
@pytest.mark.parametrize("how", COPIES)
def test_forms_learnt_before_and_after_a_copy(how: Callable[[ww.Elastic], ww.Elastic]) -> None:
    net = ww.Elastic(Net(), X).eval()
    mask = (torch.arange(8) % 2).float()[:1]
    net(X, mask=mask)
    other = how(net)
    for x in (net, other):
        torch.testing.assert_close(x(X, mask=mask).logits, x.model(X, mask).logits)
        with torch.no_grad():
            x.model.a.weight.mul_(2)
    fresh = how(ww.Elastic(Net(), X).eval())
    torch.testing.assert_close(fresh(X, mask=mask).logits, fresh.model(X, mask).logits)


def test_a_shallow_copy_shares_its_parameters(net: ww.Elastic) -> None:
    other = copy.copy(net)
    assert other.model is net.model
    other.step = 9
    assert net.step == 5
    torch.testing.assert_close(logits(other.eval()(X)), logits(net.eval()(X)))


def test_averages(net: ww.Elastic) -> None:
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    loss = ww.SandwichLoss(net, lambda out, y: F.cross_entropy(logits(out), y), distill=None)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    states = [copy.deepcopy(net.model.state_dict())]
    for _ in range(3):
        optimizer.zero_grad()
        loss(X, Y).backward()
        optimizer.step()
        average.update_parameters(net)
        states.append(copy.deepcopy(net.model.state_dict()))
    wanted = states[1]
    for state in states[2:]:
        wanted = {n: (wanted[n] + t) / 2 if t.is_floating_point() else t for n, t in state.items()}
    model = type(net.model)()
    model.load_state_dict(wanted)
    torch.testing.assert_close(logits(average.module.eval()(X)), logits(model.eval()(X)))
    half = average.module.cut(0.5).eval()
    torch.testing.assert_close(logits(half(X)), logits(average.module(X, widths=0.5)))


def test_the_step_is_part_of_the_state(net: ww.Elastic) -> None:
    state = net.state_dict()
    assert torch.equal(state["_extra_state"], torch.tensor(5))
    data = io.BytesIO()
    torch.save(state, data)
    data.seek(0)
    other = ww.Elastic(type(net.model)(), X)
    assert other.load_state_dict(torch.load(data)).missing_keys == []
    assert other.step == 5
    old = {name: t for name, t in state.items() if name != "_extra_state"}
    other.step = 3
    other.load_state_dict(old)  # of before there was one
    assert other.step == 3
    step = ww.StepLoss(net, ww.SingleDraw(net, lambda out, y: logits(out).sum()))
    again = ww.StepLoss(other, ww.SingleDraw(other, lambda out, y: logits(out).sum()))
    again.load_state_dict(step.state_dict())
    assert other.step == 5
    again.load_state_dict({n: t for n, t in step.state_dict().items() if "_extra" not in n})
    with pytest.raises(RuntimeError, match=r"model\."):
        other.load_state_dict({})


def test_dtypes_freezing_and_sharing(net: ww.Elastic) -> None:
    plain = nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 3))
    half = copy.deepcopy(ww.Elastic(plain, X)).eval().bfloat16()
    assert half(X.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(pickled(half)(X.bfloat16()), half(X.bfloat16()))
    assert copy.deepcopy(half).double()(X.double(), widths=0.5).dtype == torch.float64
    net.requires_grad_(False)
    assert not logits(copy.deepcopy(net)(X)).requires_grad
    net.share_memory()
    assert all(p.is_shared() for p in net.parameters())
    assert logits(net(X)).shape == (5, 3)


def _in_a_process(rank: int, net: ww.Elastic, out: Any) -> None:
    torch.set_num_threads(1)
    net.eval()
    with torch.no_grad():
        out.put([logits(net(X)).numpy(), logits(net.cut(0.5)(X)).numpy(), net.step])


def test_spawned_processes() -> None:
    net = ww.Elastic(Net(), X).eval()
    net.step = 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = torch.multiprocessing.get_context("spawn")
        out = context.Queue()
        process = context.Process(target=_in_a_process, args=(0, net, out))
        process.start()
        full, half, step = out.get(timeout=120)
        process.join()
    assert step == 4
    torch.testing.assert_close(torch.from_numpy(full), net(X).logits.detach())
    torch.testing.assert_close(torch.from_numpy(half), net(X, widths=0.5).logits.detach())


def test_what_the_model_has_is_read_through_the_network() -> None:
    model = Net()
    model.config = {"layers": 2}  # type: ignore[assignment]
    net = ww.Elastic(model, X)
    assert net.config is model.config
    assert net.norm is model.norm
    with pytest.raises(AttributeError, match="Elastic has no 'wdiths', and neither has its Net"):
        net.wdiths  # noqa: B018
    with pytest.raises(AttributeError):
        net._private  # noqa: B018
    model.gradient_checkpointing_enable = lambda: None  # type: ignore[assignment]
    with pytest.raises(AttributeError, match="call it on the model before"):
        net.gradient_checkpointing_enable()
    assert repr(net).startswith("Elastic(\n  (model): Net(")


class Own(ww.Elastic):
    """A network of the user's own class."""

    def half(self, x: Tensor) -> Any:
        return self(x, widths=0.5)


def test_subclasses_are_copied_as_such() -> None:
    net = Own(Net(), X).eval()
    for how in COPIES:
        other: Any = how(net)
        assert isinstance(other, Own)
        torch.testing.assert_close(other.half(X).logits, net(X, widths=0.5).logits)
