"""Write docs/results.md, its pictures and the README's sentence from bench/results/*.json.

    python scripts/results_page.py           # write
    python scripts/results_page.py --check   # exit 1 when a text is not what the results say

No figure in those texts is typed by hand.
"""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path

import pages
import results_dpf
import results_family
import results_faults
import results_hostile
import results_layout
import results_recipe
import results_scopes
from pages import IMAGES, ROOT, Found, load, plain, table, ticks

TRACING_AIM = 2.0  # times torch.export, in the median
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
FAMILY_TITLE = "MNIST MLP 784-256-256-10: one training, and networks trained alone"
MARKS = "<!-- results: written by scripts/results_page.py -->", "<!-- end of results -->"
NAMES = {
    "alone": "trained alone",
    "published": "published recipe, cut",
    "default": "sandwich passes, cut",
    "refit": "cut, output layer refitted",
    "distilled": "cut, 2 epochs of distillation",
}


def quality_rows(found: Found, widths: list[str], methods: list[str]) -> list[list[str]]:
    """Mean and standard deviation by width."""
    rows = []
    for width in widths:
        row = found["results"]["accuracy_percent"][width]
        cells = [f"{row[m]['mean']:.2f} ± {row[m]['std']:.2f}" if m in row else "" for m in methods]
        rows.append([width, *cells])
    return rows


def quality(found: Found) -> str:
    """The section on accuracy by width."""
    results = found["results"]
    accuracy = results["accuracy_percent"]
    methods = list(NAMES)
    rows = quality_rows(found, list(accuracy), methods)
    below = {w: r["default_minus_alone"] for w, r in accuracy.items() if int(w) >= 4}
    worst = min(below, key=lambda w: below[w])
    behind = [w for w, d in below.items() if d < 0]
    post_processed = {
        w: round(r["distilled"]["mean"] - r["alone"]["mean"], 2)
        for w, r in accuracy.items()
        if "distilled" in r and int(w) >= 4
    }
    still = {w: d for w, d in post_processed.items() if d < 0}
    cost = results["cost_in_plain_trainings"]
    seconds = max(cost["touch_up_seconds"].values())
    missed = ", ".join(f"{w} ({d:+.2f})" for w, d in still.items()) or "none"
    return f"""## Every width of one training in sandwich passes

MNIST, MLP 784-256-256-10, both hidden layers cut to the same width; test accuracy in per cent, mean
± standard deviation of {results["seeds"]} seeds (`bench/quality.py`, which says what each column is).

![accuracy against stored bytes](images/mnist.png)

{table(["width", *(NAMES[m] for m in methods)], rows)}

One elastic training costs {cost["default"]["mean"]:.1f} ± {cost["default"]["std"]:.1f} plain trainings of the
full network (processor seconds, same loop), the published recipe
{cost["published"]["mean"]:.1f}, and training each of these {len(accuracy)} widths by itself
{cost["every width of the table alone"]["mean"]:.1f}. Post-processing takes at most {seconds:.1f} s.

**What is not reached.** The aim is a cut at or above the network trained alone at every width from 4
up. As cut, widths {", ".join(behind) or "none"} are below it, the farthest being {worst} with
{below[worst]:+.2f} points. After the distillation these are still below: {missed}. Width 2 is not
trained for (draws start at 4). Trained alone means the 15 epochs named above; a small network gains
from more of them.
"""


def step_cost(found: Found) -> str:
    """The section on the cost of a training step."""
    rows = [
        [r["name"], f"{r['ratio']:.2f}", f"{r['bound']}" if r["bound"] else ""]
        for r in found["results"]
    ]
    return f"""## The cost of a training epoch

One epoch of single-draw structural dropout ÷ one epoch of plain training of the same network, in the
same loop, in turns, one thread (`bench/step_cost.py`).

{table(["network and draw", "ratio", "bound"], rows)}
"""


