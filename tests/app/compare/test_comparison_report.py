"""The report of a comparison: validation chooses, test reports, all numbers are the data's."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from scipy.stats import t as student_t

from widthwise.app.compare.methods import METHODS
from widthwise.app.compare.outcome import Outcome
from widthwise.app.compare.report import choices, csvfile, markdown, page, picture, tables, words
from widthwise.app.compare.report.chart import chart
from widthwise.app.compare.report.looks import LOOKS
from widthwise.app.compare.report.paired import paired, student
from widthwise.app.compare.report.places import place
from widthwise.app.compare.report.publish import publish
from widthwise.app.compare.report.scale import round_places, scale
from widthwise.app.compare.report.summary import (
    FAMILIES,
    Comparison,
    against,
    best,
    compare,
    costs,
    families,
    winners,
)
from widthwise.errors import FileError, RunError
from widthwise.measure.metric import ACCURACY, Metric

PERPLEXITY = Metric("perplexity", lambda outputs, target: (0.0, 1), higher_is_better=False)
SMALL, LARGE = 2000, 50_000
MINUS = "\N{MINUS SIGN}"
HOSTILE = "</script><script>alert(1)</script>|<b>&"


def made(
    method: str, budget: int, seed: int, test: float, valid: float | None = None, **given: object
) -> Outcome:
    size = budget - 10
    fixed = {
        "note": "fc1 32", "bytes": size, "parts": {"codes": size - 300, "header": 300},
        "params": 700, "nonzero": 350, "macs": 690, "latency_ms": 0.02 * (1 + budget / LARGE),
        "shared_seconds": 100.0, "own_seconds": 3.0,
    }  # fmt: skip
    metric = {"valid": test if valid is None else valid, "test": test}
    return replace(Outcome(method, budget, seed, True, metric=metric), **{**fixed, **given})


def missed(method: str, budget: int, seed: int, why: str = "its smallest file has 3 kB") -> Outcome:
    return Outcome(method, budget, seed, False, why)


def outcomes() -> list[Outcome]:
    """Three families: search best on validation data at LARGE though bits are better on test."""
    found = []
    for seed in (0, 1, 2):
        found += [
            made("search", SMALL, seed, 0.90 + 0.01 * seed),
            made("elastic", SMALL, seed, 0.85 + 0.01 * seed + 0.001 * (seed == 1)),
            made("published", SMALL, seed, 0.80),
            missed("4 bits", SMALL, seed),
            made("search", LARGE, seed, 0.970 + 0.002 * seed, valid=0.99),
            made("elastic", LARGE, seed, 0.971 + 0.001 * seed, valid=0.98),
            made("4 bits", LARGE, seed, 0.990, valid=0.97, note=HOSTILE),
        ]
    return [*found, made("4 bits, fine-tuned", LARGE, 0, 0.999, valid=0.999)]  # one lucky seed


def comparison(given: list[Outcome] | None = None, metric: Metric = ACCURACY) -> Comparison:
    return compare(given or outcomes(), metric, title="digits: <i>")


def losses() -> list[Outcome]:
    """The same as perplexities, of which less is better."""
    return [
        replace(o, metric={k: 400 * (1.02 - v) for k, v in o.metric.items()}) for o in outcomes()
    ]


class Page(HTMLParser):
    """What a page holds: what it loads, its tags, rows with titles, words, the chart's data."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.titles: dict[str, str] = {}
        self.texts: dict[str, str] = {"data": "", "page": ""}
        self.into = "page"
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        self.loads += [v for k, v in attrs if k in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            if given.get("title"):
                self.titles[f"{self.rows[-1][0]} {len(self.rows[-1]) - 1}"] = given["title"]
        if tag in ("script", "style"):
            self.into = given.get("id") or tag

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("script", "style"):
            self.into = "page"

    def handle_data(self, data):
        self.texts[self.into] = self.texts.get(self.into, "") + data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += (" " if self.open[-1] == "small" else "") + data


@pytest.fixture(scope="module")
def shown() -> Page:
    return Page(page.page(comparison(), facts={"recipe": "3 epochs", "<b>": HOSTILE}))


# Intervals.


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 29, 100])
def test_the_quantile_is_student_s(freedom):
    assert student(freedom) == pytest.approx(student_t.ppf(0.975, freedom), rel=1e-9)
    assert student(freedom, 0.5) == pytest.approx(student_t.ppf(0.75, freedom), rel=1e-9)


