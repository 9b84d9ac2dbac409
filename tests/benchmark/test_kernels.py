"""Zeros that save time: sparse layers compute the same, and run only where they are faster."""

import copy
import math
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from widthwise.benchmark import kernels
from widthwise.benchmark.kernels import NothingFasterWarning, SparseLinear, Timed, run_sparse


def sparse_linear(inputs, outputs, sparsity, **more):
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, **more)
    layer.weight.data[torch.rand(outputs, inputs) < sparsity] = 0
    return layer


def faster(monkeypatch, *names):
    """Have the sparse products of layers with these input sizes be faster, all others slower."""

    def timed(x, _, *layers):
        sparse = 0.5 if x.shape[-1] in names else 2.0
        return [1.0 if isinstance(layer, nn.Linear) else sparse for layer in layers]

    monkeypatch.setattr(kernels, "_milliseconds", timed)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (5, 7), (2, 3, 7), (0, 7), (1, 1, 1, 7)])
@pytest.mark.parametrize("sparsity", [0, 0.6, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_a_sparse_layer_computes_what_the_dense_one_does(shape, sparsity, bias):
    dense = sparse_linear(7, 4, sparsity, bias=bias)
    sparse = SparseLinear(dense)
    x = torch.randn(shape)
    torch.testing.assert_close(sparse(x), dense(x).detach())
    assert len(sparse.values) == int((dense.weight != 0).sum())
    again = copy.deepcopy(sparse).double()
    torch.testing.assert_close(again(x.double()).float(), dense(x).detach())
    assert sparse.state_dict().keys() >= {"rows", "columns", "values"}
    assert not list(sparse.parameters())


def network():
    return nn.Sequential(
        sparse_linear(20, 64, 0.9), nn.ReLU(), sparse_linear(64, 30, 0.9), sparse_linear(30, 5, 0)
    )


def test_layers_run_on_what_is_faster(monkeypatch):
    faster(monkeypatch, 64)
    module, x = network().train(), torch.randn(3, 20)
    before = [type(m) for m in module]
    fast, layers = run_sparse(module, (x,))
    share = float((module[2].weight == 0).double().mean())
    assert layers[1] == Timed("2", share, 1.0, 0.5, "csr")
    assert (layers[0].name, layers[0].chosen, layers[0].csr_ms) == ("0", "dense", 2.0)
    assert len(layers) == 2  # the last has no zeros
    assert [type(m) for m in fast] == [nn.Linear, nn.ReLU, SparseLinear, nn.Linear]
    assert [type(m) for m in module] == before
    assert module.training
    assert not fast.training
    torch.testing.assert_close(fast(x), module(x))


def test_nothing_faster_is_said(monkeypatch):
    faster(monkeypatch)
    with pytest.warns(NothingFasterWarning, match="None of 2 layers") as said:
        fast, layers = run_sparse(network(), (torch.randn(3, 20),))
    assert "\n" not in str(said[0].message)
    assert {layer.chosen for layer in layers} == {"dense"}
    assert not any(isinstance(m, SparseLinear) for m in fast)
    with pytest.warns(NothingFasterWarning, match="has zeros"):
        assert run_sparse(nn.Sequential(nn.Linear(3, 3)), (torch.randn(1, 3),))[1] == ()


def test_what_is_measured_is_real():
    """On a layer of nothing but zeros, a sparse product has nothing to do."""
    module = nn.Sequential(sparse_linear(1500, 1500, 0.9999))
    _, layers = run_sparse(module, (torch.randn(8, 1500),), seconds=0.05)
    assert layers[0].chosen == "csr"
    assert 0 < layers[0].csr_ms < layers[0].dense_ms


class Shared(nn.Module):
    """One weight is another layer's too; another is read without calling its layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = sparse_linear(6, 6, 0.5), nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.read, self.free = sparse_linear(6, 6, 0.5), sparse_linear(6, 6, 0.5)

    def forward(self, x):
        return self.free(self.read(self.b(self.a(x))) + self.read.weight.sum())


def test_weights_that_others_use_stay_dense(monkeypatch):
    faster(monkeypatch, 6)
    module, x = Shared(), torch.randn(2, 6)
    fast, layers = run_sparse(module, (x,))
    assert {layer.name: layer.chosen for layer in layers} == {"read": "dense", "free": "csr"}
    torch.testing.assert_close(fast(x), module(x))


def test_a_fused_transformer_layer_keeps_its_weights(monkeypatch):
    faster(monkeypatch, 16, 32)
    module = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    for layer in (module.linear1, module.linear2):
        layer.weight.data[::2] = 0
    x = torch.randn(2, 3, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingFasterWarning)
        fast, layers = run_sparse(module, (x,))
    assert {layer.chosen for layer in layers} == {"dense"}
    with torch.no_grad():
        torch.testing.assert_close(fast(x), module(x))


def test_types_without_a_sparse_product_stay_dense(monkeypatch):
    module = nn.Sequential(sparse_linear(8, 8, 0.5)).bfloat16()

    def no_kernel(*_):
        raise RuntimeError("not implemented for 'BFloat16'")

    monkeypatch.setattr(SparseLinear, "forward", no_kernel)
    with pytest.warns(NothingFasterWarning):
        _, layers = run_sparse(module, (torch.randn(2, 8).bfloat16(),))
    assert layers[0].csr_ms == math.inf


def test_torch_does_not_say_that_sparse_rows_are_in_beta():
    """In a new process: torch warns only once in each."""
    code = (
        "import torch; from torch import nn; from widthwise.benchmark.kernels import SparseLinear; "
        "print(SparseLinear(nn.Linear(3, 2))(torch.ones(1, 3)).shape)"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    quiet = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    code = "import torch; torch.eye(2).to_sparse_csr()"
    loud = subprocess.run([*command[:-1], code], capture_output=True, text=True, check=False)
    assert "beta" in loud.stderr
