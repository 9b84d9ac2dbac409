"""What is changed in a model after its capture is noticed: the graph would hold it as it was."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import widthwise as ww


class Scaled(nn.Module):
    """Computes with values held in several ways, and holds a number that it does not need."""

    factor = 1.0

    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.drop = nn.Dropout(0.5)
        self.temperature, self.epoch = 1.0, 0
        self.settings, self.options = SimpleNamespace(scale=1.0, name="net"), {"scale": 1.0}
        self.scales, self.shift = [1.0, 2.0], torch.zeros(2)

    def forward(self, x):
        scale = self.factor * self.settings.scale * self.options["scale"] * self.scales[0]
        return (
            scale * self.o(self.drop(self.b(torch.relu(self.a(x))))) / self.temperature + self.shift
        )


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


CHANGES = {
    "forward hook": (lambda m: m.b.register_forward_hook(lambda *_: None), "b got or lost a hook"),
    "pre hook": (lambda m: m.a.register_forward_pre_hook(lambda *_: None), "a got or lost a hook"),
    "hook of the whole": (lambda m: m.register_forward_hook(lambda *_: None), "Scaled got or"),
    "pruned": (lambda m: prune.l1_unstructured(m.b, "weight", 0.5), "parameters of b are made"),
    "parametrized": (lambda m: parametrize.register_parametrization(m.b, "weight", Twice()), "b"),
    "no bias": (lambda m: setattr(m.b, "bias", None), "parameters of b are made"),
    "another head": (lambda m: setattr(m, "o", nn.Linear(16, 5)), "o was replaced by a Linear"),
    "one more layer": (lambda m: setattr(m.b, "lora", nn.Linear(16, 2)), "b.lora was added"),
    "one less": (lambda m: delattr(m, "drop"), "drop was taken away"),
    "forward replaced": (
        lambda m: setattr(m.b, "forward", torch.tanh),
        "forward of b was replaced",
    ),
    "a number": (lambda m: setattr(m, "temperature", 2.0), "Scaled.temperature was changed"),
    "a number of the class": (lambda m: setattr(m, "factor", 2.0), "Scaled.factor was changed"),
    "settings": (
        lambda m: setattr(m.settings, "scale", 2.0),
        "Scaled.settings.scale was changed",
    ),
    "other settings": (
        lambda m: setattr(m, "settings", SimpleNamespace(scale=2.0)),
        "Scaled.settings was changed",
    ),
    "an option": (lambda m: m.options.update(scale=2.0), "Scaled.options was changed"),
    "a list": (lambda m: m.scales.insert(0, 2.0), "Scaled.scales was changed"),
    "a tensor": (lambda m: setattr(m, "shift", torch.ones(2)), "Scaled.shift was changed"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("copied", [lambda net: net, copy.deepcopy], ids=["itself", "a copy"])
def test_changes_after_the_capture_are_refused_each_time(change, copied):
    net, x = copied(ww.Elastic(Scaled(), torch.randn(4, 3)).eval()), torch.randn(4, 3)
    assert net(x).shape == (4, 2)
    make, words = CHANGES[change]
    make(net.model)
    for _ in range(2):
        with pytest.raises(ww.CaptureError, match=f"^After the capture, .*{words}"):
            net(x)


def test_what_the_graph_reads_or_does_not_need_may_change():
    model, x = Scaled(), torch.randn(4, 3)
    net = ww.Elastic(model, x)
    for epoch in range(12):
        model.epoch, model.drop.p = epoch, epoch / 20
        model.settings.name, model.seen = f"net {epoch}", epoch
        net.eval(), model.b.weight.data.mul_(1.1)
        torch.testing.assert_close(net(x), model.eval()(x))
    model.b.weight = nn.Parameter(torch.randn(16, 16))
    torch.testing.assert_close(net(x), model.eval()(x))
    torch.testing.assert_close(pickle.loads(pickle.dumps(net))(x), model(x))


def test_hooks_of_before_run_and_may_not_be_taken_away():
    model, x = Scaled().eval(), torch.randn(4, 3)
    hook = model.b.register_forward_hook(lambda module, args, out: 3 * out)
    net = ww.Elastic(model, x)
    torch.testing.assert_close(net(x), model(x))
    hook.remove()
    with pytest.raises(ww.CaptureError, match="b got or lost a hook"):
        net(x)


@pytest.mark.parametrize("change", ["another head", "pruned", "a number"])
def test_a_changed_model_is_not_cut(change):
    net = ww.Elastic(Scaled(), torch.randn(4, 3)).eval()
    make, words = CHANGES[change]
    make(net.model)
    with pytest.raises(ww.CaptureError, match=words):
        net.cut(0.5)


def test_without_the_proof_numbers_are_not_compared():
    net, x = ww.Elastic(Scaled(), torch.randn(4, 3), prove=False).eval(), torch.randn(4, 3)
    net.model.temperature = 2.0
    assert net(x).shape == (4, 2)
