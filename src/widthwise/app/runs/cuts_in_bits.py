"""Cuts of a run's network in few bits: taught by the full network with their weights quantized.

    picks = cut_to_bytes(opened, [3], ["6kB", "16kB"], [Path("6kB"), Path("16kB")])
    picks = cut_at(opened, 3, [net.widths(0.5)], [Path("half")])

A network in few bits is wider than one in floats of as many bytes, and mostly better. Functions
that neither parse nor print, as in `cuts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from widthwise.app.report.picks import Pick, load_picks
from widthwise.app.runs.cuts import judges_evaluation, make, usual_post_processing
from widthwise.app.runs.measuring import evaluation
from widthwise.app.runs.opening import Opened
from widthwise.app.runs.postprocessing import PostProcess, teach_in_bits
from widthwise.app.runs.reports import note
from widthwise.app.runs.storing import inside, store_checked, writable
from widthwise.common.units import format_size, parse_size
from widthwise.errors import BudgetError
from widthwise.quantization import Quantized, StraightThrough, Uniform, quantizable
from widthwise.quantization.quantized import on_cpu
from widthwise.store.file import prepare
from widthwise.task import Splits
from widthwise.variant import Variant, Widths
from widthwise.variants import apply
from widthwise.variants.sizing import along, coded, fitted, widest_file


@dataclass(frozen=True)
class CodedCut:
    """A network in few bits.

    record: its quantized tensors, for its file. bytes: of that file. how: it was taught. valid: its
    metric on validation data, where it was measured.
    """

    widths: Widths
    module: nn.Module
    record: Mapping[str, Quantized]
    bytes: int
    how: PostProcess
    valid: float | None = None


def cut_to_bytes(
    opened: Opened,
    bits: Sequence[int],
    sizes: Sequence[int | str],
    outs: Sequence[Path],
    *,
    progress: bool = False,
) -> list[Pick]:
    """For each size the widest network along the levels whose file has at most so many bytes.

    bits: of a weight; of several numbers, each is tried, and the best on validation data is kept.

    Raises BudgetError where nothing fits, and as `cut_at`.
    """
    limits = [parse_size(size) for size in sizes]
    _check(opened, outs)
    for limit in limits:
        _check_limit(opened, bits, limit)
    data = opened.task.splits()
    judge = evaluation(opened.task, data, "valid")
    best: dict[int, CodedCut] = {}
    why: dict[int, BudgetError] = {}
    for each in dict.fromkeys(bits):
        made, missed = fitting(opened, each, limits, data, progress=progress)
        why |= missed
        for i, one in made.items():
            judged = replace(one, valid=judge(one.module)) if len(bits) > 1 else one
            if i not in best or _better(opened, judged, best[i]):
                best[i] = judged
    for i in range(len(limits)):
        if i not in best:
            raise why[i]
    return [_store(opened, data, best[i], out) for i, out in enumerate(outs)]


def fitting(
    opened: Opened, bits: int, limits: Sequence[int], data: Splits, *, progress: bool = False
) -> tuple[dict[int, CodedCut], dict[int, BudgetError]]:
    """The networks of one number of bits by place of their limit, and why others are missing."""
    found = fitted(
        limits,
        partial(widest_file, opened.net, _variant(opened, bits)),
        lambda widths: taught(opened, bits, widths, data, progress=progress),
    )
    missed = {i: _missed(opened, bits, most) for i, most in enumerate(limits) if i not in found}
    return found, missed


def _missed(opened: Opened, bits: int, limit: int) -> BudgetError:
    """Why there is no network of so few bytes."""
    try:
        widest(opened, bits, limit)
    except BudgetError as error:
        return error
    return BudgetError(
        f"No network in {bits} bits was found whose file has at most {format_size(limit)} "
        f"({limit} bytes) once it is trained; allow a little more, or ask for fewer bits."
    )


def cut_at(
    opened: Opened,
    bits: int,
    widths: Sequence[Mapping[str, int]],
    outs: Sequence[Path],
    *,
    progress: bool = False,
) -> list[Pick]:
    """Cut a run's network at these widths, teach the cuts in few bits, store and note them.

    Raises WidthError, DataError, FileError, ScoreError, TrainingError, QuantizationError.
    """
    _check(opened, outs)
    data = opened.task.splits()
    kept = [opened.net.complete(w) for w in widths]
    made = taught(opened, bits, kept, data, progress=progress)
    return [_store(opened, data, each, out) for each, out in zip(made, outs, strict=True)]


def widest(opened: Opened, bits: int, most: float) -> Widths:
    """The widest network along the levels whose file has at most so many bytes before its training.

    Raises BudgetError, which names the least that there is.
    """
    net = opened.net
    variant = _variant(opened, bits)
    found = widest_file(net, variant, most)
    if found is None:
        least = apply(net, variant(along(net)[0]), calibration="minmax", recalibrate=False).bytes
        raise BudgetError(
            f"No network in {bits} bits fits into {format_size(round(most))}; the smallest has "
            f"{format_size(least)}."
        )
    return found


def _variant(opened: Opened, bits: int) -> Callable[[Widths], Variant]:
    return partial(coded, opened.net, Uniform(bits))


def taught(
    opened: Opened, bits: int, widths: Sequence[Widths], data: Splits, *, progress: bool = False
) -> list[CodedCut]:
    """Cuts that the full network has taught, in few bits. The run is left as it is.

    Raises WidthError, ScoreError, TrainingError, QuantizationError.
    """
    net, task, seed = opened.net, opened.task, opened.record.settings.seed
    if not judges_evaluation(opened, data):
        task = replace(task, distill=None)
    usual = [usual_post_processing(opened, w) for w in widths]
    modules = nn.ModuleList(m.module for m in make(opened, widths, data, usual))
    groups = [modules] if task.distill else [*modules]
    record: dict[str, Quantized] = {}
    for i, each in enumerate(groups):
        quantizer = StraightThrough(each, dict.fromkeys(quantizable(each), Uniform(bits)))
        teach_in_bits(each, net, task, data.train, quantizer, seed=seed, progress=progress)
        prefix = "" if each is modules else f"{i}."
        record |= {f"{prefix}{name}": on_cpu(q) for name, q in quantizer.record.items()}
    modules.cpu().eval()
    net.cpu().eval()
    found = []
    for i, (kept, module) in enumerate(zip(widths, modules, strict=True)):
        own = {n.removeprefix(f"{i}."): q for n, q in record.items() if n.startswith(f"{i}.")}
        how = PostProcess.DISTILL if task.distill else PostProcess.FINE_TUNE
        found.append(CodedCut(kept, module, own, prepare(net, kept, module, bits=own).bytes, how))
    return found


def _check(opened: Opened, outs: Sequence[Path]) -> None:
    """Damaged files, and places that cannot be written, are found before the work is done."""
    for out in outs:
        writable(out)
    load_picks(opened.run.picks)


def _check_limit(opened: Opened, bits: Sequence[int], limit: int) -> None:
    """Raise BudgetError, before anything is trained, where no number of bits gives so few bytes."""
    error: BudgetError | None = None
    for each in bits:
        try:
            widest(opened, each, limit)
        except BudgetError as raised:
            error = raised
        else:
            return
    if error is not None:
        raise error


def _better(opened: Opened, one: CodedCut, other: CodedCut) -> bool:
    """Whether one that was judged is better than another."""
    assert one.valid is not None
    assert other.valid is not None
    return opened.task.metric.better(one.valid, other.valid)


def _store(opened: Opened, data: Splits, made: CodedCut, out: Path) -> Pick:
    net, run = opened.net, opened.run
    task = opened.task
    results = store_checked(
        net, made.widths, made.module, out, task, data, bits=made.record, valid=made.valid
    )
    pick = Pick(
        name=out.stem,
        widths=dict(made.widths),
        bytes=out.stat().st_size,
        valid=results["valid"],
        test=results["test"],
        file=inside(out, run.folder),
        post_process=", ".join(
            [*usual_post_processing(opened, made.widths).names, made.how, "bits"]
        ),
    )
    note(run, pick)
    return pick
