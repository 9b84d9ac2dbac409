"""Attention."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.base import IMAGE, STEPS, Net, floats, tokens


class SelfAttention(nn.Module):
    """nn.MultiheadAttention in a residual block; with weights, these are an output."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.need_weights = need_weights
        self.embed = nn.Linear(5, 12)
        self.attn = nn.MultiheadAttention(12, 3, batch_first=True)
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x)
        y, weights = self.attn(x, x, x, need_weights=self.need_weights)
        logits = self.head(self.norm(x + y))
        return (logits, weights) if self.need_weights else logits


class Encoder(nn.Module):
    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 12)
        layer = nn.TransformerEncoderLayer(
            12, 3, 16, dropout=0.1, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(dim=1))


class Translator(nn.Module):
    """nn.Transformer, encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.src = nn.Embedding(11, 12)
        self.tgt = nn.Embedding(13, 12)
        self.transformer = nn.Transformer(
            12, 2, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=20, batch_first=True
        )
        self.out = nn.Linear(12, 13)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.size(1))
        y = self.transformer(self.src(src), self.tgt(tgt), tgt_mask=mask, tgt_is_causal=True)
        return self.out(y)


class CrossAttention(nn.Module):
    """Written with einsum; queries and values have head sizes of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 3
        self.embed_x = nn.Linear(6, 10)
        self.embed_context = nn.Linear(7, 14)
        self.to_q = nn.Linear(10, 3 * 4, bias=False)
        self.to_k = nn.Linear(14, 3 * 4, bias=False)
        self.to_v = nn.Linear(14, 3 * 5, bias=False)
        self.to_out = nn.Linear(3 * 5, 10)
        self.head = nn.Linear(10, 2)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x, context = self.embed_x(x), torch.relu(self.embed_context(context))
        q, k, v = (
            t.unflatten(-1, (self.heads, -1))
            for t in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        scores = torch.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(q.shape[-1])
        y = torch.einsum("nhqk,nkhd->nqhd", scores.softmax(dim=-1), v)
        return self.head(x + self.to_out(y.flatten(2)))


class ViTAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = dim // heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, length, dim = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # N, H, L, D
        attn = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        x = (attn @ v).transpose(1, 2).reshape(n, length, dim)
        return self.proj(x)


class ViTBlock(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ViTAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 12, 4, stride=4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 12))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, 12) * 0.02)
        self.blocks = nn.Sequential(ViTBlock(12, 3, 18), ViTBlock(12, 3, 22))
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.blocks(x + self.pos_embed)
        return self.head(self.norm(x)[:, 0])


