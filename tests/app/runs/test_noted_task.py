"""A file knows its task, and no file decides what is run."""

import pytest
from torch import nn

import widthwise as ww
from command_line import fails, works
from widthwise.app.tasks.noted import task_of, without_folder
from widthwise.app.tasks.resolve import resolve
from widthwise.errors import TaskError
from widthwise.store.file import read_manifest

MINE = """
from dataclasses import replace
from widthwise.app.tasks.digits import task as digits

def mine():
    return replace(digits(), name="mine")
"""


@pytest.fixture
def small():
    task = resolve("digits")
    net = ww.Elastic(task.model(), task.example())
    return net, net.widths(0.25)


@pytest.mark.parametrize("pack", ["none", "zeros"])
def test_a_file_notes_its_task_and_is_as_large_as_without(small, pack, tmp_path):
    net, widths = small
    kept = [
        ww.save(net, tmp_path / name, widths=widths, pack=pack, task=name)
        for name in ("digits", "mine.py:task")
    ]
    assert [read_manifest(path).task for path in kept] == ["digits", "mine.py:task"]
    plain = ww.save(net, tmp_path / "plain", widths=widths, pack=pack)
    assert read_manifest(plain).task == ""
    assert {path.stat().st_size for path in (*kept, plain)} == {plain.stat().st_size}
    # What the notes have no room for is left out: a budget comes first.
    long = ww.save(net, tmp_path / "long", widths=widths, pack=pack, task=f"{'x' * 200}:task")
    assert read_manifest(long).task == ""
    assert long.stat().st_size == plain.stat().st_size


def test_a_file_is_exported_from_anywhere(small, tmp_path, monkeypatch):
    net, widths = small
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file = ww.save(net, tmp_path / "small.safetensors", widths=widths, task="digits")
    assert "gives what PyTorch gives" in works("export", file, "--out", "small.onnx")


@pytest.mark.parametrize("where", ["beside it", "current folder"])
def test_a_task_of_one_s_own_is_found_near_the_file(small, where, tmp_path, monkeypatch):
    net, widths = small
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    task = (tmp_path if where == "beside it" else tmp_path / "here") / "mine.py"
    task.write_text(MINE)
    file = ww.save(net, tmp_path / "small.safetensors", widths=widths, task="mine.py:mine")
    assert task_of("mine.py:mine", file) == f"{task}:mine"
    works("export", file, "--format", "torch", "--out", "small.pt2")
    task.rename(tmp_path / "other.py")
    assert "--task PATH/mine.py:mine" in fails("export", file, "--out", "b.onnx")
    works("export", file, "--task", tmp_path / "other.py:mine", "--format", "torch", "--out", "b")


def test_no_file_decides_what_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "small.safetensors"
    (tmp_path / "setup.py").write_text("def wipe():\n    raise SystemExit('it ran')\n")
    (tmp_path / "broken.py").write_text("import widthwise\ndef task(:\n")
    (tmp_path / "other.py").write_text("import widthwise\ndef another():\n    pass\n")
    for noted in ("setup.py:wipe", "broken.py:task", "other.py:task", "gone.py:task"):
        with pytest.raises(TaskError, match="--task PATH/"):
            task_of(noted, file)
    for noted in ("shutil:rmtree", "../setup.py:wipe", "/tmp/x.py:task"):
        with pytest.raises(TaskError, match="not run without your word"):
            task_of(noted, file)
    with pytest.raises(TaskError, match="does not say"):
        task_of("", file)
    ww.save(nn.Linear(2, 2), file, task="shutil:rmtree")
    assert "--task shutil:rmtree" in fails("export", file, "--out", "a.onnx")


def test_files_note_no_folder():
    assert without_folder("/home/ada/mine.py:task") == "mine.py:task"
    assert without_folder("package.module:task") == "package.module:task"
    assert without_folder("digits") == "digits"
