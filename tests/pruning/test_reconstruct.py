"""Reconstruction against least squares computed in full."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import widthwise as ww
from elastic_nets import made
from nets import net as find
from widthwise.errors import ScoreError, WidthError
from widthwise.measure.recalibrate import recalibrate_
from widthwise.pruning import reconstruct_
from widthwise.pruning.linear import linear_readers
from widthwise.pruning.paired import Lockstep, Side
from widthwise.pruning.reconstruct import _tensors, _thin

G = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(shape, generator=G).double()


def captured(model, x):
    """An elastic network in double precision and evaluation mode."""
    return ww.Elastic(model.double(), x[:3]).eval()


@torch.no_grad()
def distance(cut, net, x):
    """Relative to the outputs' size."""
    wanted = net(x)
    return ((cut.eval()(x) - wanted).norm() / wanted.norm()).item()


# --- nothing is lost where the rest says it all


def repeated(made, read, factor=2.0):
    """Make the second half of the features multiples of the first; both then matter."""
    with torch.no_grad():
        half = made.weight.shape[0] // 2
        made.weight[half:] = factor * made.weight[:half]
        if made.bias is not None:
            made.bias[half:] = factor * made.bias[:half]
        read.weight.mul_(2)


def dense():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    repeated(model[0], model[2])
    repeated(model[2], model[4])
    return model, random(200, 6)


def low_rank():
    """16 features that span three dims."""
    model = nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 3))
    with torch.no_grad():
        model[0].weight.copy_(random(16, 3) @ random(3, 6))
    return model, random(200, 6)


def images():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    repeated(model[0], model[3], 1.0)
    repeated(model[3], model[8], 1.0)
    return model, random(40, 3, 8, 8)


@pytest.mark.parametrize("same_class", [True, False])
@pytest.mark.parametrize("make", [dense, low_rank, images])
def test_a_cut_whose_features_say_it_all_loses_nothing(make, same_class):
    torch.manual_seed(0)
    model, x = make()
    net = captured(model, x)
    recalibrate_(model, [(x, None)])
    before = {n: t.clone() for n, t in net.engine.state().items()}
    widths = net.widths(0.5)
    cut = net.cut(widths, same_class=same_class)
    assert distance(cut, net, x) > 0.1  # a plain cut does
    modes = [m.training for m in cut.modules()]
    assert reconstruct_(cut, net, widths, [(x, None)], ridge=1e-10) is cut
    assert [m.training for m in cut.modules()] == modes
    assert distance(cut, net, x) < 1e-4
    assert all(torch.equal(t, before[n]) for n, t in net.engine.state().items())
    assert all(p.grad is None and p.requires_grad for p in cut.parameters())


def test_full_width_is_left_as_it_is():
    torch.manual_seed(0)
    model, x = dense()
    net = captured(model, x)
    cut = net.cut({})
    reconstruct_(cut, net, {}, [(x, None)])
    assert all(torch.equal(p, net.engine.state()[n]) for n, p in cut.named_parameters())


# --- one layer of each kind


class Turned(nn.Module):
    """As GPT-2 writes a linear layer."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        flat = torch.addmm(self.bias, x.flatten(0, -2), self.weight)
        return flat.view(*x.shape[:-1], -1)


class Product(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))

    def forward(self, x):
        return x @ self.weight


IMAGE, SERIES, WORDS = (30, 3, 9, 10), (60, 3, 17), (30, 7, 3)
LAYERS = {
    "linear": (lambda: (nn.Linear(3, 8), nn.Linear(8, 4)), WORDS),
    "no bias": (lambda: (nn.Linear(3, 8), nn.Linear(8, 4, bias=False)), WORDS),
    "addmm": (lambda: (nn.Linear(3, 8), Turned(8, 4)), WORDS),
    "matmul": (lambda: (nn.Linear(3, 8), Product(8, 4)), WORDS),
    "conv1d": (lambda: (nn.Conv1d(3, 8, 1), nn.Conv1d(8, 4, 3)), SERIES),
    "conv1d, all": (
        lambda: (nn.Conv1d(3, 8, 1), nn.Conv1d(8, 4, 3, stride=2, padding=4, dilation=3)),
        SERIES,
    ),
    "conv2d": (lambda: (nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, (3, 2))), IMAGE),
    "conv2d, stride": (lambda: (nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, stride=(2, 3))), IMAGE),
    "conv2d, padding": (lambda: (nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, padding=(2, 1))), IMAGE),
    "conv2d, all": (
        lambda: (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 4, (2, 3), stride=2, padding=(1, 2), dilation=(3, 2), bias=False),
        ),
        IMAGE,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_kind_of_layer_is_at_its_least_squares(name):
    """At the optimum the squared error has no slope, through the layer's own operator."""
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    first, second = make()
    x = random(*shape)
    net = captured(nn.Sequential(first, nn.Tanh(), second), x)
    (axis,) = net.free
    cut = net.cut({axis: 5})

    def slope():
        loss = (cut(x) - net(x).detach()).square().mean()
        return max(g.abs().max() for g in torch.autograd.grad(loss, list(cut[2].parameters())))

    plain, far = slope(), distance(cut, net, x)
    reconstruct_(cut, net, {axis: 5}, [(x[:20], None), (x[20:], None)], ridge=1e-12)
    assert slope() < 1e-8 < 1e-3 < plain
    assert distance(cut, net, x) < far


