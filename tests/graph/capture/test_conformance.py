"""An Elastic at full width is its model: a sample; `python -m bench.conformance` looks at all.

Every check is shown something broken once.
"""

import dataclasses
import json

import pytest
import torch
from bench.conformance import networks, observe, page, verdicts
from bench.conformance.__main__ import wrong
from bench.conformance.cuts import cuts, ordering, stored
from bench.conformance.subject import capture, double
from bench.zoo.runner import look
from torch import nn

import nets
import widthwise as ww
from widthwise.elastic.engine import Engine
from zoo_sample import needs

SAMPLE = (
    "mlp_batchnorm", "tied_autoencoder", "buffer", "vae", "resnet", "auxiliary", "stochastic_depth",
    "weight_norm", "mha", "gpt", "lstm_2", "lstm_cell", "message_passing", "filled", "dict_kwargs",
    "several_inputs",
)  # fmt: skip
OPERATORS = (
    "cumsum", "nn.functional.conv1d", "nn.functional.dropout", "nn.functional.normalize",
    "nn.BatchNorm1d", "nn.GRU", "scatter_add", "sort",
)  # fmt: skip


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", SAMPLE)
def test_the_test_set_is_the_model(name):
    found = networks.conform(lambda: (nets.net(name).build(), *nets.net(name).example()))
    assert [f for f in found if f.verdict in verdicts.WRONG] == []
    assert sum(f.verdict == verdicts.EQUAL for f in found) >= 7


@pytest.mark.sample(3)
@needs("expecttest")
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_the_model(name):
    row = look("operators", f"operators/{name}")
    assert [f for f in row["findings"] if f["verdict"] in verdicts.WRONG] == []
    assert sum(f["verdict"] == verdicts.EQUAL for f in row["findings"]) >= 3


# What the checks must see.


