"""The report: its numbers are the frontier's, and it needs nothing from outside itself."""

import ast
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import widthwise.app.report
from widthwise.app.report import html, plot, text
from widthwise.app.report.curve import best_that_fits, place_labels, size_ticks, what_fits
from widthwise.app.report.picks import Pick, load_picks, position, save_picks, size_range
from widthwise.common.units import format_size
from widthwise.errors import FileError
from widthwise.measure.frontier import Frontier, Point
from widthwise.variant import Widths


def point(width: int, metric: float, spread: float | None = None) -> Point:
    params = 75 * width + width * width
    latency = width / 1000 if width % 2 else None
    return Point(
        Widths({"fc1": width, "fc2": width}),
        metric,
        spread,
        4 * params + 500,
        params,
        params,
        latency,
    )


def frontier(higher: bool = True, spread: float | None = 0.01, count: int = 24) -> Frontier:
    def metric(width: int) -> float:
        return 1 - math.exp(-width / 5) if higher else 80 + 300 * math.exp(-width / 5)

    points = tuple(point(w, metric(w) - 0.01 * (w % 3), spread) for w in range(1, count + 1))
    seeds = (0, 1) if spread else (0,)
    name = "accuracy" if higher else "perplexity"
    return Frontier(points, name, higher, "valid", "PyTorch, 1 thread", seeds=seeds)


PICKS = [
    Pick("small", {"fc1": 5, "fc2": 5}, 2400, 0.6, 0.61, "small.safetensors"),
    Pick("<b>&", {"fc1": 9, "fc2": 9}, 3600, 0.8),
]


