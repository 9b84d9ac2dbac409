"""Scores that a user registers, in Python and from the command line, by public names alone."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import widthwise as ww
from command_line import fails, works

X, Y = torch.randn(32, 6), torch.randint(3, (32,))
BATCHES = [(X[:16], Y[:16]), (X[16:], Y[16:])]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return ww.Elastic(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), X)


def biases(net):
    """The absolute biases of the layer that makes the features."""
    return {name: net.model.get_parameter(f"{name}.bias").abs() for name in net.free}


def test_a_score_of_features_orders_a_network(net):
    ww.register_score("biases", biases)
    expected = net.model[0].bias.detach().abs().sort(descending=True).values
    scores = ww.pruning.score(net, "biases")
    assert not scores["0"].requires_grad
    ww.pruning.order_(net, scores)
    assert torch.equal(net.model[0].bias.detach().abs(), expected)
    ww.register_score("biases", biases)  # the same once more, as a file run again does


def test_a_score_gets_what_it_asks_for(net):
    seen = []

    def noted(*given, **more):
        seen.append((given, more))
        return {}

    for needs in ("nothing", "inputs", "loss"):
        ww.register_score(f"needs {needs}", noted, needs=needs)
        ww.pruning.score(net, f"needs {needs}", BATCHES, F.cross_entropy, seed=3, progress=True)
    ww.register_score("seeded", noted, seeded=True)
    ww.pruning.score(net, "seeded", seed=3)
    ww.register_score("both", noted, of=("features", "weights"))
    ww.pruning.score(net, "both", of="weights")
    assert seen == [
        ((net,), {}),
        ((net, BATCHES), {}),
        ((net, BATCHES, F.cross_entropy), {}),
        ((net,), {"seed": 3}),
        ((net,), {"of": "weights"}),
    ]
    with pytest.raises(ww.ScoreError, match=r"'needs inputs' needs data; give batches\."):
        ww.pruning.score(net, "needs inputs")
    with pytest.raises(ww.ScoreError, match=r"needs data; give batches and a criterion\."):
        ww.pruning.score(net, "needs loss", BATCHES)


def test_built_in_scores_are_entries_of_the_same_table(net):
    by_name = ww.pruning.score(net, "taylor", BATCHES, F.cross_entropy)
    assert torch.equal(by_name["0"], ww.pruning.taylor(net, BATCHES, F.cross_entropy)["0"])
    masks = ww.pruning.keep(ww.pruning.score(net, "magnitude", of="weights"), 0.5)
    assert sorted(masks) == ["0.weight", "2.weight"]


def test_a_name_that_is_taken_is_refused_unless_it_is_meant(net):
    with pytest.raises(ValueError, match=r"There is a score 'obd' already; .*replace=True"):
        ww.register_score("obd", biases)
    ww.register_score("replaced", lambda net: {})
    with pytest.raises(ValueError, match="'replaced' already"):
        ww.register_score("replaced", lambda net: {})
    ww.register_score("replaced", biases, replace=True)
    assert ww.pruning.score(net, "replaced").keys() == {"0"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"needs": "data"}, "give 'nothing', 'inputs' or 'loss'"),
        ({"of": ()}, r"give \('features',\)"),
        ({"of": ("neurons",)}, r"give \('features',\)"),
        ({"scope": "tensor"}, "give 'layer', 'global' or 'lamp'"),
        ({"name": " "}, "give a word"),
    ],
)
def test_other_values_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        ww.register_score(**{"name": "wrong", "function": biases} | given)


def test_an_unknown_name_is_told_with_the_known_ones(net):
    with pytest.raises(
        ww.ScoreError, match=r"no score 'obdd'; the known ones are .*obd, "
    ) as error:
        ww.pruning.score(net, "obdd")
    assert "register_score" in str(error.value)
    with pytest.raises(ww.ScoreError, match="no score 'dropout-ablation' of weights") as error:
        ww.pruning.score(net, "dropout-ablation", of="weights")
    assert "activation" not in str(error.value)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([1, 2], "gave a list; return a dict"),
        ({"1": torch.ones(8)}, "judges '1', which is no axis that can be cut"),
        ({"0": torch.ones(7)}, r"gave \(7,\) for '0'; return a tensor of shape \(8,\)"),
        ({"0": [1.0] * 8}, "gave list for '0'"),
        ({"0": torch.full((8,), torch.nan)}, "is not a finite number"),
    ],
)
def test_scores_of_another_form_are_refused(net, found, said):
    ww.register_score("wrong form", lambda net: found, replace=True)
    with pytest.raises(ww.ScoreError, match=said):
        ww.pruning.score(net, "wrong form")


# From the command line: the task's file registers.

TASK = """
from functools import partial

import torch
from torch import nn
from torch.utils.data import TensorDataset

import widthwise as ww


def model():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def splits():
    torch.manual_seed(0)
    x, y = torch.randn(64, 6), torch.randint(3, (64,))
    return ww.Splits(*(TensorDataset(x, y) for _ in range(3)))


def task():
    return ww.Task("own", model, lambda: (torch.zeros(2, 6),), splits,
                   nn.functional.cross_entropy, ww.ACCURACY, ww.Recipe(epochs=1, batch_size=32))


def biases(net, *, of):
    if of == "weights":
        return {name: p.abs() for name, p in net.model.named_parameters()}
    return {name: net.model.get_parameter(f"{name}.bias").abs() for name in net.free}


ww.register_score("by-bias", biases, of=("features", "weights"), comparable=COMPARABLE)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a task that has a score of its own, and a run of it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(TASK.replace("COMPARABLE", "True"))
    works("train", f"{folder}/own.py:task", "--method", "plain", "--out", folder / "run")
    return folder


@pytest.fixture
def own(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


@pytest.mark.parametrize("comparable", [True, False])
def test_order_and_sweep_go_by_a_score_of_the_tasks_file(own, comparable):
    (own / "own.py").write_text(TASK.replace("COMPARABLE", str(comparable)))
    words = ["order", "own.py:task", "--from", "run", "--out", f"ordered-{comparable}"]
    assert "by by-bias scores" in works(*words, "--score", "by-bias")
    bias = load_file(own / words[-1] / "model.safetensors")["0.bias"].abs()
    assert torch.equal(bias, bias.sort(descending=True).values)
    said = works("sweep", words[-1], "--no-latency", "--num-widths", 3)
    assert ("widths by scores" in said) is comparable


def test_prune_goes_by_a_score_of_the_tasks_file(own):
    words = ["prune", "own.py:task", "--from", "run", "--sparsity", 0.5, "--out"]
    works(*words, "own.safetensors", "--score", "by-bias", "--scope", "global", "--dense")
    works(*words, "magnitude.safetensors", "--scope", "global", "--dense")
    found, wanted = (load_file(own / f"{n}.safetensors") for n in ("own", "magnitude"))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert (found["0.weight"] == 0).any()


@pytest.mark.parametrize(
    ("words", "lists"),
    [
        (["order", "digits", "--out", "ordered"], "output-error, obd"),
        (["prune", "digits", "--sparsity", "0.5", "--out", "a.safetensors"], "magnitude, random"),
    ],
)
def test_an_unknown_score_is_one_sentence_at_the_command_line(own, words, lists):
    command, _, *more = words
    said = fails(command, "own.py:task", "--from", "run", *more, "--score", "by-biases")
    assert "There is no score 'by-biases'" in said
    assert lists in said
    assert "by-bias," in said
    assert said.strip().count("\n") == 0
    assert not (own / "ordered").exists()
    assert not (own / "a.safetensors").exists()
