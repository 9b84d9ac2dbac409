"""Language and speech networks of transformers, from small configurations.

Two layers, 64 wide, 4 heads (2 of keys and values where they are grouped), 99 words. The models
are given as they are; `use_cache` is off, since a cache is state and not an output.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from bench.zoo.network import Made, Network

LENGTH = 7  # of a text, in words
WORDS = 99

DECODER = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**DECODER, "num_key_value_heads": 2}
HEADED = {**GROUPED, "head_dim": 16}
GPT = {"vocab_size": WORDS, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 4}
ENCODER = {**DECODER, "type_vocab_size": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
BART = {
    "vocab_size": WORDS,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5 = {"vocab_size": WORDS, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4}
SPEECH = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def words(high: int = WORDS, length: int = LENGTH) -> torch.Tensor:
    """Random text, (2, length)."""
    return torch.randint(3, high, (2, length))


def text() -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A text for a model that keeps no cache."""
    return (words(),), {}


def uncached() -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A text for a model that would return its cache."""
    return (words(),), {"use_cache": False}


def pair() -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Two texts, for encoder and decoder."""
    return (words(),), {"decoder_input_ids": words(length=5), "use_cache": False}


def sound() -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Half a tenth of a second of sound at 16 kHz."""
    return (torch.randn(2, 800),), {}


def spectrum_and_text() -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A log-mel spectrum of 20 bands and a text."""
    return (torch.randn(2, 20, 32),), {"decoder_input_ids": words(length=5), "use_cache": False}


