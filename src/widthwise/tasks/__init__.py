"""Built-in tasks, each a function that returns a `Task`. `resolve.resolve` finds them by name."""

from collections.abc import Callable

from widthwise.tasks import cifar10, digits, mnist, modelnet10
from widthwise.tasks.task import Task

BUILT_IN: dict[str, Callable[[], Task]] = {
    "digits": digits.task,
    "mnist": mnist.mnist,
    "mnist-cnn": mnist.mnist_cnn,
    "fashion-mnist": mnist.fashion_mnist,
    "fashion-mnist-cnn": mnist.fashion_mnist_cnn,
    "cifar10": cifar10.resnet,
    "cifar10-vit": cifar10.vit,
    "modelnet10": modelnet10.task,
}
