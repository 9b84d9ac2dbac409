"""Constructions that a native speaker would stumble over are in no page and in no docstring."""

import ast
import inspect
import re

import pytest

import widthwise as ww
from places import ROOT

BANNED = {"anew": "again, from scratch, re-..."}
# What a program says names the thing again; pages that scripts write are not held to it.
STANDING_IN = {"those of": "the noun", "that of": "the noun"}
OPENINGS = {"Of", "That", "Those", "It"}  # of a docstring that has no subject
SOURCES = sorted((ROOT / "src").rglob("*.py"))
SHOWN = sorted(p for ending in ("html", "js") for p in (ROOT / "src").rglob(f"*.{ending}"))
READ_FIRST = ("README.md", "CONTRIBUTING.md", "index.md", "tour.md", "migrate.md", "tutorial.md")
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


def banned(text, words=BANNED):
    """The words in a text that there are better ones for."""
    unwrapped = " ".join(text.split())
    return [each for each in words if re.search(rf"\b{each}\b", unwrapped)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_the_source_speaks_plainly(path):
    source = path.read_text()
    assert [word for text in told(source) for word in banned(text, BANNED | STANDING_IN)] == []
    assert not OPENINGS.intersection(openings(source))


@pytest.mark.parametrize("path", SHOWN, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_what_a_page_of_ours_shows_speaks_plainly(path):
    assert banned(path.read_text(), BANNED | STANDING_IN) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_the_pages_speak_plainly(path):
    words = BANNED | STANDING_IN if path.name in READ_FIRST else BANNED
    assert banned(path.read_text(), words) == []


def test_what_is_banned_is_found():
    source = 'def size(x):\n    """Of the tensor, computed anew."""\n    return "anew"\n'
    assert [word for text in told(source) for word in banned(text)] == ["anew", "anew"]
    assert openings(source) == ["", "Of"]
    message = 'f"Sizes are those "\n  f"of {file}, its name that\\nof {file}"'
    assert sorted(w for t in told(f"x = ({message})") for w in banned(t, STANDING_IN)) == [
        "that of",
        "those of",
    ]


def public():
    """The public callables by name: what is at the top, in its namespaces, and methods."""
    for name in ww.__all__:
        value = getattr(ww, name)
        inside = getattr(value, "__all__", ()) if inspect.ismodule(value) else ()
        named = {f"{name}.{each}": getattr(value, each) for each in inside} or {name: value}
        for label, each in named.items():
            if inspect.isclass(each) and not issubclass(each, Exception):
                methods = inspect.getmembers(each, inspect.isfunction)
                yield from ((f"{label}.{m}", f) for m, f in methods if m in vars(each))
            if inspect.isclass(each) or inspect.isfunction(each):
                yield label, each


def lacking(value):
    """Sections that the docstring of a public callable should have and has not."""
    text = inspect.getdoc(value) or ""
    names = [n for n in inspect.signature(value).parameters if n not in ("self", "cls")]
    sections = ["Args"] if len(names) >= 3 and len(text.splitlines()) > 1 else []
    if len(text.splitlines()) > 1 and re.search(r"\bRaises [A-Z]", text):
        sections.append("Raises")
    return [each for each in sections if f"{each}:\n" not in text]


CALLABLES = {
    name: value
    for name, value in public()
    if not name.rpartition(".")[2].startswith("_")
    and not (inspect.isclass(value) and issubclass(value, Exception))
}


@pytest.mark.parametrize("name", CALLABLES)
def test_public_docstrings_have_their_sections(name):
    assert lacking(CALLABLES[name]) == []


def test_a_docstring_without_its_sections_is_found():
    def without(a, b, c):
        """Do it.

        a: one. Raises ValueError for others.
        """

    def tidy(a, b, c):
        """Do it.

        Args:
            a, b, c: numbers.

        Raises:
            ValueError: For others.
        """

    assert lacking(without) == ["Args", "Raises"]
    assert lacking(tidy) == []
