"""Whether the dims that the engine found have, at any widths, the sizes that tensors have."""

import torch
from torch import fx

from widthwise.graph.relate import Related
from widthwise.graph.rewrite import scaled_size
from widthwise.graph.slicing import count


class ShapeChecker(fx.Interpreter):
    def __init__(self, net, related: Related, graph, widths):
        super().__init__(fx.GraphModule(torch.nn.Module(), graph))
        # Arithmetic on sizes was put in between; the operators themselves are the same.
        operators = [n for n in self.module.graph.nodes if n.target is not scaled_size]
        pairs = zip(related.program.graph.nodes, operators, strict=True)
        self.dims = {new: related.dims.get(old) for old, new in pairs}
        self.actual = sizes_at(related, related.program.example)
        self.kept = lambda f: widths[net.engine.table.of[f]] if f in net.engine.table.of else f.size
        self.compared = 0

    def run_node(self, n):
        result = super().run_node(n)
        if isinstance(result, torch.Tensor) and self.dims.get(n) is not None:
            for i, term in enumerate(self.dims[n]):
                expected = count(term, self.kept)
                for prime, size in self.actual.items():
                    while expected % prime == 0:
                        expected = expected // prime * size
                if expected < 1_000_000:
                    self.compared += 1
                    assert result.shape[i] == expected, f"{n.format_node()}: dim {i}"
        return result


def sizes_at(related, example):
    """Symbolic size (its prime) -> size in the example."""
    found = {}
    holders = related.program.graph.find_nodes(op="placeholder")
    inputs = [n for n in holders if n.name in related.program.inputs]
    for node, value in zip(inputs, example, strict=True):
        if isinstance(value, torch.Tensor):
            for prime, size in zip(related.program.sizes[node], value.shape, strict=True):
                if prime > 1_000_000:
                    found[prime] = size
    return found
