"""The readers of widthwise, each as a function from a file to what was read of it, and valid files.

    loader = LOADERS["plain"]
    loader.load(path)                # what is in it, so that two loads can be compared
    seeds(folder)["plain"]           # bytes of small valid files, each kind of content once

Networks are tiny, so that thousands of files are read in a second.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

import hostile_web
from widthwise import quantization
from widthwise.app.compare import matrix, spec
from widthwise.app.compare.outcome import Outcome
from widthwise.app.report.picks import Pick, load_picks, save_picks
from widthwise.app.runs.folder import Run
from widthwise.app.runs.record import Record, Settings
from widthwise.app.runs.sources import Source, model_of
from widthwise.elastic.network import Elastic
from widthwise.formats import Codebook, Uniform
from widthwise.measure.frontier import Frontier, Point
from widthwise.store import inputs, scorefile, stream
from widthwise.store.file import load, read, save
from widthwise.store.manifest import Measured
from widthwise.store.progressive.reader import Progressive
from widthwise.store.progressive.writer import save_progressive
from widthwise.task import Splits, Task
from widthwise.train import checkpoint
from widthwise.train.history import Epoch
from widthwise.train.recipe import Recipe
from widthwise.variant import Widths
from widthwise.variants import journal

MEASURED = Measured("accuracy", 0.875, "test")


class Net(nn.Module):
    """Linear layers, a batch norm, and two that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 6)
        self.again = nn.Linear(6, 8)
        self.again.weight = self.fc1.weight
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc2(self.norm(self.fc1(x)).relu()).relu()
        return self.out(self.again(x).relu())


class Odd(nn.Module):
    """One whose class cannot express its cuts, so that files hold its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if x.shape[1] != 6:
            raise ValueError("another size")
        return self.fc2(x.relu())


@dataclass(frozen=True)
class Loader:
    """kind: how its files are forged. load: (path) -> what was read, comparable."""

    kind: str
    load: Callable[[Path], object]


def task() -> Task:
    """One whose model is `Net`; it has no data."""

    def splits() -> Splits:
        raise NotImplementedError

    return Task("tiny", Net, lambda: (torch.zeros(2, 6),), splits, nn.functional.cross_entropy)


def told(module: nn.Module) -> object:
    """All that makes a network: its tensors' bits, its layers' sizes, what is shared."""
    state = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    sizes = [
        (name, key, value)
        for name, sub in module.named_modules()
        for key, value in vars(sub).items()
        if isinstance(value, int | tuple) and not key.startswith("_")
    ]
    shared = len({id(t) for t in state.values()})
    return _tensors(state), repr(sizes), shared, module.training


def _tensors(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _graph(path: Path) -> object:
    """All of a stored graph but its capture, which is none of the reader's."""
    tensors, manifest = read(path)
    if manifest.kind == "class":
        return told(load(path, Odd))
    try:
        example = inputs.example(manifest.inputs)
    except (ValueError, TypeError, RecursionError):  # as `load` takes them: one sentence
        return None
    return _tensors(tensors), repr(manifest), repr(example)


def _journal(path: Path) -> object:
    with journal.opened(path, "a", maximize=True) as study:
        trials = study.get_trials(deepcopy=False)
        count = journal.finished(study)
        return count, repr([(t.number, t.state, t.values, t.params, t.user_attrs) for t in trials])


def _index(path: Path) -> object:
    files = stream._files(path)
    outside = [file for file in files.values() if file.parent != path.parent]
    if outside:
        raise AssertionError(f"{outside[0]} lies elsewhere")
    return repr(sorted(files.items()))


LOADERS: dict[str, Loader] = {
    "plain": Loader("plain", lambda path: told(load(path, Net))),
    "graph": Loader("plain", _graph),
    "packed": Loader("packed", lambda path: told(load(path, Net))),
    "quantized": Loader("packed", lambda path: told(load(path, Net))),
    "progressive": Loader("progressive", lambda path: told(load(path, Net))),
    "web": Loader("web", lambda path: told(hostile_web.load(path, Net))),
    "scores": Loader("plain", lambda path: _tensors(scorefile.read(path))),
    "weights": Loader("weights", lambda path: told(model_of(task(), Source(path, "")))),
    "index": Loader("json", _index),
    "checkpoint": Loader("checkpoint", lambda path: _checkpoint(path)),
    "record": Loader("json", lambda path: repr(Run(path.parent).record())),
    "frontier": Loader("json", lambda path: repr(Frontier.load(path))),
    "picks": Loader("json", lambda path: repr(load_picks(path))),
    "outcomes": Loader("json", lambda path: repr(matrix.read_outcomes(path))),
    "comparison": Loader("text", lambda path: repr(spec.read(path))),
    "journal": Loader("lines", _journal),
}

# Loaders of a file by its place in a folder.
NAMES = {"record": "run.json", "checkpoint": checkpoint.NAME, "index": stream.INDEX}

# Files that people write by hand, or that others write, have no checksum: a changed one is another.
UNSEALED = {"weights", "index", "comparison"}


def _checkpoint(path: Path) -> object:
    found = checkpoint.load(path.parent)
    assert found is not None
    return _tensors(found.tensors), repr({k: v for k, v in vars(found).items() if k != "tensors"})


