"""Language models: words, windows in which every word counts once, loss, perplexity, the LSTM."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import widthwise as ww
from widthwise.app.runs.postprocessing import initialise
from widthwise.app.tasks import data, language
from widthwise.app.tasks.data import Published
from widthwise.app.tasks.language import END, Vocabulary, Windows, WordLSTM, words_of
from widthwise.app.tasks.resolve import resolve
from widthwise.app.tasks.tokens import IGNORED, PERPLEXITY, summed_loss, token_loss
from widthwise.errors import DataError
from widthwise.train.config import RunConfig
from widthwise.train.fit import fit
from widthwise.train.losses import SandwichLoss
from widthwise.train.recipe import Recipe

TRAIN = " the cat sat \n the <unk> cat ran \n" * 40
LATER = " the cat ran \n\n the cat sat \n" * 30


def published(name: str, text: str | bytes) -> Published:
    body = text.encode() if isinstance(text, str) else text
    sha256 = hashlib.sha256(body).hexdigest()
    return Published("ptb", name, f"https://unused.invalid/{name}", sha256, len(body))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which files of "ptb" are looked for."""
    monkeypatch.setenv("WIDTHWISE_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "ptb").mkdir()
    return tmp_path / "ptb"


def put(folder: Path, *texts: str | bytes) -> tuple[Published, ...]:
    """Files with these texts that count as the published train, valid and test file."""
    files = tuple(published(f"{i}.txt", text) for i, text in enumerate(texts))
    for file, text in zip(files, texts, strict=True):
        (folder / file.name).write_bytes(text.encode() if isinstance(text, str) else text)
    return files


# Words.


def test_words_of_lines(folder: Path) -> None:
    ended, open_ended = put(folder, " a b \n\nc\n", "a b\nc")
    assert words_of(ended) == ["a", "b", END, END, "c", END]
    assert words_of(open_ended) == ["a", "b", END, "c", END]


def test_vocabulary_by_frequency_then_alphabet() -> None:
    vocabulary = Vocabulary.of(["b", "a", "c", "c", "a", "c"])
    assert vocabulary.words == ("c", "a", "b")
    found = vocabulary.encode(["a", "b", "c"])
    assert found.tolist() == [1, 2, 0]
    assert found.dtype == torch.int64
    with pytest.raises(KeyError, match="d"):
        vocabulary.encode(["d"])


@pytest.mark.parametrize(
    ("valid", "reason"),
    [
        (b"", "1.txt of ptb is empty"),
        (b"the \xff cat", "is no text"),
        (LATER + "the dog\n", "the word 'dog', which 0.txt lacks"),
    ],
)
def test_damaged_text(valid: str | bytes, reason: str, folder: Path) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        language.load_splits(put(folder, TRAIN, valid, LATER))
    assert "\n" not in str(caught.value)
    assert "WIDTHWISE_DATA" in str(caught.value)


def test_files_of_other_bytes_or_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = put(folder, TRAIN, LATER, LATER)
    (folder / "2.txt").write_text(LATER + LATER)
    with pytest.raises(DataError, match="not the published file"):
        language.load_splits(files)

    def offline(url: str) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(data, "_open", offline)
    (folder / "2.txt").unlink()
    with pytest.raises(DataError, match=r"2\.txt .*no route to host"):
        language.load_splits(files)


# Windows.


@pytest.mark.parametrize("length", [9, 10, 11, 12, 13, 14, 15, 40, 41, 43])
@pytest.mark.parametrize("context", [0, 5])
def test_every_word_counts_once_with_its_context(length: int, context: int) -> None:
    text = torch.arange(100, 100 + length)
    windows = Windows(text, end=7, span=4, context=context)
    words, targets = windows.batch(torch.arange(len(windows)))
    assert words.shape == targets.shape == (len(windows), context + 4)
    assert targets[targets != IGNORED].tolist() == text.tolist()  # once each, and in order
    assert words[0, 0] == 7
    assert (words[0, 1:] == text[: context + 3]).all()
    for row, wanted in zip(words, targets, strict=True):
        for i in (wanted != IGNORED).nonzero().squeeze(1).tolist():
            assert i == 0 or wanted[i] == row[i] + 1  # the word that follows
            assert i >= context or wanted[i] < 100 + context + 4  # the first window alone


def test_a_window_is_the_same_alone_and_in_a_batch() -> None:
    windows = Windows(torch.arange(30), end=0, span=4, context=2)
    words, targets = windows.batch(torch.tensor([3, 0, -1]))
    for i, number in enumerate((3, 0, len(windows) - 1)):
        assert torch.equal(words[i], windows[number][0])
        assert torch.equal(targets[i], windows[number][1])
    with pytest.raises(IndexError):
        windows[len(windows)]
    with pytest.raises(ValueError, match="5 words has no window of 6"):
        Windows(torch.arange(5), end=0, span=4, context=2)


def test_shifted_windows_begin_anywhere_and_miss_nothing_in_the_long_run() -> None:
    text = torch.arange(1, 42)
    windows = Windows(text, end=0, span=10, shift=True)
    torch.manual_seed(0)
    seen, begins = set(), set()
    for _ in range(200):
        words, targets = windows.batch(torch.arange(len(windows)))
        assert ((targets == words + 1) | (targets == IGNORED)).all()
        seen |= set(targets.flatten().tolist())
        begins |= set(words[:, 0].tolist())
    assert seen - {IGNORED} == set(text.tolist())
    assert begins == set(range(32))
    torch.manual_seed(3)
    first = windows.batch(torch.arange(4))[0]
    torch.manual_seed(3)
    assert torch.equal(first, windows.batch(torch.arange(4))[0])


@pytest.mark.parametrize(
    ("files", "words", "counts"),
    [
        (language.PTB_FILES, language.PTB_WORDS, (929_589, 73_760, 82_430)),
        (language.WIKITEXT_FILES, language.WIKITEXT_WORDS, (2_088_628, 217_646, 245_569)),
    ],
    ids=["ptb", "wikitext2"],
)
def test_real_text(
    files: tuple[Published, ...], words: int, counts: tuple[int, ...], data_folder: Path
) -> None:
    if data.find(files[0].data_set, files[0].name) is None:
        pytest.skip(f"{data_folder} has no {files[0].data_set}")
    splits = language.load_splits(files)
    for part, count in zip((splits.train, splits.valid, splits.test), counts, strict=True):
        assert isinstance(part, Windows)
        assert len(part.targets) == count
        assert int(part.targets.max()) < words
    assert isinstance(splits.train, Windows)
    assert splits.train.targets.unique().tolist() == list(range(words))
    assert (splits.train.context, splits.train.shift) == (0, True)
    for part in (splits.valid, splits.test):
        assert isinstance(part, Windows)
        assert (part.span, part.context, part.shift) == (70, 70, False)
        _, targets = part.batch(torch.arange(len(part)))
        assert int((targets != IGNORED).sum()) == len(part.targets)


# Loss and perplexity.


def test_ignored_targets_count_in_nothing() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 4, 6), torch.randint(6, (3, 4))
    by_hand = F.cross_entropy(logits.reshape(12, 6), target.reshape(12), reduction="none")
    by_hand = by_hand.reshape(3, 4)
    torch.testing.assert_close(token_loss(logits, target), by_hand.mean())
    target[:, :2] = IGNORED
    torch.testing.assert_close(token_loss(logits, target), by_hand[:, 2:].mean())
    total, count = summed_loss(logits, target)
    assert count == 6
    torch.testing.assert_close(total, by_hand[:, 2:].sum())
    logits[:, 1] = 1e4  # what is predicted there does not matter
    torch.testing.assert_close(token_loss(logits, target), by_hand[:, 2:].mean())


