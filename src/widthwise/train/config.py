"""Where and how a training runs, apart from what it is: its folder, seed, processes and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from widthwise.train.tracking import Tracker, named


@dataclass(frozen=True)
class RunConfig:
    """Where and how a training runs.

    Args:
        folder: where the run is kept, after every epoch and (unless there are several processes)
            every `save_every` seconds. When it holds an unfinished run, that one goes on; when the
            run is finished, its weights are loaded, or trained on where the recipe has more epochs
            (with a warning). A run is known by its recipe, seed, loss, network and data
            (`train.identity`). None keeps nothing.
        seed: of the order of the data, its augmentation and dropout. The draws of widths have a
            seed of their own, the Elastic's; its `step` starts at 0.
        log: "csv", "tensorboard" or both: write what every epoch came to into the folder, as
            history.csv or as events in the folder tensorboard, which needs that package.
        progress: a line for each epoch, and on a terminal a bar; False shows nothing.
        workers: processes that fetch ahead, for data sets that are slow to index.
        cpu: stay on the CPU even where there is a GPU.
        save_every: seconds between two checkpoints within an epoch.
        accumulate: pieces in which each process runs its share of a batch, one after another, to
            save memory. All pieces of a step have the same widths.
        shard: of several processes, each keeps only its share of the weights, of their gradients
            and of the optimizer's state (FSDP2). The network is whole again at the end. Sharding
            goes without pruning, quantization and float16.

    Raises:
        ValueError: For a number of pieces, and for a log, that cannot be.

    Example:
        fit(net, train, F.cross_entropy, run=RunConfig(folder="runs/a", seed=1))
    """

    folder: str | PathLike[str] | None = None
    seed: int = 0
    log: str | Sequence[str] = ()
    progress: bool = True
    workers: int = 0
    cpu: bool = False
    save_every: float = 300.0
    accumulate: int = 1
    shard: bool = False

    def __post_init__(self) -> None:
        if type(self.accumulate) is not int or self.accumulate < 1:
            raise ValueError(f"accumulate is {self.accumulate!r}; give an integer of at least 1.")
        named(self.log)

    @property
    def trackers(self) -> tuple[Tracker, ...]:
        """What writes down what every epoch came to."""
        return named(self.log)

    @property
    def place(self) -> Path | None:
        """The folder, as a path."""
        return None if self.folder is None else Path(self.folder)
