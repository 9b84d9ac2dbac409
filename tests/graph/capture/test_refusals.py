"""Models and examples that cannot be captured are refused in one sentence with the remedy."""

import random
import re
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.utils.prune import l1_unstructured
from torch.utils.checkpoint import checkpoint

import widthwise as ww
from widthwise.graph.capture.preflight import try_out
from widthwise.graph.capture.program import capture

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
CONTROL = ["control flow depends on data", "torch.where", "give widthwise the part"]
WRITES = ["writes to its parameter 'a.weight'", "compute a new tensor", "outside forward"]
REPLACES = ["in the place of a parameter", "compute a new tensor"]
DRAWS = ["Python or numpy draws", "one draw for ever", "torch.rand"]
EXAMPLE = ["does not run on the example", "give an example that model(*args, **kwargs) accepts"]
MADE_FROM = ["which cannot be captured", "give widthwise the module that it was made from"]


class Base(nn.Module):
    """Two layers for the networks below to do something wrong with."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def tail(self, x):
        return self.b(torch.relu(self.a(x)))

    def forward(self, x):
        return self.tail(x)


@torch.library.custom_op("widthwise_refusals::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@torch.library.custom_op("widthwise_refusals::shrink", mutates_args=("x",))
def shrink(x: torch.Tensor) -> None:
    x.mul_(0.9)


LIBRARY = torch.library.Library("widthwise_refusals_c", "DEF")
LIBRARY.define("thrice(Tensor x) -> Tensor")
LIBRARY.impl("thrice", lambda x: x * 3, "CPU")


class Opaque:
    """Nothing that torch knows."""

    def __init__(self, x):
        self.x = x


# The wrong line comes with a remark, so that the tests find it.


class Branches(Base):
    def forward(self, x):
        if x.sum() > 0:  # wrong
            x = x * 2
        return self.tail(x)


class Loops(Base):
    def forward(self, x):
        while x.sum() > 0:  # wrong
            x = x - 1
        return self.tail(x)


class Reads(Base):
    def forward(self, x):
        total = x.sum().item()
        if total > 0:  # wrong
            x = x * 2
        return self.tail(x)


class Counts(Base):
    def forward(self, x):
        for _ in range(int(x[0, 0].abs())):  # wrong
            x = x + 1
        return self.tail(x)


class Slices(Base):
    def forward(self, x):
        n = int(x[0, 0].abs()) + 1  # wrong
        return self.tail(x + x[:, :n].sum(1, keepdim=True))


class Selects(Base):
    def forward(self, x):
        rows = (x[:, 0] > 0).nonzero()
        if rows.shape[0] == 0:  # wrong
            return self.tail(x)
        return self.tail(x[rows[:, 0]]).mean() + self.tail(x)


class SkipsLayers(Base):
    def forward(self, x):
        layerdrop = 0.5
        if torch.rand(()) < layerdrop:  # wrong
            return self.tail(x)
        return self.tail(2 * x)


class Numpy(Base):
    def forward(self, x):
        return self.tail(x) + float(x.detach().numpy().sum())  # wrong


class Gradients(Base):
    def forward(self, x):
        x = x.requires_grad_()
        return torch.autograd.grad(self.tail(x).sum(), x)[0]  # wrong


class Vmap(Base):
    def forward(self, x):
        return torch.func.vmap(self.tail)(x)  # wrong


class Condition(Base):
    def forward(self, x):
        x = torch.cond(x.sum() > 0, torch.relu, torch.sin, (x,))  # wrong
        return self.tail(x)


class Flexible(Base):
    def forward(self, x):
        x = x[None, None]
        return self.tail(flex_attention(x, x, x))  # wrong


class NoGradWrite(Base):
    def forward(self, x):
        with torch.no_grad():
            self.a.weight.mul_(0.9)  # wrong
        return self.tail(x)


class DataWrite(Base):
    def forward(self, x):
        self.a.weight.data.mul_(0.9)  # wrong
        return self.tail(x)


class ViewWrite(Base):
    def forward(self, x):
        self.a.weight.detach()[0, 1:] = 0  # wrong
        return self.tail(x)


class OutWrite(Base):
    def forward(self, x):
        with torch.no_grad():
            torch.renorm(self.a.weight, 2, 0, 1.0, out=self.a.weight)  # wrong
        return self.tail(x)


class OperatorWrite(Base):
    def forward(self, x):
        shrink(self.a.weight.detach())  # wrong
        return self.tail(x)


class CaughtWrite(Base):
    def forward(self, x):
        try:
            self.a.weight.data.mul_(0.9)  # wrong
        except Exception:
            return self.tail(x)
        return self.tail(x)


class DataReplaced(Base):
    def forward(self, x):
        self.a.weight.data = self.a.weight.data * 0.5  # wrong
        return self.tail(x)


class ParameterReplaced(Base):
    def forward(self, x):
        self.a.weight = nn.Parameter(self.a.weight.detach() * 0.5)  # wrong
        return self.tail(x)


class NoFake(Base):
    def forward(self, x):
        return self.tail(twice(x))  # wrong


class NoMeta(Base):
    def forward(self, x):
        return self.tail(torch.ops.widthwise_refusals_c.thrice(x))  # wrong


class PythonDraw(Base):
    def forward(self, x):
        if random.random() < 0.5:  # wrong
            return self.tail(x)
        return self.tail(2 * x)


class NumpyDraw(Base):
    def forward(self, x):
        return self.tail(x) + torch.tensor(np.random.rand(3), dtype=torch.float32)  # wrong


class Fails(Base):
    def forward(self, x):
        raise ValueError("No such thing. Ask elsewhere.\nMore.")  # wrong


class Returns(Base):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return self.how(self.tail(x))


class Takes(Base):
    def forward(self, thing):
        return self.tail(thing.x)


LINES = [
    *((kind, CONTROL) for kind in (Branches, Loops, Reads, Counts, Slices, Selects)),
    (SkipsLayers, ["control flow depends on data", "set layerdrop to 0"]),
    (Numpy, ["leaves torch for numpy", "use the operators of torch"]),
    (Gradients, ["takes gradients in forward", "give widthwise the part"]),
    (Vmap, ["torch.vmap", "write it out for the whole batch"]),
    (Condition, ["torch's cond", "plain operators, such as torch.where"]),
    (Flexible, ["torch's flex_attention", "scaled_dot_product_attention"]),
    (NoGradWrite, [*WRITES, "aten::mul_"]),
    (DataWrite, [*WRITES, "aten::mul_"]),
    (ViewWrite, [*WRITES, "aten::"]),
    (OutWrite, [*WRITES, "aten::renorm"]),
    (OperatorWrite, [*WRITES, "widthwise_refusals::shrink"]),
    (CaughtWrite, WRITES),
    (DataReplaced, REPLACES),
    (ParameterReplaced, REPLACES),
    (NoFake, ["operator widthwise_refusals::twice", "register_fake"]),
    (NoMeta, ["operator widthwise_refusals_c::thrice", "register_fake"]),
    (PythonDraw, DRAWS),
    (NumpyDraw, DRAWS),
    (Fails, ["does not run", "No such thing; give"]),
]


@pytest.mark.sample(3)
@pytest.mark.parametrize(("kind", "words"), LINES, ids=lambda v: getattr(v, "__name__", ""))
def test_the_line_of_the_users_own_code_is_named(kind, words):
    said = refusal(lambda: ww.Elastic(kind(), X))
    for word in words:
        assert word in said
    file, number, text = re.search(r" at (\S+):(\d+) \(`(.*?)`\)", said).groups()
    assert file.endswith("test_refusals.py")
    assert text.endswith("# wrong")
    assert Path(__file__).read_text().splitlines()[int(number) - 1].strip() == text


def mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def quietly(make):
    """Parts of torch that are on their way out are made here too, and say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def lazy():
    return nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, 3))


