"""MobileNet (Howard et al., 2017) for small images: `cifar10-mobilenet`, `fashion-mnist-mobilenet`.

Blocks of a depthwise and a pointwise convolution, with 32 to 1,024 channels as published, and a
width multiplier: 3.2 million parameters at 1. The data are `cifar10`'s and `fashion-mnist`'s;
on the lossy JPEG copy of CIFAR-10 accuracy is not comparable with papers.

The published network halves images of 224x224 pixels five times, to 7x7. These small ones are
halved four times, to 2x2: the first block with 1,024 channels has stride 1 instead of 2. The output
layer is for 10 classes instead of 1,000; all other layers are the published ones.
"""

from dataclasses import replace
from functools import partial
from typing import Final

from torch import Tensor, nn
from torch.nn import functional as F

from widthwise.app.tasks import cifar10, mnist
from widthwise.app.tasks.arrays import example_batch
from widthwise.task import Recipe, Task

# (channels, stride) of the blocks; in the paper the last stride of 2 belongs to the first 1024
BLOCKS: Final = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    *[(1024, 1)] * 2,
)


class SeparableBlock(nn.Module):
    """A 3x3 convolution of each channel by itself, then a 1x1 one, each with batch norm and ReLU.

    forward: (B, before, H, W) -> (B, after, H / stride, W / stride), rounded up.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            before, before, 3, stride=stride, padding=1, groups=before, bias=False
        )
        self.bn1 = nn.BatchNorm2d(before)
        self.pointwise = nn.Conv2d(before, after, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.depthwise(x)))
        return F.relu(self.bn2(self.pointwise(x)))


class MobileNet(nn.Module):
    """MobileNetV1 for images of about 32x32 pixels, 10 classes.

    colours: channels of the image. width: multiplier of all other channels, such as 0.5.
    forward: (B, colours, H, W) float32 -> logits (B, 10).
    """

    def __init__(self, colours: int, width: float = 1.0) -> None:
        super().__init__()
        before = round(32 * width)
        self.conv = nn.Conv2d(colours, before, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(before)
        blocks = []
        for channels, stride in BLOCKS:
            after = round(channels * width)
            blocks.append(SeparableBlock(before, after, stride))
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)))  # (B, 32, 16, 16)
        x = self.blocks(x)  # (B, 1024, 2, 2)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


_RECIPE: Final = Recipe(epochs=10, batch_size=128, lr=5e-3, weight_decay=0.05)


def cifar10_mobilenet() -> Task:
    """MobileNet on CIFAR-10."""
    return Task(
        name="cifar10-mobilenet",
        model=partial(MobileNet, 3),
        example=partial(example_batch, 4, 3, 32, 32),
        splits=cifar10.load_splits,
        loss=F.cross_entropy,
        recipe=_RECIPE,
        classes=cifar10.CLASSES,
    )


def fashion_mnist_mobilenet() -> Task:
    """MobileNet on Fashion-MNIST."""
    return replace(
        cifar10_mobilenet(),
        name="fashion-mnist-mobilenet",
        model=partial(MobileNet, 1),
        example=partial(example_batch, 4, 1, 28, 28),
        splits=mnist.fashion_splits,
        classes=mnist.GARMENTS,
    )
