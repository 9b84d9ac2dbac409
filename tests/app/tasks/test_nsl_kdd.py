"""NSL-KDD: reading records, making inputs of them, and the scores of a detector."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from widthwise.app.tasks import data, nsl_kdd
from widthwise.app.tasks.arrays import Arrays
from widthwise.app.tasks.data import Published
from widthwise.app.tasks.nsl_kdd import Encoding, detection_scores, parse
from widthwise.app.tasks.resolve import resolve
from widthwise.errors import DataError
from widthwise.task import Splits


def row(label: str = "normal", service: str = "http", seconds: object = 0, rate: object = 1) -> str:
    middle = ",".join(["0"] * 36)
    return f"{seconds},tcp,{service},SF,{middle},{rate},{label},21\n"


# Each class has 20 records, so that every part has some of both.
TRAIN = "".join(
    row("normal", "http", seconds=i, rate=0.5) + row("smurf", "ecr_i", rate=1) for i in range(20)
).encode()
TEST = (row("normal") + row("saint", "no_such_service", seconds=3)).encode()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with made-up files, one of them gzipped, that count as the published ones."""
    folder = tmp_path / "nsl-kdd"
    folder.mkdir()
    monkeypatch.setenv("WIDTHWISE_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (folder / "KDDTrain+.txt.gz").write_bytes(gzip.compress(TRAIN))
    (folder / "KDDTest+.txt").write_bytes(TEST)
    monkeypatch.setattr(nsl_kdd, "TRAIN", published("KDDTrain+.txt", TRAIN))
    monkeypatch.setattr(nsl_kdd, "TEST_PLUS", published("KDDTest+.txt", TEST))
    return folder


def published(name: str, body: bytes) -> Published:
    sha256 = hashlib.sha256(body).hexdigest()
    return Published("nsl-kdd", name, f"https://unused.invalid/{name}", sha256, len(body))


def arrays(splits: Splits) -> list[Arrays]:
    found = [splits.train, splits.valid, splits.test]
    assert all(isinstance(part, Arrays) for part in found)
    return found  # type: ignore[return-value]  # as just checked


# Reading.


def test_records_by_column() -> None:
    records = parse((row(seconds=7, rate=0.25) + row("neptune", "ftp")).encode())
    assert records.numbers.shape == (2, 38)
    assert records.numbers.dtype == np.float64
    assert records.numbers[:, 0].tolist() == [7, 0]
    assert records.numbers[:, -1].tolist() == [0.25, 1]
    assert records.numbers[:, 1:-1].sum() == 0
    assert records.symbols.tolist() == [["tcp", "http", "SF"], ["tcp", "ftp", "SF"]]
    assert records.targets.tolist() == [0, 1]
    assert records.targets.dtype == torch.int64


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        ("", "empty"),
        (row() + "1,2,3\n", "line 2 has 3 columns, not 43"),
        (row() + row()[:-4], "line 2 has 42 columns"),
        (row()[:-1] + ",1\n", "line 1 has 44 columns"),
        (row() + "\n" + row(), "line 2 has 1 columns"),
        (row(seconds="soon"), "'soon'"),
        (row(seconds=""), "could not convert"),
        (row(seconds="nan"), "negative or not finite"),
        (row(rate="inf"), "negative or not finite"),
        (row(rate=-1), "negative or not finite"),
        (row() + row("normall"), "unknown label 'normall'"),
        (row(label="smurf."), "unknown label"),
        ("duration,tcp" + row()[5:], "'duration'"),
        (row(service="é"), "ascii"),
    ],
)
def test_damaged_records(damaged: str, reason: str, tiny: Path) -> None:
    body = damaged.encode()
    with pytest.raises(ValueError, match=reason):
        parse(body)
    (tiny / "KDDTest+.txt").write_bytes(body)
    with pytest.raises(DataError, match=reason) as caught:
        nsl_kdd.read(published("KDDTest+.txt", body))
    assert "\n" not in str(caught.value)
    assert "WIDTHWISE_DATA" in str(caught.value)


def test_files_of_other_bytes_or_none(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tiny / "KDDTrain+.txt.gz").write_bytes(gzip.compress(TRAIN + TRAIN))
    with pytest.raises(DataError, match="not the published file"):
        resolve("nsl-kdd").splits()

    def offline(url: str) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(data, "_open", offline)
    (tiny / "KDDTrain+.txt.gz").unlink()
    with pytest.raises(DataError, match=r"KDDTrain\+\.txt .*no route to host"):
        resolve("nsl-kdd").splits()


# Inputs.


def test_numbers_are_scaled_by_the_train_part_alone() -> None:
    records = parse("".join(row(seconds=s) for s in (0, 1, 3, 1e9)).encode())
    found = Encoding.of(records, np.array([0, 1, 2]))(records)
    assert found.dtype == torch.float32
    log = torch.tensor([0, 1, 3.0]).log1p()
    torch.testing.assert_close(found[:3, 0], (log - log.mean()) / log.std(correction=0))
    assert found[3, 0] > 30
    assert (found[:, 1:38] == 0).all()  # constant columns


