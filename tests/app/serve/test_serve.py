"""The picker's API: its numbers are those of the frontier, its files the networks; it is safe."""

import ast
import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from torch.utils.data import TensorDataset

from command_line import fails, works
from widthwise.app.report.picks import Pick, load_picks, save_picks
from widthwise.app.runs import cuts, exports, measuring, opening
from widthwise.app.runs.folder import Run
from widthwise.app.runs.postprocessing import PostProcess
from widthwise.app.serve import networks as made
from widthwise.app.serve.answers import answer
from widthwise.app.serve.app import create_app
from widthwise.app.serve.drawing import Frame, as_data
from widthwise.app.serve.examples import Gallery
from widthwise.app.serve.guard import LARGEST
from widthwise.app.serve.runs_view import Views, read
from widthwise.app.serve.words import MADE, gives_up, how_made, smaller
from widthwise.app.tasks.resolve import resolve
from widthwise.common.units import format_size
from widthwise.measure.frontier import Frontier, Point
from widthwise.store.file import load
from widthwise.variant import Widths

HOST = "http://127.0.0.1:8765"
ASSETS = ["/", "/page.css", "/page.js", "/chart.js", "/tryit.js"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    works("train", "digits", "--out", folder, "--epochs", 20)
    works("sweep", folder, "--num-widths", 6)
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def client(*folders: Path, cache: Path, host: str = "127.0.0.1", base: str = HOST) -> TestClient:
    cache.mkdir(exist_ok=True)
    app = create_app(folders, cache, host=host)
    return TestClient(app, base_url=base, raise_server_exceptions=False)


@pytest.fixture
def web(trained, tmp_path) -> TestClient:
    return client(trained, cache=tmp_path / "cache")


def said(response, status: int) -> str:
    """The one sentence of an answer that refuses."""
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    sentence = response.json()["error"]
    assert "Traceback" not in sentence
    assert "\n" not in sentence
    return sentence


def best(view, **budget):
    """What the command line picks, among the choices of a view."""
    return min(
        (c for c in view["choices"] if all(c[k] <= v for k, v in budget.items())),
        key=lambda c: (-c["metric"], c["bytes"]),
    )


# What a run shows.


def test_a_run_shows_the_numbers_of_its_frontier(web, trained):
    view = web.get("/api/runs/0").json()
    frontier = Frontier.load(trained / "frontier.json")
    assert web.get("/api/runs").json() == [{"id": 0, "name": "digits", "problem": ""}]
    shown = [
        (c["bytes"], c["metric"], c["latency_ms"], c["params"], c["macs"]) for c in view["choices"]
    ]
    assert shown == [(p.bytes, p.metric, p.latency_ms, p.params, p.macs) for p in frontier.points]
    assert view["runtime"] == frontier.runtime
    assert len({c["id"] for c in view["choices"]}) == len(frontier.points)
    largest = max(frontier.points, key=lambda p: p.bytes)
    (full,) = [c for c in view["choices"] if c["id"] == view["full"]]
    assert full["bytes"] == largest.bytes
    assert full["gives_up"] == "Nothing: this is the full network."


def test_what_fits_is_what_the_command_line_picks(web, trained):
    view = web.get("/api/runs/0").json()
    for budget in sorted(c["bytes"] for c in view["choices"]):
        picked = json.loads(works("pick", trained, "--max-bytes", budget + 1, "--json"))
        chosen = best(view, bytes=budget + 1)
        assert (chosen["bytes"], chosen["metric"]) == (picked["bytes"], picked["results"]["valid"])


def test_picks_are_shown_and_can_be_chosen(run, tmp_path):
    point = Frontier.load(run / "frontier.json").points[2]
    works("cut", run, "--width", "fc1=20", "--out", run / "own.safetensors")
    done = Frontier.load(run / "frontier.json").post_process or "none"
    words = ["--max-bytes", point.bytes, "--post-process", done]
    works("cut", run, *words, "--out", run / "same.safetensors")
    web = client(run, cache=tmp_path / "c")
    view = web.get("/api/runs/0").json()
    named = {c["name"]: c for c in view["choices"] if c["name"]}
    assert set(named) == {"own"}  # the other is a measured point, which has its name
    assert ["same"] in [c["names"] for c in view["choices"]]
    got = web.get(f"/api/runs/0/download/{named['own']['id']}.safetensors")
    assert got.content == (run / "own.safetensors").read_bytes()
    assert (
        named["own"]["metric"] == {p.name: p for p in load_picks(run / "picks.json")}["own"].valid
    )


def test_a_pick_whose_file_lies_elsewhere_is_not_served(run, tmp_path):
    outside = tmp_path / "secret.safetensors"
    outside.write_bytes(b"secret")
    (run / "link.safetensors").symlink_to(outside)
    names = ["../secret.safetensors", str(outside), "run.json", "link.safetensors", "a\0.b"]
    save_picks(run / "picks.json", [Pick(n, {"fc1": 7}, 6, 0.5, 0.5, file=n) for n in names])
    view = client(run, cache=tmp_path / "c").get("/api/runs/0").json()
    assert not [c for c in view["choices"] if c["name"]]
    assert "not in the run folder" in " ".join(view["notes"])


def test_how_a_network_was_made_is_said():
    assert how_made("") == "cut"
    assert how_made("zeros, bits") == "cut, single weights left out, weights in few bits"
    for step in (*PostProcess, "zeros", "bits"):
        assert step in ("none", *MADE), step


def test_what_was_pruned_or_searched_is_on_the_curve(run, tmp_path):
    works("prune", "digits", "--from", run, "--sparsity", 0.5, "--out", run / "sparse.safetensors")
    works("search", run, "--max-bytes", "4kB", "--trials", 3, "--out", run / "found.safetensors")
    web = client(run, cache=tmp_path / "c")
    view = web.get("/api/runs/0").json()
    named = {c["name"]: c for c in view["choices"] if c["name"]}
    assert named["sparse"]["made"].startswith("cut, single weights left out; stored as sparse.")
    assert "test split" in named["sparse"]["made"]
    assert "found" in named or ["found"] in [c["names"] for c in view["choices"]]
    assert 1 <= len(view["tried"]) <= 3
    assert all(t["bytes"] <= 4000 and "tried in a search" in t["text"] for t in view["tried"])
    picks = {p.name: p for p in load_picks(run / "picks.json")}
    assert named["sparse"]["metric"] == picks["sparse"].valid
    for name in ("sparse", "found"):
        got = web.get(f"/api/runs/0/download/{named.get(name, named['sparse'])['id']}.safetensors")
        assert got.status_code == 200
    (run / "search.jsonl").write_text("[]\n")  # broken: said, and the rest is shown
    view = web.get("/api/runs/0").json()
    assert view["tried"] == []
    assert "What searches have tried is not shown" in " ".join(view["notes"])
    assert len(view["choices"]) >= 7


def test_what_was_pruned_elsewhere_is_no_pick(run, tmp_path):
    works("prune", "digits", "--from", run, "--sparsity", 0.5, "--out", tmp_path / "x.safetensors")
    assert not (run / "picks.json").exists()


def test_a_run_is_read_again_only_when_it_changed(run, monkeypatch):
    views = Views()
    first = views.view(0, run)
    counted = []
    monkeypatch.setattr(
        "widthwise.app.serve.runs_view.read", lambda f: counted.append(f) or read(f)
    )
    assert views.view(0, run) is first
    assert counted == []
    save_picks(run / "picks.json", [Pick("a", {"fc1": 9}, 6, 0.5, 0.5, file="a.safetensors")])
    assert "not in the run folder" in " ".join(views.view(0, run).notes)
    (run / "a.safetensors").write_bytes(b"a")
    assert "a" in {c.name for c in views.view(0, run).choices}
    assert len(counted) == 2


def test_seeds_are_averaged_and_the_first_is_served(tmp_path, trained):
    folder = tmp_path / "both"
    for seed in (0, 1):
        shutil.copytree(trained, folder / f"seed-{seed}")
    works("sweep", folder, "--num-widths", 4)
    web = client(folder, cache=tmp_path / "c")
    view = web.get("/api/runs/0").json()
    assert all(c["spread"] == 0 for c in view["choices"])
    assert "seed-0" in " ".join(view["notes"])
    assert web.get(f"/api/runs/0/download/{view['full']}.safetensors").status_code == 200


@pytest.mark.parametrize(
    ("harm", "words", "remedy"),
    [
        (lambda f: (f / "frontier.json").unlink(), "no frontier yet", "widthwise sweep"),
        (lambda f: (f / "frontier.json").write_text("{"), "damaged", "run the sweep again"),
        (lambda f: (f / "run.json").write_text("{"), "damaged", "train again"),
        (lambda f: (f / "run.json").unlink(), "not a run folder", "train or order"),
        (lambda f: (f / "model.safetensors").unlink(), "is missing", "widthwise train digits"),
        (lambda f: shutil.rmtree(f), "no run folder", "widthwise train TASK"),
        (lambda f: (f / "picks.json").write_text("{"), "damaged", "choose the sizes again"),
        (
            lambda f: Run(f).write(replace(Run(f).record(), status="interrupted")),
            "not finished",
            "widthwise train digits",
        ),
    ],
)
def test_a_broken_run_says_what_is_wrong_and_what_to_run(run, tmp_path, harm, words, remedy):
    harm(run)
    web = client(run, cache=tmp_path / "c")
    view = web.get("/api/runs/0").json()
    assert words in view["problem"]
    assert remedy in view["problem"]
    assert "\n" not in view["problem"]
    assert view["choices"] == []
    assert said(web.get("/api/runs/0/examples"), 400) == view["problem"]


def test_what_a_sweep_has_just_written_is_shown(run, tmp_path):
    web = client(run, cache=tmp_path / "c")
    before = web.get("/api/runs/0").json()["choices"]
    works("sweep", run, "--num-widths", 3)
    after = web.get("/api/runs/0").json()["choices"]
    assert (len(before), len(after)) == (6, 3)
    gone = {c["id"] for c in before} - {c["id"] for c in after}
    sentence = said(web.get(f"/api/runs/0/download/{gone.pop()}.onnx"), 404)
    assert "load the page again" in sentence


def test_a_damaged_model_is_one_sentence(run, tmp_path):
    (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:100])
    web = client(run, cache=tmp_path / "c")
    assert "model.safetensors" in said(web.get("/api/runs/0/examples"), 400)


