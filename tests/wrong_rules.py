"""Rules that leave something out, and the networks of the test set on which that matters."""

import torch

from widthwise.graph.dims import fresh, size
from widthwise.graph.rules import normalisation, shape
from widthwise.graph.rules.op import Result


def unrelated_sum(op):
    """add without equating its operands."""
    return Result(op.dims_of(op.tensors()[0]))


def bias_forgotten(op):
    """A layer or batch norm whose bias is not tied to its features."""
    bias = op.args.get("bias")
    op.args["bias"] = None
    rule = normalisation.RULES["layer_norm" if "normalized_shape" in op.args else "batch_norm"]
    result = rule(op)
    op.args["bias"] = bias
    return result


def rotary_untied(op):
    """cat whose result is a new dim, unrelated to its parts."""
    out = shape.cat(op).outputs
    at = op.dim(op.args["dim"], len(op.sizes))
    out[at] = fresh(size(out[at]))
    return Result(out)


def matrix_untied(op):
    """linear whose input and weight are not related."""
    x, weight = op.dims("input"), op.dims("weight")
    return Result([*x[:-1], *weight[:-1]])


def order_blind_all(op):
    """Any operator with any number of outputs, each of the input's dims."""
    x = op.dims_of(op.tensors()[0])
    many = bool(op.sizes) and isinstance(op.sizes[0], list)
    return Result([list(x) for _ in op.sizes] if many else x)


class Ordered(torch.nn.Module):
    """A hidden layer whose order matters."""

    def __init__(self, operator):
        super().__init__()
        self.first, self.last = torch.nn.Linear(5, 8), torch.nn.Linear(8, 3)
        self.operator = operator

    def forward(self, x):
        return self.last(self.operator(self.first(x)))


BROKEN = [
    ("add", unrelated_sum, "resnet"),
    ("add", unrelated_sum, "gpt"),
    ("layer_norm", bias_forgotten, "mlp_layernorm"),
    ("layer_norm", bias_forgotten, "encoder"),
    ("batch_norm", bias_forgotten, "cnn"),
    ("batch_norm", bias_forgotten, "mlp_batchnorm"),
    ("cat", rotary_untied, "densenet"),
    ("cat", rotary_untied, "unet"),
    ("linear", matrix_untied, "mlp"),
    ("linear", matrix_untied, "seq2seq"),
]
