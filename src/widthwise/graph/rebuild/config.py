"""The user's model rebuilt from a configuration that asks for the smaller sizes.

A model that its class builds from a configuration alone (`type(model)(config)`, as in Hugging Face
transformers) stays whole only if the configuration of the cut one says its sizes: then it can be
saved, loaded and used to generate text by code that knows nothing of the cut.

    config: hidden_size 64 -> 32, num_attention_heads 4 -> 2, intermediate_size 128 -> 64

Which numbers to change is not known by name. Those that equal a size which was cut are tried; the
right ones are those with which the class builds every tensor at the size of the cut one. Numbers
that no shape shows (often the heads) are told by what the model computes, and changed only if they
must be. Where the configured model lies inside another module, that is copied around the new one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, islice, product
from typing import Any

import torch
from torch import Tensor, nn

ATTEMPTS = 16  # configurations with the right shapes whose outputs are compared

Place = tuple[str, tuple[str | int, ...]]  # a module's path, and keys into its configuration
Choice = dict[Place, int]  # what is changed, to which number
Shapes = dict[str, tuple[int, ...]]
Options = dict[Place, list[int]]


def rebuilt(
    model: nn.Module,
    state: Mapping[str, Tensor],
    sizes: Mapping[int, set[int]],
    differs: Callable[[nn.Module], str | None],
) -> nn.Module | str:
    """The model rebuilt from a configuration that fits the cut tensors, or why it cannot be.

    model: an instance of a class that is built from its `config` (an object with `to_dict` and
    `from_dict`), or a module that holds such. state: cut tensors by name; the result shares them.
    sizes: old size -> new sizes, of axes and of products of axes. differs: how the outputs of a
    candidate differ from the cut network's, or None; it may change the candidate's mode. The
    result is in the modes of the model.
    """
    parts = dict(_configured(model))
    if not parts:
        return "it has no configuration to build it from"
    search = _Search(parts, _wanted(parts, model, state))
    problem = search.cannot_build()
    if problem is not None:
        return problem
    options = dict(_options(parts, sizes))
    best = _fitting(search, options)
    if search.misfits(best):
        options |= _defaults(search)
        best = _fitting(search, options)
    if search.misfits(best):
        return search.misfit(best)
    found = _agreeing(search, model, state, _variations(search, options, best), differs)
    if isinstance(found, nn.Module):
        modes = {name: module.training for name, module in model.named_modules()}
        for name, module in found.named_modules():
            module.training = modes[name]
    return found


@dataclass
class _Search:
    """What is looked for, and what was seen.

    parts: the modules to rebuild, by path. wanted: the shapes of their tensors by name; None
    where any will do, because nothing uses the tensor. seen: misfits of choices looked at.
    """

    parts: dict[str, nn.Module]
    wanted: dict[str, tuple[int, ...] | None]
    seen: dict[frozenset[tuple[Place, int]], int] = field(default_factory=dict)

    def shapes(self, choice: Choice) -> Shapes:
        """Shapes of all tensors that the classes build; raises what they raise."""
        found: Shapes = {}
        for path, module in self.parts.items():
            with torch.device("meta"):
                built = _build(type(module), _config(path, module, choice))
            found |= {_join(path, n): tuple(t.shape) for n, t in _tensors(built).items()}
        return found

    def misfits(self, choice: Choice) -> int:
        """Number of tensors that are missing, too many or of the wrong shape."""
        key = frozenset(choice.items())
        if key not in self.seen:
            try:
                self.seen[key] = len(_different(self.shapes(choice), self.wanted))
            except Exception:  # noqa: BLE001 - a class refuses sizes in ways of its own
                self.seen[key] = len(self.wanted) + 1
        return self.seen[key]

    def misfit(self, choice: Choice) -> str:
        """Why the best choice that was found is not good enough, as text."""
        names = " and ".join(dict.fromkeys(type(m.config).__name__ for m in self.parts.values()))
        try:
            found = self.shapes(choice)
        except Exception as error:  # noqa: BLE001 - the user's code runs inside
            return f"its class refuses the sizes ({_first_line(error)})"
        name = _different(found, self.wanted)[0]
        shape, built = self.wanted.get(name), found.get(name)
        if shape is None or built is None:
            return f"no sizes in its {names} build the same tensors ({name})"
        return f"no sizes in its {names} give {name} the shape {shape}; the nearest give {built}"

    def cannot_build(self) -> str | None:
        """Why the classes do not give the model as it is from its configuration, or None."""
        full = {
            _join(path, n): tuple(t.shape)
            for path, module in self.parts.items()
            for n, t in _tensors(module).items()
        }
        try:
            different = _different(self.shapes({}), full)
        except Exception as error:  # noqa: BLE001 - the user's code runs inside
            return f"its class is not built from its configuration alone ({_first_line(error)})"
        if different:
            return f"its configuration does not describe it as it is ({different[0]} is not alike)"
        return None


def _wanted(
    parts: Mapping[str, nn.Module], model: nn.Module, state: Mapping[str, Tensor]
) -> dict[str, tuple[int, ...] | None]:
    cut = _cut_tensors(model, state)
    return {
        _join(path, n): tuple(cut[id(t)].shape) if id(t) in cut else None
        for path, module in parts.items()
        for n, t in _tensors(module).items()
    }


def _cut_tensors(model: nn.Module, state: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """The cut version of each of the model's tensors, by identity, so that tied ones stay tied."""
    return {id(t): state[name] for name, t in _tensors(model).items() if name in state}


