"""Gradual magnitude pruning, as an object to call in any training loop.

    pruner = GradualPruner(module, Schedule(0.9, begin=500, end=5_000))
    for inputs, target in batches:
        optimizer.zero_grad()
        criterion(module(inputs), target).backward()
        optimizer.step()
        pruner.step()                                  # the smallest weights are zero, and stay so

    GradualPruner(module, schedule, scope="lamp")      # weights compete across tensors
    GradualPruner(module, schedule, each={"fc3.weight": Schedule(0.5, end=5_000)})
    GradualPruner(module, schedule, dpf=True)     # DPF: what was pruned may come back
    GradualPruner(net, schedule, levels=even_levels(net))    # an Elastic: every level is as sparse

Zeros are exact, in the module's own parameters: whatever saves or runs the module sees them. They
are meant (`widthwise.elastic.zeros`): `fit` keeps them, with and without a pruner.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import torch
from torch import Tensor, nn

from widthwise.elastic.network import Elastic
from widthwise.elastic.zeros import ZerosLostWarning, mean, meant
from widthwise.errors import ScoreError, or_rather
from widthwise.pruning.gradual.compete import Scope, checked
from widthwise.pruning.gradual.groups import Group, check, groups
from widthwise.pruning.gradual.nested import shells
from widthwise.pruning.gradual.schedule import Schedule
from widthwise.pruning.gradual.select import prunable
from widthwise.variant import AnyWidths

_INTEGERS: Final = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


class GradualPruner:
    """Zero the smallest weights of a module step by step while it is trained (Zhu & Gupta, 2017).

    Args:
        module: its parameters are changed in place; of an Elastic, its model's. What the
            schedule asks for at step 0 is done at once. Zeros that were meant before, of a sparse
            file or an earlier pruner, stay unless `dpf` is set.
        tensors: names of the parameters to prune; `prunable(module)` by default, which leaves
            biases, norms, depthwise filters and the first convolution dense.
        scope: "layer" prunes every tensor to the same share, "global" all of them together, which
            takes nearly all of tensors whose weights are much smaller than others', such as LSTMs
            beside embeddings; "lamp" all of them together, each weight by its share of the larger
            ones of its tensor (`compete.lamp`), which takes from no tensor nearly all.
        each: schedules of single tensors, which are then ranked by themselves.
        dpf: dynamic pruning with feedback (DPF; Lin et al., 2020). Gradients are taken at the
            pruned weights and applied to dense ones kept beside them, so that weights come back
            which were pruned wrongly; masks go on changing after the schedule's end. (A decay of
            weights does not reach those that are out.)
        levels: widths from narrow to wide of an Elastic, so that each of them gets the sparsity,
            rather than all together.

    Raises:
        ScoreError: Where there is nothing to prune, a name is unknown, or a tensor would be left
            without any weight.
        WidthError: For levels that do not lie in each other.
        ValueError: For arguments that do not fit together.
    """

    def __init__(
        self,
        module: nn.Module,
        schedule: Schedule,
        *,
        tensors: Sequence[str] | None = None,
        scope: Scope = "layer",
        each: Mapping[str, Schedule] | None = None,
        dpf: bool = False,
        levels: Sequence[AnyWidths] = (),
    ) -> None:
        if levels and not isinstance(module, Elastic):
            raise ValueError("levels are widths of an Elastic; give that in place of the module.")
        self.module = module.model if isinstance(module, Elastic) else module
        self.schedule, self.scope = schedule.paced(dpf=dpf), checked(scope)
        self.each = {name: own.paced(dpf=dpf) for name, own in (each or {}).items()}
        self.levels = (
            tuple(module.complete(w) for w in levels) if isinstance(module, Elastic) else ()
        )
        self.dpf = dpf
        chosen = prunable(self.module) if tensors is None else tuple(tensors)
        named = _parameters(self.module, [*chosen, *self.each])
        # Modules rather than parameters, which are other objects once a module has been moved.
        parts = {name: name.rpartition(".") for name in named}
        self._holders = {n: (self.module.get_submodule(p[0]), p[2]) for n, p in parts.items()}
        nested = shells(module, levels) if levels and isinstance(module, Elastic) else {}
        self._groups = tuple(groups(chosen, self.schedule, scope, self.each, nested))
        for group in self._groups:
            check(group, {name: p.numel() for name, p in named.items()})
        # Integers as wide as the weights, of all bits or none: an AND is quicker than a product,
        # and what it zeroes is +0, whatever it was.
        self._kept = {
            name: torch.full_like(p, -1, dtype=_INTEGERS[p.itemsize], requires_grad=False)
            for name, p in named.items()
        }
        self._out = {n: torch.zeros_like(p).detach() for n, p in named.items() if dpf}
        before = {} if dpf else meant(self.module)
        self._before = {
            n: -mask.to(self._kept[n].dtype) for n, mask in before.items() if n in named
        }
        for name, mask in self._before.items():
            self._kept[name].bitwise_and_(mask)
        self._taken = 0
        self._update()

    @property
    def steps(self) -> int:
        """How many optimizer steps were counted."""
        return self._taken

    @property
    def masks(self) -> dict[str, Tensor]:
        """Which weights are left, bool, by the name of the parameter."""
        return {name: kept != 0 for name, kept in self._kept.items()}

    @property
    def sparsity(self) -> float:
        """The share of zeros in the pruned tensors, counted in the weights as they are now.

        Where weights that the masks leave out are not zero, because something else has put others
        in since the last step, a ZerosLostWarning says so.
        """
        weights = {name: self._parameter(name).detach() for name in self._kept}
        back = sum(self._back(name, weight) for name, weight in weights.items())
        if back:
            warnings.warn(
                f"{back} weights that were pruned are not zero, for something has changed them "
                "since the last step; pruner.apply() makes them zero again.",
                ZerosLostWarning,
                stacklevel=2,
            )
        left = sum(int(weight.count_nonzero()) for weight in weights.values())
        return 1 - left / sum(weight.numel() for weight in weights.values())

    def step(self) -> None:
        """Call after every optimizer step. Raises ScoreError when nothing is left of a tensor."""
        self._taken += 1
        self._update()

    @torch.no_grad()
    def apply(self, module: nn.Module | None = None) -> int:
        """Zero what the masks leave out, as `step` does; after weights were put in from outside.

        Args:
            module: a copy of the module, such as an average of its weights; by default the module.

        Returns:
            How many of the weights were not zero.
        """
        if module is None:
            weights = {name: self._parameter(name) for name in self._kept}
        else:
            named = dict(module.named_parameters(remove_duplicate=False))
            weights = {name: named[name] for name in self._kept}
        back = 0
        for name, weight in weights.items():
            back += self._back(name, weight)
            _bits(weight).bitwise_and_(self._kept[name].to(weight.device))
        return back

    def _back(self, name: str, weight: Tensor) -> int:
        """How many weights are not zero that the mask leaves out."""
        kept = self._kept[name].to(weight.device)
        return int(weight.detach().masked_fill(kept != 0, 0).count_nonzero())

    def _zero(self) -> None:
        for name, kept in self._kept.items():
            _bits(self._parameter(name)).bitwise_and_(kept)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights, for what uses gradients by itself, such as SAM."""
        for name, kept in self._kept.items():
            gradient = self._parameter(name).grad
            if gradient is not None:
                _bits(gradient).bitwise_and_(kept)

    def settings(self) -> dict[str, Any]:
        """What sets this pruning apart, as JSON: a run resumes only with the same."""
        return {
            "schedule": asdict(self.schedule),
            "scope": self.scope,
            "each": {name: asdict(schedule) for name, schedule in self.each.items()},
            "dpf": self.dpf,
            "tensors": list(self._kept),
            "levels": [dict(w) for w in self.levels],
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Copies on the CPU of all that a resumed training needs beside the module's weights."""
        state = {"steps": torch.tensor(self._taken)}
        state |= {f"masks/{name}": mask.cpu() for name, mask in self.masks.items()}
        state |= {f"out/{name}": out.to("cpu", copy=True) for name, out in self._out.items()}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave. Raises ScoreError for masks of other tensors."""
        wanted = {name: tuple(t.shape) for name, t in self.state_dict().items()}
        given = {name: tuple(t.shape) for name, t in state.items()}
        if wanted != given:
            odd = min(n for n in wanted.keys() | given.keys() if wanted.get(n) != given.get(n))
            raise ScoreError(
                f"The masks do not fit the network ({odd}); make the pruner with the module and "
                "the arguments that it had."
            )
        self._taken = int(state["steps"])
        for name, kept in self._kept.items():
            kept.copy_(-state[f"masks/{name}"].to(kept.dtype))
        for name, out in self._out.items():
            out.copy_(state[f"out/{name}"])
        self.apply()

    @torch.no_grad()
    def _update(self) -> None:
        """Make the masks again where it is time to, and apply them."""
        due = [g for g in self._groups if g.schedule.changes(self._taken, endless=self.dpf)]
        if due or self._out:
            weights = {name: self._parameter(name) for name in self._kept}
            for name, out in self._out.items():
                weights[name].add_(out)  # the dense ones, which the last step has moved
            for group in due:
                self._choose(group, weights)
            if due:
                mean(self.module, self._kept)
            for name, out in self._out.items():
                out.copy_(weights[name])
                _bits(out).bitwise_and_(~self._kept[name])
        self._zero()

    def _choose(self, group: Group, weights: Mapping[str, Tensor]) -> None:
        for name, left in group.kept(weights, self._taken).items():
            kept, inside = self._kept[name], group.entries[name]
            if inside is None:
                kept.copy_(-left.view(kept.shape).to(kept.dtype))
            else:
                kept.put_(inside.to(kept.device), -left.to(kept.dtype))
            if name in self._before:
                kept.bitwise_and_(self._before[name])

    def _parameter(self, name: str) -> Tensor:
        """A parameter as it is now; what is kept beside it follows to its device."""
        holder, last = self._holders[name]
        parameter: Tensor = getattr(holder, last)
        for beside in (self._kept, self._out, self._before):
            if name in beside and beside[name].device != parameter.device:
                beside[name] = beside[name].to(parameter.device)
        return parameter


def _bits(tensor: Tensor) -> Tensor:
    """A tensor's memory as integers."""
    return tensor.detach().view(_INTEGERS[tensor.itemsize])


def _parameters(module: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """Parameters by name, each once. Raises ScoreError."""
    if not names:
        raise ScoreError(
            "The module has no matrix or kernel to prune; name the parameters to prune, tensors=."
        )
    named = dict(module.named_parameters())
    for name in names:
        if name not in named:
            raise ScoreError(f"There is no parameter {name!r} to prune{or_rather(name, named)}")
        if not named[name].is_floating_point() or named[name].itemsize not in _INTEGERS:
            raise ScoreError(f"{name!r} is of type {named[name].dtype}; leave it dense.")
    return {name: named[name] for name in dict.fromkeys(names)}
