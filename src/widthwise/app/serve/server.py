"""The server under the page: how many may ask at once, and for how long they may keep it waiting.

    server(create_app(...), port=8765).run()

A connection that asks nothing, sends its request in drops or does not read its answer holds a place
that others may need; after PATIENCE seconds without progress it is closed.
"""

import asyncio
import socket
from typing import Any, Final

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE: Final = 15.0  # seconds
CONNECTIONS: Final = 256
HEADER: Final = 32_768  # bytes of a request's header


class Impatient(H11Protocol):
    """uvicorn's HTTP/1.1, which waits for its clients so long and no longer."""

    patience: float = PATIENCE
    _asking: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        # asyncio does so only for sockets that were made with the protocol's number. Without it
        # an answer's body waits 40 ms for the client to acknowledge its header.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Some of a request has come; the time for all of it is not extended."""
        super().data_received(data)
        self._watch()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._reading = self._later()

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._reading = _off(self._reading)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._asking, self._reading = _off(self._asking), _off(self._reading)
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Time runs while more of a request has to come."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._asking = _off(self._asking)
        elif self._asking is None and not self.transport.is_closing():
            self._asking = self._later()

    def _later(self) -> asyncio.TimerHandle:
        # Not closed but aborted: closing would wait until the client has read everything.
        return self.loop.call_later(self.patience, self.transport.abort)


def server(app: FastAPI, **options: Any) -> uvicorn.Server:
    """uvicorn with these limits. options: further ones of `uvicorn.Config`, such as port."""
    config = uvicorn.Config(
        app,
        http=Impatient,
        ws="none",
        log_level="error",  # what clients do wrong is not news
        limit_concurrency=CONNECTIONS,
        # Longer than clients keep a connection, who would else meet one that is just closed.
        timeout_keep_alive=int(PATIENCE),
        h11_max_incomplete_event_size=HEADER,
        server_header=False,
        **options,
    )
    return uvicorn.Server(config)


def _off(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None
