"""Built-in tasks, each a function that returns a `Task`. `resolve.resolve` finds them by name."""

from collections.abc import Callable

from widthwise.app.tasks import (
    characters,
    cifar10,
    cifar10_trained,
    digits,
    language,
    mnist,
    mobilenet,
    modelnet10,
    multi30k,
    nsl_kdd,
)
from widthwise.task import Task

BUILT_IN: dict[str, Callable[[], Task]] = {
    "digits": digits.task,
    "mnist": mnist.mnist,
    "mnist-cnn": mnist.mnist_cnn,
    "fashion-mnist": mnist.fashion_mnist,
    "fashion-mnist-cnn": mnist.fashion_mnist_cnn,
    "fashion-mnist-mobilenet": mobilenet.fashion_mnist_mobilenet,
    "cifar10": cifar10.resnet,
    "cifar10-vit": cifar10.vit,
    "cifar10-mobilenet": mobilenet.cifar10_mobilenet,
    "cifar10-resnet20": cifar10_trained.resnet20,
    "cifar10-resnet56": cifar10_trained.resnet56,
    "modelnet10": modelnet10.task,
    "nsl-kdd": nsl_kdd.held_out,
    "nsl-kdd-test-plus": nsl_kdd.test_plus,
    "ptb-lstm-small": language.ptb_small,
    "ptb-lstm": language.ptb,
    "ptb-lstm-large": language.ptb_large,
    "wikitext2-lstm": language.wikitext2,
    "ptb-char-gpt": characters.ptb,
    "multi30k": multi30k.task,
}
