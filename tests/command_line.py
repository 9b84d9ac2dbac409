"""Commands run in this process, and what they print."""

from typer.testing import CliRunner, Result

from widthwise.app.cli.main import app


def widthwise(*words: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


def works(*words: object) -> str:
    """What a command prints; it must succeed."""
    result = widthwise(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(*words: object) -> str:
    """The one sentence of a command that fails."""
    result = widthwise(*words)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    progress = ("epoch ", "Training digits")
    lines = [line for line in result.stderr.splitlines() if not line.startswith(progress)]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    assert "Traceback" not in result.output
    return lines[0]
