"""The language model on characters: what it sees, and that every character counts once."""

import math
import os

import pytest
import torch

import widthwise as ww
from widthwise.app.tasks import characters
from widthwise.app.tasks.characters import GPT, LONGEST, load_splits
from widthwise.app.tasks.data import Published
from widthwise.app.tasks.language import Windows
from widthwise.app.tasks.resolve import resolve
from widthwise.app.tasks.tokens import IGNORED
from widthwise.errors import DataError

TEXT = "the cat sat on the mat \n" * 30


def few(**given: int) -> GPT:
    torch.manual_seed(0)
    return GPT(50, dim=16, depth=2, heads=2, hidden=24, **given).eval()


def files(monkeypatch, train: str = TEXT, valid: str = TEXT) -> tuple[Published, ...]:
    """Three files of these texts."""
    given = {"train": train, "valid": valid, "test": valid}
    monkeypatch.setattr(characters, "content", lambda file: given[file.name].encode())
    return tuple(Published("some", name, f"https://example.org/{name}", "0", 0) for name in given)


def test_nothing_is_seen_of_what_comes_after():
    model = few()
    (words,) = resolve("ptb-char-gpt").example()
    changed = words.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % 50
    with torch.no_grad():
        before, after = model(words), model(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


def test_every_character_counts_once(monkeypatch):
    splits = load_splits(files(monkeypatch))
    for data in (splits.valid, splits.test):
        assert isinstance(data, Windows)
        inputs, targets = data.batch(torch.arange(len(data)))
        assert inputs.shape == (len(data), LONGEST)
        assert int((targets != IGNORED).sum()) == len(TEXT)


def test_fewer_characters_are_those_of_the_beginning(monkeypatch):
    given = files(monkeypatch)
    whole, part = load_splits(given).train, load_splits(given, 300).train
    assert isinstance(whole, Windows)
    assert isinstance(part, Windows)
    assert torch.equal(part.targets, whole.targets[:300])


def test_a_character_that_training_lacks_is_named(monkeypatch):
    given = files(monkeypatch, valid=TEXT.replace("m", "M"))
    with pytest.raises(DataError, match="valid of some has the character 'M', which train lacks"):
        load_splits(given)


def test_cut_networks_are_the_elastic_one_at_their_widths():
    model = few()
    (words,) = resolve("ptb-char-gpt").example()
    net = ww.Elastic(model, (words,)).eval()
    for share in (0.3, 0.6):
        small = net.cut(share)
        longer = torch.randint(50, (2, LONGEST))
        with torch.no_grad():
            torch.testing.assert_close(small(longer), net(longer, widths=share))


@pytest.mark.skipif(
    not os.environ.get("WIDTHWISE_DATA"),
    reason="needs real data: set WIDTHWISE_DATA to the folder that holds it",
)
def test_the_penn_treebank_has_as_many_characters_as_the_model():
    task = resolve("ptb-char-gpt")
    splits = task.splits()
    assert isinstance(splits.train, Windows)
    assert int(splits.train.targets.max()) + 1 == characters.PTB_CHARACTERS
    assert len(splits.train.targets) == 5_101_618
    assert task.text is not None
    said = task.text()(splits.train.targets[:29])
    assert said == " aer banknote berlitz calloway"[:29]
    assert task.metric.finish(math.log(2)) == 1.0