def test_symbols_are_one_hot_and_unknown_ones_zero() -> None:
    known = parse((row(service="http") + row(service="ftp")).encode())
    encode = Encoding.of(known, np.array([0, 1]))
    assert encode.vocabulary == (("tcp",), ("ftp", "http"), ("SF",))
    found = encode(parse((row(service="http") + row(service="gopher")).encode()))
    assert found[:, 38:].tolist() == [[1, 0, 1, 1], [1, 0, 0, 1]]


@pytest.mark.usefixtures("tiny")
def test_both_tasks_train_on_the_same() -> None:
    torch.manual_seed(5)
    one, other = (arrays(resolve(name).splits()) for name in ("nsl-kdd", "nsl-kdd-test-plus"))
    again = arrays(resolve("nsl-kdd").splits())
    assert [len(part) for part in one] == [28, 4, 8]
    assert [len(part) for part in other] == [28, 4, 2]
    for part, same, repeated in zip(one, other, again, strict=True):
        assert torch.equal(part.inputs, repeated.inputs)
        if part is not one[2]:
            assert torch.equal(part.inputs, same.inputs)
            assert torch.equal(part.targets, same.targets)
        assert part.targets.float().mean() == 0.5
    seconds = torch.cat([part.inputs[part.targets == 0, 0] for part in one])
    assert len(seconds.unique()) == 20  # no record is in two parts, none is lost
    assert other[2].targets.tolist() == [0, 1]


def test_real_records(data_folder: Path) -> None:
    if data.find("nsl-kdd", "KDDTest+.txt") is None:
        pytest.skip(f"{data_folder} has no nsl-kdd")
    train, test = nsl_kdd.read(nsl_kdd.TRAIN), nsl_kdd.read(nsl_kdd.TEST_PLUS)
    assert (len(train.labels), len(test.labels)) == (125_973, 22_544)
    assert int((train.targets == 0).sum()) == 67_343
    known, shown = set(train.labels.tolist()), set(test.labels.tolist())
    assert known | shown == nsl_kdd.ATTACKS | {nsl_kdd.NORMAL}
    assert (len(shown - known), len(shown) - 1) == (17, 37)
    part, valid, _ = arrays(nsl_kdd.load_splits())
    assert part.inputs[:, :38].mean(dim=0).abs().max() < 1e-4
    assert part.inputs[:, :38].std(dim=0).max() < 1.001
    assert part.inputs.abs().max() < 60
    assert (part.inputs[:, 38:].sum(dim=1) == 3).all()
    torch.manual_seed(0)
    model = resolve("nsl-kdd").model()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for indices in torch.randperm(len(part)).split(256):
        inputs, target = part.batch(indices)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), target).backward()
        optimizer.step()
    assert detection_scores(model, valid)["accuracy"] > 0.99  # one epoch; always normal is 0.53


# Scores.


def scored(scores: list[float], attacks: list[int]) -> dict[str, float]:
    """The scores of a detector whose logits are 0 and the number given."""
    rows = torch.tensor(scores, dtype=torch.float32)
    detector = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(detector.weight)
    detector.weight.data[1] = 1
    return detection_scores(detector, Arrays(rows[:, None], torch.tensor(attacks)))


def test_scores_counted_by_hand() -> None:
    # Two of three attacks are found, one alarm is false; of the six pairs two are in order.
    found = scored([2, 1, -3, -1, 3], [1, 1, 1, 0, 0])
    assert found == pytest.approx({"accuracy": 3 / 5, "f1": 2 * 2 / (3 + 3), "auc": 2 / 6})
    assert scored([1, 1, 1, 1], [1, 0, 1, 0])["auc"] == 0.5
    assert scored([-1, 1], [0, 1]) == {"accuracy": 1, "f1": 1, "auc": 1}
    assert scored([1, -1], [0, 1]) == {"accuracy": 0, "f1": 0, "auc": 0}


def test_scores_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        attacks = torch.randint(2, (300,), generator=generator)
        scores = torch.randint(-9, 10, (300,), generator=generator) + attacks + 0.5  # many ties
        found = scored(scores.tolist(), attacks.tolist())
        assert found["auc"] == pytest.approx(metrics.roc_auc_score(attacks, scores))
        assert found["f1"] == pytest.approx(metrics.f1_score(attacks, scores > 0))
        assert found["accuracy"] == pytest.approx(metrics.accuracy_score(attacks, scores > 0))


def test_scores_leave_the_module_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).train()
    both = Arrays(torch.randn(8, 3), torch.arange(8) % 2)
    assert detection_scores(model, both) == detection_scores(model, both)  # without dropout
    assert model[1].training
    for attack in (0, 1):
        with pytest.raises(ValueError, match="both"):
            detection_scores(model, Arrays(torch.randn(4, 3), torch.full((4,), attack)))
