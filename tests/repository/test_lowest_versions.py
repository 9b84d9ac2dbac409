"""The lowest versions that are tested are the ones that the package promises."""

import subprocess
import sys
import tomllib

import pytest
from scripts.lowest_versions import lowest

from places import ROOT


def test_every_dependency_has_its_floor_as_a_pin():
    script = ROOT / "scripts" / "lowest_versions.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert done.stdout.split() == [d.replace(">=", "==") for d in project["dependencies"]]
    assert any(pin.startswith("torch==") for pin in done.stdout.split())


def test_a_dependency_without_a_floor_is_refused():
    for wrong in ("torch", "torch>2", "torch>=2,<3"):
        with pytest.raises(ValueError, match="has no floor; write it as 'name>=version'"):
            lowest(["numpy>=2.0", wrong])
