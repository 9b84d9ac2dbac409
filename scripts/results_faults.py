"""The section of docs/results.md on injected faults."""

from __future__ import annotations

from pages import Found, table


def section(found: Found) -> str:
    """What was injected, and what was lost. found: the stored result of `bench/faults.py`."""
    results = found["results"]
    struck, kept = results["struck"], results["kept"]
    commands = sorted({command for of in struck.values() for command in of})
    rows = [
        [fault, *(str(of.get(c, "")) for c in commands), str(sum(of.values()))]
        for fault, of in struck.items()
    ]
    wrong = "".join(
        f"\n- {row['command']}, {row['fault']}: {'; '.join(row['wrong'])}"
        for row in results["what_was_wrong"]
    )
    return f"""## Faults

Faults that struck a command under way, each followed by the same command without a fault
(`bench/faults.py`, which says what is looked at).

{table(["fault", *commands, "all"], rows)}

**{results["faults"]} faults; {results["lost"]} pieces of finished work lost; {results["wrong"]} \
results or messages that were not as they should be.** {results["too_late"]} more came when the
command had just ended, or was given memory enough. When the faults struck, {kept["steps"]:,} steps
of trainings, {kept["pieces"]} pieces of comparisons and {kept["trials"]} trials of searches were
done and kept.{wrong}
"""
