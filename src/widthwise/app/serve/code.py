"""The few lines of Python that run a downloaded network."""

from torch import Tensor

from widthwise.task import Task


def with_widthwise(file: str, task_name: str, task: Task) -> str:
    """Load the safetensors file as the module that it was cut from, and run it on zeros."""
    return (
        "import torch, widthwise as ww\n"
        "from widthwise.app.tasks.resolve import resolve\n"
        f"build = resolve({task_name!r}).model\n"
        f"model = ww.load({file!r}, build=build)\n"
        f"print(model({_zeros(task, 'torch')}))\n"
    )


def with_onnx_runtime(file: str, task: Task) -> str:
    """Run the ONNX file on zeros, without widthwise or torch."""
    return (
        "import numpy, onnxruntime\n"
        f"session = onnxruntime.InferenceSession({file!r})\n"
        "names = [given.name for given in session.get_inputs()]\n"
        f"print(session.run(None, dict(zip(names, [{_zeros(task, 'numpy')}]))))\n"
    )


def _zeros(task: Task, package: str) -> str:
    """One example's inputs as calls that make them."""
    inputs = [x for x in task.example() if isinstance(x, Tensor)]
    return ", ".join(
        f"{package}.zeros({(1, *x.shape[1:])}, dtype={package}.{str(x.dtype)[len('torch.') :]})"
        for x in inputs
    )
