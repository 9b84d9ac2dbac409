"""A trained network with its best features first, as a run folder, without a training.

    source = find(task, Path("runs/x"))             # or None, for the weights of the task itself
    settings = Settings("digits", ORDERED, 0, {}, source.sha256, {"score": "obd", "samples": 2000})
    run, state = order(settings, source, Path("runs/ordered"), command="...")

An ordered run is a run folder like any other: its widths are prefixes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from widthwise import pruning
from widthwise.app.runs.folder import Run, begin, claim, clear
from widthwise.app.runs.measuring import sample
from widthwise.app.runs.record import Record, Settings, State, constraints_of, now
from widthwise.app.runs.sources import Source, apart, model_of
from widthwise.app.runs.storing import store_checked
from widthwise.app.tasks.resolve import resolve
from widthwise.elastic.network import Elastic
from widthwise.errors import ScoreError
from widthwise.pruning.scores import registry
from widthwise.store import scorefile


def order(
    settings: Settings,
    source: Source,
    folder: Path,
    *,
    command: str,
    overwrite: bool = False,
    progress: bool = False,
) -> tuple[Run, State]:
    """Score and order a trained network into `folder`, which must be held (`folder.hold`).

    Nothing is written before the scores are there. Returns the run and how it was found, as
    `train` does; one that was interrupted is begun again. Raises RunError, DataError,
    FileError, CaptureError, ScoreError.
    """
    task, judged = resolve(settings.task), settings.order["score"]
    registry.find(judged)
    apart(source, folder)
    run, state = claim(folder, settings, overwrite=overwrite)
    if state == "finished":
        return run, state
    net = Elastic(
        model_of(task, source),
        task.example(),
        seed=settings.seed,
        constraints=constraints_of(settings),
    )
    if not net.free:
        raise ScoreError(
            f"Nothing in the network can be cut, so there is nothing to order; see why with: "
            f"widthwise inspect {settings.task}"
        )
    data = task.splits()
    batches = sample(task, data, settings.order["samples"], settings.seed)
    scores = registry.score(net, judged, batches, task.loss, seed=settings.seed, progress=progress)
    ranked = pruning.order_(net, scores)
    scores = {name: value[ranked[name]] for name, value in scores.items()}
    record = Record(
        settings, command, {}, "running", now(), metric=task.metric.name, source=str(source.file)
    )
    record = begin(run, state, record)
    try:
        results = store_checked(net, net.full(), net.cut(net.full()), run.model, task, data)
        scorefile.write(run.scores, scores)
    except KeyboardInterrupt:
        run.write(replace(record, status="interrupted"))
        raise
    except BaseException:
        clear(run)  # so that the folder stands in nobody's way
        raise
    run.write(replace(record, status="finished", finished=now(), results=results))
    return run, state
