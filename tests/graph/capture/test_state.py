"""What a model keeps from one call to the next: right, or refused by name."""

import pytest
import torch
from torch import nn

import widthwise as ww
from widthwise.graph.capture.agreement import KeptTableWarning


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.o = nn.Linear(3, 8), nn.Linear(8, 2)

    def hidden(self, x):
        return torch.relu(self.a(x))


class Recurrent(Base):
    def __init__(self):
        super().__init__()
        self.h = None

    def forward(self, x):
        h = self.hidden(x)
        self.h = h if self.h is None else 0.5 * self.h.detach() + h
        return self.o(self.h)


class Counting(Base):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.o(self.hidden(x)) * self.calls


class Listing(Base):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(1)
        return self.o(self.hidden(x)) / len(self.seen)


@pytest.mark.parametrize(
    ("kind", "name"), [(Recurrent, "h"), (Counting, "calls"), (Listing, "seen")]
)
def test_state_in_attributes_is_refused_with_its_name_and_line(kind, name):
    with pytest.raises(ww.CaptureError, match=rf"keeps {name} from one call.*test_state\.py:\d+"):
        ww.Elastic(kind(), torch.randn(4, 3))


class Quiet(Base):
    """Counts, and makes nothing of it."""

    def __init__(self):
        super().__init__()
        self.calls, self.table = 0, None

    def forward(self, x):
        self.calls += 1
        if self.table is None:
            self.table = torch.linspace(0, 1, 5)
        return self.o(self.hidden(x) + self.table[: x.shape[0], None])


class Biased(Base):
    """Keeps a table of its parameters in evaluation mode, as attention with learned biases does."""

    def __init__(self):
        super().__init__()
        self.biases, self.kept = nn.Parameter(torch.randn(3)), {}

    def table(self):
        return self.biases[[0, 1, 2, 1, 0, 2, 1, 0]]

    def forward(self, x):
        if self.training:
            return self.o(self.hidden(x) + self.table())
        if "table" not in self.kept:
            self.kept["table"] = self.table()
        return self.o(self.hidden(x) + self.kept["table"])


class BiasedOnce(Biased):
    """The same in an attribute, and in both modes."""

    kept_table = None

    def forward(self, x):
        if self.kept_table is None:
            self.kept_table = self.table()
        return self.o(self.hidden(x) + self.kept_table)


class Shown(Base):
    """Leaves its features for others to look at; the next call makes new ones."""

    def forward(self, x):
        self.features = self.hidden(x)
        return self.o(self.features)


@pytest.mark.parametrize(("kind", "name"), [(Biased, "kept"), (BiasedOnce, "kept_table")])
def test_a_kept_table_of_parameters_is_told_and_computed_at_every_call(kind, name):
    torch.manual_seed(0)
    model, x = kind(), torch.randn(4, 3)
    with pytest.warns(KeptTableWarning, match=f"keeps {name}, computed from parameters"):
        net = ww.Elastic(model, x).eval()
    for _ in range(2):
        (wanted,) = torch.autograd.grad(kind.forward(fresh(model), x).sum(), model.biases)
        (found,) = torch.autograd.grad(net(x, widths={}).sum(), model.biases)
        torch.testing.assert_close(found, wanted)


def fresh(model):
    """The model on the same parameters, before its first call in evaluation mode."""
    copy = type(model)().eval()
    copy.load_state_dict(model.state_dict())
    copy.biases, copy.a, copy.o = model.biases, model.a, model.o
    return copy


class Centred(Biased):
    """Writes to its input as well."""

    def forward(self, x):
        x -= 1
        return super().forward(x)


def test_the_example_is_left_as_it_was():
    x = torch.ones(4, 3)
    with pytest.warns(KeptTableWarning):
        ww.Elastic(Centred(), x)
    assert torch.equal(x, torch.ones(4, 3))


def test_what_is_only_left_to_look_at_is_no_table(recwarn):
    ww.Elastic(Shown(), torch.randn(4, 3))
    assert not [w for w in recwarn if w.category is KeptTableWarning]


class Mean(Base):
    """A buffer that is assigned, another that is changed in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x):
        h = self.hidden(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
            self.n += 1
        return self.o(h - self.mean / (1 + self.n))


class Siamese(Base):
    """One batch norm for two branches."""

    def __init__(self, **options):
        super().__init__()
        self.norm = nn.BatchNorm1d(8, **options)

    def forward(self, x):
        return self.o(self.norm(self.hidden(x)) - self.norm(self.hidden(-x)))


class Shared(Base):
    """One head of a convolution and a norm for several levels."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return [self.o(self.norm(self.hidden(s * x))) for s in (1, 2, 3)]


class Spectral(nn.Module):
    """The older spectral norm, whose vectors have an entry for each channel and tap."""

    def __init__(self):
        super().__init__()
        old = nn.utils.spectral_norm
        self.first, self.norm = nn.Conv1d(3, 8, 3, padding=1), old(nn.Conv1d(8, 6, 3, padding=1))
        self.back, self.o = old(nn.ConvTranspose1d(6, 8, 3, padding=1)), nn.Linear(8, 2)

    def forward(self, x):
        h = torch.relu(self.norm(torch.relu(self.first(x[..., None].expand(-1, -1, 4)))))
        return self.o(self.back(h).mean(2))