def test_a_layer_is_that_of_lstsq_on_unfolded_patches():
    torch.manual_seed(0)
    x = random(20, 3, 9, 9)
    layer = nn.Conv2d(8, 4, 3, stride=2, padding=1, dilation=2)
    net = captured(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), layer), x)
    cut = net.cut({"0": 4})
    reconstruct_(cut, net, {"0": 4}, [(x, None)], ridge=1e-12)
    with torch.no_grad():
        patches = F.unfold(cut[:2](x), 3, 2, 1, 2).transpose(1, 2).flatten(0, 1)
        wanted = net(x).flatten(2).transpose(1, 2).flatten(0, 1)
    ones = torch.ones(len(patches), 1).double()
    solution = torch.linalg.lstsq(torch.cat([patches, ones], 1), wanted).solution
    torch.testing.assert_close(cut[2].weight.flatten(1).T, solution[:-1])
    torch.testing.assert_close(cut[2].bias, solution[-1])


def test_ridge_keeps_weights_where_they_were():
    torch.manual_seed(0)
    model, x = dense()
    net = captured(model, x)
    moved = []
    for ridge in (1e-6, 1.0, 1e6):
        cut = net.cut({"0": 5})
        start = cut[2].weight.clone()
        reconstruct_(cut, net, {"0": 5}, [(x, None)], ridge=ridge)
        moved.append((cut[2].weight - start).norm().item())
    assert moved[0] > moved[1] > 1e3 * moved[2]


@pytest.mark.parametrize("name", [n for n in LAYERS if "conv" in n])
@pytest.mark.parametrize("thin", [1, 2, 3])
def test_windows_that_are_left_out_are_left_out_of_both_sides(name, thin):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    _, layer = make()
    x = random(shape[0], 8, *shape[2:])
    reader = reader_of(layer.double(), x)
    rows, results = reader.rows(x, layer.weight, thin), reader.results(layer(x), thin)
    bias = 0 if layer.bias is None else layer.bias
    torch.testing.assert_close(rows @ reader.matrix(layer.weight).T + bias, results)
    one = x[0]
    rows = reader.rows(one, layer.weight, thin)
    results = reader.results(layer(one), thin)
    torch.testing.assert_close(rows @ reader.matrix(layer.weight).T + bias, results)


def reader_of(layer, x):
    """The layer as an operator of a graph, behind another that makes its channels."""
    first = nn.Conv1d(2, 8, 1) if x.dim() == 3 else nn.Conv2d(2, 8, 1)
    net = ww.Elastic(nn.Sequential(first, layer).double(), x[:3, :2], prove=False)
    return linear_readers(net.engine.evaluation.program)[-1]


def test_large_images_are_thinned_and_as_good():
    torch.manual_seed(0)
    x = random(24, 3, 32, 32)
    net = captured(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3)), x)
    reader = linear_readers(net.engine.evaluation.program)[-1]
    assert _thin(reader, 24 * 30 * 30, 2 * 9) == 2  # 21,600 rows for 18 unknowns
    cut = net.cut({"0": 2})
    reconstruct_(cut, net, {"0": 2}, [(x, None)], ridge=1e-9)
    fitted = distance(cut, net, x)
    with torch.no_grad():
        patches = F.unfold(cut[:2](x), 3).transpose(1, 2).flatten(0, 1)
        wanted = net(x).flatten(2).transpose(1, 2).flatten(0, 1)
        patches = torch.cat([patches, torch.ones(len(patches), 1).double()], 1)
        rest = wanted - patches @ torch.linalg.lstsq(patches, wanted).solution
    assert fitted < 1.01 * (rest.norm() / wanted.norm()).item()


# --- batch norms


