"""Words and bounds that the check, the peer's judge and the page share; imports no torch."""

import ast
import hashlib
from functools import cache
from pathlib import Path

FAMILIES = ("torchvision", "timm", "transformers", "detection", "nets")

TOLERANCE = 1e-4  # of differences, relative to the largest output

# Of the peer, from what was asked for to the worst.
VERDICTS = (
    "cut as asked",
    "partly",
    "nothing cut, silently",
    "error while building",
    "error while pruning",
    "error in forward",
    "hangs",
    "crashed",
)

ENGINE = Path(__file__).parents[2] / "src" / "widthwise"


@cache
def engine() -> str:
    """What tells one state of the engine from another: a digest of what its code does.

    Comments, docstrings, imports and the names of files do not count.
    """
    files = (ENGINE / "graph").rglob("*.py")
    digests = sorted(hashlib.sha256(doing(p.read_text()).encode()).digest() for p in files)
    return hashlib.sha256(b"".join(digests)).hexdigest()[:12]


def doing(source: str) -> str:
    """The syntax of a program without comments, docstrings and imports."""
    return repr(_told(ast.parse(source)))


def _told(node: object) -> object:
    if isinstance(node, list):
        return [_told(each) for each in node if not _idle(each)]
    if not isinstance(node, ast.AST):
        return node
    # Which empty fields there are differs between versions of Python.
    fields = {k: _told(v) for k, v in ast.iter_fields(node) if v is not None and v != []}
    return type(node).__name__, fields


def _idle(node: object) -> bool:
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return text or isinstance(node, ast.Import | ast.ImportFrom)