# What it gives up, in words.


def frontier_of(*points: Point, metric="accuracy", higher=True) -> Frontier:
    return Frontier(points, metric, higher, "valid", "here")


def point(metric: float, size: int = 10, spread: float | None = None) -> Point:
    return Point(Widths({"a": size}), metric, spread, size, 1, 1, None)


@pytest.mark.parametrize(
    ("value", "full", "words"),
    [
        (
            0.97,
            0.98,
            "1 in 100 digits more is misread: it misreads 1 in 33, the full network 1 in 50",
        ),
        (0.5, 0.98, "5 in 10 digits more"),
        (0.98, 0.98, "Nothing that was measured"),
        (0.99, 0.98, "Nothing: 1 in 100 digits more is right"),
        (0.99, 1.0, "the full network none"),
        (0.99 - 1 / 3149, 0.99, "About 1 in 3,100 digits"),
    ],
)
def test_what_is_given_up_follows_from_the_numbers(value, full, words):
    small, large = point(value), point(full, 100)
    assert words in gives_up(frontier_of(small, large), small, large, digits=True)
    assert ("misread" in gives_up(frontier_of(small, large), small, large)) is False


def test_what_is_given_up_of_other_metrics():
    small, large = point(110.0), point(100.0, 100)
    words = gives_up(frontier_of(small, large, metric="perplexity", higher=False), small, large)
    assert "9.1 % less expected" in words  # 1 - 100 / 110
    assert "110.0" in words
    words = gives_up(frontier_of(small, large, metric="loss", higher=False), small, large)
    assert "10.0 % worse" in words
    words = gives_up(frontier_of(small, large, metric="loss", higher=True), small, large)
    assert words.startswith("Nothing")


