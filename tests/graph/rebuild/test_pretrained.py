"""A cut transformers model is one: its configuration says its sizes, it saves, loads, generates."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import torchvision_operators
import widthwise as ww
from places import ROOT
from widthwise.graph.cut import cut_state
from widthwise.graph.rebuild.config import rebuilt

torchvision_operators.declare()
import transformers as hf  # noqa: E402 - torchvision must be importable before

CAUSAL = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ENCODER = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
WHISPER = {
    "vocab_size": 99,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 112,
    "decoder_ffn_dim": 112,
    "num_mel_bins": 10,
    "max_source_positions": 20,
    "max_target_positions": 30,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
}
T5 = {
    "vocab_size": 99,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 112,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": False,
}


class Logits(nn.Module):
    """A model of two inputs reduced to its logits: the encoder's states would be outputs too."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, first, second):
        inputs = {self.model.main_input_name: first, "decoder_input_ids": second}
        return self.model(**inputs, use_cache=False).logits


def tokens(*shape):
    return torch.randint(3, 99, shape, generator=torch.Generator().manual_seed(0))


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Network:
    """kind, config: as in transformers. inputs: by name. changed: numbers of the half's config."""

    kind: str
    config: Any
    inputs: dict[str, torch.Tensor]
    changed: dict[str, int]
    generates: bool = True


HEADS = {"num_attention_heads": 2}
MLP = {"intermediate_size": 56}
LLAMA = {"hidden_size": 32, **MLP, **HEADS, "num_key_value_heads": 1}
NETWORKS = {
    "llama": Network(
        "LlamaForCausalLM", hf.LlamaConfig(**CAUSAL), {"input_ids": tokens(2, 10)}, LLAMA
    ),
    "qwen3": Network(
        "Qwen3ForCausalLM",
        hf.Qwen3Config(**CAUSAL, head_dim=24, tie_word_embeddings=True),
        {"input_ids": tokens(2, 10)},
        LLAMA,
    ),
    "gpt2": Network(
        "GPT2LMHeadModel",
        hf.GPT2Config(
            vocab_size=99, n_embd=64, n_layer=2, n_head=4, n_positions=64, bos_token_id=1,
            eos_token_id=2, pad_token_id=0,
        ),
        {"input_ids": tokens(2, 10)},
        {"n_embd": 32, "n_head": 2},
    ),
    "bert": Network(
        "BertForSequenceClassification",
        hf.BertConfig(**ENCODER, vocab_size=99, max_position_embeddings=64),
        {"input_ids": tokens(2, 10)},
        {"hidden_size": 32, **MLP, **HEADS},
        generates=False,
    ),
    "t5": Network(
        "T5ForConditionalGeneration",
        hf.T5Config(**T5),
        {"input_ids": tokens(2, 10), "decoder_input_ids": tokens(2, 6)},
        {"d_model": 32, "d_ff": 56, "num_heads": 2},
    ),
    "whisper": Network(
        "WhisperForConditionalGeneration",
        hf.WhisperConfig(**WHISPER),
        {"input_features": noise(2, 10, 40), "decoder_input_ids": tokens(2, 6)},
        {
            "d_model": 32,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 56,
            "decoder_ffn_dim": 56,
        },
    ),
    "vit": Network(
        "ViTForImageClassification",
        hf.ViTConfig(**ENCODER, image_size=32, patch_size=8),
        {"pixel_values": noise(2, 3, 32, 32)},
        {"hidden_size": 32, **MLP, **HEADS},
        generates=False,
    ),
}  # fmt: skip

LOADER = """
import json, sys
from pathlib import Path
import torchvision_operators
torchvision_operators.declare()
import transformers
from safetensors.torch import load_file, save_file
for folder in Path(sys.argv[1]).iterdir():
    config = json.loads((folder / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0]).from_pretrained(folder)
    inputs = load_file(folder / "inputs.st")
    out = {"logits": model(**inputs).logits}
    if (folder / "generation_config.json").exists():
        first = inputs[model.main_input_name]
        out["tokens"] = model.generate(first, max_new_tokens=8, do_sample=False)
    save_file(out, folder / "outputs.st")
assert "widthwise" not in sys.modules
"""


