"""CIFAR-10 with ResNets that come trained: `cifar10-resnet20` and `cifar10-resnet56`.

The networks of He et al. (2015) with shortcuts that pad with zeros (option A), in the weights that
akamaster/pytorch_resnet_cifar10 publishes: 91.78 % and 93.62 % on the original test images. The
weights are safetensors files, put into the folder `pretrained` by hand:

    model = trained_model(resolve("cifar10-resnet20"))

The data are `cifar10`'s, normalised as these weights ask. **The weights were trained on
original pixels and do not like JPEG**: on the small copy ResNet-20 gets 81.03 % of the test images
right, ResNet-56 83.15 % of the first 2,000.
"""

from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from widthwise.app.tasks import cifar10
from widthwise.app.tasks.arrays import Arrays, example_batch
from widthwise.app.tasks.data import by_hand, fetch, find, remedy
from widthwise.app.tasks.formats import read_cifar, read_npz
from widthwise.errors import DataError
from widthwise.task import Recipe, Splits, Task

# As published with the weights, for RGB in 0..1; they are ImageNet's.
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
LOSSLESS: Final = 4_000  # images
_LOSSLESS_FILE = "train4k_lossless_uint8.npz"


def load_splits() -> Splits:
    """The splits of `cifar10.load_splits`, normalised for the published weights.

    The published weights were trained on all 50,000 train images, the valid split's too:
    accuracy there is too high, and serves to compare networks that started from these weights.

    Inputs: (3, 32, 32) float32. Raises DataError when the data is missing or damaged.
    """
    return cifar10.load_splits(MEAN, STD)


def lossless_train() -> Arrays:
    """The first 4,000 train images in their original pixels, as `load_splits` normalises them.

    All of them are in the train split, and these weights were trained on them: they serve to
    estimate statistics (calibration, importance, reconstruction), not to measure accuracy. Where
    only the JPEG copy of CIFAR-10 is at hand they are what the weights expect: on the first 2,000
    ResNet-20 is right for 99.85 %, on the same images from JPEG for 85.60 %; of the test images it
    gets 91.78 % of the originals (published) and 81.03 % of the JPEGs.

    Items: inputs (3, 32, 32) float32, not augmented, and the class. Read from
    `train4k_lossless_uint8.npz` where that lies in a folder of CIFAR-10, else from the original
    archive, which is downloaded where it is missing. Raises DataError when neither can be had.
    """
    path = find(cifar10.ARCHIVE.data_set, _LOSSLESS_FILE)
    images, labels = _from_archive() if path is None else _from_npz(path)
    return Arrays(*cifar10.tensors(images, labels, MEAN, STD))


def _from_npz(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    cure = f"copy it again, or delete it to use the original {cifar10.ARCHIVE.name}"
    images, labels = read_npz(path, ("images", "labels"), cure)
    if images.dtype != np.uint8 or images.shape != (len(labels), 32, 32, 3):
        raise DataError(
            f"{path} holds {images.dtype} images of shape {images.shape} instead of uint8 and"
            f" ({len(labels)}, 32, 32, 3); {cure}."
        )
    return images.transpose(0, 3, 1, 2), labels


def _from_archive() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    first = cifar10.TRAIN_FILES[:1]  # it holds the first 10,000
    images, labels = read_cifar(fetch(cifar10.ARCHIVE), first, remedy(cifar10.ARCHIVE))
    return images[:LOSSLESS], labels[:LOSSLESS]


class PaddedBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around which the input is added, without parameters.

    forward: (B, before, H, W) -> (B, after, H / stride, W / stride). Where the shape changes, every
    other pixel is added, with channels of zeros before and behind (option A).
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.pad = (after - before) // 2  # channels of zeros on each side
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride != 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


class PaddedResNet(nn.Module):
    """The CIFAR ResNet of He et al. (2015) with three stages of `blocks`: 6 * blocks + 2 layers.

    forward: (B, 3, 32, 32) float32 -> logits (B, 10). Its tensors are named as in the published
    weights.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, stride=1, blocks=blocks)
        self.layer2 = _stage(16, 32, stride=2, blocks=blocks)
        self.layer3 = _stage(32, 64, stride=2, blocks=blocks)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer1(x)  # (B, 16, 32, 32)
        x = self.layer2(x)  # (B, 32, 16, 16)
        x = self.layer3(x)  # (B, 64, 8, 8)
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def _stage(before: int, after: int, stride: int, blocks: int) -> nn.Sequential:
    rest = (PaddedBlock(after, after, 1) for _ in range(blocks - 1))
    return nn.Sequential(PaddedBlock(before, after, stride), *rest)


def weights(name: str, source: str) -> Path:
    """The file `name` of trained weights. Raises DataError, saying what to put where.

    source: the file of akamaster/pytorch_resnet_cifar10 that has the same weights.
    """
    path = find("pretrained", name)
    if path is None:
        raise DataError(
            f"The trained weights {name} were not found; {by_hand('pretrained')}: take"
            f" pretrained_models/{source} of akamaster/pytorch_resnet_cifar10 on GitHub, remove the"
            " prefix 'module.' from its keys, and store it as safetensors."
        )
    return path


def _task(layers: int, source: str) -> Task:
    return Task(
        name=f"cifar10-resnet{layers}",
        model=partial(PaddedResNet, (layers - 2) // 6),
        example=partial(example_batch, 4, 3, 32, 32),
        splits=load_splits,
        loss=F.cross_entropy,
        recipe=Recipe(epochs=1, batch_size=128, lr=1e-3, warmup=0.1),
        weights=partial(weights, f"resnet{layers}-cifar10.safetensors", source),
        classes=cifar10.CLASSES,
    )


def resnet20() -> Task:
    """The published ResNet-20 for CIFAR-10; the recipe is one epoch of fine-tuning."""
    return _task(20, "resnet20-12fca82f.th")


def resnet56() -> Task:
    """The published ResNet-56 for CIFAR-10; the recipe is one epoch of fine-tuning."""
    return _task(56, "resnet56-4bfd9763.th")
