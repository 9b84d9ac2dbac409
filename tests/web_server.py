"""A web server on loopback that counts the bytes it was asked for, and misbehaves when told to."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Web:
    """What is served, and how.

    requests: the Range of each. sent: bytes of content that were written. faults: one for each
    request to come, None for none; the last one stays.
    """

    data: bytes
    etag: str | None = '"1"'
    requests: list[str] = field(default_factory=list)
    conditions: list[str | None] = field(default_factory=list)
    sent: int = 0
    faults: list[str | None] = field(default_factory=lambda: [None])
    url: str = ""

    def fault(self) -> str | None:
        return self.faults.pop(0) if len(self.faults) > 1 else self.faults[0]


@contextmanager
def serving(data: bytes):
    """A `Web` at `.url`."""
    web = Web(data)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            asked = self.headers["Range"]
            web.requests.append(asked)
            web.conditions.append(self.headers["If-Range"])
            first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", asked).groups())
            answer(self, web, first, last + 1)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    web.url = f"http://127.0.0.1:{server.server_port}/net.safetensors"
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(handler, web, first, end):
    fault = web.fault()
    if fault in ("404", "503"):
        return handler.send_error(int(fault))
    if fault == "moved" and "moved" not in handler.path:
        handler.send_response(302)
        handler.send_header("Location", "/moved")
        handler.send_header("Content-Length", "0")
        return handler.end_headers()
    if fault == "elsewhere":
        handler.send_response(302)
        handler.send_header("Location", "file:///etc/hostname")
        return handler.end_headers()
    whole = fault in ("whole", "whole short")
    if handler.headers["If-Range"] not in (None, web.etag):
        whole = True
    if first >= len(web.data) and not whole:
        return handler.send_error(416)
    body = web.data if whole else web.data[first:end]
    handler.send_response(200 if whole else 206)
    if web.etag:
        handler.send_header("ETag", web.etag)
    if fault == "gzip":
        handler.send_header("Content-Encoding", "gzip")
    shown = first + 1 if fault == "shifted" else first
    if not whole and fault != "no range":
        total = {"unsized": "*", "other size": "99999999"}.get(fault or "", len(web.data))
        handler.send_header("Content-Range", f"bytes {shown}-{shown + len(body) - 1}/{total}")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if fault in ("short", "whole short"):
        body = body[: max(1, len(body) // 2)]
    try:
        for at in range(0, len(body), 512):
            piece = body[at : at + 512]
            web.sent += len(piece)  # before who asked can have it, and look at this
            handler.wfile.write(piece)
    except OSError:
        web.sent -= len(piece)  # who asked has read enough
    return None
