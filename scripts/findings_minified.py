"""The section of docs/findings.md on the three directions of Harang & Sanders (2023)."""

from __future__ import annotations

from pages import Found, table

NAMES = {
    "random": "random",
    "magnitude": "magnitude",
    "taylor": "Taylor",
    "dropout-ablation": "dropout-ablation",
    "obd": "OBD",
    "obd_hutchinson": "Hessian OBD",
    "obd_sd": "OBD-SD",
    "merge": "merging",
    "output-error": "output-error",
}
CUTS = {
    "obd_sd, tuned": "OBD-SD, fine-tuned for 2 epochs",
    "obd_sd, tuned, long": "OBD-SD, fine-tuned for 10 epochs",
    "ours, from scratch": "our widths, 10 epochs from scratch",
    "ours, tuned": "ours, fine-tuned for 2 epochs",
    "ours, distilled": "ours, distilled for 2 epochs",
    "ours, tuned, long": "ours, fine-tuned for 10 epochs",
    "ours, distilled, long": "ours, distilled for 10 epochs",
    "ours, not reconstructed, tuned": "ours without reconstruction, fine-tuned for 2 epochs",
    "ours, not reconstructed, tuned, long": "ours without reconstruction, fine-tuned for 10 epochs",
}


def text(found: Found) -> str:
    """The section."""
    results = found["results"]
    parts = [_head(results), _weights(results), _masks(results), _features(results)]
    return "\n".join([*parts, _choices(results)])


def _head(results: Found) -> str:
    sizes = ", ".join(f"{t} {v['full']['mean']:.2f} %" for t, v in results["tasks"].items())
    return f"""## Trained networks: the three directions

Harang & Sanders, "Magnificent Minified Models" (2023), report that OBD-SD is slightly the best
selector at substantial pruning; that fine-tuning a network of pruned weights is slightly better than
training its shape from scratch; and that for pruned neurons training from scratch is much better.
Measured again on two small networks, `mnist` (784-256-256-10) and `nsl-kdd` (122-256-256-2), with
{results["seeds"]} seeds (`bench/minified.py`). The full networks reach {sizes}.

Accuracy on test data in per cent. Differences are paired over seeds; in brackets is the 95 %
confidence interval of each by itself, and *not decided* is what holds 0. Training is 10 epochs, a
short fine-tuning 2. OBD-SD is our reading of it, mean + {results["choices"]["reading"]["spread"]:g} × standard deviation over batches, with the
curvature {_curvature(results)}.

{_summary(results)}
"""


