"""At full width the gradients of an elastic network are the model's, whatever its forward does."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import widthwise as ww
from widthwise.graph.capture.agreement import _close, check_agreement


class Net(nn.Module):
    """Two hidden layers, with something of a subclass between them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.c(torch.relu(self.b(self.between(torch.relu(self.a(x))))))

    def between(self, h):
        return h


class Frozen(Net):
    def forward(self, x):
        with torch.no_grad():
            h = torch.relu(self.a(x))
        return self.c(torch.relu(self.b(h)))


class Inferred(Net):
    def forward(self, x):
        with torch.inference_mode():
            h = torch.relu(self.a(x))
        return self.c(torch.relu(self.b(h.clone())))


class Unrolled(Net):
    """Only the last of several steps has gradients."""

    def between(self, h):
        for i in range(3):
            with torch.set_grad_enabled(i == 2 and torch.is_grad_enabled()):
                h = torch.tanh(self.b(h))
        return h


class Nested(Net):
    def between(self, h):
        with torch.no_grad():
            scale = h.abs().amax()
            with torch.enable_grad():
                h = h * 2
        return h / (scale + 1)


class Clamped(Net):
    """An operator that writes in place where gradients are off."""

    def between(self, h):
        h = self.b(h)
        with torch.no_grad():
            h.clamp_(max=0.1)
        return h * 2


class Averaged(Net):
    """A running mean that is changed in place, without gradients."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def between(self, h):
        with torch.no_grad():
            self.mean.mul_(0.9).add_(h.mean(0), alpha=0.1)
        return h - self.mean


class OldStop(Net):
    def between(self, h):
        return h * torch.sigmoid(h.data)


class Helper(Net):
    @torch.no_grad()
    def largest(self, h):
        return h.abs().amax()

    def between(self, h):
        return h / (self.largest(h) + 1)


class Sign(torch.autograd.Function):
    """The sign, whose backward is that of a clipped identity."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1).to(grad.dtype)


class Reverse(torch.autograd.Function):
    """The identity, whose backward is reversed and scaled by an argument that is no tensor."""

    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -ctx.strength * grad, None


class Split(torch.autograd.Function):
    """Two outputs, made the newer way, of which one gets no gradient."""

    @staticmethod
    def forward(x, y):
        return x + y, x * y

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx, first, second):
        return 3 * first, -first


class Linear(torch.autograd.Function):
    """A linear layer written out, as in torch's tutorial, with half of the weight's gradient."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return x @ weight.t() + bias

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad @ weight, 0.5 * grad.t() @ x, grad.sum(0)


class Binary(Net):
    def between(self, h):
        return Sign.apply(self.b(h))


class BinaryWeights(Net):
    def between(self, h):
        return F.linear(h, Sign.apply(self.b.weight))


_sign = Sign.apply  # as users write it, long before anything is captured


class Bound(Net):
    def between(self, h):
        return _sign(self.b(h))


class Adversarial(Net):
    def between(self, h):
        return Reverse.apply(h, 0.3)


class SplitInTwo(Net):
    def between(self, h):
        first, second = Split.apply(h, self.b(h))
        return first + second


class WrittenOut(Net):
    def between(self, h):
        return Linear.apply(h, self.b.weight, self.b.bias)


class Watched(Net):
    """A hook on a tensor, where it takes part in gradients."""

    def between(self, h):
        if h.requires_grad:
            h.register_hook(lambda grad: 0.1 * grad)
        return h


class WatchedTwice(Net):
    def between(self, h):
        h = self.b(h)
        if h.requires_grad:
            h.register_hook(lambda grad: grad.clamp(-1e-3, 1e-3))
            h.register_hook(lambda grad: 2 * grad)
        return h + h.relu()


class WatchedBeside(Net):
    """A hook in front of a region without gradients."""

    def between(self, h):
        h = self.b(h)
        if h.requires_grad:
            h.register_hook(lambda grad: 0.5 * grad)
        with torch.no_grad():
            target = torch.sigmoid(self.b(h))
        return h * target


class Reentrant(Net):
    def between(self, h):
        return checkpoint(lambda h: torch.relu(self.b(h)), h, use_reentrant=True)


class ReentrantTwice(Net):
    """Two outputs, of which one has no gradient; a number and a detached tensor go in."""

    def between(self, h):
        def run(h, k, other):
            return torch.relu(self.b(h)) * k, other + 1

        first, second = checkpoint(run, h, 2, h.detach(), use_reentrant=True)
        return first + second


class ReentrantSequence(Net):
    def between(self, h):
        layers = nn.Sequential(self.b, nn.ReLU(), self.b, nn.Tanh())
        return checkpoint_sequential(layers, 2, h, use_reentrant=True)


class NewCheckpoint(Net):
    def between(self, h):
        return checkpoint(lambda h: torch.relu(self.b(h)), h, use_reentrant=False)


class ReentrantWritten(Net):
    """What a checkpoint gives is a tensor of its own, and may be written to."""

    def between(self, h):
        return checkpoint(lambda h: torch.tanh(self.b(h)), h, use_reentrant=True).mul_(2)


class ReentrantWrittenTwice(Net):
    def between(self, h):
        def run(h):
            return torch.tanh(self.b(h)), torch.sigmoid(h)

        first, second = checkpoint(run, h, use_reentrant=True)
        first.clamp_(min=0.1)
        return first + second.exp_()


EVERY = (
    Reentrant,
    ReentrantWritten,
    ReentrantWrittenTwice,
    ReentrantTwice,
    ReentrantSequence,
    NewCheckpoint,
    Frozen,
    Inferred,
    Unrolled,
    Nested,
    Clamped,
    Averaged,
    OldStop,
    Helper,
    Binary,
    BinaryWeights,
    Bound,
    Adversarial,
    SplitInTwo,
    WrittenOut,
    Watched,
    WatchedTwice,
    WatchedBeside,
)


def gradients(run, module, x):
    """The gradients of the parameters and of the input, zeros where there are none."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    run(x).square().sum().backward()
    found = {n: p.grad for n, p in module.named_parameters()} | {"input": x.grad}
    return {n: torch.zeros(()) if g is None or not g.any() else g.clone() for n, g in found.items()}


