"""The section of docs/results.md on how weights of different tensors compete."""

from __future__ import annotations

import math

from pages import Found, table

HEADS = {"tensor": "each tensor", "global": "all together", "lamp": "LAMP"}


def section(found: Found) -> str:
    """What each leaves of a network. found: the stored result of `bench/scopes.py`."""
    rows = [
        [_name(network), f"{100 * float(share):.0f} %", _said(network, network["dense"])]
        + [_said(network, values[scope]) for scope in HEADS]
        for network in found["results"]
        for share, values in network["pruned"].items()
    ]
    worst = {scope: _behind(found["results"], scope) for scope in HEADS}
    behind = "; ".join(f"{said}: {worst[scope]}" for scope, said in HEADS.items())
    return f"""## How weights of different tensors compete

Trained networks pruned by magnitude to the same share of zeros, without training after it, on test
data (`bench/scopes.py`, one network each): the same share in *each tensor*; *all together*, by what
they are; or all together by *LAMP* (Lee et al., 2021), each by its share of the larger ones of its
tensor. A dash: nothing would be left of a tensor.

{table(["network", "zeros", "dense", *HEADS.values()], rows)}

How often the loss against the dense network is more than twice that of the best of the three:
{behind}. That is why `widthwise prune` and `compare` take LAMP for magnitudes unless told
otherwise; which one is best depends on the network.
"""


def _name(network: Found) -> str:
    return f"{network['network']}, {network['metric']}"


def _said(network: Found, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if network["higher_is_better"] else f"{value:.4g}"


def _behind(networks: list[Found], scope: str) -> str:
    """How often it loses more than twice what the best of its network and share loses."""
    count = much = 0
    for network in networks:
        for found in network["pruned"].values():
            lost = {s: _lost(network, value) for s, value in found.items()}
            count += 1
            much += lost[scope] > 2 * max(min(lost.values()), 0.001)
    return f"{much} of {count}"


def _lost(network: Found, value: float | None) -> float:
    """Points of a share, or the logarithm of a ratio of perplexities."""
    if value is None:
        return math.inf
    dense: float = network["dense"]
    return dense - value if network["higher_is_better"] else math.log(value / dense)