def test_a_loss_within_the_spread_says_so():
    small, large = point(0.97, spread=0.02), point(0.98, 100)
    assert "other seeds" in gives_up(frontier_of(small, large), small, large)
    small = point(0.97, spread=0.001)
    assert "other seeds" not in gives_up(frontier_of(small, large), small, large)


def test_how_much_smaller():
    assert smaller(point(1, 12), point(1, 100)) == "12 % of the full network, 8.3 times smaller"
    assert smaller(point(1, 2), point(1, 100)) == "2.0 % of the full network, 50 times smaller"
    assert smaller(point(1, 100), point(1, 100)) == "the full size"


# Trying it.


def test_answers_are_those_of_the_cut_network(web, trained):
    view = web.get("/api/runs/0").json()
    examples = web.get("/api/runs/0/examples").json()
    assert (examples["kind"], examples["can_draw"], len(examples["examples"])) == (
        "image",
        True,
        12,
    )
    ids = [e["id"] for e in examples["examples"]]
    chosen = view["choices"][1]
    said_ = web.post("/api/runs/0/predict", json={"point": chosen["id"], "examples": ids}).json()
    opened = opening.open_run(Run(trained))
    data = opened.task.splits()
    test = data.test
    points = Frontier.load(trained / "frontier.json").points
    (widths,) = [p.widths for p in points if p.bytes == chosen["bytes"]]
    usual = cuts.usual_post_processing(
        opened, widths
    )  # least squares, where the sweep found them better
    small = cuts.make(opened, [widths], data, [usual])[0].module.eval()
    full = opened.net.cut(opened.net.full())
    for i, pair in zip(ids, said_["pairs"], strict=True):
        inputs, target = test[i]
        for module, given in ((small, pair["chosen"]), (full, pair["full"])):
            share, label = module(inputs[None]).softmax(1).max(1)
            assert given["label"] == str(int(label))
            assert given["right"] == (label == target).item()
            assert given["top"][0]["share"] == pytest.approx(share.item(), abs=1e-5)
    assert "PyTorch" in said_["runtime"]
    assert said_["latency"].endswith(" ms")


