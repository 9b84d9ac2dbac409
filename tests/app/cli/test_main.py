"""The command line's front: a list of commands that is quick, and says what they say."""

import subprocess
import sys

import pytest

from widthwise.app.cli import main


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_does_not_wait_for_torch(words):
    code = (
        "import sys; from widthwise.app.cli.main import app;"
        f"app({words}, standalone_mode=False);"
        "print([m for m in ('torch', 'accelerate', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "widthwise" in done.stdout
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize("name", main.COMMANDS)
def test_the_list_of_commands_says_what_each_says_of_itself(name):
    command = main.command(name)
    assert (command.help or "").partition("\n")[0] == main.COMMANDS[name]
    assert command.name == name


def test_a_command_that_is_not_there_is_told():
    words = [sys.executable, "-m", "widthwise", "pikc"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No such command 'pikc'" in done.stderr
