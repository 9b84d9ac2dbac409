"""Write docs/cli.md from the command line itself, or with --check say whether it is current.

    python scripts/cli_reference.py            # write
    python scripts/cli_reference.py --check    # exit code 1 when it would change

The text is that of `typer ... utils docs`, with the examples set as code.
"""

import html
import re
import subprocess
import sys

import pages
from pages import ROOT

TARGET = ROOT / "docs" / "cli.md"
HEAD = "<!-- Written by scripts/cli_reference.py; change the commands, not this file. -->\n\n"


def reference() -> str:
    """The reference as Markdown."""
    command = [sys.executable, "-m", "typer", "widthwise.app.cli.main", "utils", "docs"]
    made = subprocess.run(  # noqa: S603 - this Python, with arguments of our own
        [*command, "--name", "widthwise"], capture_output=True, text=True, check=True
    ).stdout
    examples = re.compile(r"^Examples?:\n\n((?:widthwise .*\n\n?)+)", re.MULTILINE)
    made = examples.sub(_as_code, html.unescape(made))
    return HEAD + made.rstrip() + "\n"


def _as_code(found: re.Match[str]) -> str:
    lines = [line for line in found[1].splitlines() if line]
    return "**Examples**:\n\n```console\n" + "".join(f"$ {line}\n" for line in lines) + "```\n\n"


if __name__ == "__main__":
    sys.exit(pages.main(__doc__, lambda: {TARGET: reference()}))
