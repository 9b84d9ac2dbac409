"""The user's own class at a smaller size.

A copy of the module gets the cut tensors, and the sizes that its layers and classes hold as
attributes are set to match: those of torch's layers from the shapes of their parameters, those of
the user's classes where a literal size in the captured graph changed. Whether that was right is
not assumed: the result must compute what the cut graph computes, or it is not used.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from widthwise.graph.axes import Axes
from widthwise.graph.capture import Program
from widthwise.graph.cut import keeper
from widthwise.graph.dims import Factor, fully_fixed, resolve, size
from widthwise.graph.proof import random_like
from widthwise.graph.relate import Relations
from widthwise.graph.rules.op import module_path
from widthwise.graph.slicing import count

ATTEMPTS = 16  # ways of setting ambiguous sizes that are tried
LARGE = 65_536  # numbers in an example above which one row of it serves for the check


@dataclass(frozen=True)
class Patch:
    """One size attribute that was set: module path, attribute name, new value (int or ints)."""

    module: str
    attribute: str
    value: int | tuple[int, ...]


def own_class(
    model: nn.Module,
    relations: Relations,
    axes: Axes,
    widths: Mapping[str, int],
    full: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    evaluation: fx.GraphModule,
    training: fx.GraphModule | None,
) -> tuple[nn.Module, tuple[Patch, ...]] | str:
    """The user's class over the cut tensors with the patches made, or why it cannot be had.

    full, state: the model's tensors and their cut versions, by name. evaluation: the cut graph to
    compare with; training: that of training mode, None where the same operators serve both modes,
    so that one mode tells for both.
    """
    changes = _changes(relations, axes, widths)
    groups = _groups(relations, axes, widths)
    reason = "its sizes are written into its code"
    tried: list[list[Patch]] = []
    for reach in (1, 99, 0):  # sizes held where the operator ran, by any parent, or nowhere
        for wanted in islice(_class_sizes(model, changes, reach), ATTEMPTS):
            if wanted in tried:
                continue
            tried.append(wanted)
            try:
                shell = copy.deepcopy(model, {id(full[n]): t for n, t in state.items()})
            except Exception as error:  # noqa: BLE001 - the user's code runs inside
                return f"it cannot be copied ({type(error).__name__})"
            patches = [*_patch_layers(shell, groups), *wanted]
            apply_patches(shell, wanted)
            problem = _difference(shell.eval(), evaluation, relations)
            if problem is None and training is not None:
                problem = _difference(shell.train(), training, relations)
            if problem is None:
                return shell.train(model.training), tuple(patches)
            reason = problem
    return reason


def apply_patches(model: nn.Module, patches: Iterable[Patch]) -> None:
    """Set recorded sizes on a newly built model, as when loading a file.

    Raises AttributeError for a module that the model does not have.
    """
    for patch in patches:
        module = model.get_submodule(patch.module)
        if not hasattr(module, patch.attribute):
            raise AttributeError(f"{patch.module or 'the model'} has no {patch.attribute}")
        setattr(module, patch.attribute, patch.value)


def _changes(
    relations: Relations, axes: Axes, widths: Mapping[str, int]
) -> dict[str, dict[int, set[int]]]:
    """Module path -> old size -> new sizes, of all literal sizes that its operators use."""
    kept = keeper(axes, widths)
    changes: dict[str, dict[int, set[int]]] = {}
    for related in relations.programs:
        for node, follow in related.follow.items():
            path = module_path(node)
            for value in follow.values():
                for term in value if isinstance(value, list) else [value]:
                    if isinstance(term, tuple) and not fully_fixed(term):
                        _note(changes.setdefault(path, {}), term, kept)
    return changes


def _note(known: dict[int, set[int]], term: tuple[Factor, ...], kept: Any) -> None:
    # A size may be written as a whole or factor by factor.
    for some in (resolve(term), *((f,) for f in resolve(term) if not fully_fixed((f,)))):
        free = tuple(f for f in some if not fully_fixed((f,)))
        known.setdefault(size(free), set()).add(count(free, kept))
        known.setdefault(size(some), set()).add(count(some, kept))


def _class_sizes(
    model: nn.Module, changes: Mapping[str, Mapping[int, set[int]]], reach: int
) -> Iterator[list[Patch]]:
    """Ways to set the integer attributes of the user's classes that equal a changed size.

    A size that became several others (heads and a head's parts of equal number, say) gives several
    ways; the check decides.
    """
    merged: dict[str, dict[int, set[int]]] = {}
    for path, sizes in changes.items() if reach else ():
        parts = path.split(".") if path else []
        for n in list(range(len(parts), -1, -1))[:reach]:
            holder = merged.setdefault(".".join(parts[:n]), {})
            for old, new in sizes.items():
                holder.setdefault(old, set()).update(new)
    options: list[list[Patch]] = []
    for path, sizes in merged.items():
        module = model.get_submodule(path)
        if _layer_sizes(module, 1) and not isinstance(module, nn.MultiheadAttention):
            continue
        for name, value in vars(module).items():
            if type(value) is int and value in sizes:
                options.append([Patch(path, name, new) for new in sorted(sizes[value])])
    for chosen in product(*options):
        yield [p for p in chosen if getattr(model.get_submodule(p.module), p.attribute) != p.value]


def _groups(relations: Relations, axes: Axes, widths: Mapping[str, int]) -> dict[str, int]:
    """Module path -> number of groups of its convolution or group norm at these widths."""
    kept = keeper(axes, widths)
    return {
        module_path(node): count(follow[name], kept)
        for related in relations.programs
        for node, follow in related.follow.items()
        for name in ("groups", "num_groups")
        if name in follow
    }


def _patch_layers(shell: nn.Module, groups: Mapping[str, int]) -> list[Patch]:
    """Set the sizes that torch's layers hold, from their parameters' shapes."""
    patches: list[Patch | None] = []
    for path, module in shell.named_modules():
        for name, value in _layer_sizes(module, groups.get(path, 1)):
            patches.append(_set(module, path, name, value))
    return [p for p in patches if p is not None]


def _set(module: nn.Module, path: str, name: str, value: int | tuple[int, ...]) -> Patch | None:
    if getattr(module, name) == value:
        return None
    setattr(module, name, value)
    return Patch(path, name, value)


def _layer_sizes(module: nn.Module, groups: int) -> list[tuple[str, int | tuple[int, ...]]]:
    """(attribute, value) pairs of a torch layer as its parameters' shapes and groups imply them."""
    weight = getattr(module, "weight", None)
    shape = tuple(weight.shape) if isinstance(weight, Tensor) else ()
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return _recurrent_sizes(module)
    if isinstance(module, nn.MultiheadAttention):
        out = module.out_proj.weight.shape[0]
        sizes: list[tuple[str, Any]] = [("embed_dim", out), ("head_dim", out // module.num_heads)]
        if module._qkv_same_embed_dim:
            return [*sizes, ("kdim", out), ("vdim", out)]
        assert module.k_proj_weight is not None
        assert module.v_proj_weight is not None
        k, v = module.k_proj_weight, module.v_proj_weight
        return [*sizes, ("kdim", k.shape[1]), ("vdim", v.shape[1])]
    if isinstance(module, nn.Transformer):
        attention = module.encoder.layers[0].self_attn
        return [("d_model", attention.embed_dim), ("nhead", attention.num_heads)]
    if not shape:
        return []
    if isinstance(module, nn.Bilinear):
        names = ("out_features", "in1_features", "in2_features")
        return list(zip(names, shape, strict=True))
    if isinstance(module, nn.Linear):
        return [("out_features", shape[0]), ("in_features", shape[1])]
    if isinstance(module, nn.Embedding):
        return [("num_embeddings", shape[0]), ("embedding_dim", shape[1])]
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return [("normalized_shape", shape)]
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return [("num_features", shape[0])]
    if isinstance(module, nn.GroupNorm):
        return [("num_channels", shape[0]), ("num_groups", groups)]
    if isinstance(module, nn.modules.conv._ConvNd):
        ins, outs = shape[1] * groups, shape[0]
        if module.transposed:
            ins, outs = outs, ins
        return [("in_channels", ins), ("out_channels", outs), ("groups", groups)]
    return []


def _recurrent_sizes(module: nn.Module) -> list[tuple[str, int | tuple[int, ...]]]:
    suffix = "_l0" if isinstance(module, nn.RNNBase) else ""
    w_ih, w_hh = (getattr(module, f"{n}{suffix}") for n in ("weight_ih", "weight_hh"))
    if getattr(module, "proj_size", 0):
        projection = module.get_parameter("weight_hr_l0").shape
        return [
            ("input_size", w_ih.shape[1]),
            ("hidden_size", projection[1]),
            ("proj_size", projection[0]),
        ]
    return [("input_size", w_ih.shape[1]), ("hidden_size", w_hh.shape[1])]


def _difference(shell: nn.Module, reference: fx.GraphModule, relations: Relations) -> str | None:
    """How the class differs from a cut graph on the example, or None; both in the mode they are."""
    program = relations.programs[-1].program
    args, kwargs = pytree.tree_unflatten(_few_rows(program), program.in_spec)
    with _random_values(reference):
        try:
            mine = _run(shell, args, kwargs)
        except Exception as error:  # noqa: BLE001 - the user's code runs inside
            text = (str(error).splitlines() or [""])[0][:160].rstrip(".")
            return f"its code does not run at these sizes ({text})"
        if not _close(mine, _run(reference, args, kwargs)):
            return "its code computes something else at these sizes"
    return None


@contextmanager
def _random_values(module: nn.Module) -> Iterator[None]:
    """Other weights for a while: small or zero ones of the user's would hide a difference."""
    held = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    saved = [t.detach().clone() for t in held]
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        try:
            for t in held:
                t.copy_(random_like(t, g))
            yield
        finally:
            for t, value in zip(held, saved, strict=True):
                t.copy_(value)


def _few_rows(program: Program) -> list[Any]:
    """The example; of a large one, a single row, which is as good a check and takes less time."""
    if sum(x.numel() for x in program.example if isinstance(x, Tensor)) < LARGE:
        return program.example
    sizes: dict[str, Any] = {
        n.name: program.sizes.get(n) for n in program.graph.find_nodes(op="placeholder")
    }
    batched = [sizes[name][:1] for name in program.inputs if isinstance(sizes[name], list)]
    if any(b != batched[0] or b[0] not in program.dynamic for b in batched):
        return program.example
    return [x[:1] if isinstance(x, Tensor) else x for x in program.example]


def _run(module: nn.Module, args: Any, kwargs: Any) -> list[Tensor]:
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out = module(*args, **kwargs)
    with torch.no_grad():
        for name, b in module.named_buffers():
            b.copy_(buffers[name])
    return [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor)]


def _close(mine: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(mine) == len(theirs) and all(
        a.shape == b.shape
        and torch.allclose(
            a,
            b,
            rtol=1e-4,
            atol=1e-5 * float(b.abs().max() if b.is_floating_point() else 0),
            equal_nan=True,
        )
        for a, b in zip(mine, theirs, strict=True)
    )