@pytest.mark.sample(8)
@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_gradients_are_the_models(kind):
    torch.manual_seed(0)
    model, x = kind().train(), torch.randn(8, 6)
    other = copy.deepcopy(model)
    net = ww.Elastic(model, x).train()
    x = torch.randn(5, 6)  # another batch, another call
    for _ in range(2):
        wanted = gradients(other, other, x)
        found = gradients(lambda t: net(t, widths=net.full()), model, x)
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(dict(model.named_buffers()), dict(other.named_buffers()))


def test_a_new_checkpoint_whose_result_is_written_to_is_refused():
    class Written(Net):
        def between(self, h):
            return checkpoint(lambda h: torch.tanh(self.b(h)), h, use_reentrant=False).mul_(2)

    with pytest.raises(ww.CaptureError, match="has no gradients in training mode, and the model"):
        ww.Elastic(Written(), torch.randn(8, 6))


@pytest.mark.sample(6)
@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_a_cut_learns_like_the_elastic_network(kind):
    torch.manual_seed(0)
    net = ww.Elastic(kind().train(), torch.randn(8, 6)).train()
    widths, x = net.widths(0.5), torch.randn(5, 6)
    buffers = {n: b.clone() for n, b in net.model.named_buffers()}
    for same_class in (True, False):
        cut = net.cut(widths, same_class=same_class).train()
        wanted = gradients(cut, cut, x)
        found = gradients(lambda t: net(t, widths=widths), net.model, x)
        with torch.no_grad():
            for name, buffer in net.model.named_buffers():
                buffer.copy_(buffers[name])
        torch.testing.assert_close(found["input"], wanted["input"])
        assert found["c.weight"].norm() == pytest.approx(float(wanted["c.weight"].norm()), rel=1e-4)


class Whole(Net):
    """A checkpoint around all but the last layer."""

    def forward(self, x):
        def run(x):
            return torch.relu(self.b(torch.relu(self.a(x))))

        return self.c(checkpoint(run, x, use_reentrant=True))


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("needed", [False, True])
def test_a_reentrant_checkpoint_gives_gradients_where_its_input_has_some(needed):
    torch.manual_seed(0)
    model, x = Whole().train(), torch.randn(5, 6)
    other = copy.deepcopy(model)
    net = ww.Elastic(model, torch.randn(8, 6)).train()
    for module, run in ((model, lambda t: net(t, widths=net.full())), (other, other)):
        run(x.clone().requires_grad_(needed)).square().sum().backward()
        assert (module.a.weight.grad is not None) == needed
    torch.testing.assert_close(model.c.weight.grad, other.c.weight.grad)
    if needed:
        torch.testing.assert_close(model.a.weight.grad, other.a.weight.grad)


class DetachedLater(Net):
    def between(self, h):
        return h if self.training else h.detach()


class FrozenLater(Net):
    def between(self, h):
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            return torch.relu(self.b(h))


class LearnsLater(Net):
    """Gradients in evaluation mode only, as of an input that is to be explained."""

    def between(self, h):
        return h.detach() if self.training else h


class FirstFrozenLater(Net):
    """Where the layer is frozen as well, only the input's gradient shows it."""

    def __init__(self):
        super().__init__()
        self.a.requires_grad_(False)

    def forward(self, x):
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            h = torch.relu(self.a(x))
        return self.c(torch.relu(self.b(h)))


@pytest.mark.parametrize(
    "kind", [DetachedLater, FrozenLater, FirstFrozenLater, LearnsLater, Reentrant, Frozen]
)
def test_gradients_of_evaluation_mode_are_the_models(kind):
    torch.manual_seed(0)
    model, x = kind(), torch.randn(8, 6)
    other = copy.deepcopy(model)
    net = ww.Elastic(model, x)
    for training in (False, True):
        net.train(training), other.train(training)
        wanted = gradients(other, other, x[:5])
        found = gradients(lambda t: net(t, widths=net.full()), model, x[:5])
        torch.testing.assert_close(found, wanted)