def test_an_interval_by_hand():
    found = paired([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])  # 1, 2, 3: deviation 1, t 4.303
    half = 4.30265 / math.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2 - half, 2 + half), abs=1e-4)
    assert found.verdict == "not decided"
    assert paired([3.0, 5.0, 7.0], [2.0, 3.9, 6.1]).verdict == "ahead"
    assert paired([2.0, 3.9, 6.1], [3.0, 5.0, 7.0]).verdict == "behind"
    assert paired([1.0, 1.0], [1.0, 1.0]).verdict == "not decided"  # equal is not ahead


def test_one_pair_and_what_is_no_number_decide_nothing():
    for ours, theirs in ([[9.0], [1.0]], [[math.inf, 2.0], [1.0, 1.0]]):
        found = paired(ours, theirs)
        assert (found.low, found.high, found.verdict) == (-math.inf, math.inf, "not decided")
    with pytest.raises(ValueError, match="no pair"):
        paired([], [])


# Who wins.


def test_validation_chooses_and_test_reports():
    small, large = winners(comparison())
    assert large.standing.method.name == "search"  # bits are better, on test data
    assert large.standing.mean() == pytest.approx(0.972)
    assert [(r.standing.method.name, r.verdict) for r in large.rivals] == [
        ("elastic", "not decided"),
        ("4 bits", "behind"),
    ]
    assert large.verdict == "behind"
    assert small.standing.method.name == "search"
    assert [r.standing.method.family for r in small.rivals] == ["elastic"]  # bits have none there
    assert small.verdict == "ahead"
    (rival,) = small.rivals
    away = [0.05, 0.049, 0.05]
    half = 4.30265 * 0.00057735 / math.sqrt(3)
    assert rival.difference.mean == pytest.approx(sum(away) / 3)
    assert rival.difference.low == pytest.approx(sum(away) / 3 - half, abs=1e-6)


def test_a_method_does_not_win_by_the_seeds_that_it_reached():
    given = comparison()
    assert families(given, LARGE)["bits"].method.name == "4 bits"  # fine-tuned has one seed
    assert [w.standing.method.name for w in winners(given)] == ["search", "search"]
    lucky = [s for s in given.standings if s.method.name == "4 bits, fine-tuned"]
    assert best(lucky, ACCURACY).method.name == "4 bits, fine-tuned"  # alone it is what there is
    assert "(1 of 3 seeds)" in words.score(given, lucky[0])


def test_less_is_better_where_the_metric_says_so():
    small, large = winners(comparison(losses(), PERPLEXITY))
    assert large.standing.method.name == "search"
    assert [r.verdict for r in large.rivals] == ["not decided", "behind"]
    assert small.rivals[0].difference.mean == pytest.approx(400 * 0.149 / 3)  # a lead, above 0


def test_one_seed_decides_nothing():
    alone = [o for o in outcomes() if o.seed == 0]
    found = winners(comparison(alone))
    assert {r.verdict for w in found for r in w.rivals} == {"not decided"}
    assert found[0].standing.spread() is None
    rows = tables.held(comparison(alone)).rows
    assert rows[0][1] == "not decided +5.00 (one pair)"


def test_seeds_are_paired_where_both_have_them():  # and a missing seed does not lose
    given = [o for o in outcomes() if (o.method, o.seed) != ("elastic", 2)]
    (rival,) = winners(comparison(given))[0].rivals
    assert rival.difference.mean == pytest.approx((0.05 + 0.049) / 2)
    apart = [o for o in outcomes() if (o.method == "search") == (o.seed == 2)]
    by = {s.method.name: s for s in comparison(apart).standings if s.budget == LARGE}
    assert against(by["search"], by["elastic"], ACCURACY) is None
    assert [w.standing.method.name for w in winners(comparison(apart))] == ["elastic"] * 2


