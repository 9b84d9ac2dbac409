"""`widthwise serve RUN...`: the picker, a local page to choose memory against accuracy on."""

import socket
import tempfile
import webbrowser
from pathlib import Path
from threading import Timer
from typing import Annotated

import typer

from widthwise.app.cli.common import cli_errors
from widthwise.app.cli.output import line
from widthwise.errors import RunError

EXAMPLES = (
    "widthwise serve runs/digits",
    "widthwise serve runs/digits runs/mnist --port 9000 --open",
)


@cli_errors
def serve(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders that train or order wrote.")
    ],
    host: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Where to listen; by default only this machine can ask. With 0.0.0.0 all that "
            "reach this one can, without a password.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="0 takes any that is free.")
    ] = 8765,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Open a page on which to choose a size, try it, and download the network.

    The page shows every measured width of a run, and asks nothing but this machine.
    """
    from widthwise.app.serve.app import create_app
    from widthwise.app.serve.server import server

    missing = [folder for folder in runs if not folder.is_dir()]
    if missing:
        raise RunError(
            f"There is no run folder {missing[0]}; make one with: widthwise train TASK --out "
            f"{missing[0]}"
        )
    with _listening(host, port) as listener, tempfile.TemporaryDirectory() as cache:
        address = f"http://{_shown(host)}:{listener.getsockname()[1]}/"
        line(f"Choose on {address} (Ctrl-C ends it)")
        if show:
            Timer(0.5, webbrowser.open, [address]).start()
        app = create_app(runs, Path(cache), host=host)
        server(app).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises RunError where that cannot be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((host, port), family=found[0])
    except OSError as error:
        raise RunError(
            f"Nothing can listen on {host}, port {port} ({error.strerror}); give another --port, "
            "or 0 for any."
        ) from error


def _shown(host: str) -> str:
    """A host as it stands in an address that is opened on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound here
    return f"[{host}]" if ":" in host else host
