"""A graph serves the sizes that it is right for; others are captured as they come, or refused."""

import math

import pytest
import sympy
import torch
from torch import nn
from torch.nn import functional as F

import widthwise as ww
from widthwise.graph.capture.guards import _only_at_one
from widthwise.graph.capture.listening import Looks


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(3, 16), nn.Linear(16, 4)

    def hidden(self, x):
        return torch.relu(self.a(x))


class Centred(Base):
    def forward(self, x):
        h = self.hidden(x)
        return self.o(h - h.sum(0, keepdim=True) / len(h))


class Looped(Base):
    def forward(self, x):
        h = self.hidden(x)
        return self.o(torch.stack([h[i] * (i + 1) for i in range(len(h))]))


class Numbered(Base):
    def forward(self, x):
        h = self.hidden(x)
        return self.o(h.reshape(int(x.size(0)), -1, 16))


class Pooled(Base):
    def forward(self, x):
        h = self.hidden(x).transpose(1, 2)
        return self.o(F.max_pool1d(h, h.size(2)).squeeze(2))


class Cropped(Base):
    def forward(self, x):
        if x.size(1) > 8:
            x = x[:, -8:]
        return self.o(self.hidden(x).mean(1))


class Padded(Base):
    def forward(self, x):
        if x.shape[1] % 2:
            x = F.pad(x, (0, 0, 0, 1))
        return self.o(self.hidden(x).unflatten(1, (-1, 2)).mean(2))


class OnlyLater(Base):
    """A branch of evaluation mode alone."""

    def forward(self, x):
        if not self.training and x.size(0) > 8:
            x = x - 1
        return self.o(self.hidden(x))


class Single(Base):
    def forward(self, x):
        h = self.hidden(x)
        return self.o(h if len(h) > 1 else 2 * h)


class Squeezed(Base):
    def forward(self, x):
        return self.o(self.hidden(x).squeeze())


class Cached(Base):
    """Anchors of the last shape, as detection heads keep them."""

    def __init__(self):
        super().__init__()
        self.shape, self.anchors = None, None

    def forward(self, x):
        if self.shape != x.shape:
            self.shape, self.anchors = x.shape, torch.linspace(0, 1, x.size(1))
        return self.o(self.hidden(x) * self.anchors[:, None])


class Mask(Base):
    def __init__(self):
        super().__init__()
        self.mask = None

    def forward(self, x):
        if self.mask is None or self.mask.size(0) != x.size(1):
            self.mask = torch.tril(torch.ones(x.size(1), x.size(1)))
        h = self.hidden(x)
        return self.o(self.mask @ h)


class Looking(Base):
    """Looks at a size in evaluation mode alone, in one of many ways."""

    def __init__(self, many):
        super().__init__()
        self.many = many

    def forward(self, x):
        h = self.hidden(x)
        if not self.training and self.many(h):
            h = h - 1
        return self.o(h)


