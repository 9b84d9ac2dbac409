"""Every console block of the documents runs, on tasks that are small and trained shortly.

Commands stand in the documents as a reader types them. Here the names of tasks lead to a tiny
network on a few digits, and the folders that a page takes for granted are made once. A block that
cannot run here says so, and why, in a comment before it: `<!-- not run in tests: reason -->`.
"""

import re
import shlex
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import works
from places import ROOT
from widthwise.app import tasks
from widthwise.app.cli.main import command
from widthwise.app.tasks.resolve import resolve

BLOCK = re.compile(
    r"(<!-- not run in tests: (?P<why>.+?) -->\n)?```console\n(?P<text>.*?)```", re.S
)
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
MINE = """
from dataclasses import replace
from functools import partial
from torch.utils.data import Subset
from widthwise.app.tasks.digits import task as digits
from widthwise.app.tasks.mlp import MLP
from widthwise.task import Recipe, Splits

def few():
    data = digits().splits()
    return Splits(*(Subset(part, range(n)) for part, n in (
        (data.train, 128), (data.valid, 64), (data.test, 64))))

def task():
    return replace(digits(), name="mine", model=partial(MLP, 64, 32, 10), splits=few,
                   recipe=Recipe(epochs=1, batch_size=64))
"""
SHORTLY = {  # of an option given twice the last counts
    "search": ("--trials", 3, "--epochs", 1),
    "compare": ("--workers", 1),  # each imports all of torch
}
COMPARISON = """task = "{task}"
budgets = ["2kB", "4kB"]
seeds = 1
epochs = 1
fine_tune = 1
trials = 2
methods = ["elastic"]
"""


def commands(page):
    """The commands of a page's blocks, and why a block is not run; output is left out."""
    for block in BLOCK.finditer((ROOT / page).read_text()):
        lines = [line[2:] for line in block["text"].splitlines() if line.startswith("$ ")]
        yield lines, block["why"]


def run(line):
    """Run one line of a document."""
    program, *words = shlex.split(line, comments=True)
    if program == "pip":
        declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        (extra,) = re.findall(r"\[(\w+)\]", words[-1])
        assert extra in declared["optional-dependencies"]
    elif program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.M)
    else:
        assert Path(program).name == "widthwise"
        if words[0] == "serve":
            served(words[1:])
        else:
            works(*words, *SHORTLY.get(words[0], ()))


def served(words):
    """Open the page for what a `serve` command names, without listening."""
    from fastapi.testclient import TestClient

    from widthwise.app.serve.app import create_app

    parse("serve", words)
    with TestClient(create_app([Path(words[0])], Path()), base_url="http://127.0.0.1") as client:
        assert not client.get("/api/runs/0").json()["problem"]


def parse(name, words):
    command(name).make_context(name, list(words))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Runs that pages take for granted."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "mine.py").write_text(MINE)
    mine = f"{folder}/mine.py:task"
    works("train", mine, "--out", folder / "runs" / "mine")
    works("sweep", folder / "runs" / "mine", "--num-widths", 4)
    shutil.copy(folder / "runs" / "mine" / "model.safetensors", folder / "model.safetensors")
    return folder


@pytest.fixture
def here(prepared, tmp_path, monkeypatch):
    """A folder with the tasks and runs that a page speaks of, small ones."""
    made = resolve(f"{prepared}/mine.py:task")
    for name in ("digits", "mnist", "cifar10"):
        monkeypatch.setitem(tasks.BUILT_IN, name, lambda name=name: replace(made, name=name))
    shutil.copytree(prepared / "runs" / "mine", tmp_path / "runs" / "demo")
    (tmp_path / "mine.py").write_text(MINE)
    for name, task in (("mine", "mine.py:task"), ("digits", "digits")):
        (tmp_path / f"{name}.toml").write_text(COMPARISON.format(task=task))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weights(folder):
    """A state dict of the user's, as the tutorial has one."""
    from safetensors.torch import save_file

    save_file(resolve(f"{folder}/mine.py:task").model().state_dict(), folder / "mine.safetensors")


@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/cli.md"])
def test_the_commands_of_a_page_run(page, here):
    blocks = list(commands(page))
    if any("runs/digits" in line for lines, _ in blocks for line in lines):
        works("train", "digits", "--out", "runs/digits")
        works("sweep", "runs/digits", "--num-widths", 4, "--no-latency")
    weights(here)
    for lines, why in blocks:
        assert lines
        for line in lines if why is None else ():
            run(line)


def test_the_commands_of_the_reference_can_be_parsed():
    for lines, why in commands("docs/cli.md"):
        assert why is None
        for line in lines:
            program, command, *words = shlex.split(line.partition(" > ")[0])
            assert program == "widthwise"
            if "[OPTIONS]" not in line:
                parse(command, words)


def test_the_commands_for_contributors_name_what_is_there():
    """Tests that start tests would be long; their files and the targets of make must exist."""
    for lines, _ in commands("CONTRIBUTING.md"):
        for line in lines:
            program, *words = shlex.split(line, comments=True)
            if program == "make":
                run(line)
            else:
                assert Path(program).name == "python"
                assert [word for word in words if word.startswith("tests/")]
                assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))


def test_a_wrong_command_is_found(here):
    for line in ("widthwise pick runs/demo --max-size 5kB", "make nothing", "pip install 'a[b]'"):
        with pytest.raises(AssertionError):
            run(line)
