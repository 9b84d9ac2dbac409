"""The tasks of `bench/family.py`: each with its plain recipe, as long as training alone gains.

widthwise train bench.family_tasks:fashion_cnn --out runs/x
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from widthwise.app.tasks import BUILT_IN, characters
from widthwise.app.tasks.arrays import Arrays
from widthwise.app.tasks.language import PTB_FILES
from widthwise.task import Recipe, Splits, Task

FEW = 10_000  # training items
CHARACTERS = 1_000_000


def _few(task: Task) -> Splits:
    data = task.splits()
    train = data.train
    assert isinstance(train, Arrays)
    return replace(data, train=Arrays(train.inputs[:FEW], train.targets[:FEW], train.augment))


def _with_few(name: str, recipe: Recipe) -> Task:
    task = BUILT_IN[name]()
    return replace(task, splits=lambda: _few(task), recipe=recipe)


def mlp() -> Task:
    """An MLP 784-256-256-10 on MNIST, 15 epochs."""
    return replace(BUILT_IN["mnist"](), recipe=Recipe(epochs=15, batch_size=256, lr=2e-3))


def fashion_cnn() -> Task:
    """A CNN of two convolutions on 10,000 images of Fashion-MNIST, 27 epochs."""
    return _with_few("fashion-mnist-cnn", Recipe(epochs=27, batch_size=128, lr=2e-3))


def digits() -> Task:
    """An MLP 64-64-64-10 on 8 x 8 digits, 60 epochs."""
    return BUILT_IN["digits"]()


def nsl_kdd() -> Task:
    """An MLP 122-256-256-2 on connections of a network, as long as its own recipe says."""
    return BUILT_IN["nsl-kdd"]()


def gpt() -> Task:
    """A GPT of three blocks on a million characters of the Penn Treebank, 6 epochs."""
    task = BUILT_IN["ptb-char-gpt"]()
    splits = partial(characters.load_splits, PTB_FILES, CHARACTERS)
    return replace(task, splits=splits, recipe=replace(task.recipe, epochs=6))


def resnet() -> Task:
    """ResNet-20 on 10,000 images of CIFAR-10, cropped and flipped, 20 epochs."""
    return _with_few("cifar10", Recipe(epochs=20, batch_size=128, lr=5e-3, weight_decay=0.05))
