"""Hostile files that a fuzzer finds by the lines and comparisons that they reach (libFuzzer).

    pip install 'widthwise[fuzz]'                             # atheris; Linux, x86-64
    python bench/hostile_guided.py --loader packed --runs 100000

Of what the fuzzer makes, checksums are made right, so that it need not guess them; half of the time
it asks the changes of hostile_forging.py for another file. What one run has found is kept in a
folder, from which the next goes on (--corpus). It ends at the first file that is wrong, which it
leaves as crash-... in the folder where it was started.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["widthwise.store", "widthwise.variants", "widthwise.train"]
):
    from hostile_guard import Guard
    from hostile_loaders import LOADERS, seeds

import hostile_forging
from hostile_mutations import changed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loader", choices=sorted(LOADERS.keys() - {"web"}), default="packed")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--corpus", type=Path, help="folder that is kept; none by default")
    options = parser.parse_args()
    name, loader = options.loader, LOADERS[options.loader]
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory() as kept:
        corpus = options.corpus or Path(kept)
        corpus.mkdir(parents=True, exist_ok=True)
        guard = Guard(Path(work))
        for number, data in enumerate(seeds(Path(work))[name]):
            (corpus / f"valid-{number}").write_bytes(data)
        for path in Path(work).iterdir():
            path.unlink()

        def judge(data: bytes) -> None:
            guard.judged(name, loader, hostile_forging.resealed(loader.kind, data))

        def mutated(data: bytes, most: int, seed: int) -> bytes:
            draw = random.Random(seed)
            try:
                if draw.random() < 0.5:
                    return hostile_forging.forged(loader.kind, data, draw)[:most]
            except Exception:  # noqa: BLE001, S110 - it is not of a form that can be taken apart
                pass
            return changed(data, draw)[:most] if seed % 3 else atheris.Mutate(data, most)

        arguments = [sys.argv[0], f"-runs={options.runs}", "-max_len=20000", str(corpus)]
        atheris.Setup(arguments, judge, custom_mutator=mutated)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