def cut_speed(found: Found) -> str:
    """The section on the speed of cut networks."""
    rows = [
        [
            r["network"],
            str(r["width"]),
            f"{r['pytorch']:.3f}",
            f"{r['onnxruntime']:.3f}",
            f"{r['pytorch_as_graph_module']:.3f}",
        ]
        for r in found["results"]["ratios"]
    ]
    header = ["network", "width", "PyTorch", "ONNX Runtime", "PyTorch, as graph module"]
    return f"""## Cut against built small

Time of one inference (batch 1, one thread) of the cut ÷ of a network built at that size; bound
{found["results"]["bound"]} (`bench/cut_speed.py`). The last column is the graph module that is returned
where the user's own class cannot be had; its parameters are fetched through nested modules, which tiny
networks feel. It has no bound.

{table(header, rows)}
"""


def sweep(found: Found) -> str:
    """The section on the cost of validating all widths."""
    rows = [
        [
            f"batches of {r['batch']}",
            str(r["threads"]),
            f"{r['ratio']:.1f}",
            f"{r['whole_sweep_s'] / r['full_s']:.1f}",
            f"{r['whole_sweep_s']:.1f} s",
            f"{r['whole_sweep_with_latency_s']:.1f} s",
        ]
        for r in found["results"]
    ]
    kept = sum(r["ratio"] <= 40 for r in found["results"])
    return f"""## Sweep

Time to validate all 256 widths of the MNIST MLP on 10,000 images ÷ time of one validation of the full network;
and of the whole sweep with sizes and multiply-accumulates, which are told from shapes (`bench/sweep.py`). The
bound of 40 is kept in {kept} of {len(rows)} rows. The aim of 10 with all costs is not reached: the last layers
of every width have to be run, and a small layer takes hardly less time than a large one.

{table(["10,000 images in", "threads", "ratio", "with costs", "in all", "with latencies"], rows)}
"""


def engine(found: Found) -> str:
    """The section on tracing and cutting."""
    rows = [
        [
            r["network"],
            f"{r['parameters'] / 1e6:.1f} M",
            str(r["axes"]),
            f"{r['export_seconds']:.2f} s",
            f"{r['trace_seconds']:.2f} s",
            f"{r['trace_over_export']:.2f}",
            f"{r['cut_seconds']:.3f} s",
            f"{r['trace_and_cut_peak_MB']} MB",
        ]
        for r in found["results"]
    ]
    header = ["network", "parameters", "axes", "export", "trace", "ratio", "cut to half", "memory"]
    return f"""## The engine

Tracing (both modes captured, dims related, all axes proven) beside `torch.export` alone, bound 3; a
cut to half with the check of the user's class. Memory is the peak of the process above the built
model, tracing and cutting together (`bench/engine.py`).

{table(header, rows)}
"""


def tracing(found: Found) -> str:
    """The paragraph on tracing beside export, over a sample of public networks."""
    results = found["results"]
    above = sum(r["trace_over_export"] > TRACING_AIM for r in results["rows"])
    return f"""With the comparison of outputs and gradients, `Elastic(...)` takes in the median {results["median_trace_over_export"]} times
as long as `torch.export` on {results["networks"]} networks ({results["largest"]} at most; `python -m bench.tracing`). The aim of {TRACING_AIM:g} is not
reached on {above} of them: models that read sizes are run once more on symbols, for what they decide in evaluation."""


def scoring(found: Found) -> str:
    """The section on what scores cost."""
    results = found["results"]
    rows = [[name, f"{ratio:.2f}"] for name, ratio in results["over_epoch"].items()]
    return f"""## The cost of scores

Scores of all features of a trained ResNet-56 on {results["images"]:,} images, in processor seconds
over those of one training epoch on the same images; bound {results["bound_obd"]} for `obd`
(`bench/scoring.py`).

{table(["score", "÷ epoch"], rows)}
"""


