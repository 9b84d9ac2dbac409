"""MNIST and Fashion-MNIST: 28x28 grey images, 10 classes, as an MLP and as a small CNN.

`mnist`, `mnist-cnn`, `fashion-mnist`, `fashion-mnist-cnn`. Both sets have the same files and
shapes: 60,000 train images, of which the last 10,000 are kept for validation, and 10,000 test.
"""

from dataclasses import replace
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from widthwise.app.tasks.arrays import Arrays, example_batch
from widthwise.app.tasks.data import Published, fetch, remedy
from widthwise.app.tasks.formats import read_idx
from widthwise.app.tasks.mlp import MLP
from widthwise.task import Recipe, Splits, Task

MNIST_HOME: Final = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FASHION_HOME: Final = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
_VALID = 10_000
DIGITS: Final = tuple("0123456789")
GARMENTS: Final = (  # as the data set's authors name them, in their order
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

# (file name, SHA-256, bytes): train images, train labels, test images, test labels
_MNIST = (
    (
        "train-images-idx3-ubyte.gz",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        9_912_422,
    ),
    (
        "train-labels-idx1-ubyte.gz",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        28_881,
    ),
    (
        "t10k-images-idx3-ubyte.gz",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        1_648_877,
    ),
    (
        "t10k-labels-idx1-ubyte.gz",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        4_542,
    ),
)
_FASHION = (
    (
        "train-images-idx3-ubyte.gz",
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        26_421_880,
    ),
    (
        "train-labels-idx1-ubyte.gz",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        29_515,
    ),
    (
        "t10k-images-idx3-ubyte.gz",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        4_422_102,
    ),
    (
        "t10k-labels-idx1-ubyte.gz",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        5_148,
    ),
)
MNIST_FILES: Final = tuple(
    Published("mnist", name, MNIST_HOME + name, sha256, size) for name, sha256, size in _MNIST
)
FASHION_FILES: Final = tuple(
    Published("fashion-mnist", name, FASHION_HOME + name, sha256, size)
    for name, sha256, size in _FASHION
)

# Chosen on the validation images of MNIST for the accuracy of all widths together: more steps and a
# higher rate help the narrow ones, weight decay the wide ones.
MLP_RECIPE: Final = Recipe(epochs=20, batch_size=128, lr=3e-3, weight_decay=0.1, betas=(0.9, 0.99))


def load_splits(files: tuple[Published, ...], mean: float, std: float) -> Splits:
    """50,000 train, 10,000 valid (the last of the train file) and 10,000 test images.

    files: train images, train labels, test images, test labels.
    mean, std: of the train pixels in 0..1; they normalise the inputs, (1, 28, 28) float32.
    Raises DataError when a file is missing or damaged.
    """
    train_x, train_y, test_x, test_y = (
        torch.tensor(read_idx(fetch(file), remedy(file))) for file in files
    )

    def arrays(images: Tensor, labels: Tensor) -> Arrays:
        inputs = images.unsqueeze(1).float().div_(255).sub_(mean).div_(std)
        return Arrays(inputs, labels.long())

    return Splits(
        train=arrays(train_x[:-_VALID], train_y[:-_VALID]),
        valid=arrays(train_x[-_VALID:], train_y[-_VALID:]),
        test=arrays(test_x, test_y),
    )


class CNN(nn.Module):
    """Two 3x3 convolutions, each with batch norm, ReLU and 2x2 max pooling, then two linears.

    forward: (B, 1, 28, 28) float32 -> logits (B, 10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.fc1 = nn.Linear(64 * 7 * 7, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)  # (B, 32, 14, 14)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)  # (B, 64, 7, 7)
        x = F.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(x)
        return logits


_mnist_splits = partial(load_splits, MNIST_FILES, 0.1307, 0.3081)
fashion_splits = partial(load_splits, FASHION_FILES, 0.2860, 0.3530)
_example = partial(example_batch, 4, 1, 28, 28)


def mnist() -> Task:
    """An MLP 784-256-256-10 on MNIST: the network of the structural dropout paper (2022)."""
    return Task(
        name="mnist",
        model=partial(MLP, 784, 256, 10),
        example=_example,
        splits=_mnist_splits,
        loss=F.cross_entropy,
        recipe=MLP_RECIPE,
        classes=DIGITS,
    )


def mnist_cnn() -> Task:
    """A small CNN with batch norm on MNIST."""
    return replace(
        mnist(),
        name="mnist-cnn",
        model=CNN,
        recipe=Recipe(epochs=6, batch_size=128, lr=2e-3),
    )


def fashion_mnist() -> Task:
    """An MLP 784-256-256-10 on Fashion-MNIST."""
    return replace(mnist(), name="fashion-mnist", splits=fashion_splits, classes=GARMENTS)


def fashion_mnist_cnn() -> Task:
    """A small CNN with batch norm on Fashion-MNIST."""
    return replace(
        fashion_mnist(),
        name="fashion-mnist-cnn",
        model=CNN,
        recipe=Recipe(epochs=10, batch_size=128, lr=2e-3),
    )
