"""What someone drew, as the data are: cropped, as large, thick and central as the digits there.

    frame = Frame.of(images)                 # how large and where the data's own strokes are
    image = as_data(drawn, frame, (28, 28))

How the digits of a data set were scaled and centred is not assumed but measured on its images.
"""

from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from widthwise.errors import DataError

_INK: Final = 0.25  # of the darkest; what is fainter is no stroke
_THICKER: Final = range(-4, 9, 2)  # pixels by which a pen may be wider than it was


@dataclass(frozen=True)
class Frame:
    """How strokes lie in the images of a data set, in pixels.

    extent: the longer side of the box around them, the median over the images. height, width: its
    sides, which nine in ten images do not exceed. ink: the sum of an image over the square of its
    extent, the median. row, column: the mean of the centres of mass.
    """

    extent: float
    height: int
    width: int
    ink: float
    row: float
    column: float

    @classmethod
    def of(cls, images: Tensor) -> Self:
        """The frame of images (N, H, W), float32 in 0..1, of which at least one is not empty."""
        sides, inks, centres = [], [], []
        for image in images:
            if image.max() > 0:
                top, bottom, left, right = _box(image)
                sides.append((bottom - top, right - left))
                inks.append(float(image.sum()) / max(sides[-1]) ** 2)
                centres.append(_centre(image))
        rows, columns = torch.tensor(centres).mean(0).tolist()
        boxes = torch.tensor(sides).float()
        height, width = boxes.quantile(0.9, 0).round().int().tolist()
        extent, ink = float(boxes.amax(1).median()), float(torch.tensor(inks).median())
        return cls(extent, height, width, ink, rows, columns)


def as_data(drawn: Tensor, frame: Frame, size: tuple[int, int]) -> Tensor:
    """A drawing (h, w), float32 in 0..1, as an image (H, W) of that size and frame, in 0..1.

    Raises DataError for a drawing without strokes.
    """
    if not drawn.numel() or drawn.max() <= 0:
        raise DataError("There is nothing drawn; draw a digit first.")
    tries = (_scaled(_thicker(drawn / drawn.max(), r), frame) for r in _THICKER)
    small = min(tries, key=lambda x: abs(float(x.sum()) / max(x.shape) ** 2 - frame.ink))
    shape = small.shape
    row, column = _centre(small)
    image = torch.zeros(size)
    y = _within(frame.row - row, size[0] - shape[0])
    x = _within(frame.column - column, size[1] - shape[1])
    image[y : y + shape[0], x : x + shape[1]] = small
    return image


def _scaled(drawn: Tensor, frame: Frame) -> Tensor:
    """What is inked, as large as in the frame, its darkest 1."""
    top, bottom, left, right = _box(drawn)
    crop = drawn[top:bottom, left:right]
    scale = frame.extent / max(crop.shape)
    most = zip(crop.shape, (frame.height, frame.width), strict=True)
    sides = [max(1, min(round(side * scale), high)) for side, high in most]
    small = F.interpolate(crop[None, None], size=sides, mode="bilinear", antialias=True)[0, 0]
    return small.clamp(0, 1) / small.max().clamp(min=1e-6)


def _thicker(drawn: Tensor, radius: int) -> Tensor:
    """The same strokes, so many pixels wider to each side; narrower below 0."""
    if radius == 0:
        return drawn
    pool = 2 * abs(radius) + 1
    signed = drawn if radius > 0 else -drawn
    grown: Tensor = F.max_pool2d(signed[None, None], pool, 1, abs(radius))[0, 0].abs()
    return grown if grown.max() > 0 else drawn


def _box(image: Tensor) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is inked, the ends exclusive."""
    inked = image > _INK * image.max()
    rows, columns = inked.any(1).nonzero(), inked.any(0).nonzero()
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _centre(image: Tensor) -> tuple[float, float]:
    """Row and column of the centre of mass."""
    total = image.sum()
    rows, columns = torch.arange(image.shape[0]), torch.arange(image.shape[1])
    return float((image.sum(1) * rows).sum() / total), float((image.sum(0) * columns).sum() / total)


def _within(offset: float, most: int) -> int:
    return max(0, min(round(offset), most))