def test_losses_are_float32_for_logits_of_less_precision() -> None:
    logits = torch.randn(2, 3, 50).bfloat16()
    target = torch.randint(50, (2, 3))
    assert token_loss(logits, target).dtype == torch.float32
    total, _ = summed_loss(logits, target)
    assert isinstance(total, torch.Tensor)
    assert total.dtype == torch.float32
    assert torch.equal(token_loss(logits, target), token_loss(logits.float(), target))


def test_uniform_predictions_have_the_perplexity_of_the_vocabulary() -> None:
    target = torch.tensor([[IGNORED, 3], [0, 9]])
    total, count = PERPLEXITY.batch(torch.zeros(2, 2, 10), target)
    assert PERPLEXITY.finish(float(total) / count) == pytest.approx(10)
    assert PERPLEXITY.better(80, 90)


# The network.


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("ptb-lstm-small", 4.6532),
        ("ptb-lstm", 19.7804),
        ("ptb-lstm-large", 66.034),
        ("wikitext2-lstm", 50.0647),
    ],
)
def test_published_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = resolve(name).model()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=1e-4)


def test_later_words_do_not_show_and_the_context_does() -> None:
    torch.manual_seed(0)
    model = WordLSTM(20, 8, dropout=0.5).eval()
    words = torch.randint(20, (2, 9))
    other = words.clone()
    other[:, 5] = (other[:, 5] + 1) % 20
    with torch.no_grad():
        found, changed = model(words), model(other)
    assert torch.equal(found[:, :5], changed[:, :5])
    assert not torch.allclose(found[:, 8], changed[:, 8], atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_sandwich_steps_at_any_length(precision: str) -> None:
    torch.manual_seed(0)
    if precision == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("torch runs LSTMs in bfloat16 only on processors with AVX-512")
    model = WordLSTM(50, 16, dropout=0.2)
    net = ww.Elastic(model, (torch.randint(50, (4, 6)),))
    assert sorted(net.free) == ["embedding", "lstm"]
    loss = SandwichLoss(net, token_loss)
    words = torch.randint(50, (3, 11))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        value = loss(words, words.roll(-1, 1))
        assert net(words, widths=net.widths(0.5)).shape == (3, 11, 50)
    assert value.dtype == torch.float32
    value.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


def test_a_text_that_repeats_is_learned(folder: Path) -> None:
    splits = language.load_splits(put(folder, TRAIN, LATER, LATER))
    assert isinstance(splits.valid, Windows)
    torch.manual_seed(0)
    model = WordLSTM(6, 16, dropout=0.0)
    recipe = Recipe(epochs=60, batch_size=2, lr=2e-2, clip=1.0)
    history = fit(
        model,
        splits.train,
        token_loss,
        recipe=recipe,
        valid=splits.train,
        metric=PERPLEXITY,
        run=RunConfig(progress=False, cpu=True),
    )
    # What follows "the" and "cat" is decided by the line before: nothing is left to chance.
    assert history.metric is not None
    assert 1 <= history.metric < 1.1


def test_initial_weights_are_the_same_kind_at_every_size_and_anew() -> None:
    model = WordLSTM(30, 64, dropout=0.0)
    for size in (64, 16):
        net = ww.Elastic(model, (torch.randint(30, (4, 6)),))
        small = net.cut(net.widths(size / 64))
        assert isinstance(small, WordLSTM)
        initialise(small, seed=0)
        weights = torch.cat([p.detach().flatten() for p in small.lstm.parameters()])
        assert float(weights.abs().max()) == pytest.approx(2 / size**0.5, rel=0.02)
        assert abs(float(weights.mean())) < 0.02
