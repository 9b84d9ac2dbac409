"""Cuts of a run in few bits: they fit, are quantized, and are what one by one would give."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import widthwise as ww
from command_line import fails, widthwise, works
from widthwise.app.report.picks import load_picks
from widthwise.app.runs import cuts_in_bits, measuring, opening
from widthwise.app.runs.folder import Run
from widthwise.app.tasks.resolve import resolve
from widthwise.errors import BudgetError
from widthwise.quantization import StraightThrough, Uniform, quantizable
from widthwise.store.file import load
from widthwise.variants.apply import variant_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    works("train", "digits", "--out", folder, "--epochs", 12)
    return folder


@pytest.fixture
def opened(trained):
    return opening.open_run(Run(trained))


@pytest.mark.sample(1)
@pytest.mark.parametrize("bits", [2, 4])
def test_budgets_are_kept_in_few_bits(trained, tmp_path, bits):
    out = tmp_path / "small"
    said = works(
        "cut", trained, "--max-bytes", "2kB", "--max-bytes", "3kB", "--bits", bits, "--out", out
    )
    assert "distill, bits" in said
    assert "nothing was cut" not in said
    task, noted = resolve("digits"), {p.name: p for p in load_picks(Run(trained).picks)}
    for name, most in (("2.00kB", 2000), ("3.00kB", 3000)):
        path = out / f"{name}.safetensors"
        assert 0.8 * most < path.stat().st_size <= most
        assert {*variant_of(path).bits.values()} == {Uniform(bits)}
        read = load(path, build=task.model)
        for weight in (p for p in read.parameters() if p.dim() >= 2):
            assert all(len(row.unique()) <= 2**bits for row in weight)
        test = measuring.evaluation(task, task.splits(), "test")(read)
        assert test == noted[name].test


def test_few_bits_beat_floats_of_as_many_bytes(trained, tmp_path):
    found = {}
    works("sweep", trained, "--no-latency")
    for name, how in (("floats", ()), ("coded", ("--bits", 4))):
        works("cut", trained, "--max-bytes", "2kB", *how, "--out", tmp_path / f"{name}.safetensors")
        found[name] = next(p for p in load_picks(Run(trained).picks) if p.name == name)
    assert found["coded"].valid > found["floats"].valid + 0.2
    assert found["coded"].widths["fc1"] > found["floats"].widths["fc1"]


def test_one_by_one_they_are_the_same(opened, tmp_path):
    names = ("2kB", "3kB")
    together = [tmp_path / f"{name}.safetensors" for name in names]
    cuts_in_bits.cut_to_bytes(opened, [3], names, together)
    for name, path in zip(names, together, strict=True):
        alone = tmp_path / f"alone-{name}.safetensors"
        cuts_in_bits.cut_to_bytes(opened, [3], [name], [alone])
        assert alone.read_bytes() == path.read_bytes()


def test_widths_that_are_named_are_kept(trained, tmp_path):
    out = tmp_path / "own.safetensors"
    works("cut", trained, "--width", "fc1=9", "--bits", 3, "--out", out)
    assert dict(variant_of(out).widths) == {"fc1": 9, "fc2": 64}
    assert {*variant_of(out).bits.values()} == {Uniform(3)}


@pytest.mark.parametrize("times", [1, 2])
def test_what_grows_in_training_is_made_again_narrower(opened, tmp_path, monkeypatch, times):
    asked = []
    honest = cuts_in_bits.taught

    def grown(opened, bits, widths, data, **how):
        asked.append(widths)
        made = honest(opened, bits, widths, data, **how)
        return [replace(m, bytes=2100) for m in made] if len(asked) <= times else made

    monkeypatch.setattr(cuts_in_bits, "taught", grown)
    out = tmp_path / "small.safetensors"
    cuts_in_bits.cut_to_bytes(opened, [4], ["2kB"], [out])
    sizes = [widths["fc1"] for (widths,) in asked]
    assert len(sizes) == times + 1
    assert sizes == sorted(set(sizes), reverse=True)
    assert out.stat().st_size <= 2000


def test_what_never_fits_is_one_sentence_and_leaves_nothing(opened, tmp_path, monkeypatch):
    honest = cuts_in_bits.taught
    monkeypatch.setattr(
        cuts_in_bits, "taught", lambda *a, **k: [replace(m, bytes=2001) for m in honest(*a, **k)]
    )
    out = tmp_path / "small.safetensors"
    with pytest.raises(BudgetError, match="once it is trained; allow a little more"):
        cuts_in_bits.cut_to_bytes(opened, [4], ["2kB"], [out])
    assert not out.exists()


def test_of_several_bits_the_best_on_validation_data_is_kept(opened, tmp_path):
    found = {}
    for bits in (2, 8):
        out = tmp_path / f"{bits}.safetensors"
        (found[bits],) = cuts_in_bits.cut_to_bytes(opened, [bits], ["1kB"], [out])
    best = max(found, key=lambda bits: found[bits].valid or 0.0)
    out = tmp_path / "best.safetensors"
    (pick,) = cuts_in_bits.cut_to_bytes(opened, [2, 8], ["1kB"], [out])
    assert out.read_bytes() == (tmp_path / f"{best}.safetensors").read_bytes()
    assert pick.valid == found[best].valid
    # Where one of them has nothing so small, the other is taken.
    (small,) = cuts_in_bits.cut_to_bytes(opened, [8, 2], ["800"], [out])
    assert small.bytes <= 800
    assert {*variant_of(out).bits.values()} == {Uniform(2)}


def test_a_budget_below_everything_names_the_smallest(trained, tmp_path):
    budgets = ("--max-bytes", "2kB", "--max-bytes", "300")
    said = fails("cut", trained, *budgets, "--bits", 4, "--out", tmp_path / "x")
    assert "the smallest has" in said
    assert not [*tmp_path.glob("x/*")]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--post-process", "none"), "--bits has a training of its own"),
        (("--format", "onnx"), "--bits has a training of its own"),
        (("--min-metric", 0.5), "--min-metric is of networks in floats"),
        (("--max-macs", 1000), "--bits takes --max-bytes alone"),
    ],
)
def test_what_does_not_go_with_bits_is_refused(trained, tmp_path, words, why):
    out = tmp_path / "x.safetensors"
    shown = widthwise("cut", trained, "--max-bytes", "2kB", "--bits", 4, *words, "--out", out)
    assert shown.exit_code == 2
    assert why in " ".join(shown.output.replace("│", " ").split())
    assert not out.exists()


def test_a_task_without_distillation_teaches_nothing_but_targets(opened, tmp_path):
    alone = replace(opened, task=replace(opened.task, distill=None))
    (pick,) = cuts_in_bits.cut_to_bytes(alone, [4], ["2kB"], [tmp_path / "small.safetensors"])
    assert pick.post_process == "fine-tune, bits"
    assert (pick.test or 0) > 0.8


def test_several_are_distilled_in_few_bits_as_each_alone():
    torch.manual_seed(0)
    x, y = torch.randn(256, 12), torch.randint(3, (256,))
    layers = torch.nn.Linear(12, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3)
    net = ww.Elastic(torch.nn.Sequential(*layers), x[:4])
    form = Uniform(3)

    def taught(*shares: float) -> list[torch.nn.Module]:
        cuts = torch.nn.ModuleList(net.cut(s) for s in shares)
        quantizer = StraightThrough(cuts, dict.fromkeys(quantizable(cuts), form))
        ww.distill(
            cuts,
            ww.Teacher(net, criterion=F.cross_entropy),
            (x, y),
            recipe=ww.Recipe(epochs=2, batch_size=256, lr=1e-3),
            quantizer=quantizer,
        )
        for name, found in quantizer.record.items():
            assert torch.equal(cuts.get_parameter(name), found.dense())
        return list(cuts)

    both = taught(0.3, 0.6)
    for share, module in zip((0.3, 0.6), both, strict=True):
        (alone,) = taught(share)
        for ours, theirs in zip(module.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)