def test_statistics_are_estimated_where_asked_for():
    torch.manual_seed(0)
    model, x = images()
    net = captured(model, x)
    recalibrate_(model, [(x, None)])
    widths = {n: a.size // 2 + 1 for n, a in net.free.items()}
    cut, kept = net.cut(widths), net.cut(widths)
    reconstruct_(cut, net, widths, [(x[:25], None), (x[25:], None)])
    reconstruct_(kept, net, widths, [(x[:25], None), (x[25:], None)], statistics=False)
    for at, layer in ((1, cut[0]), (4, cut[:4])):
        values = layer(x)
        torch.testing.assert_close(cut[at].running_mean, values.mean((0, 2, 3)))
        torch.testing.assert_close(cut[at].running_var, values.var((0, 2, 3)))
    for n, b in net.cut(widths, recalibrate=False).named_buffers():
        assert torch.equal(kept.get_buffer(n), b)


def test_weights_that_several_operators_share_are_kept():
    torch.manual_seed(0)
    shared = nn.Linear(8, 8)
    x = random(50, 6)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), shared, nn.ReLU(), shared, nn.Linear(8, 3))
    net = captured(model, x)
    widths = net.widths(0.5)
    cut = net.cut(widths)
    plain, start = distance(cut, net, x), cut[2].weight.clone()
    reconstruct_(cut, net, widths, [(x, None)])
    assert torch.equal(cut[2].weight, start)
    assert distance(cut, net, x) < plain


# --- what is refused


@pytest.fixture
def small():
    torch.manual_seed(0)
    model, x = dense()
    net = captured(model, x)
    return net, net.cut({"0": 5}), x


def test_what_cannot_be_fitted_is_one_sentence(small):
    net, cut, x = small
    before = {n: p.clone() for n, p in cut.named_parameters()}
    for batches, said in (
        ([], "There is no batch"),
        ([((x, x), None)], "A batch does not fit"),
        ([({"y": x}, None)], "A batch does not fit"),
        ([(x.unsqueeze(0), None)], r"has shape \(1, 200, 6\), but the model was captured with"),
        ([(x * torch.nan, None)], "0.weight|2.weight reads is not finite"),
    ):
        with pytest.raises(ScoreError, match=said):
            reconstruct_(cut, net, {"0": 5}, batches)
        assert all(torch.equal(p, before[n]) for n, p in cut.named_parameters())
    with pytest.raises(ScoreError, match="give the widths that it was cut at"):
        reconstruct_(cut, net, {"0": 4}, [(x, None)])
    with pytest.raises(WidthError, match="There is no axis"):
        reconstruct_(cut, net, {"9": 4}, [(x, None)])


def test_numbers_that_the_graph_holds_are_checked():
    """A temperature of another value would be silently that of the example."""
    torch.manual_seed(0)
    described = find("dict_kwargs")
    model, (args, kwargs) = described.build(), described.example()
    net = ww.Elastic(model, args, kwargs).eval()
    widths = net.widths(0.5)
    inputs = {"batch": args[0], **kwargs}
    reconstruct_(net.cut(widths), net, widths, [(inputs, None)])
    with pytest.raises(ScoreError, match=r"'temperature' is 2.0 there and 3.0 here"):
        reconstruct_(net.cut(widths), net, widths, [({**inputs, "temperature": 3.0}, None)])


@pytest.mark.parametrize("name", ["gpt", "top_experts", "lstm_cell"])
def test_operators_make_tensors_where_the_parameters_are(name):
    """The graphs name the device that the network was captured on."""
    described, net, args, _ = made(name)
    program = net.engine.evaluation.program
    assert any("device" in node.kwargs for node in program.graph.nodes), described.name
    state = {n: t.detach().to("meta") for n, t in net.engine.state().items()}
    inputs = [[x.to("meta") for x in args]]
    side = Side(program.graph, list(program.state.values()), state, inputs)
    for node in program.graph.find_nodes(op="placeholder"):
        assert side[node][0].is_meta
    for node in program.graph.nodes:
        if node.op == "call_function":
            side.run(node)
            value = side[node][0]
            assert not isinstance(value, torch.Tensor) or value.is_meta, node


def test_nothing_runs_behind_the_last_layer_that_is_fitted():
    """Logits of a tied head, which is not fitted, may take more memory than all the rest."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(30, 8)
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x):
            hidden = self.words(x)
            hidden = hidden + self.down(self.up(hidden).relu())
            return hidden @ self.words.weight.T

    tokens = torch.randint(30, (4, 5))
    net = ww.Elastic(Tied(), tokens)
    widths, graph = net.complete({"up": 8}), net.engine.evaluation.program.graph
    wanted = {reader.node for reader in linear_readers(net.engine.evaluation.program)}
    tensors = _tensors(net.cut(widths), net, widths)
    ran = [node for node, _ in Lockstep(net, widths, tensors, [tokens], wanted)]
    assert [str(node.target) for node in ran].count("aten.linear.default") == 2
    assert ran[-1].target is torch.ops.aten.linear.default
    assert any(node.target is torch.ops.aten.matmul.default for node in graph.nodes)
    assert list(Lockstep(net, widths, tensors, [tokens], ())) == []
    assert len(Lockstep(net, widths, tensors, [tokens], wanted)) == len(ran)
