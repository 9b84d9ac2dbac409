"""The trials of a search, as optuna keeps them: in memory, or as lines of JSON in a file.

    with opened(Path("search.jsonl"), name, maximize=True) as study:
        for number in range(finished(study), 100):
            trial = next_trial(study, number, beginning, seed=0)
            end_trial(study, trial, value=..., excess=..., notes=...)

A trial's numbers follow from its own number and from what the trials before it came to, so that a
search which was stopped goes on as if it had not been. Several searches may share a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from widthwise.common.lock import held
from widthwise.common.messages import lacking
from widthwise.errors import FileError
from widthwise.sampling.draws import hashed
from widthwise.variants.journal_file import Lines

Study = Any
Trial = Any  # of optuna, which not everyone has


def optuna() -> Any:
    """The package. Raises ModuleNotFoundError with what to install."""
    try:
        import optuna as found
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(lacking("optuna", "A search"), name="optuna") from error
    return found


@contextmanager
def opened(path: Path | None, name: str, *, maximize: bool) -> Iterator[Study]:
    """A study to ask and to tell, with the trials that the file has.

    path: made where there is none; None keeps nothing. While it is open, no other process gets it.
    Raises FileError for a file that is damaged or of something else, RunError for one in use.
    """
    logging = optuna().logging
    said = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with nullcontext() if path is None else held(path.parent, f".{path.name}.lock"):
            yield optuna().create_study(
                storage=None if path is None else _storage(path),
                study_name=name,
                direction="maximize" if maximize else "minimize",
                load_if_exists=True,
            )
    finally:
        logging.set_verbosity(said)


def finished(study: Study) -> int:
    """How many trials came to an end."""
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def next_trial(
    study: Study, number: int, beginning: Sequence[Mapping[str, Any]], seed: int
) -> Trial:
    """The trial of this number: one to begin with, or what TPE (Bergstra et al., 2011) suggests.

    One that was begun before and never ended is begun again.
    """
    package = optuna()
    study.sampler = package.samplers.TPESampler(
        n_startup_trials=len(beginning),
        multivariate=True,
        constant_liar=False,
        seed=hashed(seed, [number]) % 2**32,
    )
    begun = study.get_trials(deepcopy=False)[number:]
    if begun and begun[0].state == package.trial.TrialState.RUNNING:
        return package.Trial(study, begun[0]._trial_id)
    if not begun and number < len(beginning):
        study.enqueue_trial(dict(beginning[number]))
    return study.ask()


def kept(path: Path) -> list[Trial]:
    """All trials of all searches of a file that came to an end, even while one goes on.

    Raises FileError, and ModuleNotFoundError without optuna.
    """
    logging = optuna().logging
    said = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        storage = _read(path)
        studies = [study._study_id for study in storage.get_all_studies()]
        trials = [trial for i in studies for trial in storage.get_all_trials(i, deepcopy=False)]
        return [trial for trial in trials if trial.state.is_finished()]
    except Exception as error:  # its reader checks nothing, so that anything may go wrong in it
        raise _damaged(path) from error
    finally:
        logging.set_verbosity(said)


def end_trial(
    study: Study, trial: Trial, *, value: float | None, excess: float, notes: Mapping[str, Any]
) -> None:
    """Keep what a trial came to.

    value: None where there is none, which makes it worse than all others. excess: by what share the
    budget was missed, above 0. notes: kept beside it, as JSON.
    """
    for name, note in notes.items():
        trial.set_user_attr(name, note)
    # A process may have ended right here before, and then it is there.
    if not study.get_trials(deepcopy=False)[trial.number].constraints:
        trial.set_constraint("budget", excess)
    if value is None:
        study.tell(trial, state=optuna().trial.TrialState.PRUNED)
    else:
        study.tell(trial, value)


def _storage(path: Path) -> Any:
    """The file as optuna sees it; nothing of it is unpickled. Raises FileError."""
    try:
        storage = _read(path)
        return _read(path) if _mended(path) else storage
    except OSError as error:
        raise FileError(
            f"{path} cannot be written ({error.strerror}); give another journal."
        ) from error
    except Exception as error:  # its reader checks nothing, so that anything may go wrong in it
        raise _damaged(path) from error


def _read(path: Path) -> Any:
    return optuna().storages.JournalStorage(Lines(path))


def _damaged(path: Path) -> FileError:
    return FileError(
        f"{path} is damaged, or not the journal of a search; delete it, or give another."
    )


def _mended(path: Path) -> bool:
    """Take away a last line that was not written to its end, after which none could be read.

    Raises ValueError where that is not what the file's end looks like.
    """
    with path.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if text:
            json.loads(text[:whole].splitlines()[-1] if whole else b"")
        if whole == len(text):
            return False
        file.truncate(whole)
        file.flush()
        os.fsync(file.fileno())
    return True
