"""Built-in tasks, each a function that returns a `Task`. `resolve.resolve` finds them by name."""

from collections.abc import Callable

from widthwise.tasks import cifar10, cifar10_trained, digits, mnist, modelnet10, nsl_kdd
from widthwise.tasks.task import Task

BUILT_IN: dict[str, Callable[[], Task]] = {
    "digits": digits.task,
    "mnist": mnist.mnist,
    "mnist-cnn": mnist.mnist_cnn,
    "fashion-mnist": mnist.fashion_mnist,
    "fashion-mnist-cnn": mnist.fashion_mnist_cnn,
    "cifar10": cifar10.resnet,
    "cifar10-vit": cifar10.vit,
    "cifar10-resnet20": cifar10_trained.resnet20,
    "cifar10-resnet56": cifar10_trained.resnet56,
    "modelnet10": modelnet10.task,
    "nsl-kdd": nsl_kdd.held_out,
    "nsl-kdd-test-plus": nsl_kdd.test_plus,
}
