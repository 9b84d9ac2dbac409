"""Translation: a recurrent encoder and decoder with attention, pairs of sentences, decoding.

Sentences are rows of piece numbers, padded to one length with `PAD`:

    source       . . . ein mann EOS       padding first, so that the last state is the end's
    target_in    BOS a man . .            what the decoder reads
    target       a man EOS . .            what it must predict; padding is IGNORED
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from widthwise.app.tasks.tokens import IGNORED
from widthwise.common.modes import evaluating

PAD, BOS, EOS = 0, 1, 2  # in this order the first three pieces of every vocabulary
Inputs = tuple[Tensor, Tensor]


class Pairs(Dataset[tuple[Inputs, Tensor]]):
    """Pairs of sentences: items ((source, target_in), target), padded as little as a batch allows.

    sources, targets: piece numbers of each sentence, without BOS and EOS.

    Raises ValueError when they differ in number.
    """

    def __init__(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> None:
        if len(sources) != len(targets):
            raise ValueError(f"There are {len(sources)} sources but {len(targets)} targets.")
        self.sources = [torch.tensor([*row, EOS]) for row in sources]
        self.targets = [torch.tensor([BOS, *row, EOS]) for row in targets]

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> tuple[Inputs, Tensor]:
        (source, target_in), target = self.batch(torch.tensor([index]))
        return (source[0], target_in[0]), target[0]

    def batch(self, indices: Tensor) -> tuple[Inputs, Tensor]:
        """The pairs at `indices` (B,) int64 -> source (B, S), target_in (B, T), target (B, T).

        S and T are the lengths of the longest sentences among them. Raises IndexError for an index
        outside -N..N-1.
        """
        picked = indices.tolist()
        rows = pad_sequence([self.targets[i] for i in picked], True, PAD)  # (B, T + 1)
        wanted = pad_sequence([self.targets[i][1:] for i in picked], True, IGNORED)
        return (self.source(picked), rows[:, :-1]), wanted

    def source(self, picked: Sequence[int]) -> Tensor:
        """The sources of these pairs, (B, S) int64."""
        rows = [self.sources[i] for i in picked]
        return pad_sequence(rows, True, PAD, padding_side="left")


class Translator(nn.Module):
    """LSTM encoder and decoder with Luong's "general" attention (2015), without input feeding.

    Without input feeding the decoder's steps need nothing of the attention's, so that training runs
    over all of them at once. Padding in front of a source is read too, as zeros; attention does not
    see it.

    pieces: size V of the vocabulary, both languages in one.
    forward: source (B, S), target_in (B, T), int64, each source with something other than padding
    -> logits (B, T, V) of the piece after each of target_in.
    """

    def __init__(
        self, pieces: int, embedding: int, hidden: int, layers: int = 1, dropout: float = 0.3
    ) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0
        self.source_embedding = nn.Embedding(pieces, embedding, padding_idx=PAD)
        self.target_embedding = nn.Embedding(pieces, embedding, padding_idx=PAD)
        self.encoder = nn.LSTM(embedding, hidden, layers, batch_first=True, dropout=between)
        self.decoder = nn.LSTM(embedding, hidden, layers, batch_first=True, dropout=between)
        self.attention = nn.Linear(hidden, hidden, bias=False)
        self.combine = nn.Linear(2 * hidden, hidden)
        self.head = nn.Linear(hidden, pieces)
        self.dropout = nn.Dropout(dropout)

    def forward(self, source: Tensor, target_in: Tensor) -> Tensor:
        memory, state = self.encoder(self.dropout(self.source_embedding(source)))  # (B, S, H)
        x, _ = self.decoder(self.dropout(self.target_embedding(target_in)), state)  # (B, T, H)
        scores = self.attention(x) @ memory.transpose(1, 2)  # (B, T, S)
        scores = scores.masked_fill((source == PAD)[:, None, :], float("-inf"))
        context = scores.softmax(dim=-1) @ memory  # (B, T, H)
        x = torch.tanh(self.combine(torch.cat((context, x), dim=-1)))
        logits: Tensor = self.head(self.dropout(x))
        return logits


def decode(
    module: Callable[[Tensor, Tensor], Tensor], source: Tensor, longest: int = 80
) -> list[list[int]]:
    """Translate greedily: the likeliest next piece, again and again, until EOS.

    module: as `Translator`, in evaluation mode. Any network with its inputs and outputs does, since
    the whole beginning is read again for each piece.
    source: (B, S) int64, on the module's device. longest: pieces after which a sentence is left.

    Returns the pieces of each sentence without BOS and EOS.
    """
    ended = torch.zeros(len(source), dtype=torch.bool, device=source.device)
    row = torch.full((len(source), longest + 1), PAD, device=source.device)
    row[:, 0] = BOS
    for t in range(longest):
        logits = module(source, row[:, : t + 1])[:, -1]  # (B, V)
        row[:, t + 1] = torch.where(ended, PAD, logits.argmax(dim=-1))
        ended |= row[:, t + 1] == EOS
        if ended.all():
            break
    return [_until_end(sentence) for sentence in row[:, 1:].tolist()]


def _until_end(sentence: list[int]) -> list[int]:
    for i, piece in enumerate(sentence):
        if piece in (EOS, PAD):
            return sentence[:i]
    return sentence


def translate(module: nn.Module, pairs: Pairs, batch_size: int = 128) -> list[list[int]]:
    """The pieces that `module` makes of every source of `pairs`, in their order."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    order = sorted(range(len(pairs)), key=lambda i: len(pairs.sources[i]))  # alike in length
    found: dict[int, list[int]] = {}
    with evaluating(module):
        for begin in range(0, len(order), batch_size):
            picked = order[begin : begin + batch_size]
            made = decode(module, pairs.source(picked).to(device))
            found.update(zip(picked, made, strict=True))
    return [found[i] for i in range(len(pairs))]
