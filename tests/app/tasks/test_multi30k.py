"""Translation: reading, pieces, padding, decoding and BLEU, on made-up sentences."""

import gzip
import hashlib
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import widthwise as ww
from widthwise.app.tasks import data, multi30k
from widthwise.app.tasks.data import Published
from widthwise.app.tasks.multi30k import aligned, bleu, learn_pieces
from widthwise.app.tasks.resolve import resolve
from widthwise.app.tasks.tokens import IGNORED, token_loss
from widthwise.app.tasks.translation import BOS, EOS, PAD, Pairs, Translator, decode, translate
from widthwise.errors import DataError
from widthwise.train.losses import SandwichLoss

ENGLISH = ("A man sleeps.", "Two dogs run in the snow.", "A girl.", "Three children play.")
GERMAN = (
    "Ein Mann schläft.",
    "Zwei Hunde rennen im Schnee.",
    "Ein Mädchen.",
    "Drei Kinder spielen.",
)
Files = tuple[Published, ...]


def text(lines: tuple[str, ...]) -> bytes:
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


def put(folder: Path, name: str, *bodies: bytes) -> Files:
    """Files with these bytes that count as published ones."""
    files = []
    for language, body in zip(("en", "de"), bodies, strict=True):
        path = folder / f"{name}.{language}.gz"
        path.write_bytes(body)
        sha256 = hashlib.sha256(body).hexdigest()
        url = f"https://unused.invalid/{path.name}"
        files.append(Published("multi30k", path.name, url, sha256, len(body)))
    return tuple(files)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the data set, with the made-up pairs as all three parts."""
    monkeypatch.setenv("WIDTHWISE_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "multi30k").mkdir()
    for part in ("TRAIN", "VALID", "TEST"):
        files = put(tmp_path / "multi30k", part.lower(), text(ENGLISH), text(GERMAN))
        monkeypatch.setattr(multi30k, part, files)
    return tmp_path / "multi30k"


# Reading.


@pytest.mark.usefixtures("folder")
def test_aligned_sentences() -> None:
    assert aligned(multi30k.TRAIN) == (list(ENGLISH), list(GERMAN))


@pytest.mark.parametrize(
    ("bodies", "reason"),
    [
        ((text(ENGLISH)[:-9], text(GERMAN)), "is damaged"),
        ((text(ENGLISH), b"no gzip"), "is damaged"),
        ((text(ENGLISH), gzip.compress(b"M\xe4dchen\n", mtime=0)), "is damaged .*utf-8"),
        ((text(ENGLISH), gzip.compress(b"", mtime=0)), "is empty"),
        ((text(ENGLISH), text(GERMAN[1:])), "4 lines but odd.de.gz 3"),
    ],
)
def test_damaged_sentences(bodies: tuple[bytes, bytes], reason: str, folder: Path) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        aligned(put(folder, "odd", *bodies))
    assert "\n" not in str(caught.value)
    assert "WIDTHWISE_DATA" in str(caught.value)


def test_files_of_other_bytes_or_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "test.de.gz"
    path.write_bytes(text(GERMAN[::-1]))
    with pytest.raises(DataError, match="not the published file"):
        resolve("multi30k").splits()

    def offline(url: str) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(data, "_open", offline)
    path.unlink()
    with pytest.raises(DataError, match=r"test\.de\.gz .*no route to host"):
        resolve("multi30k").splits()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("package", "module"),
    [("tokenizers", "tokenizers"), ("sacrebleu", "sacrebleu.metrics.bleu")],
)
def test_without_a_package(package: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"{package}.*pip install 'widthwise\[tasks\]'"):
        bleu(nn.Identity(), "valid")


# Pieces.


def test_pieces_are_text_again_and_the_same_every_time() -> None:
    found = learn_pieces([*ENGLISH, *GERMAN], 300)
    assert found.get_vocab_size() == 300
    assert [found.token_to_id(name) for name in ("[PAD]", "[BOS]", "[EOS]")] == [PAD, BOS, EOS]
    for line in (*ENGLISH, *GERMAN, "Völlig Ungesehenes: 猫!"):
        numbers = found.encode(line).ids
        assert min(numbers) > EOS
        assert found.decode(numbers).strip() == line
    assert learn_pieces([*ENGLISH, *GERMAN], 300).to_str() == found.to_str()
    assert len(found.encode("Ein Mädchen.").ids) < len("Ein Mädchen.")


# Padding.


def test_a_batch_is_padded_to_its_longest_pair() -> None:
    pairs = Pairs([[5, 6], [7], [5, 6, 7, 8]], [[9], [9, 8, 7], [9, 9, 9, 9, 9]])
    (source, target_in), target = pairs.batch(torch.tensor([1, 0]))
    assert source.tolist() == [[PAD, 7, EOS], [5, 6, EOS]]
    assert target_in.tolist() == [[BOS, 9, 8, 7], [BOS, 9, EOS, PAD]]
    assert target.tolist() == [[9, 8, 7, EOS], [9, EOS, IGNORED, IGNORED]]
    assert source.dtype == target_in.dtype == target.dtype == torch.int64
    (source, target_in), target = pairs[2]
    assert source.tolist() == [5, 6, 7, 8, EOS]
    assert target_in.tolist() == [BOS, 9, 9, 9, 9, 9]
    assert target.tolist() == [9, 9, 9, 9, 9, EOS]
    with pytest.raises(IndexError):
        pairs[3]
    with pytest.raises(ValueError, match="1 sources but 2 targets"):
        Pairs([[5]], [[5], [6]])


def test_attention_does_not_see_padding() -> None:
    torch.manual_seed(0)
    model = Translator(20, 8, 8).eval()
    source, target_in = torch.tensor([[5, 6, 7, EOS]]), torch.tensor([[BOS, 9, 8]])
    padded = torch.cat((torch.full((1, 3), PAD), source), dim=1)
    # With the encoder's biases at zero, padding leaves the state at zero too.
    for name, parameter in model.encoder.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
    torch.testing.assert_close(model(padded, target_in), model(source, target_in))
    with torch.no_grad():
        model.source_embedding.weight[PAD] = 1  # now it is seen
    assert not torch.allclose(model(padded, target_in), model(source, target_in), atol=1e-4)


def test_later_pieces_do_not_show() -> None:
    torch.manual_seed(0)
    model = Translator(20, 8, 8, layers=2).eval()
    source, target_in = torch.randint(3, 20, (2, 5)), torch.randint(3, 20, (2, 6))
    other = target_in.clone()
    other[:, 4] = (other[:, 4] + 1) % 20
    found, changed = model(source, target_in), model(source, other)
    assert torch.equal(found[:, :4], changed[:, :4])
    assert not torch.allclose(found[:, 4], changed[:, 4])


# Decoding.


def scripted(source: Tensor, target_in: Tensor) -> Tensor:
    """Logits of a network that repeats its source, padding in front left out."""
    logits = torch.zeros(*target_in.shape, 12)
    for row, sentence in enumerate(source.tolist()):
        words = [piece for piece in sentence if piece != PAD]
        for t in range(target_in.shape[1]):
            logits[row, t, words[min(t, len(words) - 1)]] = 1
    return logits


def test_decoding_stops_at_the_end_of_each_sentence() -> None:
    source = torch.tensor([[PAD, PAD, 5, EOS], [6, 7, 8, EOS], [PAD, PAD, PAD, EOS]])
    assert decode(scripted, source) == [[5], [6, 7, 8], []]
    assert decode(scripted, source, longest=2) == [[5], [6, 7], []]


def test_a_learned_sentence_is_given_back() -> None:
    torch.manual_seed(0)
    pairs = Pairs([[5, 6, 7], [8, 3], [7, 7, 7, 4]], [[10, 11], [9, 9, 3, 4, 5], [6]])
    model = Translator(12, 16, 24, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    inputs, target = pairs.batch(torch.arange(3))
    for _ in range(80):
        optimizer.zero_grad()
        token_loss(model(*inputs), target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert model.training
    expected = [[10, 11], [9, 9, 3, 4, 5], [6]]
    assert translate(model, pairs) == expected
    assert translate(model, pairs, batch_size=2) == expected  # in order, whatever the batches
    assert model.training
    net = ww.Elastic(model, inputs)
    assert translate(net, pairs) == expected
    assert translate(net.cut(net.widths(1.0)), pairs) == expected


# BLEU.


class Answers(nn.Module):
    """Gives the German of every sentence, by the English; what it cannot say is another answer."""

    def __init__(self, said: tuple[str, ...]) -> None:
        super().__init__()
        pieces = learn_pieces([*ENGLISH, *GERMAN])
        self.size = pieces.get_vocab_size()
        self.answers = {
            tuple(pieces.encode(english).ids): [*pieces.encode(german).ids, EOS]
            for english, german in zip(ENGLISH, said, strict=True)
        }

    def forward(self, source: Tensor, target_in: Tensor) -> Tensor:
        logits = torch.zeros(*target_in.shape, self.size)
        for row, sentence in enumerate(source.tolist()):
            answer = self.answers[tuple(piece for piece in sentence if piece > EOS)]
            for t in range(target_in.shape[1]):
                logits[row, t, answer[min(t, len(answer) - 1)]] = 1
        return logits


@pytest.mark.usefixtures("folder")
def test_bleu_of_right_and_wrong_answers() -> None:
    right = bleu(Answers(GERMAN), "valid")
    assert right.score == pytest.approx(100)
    assert "tok:13a" in right.signature
    assert "case:mixed" in right.signature
    assert bleu(Answers(GERMAN[::-1]), "test").score < 10
    lower = bleu(Answers(tuple(line.lower() for line in GERMAN)), "test").score
    assert 0 < lower < 90  # case counts
    extra_metrics = resolve("multi30k").extra_metrics
    assert extra_metrics is not None
    assert extra_metrics(Answers(GERMAN), "test") == {"BLEU": pytest.approx(100)}
    with pytest.raises(ValueError, match="'train'; give 'valid' or 'test'"):
        bleu(Answers(GERMAN), "train")


@pytest.mark.usefixtures("folder")
def test_splits_and_a_step() -> None:
    splits = resolve("multi30k").splits()
    for part in (splits.train, splits.valid, splits.test):
        assert isinstance(part, Pairs)
        assert len(part) == 4
        inputs, target = part.batch(torch.arange(4))
        loss = token_loss(Translator(multi30k.PIECES, 4, 4)(*inputs), target)
        assert float(loss.detach()) < 12


# The network as an elastic one.


def test_axes_and_a_sandwich_step() -> None:
    torch.manual_seed(0)
    model = Translator(40, 8, 16, layers=2)
    source, target_in = torch.randint(3, 40, (4, 7)), torch.randint(3, 40, (4, 5))
    net = ww.Elastic(model, (source, target_in))
    sizes = {name: axis.size for name, axis in net.free.items()}
    assert sizes == {"source_embedding": 8, "target_embedding": 8, "encoder": 16, "combine": 16}
    source, target_in = torch.randint(3, 40, (3, 9)), torch.randint(3, 40, (3, 11))
    assert net(source, target_in, widths=net.widths(0.5)).shape == (3, 11, 40)
    SandwichLoss(net, token_loss)((source, target_in), target_in.roll(-1, 1)).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


def test_real_sentences(data_folder: Path) -> None:
    if data.find("multi30k", "train.en.gz") is None:
        pytest.skip(f"{data_folder} has no multi30k")
    splits = resolve("multi30k").splits()
    parts = [part for part in (splits.train, splits.valid, splits.test) if isinstance(part, Pairs)]
    assert [len(part) for part in parts] == [29_000, 1_014, 1_000]
    (source, target_in), target = parts[0].batch(torch.arange(29_000))
    assert int(source.max()) < multi30k.PIECES
    assert int(target.max()) < multi30k.PIECES
    assert target_in.shape[1] <= 80  # as many as are decoded