def _different(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name in {**wanted, **found}
        if name not in found or name not in wanted or wanted[name] not in (None, found[name])
    ]


def _options(
    parts: Mapping[str, nn.Module], sizes: Mapping[int, set[int]]
) -> Iterator[tuple[Place, list[int]]]:
    """The numbers of the configurations that equal a size which was cut, and what they may be."""
    for path, module in parts.items():
        for keys, value in _integers(module.config):
            others = sorted(sizes.get(value, set()) - {value})
            # A token's number is not a size, whatever it equals.
            if others and not str(keys[-1]).endswith(("_id", "_ids")):
                yield (path, keys), others


def _defaults(search: _Search) -> Options:
    """Sizes that a configuration leaves to its class and that could be said, at their full values.

    A head size that is hidden size over heads by default has to be said where that is no longer so.
    """
    found: Options = {}
    for path, module in search.parts.items():
        held: dict[str, set[int]] = {}
        for inner in module.modules():
            if not type(inner).__module__.startswith("torch."):
                for name, value in vars(inner).items():
                    if type(value) is int and value > 1:
                        held.setdefault(name, set()).add(value)
        for name, values in held.items():
            place = (path, (name,))
            if getattr(module.config, name, None) is None and _is_read(search, place, max(values)):
                found[place] = sorted(values)
    return found


def _is_read(search: _Search, place: Place, value: int) -> bool:
    """Whether the class looks at a number that its configuration does not have."""
    return search.misfits({place: value + 1}) != search.misfits({})


def _fitting(search: _Search, options: Options) -> Choice:
    """The choice with the fewest misfits that changing one number after the other arrives at."""
    everything = {place: values[0] for place, values in options.items()}
    best: Choice = {}
    for start in (everything, {}):
        choice = start
        while search.misfits(choice):
            nearest = min(_neighbours(choice, options), key=search.misfits, default=choice)
            if search.misfits(nearest) >= search.misfits(choice):
                break
            choice = nearest
        if search.misfits(choice) < search.misfits(best):
            best = choice
    return best


def _neighbours(choice: Choice, options: Options) -> Iterator[Choice]:
    """The choices in which one number is another or not changed."""
    for place, values in options.items():
        rest = {p: v for p, v in choice.items() if p != place}
        if place in choice:
            yield rest
        yield from ({**rest, place: v} for v in values if choice.get(place) != v)


def _variations(search: _Search, options: Options, best: Choice) -> Iterator[Choice]:
    """The choices of the same shapes: first that with the fewest changes, then from the most.

    What no shape shows in a list of numbers is changed as a whole: heads of all stages, say.
    """
    silent: dict[Any, Options] = {}
    for other in _neighbours(best, options):
        if not search.misfits(other):
            for place, value in best.items() ^ other.items():
                whole = place[0], tuple(k for k in place[1] if isinstance(k, str))
                values = silent.setdefault(whole, {}).setdefault(place, [])
                values += [value] if value not in values else []
    base = {p: v for p, v in best.items() if not any(p in unit for unit in silent.values())}
    for changes in (0, *range(len(silent), 0, -1)):
        for units in combinations(silent.values(), changes):
            places = {p: values for unit in units for p, values in unit.items()}
            for numbers in product(*places.values()):
                choice = base | dict(zip(places, numbers, strict=True))
                if not search.misfits(choice):
                    yield choice


