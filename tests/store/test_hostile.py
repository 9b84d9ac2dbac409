"""Hostile files: an error in one sentence or what was written, for every loader (SECURITY.md).

The files are made, and judged, as by bench/hostile.py, which judges 100,000 for each loader.
"""

import json
import os
import random
import socket
import threading
import time
from dataclasses import replace

import pytest
import safetensors.torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hostile
import hostile_web
from hostile_guard import Guard, WrongError
from hostile_loaders import LOADERS, seeds
from hostile_mutations import Pairs, edited, emit, tree
from widthwise.errors import FileError

SECONDS = 15  # bench/hostile.py times; here a machine may be busy, and only hanging is wrong
SLOW = {"web": 20}  # examples of loaders that wait for a network

MANY = settings(
    max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return seeds(tmp_path_factory.mktemp("valid"))


@pytest.fixture
def guard(tmp_path):
    return Guard(tmp_path)


@pytest.mark.parametrize("name", LOADERS)
def test_one_sentence_or_an_exact_load(name, valid, tmp_path):
    guard, loader = Guard(tmp_path, SECONDS), LOADERS[name]
    expected = [guard.expected(name, loader, data) for data in valid[name]]
    outcomes = set()

    @settings(MANY, max_examples=SLOW.get(name, MANY.max_examples))
    @given(st.randoms(use_true_random=False, note_method_calls=False))
    def check(draw):
        data, at = hostile.hostile(name, draw, valid[name], [])
        due = None if at is None else expected[at]
        outcomes.add(guard.judged(name, loader, data, due).outcome)

    check()
    assert "refused" in outcomes


@pytest.mark.parametrize("name", sorted(hostile.LOADERS.keys() - hostile.UNSEALED - {"web"}))
def test_no_bit_can_flip_unnoticed(name, valid, tmp_path):
    guard, loader = Guard(tmp_path, SECONDS), LOADERS[name]
    data = valid[name][0]
    expected = guard.expected(name, loader, data)
    for at in range(0, len(data), max(1, len(data) // 100)):
        flipped = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
        guard.judged(name, loader, flipped, expected)


# ---------------------------------------------------------------- the checker can fail


def test_a_loader_that_ignores_the_checksum_is_found_out(valid, guard):
    name, data = "plain", bytearray(valid["plain"][0])
    careless = replace(LOADERS[name], load=lambda p: repr(safetensors.torch.load(p.read_bytes())))
    expected = guard.expected(name, careless, bytes(data))
    data[-1] ^= 1
    with pytest.raises(WrongError, match="another network"):
        guard.judged(name, careless, bytes(data), expected)
    assert guard.judged(name, LOADERS[name], bytes(data), expected).outcome == "refused"


def fails_with(error):
    def loading(path):
        raise error

    return loading


def hogging(path):
    return len(bytearray(os.urandom(1) * 300_000_000))


def slow(path):
    began = time.process_time()
    while time.process_time() < began + 1.1:
        pass


def writing(path):
    (path.parent / "elsewhere").write_text("")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (fails_with(KeyError("x")), "KeyError"),
        (fails_with(RecursionError()), "RecursionError"),
        (fails_with(FileError("no")), "no sentence"),
        (hogging, "MB"),
        (slow, "takes"),
        (writing, "elsewhere"),
    ],
)
def test_loaders_that_misbehave_are_found_out(broken, said, guard):
    with pytest.raises(WrongError, match=said):
        guard.judged("plain", replace(LOADERS["plain"], load=broken), b"{}")


def test_a_run_is_kept_and_goes_on(valid, tmp_path, monkeypatch):
    monkeypatch.setattr(hostile, "BLOCK", 30)
    monkeypatch.setattr(hostile, "WATCHED", 10)
    found, again = (hostile.block("scores", 0, valid["scores"], tmp_path, tmp_path) for _ in "ab")
    counted = {k: v for k, v in found.items() if k not in ("seconds", "slowest", "memory")}
    assert counted.items() <= again.items()
    assert found["refused"] + found["loaded"] == 30
    log = tmp_path / "log"
    hostile._note(log, found)
    assert hostile.summary(hostile.rows(log))["scores"]["files"] == 30


def test_lines_that_were_not_reached_before_are_new(valid, guard):
    lines = hostile.Lines()
    for data, new in ((valid["scores"][0], True), (valid["scores"][0], False), (b"", True)):
        with lines:
            hostile._unmeasured(guard, "scores", data)
        assert lines.new is new


# ---------------------------------------------------------------- and so can its parts


def test_a_tree_is_changed_and_emitted(valid):
    text = valid["index"][0]
    assert json.loads(emit(tree(text))) == json.loads(text)
    assert any(emit(edited(tree(text), random.Random(n))) != text.decode() for n in range(5))
    assert emit(Pairs([("a", 1), ("a", 2)])) == '{"a":1,"a":2}'


def test_the_server_of_the_fuzzer_ends():
    before = threading.active_count()
    with hostile_web.serving(hostile_web.plan(), b"x") as url:
        port = int(url.split(":")[2].split("/")[0])
    assert threading.active_count() == before
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)
