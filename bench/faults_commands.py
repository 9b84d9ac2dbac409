"""The commands that `bench/faults.py` disturbs, tiny, and what of theirs is finished work.

All work on the digits, in a folder of their own that holds what the command starts from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SPEC = """task = "digits"
budgets = ["4kB"]
seeds = 1
epochs = 1
fine_tune = 1
methods = ["elastic", "small-dense"]
"""


@dataclass(frozen=True)
class Command:
    """A command and what it starts from.

    words: after `widthwise`. before: the commands whose files it needs, by name.
    trained: the folder of a training, whose optimizer's steps are counted, "" for none.
    """

    name: str
    words: tuple[str, ...]
    before: tuple[str, ...] = ()
    trained: str = ""


def _command(name: str, words: str, *before: str, trained: str = "") -> Command:
    return Command(name, tuple(words.split()), before, trained)


COMMANDS = {
    command.name: command
    for command in (
        _command("train", "train digits --out run --epochs 4", trained="run"),
        _command(
            "train, pruning",
            "train digits --out sparse --epochs 4 --sparsity 0.8",
            trained="sparse",
        ),
        _command("sweep", "sweep run --no-latency --num-widths 6", "train"),
        _command("order", "order digits --from run --out ordered --samples 300", "train"),
        _command("prune", "prune digits --from run --sparsity 0.8 --out pruned.st", "train"),
        _command("cut", "cut run --fraction 0.5 --out run/small.st", "train", "sweep"),
        _command("export", "export run --format onnx --out run/full.onnx", "train"),
        _command("search", "search run --max-bytes 8kB --trials 12 --out found.st", "train"),
        _command("compare", "compare few.toml --out compared --workers 2"),
    )
}


def prepare(folder: Path) -> None:
    """What every command may read."""
    (folder / "few.toml").write_text(SPEC)