def test_the_examples_are_drawn_from_the_tensors(web):
    shown = web.get("/api/runs/0/examples?page=1").json()["examples"][0]
    inputs, target = resolve("digits").splits().test[shown["id"]]
    pixels = torch.tensor(list(base64.b64decode(shown["picture"]["data"]))).reshape(8, 8)
    sixteenths = ((inputs * 0.3760 + 0.3053) * 16).round()  # as in the data set
    assert torch.equal((pixels / 255 * 16).round(), sixteenths)
    assert shown["label"] == str(int(target))
    first = web.get("/api/runs/0/examples?page=0").json()["examples"]
    assert not {e["id"] for e in first} & {shown["id"]}
    assert web.get("/api/runs/0/examples?page=0").json()["examples"] == first


def test_what_is_lost_is_what_only_the_full_network_gets(web, trained):
    view = web.get("/api/runs/0").json()
    small = view["choices"][0]["id"]
    found = web.get(f"/api/runs/0/differences/{small}").json()
    ids = [e["id"] for e in found["examples"]["examples"]]
    assert found["lost"] >= len(ids) > 0
    pairs = web.post("/api/runs/0/predict", json={"point": small, "examples": ids}).json()["pairs"]
    assert all(p["full"]["right"] and not p["chosen"]["right"] for p in pairs)
    same = web.get(f"/api/runs/0/differences/{view['full']}").json()
    assert (same["lost"], same["gained"]) == (0, 0)


def test_a_drawing_is_read(web):
    view = web.get("/api/runs/0").json()
    seven = torch.zeros(112, 112)
    seven[20:32, 25:85] = 255
    for y in range(32, 95):
        x = 80 - (y - 32) * 40 // 63
        seven[y, x - 7 : x + 7] = 255
    seven[56:66, 45:86] = 255  # crossed, as most in the data set are
    question = {"point": view["full"], "drawing": seven.int().tolist()}
    said_ = web.post("/api/runs/0/predict", json=question).json()
    assert said_["pairs"][0]["full"]["label"] == "7"
    assert said_["pairs"][0]["full"]["right"] is None
    assert said_["seen"]["width"] == said_["seen"]["height"] == 8
    blank = {"point": view["full"], "drawing": [[0] * 9] * 9}
    assert "nothing drawn" in said(web.post("/api/runs/0/predict", json=blank), 400)
    ragged = {"point": view["full"], "drawing": [[0, 1], [0]]}
    assert "length" in said(web.post("/api/runs/0/predict", json=ragged), 400)