def test_costs_are_counted_as_they_say():
    given = outcomes()
    given[0] = replace(given[0], base="elastic", shared_seconds=250.0)  # search, seed 0
    found = {c.family: c for c in costs(comparison(given))}
    assert found["search"].shared == 250 + 100 + 100 + 100  # two trainings of seed 0
    assert found["search"].own == 6 * 3
    assert found["elastic"].shared == 300  # once per seed, however many networks
    assert found["elastic"].own == 9 * 3
    assert (found["elastic"].methods, found["elastic"].networks) == (2, 9)
    assert found["bits"].total == 300 + 4 * 3
    rows = {row[0]: row[1:] for row in tables.cost(comparison(given)).rows}
    # The mean of its trainings of one kind and of the other, 250 s and 100 s, and 3 s a network.
    search = ["1", "6", "9.17 min", "18 s", "9.47 min", "5.88 min", "6.03 min", "6.43 min"]
    assert rows["search"] == search
    assert rows["elastic"][-3:] == ["1.72 min", "1.87 min", "2.27 min"]


def test_what_begins_with_new_weights_shares_no_training():
    alone = [made("small-dense", LARGE, s, 0.9, base="plain", own_seconds=50.0) for s in (0, 1)]
    found = comparison([*outcomes(), *alone])
    (row,) = (row for row in tables.cost(found).rows if row[0] == "small-dense")
    assert row[3:] == ["0 s", "1.67 min", "1.67 min", "50 s", "3.33 min", "10 min"]
    (standing,) = (s for s in found.standings if s.method.name == "small-dense" and s.reached)
    assert standing.seconds == 50
    assert place(standing, "seconds") == 50


def test_what_cannot_be_compared_is_one_sentence():
    with pytest.raises(RunError, match="two outcomes of 'search'"):
        comparison([*outcomes(), outcomes()[0]])
    with pytest.raises(RunError, match="not a method"):
        comparison([made("magic", SMALL, 0, 0.5)])
    with pytest.raises(RunError, match="no metric"):
        comparison([replace(outcomes()[0], metric={"test": 0.5})])
    for none in ([missed("search", SMALL, 0)], []):
        with pytest.raises(RunError, match="larger budgets"):
            compare(none, ACCURACY, title="")


# In words.


def test_the_lead_says_who_wins_where_and_how_sure_that_is():
    said = words.lead(comparison())
    assert said == (
        "The best network for its bytes comes from search at every budget (5 methods of 3 "
        "families, 3 seeds). On test data it is ahead of the best of every other family, each with "
        "95 % confidence, at 2 kB; "
        "on test data it is behind bits at 50 kB."
    )
    alone = [o for o in outcomes() if o.method == "search"]
    assert "No other family has a network so small at every budget." in words.lead(
        comparison(alone)
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.size(300_000), "300 kB"),
        (words.size(12_345.6), "12.3 kB"),
        (words.duration(99), "99 s"),
        (words.duration(600), "10 min"),
        (words.duration(36_000), "10 h"),
        (words.several(1, "family"), "1 family"),
        (words.several(1200, "family"), "1,200 families"),
        (words.listed(["a", "b", "c"]), "a, b and c"),
        (words.listed(["a"]), "a"),
        (words.listed([]), ""),
        (words.ahead(None, ACCURACY), "no seed in common"),
        (words.ahead(paired([math.nan], [1.0]), PERPLEXITY), "not a number"),
        (words.ahead(paired([2.0, 2.0], [1.0, 1.0]), PERPLEXITY), "+1.00 (+1.00 to +1.00)"),
    ],
)
def test_words(said, expected):
    assert said == expected


# CSV and Markdown.


