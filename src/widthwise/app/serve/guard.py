"""Who may ask the picker, and how much: every request passes here before any route.

A page on the web can make a browser send requests to this machine. It is kept out by the name it
has to use (`Host`, against a name of its own that resolves to this machine) and by what browsers
say of where a request comes from (`Origin`, `Sec-Fetch-Site`).
"""

import json
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
ANY: Final = ("0.0.0.0", "::", "")  # noqa: S104 - to be recognised, not to be bound
LARGEST: Final = 1_000_000  # bytes of a request's body
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Guard:
    """An ASGI application in front of another.

    host: what the server was told to listen on; other names than that and this machine's own are
    refused, unless it listens on all of them.
    """

    def __init__(self, app: ASGIApp, host: str = LOOPBACK[1]) -> None:
        self.app = app
        self.names = frozenset() if host in ANY else frozenset((*LOOPBACK, host.lower()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there are no web sockets here
        refused = _refusal(Headers(scope=scope), scope, self.names)
        body: list[Message] = []
        if refused is None and scope["method"] not in ("GET", "HEAD"):
            body = await _body(receive)
            if not body:
                refused = 413, f"The request is larger than {LARGEST:,} bytes; send less."
        if refused is not None:
            await _answer(send, *refused)
            return

        async def again() -> Message:
            return body.pop(0) if body else await receive()

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, again, with_headers)


def _refusal(headers: Headers, scope: Scope, names: Iterable[str]) -> tuple[int, str] | None:
    """Status and sentence for what is not answered; None for what is."""
    host = headers.get("host", "")
    if names and _name(host) not in names:
        return 400, "This server answers to localhost only; open the address that it printed."
    if not scope["path"].startswith("/api/"):
        return None
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    other = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
    if other or site not in (None, "same-origin", "none"):
        return 403, "Another site may not ask this server; open the address that it printed."
    return None


def _name(host: str) -> str:
    """A `Host` header without its port; "" for what is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises for what is no number
        return parts.hostname or ""
    except ValueError:
        return ""


async def _body(receive: Receive) -> list[Message]:
    """The messages of a request's body; none when it is too large."""
    messages: list[Message] = []
    size = 0
    while True:
        message = await receive()
        messages.append(message)
        size += len(message.get("body", b""))
        if size > LARGEST:
            return []
        if not message.get("more_body", False):
            return messages


async def _answer(send: Send, status: int, sentence: str) -> None:
    text = json.dumps({"error": sentence}).encode()
    head = {**HEADERS, "Content-Type": "application/json", "Content-Length": str(len(text))}
    # What is left of a body that is too large is not read.
    head["Connection"] = "close"
    raw = [(name.lower().encode(), value.encode()) for name, value in head.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": text})
