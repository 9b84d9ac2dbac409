"""What all tests share."""

import os
from pathlib import Path

import pytest
import torch


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
