"""A language model on characters: a small GPT on the Penn Treebank.

    widthwise train ptb-char-gpt --out runs/gpt

The text is the one of the models on words (`language.py`), read character by character, spaces and
ends of lines included: 50 different ones. What is reported is bits for each character. The set that
papers call character-level Penn Treebank is another form of the text, so that figures do not
compare.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn

from widthwise.app.tasks.data import Published, content, remedy
from widthwise.app.tasks.language import PTB_FILES, Vocabulary, Windows, example_words
from widthwise.app.tasks.tokens import summed_loss, token_loss
from widthwise.app.tasks.transformer import Block
from widthwise.errors import DataError
from widthwise.measure.metric import Metric
from widthwise.task import Recipe, Splits, Task

PTB_CHARACTERS: Final = 50
LONGEST: Final = 128  # characters that the model looks back on


def _bits(nats: float) -> float:
    return nats / math.log(2)


BITS: Final = Metric("bits per character", summed_loss, higher_is_better=False, finish=_bits)


class GPT(nn.Module):
    """A decoder-only transformer (Radford et al., 2019) with learned positions.

    words: size V of the vocabulary. longest: characters that it can be given.
    forward: characters (B, T) int64, T <= longest -> logits (B, T, V) of the one after each.
    """

    def __init__(
        self,
        words: int,
        dim: int = 128,
        depth: int = 3,
        heads: int = 4,
        hidden: int = 512,
        longest: int = LONGEST,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, dim)
        self.position = nn.Parameter(torch.randn(longest, dim) * 0.02)
        blocks = (Block(dim, heads, hidden, causal=True) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, words)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words) + self.position[: words.shape[1]]  # (B, T, dim)
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def characters_of(file: Published) -> list[str]:
    """The characters of a text in order. Raises DataError when the file is missing or no text."""
    try:
        return list(content(file).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.name} of {file.data_set} is no text ({error}); {remedy(file)}."
        ) from error


def load_splits(files: tuple[Published, ...], length: int | None = None) -> Splits:
    """Windows of the train, valid and test text. files: those three.

    length: characters of the train text, from its beginning; None takes all. Train windows are
    shifted at random; in the others, half of a window is context that does not count.

    Raises DataError when a file is missing or damaged, or has characters that the train text lacks.
    """
    train = characters_of(files[0])
    vocabulary = Vocabulary.of(train)
    end = vocabulary.words.index("\n")

    def windows(file: Published) -> Windows:
        try:
            text = vocabulary.encode(characters_of(file))
        except KeyError as error:
            raise DataError(
                f"{file.name} of {file.data_set} has the character {error}, which {files[0].name} "
                f"lacks; {remedy(file)}."
            ) from error
        return Windows(text, end, span=LONGEST // 2, context=LONGEST // 2)

    text = vocabulary.encode(train[:length])
    return Splits(Windows(text, end, span=LONGEST, shift=True), *map(windows, files[1:]))


def _reader(files: tuple[Published, ...]) -> Callable[[Tensor], str]:
    words = Vocabulary.of(characters_of(files[0])).words
    return lambda numbers: "".join(words[i] for i in numbers.tolist())


def ptb() -> Task:
    """A GPT of three blocks on the characters of the Penn Treebank."""
    return Task(
        name="ptb-char-gpt",
        model=partial(GPT, PTB_CHARACTERS),
        example=partial(example_words, PTB_CHARACTERS),
        splits=partial(load_splits, PTB_FILES),
        loss=token_loss,
        metric=BITS,
        recipe=Recipe(epochs=4, batch_size=32, lr=2e-3, weight_decay=0.05, warmup=0.1, clip=1.0),
        text=partial(_reader, PTB_FILES),
    )
