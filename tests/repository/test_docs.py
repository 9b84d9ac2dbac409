"""What the documents say is true: their code runs, their figures are those of the results."""

import re
import subprocess
import sys
import warnings

import pytest

import widthwise as ww
from places import ROOT

FENCE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(page, language):
    """The fenced blocks of a page in one language."""
    return [text for name, text in FENCE.findall((ROOT / page).read_text()) if name == language]


def test_the_tutorial_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks("docs/tutorial.md", "python"))
    scope = {"__name__": "tutorial"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(code, "tutorial.md", "exec"), scope)
    printed = capsys.readouterr().out
    (explained,) = blocks("docs/tutorial.md", "text")
    assert explained in printed
    assert (tmp_path / "small.onnx").exists()
    assert scope["point"].bytes <= 20_000
    test = scope["test"]
    assert ww.Evaluation([test], ww.ACCURACY)(scope["again"]) > 0.9
    assert scope["task"]().name == "mine"
    assert ww.Evaluation([test], ww.ACCURACY)(scope["pruned"].eval()) > 0.9
    assert scope["found"].best.bytes <= 6_000
    best = ww.load(tmp_path / "best.safetensors", build=scope["Net"])
    assert ww.Evaluation([test], ww.ACCURACY)(best) > 0.9
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("sparse", "dense")]
    assert sizes[0] < 0.2 * sizes[1]


def test_the_readmes_lines_run(tmp_path, monkeypatch, capsys):
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    monkeypatch.chdir(tmp_path)

    def make_model():
        first, second, last = nn.Linear(20, 64), nn.Linear(64, 64), nn.Linear(64, 5)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)

    torch.manual_seed(0)
    x, y = torch.randn(200, 20), torch.randint(5, (200,))
    scope = {
        "model": make_model(),
        "make_model": make_model,
        "train": TensorDataset(x, y),
        "x": x[:4],
        "batches": [(x, y)],
    }
    (code,) = blocks("README.md", "python")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(code, "README.md", "exec"), scope)
    assert "2 axes can be cut" in capsys.readouterr().out
    assert torch.equal(scope["again"](x), scope["small"].eval()(x))
    assert len(code.strip().splitlines()) <= 13


def test_the_page_for_those_who_come_from_elsewhere_runs():
    pytest.importorskip("torch_pruning")
    code = "\n".join(blocks("docs/migrate.md", "python"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(code, "migrate.md", "exec"), {"__name__": "migrate"})


def test_the_page_on_extending_runs():
    """In a process of its own, since what it registers stays."""
    code = "\n".join(blocks("docs/extend.md", "python"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    (shown,) = blocks("docs/extend.md", "text")
    assert (done.stdout, done.returncode) == (shown, 0), done.stderr


@pytest.mark.parametrize(
    "script", ["results_page", "findings_page", "comparison_page", "cli_reference"]
)
def test_what_is_generated_is_current(script):
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def headings(page):
    """What links call the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_of_the_documents_leads_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target, heading in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
            if target.startswith("http"):
                continue
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.name}: {target}"
            assert not heading or heading in headings(linked), f"{page.name}: {target}#{heading}"
