"""What must hold of cuts: they are the Elastic at these widths, ordered and stored too."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from bench.conformance import verdicts
from bench.conformance.observe import Record, compare, said
from bench.conformance.subject import Subject, put, quietly
from bench.conformance.verdicts import Finding
from bench.zoo.compare import random_widths
from torch import Tensor, nn

import widthwise as ww
from widthwise.graph.cut import cut_state
from widthwise.pruning.order import order_


def cuts(
    subject: Subject, *, seeds: Sequence[int] = (0,), modes: Sequence[bool] = (False, True)
) -> Iterator[Finding]:
    """Outputs, gradients of inputs and statistics of cuts to random widths, in each mode."""
    net = subject.net
    for seed in seeds if net.free else ():
        widths = random_widths(net, seed)
        for training in modes:
            check = f"cut to {dict(widths)}{', training' if training else ''}"
            try:
                put(net.model, subject.saved)
                graph, _, reason = net.engine.cut(widths, same_class=False)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told
                yield _raised(check, error)
                break
            if training and (reason is not None or subject.only_evaluation):
                continue
            names = {n for n, _ in net.model.named_buffers()}
            names &= {n for n, _ in graph.named_buffers()}
            ours = _of_cut(subject, graph.train(training), names)
            yield compare(check, ours, _at(subject, widths, training, names))


def _at(subject: Subject, widths: ww.Widths, training: bool, names: set[str]) -> Record:
    """What the Elastic does at these widths, with the state that it leaves, as a cut has it."""
    net = subject.net.train(training)
    put(net.model, subject.saved)

    def call(*args: Any, **kwargs: Any) -> Any:
        return net(*args, widths=widths, **kwargs)

    record = quietly(call, nn.Module(), subject.args, subject.kwargs)
    after = cut_state(
        net.engine.relations, net.engine.table, widths, net.engine.state(), frozenset()
    )
    record.values |= {f"{n} afterwards": after[n].clone() for n in after if n in names}
    put(net.model, subject.saved)
    return record


def _of_cut(subject: Subject, cut: nn.Module, names: set[str]) -> Record:
    record = quietly(cut, nn.Module(), subject.args, subject.kwargs)
    held = {n: b.clone() for n, b in cut.named_buffers() if n in names}
    record.values |= {f"{n} afterwards": b for n, b in held.items()}
    return record


def _raised(check: str, error: Exception) -> Finding:
    refused = isinstance(error, ww.errors.WidthwiseError)
    return Finding(check, verdicts.REFUSED if refused else verdicts.ERROR, said(error))


def ordering(subject: Subject) -> Finding:
    """Features in another order: the outputs stay."""
    net, check = subject.net.eval(), "ordered"
    put(net.model, subject.saved)
    before = _outputs(subject, net)
    put(net.model, subject.saved)
    draws = torch.Generator().manual_seed(7)
    scores = {n: torch.rand(a.size, generator=draws) for n, a in net.free.items()}
    try:
        order_(net, scores)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        return _raised(check, error)
    after = _outputs(subject, net)
    put(net.model, subject.saved)
    return compare(check, after, before)


def stored(subject: Subject, build: Callable[[], nn.Module]) -> Finding:
    """A cut saved and loaded again is the same, bit for bit."""
    net, check = subject.net.eval(), "saved and loaded"
    put(net.model, subject.saved)
    widths = random_widths(net, 0)
    cut = net.engine.cut(widths)[0].eval()
    expected = _outputs(subject, copy.deepcopy(cut))
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = ww.save(net, Path(folder) / "cut", widths=widths)
            loaded = ww.load(path, build).eval()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            return _raised(check, error)
    return compare(check, _outputs(subject, loaded), expected, tolerance=0.0)


def _outputs(subject: Subject, module: nn.Module) -> Record:
    """Only outputs: what has no gradients is alike for features in any order."""
    with torch.no_grad():
        record = quietly(module, nn.Module(), subject.args, subject.kwargs)
    record.values = {n: v for n, v in record.values.items() if _is_output(n, v)}
    return record


def _is_output(name: str, value: Any) -> bool:
    return name.startswith("output") and isinstance(value, Tensor)
