"""Order: features permuted by scores, and nothing else."""

import pytest
import torch
from torch import nn

import widthwise as ww
from widthwise.app.tasks.mlp import MLP
from widthwise.errors import ScoreError
from widthwise.pruning import order_

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return ww.Elastic(MLP(6, 8, 3), X).eval()


def test_the_best_features_come_first(net):
    before = net.model.fc1.weight.detach().clone()
    outputs = net(X)
    old = order_(net, {"fc1": torch.tensor([3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0, 5.0])})
    assert old["fc1"].tolist() == [4, 6, 7, 2, 0, 5, 3, 1]
    assert torch.equal(net.model.fc1.weight, before[old["fc1"]])
    assert torch.equal(net.cut({"fc1": 1}).fc1.weight, before[4:5])
    torch.testing.assert_close(net(X), outputs)


def test_ties_stay_in_order_and_other_axes_as_they_are(net):
    before = {n: p.detach().clone() for n, p in net.model.named_parameters()}
    assert order_(net, {"fc1": torch.zeros(8)})["fc1"].tolist() == list(range(8))
    assert all(torch.equal(p, before[n]) for n, p in net.model.named_parameters())
    halves = torch.tensor([0.0, 1.0] * 4)
    assert order_(net, {"fc2": halves})["fc2"].tolist() == [1, 3, 5, 7, 0, 2, 4, 6]
    assert torch.equal(net.model.fc1.weight, before["fc1.weight"])
    assert torch.equal(net.model.fc3.weight, before["fc3.weight"][:, [1, 3, 5, 7, 0, 2, 4, 6]])


def test_turning_round_twice_is_nothing(net):
    before = {n: p.detach().clone() for n, p in net.model.named_parameters()}
    for _ in range(2):
        order_(net, {n: torch.arange(8.0) for n in ("fc1", "fc2")})
    assert all(torch.equal(p, before[n]) for n, p in net.model.named_parameters())


def test_parameters_stay_the_same_objects_and_an_optimizer_goes_on(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(X, widths={}).square().mean().backward()
    optimizer.step()
    ids = [id(p) for p in net.parameters()]
    held = [optimizer.state[p]["momentum_buffer"].clone() for p in net.parameters()]
    order_(net, {"fc1": torch.arange(8.0)})
    assert [id(p) for p in net.parameters()] == ids
    for p, momentum in zip(net.parameters(), held, strict=True):
        assert torch.equal(optimizer.state[p]["momentum_buffer"], momentum)
        assert p.requires_grad
    optimizer.zero_grad()
    net(X, widths={}).square().mean().backward()
    start = net.model.fc1.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(net.model.fc1.weight, start)


def test_statistics_follow_their_features():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    net = ww.Elastic(model, X)
    net(X, widths={})
    before = {n: b.clone() for n, b in model[1].named_buffers()}
    assert before["running_mean"].abs().min() > 0
    old = order_(net, {"0": torch.tensor([1.0, 3.0, 2.0, 4.0])})["0"]
    assert old.tolist() == [3, 1, 2, 0]
    for name in ("running_mean", "running_var"):
        assert torch.equal(model[1].get_buffer(name), before[name][old])
    assert model[1].num_batches_tracked == before["num_batches_tracked"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Embedding(7, 5), nn.Linear(5, 5)
        self.out = nn.Linear(5, 7, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x):
        h = self.embed(x)
        return self.out(h + torch.relu(self.fc(h)))


def test_tied_weights_are_permuted_once():
    torch.manual_seed(0)
    tokens = torch.randint(0, 7, (3, 4))
    net = ww.Elastic(Tied(), tokens).eval()
    (name,) = net.free
    outputs, before = net(tokens), net.model.embed.weight.detach().clone()
    old = order_(net, {name: torch.tensor([1.0, 4.0, 2.0, 5.0, 3.0])})[name]
    assert torch.equal(net.model.out.weight, before[:, old])
    assert net.model.out.weight is net.model.embed.weight
    torch.testing.assert_close(net(tokens), outputs)


def test_scores_that_do_not_fit_change_nothing(net):
    before = {n: p.detach().clone() for n, p in net.model.named_parameters()}
    good, holes = torch.arange(8.0), torch.arange(8.0)
    holes[3] = torch.nan
    for scores, said in (
        ({"fc1": good, "fc9": good}, "'fc9', which is no axis that can be cut"),
        ({"fc1": good, "fc3": torch.zeros(3)}, "'fc3', which is no axis that can be cut"),
        ({"fc1": good, "fc2": torch.zeros(7)}, r"of shape \(7,\); give one for each of its 8"),
        ({"fc1": good, "fc2": torch.zeros(8, 1)}, r"of shape \(8, 1\)"),
        ({"fc1": good, "fc2": holes}, "'fc2' is not a number"),
    ):
        with pytest.raises(ScoreError, match=said):
            order_(net, scores)
        assert all(torch.equal(p, before[n]) for n, p in net.model.named_parameters())


def test_infinite_scores_are_the_first_and_the_last(net):
    scores = torch.zeros(8)
    scores[5], scores[2] = torch.inf, -torch.inf
    assert order_(net, {"fc1": scores})["fc1"].tolist() == [5, 0, 1, 3, 4, 6, 7, 2]
