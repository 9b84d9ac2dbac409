"""Zeros that are meant stay at zero, whoever trains the module on, or somebody says so."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import TensorDataset

import widthwise as ww
from fitting import fitted
from widthwise import pruning
from widthwise.elastic import zeros
from widthwise.elastic.zeros import ZerosLostWarning
from widthwise.pruning.gradual import GradualPruner, Schedule

X = torch.randn(96, 12, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X, X[:, :3].argmax(1))
AT_ONCE = Schedule(0.8, end=0)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 3)
    )


def fit(module, loss=F.cross_entropy, epochs=2, **more):
    recipe = ww.Recipe(epochs=epochs, batch_size=16, lr=1e-2, ema=more.pop("ema", None))
    return fitted(module, DATA, loss, recipe=recipe, **more)


def share(module):
    """The share of zeros in the first two matrices."""
    weights = [module[i].weight for i in (0, 2)]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def pruned():
    """A module whose first two matrices are 80 % zeros, and which nobody knows of."""
    module = mlp()
    GradualPruner(module, AT_ONCE, tensors=["0.weight", "2.weight"])
    return copy.deepcopy(module)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_module_of_a_sparse_file_keeps_its_zeros(tmp_path, ema):
    ww.save(pruned(), tmp_path / "sparse.safetensors", pack="zeros")
    module = ww.load(tmp_path / "sparse.safetensors", build=mlp)
    before = {n: p == 0 for n, p in module.named_parameters() if n in ("0.weight", "2.weight")}
    weights = module[0].weight.detach().clone()
    fit(module, ema=ema)
    assert share(module) == pytest.approx(0.8, abs=0.01)
    for name, zero in before.items():
        assert not module.get_parameter(name)[zero].any()
    assert not torch.equal(module[0].weight, weights)
    assert module[4].weight.all()  # what was dense is


def test_elastic_training_on_a_sparse_file_and_its_cuts(tmp_path):
    ww.save(pruned(), tmp_path / "sparse.safetensors", pack="zeros")
    net = ww.Elastic(ww.load(tmp_path / "sparse.safetensors", build=mlp), X[:4])
    fit(net, ww.SandwichLoss(net, F.cross_entropy))
    assert share(net.model) == pytest.approx(0.8, abs=0.01)
    small = net.cut(net.widths(0.5))
    before = share(small)
    fit(small)
    assert share(small) == before > 0.6


def test_a_dense_file_and_zeros_to_begin_with_are_trained(tmp_path):
    ww.save(mlp(), tmp_path / "dense.safetensors", pack="zeros")
    module = ww.load(tmp_path / "dense.safetensors", build=mlp)
    nn.init.zeros_(module[4].weight)  # as adapters of low rank begin
    fit(module)
    assert module[4].weight.all()
    module = mlp()
    nn.init.zeros_(module[4].weight)
    fit(module)
    assert module[4].weight.all()


def test_after_a_pruner_and_after_masks_fit_keeps_zeros():
    module = mlp()
    fit(module, compress=GradualPruner(module, Schedule(0.8, end=6, frequency=2)))
    reached = share(module)
    fit(module)
    assert share(module) == reached > 0.75
    module = mlp()
    pruning.prune_(module, lambda m: {n: p.abs() for n, p in m.named_parameters()}, 0.7)
    reached = share(module)
    fit(module)
    assert share(module) == reached > 0.5
    zeros.free(module)
    with pytest.warns(ZerosLostWarning, match=r"of '\d\.weight' was zero before .*zeros_of"):
        fit(module)
    assert share(module) < 0.1


def test_gradients_that_a_loop_has_left_are_no_part_of_a_fit():
    module, other = mlp(), mlp()
    GradualPruner(module, AT_ONCE)
    other.load_state_dict(module.state_dict())
    zeros.mean(other, ["0.weight", "2.weight", "4.weight"])
    F.cross_entropy(module(X), DATA.tensors[1]).backward()
    for each in (module, other):
        fit(each)
    assert torch.equal(module[0].weight, other[0].weight)
    assert share(module) > 0.79


@pytest.mark.filterwarnings("ignore::widthwise.elastic.zeros.ZerosLostWarning")
def test_a_second_pruner_begins_with_the_zeros_of_the_first():
    def seen(module, **more):
        pruner = GradualPruner(module, Schedule(0.9, begin=2, end=8, frequency=2), **more)
        found = []
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        for x, y in zip(X.split(8), DATA.tensors[1].split(8), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
            pruner.step()
            found.append(share(module))
        return found

    module = mlp()
    GradualPruner(module, AT_ONCE)
    found = seen(module)
    assert min(found) > 0.79
    assert found[-1] == pytest.approx(0.9, abs=0.01)
    module = mlp()
    GradualPruner(module, AT_ONCE)
    assert min(seen(module, dpf=True)) < 0.5  # which lets weights come back
    assert min(seen(pruned())) < 0.5  # nobody meant those


def test_sparsity_is_counted_and_lost_zeros_are_told():
    module = mlp()
    pruner = GradualPruner(module, AT_ONCE)
    total = sum(module[i].weight.numel() for i in (0, 2, 4))
    assert pruner.sparsity == pytest.approx(0.8, abs=1 / total)
    best = mlp().state_dict()
    module.load_state_dict(best)  # the weights of before
    with pytest.warns(ZerosLostWarning, match=r"weights that were pruned .* pruner.apply\(\)"):
        assert pruner.sparsity == 0
    assert pruner.apply() == total - sum(int(m.sum()) for m in pruner.masks.values())
    assert pruner.apply() == 0
    assert pruner.sparsity == pytest.approx(0.8, abs=1 / total)


def test_averages_get_the_zeros():
    module = mlp()
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(module)
    pruner = GradualPruner(module, AT_ONCE)
    average.update_parameters(module)
    assert share(average.module) < 0.1
    assert pruner.apply(average.module) > 0
    assert share(average.module) == pytest.approx(0.8, abs=0.03)


def test_metrics_of_an_average_are_those_of_the_sparse_one():
    """With masks made at the end alone, the last epoch measured what is then kept."""
    valid = TensorDataset(X[:40], DATA.tensors[1][:40])
    metric = ww.Metric(
        "loss", lambda out, y: (F.cross_entropy(out, y) * len(y), len(y)), higher_is_better=False
    )
    module = mlp()
    pruner = GradualPruner(module, Schedule(0.9, begin=1, end=11, frequency=10))
    history = fit(module, compress=pruner, ema=0.9, valid=valid, metric=metric)
    measured = ww.Evaluation([valid[:]], metric)(module)
    assert history.epochs[-1].metric == pytest.approx(measured, rel=1e-5)
    assert pruner.sparsity == pytest.approx(0.9, abs=0.01)


def test_zeros_that_are_meant_are_part_of_a_run(tmp_path):
    ww.save(pruned(), tmp_path / "sparse.safetensors", pack="zeros")
    module = ww.load(tmp_path / "sparse.safetensors", build=mlp)
    fit(module, folder=tmp_path / "run")
    again = ww.load(tmp_path / "sparse.safetensors", build=mlp)
    fit(again, folder=tmp_path / "run")  # done: its weights are loaded
    assert torch.equal(again[0].weight, module[0].weight)
    with pytest.raises(ww.RunError, match="zeros"):
        fit(pruned(), folder=tmp_path / "run")
    with pytest.raises(ValueError, match="whole weights; train without shard"):
        fit(module, shard=True)


def test_what_is_meant_goes_with_the_module():
    module = mlp()
    zeros.mean(module, ["0.weight"])
    gone = weakref.ref(module)
    del module
    gc.collect()
    assert gone() is None