class Flat(Base):
    """Means of flattened channels, and a row of a table that is written to."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(16, 2)
        self.register_buffer("mean", torch.zeros(16))
        self.register_buffer("seen", torch.zeros(2, 16))

    def forward(self, x):
        h = torch.stack([self.hidden(x), self.hidden(2 * x)], 2).flatten(1)
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(h.mean(0), 0.1)
                self.seen[0].copy_(h[0])
                self.seen[1] += h[1]
        return self.wide(h - self.mean)


@pytest.mark.parametrize(
    "make",
    [
        Spectral,
        Flat,
        Quiet,
        Mean,
        Siamese,
        lambda: Siamese(momentum=0.5),
        lambda: Siamese(momentum=None),
        lambda: Siamese(track_running_stats=False),
        lambda: Siamese(affine=False),
        Shared,
    ],
    ids="spectral flat counts buffers siamese momentum counting no_statistics no_weights "
    "levels".split(),
)
def test_state_that_a_graph_can_hold_is_the_models(make):
    torch.manual_seed(0)
    model, reference = make(), make()
    reference.load_state_dict(model.state_dict())
    net = ww.Elastic(model, torch.randn(4, 3))
    for training in (True, True, False, True):
        net.train(training), reference.train(training)
        x = torch.randn(5, 3)
        torch.testing.assert_close(net(x, widths=net.full()), reference(x))
    torch.testing.assert_close(dict(model.named_buffers()), dict(reference.named_buffers()))


class Empty(Base):
    def __init__(self):
        super().__init__()
        self.table = torch.empty(0)

    def forward(self, x):
        if self.table.numel() < 4:
            self.table = torch.linspace(0, 1, 4)
        return self.o(self.hidden(x) + self.table[: x.shape[0], None])


class Buffer(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", None, persistent=False)

    def forward(self, x):
        if self.table is None:
            self.table = torch.linspace(0, 1, 4)
        return self.o(self.hidden(x) + self.table[: x.shape[0], None])


class Registered(Base):
    """Registers its buffers in forward, one that was None and one that was not there."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", None, persistent=False)

    def forward(self, x):
        if self.table is None or len(self.table) < len(x):
            self.register_buffer("table", torch.linspace(0, 1, 4)[: len(x)], persistent=False)
            self.register_buffer("scale", torch.ones(1), persistent=False)
        return self.o(self.hidden(x) + self.scale * self.table[: x.shape[0], None])


class Kept(Base):
    def __init__(self):
        super().__init__()
        self.tables = {}

    def forward(self, x):
        if "t" not in self.tables:
            self.tables["t"] = torch.linspace(0, 1, 4)
        return self.o(self.hidden(x) + self.tables["t"][:, None])


@pytest.mark.parametrize("kind", [Empty, Buffer, Registered, Kept])
@pytest.mark.parametrize("ran", [False, True], ids=["fresh", "ran before"])
def test_tables_made_at_the_first_call_are_saved_and_loaded(kind, ran, tmp_path):
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(4, 3)
    if ran:
        model(x)
    net = ww.Elastic(model, x).eval()
    ww.save(net, tmp_path / "net.safetensors", widths=0.5)
    again = ww.load(tmp_path / "net.safetensors", build=kind)
    torch.testing.assert_close(again(x), net(x, widths=0.5))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.filterwarnings("ignore::widthwise.GraphModuleWarning")
@pytest.mark.parametrize("kept", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
@pytest.mark.parametrize("multiply", [torch.matmul, torch.mm, torch.sparse.mm, torch.spmm])
def test_features_pass_through_sparse_matrices(kept, multiply):
    class Graph(Base):
        def __init__(self):
            super().__init__()
            self.register_buffer("neighbours", kept(torch.eye(4).roll(1, 0)))

        def forward(self, x):
            return self.o(multiply(self.neighbours, self.hidden(x)))

    torch.manual_seed(0)
    x, model = torch.randn(4, 3), Graph().eval()
    net = ww.Elastic(model, x).eval()
    torch.testing.assert_close(net(x), model(x))
    small = net.cut(0.5)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(small(x), net(x, widths=0.5))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.filterwarnings("ignore::widthwise.GraphModuleWarning")
def test_a_sparse_matrix_in_an_attribute():
    class Graph(Base):
        def __init__(self, kept):
            super().__init__()
            self.neighbours = kept(torch.eye(4).roll(1, 0))

        def forward(self, x):
            return self.o(self.neighbours @ self.hidden(x))

    x = torch.randn(4, 3)
    net = ww.Elastic(Graph(torch.Tensor.to_sparse).eval(), x).eval()
    torch.testing.assert_close(net.cut(0.5)(x), net(x, widths=0.5))
    with pytest.raises(ww.CaptureError, match=r"compressed sparse matrix.*register.*to_sparse"):
        ww.Elastic(Graph(torch.Tensor.to_sparse_csr), x)


def test_a_table_cannot_be_put_in_the_place_of_a_method(tmp_path):
    model = Empty().eval()
    model(torch.randn(4, 3))
    net = ww.Elastic(model, torch.randn(4, 3)).eval()
    ww.save(net, tmp_path / "net.safetensors", widths=0.5)

    class Other(Base):
        def table(self):
            return 1

        def forward(self, x):
            return self.o(self.hidden(x))

    with pytest.raises(ww.FileError):
        ww.load(tmp_path / "net.safetensors", build=Other)


def test_a_layer_that_runs_unused_is_cut_too():
    class Dead(Base):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(8, 8)

        def forward(self, x):
            h = self.hidden(x)
            self.last(h)
            return self.o(h)

    net = ww.Elastic(Dead(), torch.randn(4, 3))
    cut = net.cut(0.5)
    assert type(cut) is Dead
    assert cut.last.weight.shape == (4, 4)
    assert sum(p.numel() for p in cut.parameters()) == net.inspect().half.params
