"""What benchmarks, scripts and examples take from widthwise exists; no other test runs them all."""

import ast
import importlib
from types import ModuleType

import pytest

from places import ROOT

FILES = sorted(
    p for folder in ("bench", "scripts", "examples") for p in (ROOT / folder).rglob("*.py")
)


def missing(source: str) -> list[str]:
    """Names that a program takes from widthwise or its modules, and that do not exist."""
    tree = ast.parse(source)
    found, modules = [], {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(a.name, a.asname) for a in node.names if a.name.split(".")[0] == "widthwise"]
            for name, short in names:
                importlib.import_module(name)
                modules[short or "widthwise"] = importlib.import_module(
                    name if short else "widthwise"
                )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "widthwise":
            for alias in node.names:
                value = member(node.module, alias.name)
                if value is None:
                    found.append(f"{node.module}.{alias.name}")
                elif isinstance(value, ModuleType):
                    modules[alias.asname or alias.name] = value
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if module is not None and member(module.__name__, node.attr) is None:
                found.append(f"{module.__name__}.{node.attr}")
    return found


def member(module: str, name: str) -> object:
    """What a module calls so, or a module in it; None where there is neither."""
    owner = importlib.import_module(module)
    if hasattr(owner, name):
        return getattr(owner, name)
    try:
        return importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_name_is_there(path):
    assert missing(path.read_text()) == []


def test_names_that_are_gone_are_found():
    source = "from widthwise import pruning, none\nimport widthwise as ww\npruning.cat(ww.nix)\n"
    assert missing(source) == ["widthwise.none", "widthwise.pruning.cat", "widthwise.nix"]
