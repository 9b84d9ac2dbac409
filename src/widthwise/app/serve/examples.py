"""Examples of a task's test split, as JSON: images, sentences, or rows of a table.

    gallery = Gallery(task, data.test)
    gallery.page(0)                   # twelve of them, in an order that is drawn once
    gallery.item(17)                  # (inputs, target) as a batch of one, for a network

Images are drawn from the tensors that the networks get, scaled back to black and white by the range
of the data.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final, Literal

import torch
import torch.utils._pytree as pytree
from pydantic import BaseModel
from torch import Tensor
from torch.utils.data import Dataset

from widthwise.app.serve.drawing import Frame, as_data
from widthwise.app.tasks.tokens import IGNORED
from widthwise.errors import DataError
from widthwise.task import Task
from widthwise.train.batches import length, own_randomness, stream

Kind = Literal["image", "text", "table", "other"]
PAGE: Final = 12
_DIGITS: Final = tuple("0123456789")
_KNOWN: Final = 256  # images that say what range and frame the data have
_ROWS: Final = 8  # of a table's many features
_WORDS: Final = 40  # of a text, before the one that is asked for
_LARGEST: Final = 4096  # values of an input that are shown as a table


class Picture(BaseModel):
    """Pixels, row by row. channels: 1 or 3. data: base64 of one byte for each value."""

    width: int
    height: int
    channels: int
    data: str


class Example(BaseModel):
    """One example. label: what is right. picture, text, rows: it, by its kind.

    rows: name and value of the features furthest from 0.
    """

    id: int
    label: str
    picture: Picture | None = None
    text: str = ""
    rows: list[tuple[str, str]] = []


class Examples(BaseModel):
    """Some examples. total: in the test split. can_draw: whether a drawing can be asked about.

    note: what one should know of them.
    """

    kind: Kind
    total: int
    can_draw: bool
    note: str
    examples: list[Example]


class Gallery:
    """The test split of a task. Raises DataError when it is empty."""

    def __init__(self, task: Task, data: Dataset[Any]) -> None:
        self.task, self.data = task, data
        try:
            self.total = length(data)
        except DataError as error:
            raise DataError(f"The test split of {task.name} cannot be shown: {error}") from error
        generator = torch.Generator().manual_seed(0)
        self.order = torch.randperm(self.total, generator=generator).tolist()
        inputs, _ = self.item(self.order[0])
        self.kind = _kind(task, inputs)

    def item(self, number: int) -> tuple[Any, Any]:
        """One example as a batch of one: inputs and target."""
        return self.batch([number])

    def batch(self, numbers: Sequence[int]) -> tuple[Any, Any]:
        """Examples as one batch. Raises DataError for one that is not there."""
        if not all(0 <= number < self.total for number in numbers):
            raise DataError(f"There are examples 0 to {self.total - 1}; ask for one of them.")
        with own_randomness():
            return next(iter(stream(self.data, [torch.tensor(list(numbers))], 0, 0)))

    def page(self, number: int) -> Examples:
        """The examples of a page, from 0 on; after the last page comes the first."""
        pages = max(1, self.total // PAGE)
        begin = number % pages * PAGE
        return self.some(self.order[begin : begin + PAGE])

    def some(self, numbers: Sequence[int]) -> Examples:
        """These examples."""
        notes = {
            "table": f"The {_ROWS} features furthest from 0.",
            "text": "What comes next?",
        }
        return Examples(
            kind=self.kind,
            total=self.total,
            can_draw=self.can_draw,
            note=notes.get(self.kind, ""),
            examples=[self.shown(number) for number in numbers],
        )

    def shown(self, number: int) -> Example:
        """One example as the page shows it."""
        inputs, target = self.item(number)
        shown = Example(id=number, label=self.label(target))
        if self.kind == "image":
            shown.picture = self.picture(inputs[0])
        elif self.kind == "text":
            shown.text = self._text(inputs, target)
        elif self.kind == "table":
            shown.rows = _rows(inputs[0])
        else:
            sizes = (" x ".join(map(str, leaf.shape[1:])) for leaf in _tensors(inputs))
            shown.text = f"{' and '.join(sizes)} numbers"
        return shown

    def label(self, target: Any) -> str:
        """What is right, of a batch of one; "" where that is no single thing."""
        if not isinstance(target, Tensor):
            return ""
        if self.kind == "text":
            return self.words(target[0, spot(target)])
        if target.numel() != 1:
            return ""
        return f"{target.item():.4g}" if target.is_floating_point() else self.name(int(target))

    def name(self, number: int) -> str:
        """A class by its name, or its number where it has none."""
        known = 0 <= number < len(self.task.classes)
        return self.task.classes[number] if known else str(number)

    def words(self, numbers: Tensor) -> str:
        """What token numbers, (T,) or a single one, say."""
        return self._reader(numbers.reshape(-1)).strip() or "(end)"

    def picture(self, image: Tensor) -> Picture:
        """An input, (H, W) or (C, H, W), as pixels."""
        planes = _planes(image[None])[0]
        low, high = self._range
        pixels = ((planes - low) / (high - low)).clamp(0, 1).mul(255).round().byte()
        channels, height, width = pixels.shape
        data = base64.b64encode(pixels.permute(1, 2, 0).contiguous().numpy().tobytes()).decode()
        return Picture(width=width, height=height, channels=channels, data=data)

    @property
    def can_draw(self) -> bool:
        """Whether a drawn digit can be asked about: the inputs are small grey images of digits."""
        if self.kind != "image" or tuple(self.task.classes) != _DIGITS:
            return False
        return len(self._range[0]) == 1 and self._known.shape[-1] <= 64

    def drawn(self, drawing: Sequence[Sequence[int]]) -> Tensor:
        """A drawing, rows of 0..255, as inputs: a batch of one. Raises DataError."""
        if not self.can_draw:
            raise DataError("These are no digits that could be drawn; choose one of the examples.")
        if len({len(row) for row in drawing}) != 1:
            raise DataError("The rows of the drawing differ in length; send rows of one length.")
        bitmap = torch.tensor(drawing, dtype=torch.float32) / 255
        low, high = self._range
        known = (self._known - low) / (high - low)  # (N, 1, H, W)
        image = as_data(bitmap, Frame.of(known[:, 0]), tuple(known.shape[-2:]))  # type: ignore[arg-type]
        first, _ = self.item(self.order[0])
        return (image * (high - low) + low).reshape(first.shape)

    @cached_property
    def _known(self) -> Tensor:
        """Some inputs as (N, C, H, W)."""
        inputs, _ = self.batch(self.order[:_KNOWN])
        return _planes(inputs)

    @cached_property
    def _range(self) -> tuple[Tensor, Tensor]:
        """The least and the largest value of each channel, (C, 1, 1)."""
        low, high = self._known.amin((0, 2, 3)), self._known.amax((0, 2, 3))
        high = torch.where(high > low, high, low + 1)
        return low[:, None, None], high[:, None, None]

    @cached_property
    def _reader(self) -> Callable[[Tensor], str]:
        assert self.task.text is not None  # where kind is "text"
        return self.task.text()

    def _text(self, inputs: Any, target: Tensor) -> str:
        *before, last = [leaf[0] for leaf in _tensors(inputs)]
        read = self._reader(last[: spot(target) + 1][-_WORDS:]).strip()
        return " → ".join([*(self._reader(leaf).strip() for leaf in before), read]) + " …"


def spot(target: Tensor) -> int:
    """Which of the targets (1, T) is asked for: the middle one of those that count."""
    counted = (target[0] != IGNORED).nonzero().flatten()
    return int(counted[len(counted) // 2]) if len(counted) else 0


def _kind(task: Task, inputs: Any) -> Kind:
    if task.text is not None:
        return "text"
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        return "other"
    shape = inputs.shape[1:]
    if len(shape) == 1 and shape[0] <= _LARGEST:
        return "table"
    grey = len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))
    if grey and min(shape[-2:]) >= 4 and max(shape[-2:]) <= 2 * min(shape[-2:]):
        return "image"
    return "other"


def _planes(images: Tensor) -> Tensor:
    """(N, H, W) or (N, C, H, W) as (N, C, H, W)."""
    return images[:, None] if images.dim() == 3 else images


def _rows(features: Tensor) -> list[tuple[str, str]]:
    most = features.abs().topk(min(_ROWS, len(features))).indices.sort().values.tolist()
    return [(f"feature {i + 1}", f"{features[i].item():.3g}") for i in most]


def _tensors(inputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