class Page(HTMLParser):
    """What a page holds: addresses it loads, text outside scripts, table rows, the chart's data."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.cell = False
        self.data = ""
        self.words: list[str] = []
        self.inside: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.loads += [
            v for name, v in attrs if name in ("src", "href", "srcset", "data", "action")
        ]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True
        if tag == "script":
            self.inside.append(dict(attrs).get("id") or "script")

    def handle_endtag(self, tag):
        self.cell = self.cell and tag not in ("td", "th")
        if tag == "script":
            self.inside.pop()

    def handle_data(self, data):
        if self.inside:
            self.data += data if self.inside[-1] == "data" else ""
            return
        self.words.append(data)
        if self.cell:
            self.rows[-1][-1] += data


def page(**given) -> Page:
    return Page(html.page(given.pop("frontier", frontier()), title="digits: accuracy", **given))


def test_the_page_loads_nothing_from_outside():
    found = page(picks=PICKS, facts={"task": "digits"})
    assert found.loads == ["data:,"]
    own = html.page(frontier(), title="x").split("<script>")
    assert len(own) == 3
    assert not re.search(r"https?:|@import|url\(", own[0] + own[2])


def test_plotly_is_inside_and_draws_no_map_that_would_be_fetched():
    kinds = set(re.findall(r'type: "(\w+)"', (Path(html.__file__).parent / "page.js").read_text()))
    assert kinds == {"log"}  # an axis; the traces are plotly's ordinary scatter
    assert "plotly.js v" in html.page(frontier(), title="x")


def test_the_table_holds_every_point_with_its_numbers():
    given = frontier()
    rows = [row for row in page(frontier=given).rows if row[-1].startswith("fc1")]
    assert len(rows) >= len(given.points)
    ordered = sorted(given.points, key=lambda p: p.bytes)
    for row, p in zip(rows[-len(ordered) :], ordered, strict=True):
        assert row == [
            f"{p.bytes / 1000:,.1f}",
            f"{100 * p.metric:.2f} ± 1.00 %",
            f"{p.params:,}",
            f"{p.macs:,}",
            "-" if p.latency_ms is None else f"{p.latency_ms:#.3g}",
            f"fc1 {p.widths['fc1']}, fc2 {p.widths['fc2']}",
        ]


def test_the_chart_has_the_frontier_s_numbers_to_the_last_digit():
    given = frontier()
    data = json.loads(page(frontier=given, picks=PICKS).data)
    assert [(p["bytes"], p["metric"]) for p in data["points"]] == [
        (p.bytes, p.metric) for p in given.points
    ]
    assert [(p["bytes"], p["metric"]) for p in data["line"][:-1]] == [
        (p.bytes, p.metric) for p in given.best()
    ]
    assert data["line"][-1]["bytes"] == max(p.bytes for p in given.points)
    marked = data["picks"][0]
    assert (marked["bytes"], marked["metric"]) == (2400, 0.6)
    assert "61.00 %" in marked["hover"]


def test_a_chosen_network_is_shown_with_both_splits_and_its_file():
    row = next(r for r in page(picks=PICKS).rows if r[0] == "small")
    assert row[1] == format_size(2400)
    assert row[3:5] == ["60.00 %", "61.00 %"]
    assert row[-1] == "small.safetensors"


def test_what_users_name_is_escaped():
    hostile = Pick("</script><script>alert(1)</script>", {"fc1": 3, "fc2": 3}, 1000)
    source = html.page(
        frontier(), title="<i>t</i>", picks=[hostile, *PICKS], facts={"<b>": "</dd><script>"}
    )
    found = Page(source)
    assert [tag for tag, _ in found.tags].count("script") == 3
    assert not {"i", "b"} & {tag for tag, _ in found.tags}
    assert (
        json.loads(found.data)["picks"][0]["name"]
        == "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;"
    )


def test_the_page_can_be_read_without_seeing_the_chart():
    found = page(picks=PICKS)
    chart = next(attrs for tag, attrs in found.tags if attrs.get("id") == "chart")
    assert chart["role"] == "img"
    assert "accuracy" in str(chart["aria-label"])
    assert ("html", {"lang": "en"}) in found.tags
    assert sum(tag == "h1" for tag, _ in found.tags) == 1
    heads = [attrs for tag, attrs in found.tags if tag == "th"]
    assert heads
    assert all(attrs.get("scope") in ("col", "row") for attrs in heads)


def test_graph_modules_are_marked():
    some = frontier()
    own = tuple(replace(p, own_class=i % 2 == 0) for i, p in enumerate(some.points))
    page = html.page(replace(some, points=own), title="x")
    assert "12 of the 24 are graph modules" in page
    assert page.count("a graph module") >= 12
    starred = {cells[0] for cells in Page(page).rows if cells and cells[0].endswith("*")}
    assert {text.kilobytes(p.bytes) + "*" for p in own if not p.own_class} <= starred
    assert "graph module" not in html.page(some, title="x")


def test_the_lead_compares_a_quarter_with_the_whole():
    words = " ".join(page(frontier=frontier(spread=None)).words).replace("\N{NO-BREAK SPACE}", " ")
    given = frontier(spread=None)
    largest = max(given.points, key=lambda p: p.bytes)
    assert (
        f"The largest, {format_size(largest.bytes)}, has accuracy {100 * largest.metric:.2f} %"
        in words
    )
    assert "one training" in words


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("count", [1, 2, 24])
@pytest.mark.parametrize("spread", [None, 0.02])
def test_every_kind_of_frontier_becomes_a_picture_and_a_page(tmp_path, higher, count, spread):
    given = frontier(higher, spread, count)
    plot.draw(given, tmp_path / "f.png", title="t", picks=PICKS)
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    html.write(given, tmp_path / "f.html", title="t", picks=PICKS)
    data = json.loads(Page((tmp_path / "f.html").read_text()).data)
    assert data["higher"] is higher
    assert all(math.isfinite(end) for end in data["range"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.html", "f.png"]


def test_a_folder_that_is_missing_is_one_sentence(tmp_path):
    with pytest.raises(FileError, match="could not be written"):
        plot.draw(frontier(), tmp_path / "none" / "f.png", title="t")


def test_the_report_imports_no_torch():
    for path in Path(widthwise.app.report.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in getattr(node, "names", [])] + [
                getattr(node, "module", "") or ""
            ]
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not any(n.split(".")[0] == "torch" for n in names), path.name


# Picks.


def test_picks_read_back_as_they_were_saved(tmp_path):
    save_picks(tmp_path / "p.json", PICKS)
    assert load_picks(tmp_path / "p.json") == PICKS
    assert load_picks(tmp_path / "none.json") == []


@pytest.mark.parametrize(
    "data",
    [
        "", "{", "{}x", "[1]", '[{"name": "a"}]', '[{"name": "a", "widths": {"x": 0}, "bytes": 1}]',
        '[{"name": 1, "widths": {}, "bytes": 1}]', '[{"name": "a", "widths": {}, "bytes": 1.5}]',
        '[{"name": "a", "widths": {}, "bytes": 1, "odd": 1}]', "3",
    ],
)  # fmt: skip
def test_damaged_picks_are_one_sentence(tmp_path, data):
    path = tmp_path / "p.json"
    path.write_text(data)
    with pytest.raises(FileError, match="damaged"):
        load_picks(path)


def test_a_pick_lies_where_it_was_measured():
    given = frontier()
    assert position(given, PICKS[0]) == (2400, 0.6)
    on_test = replace(given, split="test")
    assert position(on_test, PICKS[0]) == (2400, 0.61)
    # Without a number of its own it lies on the point of its widths, or else of its size.
    assert position(on_test, PICKS[1]) == (given.points[8].bytes, given.points[8].metric)
    odd = Pick("odd", {"fc1": 7}, given.points[2].bytes + 1)
    assert position(given, odd) == (given.points[2].bytes, given.points[2].metric)


def test_the_scale_reaches_to_the_picks():
    assert size_range(frontier(), [Pick("wide", {}, 10**6, 0.9)])[1] == 10**6


# The curve.


def test_the_line_never_falls_and_ends_at_the_largest():
    for higher in (True, False):
        line = best_that_fits(frontier(higher))
        values = [p.metric if higher else -p.metric for p in line]
        assert values == sorted(values)
        assert line[-1].bytes == max(p.bytes for p in frontier(higher).points)


def test_what_fits_is_the_best_within_each_share():
    given = frontier()
    largest = max(p.bytes for p in given.points)
    for share, found in what_fits(given):
        assert found.bytes <= share * largest
        assert found.metric == max(p.metric for p in given.points if p.bytes <= share * largest)


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (900, 40_000, 9, [1000, 2000, 5000, 10_000, 20_000]),
        (900, 40_000_000, 9, [1000, 10_000, 100_000, 1_000_000, 10_000_000]),
        (1000, 1000, 5, [1000]),
        (1100, 1900, 5, [1100, 1900]),
    ],
)
def test_ticks_are_round_and_few(low, high, most, expected):
    assert size_ticks(low, high, most) == expected


def test_labels_that_are_near_go_to_other_rows():
    given = frontier()
    low, high = given.points[0], given.points[-1]
    marks = [(2000, 0.9), (2050, 0.9), (high.bytes, high.metric)]
    assert place_labels(given, marks) == [(False, 0), (False, 1), (True, 0)]
    # Far apart in height, two may stand above each other in the same row.
    assert place_labels(given, [(2000, 0.9), (2000, low.metric)]) == [(False, 0), (False, 0)]


@pytest.mark.parametrize("higher", [True, False])
def test_no_two_labels_overlap_whatever_the_height_of_their_marks(higher):
    given = frontier(higher)
    marks = [(2000 + 40 * i, given.points[6 + i % 5].metric) for i in range(6)]
    reach = max(p.metric for p in given.points) - min(p.metric for p in given.points)
    heights = [
        value / reach + (-0.12 if higher else 0.12) * row
        for (_, value), (_, row) in zip(marks, place_labels(given, marks), strict=True)
    ]
    assert all(abs(a - b) > 0.119 for i, a in enumerate(heights) for b in heights[:i])


# Numbers as text.


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (text.tick(20_000), "20 kB"),
        (text.tick(500), "500 B"),
        (text.tick(2_000_000), "2 MB"),
        (text.kilobytes(1_234_567), "1,234.6"),
        (text.milliseconds(0.02345), "0.0234"),
        (text.milliseconds(12.0), "12.0"),
        (text.milliseconds(123.4), "123"),
        (text.value("accuracy", 0.97224), "97.22 %"),
        (text.value("accuracy", 0.97224, 0.0012), "97.22 ± 0.12 %"),
        (text.value("top-5 accuracy", 1.0), "100.00 %"),
        (text.value("perplexity", 123.456, 1.234), "123.5 ± 1.2"),
        (text.value("perplexity", 154.0), "154.0"),
        (text.value("perplexity", 12345.6), "12,346"),
        (text.value("loss", None), "-"),
        (text.widths({"a": 1, "b": 2}), "a 1, b 2"),
        (text.widths({"a": 1, "b": 2, "c": 9}, most=2), "3 axes, 1 to 9"),
        (text.widths({}), "all full"),
    ],
)
def test_numbers_as_people_read_them(said, expected):
    assert said == expected
