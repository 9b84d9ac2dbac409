"""Two processes with half of each batch do what one does with all of it.

One pair of processes (gloo, started by torchrun) runs all cases of `distributed_run.py`, once.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import distributed_run
import widthwise as ww
from distributed_run import (
    FIT,
    OWN,
    SHARDS,
    STEPS,
    build,
    by_fit,
    cut,
    flat,
    measured,
    own_loop,
    pruned,
    scores,
)
from elastic_nets import made
from elastic_nets import tensors as tensors_in
from widthwise.app.cli.main import app
from widthwise.train.batches import BatchPlan, pieces

# What 20 steps of AdamW make of the rounding of sums that are added up in another order.
ROUNDING: dict[str, Any] = {"rtol": 0.0, "atol": 1e-12}

# With branches, gates, experts, layers left out by chance and parameters that are used twice.
BRANCHED = "glu shared moe_soft unet stochastic_depth inception gpt lstm_2 top_experts".split()


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """The folder in which two processes left what they computed."""
    folder = tmp_path_factory.mktemp("pair")
    script = Path(distributed_run.__file__)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join([str(script.parent), *sys.path])
    ran = subprocess.run(
        [*command, str(script), str(folder)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


def tensors(pair, name, rank=0):
    return load_file(pair / f"{name}-{rank}.safetensors")


def said(pair, rank=0):
    return json.loads((pair / f"found-{rank}.json").read_text())


@cache
def alone(run, loss, accumulate):
    """What one process computes."""
    return run("", loss, accumulate)


def assert_same(found, wanted, **tolerance):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name], value, msg=lambda m, n=name: f"{n}: {m}", **tolerance
        )


# ---------------------------------------------------------------- equality


@pytest.mark.parametrize(("engine", "loss", "accumulate"), OWN)
def test_in_a_loop_of_ones_own_two_processes_do_what_one_does(pair, engine, loss, accumulate):
    wanted = alone(own_loop, loss, accumulate)
    assert wanted["losses"].shape == (STEPS,)
    assert wanted["losses"][-5:].mean() < wanted["losses"][:5].mean()  # something is learned
    assert_same(tensors(pair, f"own-{engine}-{loss}-{accumulate}"), wanted, **ROUNDING)


@pytest.mark.parametrize(("engine", "loss", "accumulate"), FIT)
def test_in_fit_two_processes_do_what_one_does(pair, engine, loss, accumulate):
    found = tensors(pair, f"fit-{engine}-{loss}-{accumulate}")
    assert_same(found, alone(by_fit, loss, accumulate), **ROUNDING)
    # Pieces, too, add up to the whole batch.
    assert_same(found, alone(by_fit, loss, 1), **ROUNDING)


def test_processes_that_draw_other_widths_would_be_noticed(pair):
    found = tensors(pair, "own-other-draws")["losses"]
    away = (found - alone(own_loop, "single", 1)["losses"]).abs()
    assert away.max() > 1e-3


def test_all_processes_end_with_the_same_bits(pair):
    same = {name: value for name, value in said(pair).items() if name.endswith(" same")}
    assert len(same) > len(OWN) + len(FIT)
    assert [name for name, value in same.items() if not value] == []


def test_gradual_pruning_makes_the_masks_that_one_process_makes(pair):
    found, wanted = tensors(pair, "pruned"), pruned("")
    assert_same(found, wanted, **ROUNDING)
    zeros = {name: t == 0 for name, t in wanted.items()}
    assert torch.cat([z.flatten().double() for n, z in zeros.items() if "blocks" in n]).mean() > 0.5
    assert_same({name: t == 0 for name, t in found.items()}, zeros)


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_sharpness_is_that_of_the_whole_batch(pair, engine):
    assert_same(tensors(pair, f"flat-{engine}"), flat(""), **ROUNDING)


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_a_compiled_network_trains_alike(pair, engine):
    wanted = own_loop("", "single", 1, steps=10)
    assert_same(tensors(pair, f"compiled-{engine}"), wanted, **ROUNDING)


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_mixed_precision_trains_alike_up_to_its_rounding(pair, engine):
    net = build(dtype=torch.float32)
    wanted = own_loop("", "sandwich", 1, net=net, precision=torch.bfloat16)["losses"]
    found = tensors(pair, f"half-{engine}")["losses"]
    torch.testing.assert_close(found[:10], wanted[:10], rtol=0.02, atol=0.0)
    assert found[-5:].mean() < found[:5].mean()


def test_all_begin_with_the_weights_of_the_first(pair):
    assert_same(tensors(pair, "unseeded"), alone(by_fit, "single", 1), **ROUNDING)


def test_the_page_says_what_works(pair):
    found, before = tensors(pair, "documented"), build(3).model.state_dict()
    for name, value in before.items():
        once, twice = found[name], found[f"shards/{name}"]
        assert not torch.equal(once, value)
        assert not torch.equal(twice, once)


# ---------------------------------------------------------------- fit


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_resumed_run_ends_with_the_very_weights(pair, engine, rank):
    """Batch norm and dropout among them."""
    found, wanted = (tensors(pair, f"{kind}-{engine}", rank) for kind in ("resumed", "unbroken"))
    assert_same(found, wanted, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("name", ["resumed-ddp-fsdp", "resumed-fsdp-ddp"])
def test_a_run_goes_on_with_its_weights_in_shards_or_whole(pair, name):
    assert_same(tensors(pair, name), alone(by_fit, "single", 1), **ROUNDING)


def test_processes_that_were_started_differently_are_told_in_what(pair):
    for rank in (0, 1):
        assert "differ in: draws_seed;" in said(pair, rank)["draws"]
        assert "differ in: step;" in said(pair, rank)["lost"]
        assert "before fully_shard" in said(pair, rank)["sharded"]


def test_the_command_writes_the_run_of_one_process(pair, tmp_path):
    assert not list(pair.glob("**/*.tmp"))
    ran = CliRunner().invoke(app, ["train", "digits", "--out", str(tmp_path), "--epochs", "1"])
    assert ran.exit_code == 0, ran.output
    found, wanted = (load_file(p / "model.safetensors") for p in (pair / "run", tmp_path))
    assert_same(found, wanted, rtol=0.0, atol=1e-4)  # float32
    records = [json.loads((p / "run.json").read_text()) for p in (pair / "run", tmp_path)]
    assert [r["status"] for r in records] == ["finished", "finished"]
    assert records[0]["settings"] == records[1]["settings"]


@pytest.mark.parametrize(("size", "processes", "accumulate"), [(8, 2, 1), (7, 2, 3), (5, 4, 3)])
def test_pieces_add_up_to_the_batch(size, processes, accumulate):
    batch = torch.randperm(size)
    shares = [pieces(batch, rank, processes, accumulate) for rank in range(processes)]
    assert sorted(torch.cat([p.indices for s in shares for p in s]).tolist()) == [*range(size)]
    assert len({len(s) for s in shares}) == 1
    assert all(len(p.indices) for s in shares for p in s)
    values = torch.randn(size)
    means = [sum(p.weight * values[p.indices].mean() for p in s) for s in shares]
    torch.testing.assert_close(sum(means) / processes, values.mean())


def test_a_batch_that_is_too_small_for_the_processes_is_refused():
    with pytest.raises(ValueError, match="3 items cannot be shared by 4 processes"):
        BatchPlan(items=100, size=3, seed=0, processes=4)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"accumulate": 0}, "at least 1"),
        ({"recipe": ww.Recipe(precision="float16")}, "use bfloat16"),
    ],
)
def test_what_does_not_go_together_is_refused(more, words):
    with pytest.raises(ValueError, match=words):
        by_fit("fsdp", "single", **{"accumulate": 1, **more})


def test_a_pruner_needs_whole_weights():
    with pytest.raises(ValueError, match="train without shard"):
        pruned("fsdp")


# ---------------------------------------------------------------- sharded networks


@pytest.mark.parametrize("name", SHARDS)
def test_a_sharded_network_is_cut_measured_and_run_as_a_whole_one(pair, name):
    assert_same(tensors(pair, f"cut-{name}"), cut(lambda net: None), rtol=0.0, atol=1e-14)


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_metrics_are_those_of_all_batches(pair, engine):
    wanted = measured("")
    assert len(set(wanted["metrics"].tolist())) > 1
    assert_same(tensors(pair, f"measured-{engine}"), wanted, **ROUNDING)


def test_averaged_scores_are_those_of_all_batches(pair):
    found = tensors(pair, "scores")
    assert_same(found, scores(slice(2)), **ROUNDING)
    assert all((found[n] - t).abs().max() > 1e-9 for n, t in scores(slice(1)).items())


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("name", BRANCHED)
def test_no_draw_leaves_a_parameter_without_gradient(name):
    """So that DistributedDataParallel needs no `find_unused_parameters`.

    A parameter that the model has and never uses is another matter.
    """
    _, net, args, kwargs = made(name)
    narrowest = dict.fromkeys(net.free, 1)
    learns = [with_gradient(net, args, kwargs, w) for w in ({}, narrowest)]
    assert learns[0]
    assert learns[0] == learns[1]


def test_a_parameter_that_the_model_never_uses_would_be_noticed():
    class Spare(distributed_run.Net):
        def __init__(self):
            super().__init__()
            self.spare = torch.nn.Linear(2, 2)

    net = ww.Elastic(Spare(), torch.randn(4, 6))
    learns = with_gradient(net, (torch.randn(4, 6),), {}, {})
    assert {n for n, _ in net.named_parameters()} - learns == {
        "model.spare.weight",
        "model.spare.bias",
    }


def with_gradient(net, args, kwargs, widths):
    """The names of the parameters that get a gradient at these widths."""
    net.zero_grad()
    outputs = net.train()(*args, widths=widths, **kwargs)
    sum(t.double().sum() for t in tensors_in(outputs) if t.requires_grad).backward()
    found = {name for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    net.eval()
    return found
