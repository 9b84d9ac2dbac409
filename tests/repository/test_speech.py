"""Constructions that a native speaker would stumble over are in no page and in no docstring."""

import ast
import re

import pytest

from places import ROOT

BANNED = {"anew": "again, from scratch, re-..."}
OPENINGS = {"Of", "That", "Those", "It"}  # of a docstring that has no subject
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def told(source):
    """What a program says: its docstrings and texts."""
    nodes = ast.walk(ast.parse(source))
    return [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]


def openings(source):
    """The first words of the docstrings of a program."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    documented = [n for n in ast.walk(ast.parse(source)) if isinstance(n, kinds)]
    return [(ast.get_docstring(n) or "").partition(" ")[0] for n in documented]


def banned(text):
    """The words in a text that there are better ones for."""
    return [word for word in BANNED if re.search(rf"\b{word}\b", text)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_the_source_speaks_plainly(path):
    source = path.read_text()
    assert [word for text in told(source) for word in banned(text)] == []
    assert not OPENINGS.intersection(openings(source))


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_the_pages_speak_plainly(path):
    assert banned(path.read_text()) == []


def test_what_is_banned_is_found():
    source = 'def size(x):\n    """Of the tensor, computed anew."""\n    return "anew"\n'
    assert [word for text in told(source) for word in banned(text)] == ["anew", "anew"]
    assert openings(source) == ["", "Of"]
