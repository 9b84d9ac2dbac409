"""The zoo's checks can fail, its runner survives what it meets, its page says what was found."""

import json

import pytest
import torch
from bench.zoo import page
from bench.zoo.compare import difference, run, zeroed
from bench.zoo.names import TOLERANCE, doing
from bench.zoo.runner import look_apart, rows

import widthwise as ww
from elastic_nets import made
from zoo_sample import everything_holds, look


def test_a_network_of_the_test_set_holds():
    everything_holds(look("nets/mlp_layernorm"))


def test_a_cut_with_a_wrong_weight_is_seen(monkeypatch):
    right = ww.Elastic.cut

    def wrong(self, widths, *, same_class=True):
        module = right(self, widths, same_class=same_class)
        with torch.no_grad():
            next(module.parameters()).mul_(1.01)
        return module

    monkeypatch.setattr(ww.Elastic, "cut", wrong)
    row = look("nets/mlp_layernorm")
    assert row["dtype"] == "float64"
    assert row["differences"]["evaluation"] > TOLERANCE
    assert row["differences"]["training"] > TOLERANCE
    with pytest.raises(AssertionError):
        everything_holds(row)


def test_statistics_that_are_lost_are_seen(monkeypatch):
    def forgetful(module, args, kwargs, **more):
        outputs = run(module, args, kwargs, **more)
        if isinstance(module, ww.Elastic) and module.training:
            with torch.no_grad():
                for b in module.model.buffers():
                    b.zero_()
        return outputs

    monkeypatch.setattr("bench.zoo.check.run", forgetful)
    assert look("nets/mlp_batchnorm")["differences"]["training"] > TOLERANCE


def test_what_a_stage_raises_is_told():
    row = look("nets/mlp")
    assert not row["failures"]
    from bench.zoo.check import check
    from bench.zoo.network import Network

    def make():
        raise RuntimeError("no such thing")

    row = check(Network("nets/none", make))
    assert row["failures"] == {"build": "RuntimeError: no such thing"}
    assert not page.traced(row)


def test_zeros_are_undone():
    _, net, _, _ = made("cnn")
    before = {n: t.clone() for n, t in net.engine.state().items()}
    with zeroed(net, net.widths(0.5)):
        assert any(not torch.equal(t, before[n]) for n, t in net.engine.state().items())
    assert all(torch.equal(t, before[n]) for n, t in net.engine.state().items())


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 2.0])], 0.0),
        ([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 4.0])], 0.5),
        ([torch.zeros(2)], [torch.zeros(3)], float("inf")),
        ([torch.zeros(2)], [], float("inf")),
        ([torch.tensor([float("nan")])], [torch.tensor([0.0])], float("inf")),
        ([torch.tensor([0.0])], [torch.tensor([float("nan")])], float("inf")),
        ([torch.tensor([1])], [torch.tensor([2])], 0.5),
    ],
)
def test_differences(ours, theirs, expected):
    assert difference(ours, theirs) == expected


def test_a_network_that_takes_too_long_or_crashes_is_recorded(tmp_path):
    hang = look_apart("widthwise", "nets/mlp", limit=0.01)
    assert "did not finish" in hang["failures"]["time"]
    busy = look_apart("widthwise", "nets/transformer", limit=1)
    assert "did not finish" in busy["failures"]["time"]
    crash = look_apart("widthwise", "nets/no_such_net", limit=120)
    assert "KeyError" in crash["failures"]["process"]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (hang, crash, hang)))
    assert len(rows(file)) == 2


def test_the_page_is_what_the_results_say():
    assert page.PAGE.read_text() == page.page(json.loads(page.RESULTS.read_text()))


def test_the_page_names_what_fails():
    found = json.loads(page.RESULTS.read_text())
    row = next(r for r in found["networks"] if page.agrees(r, "evaluation"))
    row["differences"]["evaluation"] = 0.25
    row["unknown"] = {"aten.new_thing.default": "layers.0"}
    text = page.page(found)
    assert f"{row['name']}: differs in evaluation by 2.5e-01" in text
    assert "aten.new_thing.default (in layers.0)" in text


def test_the_engine_is_told_by_what_its_code_does():
    code = 'import a\n\ndef f(x):\n    """Say."""\n    # why\n    return x + 1\n'
    same = "from b import c\ndef f(x):\n    return x + 1"
    assert doing(code) == doing(same)
    assert doing(code) != doing(same.replace("1", "2"))
    assert doing(code) != doing(same.replace("return", "yield"))
