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
