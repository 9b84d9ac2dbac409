"""Optional arguments of forward that an example does not have, with values made up for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree
from bench.conformance.observe import leaves
from torch import Tensor, nn

# Taken by **kwargs of many models of transformers.
BY_KEYWORD = {"output_hidden_states": True, "output_attentions": True, "return_dict": False}
IDS = ("input_ids", "decoder_input_ids", "input_values", "input_features", "pixel_values")


def without(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[str, tuple[tuple[Any, ...], dict[str, Any]]]]:
    """The example without each optional argument that it has, by the argument's name."""
    parameters = inspect.signature(model.forward).parameters
    for name in kwargs:
        if name in parameters and parameters[name].default is not inspect.Parameter.empty:
            yield name, (args, {k: v for k, v in kwargs.items() if k != name})
    positional = list(parameters.values())[: len(args)]
    if args and positional and positional[-1].default is not inspect.Parameter.empty:
        yield positional[-1].name, (args[:-1], kwargs)


def made_up(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Names and values of arguments that the model takes and the example does not give.

    Only values with which the model runs.
    """
    yield from _named(model, args, kwargs)
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(model.forward).parameters.values()):
        for name, value in BY_KEYWORD.items():
            if name not in kwargs and _runs(model, args, {**kwargs, name: value}):
                yield name, value


def _named(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    parameters = inspect.signature(model.forward).parameters
    given = {*list(parameters)[: len(args)], *kwargs}
    named = dict(zip(parameters, args, strict=False)) | kwargs
    model.eval()
    with torch.no_grad():
        outputs = model(*args, **kwargs)
    for name, parameter in parameters.items():
        optional = parameter.default is not inspect.Parameter.empty
        if name in given or not optional or parameter.kind is parameter.VAR_KEYWORD:
            continue
        for value in _values(name, parameter, named, model, outputs):
            if _runs(model, args, {**kwargs, name: value}):
                yield name, value
                break


def _runs(model: nn.Module, args: Any, kwargs: Any) -> bool:
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception:  # noqa: BLE001 - a value that was made up need not fit
        return False
    return True


def _values(
    name: str, parameter: inspect.Parameter, named: dict[str, Any], model: nn.Module, outputs: Any
) -> Iterator[Any]:
    """Values to try, the likeliest first."""
    if isinstance(parameter.default, bool) or name.startswith(("output_", "return_", "use_")):
        yield not (parameter.default if isinstance(parameter.default, bool) else name[:3] == "ret")
        return
    if isinstance(parameter.default, (int, float)):
        yield type(parameter.default)(2 * parameter.default + 1)
        return
    maker = _TENSORS.get(name.removeprefix("decoder_") if name != "decoder_input_ids" else name)
    prefix = "decoder_" if name.startswith("decoder_") else ""
    ids = next((named[prefix + k] for k in IDS if isinstance(named.get(prefix + k), Tensor)), None)
    if ids is None:
        tensors = (x for x in pytree.tree_leaves(named) if isinstance(x, Tensor) and x.dim())
        ids = next(tensors, None)
    if ids is None:
        return
    if maker is not None:
        yield from maker(ids, model, outputs)
    elif "Tensor" in str(parameter.annotation) or parameter.default is None:
        yield from _any_tensor(ids)


def _mask(x: Tensor, model: nn.Module, outputs: Any) -> Iterator[Tensor]:
    """The last third of every row but the first is padding."""
    length = x.shape[1] if x.dim() > 1 else 1
    mask = torch.ones(x.shape[0], length, dtype=torch.long)
    mask[1:, length - max(length // 3, 1) :] = 0
    yield mask
    yield mask.bool()
    yield mask.to(torch.get_default_dtype())


def _types(x: Tensor, model: nn.Module, outputs: Any) -> Iterator[Tensor]:
    yield (torch.arange(x.shape[1]) % 2).expand(x.shape[:2]).contiguous()


def _positions(x: Tensor, model: nn.Module, outputs: Any) -> Iterator[Tensor]:
    yield torch.arange(1, x.shape[1] + 1).expand(x.shape[:2]).contiguous()


def _labels(x: Tensor, model: nn.Module, outputs: Any) -> Iterator[Tensor]:
    """One class for each of the logits, or numbers of their form."""
    found = [t for p, t in leaves(outputs, "") if isinstance(t, Tensor) and "logits" in p]
    logits = found[0] if found else None
    if logits is None:
        logits = next(t for _, t in leaves(outputs, "") if isinstance(t, Tensor))
    count = max(logits.shape[-1], 1)
    yield torch.arange(logits.shape[:-1].numel()).reshape(logits.shape[:-1]) % count
    yield torch.arange(x.shape[0]) % count
    if not x.is_floating_point():
        yield x.clone() % count
    yield torch.rand(logits.shape, generator=torch.Generator().manual_seed(4), dtype=logits.dtype)


def _embeds(x: Tensor, model: nn.Module, outputs: Any) -> Iterator[Tensor]:
    config: Any = getattr(model, "config", None)
    width = getattr(config, "hidden_size", None) or getattr(config, "d_model", 0)
    draws = torch.Generator().manual_seed(5)
    yield torch.randn(*x.shape[:2], int(width), generator=draws, dtype=_floating(model))


def _floating(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters()), torch.get_default_dtype())


def _same_kind(x: Tensor, model: nn.Module, outputs: Any) -> Iterator[Tensor]:
    yield x.flip(-1)


def _any_tensor(x: Tensor) -> Iterator[Tensor]:
    """For a name that says nothing: of the first input's shape, of its batch, of one entry."""
    draws = torch.Generator().manual_seed(6)
    dtype = x.dtype if x.is_floating_point() else torch.float64
    for shape in (tuple(x.shape), tuple(x.shape[:1]), tuple(x.shape[:2])):
        value = torch.rand(shape, generator=draws, dtype=dtype)
        yield value
        yield value > 0.3


_TENSORS: dict[str, Callable[[Tensor, nn.Module, Any], Iterator[Tensor]]] = {
    "attention_mask": _mask,
    "padding_mask": _mask,
    "mask": _mask,
    "token_type_ids": _types,
    "position_ids": _positions,
    "labels": _labels,
    "inputs_embeds": _embeds,
    "decoder_input_ids": _same_kind,
}