def test_drawings_become_as_the_data_are(trained):
    """Test images, enlarged, moved and thinned as a hand would, are read nearly as well."""
    task = resolve("digits")
    opened = opening.open_run(Run(trained))
    data = task.splits().test
    images = (data.inputs * 0.3760 + 0.3053).clamp(0, 1)  # type: ignore[attr-defined]
    frame = Frame.of(images)
    right = {"drawn": 0, "moved": 0}
    model = opened.net.cut(opened.net.full()).eval()
    for image, target in list(zip(images, data.targets, strict=True))[:100]:  # type: ignore[attr-defined]
        large = torch.nn.functional.interpolate(image[None, None], size=60, mode="bilinear")[0, 0]
        drawn = torch.zeros(112, 112)
        drawn[4:64, 48:108] = large
        for name, seen in (
            ("drawn", as_data(drawn, frame, (8, 8))),
            ("moved", drawn[::14, ::14]),  # broken on purpose: neither cropped nor scaled
        ):
            answer = model(((seen - 0.3053) / 0.3760)[None]).argmax()
            right[name] += int(answer == target)
    assert right["drawn"] >= 80
    assert right["moved"] < 50


def test_other_kinds_of_examples():
    digits = resolve("digits")

    def gallery(inputs, target, **changes) -> Gallery:
        return Gallery(replace(digits, **changes), TensorDataset(inputs, target))

    table = gallery(torch.randn(20, 30), torch.randint(2, (20,)), classes=("normal", "attack"))
    shown = table.page(0)
    assert shown.kind == "table"
    assert not shown.can_draw
    assert {e.label for e in shown.examples} <= {"normal", "attack"}
    assert len(shown.examples[0].rows) == 8
    colours = gallery(torch.randn(3, 3, 8, 8), torch.zeros(3).long()).page(0)
    assert colours.examples[0].picture is not None
    assert colours.examples[0].picture.channels == 3
    assert not colours.can_draw
    letters = gallery(
        torch.arange(12).reshape(2, 6),
        torch.arange(12).reshape(2, 6) + 1,
        text=lambda: lambda n: "".join(chr(97 + int(i)) for i in n),
    ).page(0)
    by_id = {e.id: e for e in letters.examples}
    assert (by_id[0].text, by_id[0].label) == ("abcd …", "e")
    other = gallery(torch.randn(3, 3, 1024), torch.zeros(3).long()).page(0)
    assert other.examples[0].text == "3 x 1024 numbers"


# Files.


@pytest.mark.parametrize("form", ["safetensors", "onnx"])
def test_a_download_gives_the_metric_that_was_shown(web, trained, tmp_path, form):
    view = web.get("/api/runs/0").json()
    chosen = view["choices"][2]
    before = sorted(p.name for p in trained.iterdir())
    got = web.get(f"/api/runs/0/download/{chosen['id']}.{form}")
    assert got.status_code == 200, got.text
    size = format_size(len(got.content))
    assert f'filename="digits-{size.replace(" ", "")}.{form}"' in str(got.headers)
    code = web.get(f"/api/runs/0/code/{chosen['id']}").json()
    assert code["sizes"][form] == size
    path = tmp_path / f"got.{form}"
    path.write_bytes(got.content)
    task = resolve("digits")
    if form == "safetensors":
        assert len(got.content) == chosen["bytes"]
        module = load(path, build=task.model)
        value = measuring.evaluation(task, task.splits(), "valid")(module)
        assert value == pytest.approx(chosen["metric"], abs=1e-9)
    else:
        again = web.get(f"/api/runs/0/download/{chosen['id']}.safetensors")
        (tmp_path / "plain").write_bytes(again.content)
        module = load(tmp_path / "plain", build=task.model)
        value = measuring.evaluation(task, task.splits(), "test")(module)
        assert exports.onnx_metric(path, task, task.splits()) == pytest.approx(value, abs=1e-9)
    assert sorted(p.name for p in trained.iterdir()) == before  # the run is left as it is


