"""What all tests share."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Every run tries the same examples, so that it fails for what was changed and nothing else.
# `make test` with PYTEST_ADDOPTS=--hypothesis-profile=default tries others.
settings.register_profile("same", derandomize=True, database=None)
settings.load_profile("same")


def pytest_addoption(parser):
    parser.addoption(
        "--all", action="store_true", help="every case of tests marked sample(n), not n of them"
    )


def pytest_collection_modifyitems(config, items):
    """Of a test marked `sample(n)`, n cases are kept, from the first to the last of them."""
    if config.getoption("--all"):
        return
    tests = {}
    for item in items:
        tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = []
    for cases in tests.values():
        mark = cases[0].get_closest_marker("sample")
        kept += spread(cases, *mark.args) if mark else cases
    left_out = set(items) - set(kept)
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def spread(cases, count):
    """At most so many of the cases, evenly over all; one is the first.

    Example:
        assert spread("abcde", 3) == ["a", "c", "e"]
    """
    if count >= len(cases):
        return list(cases)
    return [cases[i * (len(cases) - 1) // max(count - 1, 1)] for i in range(count)]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Two test processes on two cores: more threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def data_folder() -> Path:
    """The folder of real data sets; tests that need it are skipped without it."""
    folder = os.environ.get("WIDTHWISE_DATA")
    if not folder:
        pytest.skip("WIDTHWISE_DATA does not name the folder of data sets")
    return Path(folder)
