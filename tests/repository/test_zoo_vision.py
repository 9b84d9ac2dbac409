"""Public image networks through the checks of the coverage page."""

import pytest
from bench.zoo.families import SLOW, VISION

from zoo_sample import everything_holds, look, needs

pytestmark = needs("timm", "torchvision")


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", [name for name in VISION if name not in SLOW])
def test_everything_holds(name):
    everything_holds(look(name))
