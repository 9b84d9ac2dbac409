"""The networks of `nets.py` are what they claim: they build, run and can be captured."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import nets

pytestmark = [
    # Recurrent layers keep a list of their weights that export sets in passing; nothing is lost.
    pytest.mark.filterwarnings("ignore:The tensor attributes? .*_flat_weights.*:UserWarning"),
    # Said once by torch of every LSTM with proj_size in train mode on a CPU.
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


class _Plain(nn.Module):
    """Returns a dataclass as a dict, as torch.export knows only the classes told to it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.model(*args, **kwargs)
        if dataclasses.is_dataclass(out):
            return {f.name: getattr(out, f.name) for f in dataclasses.fields(out)}
        return out


def _made(net: nets.Net, training: bool) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    torch.manual_seed(0)
    model = _Plain(net.build()).train(training)
    return model, *net.example()


def _run(net: nets.Net, training: bool) -> list[Tensor]:
    model, args, kwargs = _made(net, training)
    return [x for x in pytree.tree_leaves(model(*args, **kwargs)) if isinstance(x, Tensor)]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("net", nets.NETS, ids=lambda n: n.name)
def test_a_net_runs_and_is_the_same_for_a_seed(net: nets.Net, training: bool) -> None:
    first, second = _run(net, training), _run(net, training)
    assert first
    for a, b in zip(first, second, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)


@pytest.mark.sample(20)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("net", nets.NETS, ids=lambda n: n.name)
def test_a_net_can_be_exported(net: nets.Net, training: bool) -> None:
    model, args, kwargs = _made(net, training)
    exported = torch.export.export(model, args, kwargs, strict=False)
    assert any(node.op == "call_function" for node in exported.graph.nodes)


def test_every_trait_has_a_name_of_its_own() -> None:
    names = [n.name for n in nets.NETS]
    assert len(set(names)) == len(names)
    assert all(nets.net(name).name == name for name in names)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError, match="There is no network 'resnet50'"):
        nets.net("resnet50")
