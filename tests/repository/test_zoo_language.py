"""Public language, speech and other networks of transformers through the same checks."""

import pytest
from bench.zoo.families import LANGUAGE, SLOW

from zoo_sample import everything_holds, look, needs

pytestmark = needs("transformers")


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", [name for name in LANGUAGE if name not in SLOW])
def test_everything_holds(name):
    everything_holds(look(name))
