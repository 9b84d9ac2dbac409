"""What widthwise makes of one network: what it finds, whether it is right, what a cut removes.

Everything is checked on random weights: that cuts compute what the elastic network computes, in
evaluation and in training, at three random settings of all widths and at half; that cutting is
zeroing where no features are compared with each other.
"""

from __future__ import annotations

import inspect
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from bench.zoo.compare import (
    difference,
    kept_buffers,
    random_widths,
    randomise,
    run,
    zeroed,
)
from bench.zoo.names import TOLERANCE, engine
from bench.zoo.network import Made, Network
from torch import Tensor, nn

import widthwise as ww
from widthwise.graph.capture.program import name_leaves

SEEDS = (0, 1, 2)
DISPROVED = ("shuffling its features changes", "cut to a few features the network does not run")


def check(network: Network) -> dict[str, Any]:
    """All findings as plain values; what failed is told under "failures" by stage."""
    found = _check(network, torch.float32)
    wrong = any(not d <= TOLERANCE for d in found.get("differences", {}).values() if d is not None)
    if wrong:
        # Rounding of float32 in a deep random network, or a mistake? float64 tells.
        again = _check(network, torch.float64)
        found.update({key: again.get(key) for key in ("differences", "dtype")})
        found["failures"] |= again["failures"]
    return found


def _check(network: Network, dtype: torch.dtype) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": network.name,
        "engine": engine(),
        "note": network.note,
        "dtype": str(dtype).removeprefix("torch."),
        "failures": {},
    }
    stage = _Stages(row["failures"])
    with _default(dtype), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        made = stage("build", lambda: _as(dtype, network.make()))
        if made is None:
            return row
        model, args, kwargs = made
        model.eval()
        if dtype is torch.float32:
            stage("export", lambda: row.update(export_seconds=export_seconds(made)))
        matter = stage("outputs", lambda: _that_matter(made))
        began = time.process_time()
        net = stage("trace", lambda: ww.Elastic(model, args, kwargs, outputs=matter))
        if net is None:
            return row
        row["trace_seconds"] = round(time.process_time() - began, 3)
        if row.get("export_seconds"):
            row["trace_over_export"] = round(row["trace_seconds"] / row["export_seconds"], 2)
        row.update(_found(net), outputs=matter)
        randomise(model)
        row["differences"] = {}
        for name, work in _COMPARISONS.items():
            stage(name, lambda w=work: w(net, args, kwargs, row))
        if dtype is torch.float32:
            stage("sizes", lambda: row.update(_sizes(net)))
            stage("own class", lambda: row.update(own_class=_own_class(net, net.widths(0.5))))
            stage("realizable", lambda: row.update(realizable=_realizable(net)))
    return row


class _Stages:
    """Runs one piece of work after the other and notes which failed, and how."""

    def __init__(self, failures: dict[str, str]) -> None:
        self.failures = failures

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            self.failures[name] = f"{type(error).__name__}: {_portable(str(error).strip())[:600]}"
            return None


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def _as(dtype: torch.dtype, made: Made) -> Made:
    model, args, kwargs = made

    def convert(x: Any) -> Any:
        return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

    return (model.to(dtype), *pytree.tree_map(convert, (args, kwargs)))


def _that_matter(made: Made) -> tuple[str, ...] | None:
    """The outputs that users want where a model returns inner features as well; None for all."""
    model, args, kwargs = made
    with torch.no_grad():
        names = name_leaves(pytree.tree_structure(model(*args, **kwargs)))
    logits = tuple(n for n in names if "logits" in n.partition(".")[0])
    chosen = logits or tuple(n for n in names if n == "pooler_output")
    return chosen if 0 < len(chosen) < len(names) else None