def _summary(results: Found) -> str:
    """The three directions: what the paper says, and what came out."""
    by_sparsity: dict[str, list[Found]] = {}
    for tables in results["tasks"].values():
        for sparsity, row in tables["weights"]["tuned"].items():
            by_sparsity.setdefault(sparsity, []).append(row)
    masks = [row for t in results["tasks"].values() for row in t["masks"].values()]
    shapes = [r["accuracy"] for t in results["tasks"].values() for r in t["features"].values()]

    def against(rows: list[Found], names: dict[str, str]) -> str:
        there = {n: how for n, how in names.items() if n in rows[0]}
        return "; ".join(
            f"{how}: {_short([row[n]['above_scratch'] for row in rows])}"
            for n, how in there.items()
        )

    rows = [
        [
            "OBD-SD is the best selector of weights, slightly",
            "fine-tuned, over tasks: "
            + "; ".join(f"{percent(s)}: {_standings(rows)}" for s, rows in by_sparsity.items()),
        ],
        [
            "pruned weights: fine-tuning beats from scratch, slightly",
            against(masks, {"tuned": "2 epochs of fine-tuning", "tuned, long": "10 epochs"}),
        ],
        [
            "pruned neurons: from scratch beats fine-tuning, much",
            against(
                shapes,
                {
                    "obd_sd, tuned": "OBD-SD, fine-tuned for 2 epochs",
                    "obd_sd, tuned, long": "for 10",
                    "ours, tuned": "ours, fine-tuned for 2",
                    "ours, tuned, long": "for 10",
                    "ours, not reconstructed, tuned": "ours without reconstruction, for 2",
                    "ours, not reconstructed, tuned, long": "for 10",
                },
            ),
        ],
    ]
    lines = ["| the paper | here |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]
    return "\n".join(lines)


def _standings(rows: list[Found]) -> str:
    """Where OBD-SD stands at one sparsity, in how many tasks."""
    stand = [standing(row).split(" with ")[0] for row in rows]
    return ", ".join(f"{said} in {stand.count(said)}" for said in dict.fromkeys(stand))


def _short(differences: list[Found]) -> str:
    said = [verdict(d) for d in differences]
    return (
        f"above scratch in {said.count('above')}, below in {said.count('below')}, not decided in "
        f"{said.count('open')}"
    )


def _curvature(results: Found) -> str:
    fisher = results["choices"]["reading"]["curvature"] == "fisher"
    return "of the empirical Fisher information" if fisher else "of the Hessian along random signs"


def _weights(results: Found) -> str:
    parts = [
        "### Which single weights to prune",
        _verdict_on_selectors(results),
        "![error against sparsity](images/minified-weights.png)",
    ]
    for task, tables in results["tasks"].items():
        cut, tuned = tables["weights"]["cut"], tables["weights"]["tuned"]
        rows = [
            [percent(s), *(f"{cut[s][n]['mean']:.1f} → {tuned[s][n]['mean']:.2f}" for n in cut[s])]
            for s in cut
        ]
        names = [NAMES[n] for n in next(iter(cut.values()))]
        parts += [f"`{task}`, as cut → fine-tuned:", table(["sparsity", *names], rows)]
        others = [n for n in next(iter(tuned.values())) if n != "obd_sd"]
        rows = [
            [percent(s), *(interval(row[n]["obd_sd_above"]) for n in others)]
            for s, row in tuned.items()
        ]
        header = ["sparsity", *(NAMES[n] for n in others)]
        parts += [f"`{task}`, OBD-SD minus the others, fine-tuned:", table(header, rows)]
    return "\n\n".join([*parts, _rounds(results), ""])


def _verdict_on_selectors(results: Found) -> str:
    lines = []
    for state, name in (("cut", "As cut"), ("tuned", "After fine-tuning")):
        for task, tables in results["tasks"].items():
            said = [
                f"{percent(sparsity)} {standing(row)}"
                for sparsity, row in tables["weights"][state].items()
            ]
            lines.append(f"- {name}, `{task}`: {'; '.join(said)}.")
    return "\n".join(["Where OBD-SD stands among the others:", "", *lines])


def standing(row: Found) -> str:
    """Where OBD-SD stands at one sparsity."""
    others = {n: v["obd_sd_above"] for n, v in row.items() if v["obd_sd_above"]}
    ahead = [NAMES[n] for n, d in others.items() if verdict(d) == "below"]
    level = [NAMES[n] for n, d in others.items() if verdict(d) == "open"]
    if ahead:
        return f"below {', '.join(ahead)}"
    return f"tied for best with {', '.join(level)}" if level else "best"


def _rounds(results: Found) -> str:
    lines = []
    for task, tables in results["tasks"].items():
        row = tables["rounds"]
        above = row["in_rounds_above"]
        lines.append(
            f"- OBD to 95 % on `{task}`: at once {mean(row['at once'])}, at once with as many epochs "
            f"{mean(row['at once, as many epochs'])}, in five rounds {mean(row['in rounds'])}. Five "
            f"rounds are {_said(above['at once'])} at once, and "
            f"{_said(above['at once, as many epochs'])} at once with as many epochs."
        )
    return "\n".join(lines)


def _masks(results: Found) -> str:
    parts = ["### Pruned weights: fine-tuned or from scratch"]
    every = [
        (task, sparsity, row)
        for task, tables in results["tasks"].items()
        for sparsity, row in tables["masks"].items()
    ]
    states = {"tuned": "fine-tuned for 2 epochs", "tuned, long": "fine-tuned for 10 epochs"}
    states = {name: how for name, how in states.items() if name in every[0][2]}
    for name, how in states.items():
        counted = _counted([row[name]["above_scratch"] for _, _, row in every])
        parts.append(f"The masks of OBD-SD {how}, against these masks from scratch: {counted}.")
    rows = [
        [
            f"`{task}` {percent(sparsity)}",
            *(mean(row[n]) for n in ("from scratch", *states)),
            *(interval(row[n]["above_scratch"]) for n in states),
        ]
        for task, sparsity, row in every
    ]
    header = ["task, sparsity", "from scratch", *states.values()]
    header += [f"{how} − scratch" for how in states.values()]
    return "\n\n".join([*parts, table(header, rows), ""])


def _features(results: Found) -> str:
    parts = [
        "### Pruned neurons: fine-tuned, from scratch, or ours",
        _verdict_on_features(results),
        "![error against width](images/minified-features.png)",
    ]
    for task, tables in results["tasks"].items():
        widths = tables["features"]
        selectors = [n for n in NAMES if f"{n}, tuned" in widths["8"]["accuracy"]]
        for first, then, what in (
            ("cut", "reconstructed", "as cut → reconstructed"),
            (
                "tuned",
                "reconstructed, tuned",
                "fine-tuned as cut → fine-tuned after reconstruction",
            ),
        ):
            rows = [
                [w, *_arrows(row["accuracy"], selectors, first, then)] for w, row in widths.items()
            ]
            header = ["width", *(NAMES[n] for n in selectors)]
            parts += [f"`{task}`, {what}:", table(header, rows)]
        parts += [f"`{task}`, accuracy and difference from scratch:", _ours(widths)]
    return "\n\n".join([*parts, ""])


def _arrows(accuracy: Found, selectors: list[str], first: str, then: str) -> list[str]:
    pairs = [(accuracy[f"{n}, {first}"], accuracy[f"{n}, {then}"]) for n in selectors]
    return [f"{a['mean']:.2f} → {b['mean']:.2f}" for a, b in pairs]


def _ours(widths: Found) -> str:
    rows = []
    some = next(iter(widths.values()))["accuracy"]
    rows = [["from scratch", *(mean(row["accuracy"]["from scratch"]) for row in widths.values())]]
    for name, how in CUTS.items():
        if name in some:
            values = [row["accuracy"][name] for row in widths.values()]
            rows.append(
                [how, *(f"{v['mean']:.2f}, {interval(v['above_scratch'])}" for v in values)]
            )
    shapes = ("-".join(map(str, row["shape_of_ours"]["widths"][0])) for row in widths.values())
    rows.append(["our widths (seed 0)", *shapes])
    return table(["", *(f"width {w}" for w in widths)], rows)


def _verdict_on_features(results: Found) -> str:
    widths = [row for t in results["tasks"].values() for row in t["features"].values()]
    rows = [row["accuracy"] for row in widths]
    lines = [
        f"- {how}: {_counted([r[name]['above_scratch'] for r in rows])}."
        for name, how in CUTS.items()
        if name in rows[0]
    ]
    gains = {
        state: [d for row in widths for d in row["reconstructed_above"][state].values()]
        for state in ("reconstructed", "reconstructed, tuned")
    }
    return "\n".join(
        [
            "Against equal widths with as many parameters, 10 epochs from scratch. *Ours* is the "
            "order by reconstruction, widths allocated, weights reconstructed.",
            "",
            *lines,
            "",
            "Reconstructed against not, over selectors, widths and tasks: before fine-tuning "
            f"{_counted(gains['reconstructed'])}; after it {_counted(gains['reconstructed, tuned'])}.",
        ]
    )


def _choices(results: Found) -> str:
    choices = results["choices"]
    kinds = list(next(iter(choices["rates"].values())))
    heads = [kind.replace("anew", "from scratch") for kind in kinds]
    rows = [[task, *(f"{of[kind]:g}" for kind in kinds)] for task, of in choices["rates"].items()]
    return (
        "Chosen on validation data with other seeds: the reading of OBD-SD, and the peak learning "
        f"rates.\n\n{table(['task', *heads], rows)}\n"
    )


def verdict(difference: Found) -> str:
    """What an interval says: above, below or open."""
    if difference["low"] > 0:
        return "above"
    return "below" if difference["high"] < 0 else "open"


def _counted(differences: list[Found]) -> str:
    said = [verdict(d) for d in differences]
    means = [d["mean"] for d in differences]
    return (
        f"above in {said.count('above')} of {len(said)} cases, below in {said.count('below')}, not "
        f"decided in {said.count('open')}; differences from {min(means):+.2f} to {max(means):+.2f}"
    )


def _said(difference: Found) -> str:
    words = {"above": "above", "below": "below", "open": "not told apart from"}
    return f"{words[verdict(difference)]} ({interval(difference)})"


def interval(difference: Found) -> str:
    """A difference with its interval; bold where it is decided."""
    value = f"{difference['mean']:+.2f}"
    value = value if verdict(difference) == "open" else f"**{value}**"
    return f"{value} [{difference['low']:+.2f}, {difference['high']:+.2f}]"


def mean(value: Found) -> str:
    """A mean with its standard deviation."""
    return f"{value['mean']:.2f} ± {value['std']:.2f}"


def percent(sparsity: str) -> str:
    """A share as it is read."""
    return f"{100 * float(sparsity):g} %"
