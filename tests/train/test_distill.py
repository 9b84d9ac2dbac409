"""Post-processing of a cut: they help, they are repeatable, and they change nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from widthwise import Elastic, TrainingError
from widthwise.app.tasks.arrays import Arrays
from widthwise.app.tasks.mlp import MLP
from widthwise.train.config import RunConfig
from widthwise.train.distillation import DistillObjective, Teacher, distill
from widthwise.train.fit import fit
from widthwise.train.losses import Distill, SandwichLoss
from widthwise.train.recipe import Recipe
from widthwise.train.refit import Refit, refit_output_

X = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
DATA = Arrays(X, (X[:, :4] ** 2).argmax(1))
WIDTHS = {"fc1": 8, "fc2": 6}


@pytest.fixture(scope="module")
def net() -> Elastic:
    """A trained network; tests must leave it as it is."""
    torch.manual_seed(0)
    net = Elastic(MLP(6, 32, 4), X[:4])
    fit(
        net,
        DATA,
        SandwichLoss(net, F.cross_entropy),
        recipe=Recipe(epochs=20, batch_size=32, lr=1e-2),
        run=RunConfig(progress=False),
    )
    return net


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {n for n, t in module.state_dict().items() if not torch.equal(t, before[n])}


@torch.no_grad()
def loss_of(module: nn.Module) -> float:
    return F.cross_entropy(module.eval()(X), DATA.targets).item()


@torch.no_grad()
def distance(module: nn.Module, net: Elastic) -> float:
    """Divergence of the module's predictions from those of the full network."""
    full, narrow = (net.model.eval()(X).log_softmax(1), module.eval()(X).log_softmax(1))
    return F.kl_div(narrow, full, log_target=True, reduction="batchmean").item()


@pytest.mark.parametrize("same_class", [True, False])
def test_refit_lowers_the_loss_of_the_last_layer_alone(net, same_class):
    before = weights(net)
    cut = net.cut(WIDTHS, same_class=same_class).train()
    assert isinstance(cut, fx.GraphModule) != same_class
    start, as_cut = weights(cut), loss_of(cut)
    cut.train()
    found = refit_output_(cut, DATA, F.cross_entropy, batch_size=128)
    assert cut.training
    assert found.before == pytest.approx(as_cut, rel=1e-5)
    assert found.after == pytest.approx(loss_of(cut), rel=1e-5)
    assert found.after < 0.95 * found.before
    assert changed(cut, start) == {"fc3.weight", "fc3.bias"}
    assert all(p.grad is None and p.requires_grad for p in cut.parameters())
    assert not changed(net, before)
    exported = torch.export.export(cut.eval(), (X[:4],)).module()
    torch.testing.assert_close(exported(X[:4]), cut(X[:4]))


def test_refit_finds_the_optimum(net):
    """Without the pull, the gradient of the mean loss at the end is nearly nothing."""
    cut = net.cut(WIDTHS)
    refit_output_(cut, DATA, F.cross_entropy, steps=500, l2_to_start=0.0)
    F.cross_entropy(cut.eval()(X), DATA.targets).backward()
    assert cut.fc3.weight.grad.abs().max() < 2e-3
    pulled = net.cut(WIDTHS)
    start = pulled.fc3.weight.clone()
    refit_output_(pulled, DATA, F.cross_entropy, l2_to_start=10.0)
    assert (pulled.fc3.weight - start).norm() < 0.2 * (cut.fc3.weight - start).norm()


def test_both_classes_and_all_batch_sizes_agree(net):
    found = []
    for same_class, batch_size in ((True, 300), (False, 300), (True, 37)):
        cut = net.cut(WIDTHS, same_class=same_class)
        refit_output_(cut, DATA, F.cross_entropy, batch_size=batch_size)
        found.append(cut.eval()(X).detach())
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2], rtol=1e-2, atol=1e-2)


def test_refit_that_gains_nothing_changes_nothing(net):
    cut = net.cut(WIDTHS)
    refit_output_(cut, DATA, F.cross_entropy, steps=300)
    start = weights(cut)

    found = refit_output_(cut, DATA, lambda outputs, target: outputs.sum() * 0)
    assert not changed(cut, start)
    assert found == Refit(0.0, 0.0)
    with pytest.raises(TrainingError, match="mean loss of the cut network is nan"):
        refit_output_(cut, DATA, lambda outputs, target: outputs.sum() * torch.nan)
    assert not changed(cut, start)


