"""Asking a web server that may be hostile: http and https alone, within a time, without its pages.

    answer = opener().open("https://example.org/net.safetensors", timeout=TIMEOUT)

As urllib does it by itself, the page that comes with a redirect is read to its end, which it need
not have, and the lines before an answer may come one byte at a time, for ever.
"""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import suppress
from typing import IO, Any, Final
from urllib import request

from widthwise.errors import FileError

TIMEOUT: Final = 30.0  # seconds without a byte, and until an answer begins


def opener() -> request.OpenerDirector:
    """http and https, redirects among them, and nothing else."""
    made = request.OpenerDirector()
    for handler in (
        *(request.ProxyHandler(), _Http(), _Https(), _Redirects()),
        *(request.HTTPDefaultErrorHandler(), request.HTTPErrorProcessor()),
        request.UnknownHandler(),
    ):
        made.add_handler(handler)
    return made


class _Answer(http.client.HTTPResponse):
    """An answer whose first lines come within `TIMEOUT`, or not at all."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._socket = sock

    def begin(self) -> None:
        timer = threading.Timer(TIMEOUT, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            super().begin()
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class _Plain(http.client.HTTPConnection):
    response_class = _Answer


class _Safe(http.client.HTTPSConnection):
    response_class = _Answer


class _Http(request.HTTPHandler):
    def http_open(self, req: request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Plain, req)


class _Https(request.HTTPSHandler):
    def https_open(self, req: request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Safe, req)


class _Redirects(request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> request.Request | None:
        fp.close()  # before its page is read
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise FileError(
                f"{req.full_url} leads from https to {newurl}, which anyone on the way could "
                "change; give that address where it is to be trusted."
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)
