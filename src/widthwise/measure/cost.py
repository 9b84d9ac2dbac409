"""What a network costs: parameters, multiply-accumulates, time.

    params(small)                               # numbers in the parameters
    macs(small, (x,))                           # multiply-accumulates for one example
    latency_ms(small, (x,)), runtime(small)     # 0.21, "PyTorch 2.13.0, CPU, 2 threads"
    onnx_runtime()                              # "ONNX Runtime 1.31.1, CPU, 2 threads"

Multiply-accumulates are counted of matrix products, convolutions, attention, recurrent layers and
bilinear layers, counted from the shapes by torch's FlopCounterMode with two operations for each;
what works element by element (activations, norms, biases, embeddings) is not counted. Causal
attention counts in full.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from widthwise.common.calling import batch_size
from widthwise.common.modes import evaluating, unfused

Inputs = tuple[Any, ...]


def params(module: nn.Module) -> int:
    """Numbers in the module's parameters; tied ones count once, buffers not at all."""
    return sum(p.numel() for p in module.parameters())


def macs(module: nn.Module, args: Inputs, kwargs: Mapping[str, Any] | None = None) -> int:
    """Multiply-accumulates for one example: one call's, divided by the batch size.

    args, kwargs: example inputs; the first dim of the first tensor is the batch. The module runs
    once, in evaluation mode.
    """
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    # The fused kernels of nn.TransformerEncoder hide their products from the counter.
    with evaluating(module), unfused(), counter:
        module(*args, **(kwargs or {}))
    return round(int(counter.get_total_flops()) / 2 / (batch_size((args, dict(kwargs or {}))) or 1))


def one_example(
    args: Inputs, kwargs: Mapping[str, Any] | None = None
) -> tuple[Inputs, dict[str, Any]]:
    """The inputs at batch 1: of tensors whose first dim is the batch, the first entry."""
    batch = batch_size((args, dict(kwargs or {})))
    first: tuple[Inputs, dict[str, Any]] = pytree.tree_map(
        lambda x: x[:1] if isinstance(x, Tensor) and x.dim() and x.shape[0] == batch else x,
        (tuple(args), dict(kwargs or {})),
    )
    return first


def latency_ms(
    module: nn.Module,
    args: Inputs,
    kwargs: Mapping[str, Any] | None = None,
    *,
    seconds: float = 0.1,
) -> float:
    """Milliseconds for one call on these inputs: the median of runs over about `seconds`.

    Evaluation mode, no gradients, torch's current number of threads; after a warm-up. Pass inputs
    of batch 1 (see `one_example`) for the latency of one example.
    """
    call = partial(module, *args, **(kwargs or {}))
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    with evaluating(module):
        timer.timeit(2)
        return float(timer.blocked_autorange(min_run_time=seconds).median * 1e3)


def runtime(module: nn.Module | None = None) -> str:
    """What latency is measured with, e.g. "PyTorch 2.13.0, CPU, 2 threads"."""
    version = re.sub(r"\+.*", "", torch.__version__)
    tensor = next(module.parameters(), None) if module is not None else None
    if tensor is not None and tensor.device.type == "cuda":
        return f"PyTorch {version}, {torch.cuda.get_device_name(tensor.device)}"
    device = "CPU" if tensor is None else tensor.device.type.upper()
    return f"PyTorch {version}, {device}, {_threads(torch.get_num_threads())}"


def onnx_runtime(threads: int | None = None) -> str:
    """As `runtime`, e.g. "ONNX Runtime 1.31.1, CPU, 2 threads"."""
    import onnxruntime

    count = threads or torch.get_num_threads()
    return f"ONNX Runtime {onnxruntime.__version__}, CPU, {_threads(count)}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count != 1 else ''}"


Shape = Sequence[int]


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """query (*, L, E), key (*, S, E), value (*, S, V)."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent_layer(x: Shape, w_ih: Shape, w_hh: Shape, *_: Any, **__: Any) -> int:
    """One layer in one direction: x (L, N, I), w_ih (gates H, I), w_hh (gates H, H)."""
    return 2 * x[0] * x[1] * (math.prod(w_ih) + math.prod(w_hh))


def _recurrent_layers(x: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    """All layers and directions; matrices among the weights are used at every step."""
    return 2 * x[0] * x[1] * sum(math.prod(w) for w in weights if len(w) == 2)


def _bilinear(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    """x (N, I, ...), weight (..., O, I, J)."""
    return 2 * x[0] * math.prod(weight)


def _matrix_vector(matrix: Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _added_matrix_vector(_added: Shape, matrix: Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


_aten = torch.ops.aten
# What FlopCounterMode does not know, among what networks use on a CPU or with cuDNN.
FORMULAS: dict[Any, Any] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten.mkldnn_rnn_layer: _recurrent_layer,
    _aten._cudnn_rnn: _recurrent_layers,
    _aten._trilinear: _bilinear,
    _aten.mv: _matrix_vector,
    _aten.dot: _matrix_vector,
    _aten.addmv: _added_matrix_vector,
}