def _agreeing(
    search: _Search,
    model: nn.Module,
    state: Mapping[str, Tensor],
    choices: Iterator[Choice],
    differs: Callable[[nn.Module], str | None],
) -> nn.Module | str:
    """The first choice that computes the same, without the changes that it can do without."""
    reason = ""
    for choice in islice(choices, ATTEMPTS):
        found = _made(search.parts, model, state, choice)
        problem = found if isinstance(found, str) else differs(found)
        if problem is not None:
            reason = reason or problem
            continue
        for place in list(choice):
            fewer = {p: v for p, v in choice.items() if p != place}
            if search.misfits(fewer):
                continue
            simpler = _made(search.parts, model, state, fewer)
            if not isinstance(simpler, str) and differs(simpler) is None:
                choice, found = fewer, simpler
        return found
    return reason


def _made(
    parts: Mapping[str, nn.Module], model: nn.Module, state: Mapping[str, Tensor], choice: Choice
) -> nn.Module | str:
    """The model at this choice, over the cut tensors."""
    from accelerate import init_empty_weights  # here, for `import widthwise` should be quick

    cut = _cut_tensors(model, state)
    memo: dict[int, Any] = dict(cut)
    try:
        for path, module in parts.items():
            config = _config(path, module, choice)
            reread = type(config).from_dict(config.to_dict())
            if dict(_integers(reread)) != dict(_integers(config)):
                return "its configuration changes these sizes when it is saved and loaded"
            with init_empty_weights(include_buffers=False):
                built = _build(type(module), config)
            problem = _fill(built, module, cut)
            if problem is not None:
                return problem
            memo[id(module)] = built
        return copy.deepcopy(model, memo)
    except Exception as error:  # noqa: BLE001 - the user's code runs inside
        return f"its class or its configuration refuses the sizes ({_first_line(error)})"


def _fill(built: nn.Module, model: nn.Module, cut: Mapping[int, Tensor]) -> str | None:
    """Give a rebuilt module its tensors; says which of those it computes itself is another."""
    saved = built.state_dict().keys()
    new: dict[int, Tensor] = dict(cut)
    old = _tensors(model)
    for name, mine in _tensors(built).items():
        full = old[name]
        if name not in saved:
            # It will be computed when the model is loaded, so it must be what the class computes.
            value = mine.to(full)
            given = cut.get(id(full), value)
            held = full if given.shape == full.shape else given
            same = value.shape == held.shape
            if not same or not (held.is_meta or torch.allclose(value, held, equal_nan=True)):
                return f"its class computes {name} from its sizes, which gives other values"
            value = given
        else:
            value = new.setdefault(id(full), _first_entries(full, mine.shape))
        owner, _, last = name.rpartition(".")
        setattr(built.get_submodule(owner), last, value)
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        built.generation_config = copy.deepcopy(generation)
    return None


def _first_entries(full: Tensor, shape: torch.Size) -> Tensor:
    """A copy of the first entries of a tensor that the example does not use."""
    value = full.detach()[tuple(slice(n) for n in shape)].clone()
    if isinstance(full, nn.Parameter):
        return nn.Parameter(value, requires_grad=full.requires_grad)
    return value


def _build(kind: Callable[[Any], nn.Module], config: Any) -> nn.Module:
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # of sizes that are only tried
        return kind(config)


def _configured(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules with a configuration, by path."""
    if is_configuration(getattr(module, "config", None)):
        yield path, module
        return
    for name, child in module.named_children():
        yield from _configured(child, _join(path, name))


def is_configuration(value: Any) -> bool:
    """Whether a value is a configuration that can be written and read, as transformers has them."""
    return callable(getattr(value, "to_dict", None)) and callable(getattr(value, "from_dict", None))


def _integers(value: Any, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, int]]:
    """All whole numbers in a configuration, its lists and its inner configurations, with keys."""
    if type(value) is int:
        yield keys, value
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _integers(item, (*keys, i))
    elif is_configuration(value):
        for name in value.to_dict():
            yield from _integers(getattr(value, name, None), (*keys, name))


def _config(path: str, module: nn.Module, choice: Choice) -> Any:
    """A copy of the module's configuration with the chosen numbers."""
    config = copy.deepcopy(module.config)
    for (where, keys), value in choice.items():
        if where == path:
            _put(config, keys, value)
    return config


def _put(holder: Any, keys: tuple[str | int, ...], value: Any) -> Any:
    key, rest = keys[0], keys[1:]
    if isinstance(key, int):
        items = list(holder)
        items[key] = _put(items[key], rest, value) if rest else value
        return type(holder)(items)
    setattr(holder, key, _put(getattr(holder, key), rest, value) if rest else value)
    return holder


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones under each of their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160].rstrip(".")
