"""The section of docs/results.md on the order of convolutions' weights in memory."""

from __future__ import annotations

from pages import Found, table

WHAT = {"training": "step", "sandwich": "sandwich step", "evaluation": "evaluation"}


def section(found: Found) -> str:
    """How much faster channels-last is. found: the stored result of `bench/layout.py`."""
    rows = [
        [name] + [_said(measured[what]) for what in WHAT]
        for name, measured in found["results"].items()
    ]
    return f"""## Convolutions channels-last

Time with convolutions' weights by rows ÷ channels-last, of batches of 128 images (256 in
evaluation), one thread, the median of five runs and their range (`bench/layout.py`). `compare` lays
its networks out so; `fit` leaves a user's own module as it is, for which
`torch.nn.utils.convert_conv2d_weight_memory_format` does the same.

{table(["network", *WHAT.values()], rows)}
"""


def _said(ratio: dict[str, float]) -> str:
    return f"{ratio['ratio']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"