def pruning(found: Found) -> str:
    """The section on what gradual pruning adds to a step."""
    cells = found["results"]
    networks = list(dict.fromkeys(c["network"] for c in cells))
    ratio = {(c["network"], c["dpf"]): c["ratio"] for c in cells}
    weights = {c["network"]: f"{c['weights']:,}" for c in cells}
    rows = [[n, weights[n], *(f"{ratio[n, f]:.3f}" for f in (False, True))] for n in networks]
    kept = [n for n in networks if ratio[n, False] <= 1.05]
    missed = [n for n in networks if n not in kept]
    but = f", and not on {', '.join(missed)}" if missed else ""
    return f"""## What gradual pruning adds to a training step

A step with pruning ÷ the same without, over a hundred steps with one change of masks among them, on one
thread (`bench/pruning.py`); bound 1.05. It is kept on {len(kept)} of {len(networks)} networks{but}. Masking
reads and writes every weight, which counts where a step does little else: on an Intel Xeon of two cores, where it
was measured before, the MLP of mnist did not keep the bound. *Feedback* keeps and moves a dense copy besides, and
changes the masks 25 times; no bound was set for it.

{table(["network", "weights pruned", "pruned", "with feedback"], rows)}
"""


def storage(found: Found) -> str:
    """The section on zeros."""
    results = found["results"]
    sizes = [
        [
            f"{100 * r['sparsity']:g} %",
            *(f"{r['bytes'][how] / 1e6:.2f}" for how in ("none", "zeros", "zstd")),
            f"{r['formula_bytes'] / 1e6:.2f}",
            f"{r['index']:.3f}",
            f"{r['formula']:.3f}",
            f"{r['load']['zeros']:.2f}",
            f"{r['load']['zstd']:.2f}",
        ]
        for r in results["files"]
    ]
    header = ["sparsity", "dense, MB", "packed", "with zstd", "formula", "÷ index", "÷ formula"]
    cases = {
        (r["layer"], r["batch"]): f"{r['layer']}, batch {r['batch']}" for r in results["products"]
    }
    shares = sorted({r["sparsity"] for r in results["products"]})
    speed = {(r["layer"], r["batch"], r["sparsity"]): r["speed"] for r in results["products"]}
    rows = [[name, *(f"{speed[*case, s]:.2f}" for s in shares)] for case, name in cases.items()]
    slow = [s for s in shares if any(speed[*case, s] < 1 for case in cases)]
    pays = [s for s in shares if s > max(slow, default=0)]
    where = f"from {100 * pays[0]:g} % on" if pays else "in some of them only"
    return f"""## Zeros in files and in time

A network of 20 million normal weights, pruned by magnitude, in MB as `save` writes it: dense, packed
(`pack="zeros"`), and compressed besides (`"zstd"`). The formula is that of Zhu & Gupta (2017): 4 bytes for
each non-zero and the cheaper of 1 bit a weight and 4 bits a non-zero; it leaves out the fillers that gaps
of more than 4 bits need, so that the packed file comes near it only up to about 90 %. ÷ index is the
packed file ÷ the same with those fillers, bound {results["bound"]}. The last columns are the time to read
a packed file (checksum, unpacking) ÷ that of the dense one, bound {results["load_bound"]:g} without zstd
(`bench/storage.py`).

{table([*header, "load", "load, zstd"], sizes)}

Zeros make a product faster only in a kernel that leaves them out. Time of a dense linear layer ÷ of the
same on torch's compressed sparse rows, one thread; above 1 the sparse product is faster. Of these layers,
whose zeros are scattered, all are faster {where}; with more threads, another processor or other sizes it
is elsewhere, which is why `run_sparse` measures.

{table(["layer", *(f"{100 * s:g} %" for s in shares)], rows)}
"""


