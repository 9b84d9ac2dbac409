"""Sentences about what went wrong: errors on one line, and packages that are missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Packages that not everyone needs, by the name they are imported by -> the extra that brings them.
EXTRAS: Final[Mapping[str, str]] = {
    "PIL": "tasks",
    "fastapi": "serve",
    "matplotlib": "report",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "optuna": "search",
    "plotly": "report",
    "ray": "ray",
    "sacrebleu": "tasks",
    "sklearn": "tasks",
    "tokenizers": "tasks",
    "uvicorn": "serve",
    "zstandard": "zstd",
}


def lacking(package: str, what: str = "This") -> str:
    """Say that something needs a package, a key of `EXTRAS`, and how to install it."""
    return (
        f"{what} needs {package}, which is not installed; install it with: "
        f"pip install 'widthwise[{EXTRAS[package]}]'"
    )


def one_line(error: object) -> str:
    """A message without line breaks."""
    return " ".join(str(error).split())


def first_line(error: BaseException) -> str:
    """The first line of what an error says, shortened, without its full stop, or its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
