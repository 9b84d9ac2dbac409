"""Public language, speech and other networks of transformers through the same checks."""

import pytest
from bench.zoo.families import LANGUAGE

from zoo_sample import everything_holds, look, needs

pytestmark = needs("transformers")


@pytest.mark.parametrize("name", LANGUAGE)
def test_everything_holds(name):
    everything_holds(look(name))
