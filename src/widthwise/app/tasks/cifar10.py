"""CIFAR-10: 32x32 colour images, 10 classes, as a residual network and as a transformer.

`cifar10` and `cifar10-vit`. Of the 50,000 train images the last 5,000 are kept for validation.

Two forms of the data are read: the original pixels (`cifar-10-binary.tar.gz`, which is what is
downloaded), or `train_jpeg.npz` and `test_jpeg.npz` (see `formats.read_jpegs`), a small copy in
which every image went through JPEG. **The JPEG copy is lossy**: a network trained and tested on
it cannot be compared with published CIFAR-10 figures.

The published ResNets, which come trained, are in `cifar10_trained`.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from widthwise.app.tasks.arrays import Arrays, example_batch
from widthwise.app.tasks.data import Published, fetch, folders, remedy
from widthwise.app.tasks.formats import read_cifar, read_jpegs
from widthwise.app.tasks.transformer import Block
from widthwise.task import Recipe, Splits, Task

ARCHIVE: Final = Published(
    data_set="cifar-10",
    name="cifar-10-binary.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    size=170_052_171,
)
TRAIN_FILES = tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6))
TEST_FILES = ("cifar-10-batches-bin/test_batch.bin",)
_VALID = 5_000
CLASSES: Final = tuple(
    "airplane automobile bird cat deer dog frog horse ship truck".split()  # in their order
)
Colours = tuple[float, float, float]
# Of the train pixels in 0..1, per colour.
_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def load_splits(mean: Colours = _MEAN, std: Colours = _STD) -> Splits:
    """45,000 train (cropped and flipped at random), 5,000 valid and 10,000 test images.

    mean, std: red, green and blue; they normalise pixels in 0..1 to the inputs, (3, 32, 32)
    float32. The original pixels are used unless the first folder that has any CIFAR-10 has the
    JPEG copy, whose accuracies are not comparable with published ones.
    Raises DataError when the data is missing or damaged.
    """
    folder, cure = _jpeg_folder(), remedy(ARCHIVE)
    if folder is not None:
        train = read_jpegs(folder / "train_jpeg.npz", cure)
        test = read_jpegs(folder / "test_jpeg.npz", cure)
    else:
        archive = fetch(ARCHIVE)
        train = read_cifar(archive, TRAIN_FILES, cure)
        test = read_cifar(archive, TEST_FILES, cure)
    inputs, targets = tensors(*train, mean, std)
    return Splits(
        train=Arrays(inputs[:-_VALID], targets[:-_VALID], augment=crop_and_flip),
        valid=Arrays(inputs[-_VALID:], targets[-_VALID:]),
        test=Arrays(*tensors(*test, mean, std)),
    )


def _jpeg_folder() -> Path | None:
    """The folder whose JPEG copy is to be used, None when the original is found first or none."""
    for folder in folders(ARCHIVE.data_set):
        if (folder / ARCHIVE.name).is_file():
            return None
        if (folder / "train_jpeg.npz").is_file():
            return folder
    return None


def tensors(
    images: NDArray[np.uint8], labels: NDArray[Any], mean: Colours, std: Colours
) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) and labels (N,) -> normalised float32 inputs and int64 targets."""
    inputs = torch.tensor(images).float().div_(255)
    inputs.sub_(torch.tensor(mean).view(3, 1, 1)).div_(torch.tensor(std).view(3, 1, 1))
    return inputs, torch.tensor(labels).long()


def crop_and_flip(images: Tensor) -> Tensor:
    """Shift each image by up to 4 pixels, filling with zeros, and mirror every other one.

    images: (B, C, H, W) -> the same shape and dtype. Draws one shift and one mirroring for each
    image from torch's global generator.
    """
    b, _, h, w = images.shape
    top, left = torch.randint(0, 9, (2, b, 1))
    mirrored = torch.rand(b, 1) < 0.5
    rows = top + torch.arange(h)  # (B, H), rows of the padded image
    columns = left + torch.where(mirrored, torch.arange(w).flip(0), torch.arange(w))  # (B, W)
    padded = F.pad(images, (4, 4, 4, 4)).movedim(1, -1)  # (B, H + 8, W + 8, C)
    picked = padded[torch.arange(b)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.movedim(-1, 1).contiguous()  # (B, C, H, W)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around which the input is added.

    forward: (B, before, H, W) -> (B, after, H / stride, W / stride). The shortcut is the
    identity where the shape stays, else a strided 1x1 convolution with batch norm (option B).
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """The CIFAR ResNet of He et al. (2015) with three stages of `blocks`: 6 * blocks + 2 layers.

    width: channels of the first stage; the second has twice, the third four times as many.
    forward: (B, 3, 32, 32) float32 -> logits (B, 10). Shortcuts that change the shape are
    projections (option B), where the paper pads with zeros (option A).
    """

    def __init__(self, blocks: int = 3, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stage1 = _stage(width, width, stride=1, blocks=blocks)
        self.stage2 = _stage(width, 2 * width, stride=2, blocks=blocks)
        self.stage3 = _stage(2 * width, 4 * width, stride=2, blocks=blocks)
        self.fc = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.stage1(x)  # (B, 16, 32, 32)
        x = self.stage2(x)  # (B, 32, 16, 16)
        x = self.stage3(x)  # (B, 64, 8, 8)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def _stage(before: int, after: int, stride: int, blocks: int) -> nn.Sequential:
    rest = (ResidualBlock(after, after, 1) for _ in range(blocks - 1))
    return nn.Sequential(ResidualBlock(before, after, stride), *rest)


class ViT(nn.Module):
    """A small vision transformer (Dosovitskiy et al., 2020) over the 64 patches of 4x4 pixels.

    forward: (B, 3, 32, 32) float32 -> logits (B, 10). Learned positions; the mean over the
    patches is classified, so there is no class token.
    """

    def __init__(self, dim: int = 192, depth: int = 6, heads: int = 6, hidden: int = 384) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 64, dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)  # (B, dim, 8, 8) -> (B, 64, dim)
        x = self.blocks(x + self.position)
        logits: Tensor = self.head(self.norm(x).mean(dim=1))  # (B, dim) -> (B, 10)
        return logits


_example = partial(example_batch, 4, 3, 32, 32)


def resnet() -> Task:
    """ResNet-20 on CIFAR-10; on the lossy JPEG copy accuracy is not comparable with papers."""
    return Task(
        name="cifar10",
        model=ResNet,
        example=_example,
        splits=load_splits,
        loss=F.cross_entropy,
        recipe=Recipe(epochs=20, batch_size=128, lr=5e-3, weight_decay=0.05),
        classes=CLASSES,
    )


def vit() -> Task:
    """A small ViT on CIFAR-10; on the lossy JPEG copy accuracy is not comparable with papers."""
    return replace(
        resnet(),
        name="cifar10-vit",
        model=ViT,
        recipe=Recipe(20, batch_size=128, lr=1e-3, weight_decay=0.05, warmup=0.1, clip=1.0),
    )
