"""What stands in the way of capturing a model, in one sentence that ends with the remedy.

`check` looks at the model and the example before anything runs; `does_not_run` and `cannot` put
what went wrong later into words: the line of the user's own code, or the operator, and what to do.
"""

from __future__ import annotations

import inspect
import linecache
import re
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

from widthwise.errors import CaptureError

# Where an error passes through, but not where the user can do anything about it.
_NOT_OWN = {"torch", "functorch", "sympy", "mpmath", "numpy", "einops"}
_STANDARD = sysconfig.get_path("stdlib")


def check(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise CaptureError for a model or an example that cannot be right."""
    if isinstance(model, type):
        raise CaptureError(f"{model.__name__} is a class; give widthwise an instance of it.")
    if not isinstance(model, nn.Module):
        raise CaptureError(
            f"widthwise takes an nn.Module and not a {type(model).__name__}; give it the module, "
            "or wrap the computation in the forward of one."
        )
    for path, module in model.named_modules():
        _check_module(path, module)
    if isinstance(model, fx.GraphModule):
        _check_graph_module(model)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(value):
            raise CaptureError(
                f"{name} has no size yet; call the model once on the example before giving it to "
                "widthwise."
            )
    for i, value in enumerate(args):
        _check_value(f"args[{i}]", value)
    for name, value in kwargs.items():
        _check_value(f"kwargs[{name!r}]", value)


def _check_module(path: str, module: nn.Module) -> None:
    kind = type(module)
    if module._backward_hooks or module._backward_pre_hooks:
        raise CaptureError(
            f"{f'The submodule {path!r}' if path else 'The model'} has a backward hook, which a "
            "captured graph cannot run; remove it, or put a hook on its output in forward "
            "(output.register_hook), which is captured."
        )
    if isinstance(module, (nn.DataParallel, DistributedDataParallel)):
        remedy = "give widthwise the module inside it (its .module) and wrap the Elastic instead"
    elif isinstance(module, (FSDPModule, FullyShardedDataParallel)):
        remedy = "give widthwise the model before fully_shard, and shard the Elastic instead"
    elif isinstance(module, OptimizedModule):
        remedy = "give widthwise the module inside it (its ._orig_mod) and compile the Elastic"
    elif kind.__module__ == "widthwise.elastic.network":
        remedy = "give widthwise the module inside it (its .model)"
    elif isinstance(module, torch.jit.ScriptModule):
        remedy = "give widthwise the module that it was made from"
    elif kind.__module__.startswith("torch.") and ".quantized" in kind.__module__:
        remedy = "give widthwise the model in floating point, and quantize what is cut from it"
    else:
        return
    raise CaptureError(
        f"{f'The submodule {path!r}' if path else 'The model'} is of class "
        f"{kind.__module__}.{kind.__qualname__}, which cannot be captured; {remedy}."
    )


def _check_graph_module(model: fx.GraphModule) -> None:
    try:
        model.train(model.training)
    except NotImplementedError as error:
        raise CaptureError(
            "The model was captured by torch.export already and has no train() and eval() any "
            "more; give widthwise the module that it was made from."
        ) from error


def _check_value(name: str, value: Any) -> None:
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, np.ndarray):
            raise CaptureError(
                f"{name} of the example is a numpy array; give torch.from_numpy(array) and the "
                "like, since only tensors can be captured."
            )
        if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == 0:
            raise CaptureError(
                f"{name} of the example is empty (its shape is {tuple(leaf.shape)}); give an "
                "example of two rows, say."
            )


def does_not_run(model: nn.Module, args: Any, kwargs: Any, error: BaseException) -> str:
    """The sentence for a model that fails on its example."""
    if isinstance(error, NotImplementedError) and 'missing the required "forward"' in str(error):
        return f"{type(model).__name__} has no forward; give widthwise a module that can be called."
    if isinstance(error, RuntimeError) and "does not require grad" in str(error):
        return (
            f"{type(model).__name__} takes gradients in forward{place(error)}, which cannot be "
            "captured; give widthwise the part whose gradients they are."
        )
    of_model = {str(t.device) for t in [*model.parameters(), *model.buffers()]}
    leaves = pytree.tree_leaves((args, kwargs))
    of_example = {str(t.device) for t in leaves if isinstance(t, Tensor)}
    if len(of_model) == 1 and of_example - of_model:
        (device,) = of_model
        return (
            f"The model is on {device} and its example on {', '.join(sorted(of_example))}; "
            f"move the example with .to({device!r})."
        )
    return (
        f"The model does not run on the example inputs{place(error)}: {first_sentence(error)}; "
        "give an example that model(*args, **kwargs) accepts."
    )


def cannot(model: nn.Module, error: BaseException) -> str:
    """The sentence for a model that runs but that torch.export does not capture."""
    name, text, kind = type(model).__name__, str(error), type(error).__name__
    where = place(error)
    passed = set(_functions(error))
    if "_detect_is_causal_mask" in passed:
        keyword = "tgt_is_causal" if "TransformerDecoder" in passed else "is_causal"
        return (
            f"{name} lets torch look whether a mask is causal{where}, which depends on data; say "
            f"it there, by {keyword}=True for a causal mask and {keyword}=False for any other."
        )
    if passed & {"PackedSequence", "pack_padded_sequence", "pack_sequence"}:
        return (
            f"{name} packs sequences{where}, whose sizes depend on data; run the recurrent layer "
            "on the padded batch and mask what lies behind each length, for example by "
            "torch.where(positions < lengths[:, None, None], outputs, 0)."
        )
    if "data-dependent" in text or "DataDependent" in kind or "DynamicOutputShape" in kind:
        advice = "use torch.where or a fixed bound there"
        if "layerdrop" in _function_text(error):
            advice = "set layerdrop to 0"
        return (
            f"{name} cannot be captured because its control flow depends on data{where}; {advice}, "
            "or give widthwise the part of the model without it."
        )
    operator = _without_fake(error, text)
    if operator is not None:
        return (
            f"The operator {operator} does not say what shape it returns{where}; describe that "
            "with torch.library.register_fake, or give widthwise a part without the operator."
        )
    if found := re.search(r"Found <class '([^']*)'> in output", text):
        if found[1].rpartition(".")[2].endswith("Cache"):
            return (
                f"{name} returns a {found[1]}, which cannot be captured; give use_cache=False with "
                "the example, or set it in the model's config."
            )
        return (
            f"{name} returns a {found[1]}, which cannot be captured; return its tensors, alone or "
            "in tuples, dicts and dataclasses."
        )
    if found := re.search(r"Unsupported input type <class '([^']*)'>", text):
        return (
            f"The example holds a {found[1]}, which cannot be captured; give tensors and numbers, "
            "alone or in tuples, lists, dicts and dataclasses."
        )
    if re.search(r"Sparse C\w+ tensors do not have strides", text):
        return (
            f"{name} computes with a compressed sparse matrix{where}, which cannot be captured; "
            "register the matrix as a buffer, or hold it by its coordinates, matrix.to_sparse()."
        )
    if ".numpy() is not supported" in text:
        return (
            f"{name} leaves torch for numpy{where}, which cannot be captured; use the operators of "
            "torch there, or give widthwise the part of the model without it."
        )
    return (
        f"torch.export cannot capture {name}{where} ({kind}: {first_sentence(error)}); make "
        "torch.export.export(model, args) succeed, or give widthwise a part for which it does."
    )


def check_graph(graph: fx.Graph) -> None:
    """Raise CaptureError for what torch.export records but what cannot run from a graph."""
    for node in graph.nodes:
        if getattr(node.target, "__module__", None) == "torch._functorch.predispatch":
            raise CaptureError(
                f"torch.vmap{line_of(node)} cannot be captured; write it out for the whole batch, "
                "or give widthwise the part of the model without it."
            )


def line_of(node: fx.Node) -> str:
    """The line of the user's code that called an operator, said as `place`."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.stack_trace or "")
    return in_words(lines[-1][0], int(lines[-1][1])) if lines else ""


def _without_fake(error: BaseException, text: str) -> str | None:
    """The name of the custom operator that torch.export failed on, if that is the matter."""
    operator = getattr(error, "func", None)
    if isinstance(operator, torch._ops.OpOverload) and operator.namespace != "aten":
        return operator._schema.name
    if "no fake impl" not in text and "Meta kernel" not in text:
        return None
    found = re.search(r"CustomOpDef\(([\w:.]+)\)", text) or re.search(r"\b(\w+::\w+)", text)
    return None if found is None else found[1]


def first_sentence(error: BaseException) -> str:
    """The first sentence of an error's message, without its full stop."""
    line = (str(error).strip().splitlines() or [""])[0]
    first = re.split(r"(?<=[\w)>'\"`])[.!]\s+(?=[A-Z])", line)[0]
    return first.rstrip(".!: ") or type(error).__name__


def place(error: BaseException) -> str:
    """Where in the user's own code an error arose: ` at file:line (the line)`, or nothing."""
    found = _origin(error)
    return "" if found is None else in_words(found[0].co_filename, found[1])


def running(frame: FrameType | None) -> str:
    """The line of the user's own code that runs in a frame or called it, said as `place`."""
    while frame is not None and not is_own(frame):
        frame = None if _module(frame).startswith("widthwise.graph.") else frame.f_back
    return "" if frame is None else in_words(frame.f_code.co_filename, frame.f_lineno)


def in_words(file: str, line: int) -> str:
    """A line of code as messages name it: ` at file:line (the line)`."""
    text = linecache.getline(file, line).strip()
    path = Path(file)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f" at {shown}:{line} (`{text}`)"


def is_own(frame: FrameType) -> bool:
    """Whether a frame runs code of the user's (or of a library of models), which can be shown."""
    module = _module(frame)
    if module.partition(".")[0] in _NOT_OWN or module.startswith("widthwise.graph."):
        return False
    file = frame.f_code.co_filename
    if file.startswith(_STANDARD) and "site-packages" not in file:
        return False
    return bool(linecache.getline(file, frame.f_lineno).strip())


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _origin(error: BaseException) -> tuple[CodeType, int] | None:
    """The innermost line of the user's own code that an error passed through."""
    for each in _causes(error):
        found, traceback = None, each.__traceback__
        while traceback is not None:
            if is_own(traceback.tb_frame):
                found = traceback.tb_frame.f_code, traceback.tb_lineno
            traceback = traceback.tb_next
        if found is not None:
            return found
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _functions(error: BaseException) -> Iterator[str]:
    """Names of the functions that an error passed through, and of the classes of their values."""
    for each in _causes(error):
        traceback = each.__traceback__
        while traceback is not None:
            frame = traceback.tb_frame
            yield frame.f_code.co_name
            if "self" in frame.f_locals:
                yield type(frame.f_locals["self"]).__name__
            if any(isinstance(v, PackedSequence) for v in frame.f_locals.values()):
                yield "PackedSequence"
            traceback = traceback.tb_next


def _function_text(error: BaseException) -> str:
    found = _origin(error)
    try:
        return "" if found is None else inspect.getsource(found[0])
    except OSError:
        return ""
