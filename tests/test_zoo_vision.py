"""Public image networks through the checks of the coverage page."""

import pytest
from bench.zoo.families import VISION

from zoo_sample import everything_holds, look, needs

pytestmark = needs("timm", "torchvision")


@pytest.mark.parametrize("name", VISION)
def test_everything_holds(name):
    everything_holds(look(name))
