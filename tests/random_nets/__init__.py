"""Networks put together at random, each from a recipe that can be printed and built again.

    recipe = generate(random.Random(7).choice)      # or with the choices of hypothesis
    model, args = build(recipe)
    print(recipe)                                   # what to paste into a test when it fails

A recipe names steps (`images.py`, `sequences.py`, `rows.py`, `programs.py`), each with numbers that
make its choices; a step that does not fit where it comes is left out, so every shorter recipe is
one too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from random_nets.block import Block, Place, Shape, Step
from random_nets.images import IMAGES
from random_nets.programs import PROGRAMS
from random_nets.rows import ROWS
from random_nets.sequences import SEQUENCES, VECTORS

LARGEST = 64  # features in one dim; larger values only cost time
STEPS: dict[str, dict[str, Step]] = {
    "image": {f.__name__: f for f in IMAGES},
    "sequence": {f.__name__: f for f in (*ROWS, *SEQUENCES)},
    "vector": {f.__name__: f for f in (*ROWS, *VECTORS)},
}
# Steps that may be refused: the Elastic is the model or nothing.
PROGRAM_STEPS = {kind: {f.__name__: f for f in PROGRAMS} for kind in STEPS}
SOURCES: dict[str, tuple[Shape, Callable[[], Tensor]]] = {
    "image": (Shape("image", 3, (4, 4)), lambda: torch.randn(3, 3, 4, 4)),
    "signal": (Shape("sequence", 5, (5,)), lambda: torch.randn(3, 5, 5)),
    "tokens": (Shape("sequence", 8, (5,)), lambda: torch.randint(0, 11, (3, 5))),
    "vector": (Shape("vector", 7, ()), lambda: torch.randn(3, 7)),
}
Choose = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True)
class Recipe:
    """source: the kind of input. steps: (name, the numbers that make its choices)."""

    source: str
    steps: tuple[tuple[str, tuple[int, ...]], ...]


class RandomNet(nn.Module):
    """The network of a recipe: a chain of blocks that may look back, and a last layer."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        shapes = _first(recipe.source)
        given, embedded = shapes[0].channels, shapes[-1].channels
        self.kind = recipe.source
        self.embed = nn.Embedding(11, embedded) if self.kind == "tokens" else nn.Identity()
        if len(shapes) > 1:
            # Without a layer that reads them, features of the input would be sizes that may vary.
            self.embed = nn.Linear(given, embedded)
        self.blocks = nn.ModuleList()
        for name, numbers in recipe.steps:
            block = _block(shapes, name, numbers)
            if block is not None:
                self.blocks.append(block)
                shapes.append(_next(shapes, block))
        self.image = shapes[-1].kind == "image"
        self.head = nn.Linear(shapes[-1].channels, 11 if self.kind == "tokens" else 4)
        if self.kind == "tokens" and shapes[-1].channels == embedded:
            self.head.weight = self.embed.weight

    def forward(
        self, x: Tensor, gate: Tensor | None = None, strength: float = 1.0, flip: bool = False
    ) -> Tensor:
        values = [self.embed(x)] if self.kind in ("image", "tokens") else [x, self.embed(x)]
        for block in self.blocks:
            more = (gate, strength, flip) if block.takes_arguments else ()
            values.append(block(values[-1], values[block.other or 0], *more))
        last = values[-1]
        return self.head(last.mean((2, 3)) if self.image else last)


def _first(source: str) -> list[Shape]:
    """The values that a network starts with: the input as it is, or also through a layer."""
    shape = SOURCES[source][0]
    if source in ("image", "tokens"):
        return [shape]
    return [shape, Shape(shape.kind, 8, shape.space)]


def _next(shapes: Sequence[Shape], block: Block) -> Shape:
    kind, channels, space = block.makes
    now = shapes[-1]
    return Shape(kind or now.kind, channels, now.space if space is None else space)


def _block(shapes: Sequence[Shape], name: str, numbers: Sequence[int]) -> Block | None:
    kind = shapes[-1].kind
    step = STEPS[kind].get(name) or PROGRAM_STEPS[kind].get(name)
    block = None if step is None else step(Place(shapes, numbers))
    return block if block is not None and block.makes[1] <= LARGEST else None


def build(recipe: Recipe) -> tuple[RandomNet, tuple[Tensor]]:
    """The network, always with the same weights, and an example input."""
    torch.manual_seed(0)
    return RandomNet(recipe), (SOURCES[recipe.source][1](),)


def generate(choose: Choose, most: int = 8, *, programs: bool = False) -> Recipe:
    """A recipe made by choices: `choose(options)` gives one of them.

    programs: every second step or so is one of `programs.py`.
    """
    source = choose(list(SOURCES))
    shapes = _first(source)
    steps: list[tuple[str, tuple[int, ...]]] = []
    for _ in range(choose(range(2, most + 1))):
        table = PROGRAM_STEPS if programs and choose((True, False)) else STEPS
        name = choose(list(table[shapes[-1].kind]))
        numbers = tuple(choose(range(12)) for _ in range(3))
        block = _block(shapes, name, numbers)
        if block is not None:
            steps.append((name, numbers))
            shapes.append(_next(shapes, block))
    return Recipe(source, tuple(steps))


def shorter(recipe: Recipe) -> Iterator[Recipe]:
    """Simpler recipes: with one step less, or with one number of a step at 0."""
    steps = recipe.steps
    for i in range(len(steps)):
        yield Recipe(recipe.source, (*steps[:i], *steps[i + 1 :]))
    for i, (name, numbers) in enumerate(steps):
        for j, number in enumerate(numbers):
            if number:
                plain = (*numbers[:j], 0, *numbers[j + 1 :])
                yield Recipe(recipe.source, (*steps[:i], (name, plain), *steps[i + 1 :]))