@pytest.fixture(scope="module")
def cuts(tmp_path_factory):
    """Every network at full size and half, the half as saved, and what another process computes."""
    folder = tmp_path_factory.mktemp("saved")
    made = {name: cut_and_save(network, folder / name) for name, network in NETWORKS.items()}
    found = [str(Path(torchvision_operators.__file__).parent), os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [sys.executable, "-c", LOADER, str(folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(found), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return {
        name: SimpleNamespace(
            full=full, small=small, loaded=load_file(folder / name / "outputs.st")
        )
        for name, (full, small) in made.items()
    }


def cut_and_save(network, folder):
    torch.manual_seed(0)
    full = getattr(hf, network.kind)(network.config).eval()
    inputs = list(network.inputs.values())
    if len(inputs) == 2:
        net = ww.Elastic(Logits(full).eval(), tuple(inputs))
        small = net.cut(net.widths(0.5)).model
    else:
        net = ww.Elastic(full, inputs[0], {"use_cache": False} if network.generates else None)
        small = net.cut(net.widths(0.5))
    small.save_pretrained(folder)
    save_file(network.inputs, folder / "inputs.st")
    return full, small


@pytest.mark.parametrize("name", NETWORKS)
def test_the_configuration_says_the_sizes_and_nothing_else_changes(cuts, name):
    old, new = cuts[name].full.config.to_dict(), cuts[name].small.config.to_dict()
    assert type(cuts[name].small) is type(cuts[name].full)
    ignored = {"architectures", "dtype"}  # written by save_pretrained
    assert {k: v for k, v in new.items() if v != old[k] and k not in ignored} == (
        NETWORKS[name].changed
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_loaded_by_a_process_without_widthwise_it_computes_the_same(cuts, name):
    with torch.no_grad():
        mine = cuts[name].small(**NETWORKS[name].inputs).logits
    atol = 1e-6 * float(mine.abs().max())
    torch.testing.assert_close(cuts[name].loaded["logits"], mine, rtol=0, atol=atol)
    assert mine.std() > 1e-3  # not all alike, so that equal means something


@pytest.mark.parametrize("name", [n for n, network in NETWORKS.items() if network.generates])
def test_it_generates_with_a_cache_what_it_generates_without(cuts, name):
    small = cuts[name].small
    first = next(iter(NETWORKS[name].inputs.values()))
    with_cache, without = (
        small.generate(first, max_new_tokens=8, do_sample=False, use_cache=use)
        for use in (True, False)
    )
    assert torch.equal(with_cache, without)
    assert torch.equal(with_cache, cuts[name].loaded["tokens"])
    assert with_cache.shape[1] > 2


class Config:
    """A configuration as transformers has them, of the numbers given."""

    def __init__(self, **numbers):
        vars(self).update(numbers)

    def to_dict(self):
        return dict(vars(self))

    @classmethod
    def from_dict(cls, numbers):
        return cls(**numbers)


class Halving(Config):
    """One that does not keep what it is told."""

    def to_dict(self):
        return super().to_dict() | {"hidden": 8}


class Checking(Config):
    """One that refuses odd sizes when it is loaded."""

    @classmethod
    def from_dict(cls, numbers):
        if numbers["hidden"] % 8:
            raise ValueError("hidden must be a multiple of 8")
        return cls(**numbers)


class Attention(nn.Module):
    """Shapes do not show the number of heads."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.heads = config.heads
        self.up = nn.Linear(3, config.hidden)
        self.unused = nn.Linear(config.hidden, config.hidden)

    def forward(self, x):
        return self.up(x).unflatten(-1, (self.heads, -1))


class Scaled(Attention):
    """It computes a tensor from its sizes and does not save it."""

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("scale", torch.tensor(config.hidden**0.5), persistent=False)


def numbers(**changed):
    return {"hidden": 8, "heads": 4, "token_id": 4, "positions": 8, "layers": 4} | changed


def cut_to_half(model, heads=2):
    """The model rebuilt at half its features; heads: what its outputs ask for."""
    state = {"up.weight": nn.Parameter(model.up.weight[:4]), "up.bias": model.up.bias[:4]}
    state = {n: nn.Parameter(t.detach().clone()) for n, t in state.items()}
    if isinstance(model, Scaled):
        state["scale"] = model.scale.clone()
    sizes = {8: {4}, 4: {2}}
    return rebuilt(model, state, sizes, lambda m: None if m.heads == heads else "heads"), state


def test_only_what_must_change_does_and_tensors_are_shared():
    model = Attention(Config(**numbers())).train()
    model.up.eval()
    small, state = cut_to_half(model)
    assert small.config.to_dict() == numbers(hidden=4, heads=2)
    assert model.config.to_dict() == numbers()
    assert small.up.weight is state["up.weight"]
    assert torch.equal(small.unused.weight, model.unused.weight[:4, :4])
    assert small.training
    assert not small.up.training
    alike, _ = cut_to_half(model, heads=4)
    assert alike.config.to_dict() == numbers(hidden=4)


def test_a_module_around_a_configured_one_is_kept():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Attention(Config(**numbers()))
            self.note = "kept"

    around = Around()
    weight = nn.Parameter(around.inner.up.weight[:4].detach())
    bias = nn.Parameter(around.inner.up.bias[:4].detach())
    state = {"inner.up.weight": weight, "inner.up.bias": bias}
    small = rebuilt(around, state, {8: {4}}, lambda _: None)
    assert small.note == "kept"
    assert small.inner.up.weight is weight
    assert small.inner.config.hidden == 4
    assert around.inner.config.hidden == 8


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Linear(3, 8), "no configuration"),
        (Scaled(Config(**numbers())), "computes scale from its sizes"),
        (Attention(Halving(**numbers())), "changes these sizes when it is saved"),
        (Attention(Checking(**numbers())), "refuses the sizes (hidden must be a multiple of 8)"),
    ],
    ids=["none", "computed", "forgetful", "checking"],
)
def test_what_a_configuration_cannot_say_is_refused_with_the_reason(model, reason):
    if isinstance(model, nn.Linear):
        assert reason in rebuilt(model, {}, {8: {4}}, lambda _: None)
    else:
        assert reason in cut_to_half(model)[0]


def test_a_model_changed_since_it_was_built_is_refused():
    model = Attention(Config(**numbers()))
    model.unused = nn.Linear(8, 5)
    assert "does not describe it as it is (unused.weight" in cut_to_half(model)[0]


def test_outputs_that_always_differ_are_refused_with_what_differs():
    assert cut_to_half(Attention(Config(**numbers())), heads=3)[0] == "heads"


def test_a_class_that_needs_more_than_its_configuration_is_refused():
    class More(Attention):
        def __init__(self, config, more):
            super().__init__(config)

    assert "not built from its configuration alone" in cut_to_half(More(Config(**numbers()), 1))[0]


def test_layers_of_different_widths_are_refused_with_the_tensor_that_does_not_fit():
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**CAUSAL)).eval()
    net = ww.Elastic(model, tokens(2, 10), {"use_cache": False})
    kept = net.complete(dict(net.widths(0.5)) | {"model.layers.1.mlp.gate_proj": 30})
    state = cut_state(net.engine.relations, net.engine.table, kept, net.engine.state(), frozenset())
    sizes = {64: {32}, 112: {30, 56}, 4: {2}, 2: {1}}
    found = rebuilt(model, state, sizes, lambda _: None)
    assert "no sizes in its LlamaConfig give" in found
    assert "mlp" in found


def test_a_head_size_that_is_no_longer_the_default_is_said():
    model = hf.Qwen2ForCausalLM(hf.Qwen2Config(**CAUSAL)).eval()
    net = ww.Elastic(model, tokens(2, 10), {"use_cache": False})
    widths = {n: w for n, w in net.widths(0.5).items() if "heads" not in n}
    small = net.cut(widths)
    assert (small.config.hidden_size, small.config.num_attention_heads) == (32, 4)
    assert small.config.head_dim == 16
    assert "head_dim" not in model.config.to_dict()


def test_the_tutorials_section_runs(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"```py\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), "tutorial.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed == re.findall(r"print\(.*\)  # (.*)", "\n".join(blocks))
    assert len(printed) == 3