def spectrum() -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A spectrum of 64 steps and 32 bands."""
    return (torch.randn(2, 64, 32),), {}


def make(
    model: str,
    options: dict[str, Any],
    example: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]],
) -> Made:
    """A model class of transformers with the configuration that it names."""
    kind = getattr(transformers, model)
    return kind(kind.config_class(**options)), *example()


def _networks(
    example: Callable[[], Any], table: dict[str, tuple[str, dict[str, Any]]]
) -> tuple[Network, ...]:
    return tuple(
        Network(f"transformers/{name}", partial(make, model, options, example))
        for name, (model, options) in table.items()
    )


DECODERS = _networks(
    uncached,
    {
        "bamba": (
            "BambaForCausalLM",
            {
                **GROUPED,
                "attn_layer_indices": [1],
                "mamba_n_heads": 8,
                "mamba_d_state": 8,
                "mamba_d_head": 16,
            },
        ),
        "bloom": (
            "BloomForCausalLM",
            {"vocab_size": WORDS, "hidden_size": 64, "n_layer": 2, "n_head": 4},
        ),
        "codegen": ("CodeGenForCausalLM", {**GPT, "rotary_dim": 8}),
        "cohere": ("CohereForCausalLM", GROUPED),
        "deepseek_v3": (
            "DeepseekV3ForCausalLM",
            {
                **DECODER,
                "num_key_value_heads": 4,
                "moe_intermediate_size": 48,
                "n_routed_experts": 4,
                "n_shared_experts": 1,
                "num_experts_per_tok": 2,
                "n_group": 2,
                "topk_group": 1,
                "kv_lora_rank": 24,
                "q_lora_rank": 40,
                "qk_rope_head_dim": 8,
                "v_head_dim": 16,
                "qk_nope_head_dim": 16,
                "first_k_dense_replace": 1,
            },
        ),
        "exaone4": ("Exaone4ForCausalLM", {**GROUPED, "sliding_window": 4}),
        "falcon": (
            "FalconForCausalLM",
            {**DECODER, "new_decoder_architecture": True, "num_kv_heads": 2},
        ),
        "gemma": ("GemmaForCausalLM", HEADED),
        "gemma2": ("Gemma2ForCausalLM", HEADED),
        "gemma3": ("Gemma3ForCausalLM", HEADED),
        "glm": ("GlmForCausalLM", HEADED),
        "gpt2": ("GPT2LMHeadModel", GPT),
        "gpt_bigcode": ("GPTBigCodeForCausalLM", GPT),
        "gpt_neo": (
            "GPTNeoForCausalLM",
            {
                "vocab_size": WORDS,
                "hidden_size": 64,
                "num_layers": 2,
                "num_heads": 4,
                "attention_types": [[["global", "local"], 1]],
                "max_position_embeddings": 64,
            },
        ),
        "gpt_neox": ("GPTNeoXForCausalLM", DECODER),
        "gpt_oss": (
            "GptOssForCausalLM",
            {**HEADED, "num_local_experts": 4, "num_experts_per_tok": 2},
        ),
        "gptj": ("GPTJForCausalLM", {**GPT, "rotary_dim": 8}),
        "granite": ("GraniteForCausalLM", GROUPED),
        "helium": ("HeliumForCausalLM", HEADED),
        "llama": ("LlamaForCausalLM", GROUPED),
        "mamba": (
            "MambaForCausalLM",
            {"vocab_size": WORDS, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
        ),
        "mamba2": (
            "Mamba2ForCausalLM",
            {
                "vocab_size": WORDS,
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "state_size": 8,
                "num_heads": 8,
                "head_dim": 16,
                "n_groups": 2,
                "chunk_size": 8,
            },
        ),
        "mistral": ("MistralForCausalLM", GROUPED),
        "mixtral": ("MixtralForCausalLM", {**GROUPED, "num_local_experts": 4}),
        "mpt": (
            "MptForCausalLM",
            {"vocab_size": WORDS, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
        ),
        "nemotron": ("NemotronForCausalLM", GROUPED),
        "olmo": ("OlmoForCausalLM", GROUPED),
        "olmo2": ("Olmo2ForCausalLM", GROUPED),
        "olmoe": ("OlmoeForCausalLM", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
        "opt": ("OPTForCausalLM", {**DECODER, "ffn_dim": 96, "word_embed_proj_dim": 64}),
        "persimmon": ("PersimmonForCausalLM", DECODER),
        "phi": ("PhiForCausalLM", GROUPED),
        "phi3": ("Phi3ForCausalLM", GROUPED),
        "qwen2": ("Qwen2ForCausalLM", GROUPED),
        "qwen2_moe": (
            "Qwen2MoeForCausalLM",
            {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 48},
        ),
        "qwen3": ("Qwen3ForCausalLM", HEADED),
        "qwen3_moe": ("Qwen3MoeForCausalLM", {**HEADED, **EXPERTS}),
        "smollm3": ("SmolLM3ForCausalLM", GROUPED),
        "stablelm": ("StableLmForCausalLM", GROUPED),
        "starcoder2": ("Starcoder2ForCausalLM", GROUPED),
    },
)
ENCODERS = _networks(
    text,
    {
        "albert": ("AlbertForSequenceClassification", {**ENCODER, "embedding_size": 24}),
        "bert": ("BertForSequenceClassification", ENCODER),
        "convbert": ("ConvBertForSequenceClassification", {**ENCODER, "embedding_size": 24}),
        "deberta_v2": (
            "DebertaV2ForSequenceClassification",
            {
                **ENCODER,
                "relative_attention": True,
                "pos_att_type": ["c2p", "p2c"],
                "position_buckets": 8,
                "norm_rel_ebd": "layer_norm",
            },
        ),
        "distilbert": (
            "DistilBertForSequenceClassification",
            {"vocab_size": WORDS, "dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 4},
        ),
        "electra": ("ElectraForSequenceClassification", {**ENCODER, "embedding_size": 24}),
        "esm": ("EsmForSequenceClassification", ENCODER),
        "fnet": ("FNetForSequenceClassification", ENCODER),
        "mobilebert": (
            "MobileBertForSequenceClassification",
            {**ENCODER, "embedding_size": 24, "intra_bottleneck_size": 32, "true_hidden_size": 32},
        ),
        "modernbert": ("ModernBertForSequenceClassification", DECODER),
        "mpnet": ("MPNetForSequenceClassification", ENCODER),
        "nystromformer": ("NystromformerForSequenceClassification", ENCODER),
        "roberta": ("RobertaForSequenceClassification", ENCODER),
        "roformer": ("RoFormerForSequenceClassification", ENCODER),
        "squeezebert": ("SqueezeBertForSequenceClassification", {**ENCODER, "embedding_size": 64}),
        "xlnet": (
            "XLNetForSequenceClassification",
            {
                "vocab_size": WORDS,
                "d_model": 64,
                "n_layer": 2,
                "n_head": 4,
                "d_inner": 96,
                "use_mems_eval": False,
            },
        ),
    },
)
BOTH = _networks(
    pair,
    {
        "bart": ("BartForConditionalGeneration", BART),
        "marian": ("MarianMTModel", BART),
        "mbart": ("MBartForConditionalGeneration", BART),
        "pegasus": ("PegasusForConditionalGeneration", BART),
        "t5": ("T5ForConditionalGeneration", T5),
        "t5_gated": (
            "T5ForConditionalGeneration",
            {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        ),
    },
)
HEARING = (
    *_networks(
        sound,
        {
            "hubert": ("HubertForCTC", SPEECH),
            "wav2vec2": ("Wav2Vec2ForCTC", SPEECH),
            "wavlm": ("WavLMForCTC", SPEECH),
        },
    ),
    *_networks(
        spectrum_and_text,
        {
            "whisper": (
                "WhisperForConditionalGeneration",
                {
                    **BART,
                    "num_mel_bins": 20,
                    "max_source_positions": 16,
                    "max_target_positions": 16,
                    "begin_suppress_tokens": None,
                    "suppress_tokens": None,
                },
            )
        },
    ),
    *_networks(
        spectrum,
        {
            "ast": (
                "ASTForAudioClassification",
                {
                    "hidden_size": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "intermediate_size": 96,
                    "max_length": 64,
                    "num_mel_bins": 32,
                    "num_labels": 5,
                },
            )
        },
    ),
)

NETWORKS = (*DECODERS, *ENCODERS, *BOTH, *HEARING)
