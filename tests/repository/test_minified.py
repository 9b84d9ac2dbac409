"""What `bench/minified.py` and its page count with: intervals, stored cells, verdicts."""

import sys

import pytest
from scipy.stats import ttest_rel

from cells import Cells
from paired import paired, summary
from places import ROOT

sys.path.append(str(ROOT / "scripts"))
import findings_minified
import pages


def test_an_interval_is_that_of_the_paired_t_test():
    ours, theirs = [97.1, 97.4, 96.9, 97.3, 97.0], [96.8, 97.2, 97.0, 96.9, 96.7]
    interval = ttest_rel(ours, theirs).confidence_interval(0.95)
    found = paired(ours, theirs)
    assert found["low"] == pytest.approx(interval.low, abs=6e-4)
    assert found["high"] == pytest.approx(interval.high, abs=6e-4)
    assert found["mean"] == pytest.approx(0.22)
    assert paired(ours, ours) == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert summary([1.0, 3.0]) == {"mean": 2.0, "std": 1.414}


def test_cells_go_on_after_a_kill_and_know_their_settings(tmp_path, capsys):
    made = []

    def make():
        made.append(1)
        return {"accuracy": 90.0 + len(made)}

    first = Cells(tmp_path, "a.jsonl", 2)
    assert first.get(("mnist", 0), {"lr": 1}, make) == {"accuracy": 91.0}
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"key": "mnist/1')  # killed here
    again = Cells(tmp_path, "b.jsonl", 2)
    assert again.get(("mnist", 0), {"lr": 1}, make) == {"accuracy": 91.0}
    assert again.get(("mnist", 0), {"lr": 2}, make) == {"accuracy": 92.0}
    assert len(made) == 2
    assert "1 new of 2 cells" in capsys.readouterr().out


def test_a_line_after_a_torn_one_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"key": "torn')
    Cells(tmp_path, "a.jsonl", 1).get(("x",), None, lambda: {"accuracy": 1.0})
    again = Cells(tmp_path, "a.jsonl", 1)
    assert again.get(("x",), None, lambda: {"accuracy": 2.0}) == {"accuracy": 1.0}


def row(**others):
    ends = {"above": (0.1, 0.3), "open": (-0.1, 0.3), "below": (-0.3, -0.1)}
    found = {
        name: {"obd_sd_above": {"mean": 0.0, "low": ends[e][0], "high": ends[e][1]}}
        for name, e in others.items()
    }
    return found | {"obd_sd": {"obd_sd_above": None}}


def test_the_page_says_what_the_intervals_say():
    standing = findings_minified.standing
    assert standing(row(chance="above", obd="above")) == "best"
    assert standing(row(chance="above", obd="open")) == "tied for best with OBD"
    assert standing(row(magnitude="below", obd="open")) == "below magnitude"
    assert findings_minified.interval({"mean": 0.2, "low": -0.1, "high": 0.5}) == (
        "+0.20 [-0.10, +0.50]"
    )


def test_a_page_that_is_not_current_is_told(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("old")
    monkeypatch.setattr(sys, "argv", ["page.py", "--check"])
    assert pages.main("A page.", lambda: {page: "old"}) == 0
    assert pages.main("A page.", lambda: {page: "new"}) == 1
    assert "page.md" in capsys.readouterr().err