def few_bits(found: Found) -> str:
    """The section on quantized weights."""
    results = found["results"]
    by_name = {r["name"]: r for r in results["rows"]}
    rows = [
        [
            r["name"],
            f"{r['mean']:.2f} ± {r['std']:.2f}",
            f"{r['bytes'] / 1e3:.1f}",
            f"{narrow(r['bytes']):.2f}",
        ]
        for r in results["rows"]
    ]
    coded = [r for r in results["rows"] if r["entropy"]]
    most = max(r["over_tensors"] for r in coded)
    plain = by_name["float32"]["over_tensors"]
    missed = [
        r for r in coded if r["over_tensors"] > 0.01 * (r["bytes"] - r["over_tensors"]) + 1000
    ]
    kept = (
        f"is missed by {len(missed)} of {len(coded)} files" if missed else "is kept by every file"
    )
    whole = whole_ranges(by_name)
    return f"""## Weights in few bits

MNIST, MLP 784-256-256-10, trained plainly for {results["epochs"]} epochs, then quantized, all its matrices, and
stored; test accuracy in per cent of what was loaded again, mean ± standard deviation of {results["seeds"]} seeds,
and the bytes of the whole file (`bench/bits.py`). Ranges are searched for the least squared error unless it
says least and largest weight. The last column is for scale: a float32 network of the first table, trained
alone for 15 epochs, at the width that takes as many bytes (interpolated); it could be quantized as well.

{table(["weights", "accuracy", "kB", "float32 of these kB"], rows)}

**Ranges.** Searched for the least squared error they are narrower, and the codes used more evenly, so that
Huffman codes gain less. The whole range, from the least weight to the largest, has {whole}.

What is trained on is trained for one epoch more, straight-through or, where it says so, the shared values
alone; float32 trained on in the same way is in the table.

**Bytes.** Codes take between {100 / max(r["entropy"] for r in coded):.0f} and {100 / min(r["entropy"] for r in coded):.0f} % of what an ideal coder of
single codes would need: a Huffman code of several at a time sees neighbours that are alike. Names, shapes
and the manifest take at most {most:,.0f} bytes of a file; in the float32 file, which holds each tensor under its
name, {plain:,.0f}. The aim, at most 1 % and 1 kB above the tensors, {kept}.
"""


def in_int8(found: Found) -> str:
    """The section on running quantized networks."""
    results = found["results"]
    networks = results["networks"]
    batches = list(networks[0]["gain"])
    rows = [
        [
            r["network"],
            f"{r['float32_bytes'] / 1e3:,.0f}",
            f"{r['bytes'] / 1e3:,.0f}",
            *(f"{r[how][b]:.2f}" for b in batches for how in ("float32", "int8")),
            f"{100 * r['difference']:.1f} %",
        ]
        for r in networks
    ]
    header = ["network", "float32, kB", "int8, kB"]
    header += [f"{how}, batch {b}" for b in batches for how in ("float32", "int8")]
    gains = {
        f"{r['network']} at batch {b}": sorted(r["gain"][b]) for r in networks for b in batches
    }
    always = [name for name, each in gains.items() if each[0] > 1]
    slower = [name for name, each in gains.items() if each[-1] <= 1]
    varying = max(gains, key=lambda name: gains[name][-1] / gains[name][0])
    low, high = gains[varying][0], gains[varying][-1]
    return f"""## Running in int8

Quantized weights are loaded as floats, and are no faster. `export_int8` writes an ONNX file that multiplies
8-bit integers. Time of one call of PyTorch ÷ that in ONNX Runtime {results["onnxruntime"]}, float32 and int8, one
thread, the shortest of many in turns, medians of {results["rounds"]} rounds; above 1 it is faster. The last column
is the largest difference of int8 to float32 outputs, as a share of their range, with untrained weights
(`bench/int8.py`).

{table([*header, "difference"], rows)}

Beside the faster of the two float32 runtimes, int8 is faster in every round in {len(always)} of {len(gains)} cases
(each network at each batch size), and slower in every round in {len(slower)}: {"; ".join(slower) or "none"}. Integer
convolutions are slow in ONNX Runtime; without them (`convolutions=False`) a convolutional network has little left
that could gain. Small layers lose at batch 1 what they spend on quantizing their inputs.

Other processes kept the machine busy meanwhile (load {results["load"]:g} besides), so ratios vary, most for
{varying}: int8 was {low:.1f} to {high:.1f} times as fast there. It is otherwise on other processors;
`benchmark.runtimes.compare` measures it there.
"""


def whole_ranges(by_name: Found) -> str:
    """What whole ranges cost and gain beside searched ones."""
    found = []
    for name in ("4 bits", "3 bits", "2 bits", "2 bits, trained straight-through"):
        start, comma, rest = name.partition(", ")
        ours, theirs = by_name[f"{start}, least and largest weight{comma}{rest}"], by_name[name]
        fewer = 100 * (ours["bytes"] / theirs["bytes"] - 1)
        found.append(
            f"{fewer:+.0f} % bytes and {ours['mean'] - theirs['mean']:+.2f} points at {name}"
        )
    return "; ".join(found)


