"""Merging: features that say the same become one.

    small = merge(net, widths, batches)          # by what features are on data
    small = merge(net, widths)                   # by the weights that make them, without data

Feature j is replaced by a multiple of a similar one, x_j = a x_i with a in least squares, and what
reads j then reads a times i instead: W_i += a W_j. The pair for which the layers that read it
change least is merged first, and so on (after Srinivas & Babu, "Data-free Parameter Pruning for
Deep Neural Networks", 2015, who take a = 1).

Before any pair go features that are the same whatever the input, which are like no other: those
that are always 0 (dead), and those that are always c, where biases can take them: b += W_j c.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from widthwise.elastic.network import Elastic
from widthwise.elastic.recalibration import Recalibrate
from widthwise.errors import WidthError
from widthwise.graph.cut import cut_state
from widthwise.pruning.constant import biased_readers, constants, constants_by_weights
from widthwise.pruning.consumers import Readers, find_readers
from widthwise.pruning.linear import Reader
from widthwise.pruning.order import order_
from widthwise.pruning.scores.activations import moments
from widthwise.pruning.scores.gates import Gate, find_gates, held, read_weights
from widthwise.variant import AnyWidths

# (j, i, a): feature j becomes a times feature i; (j, None, c): it is always c, and biases take that
Merge = tuple[int, int | None, float]


def merge(
    net: Elastic,
    widths: AnyWidths,
    batches: Iterable[tuple[Any, Any]] | None = None,
    *,
    least: float = 0.0,
    recalibrate: Recalibrate = True,
    progress: bool = False,
) -> nn.Module:
    """The network cut to these widths, the features that go merged into those that stay.

    Args:
        net: is ordered in place, those that stay first; what it computes does not change.
        batches: pairs (inputs, target), whose targets are not used, on which features are compared;
            by default the weights and biases that make them are. Those must then be of the layer
            itself: a norm behind it is not seen.
        least: the cosine similarity (without its sign, on data) that features must have to be
            merged; features that are always the same need none.
        recalibrate: running statistics are re-estimated, as `Elastic.cut` does it and takes it.

    Raises:
        WidthError: For a width that merging cannot reach: where no two features are similar enough,
            for axes whose features a norm compares with each other, and where tied weights both
            read and make them.
        ScoreError: As `moments` does.
    """
    kept, readers = net.complete(widths), find_readers(net)
    cut_axes = {name: axis for name, axis in net.free.items() if kept[name] < axis.size}
    for name, axis in cut_axes.items():
        if axis.normalised:
            raise _unmerged(name, "they are compared with each other (by a norm, say)")
        if any((p.tensor, p.dim) in readers.tied for p in axis.places):
            raise _unmerged(name, "the weights that read them also make features (tied weights)")
    if batches is None:
        products = _by_weights(net, cut_axes, readers)
    else:
        found = moments(net, batches, progress=progress)
        products = {name: each.products for name, each in found.items()}
    if missing := cut_axes.keys() - products.keys():
        why = "no weights make them alone" if batches is None else "nothing reads them"
        raise _unmerged(min(missing), why)
    gates, state = find_gates(net), net.engine.state()
    biased = biased_readers(net, {name: gates[name] for name in cut_axes})
    same = (
        constants_by_weights(net) if batches is None else constants(net, batches, progress=progress)
    )
    plans = {
        name: _plan(
            name,
            kept[name],
            products[name],
            read_weights(gates[name], state),
            least,
            batches is None,
            _free(same[name], name in biased) if name in same else {},
        )
        for name in cut_axes
    }
    new = order_(net, {name: _stay(net.free[name].size, plan) for name, plan in plans.items()})
    moved = {name: _moved(plan, new[name]) for name, plan in plans.items()}
    return net.engine.recalibrated(_folded(net, kept, gates, moved, biased), kept, recalibrate)


def _unmerged(name: str, why: str) -> WidthError:
    return WidthError(
        f"The features of {name!r} cannot be merged, for {why}; leave this axis at its full width."
    )


def _by_weights(net: Elastic, names: Iterable[str], readers: Readers) -> dict[str, Tensor]:
    """Products of the incoming weights, biases included, of each two features of these axes."""
    state = net.engine.state()
    found = {}
    for name in names:
        axis = net.free[name]
        makers = [p for p in axis.places if (p.tensor, p.dim) not in readers.read]
        rows = [h.rows(state[h.tensor], axis.size) for h in held(net, name, makers)]
        if rows:
            vectors = torch.cat(rows, dim=1)
            found[name] = vectors @ vectors.T
    return found


def _free(values: Tensor, biased: bool) -> dict[int, float]:
    """Features that go at no cost, with their values, the dead ones first.

    values: as `constants` gives them. biased: whether biases can take what is not zero.
    """
    numbers = values.tolist()
    dead = {j: 0.0 for j, value in enumerate(numbers) if value == 0}
    constant = {j: value for j, value in enumerate(numbers) if value == value and value != 0}
    return dead | (constant if biased else {})


def _plan(
    name: str,
    width: int,
    products: Tensor,
    read: Tensor,
    least: float,
    positive: bool,
    free: Mapping[int, float],
) -> list[Merge]:
    """Which features to merge: those that go at no cost, then one pair after the other.

    products: E x x', (features, features). read: all weights that read each feature.
    positive: only such with a > 0, which an activation like ReLU behind the features lets through.
    """
    merges: list[Merge] = []
    merges += [(j, None, c) for j, c in free.items()][: len(products) - width]
    norms = products.diagonal().clamp(min=1e-30)
    cosine = products / (norms.unsqueeze(1) * norms).sqrt()
    factor = products / norms  # (j, i): x_j is about factor x_i
    away = (norms.unsqueeze(1) - products * factor).clamp(min=0)  # E (x_j - a x_i)^2
    similar = (cosine if positive else cosine.abs()) > max(least, 1e-9)
    allowed = similar & ~torch.eye(len(norms), dtype=torch.bool, device=norms.device)
    read, gone = read.clone(), [j for j, _, _ in merges]
    allowed[gone], allowed[:, gone] = False, False
    for done in range(len(merges), len(norms) - width):
        costs = torch.where(allowed, away * read.square().sum(1, keepdim=True), torch.inf)
        cheapest = int(costs.argmin())
        j, i = divmod(cheapest, len(norms))
        if not costs[j, i] < torch.inf:
            raise WidthError(
                f"{name!r} can be merged to {len(norms) - done} features and not to {width}: no "
                "two of those that are left are similar enough; ask for more, or lower `least`."
            )
        a = float(factor[j, i])
        merges.append((j, i, a))
        read[i] += a * read[j]
        allowed[j], allowed[:, j] = False, False
    return merges


def _stay(size: int, plan: list[Merge]) -> Tensor:
    """Scores that put the features that stay first, the others in the order in which they go."""
    scores = torch.full((size,), float(size))
    for number, (j, _, _) in enumerate(plan):
        scores[j] = -number
    return scores


def _moved(plan: list[Merge], old: Tensor) -> list[Merge]:
    """The plan for features that have been put in another order; old: their old positions."""
    new = old.argsort().tolist()
    return [(new[j], None if i is None else new[i], a) for j, i, a in plan]


def _folded(
    net: Elastic,
    widths: Mapping[str, int],
    gates: Mapping[str, Gate],
    plans: Mapping[str, list[Merge]],
    biased: Mapping[str, Sequence[Reader]],
) -> nn.Module:
    """The cut network, whose layers read multiples of what is left instead of what is gone."""
    small = net.cut(widths, recalibrate=False)
    names = {h.tensor for name in plans for h in gates[name].held}
    names |= {r.bias for name in plans for r in biased.get(name, ()) if r.bias is not None}
    state = {
        n: t.detach().clone() if n in names else t.detach() for n, t in net.engine.state().items()
    }
    for name, plan in plans.items():
        biases = {(r.weight, r.reading_dim): r.bias or "" for r in biased.get(name, ())}
        for place in gates[name].held:
            whole = state[place.tensor].movedim(place.dim, 0)  # a view, outputs next
            entries = place.entries(gates[name].size).to(whole.device)
            for j, i, a in plan:
                there = whole[entries[j]]
                if i is not None:
                    whole[entries[i]] += a * there
                elif a != 0:
                    bias = biases[place.tensor, place.dim]
                    state[bias] += a * there.sum([0, *range(2, there.dim())])
    cut = cut_state(net.engine.relations, net.engine.table, widths, state, frozenset())
    own = dict(small.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name in names:
            own[name].copy_(cut[name])
    return small