class GPTAttention(nn.Module):
    def __init__(self, dim: int, heads: int, block_size: int) -> None:
        super().__init__()
        self.c_attn = nn.Linear(dim, 3 * dim)
        self.c_proj = nn.Linear(dim, dim)
        self.n_head = heads
        self.n_embd = dim
        mask = torch.tril(torch.ones(block_size, block_size))
        self.register_buffer("bias", mask.view(1, 1, block_size, block_size))

    def forward(self, x: Tensor) -> Tensor:
        n, length, dim = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(n, length, self.n_head, dim // self.n_head).transpose(1, 2)
        q = q.view(n, length, self.n_head, dim // self.n_head).transpose(1, 2)
        v = v.view(n, length, self.n_head, dim // self.n_head).transpose(1, 2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :length, :length] == 0, float("-inf"))
        y = F.softmax(att, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(n, length, dim))


class GPTBlock(nn.Module):
    def __init__(self, dim: int, heads: int, block_size: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.attn = GPTAttention(dim, heads, block_size)
        self.ln_2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 20), nn.GELU(), nn.Linear(20, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(13, 12)
        self.wpe = nn.Embedding(8, 12)
        self.h = nn.ModuleList([GPTBlock(12, 3, 8) for _ in range(2)])
        self.ln_f = nn.LayerNorm(12)
        self.lm_head = nn.Linear(12, 13, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx: Tensor) -> Tensor:
        pos = torch.arange(0, idx.size(1), dtype=torch.long, device=idx.device)
        x = self.wte(idx) + self.wpe(pos)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Rotary(nn.Module):
    def __init__(self, head_dim: int, base: float = 10000.0) -> None:
        super().__init__()
        inv_freq = 1.0 / base ** (torch.arange(0, head_dim, 2).float() / head_dim)
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.arange(x.shape[1], device=x.device, dtype=self.inv_freq.dtype)
        freqs = torch.outer(t, self.inv_freq)
        emb = torch.cat((freqs, freqs), dim=-1)
        return emb.cos(), emb.sin()


def _rotate_half(x: Tensor) -> Tensor:
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def _repeat_kv(x: Tensor, n_rep: int) -> Tensor:
    n, kv_heads, length, head_dim = x.shape
    x = x[:, :, None, :, :].expand(n, kv_heads, n_rep, length, head_dim)
    return x.reshape(n, kv_heads * n_rep, length, head_dim)


class LlamaAttention(nn.Module):
    def __init__(self, dim: int, heads: int, kv_heads: int, head_dim: int, gqa: bool) -> None:
        super().__init__()
        self.num_heads = heads
        self.num_kv_heads = kv_heads
        self.head_dim = head_dim
        self.gqa = gqa
        self.q_proj = nn.Linear(dim, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        n, length, _ = x.shape
        q = self.q_proj(x).view(n, length, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(n, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(n, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
        q = q * cos + _rotate_half(q) * sin
        k = k * cos + _rotate_half(k) * sin
        if self.gqa:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            n_rep = self.num_heads // self.num_kv_heads
            k, v = _repeat_kv(k, n_rep), _repeat_kv(v, n_rep)
            scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.head_dim)
            mask = torch.full((length, length), float("-inf"), device=x.device).triu(1)
            y = torch.matmul(F.softmax(scores + mask, dim=-1), v)
        return self.o_proj(y.transpose(1, 2).reshape(n, length, -1))


class SwiGLU(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaBlock(nn.Module):
    def __init__(self, gqa: bool) -> None:
        super().__init__()
        self.norm1 = RMSNorm(10)
        self.attn = LlamaAttention(10, heads=4, kv_heads=2, head_dim=6, gqa=gqa)
        self.norm2 = RMSNorm(10)
        self.mlp = SwiGLU(10, 14)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Llama(nn.Module):
    def __init__(self, layers: int, gqa: bool) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(13, 10)
        self.rotary = Rotary(6)
        self.layers = nn.ModuleList([LlamaBlock(gqa) for _ in range(layers)])
        self.norm = RMSNorm(10)
        self.lm_head = nn.Linear(10, 13, bias=False)

    def forward(self, idx: Tensor) -> Tensor:
        x = self.embed_tokens(idx)
        cos, sin = self.rotary(x)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.norm(x))


ATTENTION: tuple[Net, ...] = (
    Net("mha", lambda: SelfAttention(False), STEPS, 3, "stream 12, heads 3, head size 4"),
    Net("mha_weights", lambda: SelfAttention(True), STEPS, 3, "stream 12, heads 3, head size 4"),
    Net("encoder", lambda: Encoder(False), STEPS, 7, "stream; heads, head size, 16 of 2 layers"),
    Net("encoder_norm_first", lambda: Encoder(True), STEPS, 7, "as encoder"),
    Net(
        "transformer",
        Translator,
        tokens((11, (3, 7)), (13, (3, 5))),
        9,
        "stream 12 (one, as the cross attention's weight reads both streams); heads and head size "
        "of 3 attentions; 20 twice",
    ),
    Net(
        "cross_attention",
        CrossAttention,
        floats((3, 5, 6), (3, 7, 7)),
        5,
        "10, 14, heads 3, head size 4 of queries and 5 of values",
    ),
    Net("vit", ViT, IMAGE, 7, "stream 12; heads 3, head size 4, hidden 18 / 22 of 2 blocks"),
    Net(
        "gpt",
        GPT,
        tokens((13, (3, 6))),
        9,
        "stream 12; heads 3, head size 4 of queries, 4 of values, hidden 20 of 2 blocks",
    ),
    Net(
        "llama",
        lambda: Llama(2, gqa=False),
        tokens((13, (3, 7))),
        10,
        "stream 10; rotary pairs 3 (one for all layers); key heads 2, queries to a key 2, head "
        "size 6 of values, hidden 14 of 2 blocks",
    ),
    Net("llama_sdpa", lambda: Llama(1, gqa=True), tokens((13, (3, 7))), 6, "as llama, one block"),
)