def narrow(size: float) -> float:
    """Accuracy of a float32 network trained alone that takes so many bytes, in per cent."""
    accuracy = load("quality")["results"]["accuracy_percent"]
    points = sorted((stored_bytes(int(w)), r["alone"]["mean"]) for w, r in accuracy.items())
    for (left, a), (right, b) in pairwise(points):
        if size <= right:
            share = math.log(size / left) / math.log(right / left)
            return float(a + share * (b - a))
    return float(points[-1][1])


def picture(path: Path) -> None:
    """Accuracy against stored bytes, with error bars."""
    found = load("quality")["results"]["accuracy_percent"]
    figure, axes = pages.plots().subplots(figsize=(8, 4.8), dpi=150)
    styles = {"alone": "s", "published": "v", "default": "o", "distilled": "D"}
    colours = {
        "alone": "#6b7280",
        "published": "#b45309",
        "default": "#1d4ed8",
        "distilled": "#0f766e",
    }
    for method, marker in styles.items():
        chosen = [w for w in found if method in found[w] and int(w) >= 4]
        axes.errorbar(
            [stored_bytes(int(w)) / 1e3 for w in chosen],
            [found[w][method]["mean"] for w in chosen],
            [found[w][method]["std"] for w in chosen],
            label=NAMES[method],
            marker=marker,
            markersize=4,
            linewidth=1.4,
            capsize=2,
            color=colours[method],
        )
    sizes = [13, 25, 50, 100, 200, 400, 1000]
    ticks(axes, sizes, [f"{size} kB" for size in sizes])
    axes.set_ylim(78, 99.4)
    axes.set_xlabel("weights of the cut network, float32")
    axes.set_ylabel("test accuracy, %")
    axes.set_title("MNIST MLP: one training, every size", loc="left", fontweight="bold")
    plain(axes)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})


def stored_bytes(width: int) -> int:
    """Bytes of the weights of 784-w-w-10 in float32."""
    return 4 * (785 * width + (width + 1) * width + (width + 1) * 10)


HEAD = (
    "# Results\n\nWritten by `scripts/results_page.py` from `bench/results/`. Nothing was measured "
    "on a GPU yet; where there is one, `bench/gpu.py` does. "
    "`python scripts/stale_results.py` lists the results that are older than their code.\n"
)
SECTIONS: tuple[pages.Section, ...] = (
    ("family", results_family.section),
    ("recipe", results_recipe.section),
    ("quality", quality),
    ("step_cost", step_cost),
    ("cut_speed", cut_speed),
    ("sweep", sweep),
    ("engine", engine),
    ("tracing", tracing),
    ("scoring", scoring),
    ("pruning", pruning),
    ("dpf", results_dpf.section),
    ("scopes", results_scopes.section),
    ("storage", storage),
    ("bits", few_bits),
    ("int8", in_int8),
    ("layout", results_layout.section),
    ("faults", results_faults.section),
    ("hostile", results_hostile.files),
    ("serve_load", results_hostile.clients),
)


def readme() -> str:
    """The README with its sentence on results renewed."""
    text = README.read_text()
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    said = results_family.sentence(load("family")["results"]["mlp"])
    return f"{before}{MARKS[0]}\n{said}\n{MARKS[1]}{after}"


def pictures() -> None:
    """Accuracy against bytes, of sandwich passes and of a family."""
    picture(IMAGES / "mnist.png")
    mlp = load("family")["results"]["mlp"]
    results_family.picture(mlp, FAMILY_TITLE, IMAGES / "family-mnist.png")


def texts() -> dict[Path, str]:
    """The page, and the README."""
    return {PAGE: pages.of_sections(HEAD, SECTIONS), README: readme()}


if __name__ == "__main__":
    sys.exit(pages.main(__doc__, texts, pictures))
