"""A network already trained: ordered, swept, cut, trained on and pruned, from the command line."""

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import widthwise as ww
from command_line import fails, widthwise, works
from widthwise import pruning
from widthwise.app.report.picks import load_picks
from widthwise.app.runs import cuts, measuring, opening, postprocessing, prunings, training
from widthwise.app.runs.folder import Run, hold
from widthwise.app.runs.postprocessing import (
    EPOCHS,
    PostProcess,
    PostProcessing,
    fine_tuning,
    initialise,
)
from widthwise.app.runs.record import ORDERED
from widthwise.app.runs.sources import find, model_of
from widthwise.app.tasks.resolve import resolve
from widthwise.common.units import format_size
from widthwise.errors import ScoreError, TrainingError
from widthwise.measure.frontier import Frontier
from widthwise.pruning.scores import registry
from widthwise.store import scorefile
from widthwise.store.file import load, read_manifest
from widthwise.train.recipe import Recipe

TASKS = """
from dataclasses import replace
from pathlib import Path
import torch
from torch import nn
from widthwise.app.tasks.digits import task as digits

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.conv2, self.norm2 = nn.Conv2d(12, 16, 3, stride=2), nn.BatchNorm2d(16)
        self.out = nn.Linear(16, 10)
    def forward(self, x):
        x = torch.relu(self.norm1(self.conv1(x.unsqueeze(1))))
        x = torch.relu(self.norm2(self.conv2(x)))
        return self.out(x.mean(dim=(2, 3)))

class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 64) / 8)
    def forward(self, x):
        return x.flatten(1) @ self.weight.T

def conv():
    return replace(digits(), name="conv", model=Net)

def owned():
    return replace(digits(), name="owned", weights=lambda: Path("own.safetensors"))

def bare():
    return replace(digits(), name="bare", model=Bare)
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A network trained at full width only."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    works("train", "digits", "--out", folder, "--method", "plain", "--epochs", 12)
    return folder


@pytest.fixture(scope="module")
def made(plain, tmp_path_factory) -> Path:
    """It ordered and swept; to be copied before it is changed."""
    folder = tmp_path_factory.mktemp("ordered") / "run"
    works("order", "digits", "--from", plain, "--out", folder)
    works("sweep", folder, "--no-latency")
    return folder


@pytest.fixture
def ordered(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def network(run: Path) -> nn.Module:
    return load(Run(run).model, build=resolve("digits").model)


def inputs() -> torch.Tensor:
    return resolve("digits").splits().valid.inputs


# Where weights come from.


def test_a_run_its_file_a_state_dict_and_the_task_s_own_are_the_same_weights(plain, tmp_path):
    task = resolve("digits")
    expected = network(plain)
    save_file(expected.state_dict(), tmp_path / "plain.safetensors")
    for given in (plain, Run(plain).model, tmp_path / "plain.safetensors"):
        model = model_of(task, find(task, given))
        assert type(model) is type(expected)
        assert not model.training
        assert torch.equal(model(inputs()), expected(inputs()))
    own = replace(task, weights=lambda: tmp_path / "plain.safetensors")
    assert torch.equal(model_of(own, find(own))(inputs()), expected(inputs()))


def test_a_source_goes_by_what_is_in_the_file(plain, tmp_path):
    task = resolve("digits")
    copy = Path(shutil.copy(Run(plain).model, tmp_path / "copy.safetensors"))
    assert find(task, copy).sha256 == find(task, plain).sha256
    save_file(network(plain).state_dict(), copy)
    assert find(task, copy).sha256 != find(task, plain).sha256


def harmed(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def altered(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def pickled(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


def another(path: Path) -> None:
    save_file(nn.Linear(3, 4).state_dict(), path)


def of_another_size(path: Path) -> None:
    save_file({n: t[:5].clone() for n, t in resolve("digits").model().state_dict().items()}, path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (harmed, "is damaged or no safetensors file"),
        (altered, "truncated or damaged"),
        (pickled, r"no safetensors file .*safetensors\.torch\.save_file"),
        (another, "another network, not of task 'digits' .it lacks"),
        (of_another_size, r"fc1\.\w+ is of shape \(5,.* instead of \(64,.*--from"),
        (Path.unlink, "There is no file or folder .*--from"),
    ],
)
def test_a_source_that_cannot_be_used_is_one_sentence(plain, tmp_path, make, said):
    file = Path(shutil.copy(Run(plain).model, tmp_path / "source.safetensors"))
    make(file)
    for words in (
        ["order", "digits", "--out", tmp_path / "run"],
        ["train", "digits", "--out", tmp_path / "run", "--epochs", 1],
        ["prune", "digits", "--out", tmp_path / "x.safetensors", "--sparsity", 0.5],
    ):
        assert re.search(said, fails(*words, "--from", file))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "x.safetensors").exists()


def test_a_cut_file_is_no_source(ordered, tmp_path):
    works("cut", ordered, "--fraction", 0.5, "--out", tmp_path / "half.safetensors")
    said = fails(
        "order", "digits", "--from", tmp_path / "half.safetensors", "--out", tmp_path / "x"
    )
    assert "holds a network that was cut" in said


def test_a_task_without_weights_needs_some(tmp_path):
    said = fails("order", "digits", "--out", tmp_path / "run")
    assert "comes without trained weights; give some with --from" in said
    assert not (tmp_path / "run").exists()


def test_a_task_s_own_weights_are_taken_where_none_are_given(plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(TASKS)
    assert "cannot be read" in fails("order", "mine.py:owned", "--out", "run")
    save_file(network(plain).state_dict(), "own.safetensors")
    works("order", "mine.py:owned", "--out", "run", "--score", "magnitude")
    record = Run(Path("run")).record()
    assert record.source == "own.safetensors"
    assert record.results == Run(plain).record().results
    said = works("prune", "mine.py:owned", "--sparsity", 0.2, "--out", "x.safetensors")
    assert f"valid {100 * record.results['valid']:.2f} % before" in said


def test_folders_that_hold_no_finished_run_are_no_source(plain, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no run.json" in fails("order", "digits", "--from", tmp_path / "empty", "--out", "x")
    run = Path(shutil.copytree(plain, tmp_path / "begun"))
    Run(run).write(replace(Run(run).record(), status="interrupted"))
    assert "not finished" in fails("order", "digits", "--from", run, "--out", tmp_path / "x")


def test_a_run_does_not_replace_its_source(plain, tmp_path):
    run = Path(shutil.copytree(plain, tmp_path / "run"))
    for command in ("order", "train"):
        words = [command, "digits", "--from", run, "--out", run, "--overwrite"]
        assert "read from" in fails(*words)
    words = [
        "prune",
        "digits",
        "--from",
        run,
        "--sparsity",
        0.5,
        "--out",
        run / "model.safetensors",
    ]
    assert "belongs to the run" in fails(*words)
    shutil.copy(run / "model.safetensors", tmp_path / "a.safetensors")
    words = ["prune", "digits", "--from", tmp_path / "a.safetensors", "--sparsity", 0.5]
    assert "read from" in fails(*words, "--out", tmp_path / "a.safetensors")
    assert torch.equal(network(run)(inputs()), network(plain)(inputs()))


# Ordering.


def test_an_ordered_network_computes_what_it_did(plain, made):
    torch.testing.assert_close(network(made)(inputs()), network(plain)(inputs()))
    scores = scorefile.read(Run(made).scores)
    assert {name: len(s) for name, s in scores.items()} == {"fc1": 64, "fc2": 64}
    for values in scores.values():
        assert (values[:-1] >= values[1:]).all()


def test_an_ordered_run_says_how_it_came_about(plain, made):
    record = Run(made).record()
    assert record.status == "finished"
    assert record.settings.method == ORDERED
    assert record.settings.order == {"score": "output-error", "samples": 2000}
    assert record.settings.source == find(resolve("digits"), plain).sha256
    assert record.source == str(Run(plain).model)
    assert record.command == f"widthwise order digits --out {made} --from {plain}"
    assert record.results == Run(plain).record().results
    page = Run(made).page.read_text()
    assert "output-error scores on at most 2,000 training samples" in page


def test_the_first_features_are_better_than_the_last(made):
    """Once the rest makes up for what went, which is what these scores estimate."""
    task = resolve("digits")
    net = ww.Elastic(network(made), task.example())
    data = task.splits()
    batches = measuring.sample(task, data, 1000, 0)
    widths = net.widths(0.15)
    values = []
    for _ in ("first", "last"):
        small = pruning.reconstruct_(net.cut(widths), net, widths, batches)
        values.append(measuring.evaluation(task, data, "valid")(small))
        pruning.order_(net, {name: torch.arange(64.0) for name in net.free})  # turns it round
    assert values[0] > values[1] + 0.04


def test_a_sweep_by_scores_gives_each_axis_a_width_of_its_own(made):
    frontier = Frontier.load(Run(made).frontier)
    assert 10 <= len(frontier.points) <= 16
    opened = opening.open_run(Run(made))
    levels = pruning.allocated_levels(opened.net, scorefile.read(Run(made).scores), 16)
    assert {p.widths for p in frontier.points} == set(levels)
    assert any(p.widths["fc1"] != p.widths["fc2"] for p in frontier.points)
    assert min(min(p.widths.values()) for p in frontier.points) < 8
    full = max(frontier.points, key=lambda p: p.bytes)
    assert full.metric == Run(made).record().results["valid"]


def test_a_sweep_shows_what_cuts_deliver(made, ordered, tmp_path):
    """To the last digit, reconstructed or not; a cut of a swept run does as the sweep did."""
    out = tmp_path / "x.safetensors"
    plain = ["sweep", ordered, "--no-latency", "--no-reconstruct"]
    assert "post-processing" not in works(*plain).split("Next")[0]
    swept = [Frontier.load(Run(folder).frontier) for folder in (made, ordered)]
    assert [frontier.post_process for frontier in swept] == ["reconstruct", ""]
    assert "reconstruct, at every width" in Run(made).page.read_text()
    assert "at every width" not in Run(ordered).page.read_text()
    reconstructed, bare = (f.pick(max_bytes=7000) for f in swept)
    assert reconstructed.metric > bare.metric + 0.2
    wider = swept[0].pick(max_bytes=15_000)
    opened = opening.open_run(Run(ordered))
    for frontier, point in ((swept[1], bare), (swept[0], reconstructed), (swept[0], wider)):
        frontier.save(opened.run.frontier)
        (pick,) = cuts.cut(opened, [point.widths], [out])
        assert (pick.valid, pick.bytes) == (point.metric, point.bytes)


def test_a_cut_does_as_the_sweep_did_unless_told_otherwise(ordered, tmp_path):
    words = ["cut", ordered, "--fraction", 0.2, "--out", tmp_path / "x.safetensors"]
    done = {}

    def cut(name: str, *more: object) -> None:
        said = works(*words, *more)
        done[name] = load_picks(Run(ordered).picks)[0].valid
        assert ("post-processing reconstruct" in said) == (name != "plain"), said

    cut("swept")
    (ordered / "frontier.json").unlink()
    cut("not swept")
    cut("plain", "--post-process", "none")
    assert done["swept"] == done["not swept"] > (done["plain"] or 0) + 0.2
    works("sweep", ordered, "--no-latency", "--num-widths", 2, "--no-reconstruct")
    cut("plain")
    cut("told", "--post-process", "reconstruct")
    assert done["told"] == done["swept"]
    assert "nothing was cut" in widthwise(*words[:3], 1, *words[4:]).stderr


def test_a_trained_run_is_reconstructed_only_when_asked_for(plain, tmp_path):
    run = Path(shutil.copytree(plain, tmp_path / "run"))
    words = ["cut", run, "--fraction", 0.2, "--out", tmp_path / "x.safetensors"]
    assert "post-processing" not in works(*words)
    sweep = ["sweep", run, "--no-latency", "--num-widths", 4]
    assert "post-processing" not in works(*sweep)
    assert "post-processing" not in works(*words)
    assert "(valid, post-processing reconstruct)" in works(*sweep, "--reconstruct")
    assert "post-processing reconstruct" in works(*words)
    assert works("pick", run, "--max-bytes", "20kB").endswith("post-processing   reconstruct\n")
    replace(Frontier.load(run / "frontier.json"), post_process="magic").save(run / "frontier.json")
    assert "unknown post-processing ('magic'); name one with --post-process" in fails(*words)
    works(*words, "--post-process", "none")


def test_what_cannot_be_reconstructed_is_swept_when_told_so(ordered, monkeypatch):
    def raises(*_: object, **__: object) -> None:
        raise ScoreError("What it reads is not finite.")

    monkeypatch.setattr(postprocessing, "reconstruct_", raises)
    before = (ordered / "frontier.json").read_bytes()
    said = fails("sweep", ordered, "--no-latency", "--num-widths", 2)
    assert "is not finite. Or leave the cuts as they are: --no-reconstruct." in said
    assert (ordered / "frontier.json").read_bytes() == before
    works("sweep", ordered, "--no-latency", "--num-widths", 2, "--no-reconstruct")


def test_a_sweep_by_fraction_goes_down_to_one_feature(ordered):
    said = works("sweep", ordered, "--no-latency", "--allocation", "fraction")
    assert "widths by scores" not in said
    points = Frontier.load(Run(ordered).frontier).points
    assert sorted(p.widths["fc1"] for p in points) == list(range(1, 65))
    assert "widths by scores" in works("sweep", ordered, "--no-latency", "--num-widths", 4)
    assert len(Frontier.load(Run(ordered).frontier).points) == 4


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "score", ["obd", "obd-sd", "taylor", "dropout-ablation", "magnitude", "activation"]
)
def test_every_score_orders_and_only_comparable_ones_allocate(plain, tmp_path, score):
    run = tmp_path / "run"
    words = ["order", "digits", "--from", plain, "--out", run, "--score", score, "--samples", 300]
    assert f"by {score} scores" in works(*words, "--seed", 3)
    assert Run(run).record().settings.seed == 3
    torch.testing.assert_close(network(run)(inputs()), network(plain)(inputs()))
    said = works("sweep", run, "--no-latency", "--num-widths", 3)
    assert ("widths by scores" in said) == (score not in ("magnitude", "activation"))


def test_chance_is_a_function_of_its_seed(plain, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        words = ["--score", "random", "--samples", 1, "--seed", seed, "--out", tmp_path / name]
        works("order", "digits", "--from", plain, *words)
    a, b, c = (scorefile.read(tmp_path / n / "scores.safetensors")["fc1"] for n in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_the_same_order_is_left_alone_and_another_needs_a_word(plain, ordered):
    before = {p.name: p.read_bytes() for p in ordered.iterdir()}
    again = ["order", "digits", "--from", plain, "--out", ordered]
    assert works(*again).startswith("Finished before")
    assert "score output-error rather than obd" in fails(*again, "--score", "obd")
    assert "method ordered rather than default" in fails("train", "digits", "--out", ordered)
    assert {p.name: p.read_bytes() for p in ordered.iterdir()} == before
    works(*again, "--score", "obd", "--overwrite")
    assert Run(ordered).record().settings.order["score"] == "obd"
    assert not Run(ordered).frontier.exists()


def test_a_changed_source_is_another_run(plain, ordered, tmp_path):
    changed = Path(shutil.copytree(plain, tmp_path / "changed"))
    works("train", "digits", "--out", changed, "--epochs", 1, "--overwrite")
    said = fails("order", "digits", "--from", changed, "--out", ordered)
    assert re.search(r"source \w{12}\.\.\. rather than \w{12}\.\.\.; give another", said)


def test_an_interrupted_order_leaves_nothing_and_is_begun_again(plain, tmp_path, monkeypatch):
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    words = ["order", "digits", "--from", plain, "--out", tmp_path / "run", "--score", "magnitude"]
    monkeypatch.setitem(registry.SCORES, "magnitude", registry.Score("magnitude", stopped))
    result = widthwise(*words)
    assert result.exit_code == 130
    assert "Interrupted; the same command begins again" in result.stderr
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    monkeypatch.setattr(scorefile, "write", stopped)
    assert widthwise(*words).exit_code == 130
    assert "not finished" in fails("sweep", tmp_path / "run")
    monkeypatch.undo()
    assert works(*words).startswith("Ordered")
    assert Run(tmp_path / "run").record().status == "finished"


def test_an_order_in_a_folder_in_use_or_of_other_things_is_refused(plain, ordered, tmp_path):
    words = ["order", "digits", "--from", plain, "--out"]
    with hold(ordered):
        assert "in use" in fails(*words, ordered)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    assert "holds no run" in fails(*words, tmp_path / "notes", "--overwrite")


@pytest.mark.filterwarnings("default::widthwise.elastic.network.NothingToCutWarning")
def test_a_network_with_nothing_to_cut_is_not_ordered(tmp_path):
    (tmp_path / "mine.py").write_text(TASKS)
    task = f"{tmp_path}/mine.py:bare"
    save_file(resolve(task).model().state_dict(), tmp_path / "bare.safetensors")
    result = widthwise(
        "order", task, "--from", tmp_path / "bare.safetensors", "--out", tmp_path / "run"
    )
    assert result.exit_code == 1
    assert "there is nothing to order" in result.stderr


@pytest.mark.parametrize("harm", [harmed, pickled, Path.unlink])
def test_damaged_scores_are_one_sentence(ordered, harm):
    harm(ordered / "scores.safetensors")
    before = (ordered / "frontier.json").read_bytes()
    fails("sweep", ordered, "--no-latency")
    assert (ordered / "frontier.json").read_bytes() == before
    works("sweep", ordered, "--no-latency", "--allocation", "fraction", "--num-widths", 2)


def test_scores_of_another_network_are_one_sentence(ordered):
    scorefile.write(ordered / "scores.safetensors", {"fc1": torch.ones(3)})
    assert "of another network" in fails("sweep", ordered)


def test_a_run_without_scores_is_swept_by_fraction(plain, tmp_path):
    run = Path(shutil.copytree(plain, tmp_path / "run"))
    assert "--allocation fraction" in fails("sweep", run, "--allocation", "scores")
    works("sweep", run, "--no-latency", "--num-widths", 2)


# Post-processing.


def test_all_post_processing_is_stored(ordered, tmp_path):
    out = tmp_path / "small.safetensors"
    found = {}
    for how in PostProcess:
        more = ["--epochs", 2] if how in (PostProcess.FINE_TUNE, PostProcess.SCRATCH) else []
        said = works("cut", ordered, "--fraction", 0.3, "--out", out, "--post-process", how, *more)
        (found[how],) = load_picks(Run(ordered).picks)
        assert f"test {100 * (found[how].test or 0):.2f} %" in said
        assert read_manifest(out).widths == {"fc1": 19, "fc2": 19}
    values = {how: pick.valid or 0 for how, pick in found.items()}
    assert len(set(values.values())) >= 5
    for how in (
        PostProcess.REFIT,
        PostProcess.RECONSTRUCT,
        PostProcess.FINE_TUNE,
        PostProcess.DISTILL,
    ):
        assert values[how] > values[PostProcess.NONE]


def test_steps_go_one_after_the_other(ordered, tmp_path):
    words = ["cut", ordered, "--fraction", 0.2, "--out", tmp_path / "x.safetensors"]
    values = []
    for names in (["merge"], ["merge", "reconstruct"], ["merge", "reconstruct", "fine-tune"]):
        works(*words, *(word for name in names for word in ("--post-process", name)))
        values.append(load_picks(Run(ordered).picks)[0].valid or 0)
    assert values[0] < values[1]
    assert len(set(values)) == 3


def test_a_cut_is_a_function_of_its_seed(ordered, tmp_path):
    files = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.safetensors"
        more = ["--post-process", "scratch", "--post-process", "reconstruct", "--epochs", 1]
        works("cut", ordered, "--width", "fc1=9", "--out", out, *more)
        files.append(out.read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"names": (PostProcess.NONE, PostProcess.REFIT)},
        {"names": (PostProcess.REFIT, PostProcess.MERGE)},
        {"names": (PostProcess.MERGE, PostProcess.SCRATCH)},
        {"names": (PostProcess.REFIT,), "epochs": 3},
        {"lr": 0.1},
        {"names": (PostProcess.SCRATCH,), "epochs": 0},
        {"names": (PostProcess.FINE_TUNE,), "lr": -1.0},
    ],
)
def test_steps_that_do_not_go_together(wrong):
    with pytest.raises(ValueError, match=r"\.$"):
        PostProcessing(**wrong)


def test_a_fine_tuning_is_short_and_slow():
    recipe = Recipe(epochs=60, batch_size=64, lr=5e-3)
    assert fine_tuning(recipe) == Recipe(epochs=EPOCHS, batch_size=64, lr=5e-4)
    assert fine_tuning(recipe, 2, 0.1) == Recipe(epochs=2, batch_size=64, lr=0.1)


def test_a_module_is_newly_initialised_as_a_whole_or_not_at_all():
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    before = [p.clone() for p in module.parameters()]
    state = torch.random.get_rng_state()
    initialise(module, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(torch.equal(a, b) for a, b in zip(before[:2], module.parameters(), strict=False))
    first = module[0].weight.clone()
    assert not torch.equal(initialise(module, 2)[0].weight, first)
    assert torch.equal(initialise(module, 1)[0].weight, first)

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)
            self.scale = nn.Parameter(torch.ones(2))

    bare = nn.Sequential(Bare())
    kept = bare[0].inner.weight.clone()
    with pytest.raises(TrainingError, match=r"Sequential cannot be newly .* 0 \(Bare\).*fine-tune"):
        initialise(bare, 0)
    assert torch.equal(bare[0].inner.weight, kept)


def test_a_cut_that_cannot_be_written_says_so_before_the_work(ordered, tmp_path, monkeypatch):
    monkeypatch.setattr(cuts, "begun", lambda *_: 1 / 0)
    words = ["cut", ordered, "--fraction", 0.5, "--out"]
    assert "There is no folder" in fails(*words, tmp_path / "none" / "x.safetensors")
    assert "is a folder" in fails(*words, tmp_path)
    assert "belongs to the run" in fails(*words, ordered / "scores.safetensors")


def test_convolutions_with_batch_norm_go_all_the_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(TASKS)
    works("train", "mine.py:conv", "--out", "plain", "--method", "plain", "--epochs", 6)
    works("order", "mine.py:conv", "--from", "plain", "--out", "run", "--samples", 500)
    said = works("sweep", "run", "--no-latency", "--num-widths", 4)
    assert "post-processing reconstruct" in " ".join(said.split())
    point = Frontier.load(Run(Path("run")).frontier).points[1]
    words = [w for axis, n in point.widths.items() for w in ("--width", f"{axis}={n}")]
    works("cut", "run", "--out", "swept.safetensors", *words)
    (pick,) = load_picks(Run(Path("run")).picks)
    assert (pick.valid, pick.bytes) == (point.metric, point.bytes)
    for how in ("none", "reconstruct", "scratch", "fine-tune", "distill", "refit"):
        more = ["--epochs", 1] if how in ("scratch", "fine-tune") else []
        words = ["--fraction", 0.5, "--out", f"run/{how}.safetensors", "--post-process", how]
        works("cut", "run", *words, *more)
    values = {pick.name: pick.valid or 0 for pick in load_picks(Run(Path("run")).picks)}
    assert values["reconstruct"] > values["none"]
    works("export", "run/reconstruct.safetensors", "--out", "small.onnx")


# Training on.


def test_training_starts_from_the_weights_given(plain, made, tmp_path):
    out = tmp_path / "run"
    words = ["train", "digits", "--from", made, "--out", out, "--method", "plain", "--epochs", 1]
    works(*words, "--lr", 1e-9)
    record = Run(out).record()
    assert record.results == Run(plain).record().results
    assert record.settings.source == find(resolve("digits"), made).sha256
    assert record.source == str(Run(made).model)
    assert f"--from {made}" in record.command
    said = fails("train", "digits", "--out", out, "--epochs", 1, "--lr", 1e-9, "--method", "plain")
    assert re.search(r"source \w{12}\.\.\. rather than none", said)


def test_elastic_fine_tuning_makes_narrow_widths_work(made, tmp_path):
    out = tmp_path / "elastic"
    works("train", "digits", "--from", made, "--out", out, "--epochs", 3)
    works("sweep", out, "--no-latency", "--num-widths", 6, "--no-reconstruct")
    assert Run(out).record().settings.order == Run(made).record().settings.order
    task = resolve("digits")
    evaluate = measuring.evaluation(task, task.splits(), "valid")
    net = opening.open_run(Run(made)).net
    for point in Frontier.load(Run(out).frontier).points[1:3]:
        assert point.metric > evaluate(net.cut(point.widths))


def test_an_interrupted_fine_tuning_is_continued(made, tmp_path, monkeypatch):
    words = ["train", "digits", "--from", made, "--out", tmp_path / "run", "--epochs", 2]
    monkeypatch.setattr(training, "store_checked", lambda *_: 1 / 0)
    assert "ZeroDivisionError" in fails(*words)
    monkeypatch.undo()
    result = widthwise(*words)
    assert result.stdout.startswith("Continued and finished")
    works(*words[:4], "--out", tmp_path / "whole", "--epochs", 2)
    assert torch.equal(network(tmp_path / "run")(inputs()), network(tmp_path / "whole")(inputs()))


# Pruning.


@pytest.mark.sample(2)
@pytest.mark.parametrize("score", ["magnitude", "obd", "obd-sd", "taylor", "random"])
def test_pruning_leaves_the_share_of_zeros_asked_for(plain, tmp_path, score):
    out = tmp_path / "sparse.safetensors"
    words = ["prune", "digits", "--from", plain, "--sparsity", 0.5, "--out", out]
    said = works(*words, "--score", score, "--samples", 300)
    assert "4,416 of 8,832 weights are zero (50.00 %)" in said
    assert "of all 8,970 parameters 50.77 % are not zero" in said
    pruned = load(out, build=resolve("digits").model)
    weights = [p for p in pruned.parameters() if p.dim() > 1]
    assert sum(int((p == 0).sum()) for p in weights) == 4416
    assert all((p != 0).all() for p in pruned.parameters() if p.dim() == 1)
    size, whole = out.stat().st_size, Run(plain).model.stat().st_size
    # 1 bit in the place of half of the weights' 32; and what the header says of it.
    assert abs(whole - 4 * 4416 + 8832 / 8 - size) < 1000
    # 4,554 non-zeros, the weights' bit mask
    assert f"{format_size(size)}; {format_size(4 * 4554 + 8832 // 8)} by the formula" in said
    task = resolve("digits")
    value = measuring.evaluation(task, task.splits(), "test")(pruned)
    assert f"{100 * value:.2f} % after" in said
    assert f"valid {100 * Run(plain).record().results['valid']:.2f} % before" in said
    works("export", out, "--task", "digits", "--out", tmp_path / "sparse.onnx")


def test_how_weights_compete(plain, tmp_path):
    words = ["prune", "digits", "--from", plain, "--sparsity", 0.5, "--samples", 300]
    for score, usual in (("magnitude", "lamp"), ("obd", "global")):
        shares = {}
        for scope in ("", "lamp", "global", "layer"):
            out = tmp_path / f"{score}-{scope}.safetensors"
            works(*words, "--score", score, "--out", out, *(["--scope", scope] if scope else []))
            pruned = load(out, build=resolve("digits").model)
            shares[scope] = [round(int((p == 0).sum()) / p.numel(), 3) for p in pruned.parameters()]
        assert shares[""] == shares[usual]
        assert {*shares["layer"]} <= {0.0, 0.5}
        assert shares["lamp"] != shares["global"] != shares["layer"]


def test_a_pruned_network_is_packed_compressed_or_dense(plain, tmp_path):
    words = ["prune", "digits", "--from", plain, "--sparsity", 0.9, "--out"]
    files = {}
    for name, more in [("a", []), ("b", ["--compress", "zstd"]), ("c", ["--dense"])]:
        files[name] = tmp_path / f"{name}.safetensors"
        said = works(*words, files[name], *more)
        assert ("with its zeros" in said) == (name == "c")
    sizes = {name: file.stat().st_size for name, file in files.items()}
    assert sizes["b"] <= sizes["a"] < sizes["c"] / 4
    assert abs(sizes["c"] - Run(plain).model.stat().st_size) < 100
    made = [load(file, build=resolve("digits").model).state_dict() for file in files.values()]
    assert all(torch.equal(made[0][n], m[n]) for m in made[1:] for n in m)
    assert "not both" in widthwise(*words, files["a"], "--dense", "--compress", "zstd").stderr
    # Packed weights are weights to start from, like any others.
    said = works(*words, tmp_path / "d.safetensors", "--from", files["a"])
    assert "(90.00 %)" in said


def test_a_missing_package_is_said_before_the_work_is_done(plain, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setattr(pruning, "prune_", None)
    words = ["prune", "digits", "--from", plain, "--sparsity", 0.5, "--compress", "zstd"]
    said = fails(*words, "--out", tmp_path / "x.safetensors")
    assert "pip install 'widthwise[zstd]'" in said
    assert list(tmp_path.iterdir()) == []


def test_rounds_with_fine_tuning_are_better_and_keep_the_zeros(plain, tmp_path):
    task = resolve("digits")
    source = find(task, plain)
    done = [
        prunings.prune(task, source, tmp_path / "x.safetensors", how)
        for how in (
            prunings.Pruning(0.9),
            prunings.Pruning(0.9, "obd", rounds=2, fine_tune=4, samples=500),
        )
    ]
    assert done[0].zeros == done[1].zeros == round(0.9 * 8832)
    assert done[0].before == done[1].before == Run(plain).record().results
    assert done[1].after["valid"] > done[0].after["valid"]
    assert (done[0].weights, done[0].params) == (8832, 8970)


def test_a_sparsity_of_nothing_says_so(plain, tmp_path):
    out = tmp_path / "x.safetensors"
    result = widthwise("prune", "digits", "--from", plain, "--sparsity", 0, "--out", out)
    assert result.exit_code == 0
    assert "nothing was pruned" in result.stderr


@pytest.mark.parametrize("sparsity", ["1", "-0.1", "1.5", "nan"])
def test_an_impossible_sparsity_is_one_sentence(plain, tmp_path, sparsity):
    words = ["prune", "digits", "--from", plain, "--out", tmp_path / "x.safetensors"]
    assert "give a share from 0 to below 1" in fails(*words, "--sparsity", sparsity)
    assert list(tmp_path.iterdir()) == []


def test_what_pruning_cannot_do_is_one_sentence(plain, tmp_path, monkeypatch):
    words = ["prune", "digits", "--from", plain, "--sparsity"]
    out = tmp_path / "x.safetensors"
    assert "nothing is left of" in fails(*words, 0.9999, "--score", "random", "--out", out)
    assert "no folder" in fails(*words, 0.5, "--out", tmp_path / "none" / "x.safetensors")

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pruning, "prune_", stopped)
    assert widthwise(*words, 0.5, "--out", out).exit_code == 130
    assert list(tmp_path.iterdir()) == []
