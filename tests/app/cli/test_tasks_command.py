"""`widthwise tasks` lists what the other commands take by name."""

import json

from command_line import works
from widthwise.app.tasks import BUILT_IN


def test_every_built_in_task_is_listed():
    listed = json.loads(works("tasks", "--json"))
    assert [row["task"] for row in listed] == [*BUILT_IN]
    assert {row["task"]: row["metric"] for row in listed}["ptb-lstm-small"] == "perplexity"
    assert all(row["about"].endswith(".") and row["epochs"] > 0 for row in listed)


def test_the_table_names_them_whole():
    shown = works("tasks")
    assert all(name in shown for name in BUILT_IN)
