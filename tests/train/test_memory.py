"""Memory that a training has freed goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from fit_run import run

PROGRAM = """
import torch
from widthwise.train.memory import give_back

def resident():  # MB
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 // 2**20

kept = []
for _ in range(2500):
    kept.append(torch.ones(25_000))  # 100 kB: from the heap, not mapped by themselves
full = resident()
del kept[:-1]  # the last one holds the heap's end
freed = resident()
give_back()
print(full, freed, resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others give back by themselves")
def test_what_was_freed_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    full, freed, after = map(int, done.stdout.split())
    assert full - after > 200, (full, freed, after)
    assert freed - after > 100, "there was nothing to give back: the test shows nothing"


def test_a_training_gives_back_what_it_frees(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr("widthwise.train.run.give_back", lambda: calls.append(1))
    run(None)
    assert calls
