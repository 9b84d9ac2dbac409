"""Multi30k, English to German: what is in a picture, told in a sentence (Elliott et al., 2016).

Task 1 of the data set: 29,000 pairs of sentences to train on, 1,014 to choose on, and the 1,000 of
test_2016_flickr, as raw text. Both languages share one vocabulary of byte pairs (Sennrich et al.,
2016), which is learned again from the train text wherever it is needed: that takes a second or two.

Training minimises, and validation shows, the perplexity of each piece of the German sentence given
those before it. `bleu` translates.
"""

import gzip
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from widthwise.app.tasks.data import Published, fetch, remedy
from widthwise.app.tasks.tokens import PERPLEXITY, token_loss
from widthwise.app.tasks.translation import BOS, EOS, PAD, Pairs, Translator, translate
from widthwise.common.messages import lacking
from widthwise.errors import DataError
from widthwise.task import Recipe, Splits, Task

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_HOME: Final = (
    "https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/"
    "data/task1/raw/"
)
# English, then German
_TRAIN = (
    (
        "train.en.gz",
        "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
        568_929,
    ),
    (
        "train.de.gz",
        "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
        637_044,
    ),
)
_VALID = (
    ("val.en.gz", "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28", 21_650),
    ("val.de.gz", "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a", 24_681),
)
_TEST = (
    (
        "test_2016_flickr.en.gz",
        "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
        21_077,
    ),
    (
        "test_2016_flickr.de.gz",
        "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
        22_890,
    ),
)
TRAIN, VALID, TEST = (
    tuple(Published("multi30k", name, _HOME + name, sha256, size) for name, sha256, size in part)
    for part in (_TRAIN, _VALID, _TEST)
)
PIECES: Final = 4_000
_SPECIAL: Final = ("[PAD]", "[BOS]", "[EOS]")  # numbers PAD, BOS and EOS


def sentences(file: Published) -> list[str]:
    """The lines of a gzipped text. Raises DataError when it is missing, damaged or empty."""
    path = fetch(file)
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").removesuffix("\n").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged ({error}); {remedy(file)}.") from error
    if lines == [""]:
        raise DataError(f"{path} is empty; {remedy(file)}.")
    return lines


def aligned(files: Sequence[Published]) -> tuple[list[str], list[str]]:
    """The English and the German sentences. Raises DataError when they differ in number."""
    english, german = map(sentences, files)
    if len(english) != len(german):
        raise DataError(
            f"{files[0].name} of {files[0].data_set} has {len(english)} lines but {files[1].name}"
            f" {len(german)}; {remedy(files[0])}."
        )
    return english, german


def learn_pieces(text: Sequence[str], pieces: int = PIECES) -> "Tokenizer":
    """Byte pairs of a text, spaces kept, so that what is decoded is text again; `_SPECIAL` first.

    The same text gives the same pieces. Raises DataError without the tokenizers package.
    """
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise DataError(lacking("tokenizers", "Multi30k")) from error

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(text, trainer)
    return made


@dataclass(frozen=True)
class Bleu:
    """BLEU of translations, in 0..100, and sacrebleu's signature, which says how it was made."""

    score: float
    signature: str


def bleu(module: nn.Module, split: str) -> Bleu:
    """BLEU (Papineni et al., 2002) of greedy translations against the German text as it is.

    module: source and target_in -> logits, as `Translator`; its modes are left as they were.
    split: "valid" or "test". Computed by sacrebleu (Post, 2018) with its own tokens, on text with
    case and punctuation, so that it compares with other figures of the same signature.

    Raises DataError when the data, sacrebleu or tokenizers is missing, and ValueError for another
    split.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise DataError(lacking("sacrebleu", "Multi30k")) from error

    if split not in ("valid", "test"):
        raise ValueError(f"split is {split!r}; give 'valid' or 'test'.")
    pieces = _pieces()
    english, german = aligned(VALID if split == "valid" else TEST)
    made = pieces.decode_batch(translate(module, _pairs(pieces, english, german)))
    metric = BLEU()
    score = metric.corpus_score([text.strip() for text in made], [german]).score
    return Bleu(score, str(metric.get_signature()))


def _bleu(module: nn.Module, split: str) -> dict[str, float]:
    return {"BLEU": bleu(module, split).score}


def load_splits() -> Splits:
    """29,000 train, 1,014 valid and 1,000 test pairs, as `Pairs`.

    Raises DataError when the data or tokenizers is missing, or a file is damaged.
    """
    pieces = _pieces()
    return Splits(
        train=_pairs(pieces, *aligned(TRAIN)),
        valid=_pairs(pieces, *aligned(VALID)),
        test=_pairs(pieces, *aligned(TEST)),
    )


def reader() -> Callable[[Tensor], str]:
    """What numbers of pieces (T,) say, without padding and the marks of begin and end.

    Raises DataError when the data or tokenizers is missing.
    """
    pieces = _pieces()
    return lambda numbers: str(pieces.decode(numbers.tolist()))


def _pieces() -> "Tokenizer":
    english, german = aligned(TRAIN)
    return learn_pieces([*english, *german])


def _pairs(pieces: "Tokenizer", english: Sequence[str], german: Sequence[str]) -> Pairs:
    def numbers(text: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in pieces.encode_batch(text)]

    return Pairs(numbers(english), numbers(german))


def example_sentences() -> tuple[Tensor, Tensor]:
    """Example inputs, source (4, 12) and target_in (4, 10), int64: the same noise at every call."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(EOS + 1, PIECES, (4, 12), generator=generator)
    target_in = torch.randint(EOS + 1, PIECES, (4, 10), generator=generator)
    source[0, :3] = PAD
    source[:, -1] = EOS
    target_in[:, 0] = BOS
    return source, target_in


_RECIPE: Final = Recipe(
    epochs=8, batch_size=32, lr=3e-3, weight_decay=0.01, clip=1.0, precision="bfloat16"
)


def task() -> Task:
    """An LSTM translator with attention on Multi30k, English to German; `further` gives BLEU."""
    return Task(
        name="multi30k",
        model=partial(Translator, PIECES, 256, 256),
        example=example_sentences,
        splits=load_splits,
        loss=token_loss,
        metric=PERPLEXITY,
        recipe=_RECIPE,
        extra_metrics=_bleu,
        text=reader,
    )