class Small(nn.Module):
    """Has statistics, chance, a layer that is not trained, and an optional argument."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(8, 3)

    def forward(self, x, gate=None):
        h = self.drop(torch.relu(self.norm(self.frozen(self.first(x)))))
        return self.last(h if gate is None else h * gate.view(-1, 1))


def make():
    return Small(), (torch.randn(4, 5),), {}


def until(check):
    """Findings by check, up to this one."""
    with double():
        subject, traced = capture(make)
        found = {traced.check: traced}
        for finding in networks.full_width(subject):
            found[finding.check] = finding
            if finding.check == check:
                return found
    raise AssertionError(f"there is no check {check!r} among {list(found)}")


def broken(monkeypatch, forward, check):
    """Findings up to a check, where Elastic.forward is `forward(right, net, args, kwargs)`."""
    right = ww.Elastic.forward

    def wrong(self, *args, widths=None, **kwargs):
        def call(*a, **k):
            return right(self, *a, widths=widths, **k)

        return forward(call, self, args, kwargs)

    monkeypatch.setattr(ww.Elastic, "forward", wrong)
    return until(check)


def test_nothing_is_wrong_with_the_right_one():
    found = networks.conform(make)
    assert [f for f in found if f.verdict in verdicts.WRONG] == []
    told = {f.check: f.verdict for f in found}
    assert told["argument no_such_argument"] == verdicts.BOTH_FAIL
    assert told["batch 1, evaluation"] == verdicts.EQUAL
    assert told["every second parameter frozen"] == verdicts.EQUAL


def test_a_wrong_output_is_seen(monkeypatch):
    def scaled(call, net, args, kwargs):
        return 1.00001 * call(*args, **kwargs)

    found = broken(monkeypatch, scaled, "training")
    assert found["evaluation"].verdict == verdicts.DIFFERENT
    assert found["training"].text.startswith("output: differs by")


def test_a_wrong_gradient_is_seen(monkeypatch):
    def doubled(call, net, args, kwargs):
        y = call(*args, **kwargs)
        return y + y - y.detach()

    finding = broken(monkeypatch, doubled, "evaluation")["evaluation"]
    assert finding.verdict == verdicts.DIFFERENT
    assert finding.text.startswith("gradient of first.weight: differs")


def test_a_lost_gradient_is_seen(monkeypatch):
    def lost(call, net, args, kwargs):
        y = call(*args, **kwargs)
        return y.detach() + 0 * net.model.last.bias.sum()

    text = broken(monkeypatch, lost, "training")["training"].text
    assert "gradient of first.weight: None instead of a tensor" in text


def test_a_layer_that_moves_and_should_not_is_seen(monkeypatch):
    def thawed(call, net, args, kwargs):
        net.model.frozen.weight.requires_grad_(True)
        return call(*args, **kwargs)

    text = broken(monkeypatch, thawed, "evaluation")["evaluation"].text
    assert "gradient of frozen.weight: a tensor" in text
    assert "instead of None" in text


def test_a_dropped_argument_is_seen(monkeypatch):
    def deaf(call, net, args, kwargs):
        return call(*args, **{k: v for k, v in kwargs.items() if k != "gate"})

    found = broken(monkeypatch, deaf, "argument gate")
    assert found["argument gate"].verdict == verdicts.DIFFERENT
    assert found["evaluation"].verdict == verdicts.EQUAL


def test_an_argument_that_does_not_exist_and_passes_is_seen(monkeypatch):
    def tolerant(call, net, args, kwargs):
        return call(*args, **{k: v for k, v in kwargs.items() if k == "gate"})

    found = broken(monkeypatch, tolerant, "argument no_such_argument")["argument no_such_argument"]
    assert found.verdict == verdicts.ACCEPTED


def test_an_ignored_size_is_seen(monkeypatch):
    def fixed(call, net, args, kwargs):
        x = args[0]
        return call(torch.cat([x, x, x, x])[:4], **kwargs)[: len(x)]

    found = broken(monkeypatch, fixed, "batch 13, evaluation")
    assert found["evaluation"].verdict == verdicts.EQUAL
    assert found["batch 5, training"].verdict == verdicts.DIFFERENT
    assert found["batch 13, evaluation"].verdict == verdicts.DIFFERENT


def test_stale_state_is_seen(monkeypatch):
    def forgetful(call, net, args, kwargs):
        before = net.model.norm.running_mean.clone()
        y = call(*args, **kwargs)
        net.model.norm.running_mean = before
        return y

    finding = broken(monkeypatch, forgetful, "training")["training"]
    assert finding.text.startswith("norm.running_mean afterwards: differs")


def test_state_that_shows_in_the_second_call_only_is_seen(monkeypatch):
    def counting(call, net, args, kwargs):
        net.calls = getattr(net, "calls", 0) + 1
        return call(*args, **kwargs) * (1 if net.calls % 2 else 1.5)

    finding = broken(monkeypatch, counting, "evaluation, twice in a row")[
        "evaluation, twice in a row"
    ]
    assert finding.text.startswith("call ")


def test_other_random_numbers_are_seen(monkeypatch):
    def shifted(call, net, args, kwargs):
        torch.rand(1)
        return call(*args, **kwargs)

    found = broken(monkeypatch, shifted, "training")
    assert found["training"].verdict == verdicts.DIFFERENT
    assert found["evaluation"].verdict == verdicts.EQUAL


def test_a_written_input_is_seen(monkeypatch):
    def writing(call, net, args, kwargs):
        y = call(*args, **kwargs)
        args[0].data.add_(1)
        return y

    assert "input 0 afterwards" in broken(monkeypatch, writing, "evaluation")["evaluation"].text


def test_other_forms_of_output_are_seen(monkeypatch):
    def wrapped(call, net, args, kwargs):
        return (call(*args, **kwargs),)

    text = broken(monkeypatch, wrapped, "evaluation")["evaluation"].text
    assert "output is only in the model's" in text


def test_errors_are_told_from_refusals(monkeypatch):
    def raw(call, net, args, kwargs):
        raise TypeError("unsupported operand")

    finding = broken(monkeypatch, raw, "evaluation")["evaluation"]
    assert finding == verdicts.Finding(
        "evaluation", verdicts.ERROR, "TypeError: unsupported operand"
    )

    def refusing(call, net, args, kwargs):
        raise ww.CaptureError("The sizes are fixed.")

    finding = broken(monkeypatch, refusing, "evaluation")["evaluation"]
    assert finding.verdict == verdicts.REFUSED
    assert finding.text == "The sizes are fixed."


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ww.CaptureError("No."), verdicts.REFUSED),
        (KeyError("add_"), verdicts.ERROR),
    ],
)
def test_what_tracing_raises_is_told(monkeypatch, error, verdict):
    def fails(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(ww.Elastic, "__init__", fails)
    (finding,) = networks.conform(make)
    assert (finding.check, finding.verdict) == ("capture", verdict)


def test_a_broken_graph_is_seen():
    with double():
        subject, _ = capture(make)
        runner = subject.net.engine._served[0].runners[False]
        node = next(n for n in runner.module.graph.nodes if "relu" in str(n.target))
        node.target = torch.ops.aten.silu.default
        runner.module.recompile()
        assert subject.check("evaluation").verdict == verdicts.DIFFERENT


# Cuts.


@pytest.fixture
def subject():
    with double():
        yield capture(make)[0]


def test_a_wrong_cut_is_seen(subject, monkeypatch):
    assert {f.verdict for f in cuts(subject)} == {verdicts.EQUAL}
    right = Engine.cut

    def wrong(self, widths, **options):
        module, patches, reason = right(self, widths, **options)
        with torch.no_grad():
            module.get_parameter("last.weight").mul_(1.01)
        return module, patches, reason

    monkeypatch.setattr(Engine, "cut", wrong)
    assert {f.verdict for f in cuts(subject)} == {verdicts.DIFFERENT}


def test_lost_statistics_of_a_cut_are_seen(subject, monkeypatch):
    right = Engine.cut

    def wrong(self, widths, **options):
        module, patches, reason = right(self, widths, **options)
        norm = module.get_submodule("norm")
        saved = norm.running_mean.clone()

        def forget(*_):
            norm.running_mean = saved

        module.register_forward_hook(forget)
        return module, patches, reason

    monkeypatch.setattr(Engine, "cut", wrong)
    found = list(cuts(subject))
    assert found[0].verdict == verdicts.EQUAL
    assert "norm.running_mean afterwards" in found[-1].text


def test_a_wrong_order_is_seen(subject, monkeypatch):
    assert ordering(subject).verdict == verdicts.EQUAL

    def partly(net, scores):
        with torch.no_grad():
            net.model.first.weight.copy_(net.model.first.weight.flip(0))

    monkeypatch.setattr("bench.conformance.cuts.order_", partly)
    assert ordering(subject).verdict == verdicts.DIFFERENT


def test_a_file_that_says_something_else_is_seen(subject, monkeypatch):
    assert stored(subject, lambda: Small().double()).verdict == verdicts.EQUAL
    right = ww.load

    def wrong(path, build):
        module = right(path, build)
        with torch.no_grad():
            module.get_parameter("last.bias").add_(1e-12)
        return module

    monkeypatch.setattr(ww, "load", wrong)
    assert stored(subject, lambda: Small().double()).verdict == verdicts.DIFFERENT


# Records.


@pytest.mark.parametrize(
    ("ours", "theirs", "text"),
    [
        (torch.ones(2), torch.ones(2), ""),
        (torch.ones(2), torch.ones(3), "(2,) torch.float32 instead of (3,) torch.float32"),
        (torch.ones(2), torch.ones(2).double(), "instead of (2,) torch.float64"),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), "1 of 2 entries differ"),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), ""),
        (torch.tensor([float("inf")]), torch.tensor([float("-inf")]), "not finite"),
        (torch.tensor([1.0]), torch.tensor([float("nan")]), "not finite"),
        (torch.tensor([1.0 + 1j]), torch.tensor([1.0 - 1j]), "differs by 2.0e+00"),
        (None, torch.zeros(1), "None instead of a tensor"),
        (True, False, "True instead of False"),
        ("a", "a", ""),
    ],
)
def test_values_are_compared(ours, theirs, text):
    first, second = (observe.Record({"output": v}) for v in (ours, theirs))
    found = observe.compare("one", first, second)
    assert (found.verdict == verdicts.EQUAL) == (text == "")
    assert text in found.text


def test_a_gradient_of_rounding_alone_is_none():
    """Of a bias in front of a batch norm, say."""
    big = {"gradient of a": torch.ones(1).double()}
    first = observe.Record({**big, "gradient of b": torch.full((1,), 3e-17).double()})
    second = observe.Record({**big, "gradient of b": torch.full((1,), -2e-17).double()})
    assert observe.compare("one", first, second).verdict == verdicts.EQUAL


def test_findings_are_plain_values():
    row = networks.row("nets/small", [verdicts.Finding("evaluation", verdicts.EQUAL)])
    assert row["findings"] == [dataclasses.asdict(verdicts.Finding("evaluation", "equal"))]


# The page.


def test_the_page_is_what_the_results_say():
    assert page.PAGE.read_text() == page.page(json.loads(page.RESULTS.read_text()))


def test_the_page_tells_what_is_wrong_and_what_is_refused():
    different = {"check": "training", "verdict": verdicts.DIFFERENT, "text": "output: differs"}
    refused = {"check": "argument a", "verdict": verdicts.REFUSED, "text": "No 'a' at 3."}
    row = {
        "name": "nets/mlp",
        "engine": "0",
        "counts": {verdicts.DIFFERENT: 1, verdicts.REFUSED: 1, verdicts.EQUAL: 7},
        "findings": [different, refused],
    }
    late = {"name": "timm/big", "counts": {}, "findings": [], "failures": {"time": "too long"}}
    text = page.page({"networks": [row, late]})
    assert "- nets/mlp: training: DIFFERENT: output: differs" in text
    assert "- timm/big: {'time': 'too long'}" in text
    assert "- 1 times, nets/mlp (argument a) for one: No … at …." in text
    assert "| nets | 1 | 7 | 1 | 0 | 0 | 0 | 1 | 0 |" in text


def test_a_run_tells_whether_something_is_wrong():
    assert not wrong({"findings": [{"verdict": verdicts.REFUSED}, {"verdict": verdicts.EQUAL}]})
    assert wrong({"findings": [{"verdict": verdicts.ERROR}]})
    assert wrong({"failures": {"time": "did not finish"}, "findings": []})
