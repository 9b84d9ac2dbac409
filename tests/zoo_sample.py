"""Looks at networks of the zoo in this process; `python -m bench.zoo` gives each one of its own."""

import importlib.util
import warnings

import pytest
from bench.zoo.names import TOLERANCE

RETURN_FEATURES = ("transformers/clip", "transformers/t5")


def needs(*packages):
    """Skips a file's tests, with a sentence, where a package is not installed."""
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    reason = f"not installed: {', '.join(missing)}; pip install 'widthwise[bench]' brings it"
    return pytest.mark.skipif(bool(missing), reason=reason)


def look(name):
    """The findings on one network."""
    from bench.zoo.check import check
    from bench.zoo.families import network

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages have to say is not our matter
        return check(network(name))


def everything_holds(row):
    """Asserts all that the coverage page reports of a network."""
    assert not row["failures"]
    assert not row["unknown"]
    assert not row["disproved"]
    assert row["free"]
    compared = {k: d for k, d in row["differences"].items() if d is not None}
    assert "evaluation" in compared
    assert all(d <= TOLERANCE for d in compared.values()), compared
    assert row["moved"] > 100 * TOLERANCE, "the outputs hardly depend on the widths"
    assert row["trained"] != "nothing", "no cut could be compared in training mode"
    # Whoever returns features keeps their stream whole, and with it much of the network.
    least = 0.3 if row["name"] in RETURN_FEATURES else 0.5
    assert row["removed"] >= least, row["stays"]
    assert row["own_class"]["difference"] <= TOLERANCE
    assert row["realizable"]["own"], row["realizable"]["reason"]
    assert row["realizable"]["difference"] <= TOLERANCE
