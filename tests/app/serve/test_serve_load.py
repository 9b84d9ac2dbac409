"""The picker under load and attack, in short; and that the check finds what it looks for."""

import asyncio
import contextlib
import http.client
import http.server
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest
from fastapi import FastAPI, Response

import serve_load
from command_line import works
from widthwise.app.serve import server as limits


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    works("train", "digits", "--out", folder, "--epochs", 5)
    works("sweep", folder, "--num-widths", 6)
    return folder


def test_many_clients_and_hostile_ones_do_no_harm(trained):
    found = serve_load.measured(trained, clients=8, seconds=3)
    assert found["mistakes"] == {}
    assert "500" not in found["statuses"]
    assert found["statuses"]["200"] > 10
    assert found["memory MB"]["peak"] < found["memory MB"]["start"] + 300


# What the check would find.


class Leaking(http.server.BaseHTTPRequestHandler):
    """A server that gives out any file, and forgets to say when it is busy."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = Path("/" + unquote(unquote(self.path)).lstrip("/").removeprefix("file:///"))
        found = path.is_file()
        body = path.read_bytes() if found else b"none"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def leaking():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Leaking)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_leaks_is_found(leaking, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("0123456789abcdef")
    seen = serve_load.Seen(b"0123456789abcdef")
    client = serve_load.Client(0, serve_load.Run(leaking, {"a": 1}, "a"), seen, secret)

    async def attack() -> None:
        async with client.web:
            for _ in range(60):
                await client.hostile("paths")

    asyncio.run(attack())
    assert seen.mistakes["paths: a file from outside of the run"] > 0
    assert seen.mistakes["paths: status 200"] > 0


def test_an_answer_that_may_not_be_is_found():
    seen = serve_load.Seen(b"secret")
    for status in (200, 500, 0):
        seen.note("try", status, {200, 206})
    assert seen.mistakes == Counter({"try: status 500": 1, "try: status 0": 1})
    seen.note("try", 200, {200}, b"...secret...")
    assert seen.mistakes["try: a file from outside of the run"] == 1


def test_memory_that_grows_is_found():
    assert serve_load.levels_off([400 * 10**6] * 100)
    assert serve_load.levels_off([min(i, 20) * 20 * 10**6 for i in range(100)])
    assert not serve_load.levels_off([(300 + 3 * i) * 10**6 for i in range(100)])


# Clients that keep the server waiting.

MUCH = 64_000_000


@pytest.fixture
def impatient(monkeypatch):
    """Where a server listens that gives its clients half a second, and has much to say."""
    monkeypatch.setattr(limits.Impatient, "patience", 0.5)
    app = FastAPI()

    @app.get("/much")
    def much() -> Response:
        return Response(b"x" * MUCH)

    @app.post("/")
    def take(body: dict) -> int:
        return len(body)

    server = limits.server(app, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield server.servers[0].sockets[0].getsockname()[:2]
    server.should_exit = True
    thread.join(10)


def to_the_end(asking: socket.socket) -> int:
    """How many bytes come until the server closes."""
    count = 0
    with contextlib.suppress(ConnectionResetError):
        while got := asking.recv(1_000_000):
            count += len(got)
    return count


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"GET /much HT", b"GET /much HTTP/1.1\r\nHost: a\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
)  # fmt: skip
def test_who_asks_nothing_is_sent_away(impatient, sent):
    with socket.create_connection(impatient, timeout=20) as asking:
        asking.sendall(sent)
        assert to_the_end(asking) == 0


def test_drops_buy_no_time(impatient):
    began = time.monotonic()
    with socket.create_connection(impatient, timeout=20) as asking, contextlib.suppress(OSError):
        asking.sendall(b"GET /much HTTP/1.1\r\nX: ")
        while time.monotonic() < began + 20:
            asking.sendall(b"x")
            time.sleep(0.1)
    assert time.monotonic() < began + 15


def test_who_does_not_read_is_sent_away(impatient):
    ask = b"GET /much HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with socket.create_connection(impatient, timeout=20) as asking:
        asking.sendall(ask)
        time.sleep(3)
        assert to_the_end(asking) < MUCH
    with socket.create_connection(impatient, timeout=20) as asking:  # and who reads gets it all
        asking.sendall(ask)
        assert to_the_end(asking) > MUCH


def test_who_asks_again_after_a_pause_is_answered(impatient):
    asking = http.client.HTTPConnection(*impatient, timeout=20)
    for _ in range(3):
        asking.request("POST", "/", body="{}", headers={"Content-Type": "application/json"})
        assert asking.getresponse().read() == b"0"
        same = asking.sock
        time.sleep(0.7)  # longer than it waits for a request that was begun
        assert asking.sock is same
    asking.close()
