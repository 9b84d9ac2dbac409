"""`digits`: 8x8 handwritten digits that come with scikit-learn, so nothing is downloaded.

1,797 grey images of 10 classes; small enough to try anything in seconds.
"""

from functools import partial

import torch
from torch.nn import functional as F

from widthwise.app.tasks.arrays import Arrays, example_batch, stratified
from widthwise.app.tasks.mlp import MLP
from widthwise.common.messages import lacking
from widthwise.errors import DataError
from widthwise.task import Recipe, Splits, Task

_MEAN, _STD = 0.3053, 0.3760  # of all pixels, in 0..1


def load_splits() -> Splits:
    """60 % train, 20 % valid, 20 % test, the same share of every class in each.

    Inputs: (8, 8) float32. The split never changes. Raises DataError without scikit-learn.
    """
    # Imported here: it takes a second, which `import widthwise` should not.
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(lacking("sklearn", "The task digits")) from error

    pixels, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy(pixels).float().reshape(-1, 8, 8)  # pixels are 0..16
    inputs = (inputs / 16 - _MEAN) / _STD
    targets = torch.from_numpy(labels).long()
    parts = stratified(targets, (0.6, 0.2), seed=0)
    return Splits(*(Arrays(inputs[part], targets[part]) for part in parts))


def task() -> Task:
    """An MLP 64-64-64-10 on the 8x8 digits."""
    return Task(
        name="digits",
        model=partial(MLP, 64, 64, 10),
        example=partial(example_batch, 4, 8, 8),
        splits=load_splits,
        loss=F.cross_entropy,
        recipe=Recipe(epochs=60, batch_size=64, lr=5e-3),
        classes=tuple("0123456789"),
    )
