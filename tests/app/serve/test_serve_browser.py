"""The picker in a real browser: Chromium, without a window."""

import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn

from command_line import works
from widthwise.app.report.picks import load_picks
from widthwise.app.runs import exports, measuring
from widthwise.app.runs.folder import Run
from widthwise.app.serve.app import create_app
from widthwise.app.tasks.resolve import resolve
from widthwise.common.units import format_size
from widthwise.measure.frontier import Frontier, Point
from widthwise.store.file import load
from widthwise.variant import Widths

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

expect = playwright.expect
VIEW = "fetch('/api/runs/0').then((r) => r.json())"
MOVE = """(value) => {
  const slider = document.getElementById("slider");
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
}"""

# What is chosen at each place of the slider, too fast for a network to be asked.
EVERYWHERE = """() => [...Array(1001).keys()].map((value) => {
  const [slider, at] = ["slider", "details"].map((id) => document.getElementById(id));
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
  const graph = at.textContent.endsWith("a graph module") ? " · a graph module" : "";
  return document.getElementById("size").textContent + graph;
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("WIDTHWISE_CHROMIUM") or next(
        filter(None, map(shutil.which, names)), None
    )
    with playwright.sync_playwright() as started:
        try:
            found = started.chromium.launch(executable_path=program)
        except playwright.Error as error:
            pytest.skip(
                f"no browser ({str(error).splitlines()[0]}); install Chromium, or run: playwright "
                "install chromium"
            )
        yield found
        found.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    works("train", "digits", "--out", folder, "--epochs", 10)
    works("sweep", folder, "--num-widths", 12)
    works("cut", folder, "--fraction", 0.5, "--out", folder / "half.safetensors")
    return folder


@pytest.fixture(scope="module")
def many(trained) -> Path:
    """The same run with a frontier of 1,000 variants."""
    folder = Path(shutil.copytree(trained, trained.parent / "many"))
    frontier = Frontier.load(folder / "frontier.json")
    points = [
        Point(
            Widths({"fc1": 1 + i % 64, "fc2": 1 + i // 64}),
            1 - 1 / (2 + i / 40) - (i * 7 % 13) / 200,
            0.002,
            2_000 + 35 * i,
            300 + 10 * i,
            200 + 10 * i,
            0.02 + i * 1e-5,
        )
        for i in range(1000)
    ]
    replace(frontier, points=tuple(points), seeds=(0,)).save(folder / "frontier.json")
    (folder / "picks.json").unlink()
    return folder


@pytest.fixture(scope="module")
def address(trained, many, tmp_path_factory) -> Iterator[str]:
    broken = Path(shutil.copytree(trained, trained.parent / "broken"))
    (broken / "frontier.json").unlink()
    mixed = Path(shutil.copytree(trained, trained.parent / "mixed"))
    points = Frontier.load(trained / "frontier.json").points
    marked = tuple(replace(p, own_class=i % 3 == 0) for i, p in enumerate(points))
    replace(Frontier.load(trained / "frontier.json"), points=marked).save(mixed / "frontier.json")
    app = create_app([trained, many, broken, mixed], tmp_path_factory.mktemp("cache"))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


class Watched:
    """A page, and all that it asked for and complained of."""

    def __init__(self, browser, address, **kwargs):
        self.context = browser.new_context(**kwargs)
        self.page = self.context.new_page()
        self.asked, self.complaints = [], []
        # The browser notes an answer that refuses some time after the page has shown it, so that
        # a test that provokes one says so beforehand.
        self.refusal_expected: int | None = None
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.on("console", lambda m: self.note(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.address = address

    def note(self, message):
        # On a slow machine the server is busy, and the page asks again: only the browser complains.
        expected = (self.refusal_expected, 429)
        if not any(f"responded with a status of {status} " in message for status in expected):
            self.complaints.append(message)

    def open(self, run=0):
        self.page.goto(f"{self.address}/#run={run}")
        self.page.wait_for_selector("html[data-ready=yes]")
        return self.page

    def text(self, name):
        return self.page.inner_text(f"#{name}")

    def answered(self):
        self.page.wait_for_selector("#try[aria-busy=false] #examples .answer")


@pytest.fixture
def opened(browser, address, request) -> Iterator[Watched]:
    watched = Watched(browser, address, **getattr(request, "param", {}))
    yield watched
    outside = [u for u in watched.asked if not u.startswith((address, "data:", "blob:"))]
    watched.context.close()
    assert outside == []
    assert watched.complaints == []


def test_the_page_shows_the_run(opened, trained):
    page = opened.open()
    assert opened.text("title") == "digits: choose a size"
    frontier = Frontier.load(trained / "frontier.json")
    assert page.locator("#chart circle.dot").count() >= len(frontier.points)
    assert "half" in page.locator("#chart").inner_html()
    assert page.locator("#run option").count() == 4
    assert page.locator("#class-part").is_hidden()  # nobody says that any is a graph module
    opened.answered()
    assert page.locator("#examples li").count() == 12
    assert page.locator("#examples .answer b").count() == 24


def test_the_slider_chooses_what_the_frontier_picks(opened, trained):
    page = opened.open()
    frontier = Frontier.load(trained / "frontier.json")
    by_id = {c["id"]: c for c in page.evaluate(VIEW)["choices"]}
    for position in (0, 137, 400, 650, 999, 1000):
        page.evaluate(MOVE, position)
        chosen = by_id[page.get_attribute("#main", "data-choice")]
        limit = float(page.get_attribute("#main", "data-limit"))
        assert opened.text("budget") == format_size(round(limit))
        picked = frontier.pick(max_bytes=round(limit))
        # A pick may be better than any measured point; the rest is as the frontier has it.
        assert chosen["metric"] >= picked.metric
        same = (chosen["metric"], chosen["bytes"]) == (picked.metric, picked.bytes)
        assert same or chosen["name"] == "half"
        assert opened.text("size") == chosen["size"]
        assert opened.text("quality") == chosen["quality"]
        assert opened.text("gives-up") == chosen["gives_up"]


def test_networks_of_the_own_class_are_offered_first(opened, trained):
    page = opened.open(3)
    frontier = Frontier.load(trained.parent / "mixed" / "frontier.json")
    assert page.locator("#class-part").is_visible()

    def chosen():
        return set(page.evaluate(EVERYWHERE))

    stored = format_size(load_picks(trained / "picks.json")[0].bytes)
    own = {format_size(p.bytes) for p in frontier.points if p.own_class} | {stored}
    assert chosen() <= own
    assert opened.text("size") in own
    page.uncheck("#own-class")
    line = {format_size(p.bytes) + " · a graph module" for p in frontier.best() if not p.own_class}
    assert line & chosen()


def test_the_slider_by_mouse_and_by_touching_the_chart(opened):
    page = opened.open()
    before = page.get_attribute("#main", "data-choice")
    box = page.locator("#slider").bounding_box()
    page.mouse.click(box["x"] + box["width"] - 14, box["y"] + box["height"] / 2)
    largest = page.get_attribute("#main", "data-choice")
    assert largest != before
    chart = page.locator("#chart").bounding_box()
    page.mouse.click(chart["x"] + 60, chart["y"] + 100)
    small = page.get_attribute("#main", "data-choice")
    assert small not in (before, largest)
    # The thumb stands where the budget line is.
    line = page.locator("#chart .limit").bounding_box()
    value = float(page.input_value("#slider"))
    thumb = box["x"] + 13 + value / 1000 * (box["width"] - 26)
    assert abs(line["x"] + line["width"] / 2 - thumb) < 3


def test_the_slider_by_keyboard(opened):
    page = opened.open()
    page.focus("#slider")
    seen = []
    page.keyboard.press("Home")
    for _ in range(4):
        seen.append(page.get_attribute("#main", "data-choice"))
        page.keyboard.press("ArrowRight")
    assert len(set(seen)) == 4  # each press is another network
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("#main", "data-choice") == seen[-1]
    page.keyboard.press("End")
    assert opened.text("budget") == page.evaluate(
        f"{VIEW}.then((v) => v.choices.find((c) => c.id === v.full).size)"
    )
    assert "accuracy" in page.get_attribute("#slider", "aria-valuetext")
    expect(page.locator("#said")).to_contain_text("accuracy")


def test_what_is_stored_and_tried_is_marked_and_said(opened, trained):
    page = opened.open()
    assert page.is_visible("#key-pick")
    assert page.is_hidden("#key-ring")  # nothing was searched
    frontier = Frontier.load(trained / "frontier.json")
    first, last = sorted(frontier.points, key=lambda p: p.bytes)[::11]
    tried = [{"bytes": (first.bytes + last.bytes) // 2, "metric": first.metric, "text": "x"}]
    page.route(
        "**/api/runs/0",
        lambda route: route.fulfill(json=route.fetch().json() | {"tried": tried}),
    )
    page.reload()
    page.wait_for_selector("html[data-ready=yes]")
    assert page.is_visible("#key-ring")
    assert page.locator("#chart circle.ring").count() == 1
    half = page.evaluate(f"{VIEW}.then((v) => v.choices.find((c) => c.name === 'half'))")
    page.check("input[value=size]", force=True)
    page.focus("#slider")
    page.keyboard.press("Home")
    for _ in range(12):
        if page.get_attribute("#main", "data-choice") == half["id"]:
            assert "stored as half.safetensors" in opened.text("details")
            # Its time was not measured in the sweep, but it is, here, after those passed by.
            expect(page.locator("#latency")).to_contain_text("ms", timeout=60_000)
        page.keyboard.press("ArrowRight")
    assert half["latency_ms"] is None


def test_a_busy_server_is_asked_again(opened):
    opened.refusal_expected = 429
    page = opened.open()
    opened.answered()
    left = [2]

    def busy(route):
        left[0] -= 1
        if left[0] < 0:
            return route.continue_()
        headers = {"Retry-After": "0"}
        return route.fulfill(status=429, headers=headers, json={"error": "Too many."})

    page.route("**/predict", busy)
    page.focus("#slider")
    page.keyboard.press("Home")
    opened.answered()
    page.wait_for_function("document.getElementById('here').textContent.includes('ms')")
    assert left[0] < 0
    assert opened.text("try-note") == ""


def test_everything_is_reached_by_tab(opened):
    page = opened.open()
    opened.answered()
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(({ id, name, tagName }) => id || name || tagName)(document.activeElement)"
            )
        )
    for name in (
        "slider",
        "mode",
        "more",
        "lost",
        "safetensors",
        "onnx",
        "form",
        "copy",
        "clear",
        "run",
    ):
        assert name in reached, reached
    names = page.evaluate(
        "[...document.querySelectorAll('button, a, input, select, [role=img]')].filter((e) => "
        "!(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).length"
    )
    assert names == 0


def test_speed_and_accuracy(opened, trained):
    page = opened.open()
    frontier = Frontier.load(trained / "frontier.json")
    page.check("input[value=time]", force=True)
    page.focus("#slider")
    page.keyboard.press("Home")
    fastest = min(p.latency_ms for p in frontier.points)
    assert opened.text("latency") == f"{fastest:#.3g} ms"
    page.keyboard.press("End")
    best = frontier.pick(max_latency_ms=1e9)
    assert opened.text("quality") == f"{100 * best.metric:.2f} %"
    page.check("input[value=metric]", force=True)
    assert opened.text("budget-label") == "At least"
    page.focus("#slider")
    page.keyboard.press("End")
    picks = [p.valid for p in load_picks(trained / "picks.json")]
    good = max(*(p.metric for p in frontier.points), *picks)
    assert opened.text("quality") == f"{100 * good:.2f} %"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    wanted = float(opened.text("budget").removesuffix(" %"))
    smallest = min(p.bytes for p in frontier.points if 100 * p.metric >= wanted - 0.005)
    view = page.evaluate(VIEW)
    chosen = next(
        c for c in view["choices"] if c["id"] == page.get_attribute("#main", "data-choice")
    )
    assert chosen["bytes"] <= smallest


def test_what_is_lost_is_shown(opened):
    page = opened.open()
    page.focus("#slider")
    page.keyboard.press("Home")
    page.click("#lost")
    page.wait_for_selector("#examples li.lost")
    opened.answered()
    lost = page.locator("#examples li").count()
    assert page.locator("#examples li.lost").count() == lost
    assert re.match(
        r"Of \d+ test examples, only the full network is right on \d+", opened.text("try-note")
    )
    page.click("#more")
    expect(page.locator("#examples li")).to_have_count(12)


def test_a_drawing_is_read(opened):
    page = opened.open()
    opened.answered()
    pad = page.locator("#pad").bounding_box()
    x, top, bottom = pad["x"] + pad["width"] / 2, pad["y"] + 25, pad["y"] + pad["height"] - 25
    page.mouse.move(x, top)
    page.mouse.down()
    page.mouse.move(x, bottom, steps=10)
    page.mouse.up()
    page.wait_for_selector("#pad-result .answer")
    assert page.locator("#pad-result .answer b").all_inner_texts()[1] in "0123456789"
    assert page.evaluate("document.getElementById('seen').width") == 8
    page.click("#clear")
    assert page.locator("#pad-result .answer").count() == 0


@pytest.mark.parametrize("form", ["safetensors", "onnx"])
def test_a_download_is_the_network_that_was_shown(opened, tmp_path, form):
    page = opened.open()
    page.focus("#slider")
    page.keyboard.press("ArrowLeft")
    quality = opened.text("quality")
    with page.expect_download(timeout=180_000) as waiting:
        page.click(f"#{form}")
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    assert path.suffix == f".{form}"
    assert "Checked" in opened.text("take-note")
    task = resolve("digits")
    if form == "safetensors":
        value = measuring.evaluation(task, task.splits(), "valid")(load(path, build=task.model))
        assert f"{100 * value:.2f} %" == quality
        expect(page.locator("#code")).to_contain_text(path.name)
    else:
        assert exports.onnx_metric(path, task, task.splits()) > 0.5


def test_a_download_that_fails_says_why(opened, many):
    opened.refusal_expected = 400
    page = opened.open(run=1)
    opened.answered()
    model = Run(many).model
    whole = model.read_bytes()
    try:
        model.write_bytes(whole[:50])
        page.click("#onnx")
        expect(page.locator("#take-note")).to_contain_text("model.safetensors")
    finally:
        model.write_bytes(whole)


def test_a_broken_run_shows_one_sentence_with_the_command(opened):
    page = opened.open(run=2)
    assert "widthwise sweep" in opened.text("problem")
    assert not page.is_visible("#main")
    page.select_option("#run", "0")
    page.wait_for_selector("#main", state="visible")
    assert not page.is_visible("#problem")


def test_a_thousand_variants_are_shown_and_the_slider_reacts(opened, many):
    page = opened.open(run=1)
    assert page.locator("#chart circle.dot").count() == 1000
    seen = page.evaluate(
        """async () => {
          const slider = document.getElementById("slider");
          const seen = new Set();
          for (let v = 0; v <= 1000; v += 20) {
            slider.value = v;
            slider.dispatchEvent(new Event("input"));
            await new Promise((done) => requestAnimationFrame(done));
            seen.add(document.getElementById("main").dataset.choice);
          }
          return seen.size;
        }"""
    )
    assert seen > 10  # one frame after a move, another network is shown
    frontier = Frontier.load(many / "frontier.json")
    assert opened.text("quality").startswith(f"{100 * frontier.pick(max_bytes=10**9).metric:.2f}")


@pytest.mark.parametrize(
    "opened", [{"viewport": {"width": 360, "height": 740}, "has_touch": True}], indirect=True
)
def test_a_phone_needs_no_sideways_scrolling(opened):
    page = opened.open()
    opened.answered()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.mouse.wheel(0, 1500)
    page.wait_for_timeout(200)
    box = page.locator("#slider").bounding_box()
    assert 0 <= box["y"] < 200  # the slider stays in view beside the examples
    assert box["height"] >= 40


@pytest.mark.parametrize("opened", [{"color_scheme": s} for s in ("dark", "light")], indirect=True)
def test_words_stand_out_by_day_and_by_night(opened):
    page = opened.open()
    opened.answered()
    low = page.evaluate(CONTRAST)
    assert low == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 200) == dark


def test_the_check_of_contrast_can_fail(opened):
    page = opened.open()
    page.evaluate("document.getElementById('title').style.color = 'rgb(230, 230, 230)'")
    assert [e["id"] for e in page.evaluate(CONTRAST)] == ["title"]


# Elements whose words have less than 4.5 times the light of what is behind them, or it of theirs
# (WCAG 2, level AA).
CONTRAST = """() => {
  const parse = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter((e) => e.checkVisibility() && !e.closest("svg, select, .unseen, [disabled]"))
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
    .map((e) => ({ e, a: light(parse(getComputedStyle(e).color)), b: light(behind(e)) }))
    .filter(({ a, b }) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5)
    .map(({ e }) => ({ id: e.id, text: e.textContent.slice(0, 40) }));
}"""


def test_the_page_and_the_server_write_sizes_alike(opened):
    page = opened.open()
    sizes = [0, 1, 999, 1000, 9_994, 9_995, 99_949, 99_950, 999_499, 999_500, 1_234_567, 10**9]
    shown = page.evaluate(
        "async (s) => { const m = await import('/page.js'); return s.map(m.formatSize); }", sizes
    )
    assert shown == [format_size(s) for s in sizes]
