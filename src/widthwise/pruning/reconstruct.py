"""Reconstruction: what stays takes over what was cut, in least squares, from a few batches.

    small = net.cut(widths)
    reconstruct_(small, net, widths, batches)      # in place; no gradients, no labels

Layer after layer, the weights of the cut network are moved to where they give, on the data, what
the full network's layer gives on its own inputs: min |W x - W' x'|^2 + ridge |W' - W|^2, where x'
is what the cut network, as far as it is reconstructed, has there. So errors of earlier layers are
made up for too (after He et al., "Channel Pruning", 2017, and Luo et al., "ThiNet", 2017).
Statistics of batch norms are re-estimated on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from widthwise.elastic.network import Elastic
from widthwise.errors import ScoreError
from widthwise.graph.cut import cut_state
from widthwise.graph.rewrite import keeper
from widthwise.graph.slicing import layout, positions
from widthwise.pruning.linear import Reader, linear_readers
from widthwise.pruning.paired import Lockstep
from widthwise.pruning.scores.gradients import nonempty
from widthwise.pruning.scores.progress import shown
from widthwise.variant import AnyWidths

_NORM = torch.ops.aten.batch_norm.default
_ROWS = 200  # rows for each unknown of a least-squares problem: windows of images are much alike


def reconstruct_(
    cut: nn.Module,
    net: Elastic,
    widths: AnyWidths,
    batches: Iterable[tuple[Any, Any]],
    *,
    ridge: float = 0.1,
    statistics: bool = True,
    progress: bool = False,
) -> nn.Module:
    """Fit the layers of a cut network to the full one's, in place; returns the cut network.

    Linear layers, and convolutions that read all channels, are fitted; other operators keep their
    weights, and so do those whose weights several operators share.

    Args:
        cut: `net.cut(widths)`, whose tensors are changed.
        net: is left as it is.
        batches: pairs (inputs, target) of training data, all held in memory, with their values in a
            few layers; the targets are not used. A thousand samples do.
        ridge: how strongly weights stay where they were, relative to the mean square of what they
            read. Ten times less fits a little closer, and leaves larger weights, which training the
            cut network further has to undo first.
        statistics: re-estimate the statistics of batch norms.

    Raises:
        ScoreError: When there is no batch, when inputs are of another form than the example, or
            when what a layer reads is not finite.
        WidthError: For widths that the network cannot have.
    """
    kept = net.complete(widths)
    state = _tensors(cut, net, kept)
    program = net.engine.evaluation.program
    readers = {reader.node: reader for reader in linear_readers(program)}
    norms = program.graph.find_nodes(op="call_function", target=_NORM) if statistics else []
    inputs = [inputs for inputs, _ in nonempty(batches, net)]
    lockstep = Lockstep(net, kept, state, inputs, {*readers, *norms})
    keep = keeper(net.engine.table, kept)
    for node, twin in shown(lockstep, lockstep, "reconstruction", progress):
        reader = readers.get(node)
        if reader is not None and _differs(lockstep, reader, twin):
            made = net.engine.evaluation.dims[node][reader.channel]
            _fit(lockstep, reader, twin, state, positions(layout(made, keep)), ridge, statistics)
            lockstep.cut.run(twin)
        elif statistics and node.target is _NORM and twin.args[3] is not None:
            _estimate(lockstep, twin)
            lockstep.cut.run(twin)
    return cut


def _tensors(cut: nn.Module, net: Elastic, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """The tensors of a cut network by the names that the graph knows them by."""
    relations, table = net.engine.relations, net.engine.table
    state = cut_state(relations, table, widths, net.engine.state(), frozenset())
    own: dict[str, Tensor] = dict(cut.named_parameters(remove_duplicate=False))
    own.update(cut.named_buffers(remove_duplicate=False))
    for name, tensor in state.items():
        if name in own and own[name].shape != tensor.shape:
            raise ScoreError(
                f"The cut network's {name} is of shape {tuple(own[name].shape)} and not "
                f"{tuple(tensor.shape)}; give the widths that it was cut at."
            )
    return {name: own.get(name, tensor).detach() for name, tensor in state.items()}


def _differs(lockstep: Lockstep, reader: Reader, twin: fx.Node) -> bool:
    """Whether a layer of the cut network reads anything else than the full one's layer."""
    full, cut = lockstep.full[reader.source], lockstep.cut[_source(reader, twin)]
    return any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(full, cut, strict=True))