def test_the_table_holds_every_outcome():
    rows = list(csv.DictReader(io.StringIO(csvfile.rows(comparison()))))
    assert len(rows) == len(outcomes())
    by = {(r["method"], int(r["budget"]), int(r["seed"])): r for r in rows}
    for o in outcomes():
        row = by[o.key]
        assert row["reached"] == str(o.reached)
        assert row["note"] == o.note
        assert row["family"] == METHODS[o.method].family
        if o.reached:
            assert float(row["accuracy (test)"]) == o.metric["test"]
            assert float(row["accuracy (valid)"]) == o.metric["valid"]
            assert (int(row["bytes"]), int(row["bytes of header"])) == (o.bytes, 300)
        else:
            assert row["bytes"] == row["accuracy (test)"] == row["bytes of codes"] == ""
    heads = list(rows[0])
    assert heads[: len(csvfile.COLUMNS)] == list(csvfile.COLUMNS)
    shuffled = list(csv.DictReader(io.StringIO(csvfile.rows(comparison(outcomes()[::-1])))))
    assert list(shuffled[0]) == heads
    assert shuffled == rows


def test_the_markdown_has_the_same_numbers():
    pictures = {"bytes": "images/digits.png", "seconds": "images/cost.png"}
    said = markdown.section(comparison(), pictures=pictures)
    assert said.startswith("## digits: \\<i\\>\n\nThe best network for its bytes comes from search")
    assert "![accuracy against bytes: digits: \\<i\\>](images/digits.png)" in said
    assert "](images/cost.png)" in said
    assert (
        "| 50 kB | widths, zeros and bits searched, post-processed | search | 50 kB | 99.00 % "
        "| 97.20 ± 0.20 % | behind bits | 1.72 min |"
    ) in said
    assert f"| bits | - | behind {MINUS}1.80 ({MINUS}2.30 to {MINUS}1.30) |" in said
    assert "| 4 bits | 2 kB | 3 of 3 seeds | its smallest file has 3 kB |" in said
    widths = {line.replace("\\|", "").count("|") for line in said.split("\n\n")[4].split("\n")}
    assert len(widths) == 1
    full = [o for o in outcomes() if o.reached]
    assert "Not reached" not in markdown.section(comparison(full), pictures={"bytes": "x"})


def test_markdown_says_signs_as_signs():
    given = [*outcomes(), missed("8 bits", SMALL, 0, "a|b\n<script>*c*")]
    said = markdown.section(comparison(given), pictures={"bytes": "x"})
    assert "a\\|b \\<script\\>\\*c\\*" in said


# The page.


def test_the_page_loads_nothing_and_escapes_everything(shown):
    assert shown.loads == ["data:,"]
    assert not shown.open
    names = [tag for tag, _ in shown.tags]
    assert names.count("script") == 3
    assert not {"i", "b"} & set(names)
    own = page.page(comparison(), facts={}).split("<script>")
    assert len(own) == 3
    assert not re.search(r"https?:|@import|url\(", own[0] + own[2])
    assert HOSTILE in shown.texts["page"]


def test_the_tables_of_the_page_hold_the_numbers(shown):
    won = next(r for r in shown.rows if r[:1] == ["50 kB"])
    assert won[3:7] == ["50 kB", "99.00 %", "97.20 ± 0.20 %", "behind bits"]
    all_rows = {r[0]: r[1:] for r in shown.rows if r and r[0] in METHODS and len(r) == 3}
    assert all_rows["search"] == ["★ 91.00 ± 1.00 %", "★ 97.20 ± 0.20 %"]
    assert all_rows["elastic"] == ["● 86.03 ± 1.00 %", "● 97.20 ± 0.10 %"]
    assert all_rows["published"] == ["80.00 %", ""]
    assert all_rows["4 bits"] == ["-", "● 99.00 %"]
    assert all_rows["4 bits, fine-tuned"][1] == "99.90 % (1 of 3 seeds)"
    held = next(r for r in shown.rows if r[0] == "bits" and len(r) == 3)
    assert held[1:] == ["-", f"behind {MINUS}1.80 {MINUS}2.30 to {MINUS}1.30"]


def test_what_was_not_reached_says_why(shown):
    assert shown.titles["4 bits 1"] == "not reached: its smallest file has 3 kB"
    assert shown.titles["published 2"] == "not measured"
    assert ["4 bits", "2 kB", "3 of 3 seeds", "its smallest file has 3 kB"] in shown.rows
    some = [
        missed("elastic", SMALL, 2, "too large") if o.key == ("elastic", SMALL, 2) else o
        for o in outcomes()
    ]
    given = comparison(some)
    assert ["elastic", "2 kB", "1 of 3 seeds", "too large"] in tables.missed(given).rows
    found = Page(page.page(given, facts={}))
    assert found.titles["elastic 1"] == "1.99 kB; fc1 32; not reached: too large"


