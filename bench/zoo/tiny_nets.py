"""The networks of the test set (`tests/nets`): one tiny one for each trait."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from bench.zoo.network import Made, Network

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from nets import NETS
from nets.base import Net


def _make(net: Net) -> Made:
    return net.build(), *net.example()


NETWORKS = tuple(Network(f"nets/{net.name}", partial(_make, net)) for net in NETS)