class Binned(Base):
    """A size that the model computes goes into an operator, which takes it for a number."""

    def forward(self, x):
        h = self.hidden(x).transpose(1, 2)
        return self.o(F.adaptive_avg_pool1d(h, x.shape[1] // 2).transpose(1, 2))


class Largest(Base):
    def forward(self, x):
        h = self.hidden(x).transpose(1, 2)
        return self.o(F.adaptive_max_pool1d(h, (x.shape[1] + 1) // 2).transpose(1, 2))


class Rounded(Base):
    """Sizes by Python's own arithmetic."""

    def forward(self, x):
        h, n = self.hidden(x), x.shape[1]
        kept = h[:, : round(n * 0.5)].sum(1) + h[:, : math.ceil(n / 4)].sum(1)
        return self.o(kept + h[:, : int(n * 0.75)].sum(1) + h[:, math.floor(n**0.5) :].sum(1))


class Deciding(Base):
    def forward(self, x):
        h, n = self.hidden(x), x.shape[1]
        h = 2 * h if n / 2 > 3.5 else h
        h = h + 1 if round(n * 0.3) > 2 else h
        return self.o(h - 1 if int(n * 0.3) > 2 and n % 2 == 0 else h)


LOOKS = {
    "shape": lambda h: h.shape[0] > 8,
    "numel": lambda h: torch.numel(h) > 8 * 16,
    "len": lambda h: len(h) > 8,
    "list": lambda h: len(list(h)) > 8,
    "unbind": lambda h: len(h.T.unbind(1)) > 8,
    "split": lambda h: len(torch.split(h, 1)) > 8,
    "chunk": lambda h: len(h.chunk(9)) > 8,
    "stride": lambda h: h.T.contiguous().stride(0) > 8,
    "nbytes": lambda h: h.nbytes > 8 * 16 * 4,
    "same size": lambda h: h[:9].is_same_size(h.new_empty(9, 16)),
    "view": lambda h: h.T.reshape(-1).size(0) > 8 * 16,
}


ROWS = [(4, 3), (7, 3), (1, 3), (2, 3), (9, 3)]
SEQUENCES = [(2, 6, 3), (5, 6, 3), (2, 12, 3), (3, 9, 3), (1, 4, 3)]
EVERY = [
    (Centred, ROWS),
    (Looped, ROWS),
    (Numbered, SEQUENCES),
    (Pooled, SEQUENCES),
    (Cropped, SEQUENCES),
    (Padded, SEQUENCES),
    (OnlyLater, ROWS),
    (Single, ROWS),
    (Squeezed, SEQUENCES),
    (Cached, SEQUENCES),
    (Mask, SEQUENCES),
    (Binned, SEQUENCES[:-1]),
    (Largest, SEQUENCES),
    (Rounded, SEQUENCES),
    (Deciding, SEQUENCES),
]


@pytest.mark.sample(8)
@pytest.mark.parametrize(("kind", "shapes"), EVERY, ids=lambda p: getattr(p, "__name__", ""))
@pytest.mark.parametrize("ran", [False, True], ids=["fresh", "ran before"])
def test_other_sizes_are_the_models(kind, shapes, ran):
    torch.manual_seed(0)
    model, example = kind(), torch.randn(shapes[0])
    if ran:
        model(example)
    net = ww.Elastic(model, example)
    reference = kind()
    reference.load_state_dict(model.state_dict())
    for training in (True, False):
        net.train(training), reference.train(training)
        for shape in shapes[1:]:
            x = torch.randn(shape)
            torch.testing.assert_close(net(x, widths=net.full()), reference(x))
            half = net.engine.cut(0.5)[0].train(training)
            if type(half) is kind:  # a graph module is of the example's sizes
                torch.testing.assert_close(net(x, widths=0.5), half(x))


def test_a_cut_graph_refuses_the_sizes_that_it_is_not_right_for():
    net = ww.Elastic(Cropped(), torch.randn(2, 6, 3)).eval()
    graph = net.cut(0.5, same_class=False)
    x = torch.randn(4, 8, 3)
    torch.testing.assert_close(graph(x), net(x, widths=0.5))
    with pytest.raises(
        AssertionError, match=r"x\.shape\[1\] <= 8.*test_sizes\.py.*x\.size\(1\) > 8"
    ):
        graph(torch.randn(4, 9, 3))


def test_the_line_of_a_guard_is_the_users():
    class Laid(Base):
        def forward(self, x):
            h = self.hidden(x).transpose(0, 1)
            return self.o(h if h.is_contiguous() else h + 0)

    net = ww.Elastic(Laid(), torch.randn(2, 6, 3)).eval()
    small = net.engine.cut(0.5, same_class=False)[0]
    with pytest.raises(
        AssertionError, match=r"test_sizes\.py:\d+ \(`return self.o\(h if h.is_cont"
    ):
        small(torch.randn(1, 6, 3))


def test_what_the_model_refuses_is_refused_in_one_sentence_with_the_line():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.l, self.o = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 4)

        def forward(self, x):
            zeros = torch.zeros(1, 2, 8)
            return self.o(self.l(x, (zeros, zeros))[0])

    net = ww.Elastic(Stateful(), torch.randn(2, 6, 3)).eval()
    with pytest.raises(
        ww.CaptureError, match=r"\(5, 6, 3\).*fixes dim 0 at .*test_sizes\.py"
    ) as told:
        net(torch.randn(5, 6, 3))
    assert str(told.value).count(". ") == 0
    assert net(torch.randn(2, 9, 3)).shape == (2, 9, 4)


@pytest.mark.parametrize(
    ("norm", "sequence"),
    [
        (nn.BatchNorm1d(16), False),
        (nn.BatchNorm1d(16, track_running_stats=False), False),
        (nn.InstanceNorm1d(16), True),
    ],
)
def test_norms_refuse_single_values_as_in_the_model(norm, sequence):
    class Normed(Base):
        def __init__(self):
            super().__init__()
            self.norm = norm

        def forward(self, x):
            h = self.hidden(x)
            turned = h.transpose(1, 2) if sequence else h
            return self.o(self.norm(turned).transpose(1, 2) if sequence else self.norm(turned))

    shape, single = ((2, 5, 3), (2, 1, 3)) if sequence else ((4, 3), (1, 3))
    net, x = ww.Elastic(Normed(), torch.randn(shape)), torch.randn(single)
    for training in (True, False):
        net.train(training)
        if training or norm.running_mean is None:
            with pytest.raises(ValueError, match="Expected more than 1"):
                net.model(x)
            with pytest.raises(ww.CaptureError, match=r"Expected more than 1|shape\[\d\] != 1"):
                net(x, widths=net.full())
        else:
            torch.testing.assert_close(net(x), net.model(x))


def test_sizes_that_decide_much_are_captured_a_few_times_only():
    net = ww.Elastic(Centred(), torch.randn(2, 3)).eval()
    for rows in range(3, 11):
        net(torch.randn(rows, 3))
    with pytest.raises(ww.CaptureError, match=r"as the inputs of 8 calls before.*len\(x\)"):
        net(torch.randn(11, 3))
    assert net(torch.randn(5, 3)).shape == (5, 4)


@pytest.mark.sample(2)
@pytest.mark.parametrize("way", LOOKS)
def test_whatever_evaluation_alone_decides_on_is_noticed(way):
    torch.manual_seed(0)
    model = Looking(LOOKS[way])
    net = ww.Elastic(model, torch.randn(4, 3)).eval()
    for rows in (2, 9, 20, 3):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(net(x), model.eval()(x), msg=f"{rows} rows")


@pytest.mark.parametrize("way", LOOKS)
def test_each_look_at_a_size_is_noted(way):
    with Looks() as looks:
        LOOKS[way](torch.randn(4, 16))
    assert looks.any


def test_what_tells_no_size_is_no_look():
    norm = nn.BatchNorm2d(3)
    x = torch.randn(2, 3, 8, 8)
    with Looks() as looks:
        h = norm(F.relu(F.conv2d(x, torch.randn(3, 3, 3, 3), padding=1)))
        top, _ = F.max_pool2d(h, 2).flatten(1).max(1)
        lstm = nn.LSTM(4, 4)._flat_weights
        if h.ndim == 4 and h.dtype is x.dtype and not h.is_cuda and h.requires_grad:
            top = top.to(h.device) + h.mean((1, 2, 3)) + lstm[0].sum()
    assert top.shape == (2,)
    assert not looks.any


def test_sizes_that_nothing_decides_on_need_no_further_graph():
    for model, shapes in (
        (nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)), ROWS),
        (nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 2)), SEQUENCES),
        (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), [(2, 6, 4), (1, 6, 4), (3, 1, 4)]),
    ):
        net = ww.Elastic(model.eval(), torch.randn(shapes[0]))
        for shape in shapes:
            x = torch.randn(shape)
            torch.testing.assert_close(net(x), model(x))
        assert len(net.engine._served) == 1


@pytest.mark.parametrize(
    ("text", "number", "only"),
    [("s", 1, True), ("4*s", 4, True), ("s", 4, False), ("s - 2", 1, False)],
)
def test_what_an_operator_asks_of_a_size_is_left_to_it_at_one_only(text, number, only):
    assert _only_at_one(sympy.sympify(text), sympy.Integer(number)) is only