# ---------------------------------------------------------------- valid files


def seeds(folder: Path) -> dict[str, list[bytes]]:
    """Valid files of every loader, as bytes. folder: to write in.

    Of a progressive file, also the beginnings that end with a level, which are files themselves.
    """
    torch.manual_seed(0)
    found = {**_networks(folder), **_others(folder)}
    found["web"] = [hostile_web.plan() + file for file in found["progressive"][1:]]
    return {name: found[name] for name in LOADERS}


def _networks(folder: Path) -> dict[str, list[bytes]]:
    net, odd = Elastic(Net(), (torch.randn(4, 6),)), Elastic(Odd(), (torch.randn(2, 4),))
    path, half = folder / "net.safetensors", net.widths(0.5)

    def stored(elastic: Elastic, **options: Any) -> bytes:
        return save(elastic, path, **options).read_bytes()

    plain = [stored(net, metric=MEASURED), stored(net, widths=half)]
    plain.append(save(Net(), path).read_bytes())
    graph = [stored(odd, widths=odd.widths(0.5))]
    cut = net.cut(half)
    made = quantization.quantize_(cut, {"fc1.weight": Uniform(4), "fc2.weight": Codebook(4)})
    coded = [stored(net, widths=half, module=cut, bits=made)]
    wide = net.cut(net.full())
    with torch.no_grad():
        for weight in (wide.fc1.weight, wide.fc2.weight):
            weight[torch.rand_like(weight) < 0.8] = 0
    packed = [stored(net, module=wide, pack=how) for how in ("zeros", "zstd")]
    forms = {"fc1.weight": Uniform(3, per="group", group=4), "fc2.weight": Uniform(8, True)}
    coded.append(stored(net, module=wide, bits=quantization.quantize_(wide, forms), pack="zeros"))
    levels = [net.widths(f) for f in (0.25, 0.5, 1)]
    metrics = [MEASURED, None, MEASURED]
    beginnings = []
    for few in (None, [8, None, 3]):
        data = save_progressive(net, path, levels, metrics=metrics, bits=few).read_bytes()
        with Progressive.open(path) as file:
            beginnings += [data[: level.bytes] for level in file.levels]
    return {
        "plain": plain, "graph": graph, "packed": packed, "quantized": coded,
        "progressive": [save_progressive(net, path, levels[:1]).read_bytes(), *beginnings],
        "weights": [safetensors.torch.save(_apart(Net().state_dict())), plain[0]],
    }  # fmt: skip


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _others(folder: Path) -> dict[str, list[bytes]]:
    path = folder / "file"
    settings = Settings("digits", "elastic", 0, asdict(Recipe()), pruning={"final": 0.8})
    run = Run(folder)
    run.write(Record(settings, "widthwise train", {"p": 0.5}, "finished", "2026-01-01T00:00:00"))
    point = Point(Widths({"fc1": 4}), 0.9, None, 1234, 100, 90, 0.5)
    frontier = Frontier((point, point), "accuracy", True, "valid", "torch", seeds=(0,))
    save_picks(path, [Pick("small", {"fc1": 4}, 1234, 0.9, file="small.safetensors")])
    found = {
        "record": [run.record_file.read_bytes()],
        "picks": [path.read_bytes()],
        "frontier": [frontier.save(path).read_bytes(), frontier.to_json().encode()],
        "scores": [scorefile.write(path, {"fc1": torch.rand(8), "b": torch.rand(6)}).read_bytes()],
        "index": [b'{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}'],
        "comparison": [b'task = "digits"\nbudgets = ["2kB", 10000]\nseeds = 2\nepochs = 1\n'
                       b'methods = ["elastic*", "search"]\n'],
    }  # fmt: skip
    outcome = Outcome(
        "search", 2000, 0, True, "fc1 4", 1900, {"codes": 9}, {"valid": 1.0, "test": 1.0}
    )
    matrix._write(path, {"outcomes": [outcome.to_dict(), Outcome("x", 9, 0, False).to_dict()]})
    found["outcomes"] = [path.read_bytes()]
    found["checkpoint"] = [_written_checkpoint(folder)]
    found["journal"] = [_written_journal(folder / "search.jsonl")]
    return found


def _written_checkpoint(folder: Path) -> bytes:
    tensors = {"model/fc1.weight": torch.rand(2, 3), "optimizer/fc1.weight/step": torch.tensor(3)}
    state = checkpoint.Checkpoint(
        step=7,
        run={"lr": 0.1},
        epochs=(Epoch(0.5, 0.9, 1.0),),
        losses=(0.25, 2),
        draws={"fit": (0, 7)},
        seconds=2.5,
        tensors=tensors,
    )
    checkpoint.save(folder, state)
    return (folder / checkpoint.NAME).read_bytes()


def _written_journal(path: Path) -> bytes:
    with journal.opened(path, "a", maximize=True) as study:
        for number in range(2):
            trial = journal.next_trial(study, number, [{"a": 0.5}, {"a": 0.25}], seed=0)
            trial.suggest_float("a", 0, 1)
            notes = {"costs": {"bytes": 5}, "variant": {"widths": {"fc1": 3}}}
            value = None if number else math.pi
            journal.end_trial(study, trial, value=value, excess=0.0, notes=notes)
    return path.read_bytes()