def test_the_chart_has_every_method_to_the_last_digit(shown):
    data = json.loads(shown.texts["data"])
    names = {line["name"] for line in data["lines"]}
    assert names == {o.method for o in outcomes()} | {"elastic, best", "bits, best", "search, best"}
    line = next(x for x in data["lines"] if x["name"] == "search")
    assert [p["bytes"] for p in line["points"]] == [SMALL - 10, LARGE - 10]
    assert (data["log"], data["down"]) == (True, True)
    assert [p["y"] for p in line["points"]] == pytest.approx([9.0, 2.8])  # errors, in per cent
    assert line["points"][0]["up"] == pytest.approx(1.0)
    assert next(label for _, label in data["ticks"]).endswith(" %")
    chosen = next(x for x in data["lines"] if x["name"] == "bits, best")
    assert "&lt;/script&gt;" in chosen["points"][0]["hover"]


def test_the_page_can_be_read_by_ear_and_keyboard(shown):
    by_id = {a["id"]: a for _, a in shown.tags if a.get("id")}
    assert by_id["chart"]["role"] == "img"
    assert "search at every budget" in str(by_id["chart"]["aria-label"])
    assert ("html", {"lang": "en"}) in shown.tags
    heads = [a for tag, a in shown.tags if tag == "th"]
    assert all(a.get("scope") in ("col", "row", "rowgroup") for a in heads)
    regions = [a for _, a in shown.tags if a.get("role") == "region"]
    assert len(regions) == 8
    assert all(a["tabindex"] == "0" for a in regions)
    labelled = [a["aria-labelledby"] for _, a in shown.tags if a.get("aria-labelledby")]
    assert set(labelled) <= by_id.keys()
    radios = [a["value"] for tag, a in shown.tags if tag == "input"]
    assert radios == ["bytes", "latency_ms", "seconds"]
    options = [a["value"] for tag, a in shown.tags if tag == "option"]
    assert options == ["all", "best", "elastic", "bits", "search"]


# Pictures and files.


def test_families_are_told_apart_without_colours():
    assert set(LOOKS) == set(FAMILIES) == {m.family for m in METHODS.values()}
    assert len({look.marker for look in LOOKS.values()}) == len(FAMILIES)
    assert len(chart(comparison())["palette"]) == len(FAMILIES)
    assert len({look.symbol for look in LOOKS.values()}) == len(FAMILIES)


def _size_of(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    return int.from_bytes(data[16:20], "big"), len(data)


@pytest.mark.parametrize("metric", [ACCURACY, PERPLEXITY])
@pytest.mark.parametrize("seeds", [1, 3])
def test_everything_is_written(tmp_path, metric, seeds):
    given = outcomes() if metric is ACCURACY else losses()
    given = [o for o in given if o.seed < seeds]
    found = publish(tmp_path, given, metric, title="t", facts={"machine": "one"})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "comparison.csv", "comparison.html", "comparison.png", "cost.png", "latency.png",
    ]  # fmt: skip
    for name in ("comparison.png", "cost.png", "latency.png"):
        width, size = _size_of(tmp_path / name)
        assert width == 1200
        assert size > 20_000
    assert (tmp_path / "comparison.csv").read_text() == csvfile.rows(found)
    assert json.loads(Page((tmp_path / "comparison.html").read_text()).texts["data"])["lines"]


def test_without_latencies_there_is_no_picture_of_them(tmp_path):
    given = [replace(o, latency_ms=0.0, shared_seconds=0.0, own_seconds=0.0) for o in outcomes()]
    found = publish(tmp_path, given, ACCURACY, title="t", facts={})
    assert not (tmp_path / "latency.png").exists()
    assert not (tmp_path / "cost.png").exists()
    assert list(chart(found)["across"]) == ["bytes"]
    assert 'name="across" value' not in (tmp_path / "comparison.html").read_text()