def export_seconds(made: Made) -> float:
    """Processor seconds of torch.export alone, with the sizes free that widthwise frees."""
    torch.export.export(nn.Linear(1, 1), (torch.zeros(2, 1),))  # the first one loads things
    model, args, kwargs = made
    bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    for most in (3, 1, 0):  # some networks cannot be captured with every size free
        shapes = pytree.tree_map(lambda x, m=most: _free_sizes(x, m), dict(bound))
        began = time.process_time()
        try:
            torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
        except Exception:
            if not most:
                raise
        else:
            return round(time.process_time() - began, 3)
    raise AssertionError


def _free_sizes(x: Any, most: int) -> Any:
    """The batch of images, batch and length of sequences; fewer where that fails."""
    if not isinstance(x, Tensor):
        return None
    return dict.fromkeys(range(min(1 if x.dim() > 3 else x.dim(), most)), torch.export.Dim.AUTO)


def _found(net: ww.Elastic) -> dict[str, Any]:
    """What can be cut, what not and why."""
    fixed = [a for a in net.axes.values() if a.fixed_because]
    reasons = Counter(a.fixed_because for a in fixed)
    return {
        "free": len(net.free),
        "fixed": [
            {
                "reason": reason,
                "axes": count,
                "for_example": [a.name for a in fixed if a.fixed_because == reason][:3],
            }
            for reason, count in reasons.most_common()
        ],
        "unknown": net.engine.unknown,
        "disproved": [a.name for a in fixed if str(a.fixed_because).startswith(DISPROVED)],
    }


def _as_elastic(net: ww.Elastic, args: Any, kwargs: Any, row: dict[str, Any]) -> None:
    """Cut = elastic at random widths and at half, in both modes, with the same random numbers.

    "moved" is how far the widths change the outputs: were it nothing, so would be the comparison.
    In training mode a graph that serves evaluation only is replaced by the user's class.
    """
    row["differences"] |= {"evaluation": 0.0, "training": None}
    row["trained"] = "nothing"
    note = partial(_worst, row["differences"])
    full = run(net.model, args, kwargs)
    note("evaluation", difference(run(net.eval(), args, kwargs), full))
    row["moved"] = 0.0
    for widths in (*(random_widths(net, seed) for seed in SEEDS), net.widths(0.5)):
        expected = run(net.eval(), args, kwargs, widths=widths)
        if not all(bool(t.isfinite().any()) for t in expected):
            widths = ww.Widths({n: max(w, min(2, net.free[n].size)) for n, w in widths.items()})
            expected = run(net, args, kwargs, widths=widths)
            row["narrowest"] = 2
        graph, both = _graph(net, widths)
        row["moved"] = max(row["moved"], difference(*_of_one_size(expected, full)))
        note("evaluation", difference(run(graph.eval(), args, kwargs), expected))
        cut = graph
        if not both:
            # Most random widths are not for a class; those near half are for most classes.
            widths = net.realizable(widths) if widths == net.widths(0.5) else widths
            cut = net.cut(widths)
            if type(cut) is not type(net.model):
                continue
        row["trained"] = "graph" if both else "class"
        with kept_buffers(net.model):
            expected = run(net.train(), args, kwargs, widths=widths)
            note("training", difference(run(cut.train(), args, kwargs), expected))
            note("training", _statistics(net, widths, cut))
    net.eval()


