"""The block of transformers, as tasks on images and on text share it."""

from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention with one linear layer for queries, keys and values.

    causal: whether a position sees itself and those before it alone.
    forward: (B, T, dim) -> (B, T, dim). `heads` divides `dim`.
    """

    def __init__(self, dim: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.heads = heads
        self.head_dim = dim // heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, T, head_dim)
        x = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x.transpose(1, 2)  # (B, T, heads, head_dim)
        y: Tensor = self.proj(x.reshape(b, t, self.heads * self.head_dim))
        return y


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each after a layer norm and added to its input.

    forward: (B, T, dim) -> (B, T, dim).
    """

    def __init__(self, dim: int, heads: int, hidden: int, *, causal: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, causal=causal)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + y
