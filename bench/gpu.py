"""What structural dropout costs on a GPU, and what a cut network gains there.

    python bench/gpu.py                  # prints; needs a GPU, timm and transformers
    python bench/gpu.py --write          # and stores bench/results/gpu.json
    python bench/gpu.py --try            # tiny networks on the CPU, to see that all of it runs

For a ResNet-50, a ViT-B and a GPT of 12 layers, in bfloat16 (autocast), AdamW:

- a training step at one drawn width, and one of four sandwich passes, each over a plain step; eager
  and through `torch.compile`. Draws keep an eighth, two eighths, ... of every axis. Ratios are of
  whole rounds, in which all widths are drawn equally often, plain and elastic in turns;
- the graphs that are compiled while warming up, and after that;
- images or sequences a second of the network cut to 100, 75, 50 and 25 % of its widths, over those
  of one that was built as small, newly; batches as in training, no gradients.

The exit code is 1 when a bound is not kept, and where there is no GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._dynamo.utils import counters

import widthwise as ww
from common import record
from gpu_cases import Case, cases, loss

EIGHTHS, SHARES = 8, (1.0, 0.75, 0.5, 0.25)
Step = Callable[[], object]


def seconds(run: Step, device: str) -> float:
    """How long one call takes, until the device is done."""
    _wait(device)
    began = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def ratios(plain: Step, other: Step, device: str, rounds: int) -> dict[str, float]:
    """Median and quartiles of the ratios of rounds, run in turns, and plain milliseconds."""
    pairs = [(seconds(other, device), seconds(plain, device)) for _ in range(rounds)]
    low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
    plain_ms = 1000 * statistics.median(b for _, b in pairs)
    return {"ratio": middle, "low": low, "high": high, "plain_ms": plain_ms}


class Training:
    """Steps of one network. widths: those that steps run at in turn; None for the module's own.

    passes: of a step, each at other widths; their losses are added.
    """

    def __init__(
        self,
        case: Case,
        net: nn.Module,
        device: str,
        widths: list[ww.Widths] | None = None,
        passes: int = 1,
    ) -> None:
        self.net, self.device, self.widths, self.passes = net, device, widths, passes
        self.x, self.y = case.inputs(case.batch).to(device), case.target(case.batch).to(device)
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
        self.number = 0
        self.compiled: Callable[..., Any] | None = None

    def compile(self) -> None:
        """Let later steps run through `torch.compile`: one graph for all widths."""
        self.compiled = torch.compile(self._forward, dynamic=self.widths is not None)

    def step(self) -> None:
        """One step of the optimizer."""
        self.optimizer.zero_grad()
        for _ in range(self.passes):
            self.number += 1
            at = None if self.widths is None else self.widths[self.number % len(self.widths)]
            with torch.autocast(self.device, torch.bfloat16):
                outputs = (self.compiled or self._forward)(at, self.x)
            loss(outputs, self.y).backward()
        self.optimizer.step()

    def round(self) -> None:
        """So many steps that every width has its turn."""
        for _ in range(EIGHTHS):
            self.step()

    def _forward(self, widths: ww.Widths | None, x: torch.Tensor) -> Any:
        return self.net(x) if widths is None else self.net(x, widths=widths)


def training(case: Case, device: str, rounds: int) -> dict[str, Any]:
    """Elastic steps over plain ones, as they are and compiled."""
    found: dict[str, Any] = {}
    for how in ("eager", "compiled"):
        torch._dynamo.reset()
        counters.clear()
        plain = Training(case, case.build(1.0).to(device), device)
        net = ww.Elastic(case.build(1.0).to(device), (case.inputs(2).to(device),))
        levels = [net.widths(k / EIGHTHS) for k in range(1, EIGHTHS + 1)]
        drawn = Training(case, net, device, levels)
        sandwich = Training(case, net, device, levels, passes=4)
        for each in (plain, drawn, sandwich):
            if how == "compiled":
                each.compile()
            each.round()
        warm = counters["stats"]["unique_graphs"]
        found[how] = {
            "single draw": ratios(plain.round, drawn.round, device, rounds),
            "sandwich of four": ratios(plain.round, sandwich.round, device, rounds),
            "graphs": {"warming up": warm, "after": counters["stats"]["unique_graphs"] - warm},
        }
    return found


def cutting(case: Case, device: str, rounds: int) -> list[dict[str, Any]]:
    """Throughput of the network cut, over that of one that is built as small."""
    net = ww.Elastic(case.build(1.0).to(device), (case.inputs(2).to(device),)).eval()
    x = case.inputs(case.batch).to(device)

    def run(module: nn.Module) -> Step:
        @torch.no_grad()
        def call() -> None:
            with torch.autocast(device, torch.bfloat16):
                for _ in range(EIGHTHS):
                    module(x)

        call()  # warms up
        return call

    full, rows = run(case.build(1.0).to(device).eval()), []
    for share in SHARES:
        cut = run(net.cut(net.realizable(net.widths(share))).to(device).eval())
        small = run(case.build(share).to(device).eval())
        over_small = ratios(small, cut, device, rounds)  # time of the cut over that of the other
        rows.append(
            {
                "share": share,
                "throughput_over_built_small": 1 / over_small["ratio"],
                "throughput_over_full": 1 / ratios(full, cut, device, rounds)["ratio"],
                "full_per_second": case.batch * EIGHTHS / seconds(full, device),
            }
        )
    return rows


def measure(case: Case, device: str, rounds: int) -> tuple[dict[str, Any], bool]:
    """All of one network, printed; and whether its bounds are kept."""
    steps, cut = training(case, device, rounds), cutting(case, device, rounds)
    kept = True
    print(case.name)
    for how, bound in (("eager", case.eager), ("compiled", case.compiled)):
        for name in ("single draw", "sandwich of four"):
            one = steps[how][name]
            print(f"  {how:9} {name:17} {one['ratio']:.2f} ({one['low']:.2f}-{one['high']:.2f})")
        graphs = steps[how]["graphs"]
        print(f"  {how:9} graphs: {graphs['warming up']} warming up, {graphs['after']} after")
        if bound is not None:
            kept &= steps[how]["single draw"]["ratio"] <= bound and not graphs["after"]
    for row in cut:
        print(
            f"  cut to {row['share']:.0%}: {row['throughput_over_full']:.2f} x the full one, "
            f"{row['throughput_over_built_small']:.2f} x one built as small"
        )
    return {"name": case.name, "batch": case.batch, "training": steps, "cut": cut}, kept


def main() -> int:
    """Run and print; store when asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="networks whose name has this in it")
    parser.add_argument("--try", dest="small", action="store_true", help="tiny ones on the CPU")
    parser.add_argument("--write", action="store_true", help="store the result")
    asked = parser.parse_args()
    if not asked.small and not torch.cuda.is_available():
        print("There is no GPU here, so that nothing was measured; --try runs on the CPU.")
        return 1
    if asked.small and asked.write:
        parser.error("what --try measures says nothing of a GPU; leave --write out.")
    warnings.simplefilter("ignore", ww.GraphModuleWarning)
    device, results, kept = "cpu" if asked.small else "cuda", [], True
    for case in cases(small=asked.small):
        if asked.only in case.name:
            found, fine = measure(case, device, asked.rounds)
            results.append(found)
            kept &= fine
    if asked.write:
        gpu = torch.cuda.get_device_name()
        print(record("gpu", {"gpu": gpu, "cuda": torch.version.cuda, "networks": results}))
    return int(not kept and not asked.small)


if __name__ == "__main__":
    sys.exit(main())
