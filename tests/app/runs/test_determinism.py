"""Same seed, same machine, same bits: the commands, twice, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import faults
from faults_check import differences

COMMANDS = ("train", "sweep", "order", "prune", "cut", "search", "compare")


@pytest.fixture(scope="module")
def twice(tmp_path_factory) -> list[dict[str, dict[str, str]]]:
    """Command -> file -> digest, of two processes with other hash seeds, in other folders."""
    words = [sys.executable, faults.__file__, "--undisturbed", "--commands", *COMMANDS]
    started = []
    for seed in ("1", "2"):
        own = {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        own["TMPDIR"] = str(tmp_path_factory.mktemp("twice"))
        started.append(
            subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, **own})
        )
    texts = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return [json.loads(text) for text in texts]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_same_command_writes_the_same_bits(twice, command):
    first, second = (found[command] for found in twice)
    assert first
    assert differences(first, second) == []


def test_everything_that_matters_is_looked_at(twice):
    files = {Path(name).name for found in twice[0].values() for name in found}
    wanted = {"run.json", "checkpoint.safetensors", "model.safetensors", "frontier.json"}
    wanted |= {"scores.safetensors", "picks.json", "search.jsonl", "report.html", "frontier.png"}
    assert files >= wanted | {"small.st", "pruned.st", "found.st", "comparison.csv"}
    assert sum("/units/" in name for name in twice[0]["compare"]) == 2