def embedding():
    return nn.Sequential(nn.Embedding(9, 8, max_norm=1.0), nn.Linear(8, 3))


INSIDE = "give widthwise the module inside it"
MODELS = {
    "class": (lambda: nn.Linear, ["is a class", "give widthwise an instance"]),
    "function": (lambda: torch.relu, ["an nn.Module and not", "wrap the computation"]),
    "program": (
        lambda: torch.export.export(mlp(), (X,)),
        ["not a ExportedProgram", "give it the module"],
    ),
    "exported": (lambda: torch.export.export(mlp(), (X,)).module(), ["made from"]),
    "without forward": (lambda: nn.ModuleList([nn.Linear(6, 3)]), ["has no forward"]),
    "parallel": (lambda: nn.DataParallel(mlp()), ["DataParallel", INSIDE]),
    "compiled": (lambda: torch.compile(mlp()), ["OptimizedModule", INSIDE, "compile the Elastic"]),
    "compiled part": (
        lambda: nn.Sequential(torch.compile(nn.Linear(6, 8)), nn.Linear(8, 3)),
        ["The submodule '0'", INSIDE],
    ),
    "scripted": (lambda: torch.jit.script(mlp()), MADE_FROM),
    "traced": (lambda: torch.jit.trace(mlp(), X), MADE_FROM),
    "elastic": (
        lambda: ww.Elastic(mlp(), X),
        ["widthwise.elastic.network.Elastic", INSIDE, ".model"],
    ),
    "lazy": (lazy, ["0.weight has no size yet", "call the model once"]),
    "quantized": (
        lambda: torch.ao.quantization.quantize_dynamic(mlp().eval()),
        ["The submodule '0'", "in floating point"],
    ),
    "half": (lambda: mlp().half(), [*EXAMPLE, "Half"]),
    "nothing returned": (lambda: Returns(lambda y: None), ["returns no tensor (but NoneType)"]),
    "a number returned": (lambda: Returns(lambda y: 3.0), ["returns no tensor (but float)"]),
    "an object returned": (lambda: Returns(Opaque), ["returns a", "Opaque", "return its tensors"]),
    "a distribution returned": (
        lambda: Returns(lambda y: torch.distributions.Categorical(logits=y)),
        ["returns a torch.distributions.categorical.Categorical", "return its tensors"],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_be_captured(name):
    make, words = MODELS[name]
    model = quietly(make)
    said = refusal(lambda: capture(model, (X,), {}))
    for word in words:
        assert word in said


def test_a_layer_of_torch_that_writes_to_its_weight():
    """There is no line of the user's to name, but there is the parameter and the operator."""
    said = refusal(lambda: ww.Elastic(embedding(), torch.randint(0, 9, (4, 5))))
    assert "writes to its parameter '0.weight' in forward, by aten::embedding_renorm_" in said


EXAMPLES = {
    "too many": ((X, X), {}, [*EXAMPLE, "takes 2 positional arguments but 3 were given"]),
    "too few": ((), {}, [*EXAMPLE, "missing 1 required positional argument"]),
    "keyword": ((X,), {"y": X}, [*EXAMPLE, "unexpected keyword argument 'y'"]),
    "shape": ((torch.ones(4, 7),), {}, [*EXAMPLE, "(4x7 and 6x16)"]),
    "integers": ((torch.ones(4, 6, dtype=torch.long),), {}, [*EXAMPLE, "Long and Float"]),
    "doubles": ((X.double(),), {}, [*EXAMPLE, "Double and Float"]),
    "list": (([1, 2],), {}, [*EXAMPLE, "not list"]),
    "numpy": ((X.numpy(),), {}, ["args[0]", "is a numpy array", "torch.from_numpy"]),
    "numpy inside": ((), {"x": {"a": X.numpy()}}, ["kwargs['x']", "is a numpy array"]),
    "device": ((X.to("meta"),), {}, ["is on cpu and its example on meta", ".to('cpu')"]),
    "empty": ((torch.ones(0, 6),), {}, ["args[0]", "is empty", "example of two rows"]),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_that_do_not_fit(name):
    args, kwargs, words = EXAMPLES[name]
    said = refusal(lambda: ww.Elastic(mlp(), args, kwargs))
    for word in words:
        assert word in said


def test_an_example_of_a_class_that_torch_does_not_know():
    said = refusal(lambda: ww.Elastic(Takes(), (Opaque(X),)))
    assert "The example holds a" in said
    assert "Opaque, which cannot be captured; give tensors" in said


def refusal(act):
    """What the CaptureError says that `act` must raise: one sentence of the form wrong; remedy."""
    with pytest.raises(ww.CaptureError) as caught:
        act()
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    # No full stop inside, but for those in the line of code that is quoted.
    assert not re.search(r"\.\s+[A-Z]", re.sub(r"\(`.*`\)", "", said))
    assert ";" in said
    return said


# What has to be left as it was.


class Remembers(Base):
    """Does everything that a model may do besides computing."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(16))
        self.register_buffer("calls", torch.zeros(()))
        self.steps, self.last, self.lock = 0, None, threading.Lock()

    def forward(self, x):
        hidden = torch.relu(self.a(x))
        with torch.no_grad():
            self.seen.mul_(0.9).add_(hidden.mean(0), alpha=0.1)
        self.calls = self.calls + 1
        self.steps += 1
        self.last = hidden
        return self.b(nn.functional.dropout(hidden, 0.5, self.training))


def test_trying_a_model_out_leaves_nothing_behind():
    model, x = Remembers(), X.clone()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    torch_state, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    net = ww.Elastic(model, x)
    assert list(net.free) == ["a"]
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert (model.steps, model.last) == (0, None)
    assert torch.equal(x, X)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], numpy[1])


@pytest.mark.parametrize("kind", [DataWrite, DataReplaced, ParameterReplaced])
def test_a_refused_model_keeps_its_weights(kind):
    model = kind()
    weight, value = model.a.weight, model.a.weight.detach().clone()
    refusal(lambda: ww.Elastic(model, X))
    assert model.a.weight is weight
    assert torch.equal(weight, value)


class Changes(Base):
    def forward(self, x):
        x.mul_(2)
        return self.tail(x)


def test_the_example_is_not_changed():
    x = X.clone()
    ww.Elastic(Changes(), x)
    assert torch.equal(x, X)


class DrawsInTraining(Base):
    def forward(self, x):
        return self.tail(2 * x if self.training and random.random() < 0.5 else x)


def test_what_draws_in_training_alone_is_said_and_trained_as_in_evaluation():
    with pytest.warns(UserWarning, match="Python or numpy draws .* draw with torch.rand"):
        net = ww.Elastic(DrawsInTraining(), X)
    assert list(net.free) == ["a"]


class DecidesInEvaluation(Base):
    """Evaluation does what training does on the example, and something else on other data."""

    def __init__(self, decide):
        super().__init__()
        self.decide = decide
        self.register_buffer("wanted", torch.tensor(1.0))

    def forward(self, x):
        return self.tail(x if self.training or self.decide(self, x) else -x)


@pytest.mark.parametrize(
    "decide",
    [
        lambda model, x: x.abs().max() > 0,
        lambda model, x: float(x.abs().max()) > 0,
        lambda model, x: x.abs().tolist()[0][0] >= 0,
        lambda model, x: not torch.equal(x, x + 1),
        lambda model, x: len(x[x < 99]) > 0,
        lambda model, x: model.wanted.item() > 0,
    ],
    ids=["bool", "float", "tolist", "equal", "mask", "buffer"],
)
def test_evaluation_alone_may_not_decide_on_numbers(decide):
    with pytest.raises(ww.CaptureError, match="control flow depends on data"):
        ww.Elastic(DecidesInEvaluation(decide), X)


class WritesInEvaluation(Base):
    def forward(self, x):
        if not self.training:
            with torch.no_grad():
                self.a.weight[0].mul_(1.5)
        return self.tail(x)


def test_evaluation_alone_may_not_write_to_parameters():
    model = WritesInEvaluation()
    before = model.a.weight.detach().clone()
    refusal(lambda: ww.Elastic(model, X))
    assert torch.equal(model.a.weight, before)


class DrawsInVain(Base):
    def forward(self, x):
        drawn = np.random.random()  # as some encoders of speech do in evaluation too
        return self.tail(x if not self.training or drawn >= 0 else -x)


def test_a_draw_that_changes_nothing_is_no_matter():
    assert list(ww.Elastic(DrawsInVain(), X).free) == ["a"]


def test_a_line_is_named_while_another_tracer_is_on():
    def tracer(frame, event, argument):
        return None

    outer = sys.gettrace()
    sys.settrace(tracer)
    try:
        with pytest.raises(ww.CaptureError, match="# wrong"):
            try_out(PythonDraw(), (X,), {})
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(outer)


# What looks strange and works.


class Hooked(Base):
    def __init__(self):
        super().__init__()
        self.notes = []
        self.a.register_forward_hook(lambda module, args, out: self.notes.append(out) or 2 * out)
        self.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


class Reparametrised(Base):
    def __init__(self, change, layer="a"):
        super().__init__()
        change(getattr(self, layer))


class WithoutGradients(Base):
    @torch.no_grad()
    def forward(self, x):
        return self.tail(x)


class Recomputes(Base):
    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x):
        return checkpoint(self.tail, x, use_reentrant=self.reentrant)


class Straight(torch.autograd.Function):
    """The sign, with the gradient of the identity."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, grad):
        return grad


class OwnFunction(Base):
    def forward(self, x):
        return self.b(Straight.apply(self.a(x)))


class Masks(Base):
    def forward(self, x):
        return self.tail(x[x[:, 0] > 0])


class Scales(Base):
    def forward(self, x):
        return self.tail(x * x.sum().item())


def compiled_in_place():
    model = mlp()
    model.compile()
    return model


def already_ran():
    model = Remembers().eval()
    model(X)  # `last` has a history of gradients now
    return model


WORKS = {
    "hooks": Hooked,
    "weight norm": lambda: Reparametrised(nn.utils.parametrizations.weight_norm),
    "old weight norm": lambda: Reparametrised(nn.utils.weight_norm),
    "old spectral norm": lambda: Reparametrised(nn.utils.spectral_norm),
    "spectral norm": lambda: Reparametrised(nn.utils.parametrizations.spectral_norm, "b"),
    "orthogonal": lambda: Reparametrised(nn.utils.parametrizations.orthogonal, "b"),
    "pruned": lambda: Reparametrised(lambda layer: l1_unstructured(layer, "weight", 0.5)),
    "no_grad": WithoutGradients,
    "checkpoint": lambda: Recomputes(False),
    "own function": OwnFunction,
    "rows chosen by data": Masks,
    "a number read from data": Scales,
    "compiled in place": compiled_in_place,
    "traced by fx": lambda: torch.fx.symbolic_trace(mlp()),
    "history": already_ran,
}


@pytest.mark.parametrize("name", WORKS)
def test_what_looks_strange_and_works(name):
    torch.manual_seed(0)
    model = quietly(WORKS[name])
    net = quietly(lambda: ww.Elastic(model, X)).eval()
    assert net.free or name == "spectral norm"  # which reads all features together
    x = torch.randn(7, 6)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        expected = model(x)
        assert torch.allclose(net(x), expected, atol=1e-6)
        half = net.widths(0.5)
        cut = quietly(lambda: net.cut(half, same_class=False)).eval()
        assert torch.allclose(cut(x), net(x, widths=half), atol=1e-6)