def test_the_code_runs_the_files(web, tmp_path, monkeypatch, capsys):
    view = web.get("/api/runs/0").json()
    name = view["choices"][0]["id"]
    code = web.get(f"/api/runs/0/code/{name}").json()
    for form in ("safetensors", "onnx"):
        got = web.get(f"/api/runs/0/download/{name}.{form}")
        (tmp_path / code["files"][form]).write_bytes(got.content)
    monkeypatch.chdir(tmp_path)
    for form in ("safetensors", "onnx"):
        assert len(code[form].strip().splitlines()) <= 5
        exec(compile(code[form], form, "exec"), {})
    printed = capsys.readouterr().out
    numbers = [float(x) for x in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", printed)]
    assert len(numbers) == 20
    assert numbers[:10] == pytest.approx(numbers[10:], abs=1e-3)


def test_an_interrupted_download_goes_on_where_it_stopped(web):
    view = web.get("/api/runs/0").json()
    address = f"/api/runs/0/download/{view['full']}.safetensors"
    whole = web.get(address)
    tag = whole.headers["etag"]
    first = web.get(address, headers={"Range": "bytes=0-999"})
    rest = web.get(address, headers={"Range": "bytes=1000-", "If-Range": tag})
    assert (first.status_code, rest.status_code) == (206, 206)
    assert first.content + rest.content == whole.content
    changed = web.get(address, headers={"Range": "bytes=1000-", "If-Range": '"other"'})
    assert changed.status_code == 200
    assert web.get(address, headers={"Range": "bytes=99999999-"}).status_code == 416


def test_files_and_networks_are_kept_a_few_at_a_time(run, tmp_path, monkeypatch):
    monkeypatch.setattr(made, "FILES", 2)
    monkeypatch.setattr(made, "NETWORKS", 2)
    cache = tmp_path / "cache"
    web = client(run, cache=cache)
    sizes = []
    for choice in web.get("/api/runs/0").json()["choices"]:
        got = web.get(f"/api/runs/0/download/{choice['id']}.safetensors")
        sizes.append(len(got.content) == choice["bytes"])
    assert all(sizes)
    assert len(list(cache.iterdir())) == 2
    kept = made.Recent(2)
    assert [kept.get(i, lambda i=i: i) for i in (1, 2, 1, 3)] == [1, 2, 1, 3]
    assert list(kept.kept) == [1, 3]  # 2 was used longest ago


def test_large_ones_are_kept_fewer_at_a_time(monkeypatch):
    monkeypatch.setattr(made, "ROOM", 10)
    kept = made.Recent(9, size=lambda value: value)
    for size in (4, 5, 3):
        kept.get(size, lambda size=size: size)
    assert list(kept.kept) == [5, 3]
    assert kept.get(99, lambda: 99) == 99  # one is kept however large
    assert list(kept.kept) == [99]


def test_a_file_stays_until_it_was_sent(run, tmp_path, monkeypatch):
    """Each answer has a link of its own, which outlives the cache's and goes with the answer."""
    monkeypatch.setattr(made, "FILES", 1)
    cache = tmp_path / "c"
    web = client(run, cache=cache)
    ids = [c["id"] for c in web.get("/api/runs/0").json()["choices"]]
    networks, shown = made.Networks(cache), Views().shown(run)
    with networks.turn():
        lent = networks.lent(shown, ids[0], "safetensors")
        networks.file(shown, ids[1], "safetensors")  # takes the first one's place
    assert len(lent.path.read_bytes()) == lent.bytes
    lent.path.unlink()
    assert len(list(cache.iterdir())) == 1
    for _ in range(3):
        assert web.get(f"/api/runs/0/download/{ids[0]}.safetensors").status_code == 200
    assert len(list(cache.iterdir())) == 2  # of each cache one


def test_too_many_at_once_are_sent_away(web, trained, monkeypatch):
    view = web.get("/api/runs/0").json()
    monkeypatch.setattr(made, "WAITING", 1)
    one = made.Networks(trained)
    with one.turn(), pytest.raises(made.BusyError, match="again in a moment"), one.turn():
        pass
    with one.turn():  # its place was given back
        pass
    with monkeypatch.context() as patched:
        patched.setattr(made, "WAITING", 2)
        patched.setattr(made, "PATIENCE", 0.01)
        two = made.Networks(trained)
        with two.turn(), pytest.raises(made.BusyError, match="took too long"), two.turn():
            pass

    def busy(*_):
        raise made.BusyError("Too many.")

    with monkeypatch.context() as patched:
        patched.setattr(made.Networks, "turn", busy)
        told = web.get(f"/api/runs/0/differences/{view['full']}")
        assert said(told, 429) == "Too many."
        assert told.headers["retry-after"] == "1"
    results = []

    def ask() -> None:
        question = {"point": view["full"], "examples": [0]}
        results.append(web.post("/api/runs/0/predict", json=question).status_code)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [200] * 6


# Safety.


@pytest.mark.parametrize(
    "path",
    [
        "/api/runs/1", "/api/runs/-1", "/api/runs/99999999999999999999",
        "/api/runs/0/download/nothing.onnx", "/api/runs/0/download/..%2f..%2frun.onnx",
        "/api/runs/0/code/nothing", "/api/runs/0/differences/nothing", "/../run.json", "/run.json",
        "/%2e%2e/%2e%2e/etc/passwd", "/docs", "/redoc", "/page.py", "/api",
    ],
)  # fmt: skip
def test_what_is_not_there_is_one_sentence(web, path):
    assert said(web.get(path), 404)


@pytest.mark.parametrize(
    "path",
    [
        "/api/runs/x", "/api/runs/0x0", "/api/runs/0/download/a.pkl",
        "/api/runs/0/download/a.safetensors.json", "/api/runs/0/examples?page=-1",
        "/api/runs/0/examples?page=x",
    ],
)  # fmt: skip
def test_what_is_malformed_is_one_sentence(web, path):
    assert "not as it must be" in said(web.get(path), 422)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422), (b"{", 422), (b"[]", 422), (b"null", 422), (b"\xff\xfe", 422),
        (b'{"point": 1}', 422), (b'{"point": "x", "odd": 1}', 422),
        (b'{"point": "x"}', 404), (b'{"point": "../../run"}', 404),
        (b'{"point": "%b", "examples": [-1]}', 400), (b'{"point": "%b", "examples": [99999]}', 400),
        (b'{"point": "%b", "examples": ["a"]}', 422), (b'{"point": "%b", "examples": [1e99]}', 422),
        (b'{"point": "%b", "drawing": [[256]]}', 422), (b'{"point": "%b", "drawing": []}', 422),
        (b'{"point": "%b", "drawing": [[]]}', 422),
        (b'{"point": "%b", "examples": [' + b",".join([b"0"] * 25) + b"]}", 422),
        (b"[" * 100_000, 400),
    ],
)  # fmt: skip
def test_malformed_questions_are_one_sentence(web, body, status):
    full = web.get("/api/runs/0").json()["full"].encode()
    body = body.replace(b"%b", full)
    kind = {"Content-Type": "application/json"}
    assert said(web.post("/api/runs/0/predict", content=body, headers=kind), status)