def test_networks_that_came_apart_are_in_the_tables_alone(tmp_path):
    given = losses()
    given[3:3] = [made("3 bits", SMALL, s, math.inf) for s in (0, 1, 2)]
    given += [made("2 bits", LARGE, s, math.nan) for s in (0, 1, 2)]
    found = publish(tmp_path, given, PERPLEXITY, title="t", facts={})
    assert families(found, LARGE)["bits"].method.name == "4 bits"
    assert {"2 bits", "3 bits"}.isdisjoint(x["name"] for x in chart(found)["lines"])
    rows = Page((tmp_path / "comparison.html").read_text()).rows
    assert ["2 bits", "", "nan"] in rows
    assert math.isfinite(scale(found).high)


def test_equal_shares_are_drawn_as_they_are(tmp_path):
    given = comparison([made("search", SMALL, s, 1.0) for s in (0, 1)])
    how = scale(given)
    assert (how.log, how.errors, how.height(0.5)) == (False, False, 50)
    assert how.low < 100 < how.high
    picture.draw(given, tmp_path / "p.png")
    assert _size_of(tmp_path / "p.png")[1] > 10_000


def test_error_bars_stay_on_a_logarithmic_axis():
    wild = [made("search", SMALL, s, v) for s, v in ((0, 0.999), (1, 0.4))]
    given = comparison([*wild, *(made("search", LARGE, s, 0.99) for s in (0, 1))])
    how = scale(given)
    assert how.log
    for standing in given.standings:
        down, _ = how.arm(standing)
        assert how.height(standing.mean()) - down >= how.low > 0
    assert how.high <= 100


def test_round_places_are_few_and_inside():
    assert round_places(1, 1500) == [1, 10, 100, 1000]
    assert round_places(2.6, 16) == [3, 5, 7, 10, 15]
    assert [label for _, label in scale(comparison()).ticks()][-1].endswith("%")


def test_a_folder_that_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(FileError, match="could not be written"):
        publish(tmp_path / "none", outcomes(), ACCURACY, title="t", facts={})


# What searches chose.


def test_a_search_is_held_against_the_best_other_of_its_seed_and_budget():
    found = [
        made("search", SMALL, 0, 0.90, note="fc1 5"),
        made("elastic", SMALL, 0, 0.95, valid=0.80),  # better on test data, but not chosen
        made("4 bits", SMALL, 0, 0.89, valid=0.85),
        made("search", SMALL, 1, 0.90, valid=0.95),  # looked better than it is
        made("4 bits", SMALL, 1, 0.91),
        made("search", LARGE, 1, 0.90),  # and here nothing as good was found
        made("4 bits", LARGE, 1, 0.92),
        made("search", LARGE, 0, 0.90),  # of which nothing else is so small
    ]
    comparison = compare(found, ACCURACY, title="t")
    assert choices.lead(comparison) == (
        "Each search beside the best other network of its budget and seed: at or above it on test "
        "data in 1 of 3 cases. Of the others, in 1 it was at or above it on validation data, where "
        "choices are made, so that nothing could tell, in 1 it had found nothing as good (50 kB, "
        "seed 1)."
    )
    first, *others = choices.chosen(comparison).rows
    assert first == ["2 kB", "0", "fc1 5", "90.00 %", "90.00 %", "4 bits", "85.00 %", "89.00 %"]
    assert [row[:2] for row in others] == [["2 kB", "1"], ["50 kB", "1"]]


def test_a_search_of_a_lower_loss_is_ahead():
    found = [made("search", SMALL, 0, 90.0), made("4 bits", SMALL, 0, 100.0)]
    comparison = compare(found, PERPLEXITY, title="t")
    assert choices.lead(comparison).endswith("in 1 of 1 cases.")


def test_a_comparison_without_searches_says_nothing_of_them():
    comparison = compare([made("4 bits", SMALL, 0, 0.9)], ACCURACY, title="t")
    assert "searches chose" not in page.page(comparison, facts={})
    assert "search" not in markdown.section(comparison, pictures={"bytes": "x.png"})
