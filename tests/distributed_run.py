"""Trainings for tests that start several processes: `torchrun ... distributed_run.py FOLDER`.

The same functions are the single-process reference, `world()` being (0, 1) there. Everything is in
float64 and without statistics over samples, so that what is equal in theory is equal to rounding.
"""

from __future__ import annotations

import copy
import json
import os
import re
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

import widthwise as ww
from fitting import fitted
from places import ROOT
from torchvision_operators import declare
from widthwise.app.cli.main import app
from widthwise.app.tasks.arrays import Arrays
from widthwise.train.losses import SandwichLoss, SingleDraw, StepLoss

STEPS = 20
LOSSES = ("single", "sandwich")
OWN = [(e, kind, n) for e in ("ddp", "fsdp") for kind in LOSSES for n in (1, 2)]
FIT = [(e, kind, n) for e in ("ddp", "fsdp") for kind in LOSSES for n in (1, 2)]
# 38 items are four batches of 8 and one of 6, which two pieces of two processes share unevenly.
RECIPE = ww.Recipe(epochs=4, batch_size=8, lr=1e-2, weight_decay=0.01, clip=1.0, ema=0.9)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.up, self.down = nn.Linear(12, 24), nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Net(nn.Module):
    """A residual stream of 12 and two hidden layers of 24."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(12, 3)
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.first(x)))


class Normed(nn.Sequential):
    """With statistics over samples and dropout: the same on all ranks, not as on one."""

    def __init__(self) -> None:
        hidden = (nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))
        super().__init__(*hidden, nn.Linear(16, 3))


def build(
    seed: int = 0, draws: int = 4, kind: type[nn.Module] = Net, dtype: Any = torch.float64
) -> ww.Elastic:
    return copy.deepcopy(_built(seed, draws, kind, dtype))


@cache
def _built(seed: int, draws: int, kind: type[nn.Module], dtype: Any) -> ww.Elastic:
    torch.manual_seed(seed)
    example = torch.randn(4, 6, dtype=dtype)
    return ww.Elastic(kind().to(dtype), example, draw=ww.Draw(p=0.8), seed=draws)


def data(items: int = 38) -> Arrays:
    x = torch.randn(items, 6, generator=torch.Generator().manual_seed(1)).double()
    return Arrays(x, (x[:, :3] ** 2).argmax(1))


def world() -> tuple[int, int]:
    """(rank, number of processes)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def objective(net: ww.Elastic, kind: str) -> Any:
    return (SandwichLoss if kind == "sandwich" else SingleDraw)(net, F.cross_entropy)


def whole(net: nn.Module) -> dict[str, Tensor]:
    """Copies of all tensors, sharded ones whole."""
    named = dict(net.state_dict())
    full = {n: t.full_tensor() if hasattr(t, "full_tensor") else t for n, t in named.items()}
    return {n: t.detach().clone() for n, t in full.items()}


def wrapped(step: StepLoss, engine: str) -> nn.Module:
    if engine == "ddp":
        return DistributedDataParallel(step)
    if engine == "fsdp":
        fully_shard(step.net)
    return step


def sync(step: nn.Module, engine: str, wanted: bool) -> None:
    if engine == "ddp":
        step.require_backward_grad_sync = wanted  # as no_sync() sets it
    elif engine == "fsdp":
        step.net.set_requires_gradient_sync(wanted)