def _source(reader: Reader, twin: fx.Node) -> fx.Node:
    """What the twin of a layer reads."""
    source = twin.args[reader.node.args.index(reader.source)]
    assert isinstance(source, fx.Node)
    return source


def _fit(
    lockstep: Lockstep,
    reader: Reader,
    twin: fx.Node,
    state: Mapping[str, Tensor],
    outputs: Tensor,
    ridge: float,
    statistics: bool,
) -> None:
    """Solve a layer's least squares and write its weights. outputs: of z, which are kept."""
    weight = state[reader.weight]
    bias = None if reader.bias is None else state[reader.bias]
    # A constant is taken by the bias, or does not matter because a batch norm removes it.
    normed = statistics and any(user.target is _NORM for user in reader.node.users)
    free = bias is not None or normed
    normal = _Normal(free)
    matrix = reader.matrix(weight).double()
    sources, wanted = lockstep.cut[_source(reader, twin)], lockstep.full[reader.node]
    rows = sum(z.numel() // z.shape[reader.channel] for z in wanted)
    thin = _thin(reader, rows, matrix.shape[1])
    for x, z in zip(sources, wanted, strict=True):
        normal.add(reader.rows(x, weight, thin), reader.results(z, thin)[:, outputs.to(z.device)])
    solved, constant = normal.solve(matrix, ridge)
    if not solved.isfinite().all():
        raise ScoreError(
            f"What {reader.weight} reads is not finite; look for values in the data or in the "
            "weights that are not."
        )
    weight.copy_(reader.as_weight(solved.to(weight), weight))
    if bias is not None:
        bias.copy_(constant)


def _thin(reader: Reader, rows: int, columns: int) -> int:
    """Which windows of a convolution to take: every so manieth along each dim of space."""
    space = -reader.channel - 1
    if reader.kind != "convolution":
        return 1
    return max(1, int((rows / (_ROWS * columns)) ** (1 / space)))


class _Normal:
    """Normal equations of z = W x + b, summed over rows in float64.

    free: whether a constant b is fitted too, without ridge.
    """

    def __init__(self, free: bool) -> None:
        self.free = free
        self.rows = 0
        self.sums: dict[str, Tensor] = {}

    def add(self, x: Tensor, z: Tensor) -> None:
        """Count rows x (rows, columns) with their z (rows, outputs)."""
        self.rows += len(x)
        ones = x.new_ones(len(x), 1)
        both = {"xx": x.T @ x, "xz": x.T @ z, "x": x.T @ ones, "z": z.T @ ones}
        for name, value in both.items():
            value = value.double()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def solve(self, start: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
        """(W (outputs, columns), b (outputs,)), W drawn to `start`."""
        xx, xz, x, z = (self.sums[n] / self.rows for n in ("xx", "xz", "x", "z"))
        if self.free:
            xx, xz = xx - x @ x.T, xz - x @ z.T
        pull = ridge * xx.diagonal().mean().clamp(min=1e-12)
        left = xx + pull * torch.eye(len(xx), dtype=xx.dtype, device=xx.device)
        moved = torch.linalg.solve(left, xz - xx @ start.T)
        solved = start + moved.T
        return solved, (z - solved @ x).flatten()


def _estimate(lockstep: Lockstep, twin: fx.Node) -> None:
    """Set the statistics of a batch norm to what it reads, over all batches."""
    source: Any = twin.args[0]
    count = 0
    sums: Any = [0.0, 0.0]
    for x in lockstep.cut[source]:
        dims = [d for d in range(x.dim()) if d != 1]
        count += x.numel() // x.shape[1]
        sums = [sums[0] + x.double().sum(dims), sums[1] + x.double().square().sum(dims)]
    mean = sums[0] / count
    variance = (sums[1] / count - mean.square()).clamp(min=0) * count / max(1, count - 1)
    for held, value in zip(twin.args[3:5], (mean, variance), strict=True):
        assert isinstance(held, fx.Node)
        lockstep.cut[held][0].copy_(value)  # one tensor for all batches