def test_own_functions_leave_their_features_free():
    """What a Function computes tells how features pass through it."""
    for kind, free in ((Adversarial, {"a", "b"}), (WrittenOut, {"a"}), (Binary, {"a"})):
        net = ww.Elastic(kind(), torch.randn(8, 6))  # where b runs twice, it is of one axis
        assert set(net.free) == free
        assert not net.engine.unknown


def test_hooks_run_at_every_width():
    seen = []

    class Counting(Net):
        def between(self, h):
            if h.requires_grad:
                h.register_hook(lambda grad: seen.append(tuple(grad.shape)))
            return h

    net = ww.Elastic(Counting(), torch.randn(8, 6)).train()
    seen.clear()
    net(torch.randn(3, 6), widths=0.5).sum().backward()
    assert seen == [(3, 8)]


def test_a_backward_hook_on_a_module_is_refused_by_name():
    model = Net()
    hook = model.b.register_full_backward_hook(lambda *_: None)
    with pytest.raises(ww.CaptureError, match=r"'b' has a backward hook.*register_hook"):
        ww.Elastic(model, torch.randn(8, 6))
    hook.remove()
    assert ww.Elastic(model, torch.randn(8, 6)).free


class Changing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def test_functions_that_a_graph_cannot_hold_are_refused_by_name():
    class InPlace(Net):
        def between(self, h):
            return Changing.apply(h)

    class Given(Net):
        def between(self, h):
            return Reverse.apply(h, self)

    with pytest.raises(ww.CaptureError, match="Changing writes to its arguments"):
        ww.Elastic(InPlace(), torch.randn(8, 6))
    with pytest.raises(ww.CaptureError, match=r"Reverse\.apply is given a Given"):
        ww.Elastic(Given(), torch.randn(8, 6))


class Unwilling(torch.autograd.Function):
    """Gives its argument, and no gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        raise RuntimeError("one of the variables was modified by an inplace operation")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Unwilling.apply, "has no gradients in training mode, and the model has"),
        (lambda out: out + 1e-2, "computes something else"),
        (lambda out: out.detach() + 0 * out, "gradient of"),
        (lambda out: out + (out - out.detach()) * 0.01, "gradient of"),
    ],
    ids=["backward raises", "outputs", "no gradient", "a wrong gradient"],
)
def test_the_check_of_agreement_sees_what_is_wrong(wrong, message):
    model, x = Net(), torch.randn(8, 6)
    with pytest.raises(ww.CaptureError, match=message):
        check_agreement(model, lambda a, k: wrong(model(*a, **k)), (x,), {}, training=True)
    check_agreement(model, lambda a, k: model(*a, **k), (x,), {}, training=True)


def test_the_check_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    state = torch.random.get_rng_state()
    ww.Elastic(model, torch.randn(8, 6, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


class Weighted(nn.Module):
    """Takes what its criterion has no gradient of."""

    def __init__(self, criterion):
        super().__init__()
        self.a, self.o, self.criterion = nn.Linear(3, 8), nn.Linear(8, 2), criterion

    def forward(self, x, weight):
        return self.criterion(self.o(torch.relu(self.a(x))), weight)


@pytest.mark.parametrize(
    ("criterion", "weight"),
    [
        (lambda y, w: F.cross_entropy(y, y.argmax(1), weight=w), torch.tensor([0.2, 0.8])),
        (lambda y, w: F.nll_loss(y.log_softmax(1), y.argmax(1), weight=w), torch.rand(2)),
        (lambda y, w: F.soft_margin_loss(y, w), torch.tensor([[1.0, -1.0]] * 4)),
        (lambda y, w: F.batch_norm(y, w, w.abs() + 1), torch.tensor([0.5, -1.0])),
    ],
    ids=["cross entropy", "nll", "soft margin", "batch norm"],
)
def test_an_input_without_a_gradient_is_no_fault(criterion, weight):
    torch.manual_seed(0)
    model, x = Weighted(criterion), torch.randn(4, 3)
    net = ww.Elastic(model, (x, weight)).train()
    assert net.free
    theirs = torch.autograd.grad(model(x, weight).sum(), tuple(model.parameters()))
    ours = torch.autograd.grad(net(x, weight, widths=net.full()).sum(), tuple(model.parameters()))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_outputs_are_compared_by_their_entries(layout):
    a, b = torch.eye(3).to_sparse(layout=layout), (2 * torch.eye(3)).to_sparse(layout=layout)
    assert _close(a, a.clone())
    assert not _close(a, b)
    assert not _close(a, torch.eye(3))


def test_a_lone_number_is_squeezed_to_itself():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.o = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.o(torch.relu(self.a(x))).mean().squeeze(0)

    model, x = Loss(), torch.randn(4, 3)
    torch.testing.assert_close(ww.Elastic(model, x)(x, widths=1.0), model(x))
