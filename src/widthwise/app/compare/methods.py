"""The methods that a comparison knows, as data: their names, and what each of them is.

    METHODS["weights obd, fine-tuned"].label     # "single weights by OBD, fine-tuned"
    grouped(["weights obd", "weights obd, fine-tuned"])     # {"weights obd": [both]}

What they do is in `cells.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Family = Literal[
    "elastic", "small-dense", "neurons", "weights", "gradual pruning", "bits", "search"
]

FEATURE_SCORES: Final = {
    "random": "at random",
    "magnitude": "by absolute value",
    "activation": "by activation",
    "dropout-ablation": "by dropout ablation",
    "taylor": "by first-order Taylor",
    "obd": "by OBD",
    "obd-sd": "by OBD-SD",
    "output-error": "by the error of the outputs, reconstructed",
}
WEIGHT_SCORES: Final = ("random", "magnitude", "taylor", "obd", "obd-sd")
BITS: Final = (8, 4, 3, 2)


@dataclass(frozen=True)
class Method:
    """One way to a smaller network.

    group: what is measured together, since it shares work. family: what it is a kind of.
    label: what it is, for a reader.
    """

    name: str
    group: str
    family: Family
    label: str

    @property
    def has_new_weights(self) -> bool:
        """Whether its networks begin with new weights, and share no training."""
        return self.family in ("small-dense", "gradual pruning")


def _elastic() -> list[Method]:
    made = []
    for name, what in (
        ("published", "structural dropout's draws, by the task's recipe"),
        ("elastic", "sandwich passes at equal shares"),
    ):
        made += [
            Method(name, name, "elastic", f"{what}, cut"),
            Method(f"{name}, post-processed", name, "elastic", f"{what}, cut and post-processed"),
        ]
    return made


def _family() -> list[Method]:
    what = "one training along levels"
    made = [
        Method("family", "family", "elastic", f"{what}, cut"),
        Method("family, post-processed", "family", "elastic", f"{what}, cut and post-processed"),
    ]
    for bits in BITS:
        name = f"family {bits} bits"
        made.append(Method(name, name, "elastic", f"{what}, post-processed, then in {bits} bits"))
    return made


def _small_dense() -> list[Method]:
    what = "trained from scratch at a small width"
    made = [Method("small-dense", "small-dense", "small-dense", f"{what}, float32")]
    for bits in BITS:
        name = f"small-dense {bits} bits"
        made.append(Method(name, name, "small-dense", f"{what}, then in {bits} bits"))
    return made


def _neurons() -> list[Method]:
    made = []
    for score, how in {**FEATURE_SCORES, "merge": "merged"}.items():
        name = f"neurons {score}"
        made += [
            Method(name, name, "neurons", f"neurons removed {how}"),
            Method(
                f"{name}, fine-tuned", name, "neurons", f"neurons removed {how}, then fine-tuned"
            ),
        ]
    return made


def _weights() -> list[Method]:
    made = []
    for score in WEIGHT_SCORES:
        name = f"weights {score}"
        what = f"single weights removed {FEATURE_SCORES[score]}"
        made += [
            Method(name, name, "weights", what),
            Method(f"{name}, fine-tuned", name, "weights", f"{what}, then fine-tuned"),
            Method(f"{name}, from scratch", name, "weights", f"{what}, trained from new weights"),
        ]
    return made


def _gradual() -> list[Method]:
    return [
        Method(name, name, "gradual pruning", label)
        for name, label in (
            ("gradual pruning", "pruned gradually in training"),
            ("gradual pruning with feedback", "pruned gradually in training with feedback (DPF)"),
        )
    ]


def _bits() -> list[Method]:
    made = []
    for bits in BITS:
        name = f"{bits} bits"
        made += [
            Method(name, name, "bits", f"full width in {bits} bits"),
            Method(f"{name}, fine-tuned", name, "bits", f"full width in {bits} bits, fine-tuned"),
        ]
    return [
        *made,
        Method("bin and quant", "bin and quant", "bits", "full width, Bin & Quant"),
        Method("gwk", "gwk", "bits", "full width, gradient-weighted shared values"),
        Method("gwk, fine-tuned", "gwk", "bits", "full width, GWK, values fine-tuned"),
    ]


_SEARCH: Final = Method(
    "search", "search", "search", "widths, zeros and bits searched, post-processed"
)

METHODS: Final[Mapping[str, Method]] = {
    method.name: method
    for method in (
        *_elastic(), *_family(), *_small_dense(), *_neurons(), *_weights(), *_gradual(), *_bits(),
        _SEARCH,
    )
}  # fmt: skip


def grouped(names: Sequence[str]) -> dict[str, list[str]]:
    """The methods of these names by group, each group in the order of `METHODS`."""
    found: dict[str, list[str]] = {}
    for method in METHODS.values():
        if method.name in names:
            found.setdefault(method.group, []).append(method.name)
    return found
