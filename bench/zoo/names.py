"""Words and bounds that the check, the peer's judge and the page share; imports no torch."""

import hashlib
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


def engine() -> str:
    """What tells one state of the engine from another: a digest of its code."""
    digest = hashlib.sha256()
    for path in sorted((ENGINE / "graph").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
