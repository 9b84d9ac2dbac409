"""The wheel holds all that runs, and needs no package of the extras to cut, store and load."""

import os
import subprocess
import sys
import zipfile

import pytest

from places import ROOT

SCRIPT = """
import sys

# What only the extras bring is not there.
for name in ("matplotlib", "plotly", "optuna", "fastapi", "uvicorn", "onnx", "onnxruntime",
             "onnxscript", "sklearn", "PIL", "tokenizers", "transformers", "torchvision", "timm",
             "ray", "zstandard", "sacrebleu", "lightning", "torch_pruning"):
    sys.modules[name] = None
import torch
from torch import nn
import widthwise as ww

print(ww.__file__)
def make():
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))

x = torch.randn(64, 8)
net = ww.Elastic(make(), (x,))
data = torch.utils.data.TensorDataset(x, torch.randint(3, (64,)))
quiet = ww.RunConfig(progress=False)
ww.fit(net, data, nn.functional.cross_entropy, recipe=ww.Recipe(epochs=2), run=quiet)
widths = net.widths(0.5)
ww.save(net, "half.safetensors", widths=widths)
small = ww.load("half.safetensors", build=make)
print(torch.equal(small(x), net.cut(widths)(x)))
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The wheel's files, in a folder that nothing of the repository is in."""
    made = tmp_path_factory.mktemp("wheel")
    copied = made / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "src", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    if not tracked:
        pytest.skip("this is no checkout of the repository")
    for name in tracked:
        if (ROOT / name).exists():
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            (copied / name).write_bytes((ROOT / name).read_bytes())
    words = ["-m", "pip", "wheel", str(copied), "--no-deps", "--no-build-isolation", "-q", "-w"]
    subprocess.run([sys.executable, *words, str(made)], check=True, capture_output=True)
    (wheel,) = made.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(made / "site")
    return made / "site"


def test_every_file_of_the_package_is_in_it(unpacked):
    source = ROOT / "src" / "widthwise"
    wanted = [p for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    missing = [p for p in wanted if not (unpacked / "widthwise" / p.relative_to(source)).exists()]
    assert missing == []


def test_the_core_alone_trains_cuts_stores_and_loads(unpacked, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    place, same = done.stdout.split()[-2:]
    assert place.startswith(str(unpacked))
    assert same == "True"