def _of_one_size(a: list[Tensor], b: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Without the outputs that do not matter, which come narrower."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x.shape == y.shape]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _worst(differences: dict[str, Any], mode: str, value: float) -> None:
    differences[mode] = max(differences[mode] or 0.0, value)


def _graph(net: ww.Elastic, widths: ww.Widths) -> tuple[nn.Module, bool]:
    """The cut graph, and whether it serves training too."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        graph = net.cut(widths, same_class=False)
    return graph, not any(issubclass(w.category, ww.GraphModuleWarning) for w in told)


def _statistics(net: ww.Elastic, widths: ww.Widths, cut: nn.Module) -> float:
    """How far the statistics that the cut network updated are from the elastic network's."""
    mine = {n: b for n, b in cut.named_buffers() if b.is_floating_point()}
    if not any(n.endswith(("running_mean", "running_var")) for n in mine):
        return 0.0
    fresh = dict(net.cut(widths, same_class=False).named_buffers())
    return max((difference([b], [fresh[n]]) for n, b in mine.items() if n in fresh), default=0.0)


def _as_zeroed(net: ww.Elastic, args: Any, kwargs: Any, row: dict[str, Any]) -> None:
    """Cut = full network with zeros, on the axes whose features are not compared."""
    widths = random_widths(net.eval(), 5, zeroable=True)
    row["zeroable"] = len(widths)
    row["differences"]["zeroed"] = None
    if widths:
        expected = run(net, args, kwargs, widths=widths)
        with zeroed(net, widths):
            found = run(net, args, kwargs)
            row["differences"]["zeroed"] = difference(*_of_one_size(found, expected))


_COMPARISONS = {
    "cut": _as_elastic,
    "zeroed": _as_zeroed,
}


def _sizes(net: ww.Elastic) -> dict[str, Any]:
    """Parameters that the network reads, at full and at half, and what stays of them."""
    cut = net.cut(net.widths(0.5), same_class=False)
    half = {n: p.numel() for n, p in cut.named_parameters()}
    state = net.engine.state()
    full = {n: state[n].numel() for n in half}
    total = sum(full.values())
    return {
        "parameters": total,
        "parameters_at_half": sum(half.values()),
        "removed": _share(1 - sum(half.values()) / total) if total else 0.0,
        "stays": _what_stays(net, full, half, total),
    }


def _share(value: float) -> float:
    return round(value, 4)


def _what_stays(
    net: ww.Elastic, full: dict[str, int], half: dict[str, int], total: int
) -> list[dict[str, Any]]:
    """Tensors of which more than half stays at half width, by kind of layer and reason."""
    shares: Counter[tuple[str, str]] = Counter()
    for name, count in full.items():
        if half[name] > 0.5 * count:
            path, _, last = name.rpartition(".")
            module = net.model.get_submodule(path)
            kind = type(module).__name__ if last in ("weight", "bias") else last
            shares[kind, _why(net, name)] += count
    return [
        {"layer": kind, "reason": reason, "share": _share(count / total)}
        for (kind, reason), count in shares.most_common(4)
        if count > 0.01 * total
    ]


def _why(net: ww.Elastic, tensor: str) -> str:
    reasons = [
        str(a.fixed_because)
        for a in net.axes.values()
        if a.fixed_because and any(p.tensor == tensor for p in a.places)
    ]
    if reasons:
        return "; ".join(dict.fromkeys(re.sub(r" in [\w.]+", "", r) for r in reasons))
    here = [a for a in net.free.values() if any(p.tensor == tensor for p in a.places)]
    if any(a.inner_of is None and a.size < 4 for a in here):
        return "half of few is rounded up"
    return "it lies inside an axis" if here else "nothing in it can be cut"


def _own_class(net: ww.Elastic, widths: ww.Widths) -> dict[str, Any]:
    """Whether the cut is of the user's class at these widths, and computes the same."""
    args, kwargs = net.engine.example()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        cut = net.cut(widths)
    own = type(cut) is type(net.model)
    expected = run(net.eval(), args, kwargs, widths=widths)
    texts = [str(w.message) for w in told if issubclass(w.category, ww.GraphModuleWarning)]
    return {
        "own": own,
        "reason": None if own else _portable(" ".join(texts)),
        "difference": difference(run(cut.eval(), args, kwargs), expected),
    }


def _realizable(net: ww.Elastic) -> dict[str, Any]:
    """The same at the widths nearest to half that the user's class can express."""
    widths = net.realizable(net.widths(0.5))
    names = dict(net.cut(widths, same_class=False).named_parameters())
    state = net.engine.state()
    full, cut = sum(state[n].numel() for n in names), sum(p.numel() for p in names.values())
    return {**_own_class(net, widths), "removed": _share(1 - cut / full) if full else 0.0}


def _portable(text: str) -> str:
    """Without where this machine keeps its packages."""
    return re.sub(r"[^\s(`]*/site-packages/", "", text)
