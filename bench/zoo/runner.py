"""Looks at each network in a process of its own, with a time limit, and keeps what comes back.

The processes are forked from a server that has imported torch, which takes longer than most
networks do.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import math
import multiprocessing
import os
import resource
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TOOLS = ("widthwise", "torch-pruning")
LOOKS = {
    "widthwise": "bench.zoo.check:check",
    "torch-pruning": "bench.zoo.peer:judge",
    "networks": "bench.conformance.networks:check",
    "tracing": "bench.tracing:measure",
    "operators": "bench.conformance.operators:check",
}
# What is not installed is left out.
PRELOADED = [
    "bench.zoo.check",
    "bench.zoo.families",
    "torch._dynamo",
    "torch.testing._internal.common_methods_invocations",
    "torch.testing._internal.common_modules",
]
Row = dict[str, Any]


def look(tool: str, name: str) -> Row:
    """What a tool makes of a network, in this process and with one thread."""
    import torch
    from bench.zoo.families import network

    torch.set_num_threads(1)
    module, _, function = LOOKS[tool].partition(":")
    looked = getattr(importlib.import_module(module), function)
    return {"tool": tool, **looked(name if tool == "operators" else network(name))}


def look_apart(tool: str, name: str, limit: float) -> Row:
    """The same in a process of its own, which is ended after `limit` processor seconds.

    One that waits rather than computes is ended after ten times as many seconds.
    """
    context = multiprocessing.get_context("forkserver")
    # Read when the server starts, which is at the first call.
    os.environ |= {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, tool, name, limit))
    process.start()
    sender.close()
    late = {"failures": {"time": f"did not finish in {limit:.0f} processor seconds"}}
    row: Row = {"tool": tool, "name": name}
    try:
        if not receiver.poll(10 * limit):
            return {**row, **late, "verdict": "hangs"}
        found = receiver.recv()
        process.join(10)  # it tidies up after itself
        return {**row, **found}
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGXCPU:
            return {**row, **late, "verdict": "hangs"}
        text = f"the process ended with code {process.exitcode}"
        return {**row, "failures": {"process": text}, "verdict": "crashed"}
    finally:
        process.kill()
        process.join()


def _send(sender: Connection, tool: str, name: str, limit: float) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit) + 5))
    logging.disable()  # torch.export logs pages on its way; what matters is in the row
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            row = look(tool, name)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            text = f"{type(error).__name__}: {str(error)[:600]}"
            row = {"failures": {"process": text}, "verdict": "crashed"}
    sender.send(row)


def look_at_all(wanted: Iterable[tuple[str, str]], jobs: int, limit: float) -> Iterator[Row]:
    """The findings on (tool, network) pairs as they come, `jobs` at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        pending = [pool.submit(look_apart, tool, name, limit) for tool, name in wanted]
        for future in as_completed(pending):
            yield future.result()


def options(
    prog: str, doc: str | None, families: Sequence[str], limit: float
) -> argparse.ArgumentParser:
    """The options of a command that looks at many networks. limit: seconds of processor."""
    file = Path(__file__).parents[2] / "build" / f"{prog.removeprefix('bench.')}.jsonl"
    parser = argparse.ArgumentParser(prog=prog, description=(doc or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these: family/name")
    parser.add_argument("--family", nargs="+", choices=families, default=families)
    parser.add_argument("--again", action="store_true", help="also what has been looked at")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--limit", type=float, default=limit, metavar="SECONDS", help="of processor"
    )
    parser.add_argument("--rows", type=Path, default=file, help="the file of findings")
    parser.add_argument("--write", action="store_true", help="store and write the page")
    return parser


def look_and_keep(wanted: Sequence[tuple[str, str]], given: argparse.Namespace) -> Iterator[Row]:
    """The findings as they come, each added to the file at once."""
    given.rows.parent.mkdir(parents=True, exist_ok=True)
    for row in look_at_all(wanted, given.jobs, given.limit):
        with given.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        yield row


def rows(path: Path) -> dict[tuple[str, str], Row]:
    """The latest findings in a file of lines, by tool and network."""
    lines = path.read_text().splitlines() if path.exists() else []
    read = [json.loads(line) for line in lines]
    return {(row["tool"], row["name"]): row for row in read}