def test_a_large_request_is_not_read_to_its_end(web):
    sent = 0

    def pieces():
        nonlocal sent
        for _ in range(100):
            sent += 100_000
            yield b"0" * 100_000

    assert "larger than" in said(web.post("/api/runs/0/predict", content=pieces()), 413)
    exactly = b" " * LARGEST
    assert said(web.post("/api/runs/0/predict", content=exactly), 422)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example",
        "127.0.0.1:1.evil.example",
        "[",
        "",
    ],
)
def test_other_names_for_this_machine_are_refused(web, host):
    for path in ("/", "/api/runs", "/page.js", "/openapi.json"):
        assert "localhost only" in said(web.get(path, headers={"Host": host}), 400)


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8765", "LOCALHOST"])
def test_the_names_of_this_machine_are_answered(web, host):
    assert web.get("/api/runs", headers={"Host": host}).status_code == 200


def test_a_host_that_was_named_is_answered(trained, tmp_path):
    named = client(trained, cache=tmp_path / "a", host="box.local", base="http://box.local:1")
    assert named.get("/api/runs").status_code == 200
    assert named.get("/api/runs", headers={"Host": "evil.example"}).status_code == 400
    open_to_all = client(trained, cache=tmp_path / "b", host="0.0.0.0", base="http://any.name")
    assert open_to_all.get("/api/runs").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:9"},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    ],
)  # fmt: skip
def test_other_sites_may_not_ask(web, headers):
    full = web.get("/api/runs/0").json()["full"]
    question = {"point": full, "examples": [0]}
    refused = web.post("/api/runs/0/predict", json=question, headers=headers)
    assert "Another site" in said(refused, 403)
    assert "Another site" in said(web.get("/api/runs", headers=headers), 403)
    own = {"Origin": HOST, "Sec-Fetch-Site": "same-origin"}
    assert web.post("/api/runs/0/predict", json=question, headers=own).status_code == 200


def test_the_wrong_method_is_one_sentence(web):
    assert said(web.post("/api/runs", json={}), 405)
    assert said(web.delete("/api/runs/0"), 405)


def test_a_mistake_of_the_server_shows_no_traceback(web, monkeypatch):
    def broken(*_):
        raise RuntimeError("secret/path")

    monkeypatch.setattr(Views, "view", broken)
    assert "secret" not in said(web.get("/api/runs"), 500)