def own_loop(
    engine: str,
    kind: str,
    accumulate: int,
    *,
    net: ww.Elastic | None = None,
    steps: int = STEPS,
    precision: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """A loop of the user's own: losses (steps,), means over the ranks, and the final weights."""
    net = build() if net is None else net
    step = wrapped(StepLoss(net, objective(net, kind)).train(), engine)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    x, y = batches(steps)
    rank, count = world()
    losses = torch.zeros(steps, dtype=torch.float64)
    for i in range(steps):
        parts = list(zip(x[i].chunk(accumulate), y[i].chunk(accumulate), strict=True))
        for number, (inputs, target) in enumerate(parts):
            sync(step, engine, number == len(parts) - 1)
            inputs = inputs.to(next(net.parameters()).dtype)
            with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
                loss = step(inputs[rank::count], target[rank::count]) / accumulate
            loss.backward()
            losses[i] += loss.detach()
        optimizer.step()
        optimizer.zero_grad()
    if count > 1:
        dist.all_reduce(losses)
    return {"losses": losses / count, **whole(net.model)}


def batches(steps: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(steps, 8, 6, generator=torch.Generator().manual_seed(2)).double()
    return x, (x[..., :3] ** 2).argmax(-1)


def by_fit(
    engine: str, kind: str, accumulate: int, *, net: ww.Elastic | None = None, **more: Any
) -> dict[str, Tensor]:
    """A run of `fit`: the losses and metrics of its epochs, and the final weights."""
    net = build() if net is None else net
    settings: dict[str, Any] = {
        "recipe": RECIPE,
        "valid": data(),
        "metric": ww.ACCURACY,
        "accumulate": accumulate,
        "shard": engine == "fsdp",
        "cpu": True,
        **more,
    }
    history = fitted(net, data(), objective(net, kind), **settings)
    found = torch.tensor([(e.loss, e.metric) for e in history.epochs], dtype=torch.float64)
    return {"losses": found, **whole(net.model)}


def pruned(engine: str = "ddp") -> dict[str, Tensor]:
    net = build()
    pruner = ww.GradualPruner(net, ww.Schedule(0.7, begin=4, end=16), levels=ww.even_levels(net, 3))
    return by_fit(engine, "sandwich", 1, net=net, compress=pruner)


def flat(engine: str) -> dict[str, Tensor]:
    recipe = ww.Recipe(epochs=2, batch_size=8, lr=1e-2, sam=0.05)
    return by_fit(engine, "single", 2, recipe=recipe)


class Stop(Exception):
    """Of a run that is stopped in the middle."""


def resumed(folder: Path, first: str, then: str, kind: type[nn.Module]) -> dict[str, Tensor]:
    """A run that is stopped in its third epoch and goes on, perhaps on another engine."""
    calls = 0

    def stopping(outputs: Tensor, target: Tensor) -> Any:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise Stop
        return ww.ACCURACY.batch(outputs, target)

    metric = ww.Metric("accuracy", stopping, additive=True)
    try:
        by_fit(first, "single", 1, net=build(kind=kind), folder=folder, metric=metric)
    except Stop:
        return by_fit(then, "single", 1, net=build(7, kind=kind), folder=folder)
    raise AssertionError("it was not stopped")


def cut(shard: Callable[[ww.Elastic], None]) -> dict[str, Tensor]:
    """What a sharded network gives outside of its forward; after a step, when it is in shards."""
    net = build()
    shard(net)
    step = StepLoss(net, objective(net, "single")).train()
    step(torch.ones(2, 6).double(), torch.tensor([0, 1])).backward()
    x = batches(1)[0][0]
    half, third = net.widths(0.5), net.widths(1 / 3)
    evaluation = ww.Evaluation([(x, batches(1)[1][0])], ww.ACCURACY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ww.GraphModuleWarning)
        small = net.cut(half)
    points = ww.sweep(net, evaluation, [half, third], latency=False).points
    net.eval()
    return {
        "cut": small.eval()(x).detach(),
        "each": torch.stack(list(net.each([half, third], x))),
        "eval": net(x).detach(),
        "metrics": torch.tensor([p.metric for p in points]),
    }


def shard_blocks(net: ww.Elastic) -> None:
    """As is usual for a model that runs its modules."""
    for block in net.model.blocks:
        fully_shard(block)
    fully_shard(net)


def measured(engine: str) -> dict[str, Tensor]:
    """Metrics on three batches, of which two processes have two and one."""
    net = build()
    if engine == "fsdp":
        fully_shard(net)
    many = list(zip(*batches(3), strict=True))
    evaluation = ww.Evaluation(many, ww.ACCURACY, shared=True)
    widths = [net.widths(f) for f in (0.1, 0.5, 1.0)]
    points = ww.sweep(net, evaluation, widths, latency=False)
    found = {"metrics": torch.tensor([p.metric for p in points.points], dtype=torch.float64)}
    declare()  # torchmetrics imports torchvision
    from torchmetrics.classification import MulticlassF1Score

    others = {
        "state": MulticlassF1Score(3, average="macro"),
        "all at once": ww.Metric("spread", lambda out, target: float(out.std())),
        "not added": ww.Metric("uneven", lambda out, target: (float(out.std()), 1)),
    }
    for name, metric in others.items():
        values = ww.Evaluation(many, metric, shared=True).at(net, widths)
        found[name] = torch.tensor(values, dtype=torch.float64)
    return found


def scores(items: slice) -> dict[str, Tensor]:
    """Scores on some of two batches, averaged over the processes."""
    many = list(zip(*batches(2), strict=True))
    found = ww.pruning.taylor(build(), many[items], F.cross_entropy)
    return ww.pruning.averaged(found)


SHARDS: dict[str, Callable[[ww.Elastic], Any]] = {
    "net": fully_shard,
    "model": lambda net: fully_shard(net.model),
    "blocks": shard_blocks,
}


def same_on_all(tensors: dict[str, Tensor]) -> bool:
    """Whether all ranks have the same bits."""
    equal = True
    for tensor in tensors.values():
        first = tensor.clone()
        dist.broadcast(first, 0)
        equal &= bool((first == tensor).all())
    return equal


def refusal(call: Callable[[], Any]) -> str:
    try:
        call()
    except ww.WidthwiseError as error:
        return str(error)
    return ""


def documented() -> dict[str, Tensor]:
    """What the page says, as it stands (it joins the processes): its loop, and again in shards."""
    page = (ROOT / "docs" / "distributed.md").read_text()
    whole_weights, shards = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    loop = whole_weights[whole_weights.index("for inputs") :]
    rank, model = int(os.environ["RANK"]), build(3).model
    x, y = batches(4)
    share = list(zip(x[:, rank::2], y[:, rank::2], strict=True))
    scope = {"model": model, "example": x[0], "my_share_of_the_batches": share}
    exec(whole_weights, scope)
    first = whole(model)
    exec(shards + loop, scope)
    return {f"shards/{n}": t for n, t in whole(model).items()} | first


def main(folder: Path) -> None:
    """All cases, one after another; each rank writes what it has under its number."""
    trained = documented()
    rank, _ = world()
    found: dict[str, Any] = {}

    def keep(name: str, tensors: dict[str, Tensor]) -> None:
        found[f"{name} same"] = same_on_all(tensors)
        save_file(tensors, folder / f"{name}-{rank}.safetensors")

    keep("documented", trained)
    for case in OWN:
        keep(f"own-{'-'.join(map(str, case))}", own_loop(*case))
    for case in FIT:
        keep(f"fit-{'-'.join(map(str, case))}", by_fit(*case))
    keep("own-other-draws", own_loop("ddp", "single", 1, net=build(draws=4 + rank)))
    keep("pruned", pruned())
    for engine in ("ddp", "fsdp"):
        keep(f"flat-{engine}", flat(engine))
        single = build(dtype=torch.float32)
        keep(
            f"half-{engine}", own_loop(engine, "sandwich", 1, net=single, precision=torch.bfloat16)
        )
        compiled = build()
        compiled.compile(backend="eager", dynamic=True)
        keep(f"compiled-{engine}", own_loop(engine, "single", 1, net=compiled, steps=10))
        keep(f"unbroken-{engine}", by_fit(engine, "single", 1, net=build(kind=Normed)))
        keep(f"resumed-{engine}", resumed(folder / engine, engine, engine, Normed))
    keep("resumed-ddp-fsdp", resumed(folder / "both", "ddp", "fsdp", Net))
    keep("resumed-fsdp-ddp", resumed(folder / "other", "fsdp", "ddp", Net))
    for engine in ("ddp", "fsdp"):
        keep(f"measured-{engine}", measured(engine))
    keep("scores", scores(slice(rank, rank + 1)))
    for name, shard in SHARDS.items():
        keep(f"cut-{name}", cut(shard))
    keep("unseeded", by_fit("fsdp", "single", 1, net=build(rank)))
    found["draws"] = refusal(lambda: by_fit("ddp", "single", 1, net=build(draws=4 + rank)))
    # A folder that only the first process sees, with a run in it.
    seen = folder / ("both" if rank == 0 else "empty")
    found["lost"] = refusal(lambda: by_fit("ddp", "single", 1, folder=seen))
    sharded = Net()
    fully_shard(sharded)
    assert isinstance(sharded, FSDPModule)
    found["sharded"] = refusal(lambda: ww.Elastic(sharded, torch.ones(2, 6)))
    app(["train", "digits", "--out", str(folder / "run"), "--epochs", "1"], standalone_mode=False)
    (folder / f"found-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
