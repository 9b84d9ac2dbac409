"""A network too large for memory: how long it takes to make it elastic, to prove it, and to cut it.

    python bench/large.py            # about a minute; needs transformers and 5 GB of disk

A Llama-style model of a billion parameters is built without weights, made elastic and cut to half
from a checkpoint of random weights in many files. Each part runs in a process of its own, whose
largest resident memory is compared with that after the imports. Writes bench/results/large.json.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import torchvision_operators
from common import record

INDEX = "model.safetensors.index.json"


def main() -> None:
    """Run both parts and write down what they took."""
    with tempfile.TemporaryDirectory() as folder:
        # Also in a process of its own: those that follow would inherit its peak.
        results = {
            "model": _measured("write", folder),
            "make elastic and prove": _measured("trace", folder),
            "cut a checkpoint to half": _measured("cut", folder),
        }
    print(json.dumps(results, indent=1))
    record("large", results)


def large_model() -> Any:
    """A Llama-style causal language model of 1.1 billion parameters, on the meta device."""
    torchvision_operators.declare()
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=2048,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=8192,
        vocab_size=32_000,
        use_cache=False,
        dtype=torch.bfloat16,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config).to(torch.bfloat16).eval()


def write(folder: Path) -> dict[str, Any]:
    """Random weights, a file for each layer and one for the rest; returns what was written."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in large_model().state_dict().items():
        layer = name.split(".")[2] if name.startswith("model.layers.") else "rest"
        groups.setdefault(layer, {})[name] = tensor
    where: dict[str, str] = {}
    for i, (layer, tensors) in enumerate(groups.items()):
        torch.manual_seed(i)
        file = f"model-{layer}.safetensors"
        made = {n: (0.02 * torch.randn(t.shape)).to(t.dtype) for n, t in tensors.items()}
        save_file(made, folder / file)
        where |= dict.fromkeys(tensors, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    every = [t for tensors in groups.values() for t in tensors.values()]
    return {
        "parameters": sum(t.numel() for t in every),
        "mb": round(sum(t.nbytes for t in every) / 1e6, 1),
        "files": len(groups),
    }


def trace() -> tuple[Any, dict[str, Any]]:
    """Make the model elastic, with the proof."""
    import widthwise as ww

    model = large_model()
    ids = torch.randint(0, 32_000, (2, 16))
    begin, base = time.perf_counter(), _peak()
    net = ww.Elastic(model, (), {"input_ids": ids})
    return net, {**_cost(begin, base), "axes": len(net.free)}


def cut(folder: str) -> dict[str, Any]:
    """Cut the checkpoint to half, tensor by tensor."""
    torchvision_operators.declare()
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    import widthwise as ww

    base = _peak()
    net, _ = trace()
    # What the model computes for itself is in no checkpoint.
    net.model.model.rotary_emb = LlamaRotaryEmbedding(net.model.config)
    begin = time.perf_counter()
    path = ww.cut_file(net, folder, Path(folder) / "half.out", widths=net.widths(0.5))
    largest = max(t.nbytes for t in net.state().values())
    return {
        **_cost(begin, base),
        "largest_tensor_mb": round(largest / 1e6, 1),
        "file_mb": round(path.stat().st_size / 1e6, 1),
    }


def _cost(begin: float, base: int) -> dict[str, Any]:
    seconds = time.perf_counter() - begin
    return {"seconds": round(seconds, 1), "peak_mb_above_imports": round((_peak() - base) / 1e3, 1)}


def _peak() -> int:
    """The largest resident memory of this process so far, in kB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _measured(part: str, folder: str) -> dict[str, Any]:
    """What one part reports from a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, part, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    if sys.argv[1:]:
        part, place = sys.argv[1:]
        done = {"write": lambda: write(Path(place)), "trace": lambda: trace()[1]}.get(part)
        print(json.dumps(done() if done else cut(place)))
    else:
        main()