def test_words_are_asked_for_one_after_the_other():
    """A network of tokens is asked for the word in the middle, and says the likeliest."""

    class Next(torch.nn.Module):
        def forward(self, tokens):
            return torch.nn.functional.one_hot((tokens + 1) % 26, 26).float() * 9

    letters = torch.arange(12).reshape(2, 6)
    task = replace(resolve("digits"), text=lambda: lambda n: "".join(chr(97 + int(i)) for i in n))
    gallery = Gallery(task, TensorDataset(letters, letters + 1))
    given = answer(Next(), gallery, *gallery.item(1))
    assert (given.label, given.right) == ("k", True)
    wrong = answer(Next(), gallery, letters[:1] + 3, letters[:1])
    assert (wrong.label, wrong.right) == ("h", False)


def test_numbers_are_shown_as_they_are():
    gallery = Gallery(
        replace(resolve("digits"), classes=()), TensorDataset(torch.randn(4, 3), torch.randn(4))
    )
    inputs, target = gallery.item(0)
    given = answer(torch.nn.Linear(3, 1), gallery, inputs, target)
    assert given.right is None
    assert float(given.label)
    probabilities = answer(torch.nn.Softmax(1), gallery, inputs, torch.tensor([0]))
    assert sum(c.share for c in probabilities.top) == pytest.approx(1)


def test_what_is_not_installed_is_named(web, monkeypatch):
    def lacking(*_):
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx")

    monkeypatch.setattr(exports, "export", lacking)
    full = web.get("/api/runs/0").json()["full"]
    assert "widthwise[onnx]" in said(web.get(f"/api/runs/0/download/{full}.onnx"), 501)


@pytest.mark.parametrize("path", ASSETS)
def test_no_asset_asks_anything_outside(web, path):
    got = web.get(path)
    assert got.status_code == 200
    addresses = re.findall(r"""(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s"']*""", got.text)
    assert [a for a in addresses if a != "http://www.w3.org/2000/svg"] == []
    for name in re.findall(r"""(?:src|href|from)=?\s*["']([^"'#]+)["']""", got.text):
        assert name.startswith(("/", "data:,")), name
        assert not name.startswith("//")
    assert "'unsafe" not in got.headers["content-security-policy"]
    assert "default-src 'none'" in got.headers["content-security-policy"]
    assert got.headers["x-content-type-options"] == "nosniff"
    if path.endswith(".js"):
        assert not re.search(r"innerHTML|insertAdjacentHTML|eval\(|document\.write", got.text)


def test_the_check_for_outside_addresses_can_fail():
    found = re.findall(
        r"""(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s"']*""", 'src="//cdn.example.com/x"'
    )
    assert found == ["//cdn.example.com/x"]


def test_the_api_is_documented(web):
    paths = web.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/api/runs", "/api/runs/{run}", "/api/runs/{run}/examples", "/api/runs/{run}/predict",
        "/api/runs/{run}/differences/{point}", "/api/runs/{run}/download/{point}.{form}",
        "/api/runs/{run}/code/{point}",
    }  # fmt: skip
    for methods in paths.values():
        for about in methods.values():
            assert about["description"]


# The command.


def test_the_command_serves_until_it_is_stopped(trained):
    command = [sys.executable, "-m", "widthwise", "serve", str(trained), "--port", "0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert address is not None
        with urllib.request.urlopen(f"{address[0]}api/runs") as answer:  # it listens already
            assert json.load(answer)[0]["name"] == "digits"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, -signal.SIGINT, 130)
        assert "Traceback" not in process.stderr.read()


def test_the_command_says_what_is_wrong(tmp_path, trained):
    assert "widthwise train TASK" in fails("serve", tmp_path / "none")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "--port" in fails("serve", trained, "--port", port)


def test_without_fastapi_it_says_what_to_install(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "widthwise.app.serve.server", raising=False)
    assert "widthwise[serve]" in fails("serve", trained)


def test_the_command_line_needs_no_fastapi_until_it_serves():
    code = (
        "import sys; from widthwise.app.cli.main import command; command('serve');"
        "print([m for m in ('fastapi', 'uvicorn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_part_of_the_page_is_packaged():
    names = {p.name for p in files("widthwise.app.serve").iterdir()}
    assert {"page.html", "page.css", "page.js", "chart.js", "tryit.js"} <= names
    for path in Path(str(files("widthwise.app.serve"))).glob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path.name