class Tokens(nn.Module):
    """(N, T) -> (N, T, 5), in a tuple of inputs, without a bias in the last layer."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 12)
        self.fc = nn.Linear(12, 12)
        self.out = nn.Linear(12, 5, bias=False)
        if tied:
            self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.relu(self.fc(self.embed(tokens))))


class TokenData(Arrays):
    def batch(self, indices: Tensor) -> tuple[Any, Any]:
        inputs, target = super().batch(indices)
        return {"tokens": inputs}, target


def token_loss(outputs: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), target.flatten())


def tokens() -> TokenData:
    drawn = torch.randint(0, 5, (40, 6), generator=torch.Generator().manual_seed(0))
    return TokenData(drawn, (drawn * 2) % 5)


@pytest.mark.parametrize("same_class", [True, False])
def test_refit_of_sequences_with_inputs_by_name(same_class):
    torch.manual_seed(0)
    net = Elastic(Tokens(tied=False), (), {"tokens": tokens().inputs[:4]})
    cut = net.cut({"fc": 6}, same_class=same_class)
    found = refit_output_(cut, tokens(), token_loss)
    assert found.after < 0.5 * found.before


def test_layers_that_cannot_be_refitted_are_refused():
    torch.manual_seed(0)
    with pytest.raises(TrainingError, match="shares its weights"):
        refit_output_(Tokens(tied=True), tokens(), token_loss)
    for model in (
        nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4), nn.LogSoftmax(1)),
        nn.Sequential(nn.Linear(6, 8), nn.Unflatten(1, (8, 1)), nn.Conv1d(8, 4, 1), nn.Flatten()),
    ):
        start = weights(model)
        with pytest.raises(TrainingError, match="does not end in a linear layer"):
            refit_output_(model, DATA, F.nll_loss)
        graph = Elastic(model, X[:4], prove=False).cut({}, same_class=False)
        with pytest.raises(TrainingError, match="does not end in a linear layer"):
            refit_output_(graph, DATA, F.nll_loss)
        assert not changed(model, start)


@pytest.mark.parametrize("same_class", [True, False])
@pytest.mark.parametrize("hard_weight", [0.0, 0.5])
def test_distillation_lowers_the_loss(net, same_class, hard_weight):
    before, step, modes = weights(net), net.step, [m.training for m in net.modules()]
    cut = net.cut(WIDTHS, same_class=same_class)
    as_cut, start = loss_of(cut), weights(cut)
    far = distance(cut, net)
    history = distill(
        cut,
        Teacher(net, how=Distill(hard_weight=hard_weight), criterion=F.cross_entropy),
        DATA,
        recipe=Recipe(epochs=5, batch_size=32, lr=1e-2),
        seed=1,
    )
    assert history.steps == 5 * 10
    assert history.loss < history.epochs[0].loss
    assert loss_of(cut) < 0.95 * as_cut
    assert distance(cut, net) < 0.8 * far
    assert len(changed(cut, start)) == 6
    assert not changed(net, before)
    assert all(p.grad is None for p in net.parameters())
    assert (net.step, [m.training for m in net.modules()]) == (step, modes)
    exported = torch.export.export(cut, (X[:4],)).module()
    torch.testing.assert_close(exported(X[:4]), cut(X[:4]))


@pytest.mark.parametrize("make", [nn.Module.eval, lambda module: Elastic(module, X[:4]).eval()])
def test_the_teacher_goes_where_its_student_is(net, make):
    student = net.cut(WIDTHS).to("meta")
    teacher = make(MLP(6, 32, 4))
    taught = DistillObjective([student], Teacher(teacher))
    assert taught(X.to("meta"), DATA.targets.to("meta")).device.type == "meta"
    assert {p.device.type for p in teacher.parameters()} == {"meta"}


class Spread(MLP):
    """On two devices, as far as anyone can see."""

    def __init__(self) -> None:
        super().__init__(6, 32, 4)
        self.register_buffer("far", torch.zeros(1, device="meta"))


def test_a_teacher_on_several_devices_stays_there(net):
    history = distill(
        net.cut(WIDTHS), teacher := Spread(), DATA, recipe=Recipe(epochs=1, batch_size=256, lr=1e-3)
    )
    assert len(history.epochs) == 1
    assert {t.device.type for t in teacher.state_dict().values()} == {"cpu", "meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_teacher_comes_back_from_the_gpu(net):
    before, cut = weights(net), net.cut(WIDTHS)
    far = distance(cut, net)
    distill(cut, net, DATA, recipe=Recipe(epochs=2, batch_size=256, lr=1e-3))
    assert next(cut.parameters()).is_cuda
    assert not changed(net, before)  # compared on the CPU
    assert distance(cut.cpu(), net) < far


def test_distillations_are_functions_of_their_seed(net):
    def post_processed(seed: int) -> tuple[Tensor, Tensor]:
        noisy = Arrays(X, DATA.targets, augment=lambda x: x + torch.randn_like(x))
        first, second = net.cut(WIDTHS), net.cut(WIDTHS)
        before = torch.get_rng_state()
        refit_output_(first, noisy, F.cross_entropy, seed=seed)
        distill(second, net, noisy, recipe=Recipe(epochs=1, batch_size=256, lr=1e-3), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return first.fc3.weight, second.fc1.weight

    torch.manual_seed(3)
    one, again, other = post_processed(0), post_processed(0), post_processed(1)
    for i in range(2):
        assert torch.equal(one[i], again[i])
        assert not torch.equal(one[i], other[i])


def test_a_hard_share_needs_a_criterion(net):
    with pytest.raises(ValueError, match="give the criterion"):
        distill(net.cut(WIDTHS), Teacher(net, how=Distill(hard_weight=0.5)), DATA)
