"""Every built-in task: its model learns and exports, its data has the promised form; resolving."""

import os
import pickle
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from widthwise.app.tasks import BUILT_IN
from widthwise.app.tasks.arrays import Arrays
from widthwise.app.tasks.resolve import resolve
from widthwise.common.calling import outputs_for
from widthwise.errors import DataError, TaskError
from widthwise.task import Task

NAMES = sorted(BUILT_IN)

# Parameters of the published shapes, counted by hand.
PARAMETERS = {
    "digits": 64 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10,
    "mnist": 269_322,
    "cifar10-resnet20": 269_722,
    "cifar10-resnet56": 853_018,
    "nsl-kdd": 122 * 256 + 256 + 256 * 256 + 256 + 256 * 2 + 2,
    "cifar10-mobilenet": 3_217_226,
    "ptb-lstm-small": 4_653_200,
    "ptb-lstm": 19_780_400,
    "ptb-lstm-large": 66_034_000,
    "ptb-char-gpt": 2 * 50 * 128 + 50 + 128 * 128 + 256 + 3 * (12 * 128**2 + 13 * 128),
}
LIKE_PTB_SMALL = ("ptb-lstm", "ptb-lstm-large", "wikitext2-lstm")  # the same network, larger
CLASSES = {  # all others have 10
    "nsl-kdd": 2,
    "nsl-kdd-test-plus": 2,
    "ptb-lstm-small": 10_000,
    "ptb-lstm": 10_000,
    "ptb-lstm-large": 10_000,
    "wikitext2-lstm": 33_278,
    "ptb-char-gpt": 50,
    "multi30k": 4_000,
}

# task: (train, valid, test), shape of one input
SIZES = {
    "digits": ((1078, 359, 360), (8, 8)),
    "mnist": ((50_000, 10_000, 10_000), (1, 28, 28)),
    "fashion-mnist": ((50_000, 10_000, 10_000), (1, 28, 28)),
    "cifar10": ((45_000, 5_000, 10_000), (3, 32, 32)),
    "cifar10-resnet20": ((45_000, 5_000, 10_000), (3, 32, 32)),
    "modelnet10": ((3_592, 399, 908), (3, 1024)),
    "nsl-kdd": ((88_181, 12_597, 25_195), (122,)),
    "nsl-kdd-test-plus": ((88_181, 12_597, 22_544), (122,)),
}

AUGMENTED = ("cifar10", "cifar10-resnet20", "modelnet10")
NORMALISED = ("mnist", "fashion-mnist", "cifar10")  # by the mean and deviation of all values

# The first six classes of train, valid and test: a split that moved would leak test images.
GOLDEN_TARGETS = [[1, 2, 5, 6, 7, 8], [9, 5, 8, 6, 4, 7], [0, 3, 4, 2, 8, 5]]


@pytest.fixture
def real_data() -> None:
    if not os.environ.get("WIDTHWISE_DATA"):
        pytest.skip("needs real data: set WIDTHWISE_DATA to the folder that holds it")


@pytest.fixture(scope="module")
def digits() -> list[Arrays]:
    splits = resolve("digits").splits()
    parts = [splits.train, splits.valid, splits.test]
    return [as_arrays(part) for part in parts]


def as_arrays(data: object) -> Arrays:
    assert isinstance(data, Arrays)
    return data


# Models.


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", NAMES)
def test_task_fits_together(name: str) -> None:
    task = resolve(name)
    assert isinstance(task, Task)
    assert task.name == name
    torch.manual_seed(0)
    model = task.model()
    inputs = task.example()
    assert len(inputs[0]) >= 2
    assert torch.equal(inputs[0], task.example()[0])
    classes = CLASSES.get(name, 10)
    outputs = model.train()(*inputs)
    items = inputs[-1].shape if classes > 10 else inputs[0].shape[:1]  # tokens are told one by one
    assert outputs.shape == (*items, classes)
    target = torch.arange(items.numel()).reshape(items) % classes
    loss = task.loss(outputs, target)
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    total, count = task.metric.batch(outputs.detach(), target)
    assert count == target.numel()
    assert task.metric.finish(float(total) / count) >= 0
    assert not task.metric.higher_is_better or float(total) <= count
    expected = PARAMETERS.get(name)
    assert expected is None or sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.sample(5)
# torch.export warns of how torch's own LSTM keeps its weights.
@pytest.mark.filterwarnings("ignore:The tensor attributes? self.*_flat_weights:UserWarning")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in LIKE_PTB_SMALL])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_model_exports_for_any_batch(name: str, training: bool) -> None:
    task = resolve(name)
    torch.manual_seed(0)
    model = task.model().train(training)
    inputs = task.example()
    dynamic = tuple({0: torch.export.Dim.AUTO} for _ in inputs)
    exported = torch.export.export(model, inputs, dynamic_shapes=dynamic, strict=False)
    more = tuple(torch.cat((x, x.flip(0), x[1:])) for x in inputs)
    torch.manual_seed(1)  # dropout draws the same units in both
    found = exported.module()(*more)
    torch.manual_seed(1)
    torch.testing.assert_close(found, model(*more), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_eval_takes_a_single_item_and_items_do_not_mix(name: str) -> None:
    task = resolve(name)
    torch.manual_seed(0)
    model = task.model().eval()
    inputs = task.example()
    with torch.no_grad():
        alone = model(*(x[1:2] for x in inputs))
        torch.testing.assert_close(alone, model(*inputs)[1:2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_tasks_can_be_sent_to_another_process(name: str) -> None:
    again = pickle.loads(pickle.dumps(resolve(name)))
    assert again.name == name
    assert torch.equal(again.example()[0], resolve(name).example()[0])


def test_t_net_starts_as_the_identity() -> None:
    from widthwise.app.tasks.modelnet10 import TransformNet

    net = TransformNet(3).eval()
    assert torch.equal(net(torch.randn(2, 3, 50)), torch.eye(3).expand(2, 3, 3))


def test_pointnet_does_not_see_the_order_of_points() -> None:
    task = resolve("modelnet10")
    torch.manual_seed(0)
    model = task.model().eval()
    (x,) = task.example()
    shuffled = x[:, :, torch.randperm(x.shape[2])]
    torch.testing.assert_close(model(shuffled), model(x), rtol=1e-4, atol=1e-4)


# Data.


def test_digits_split_is_disjoint_whole_and_stratified(digits: list[Arrays]) -> None:
    sizes, shape = SIZES["digits"]
    assert tuple(map(len, digits)) == sizes
    rows = torch.cat([part.inputs.flatten(1) for part in digits])
    assert rows.unique(dim=0).shape == (1797, 64)  # no image is in two parts, none is lost
    shares = [torch.bincount(part.targets) / len(part) for part in digits]
    for share in shares:
        assert share.shape == (10,)
        assert (share - shares[0]).abs().max() < 0.004
    for part in digits:
        assert part.inputs.dtype == torch.float32
        assert part.inputs.shape[1:] == shape
        assert part.targets.dtype == torch.int64
    assert abs(rows.mean()) < 1e-3
    assert abs(rows.std() - 1) < 1e-3


def test_digits_split_never_changes(digits: list[Arrays]) -> None:
    torch.manual_seed(123)
    again = resolve("digits").splits()
    assert torch.equal(digits[2].inputs, as_arrays(again.test).inputs)
    assert [part.targets[:6].tolist() for part in digits] == GOLDEN_TARGETS


def test_digits_learns_in_seconds(digits: list[Arrays]) -> None:
    train, valid, _ = digits
    task = resolve("digits")
    torch.manual_seed(0)
    model = task.model()
    optimizer = torch.optim.Adam(model.parameters(), task.recipe.lr)
    for inputs, target in DataLoader(train, task.recipe.batch_size, shuffle=True):
        optimizer.zero_grad()
        task.loss(outputs_for(model, inputs), target).backward()
        optimizer.step()
    total, count = task.metric.batch(model(valid.inputs), valid.targets)
    assert float(total) / count > 0.75  # one epoch; chance is 0.1


@pytest.mark.sample(2)
@pytest.mark.usefixtures("real_data")
@pytest.mark.parametrize("name", [name for name in SIZES if name != "digits"])
def test_real_data_has_the_promised_form(name: str) -> None:
    try:
        splits = resolve(name).splits()
    except DataError as error:
        if "not found" in str(error) or "downloaded" in str(error):
            pytest.skip(f"WIDTHWISE_DATA has no {name}: {error}")
        raise
    sizes, shape = SIZES[name]
    parts = [as_arrays(part) for part in (splits.train, splits.valid, splits.test)]
    assert tuple(len(part) for part in parts) == sizes
    torch.manual_seed(0)
    for part in parts:
        assert part.inputs.dtype == torch.float32
        assert part.inputs.shape[1:] == shape
        assert part.targets.dtype == torch.int64
        assert part.targets.unique().tolist() == list(range(CLASSES.get(name, 10)))
        inputs, targets = part.batch(torch.arange(0, len(part), max(1, len(part) // 64)))
        assert torch.isfinite(inputs).all()
        assert inputs.shape[1:] == shape
        assert len(inputs) == len(targets)
    assert (parts[0].augment is not None) == (name in AUGMENTED)
    assert parts[1].augment is None
    assert parts[2].augment is None
    if name == "modelnet10":
        radius = parts[2].inputs.norm(dim=1).amax(dim=1)
        assert (radius - 1).abs().max() < 1e-2
    if name in NORMALISED:
        assert abs(parts[0].inputs.mean()) < 0.02
        assert abs(parts[0].inputs.std() - 1) < 0.05


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install 'widthwise\[tasks\]'"):
        resolve("digits").splits()


# Resolving names.

MINE = """
    from dataclasses import dataclass, replace

    import torch
    from torch.utils.data import TensorDataset

    from neighbour import CLASSES
    from widthwise.task import Splits, Task

    @dataclass
    class Settings:
        hidden: "int" = 4

    def data(n=3):
        return TensorDataset(torch.zeros(n, 5), torch.zeros(n, dtype=torch.int64))

    def make(model=lambda: torch.nn.Linear(5, CLASSES), example=lambda: (torch.zeros(2, 5),),
             splits=lambda: Splits(data(), data(), data())):
        return Task("mine", model, example, splits, torch.nn.functional.cross_entropy)

    def task():
        return make()

    def raises():
        return {}["absent"]

    def no_data():
        from widthwise.errors import DataError
        raise DataError("The data is missing; get it.")

    def gives_none():
        pass

    def no_module():
        return make(model=dict)

    def no_tuple():
        return make(example=lambda: torch.zeros(2, 5))

    def no_splits():
        return make(splits=lambda: (data(), data()))

    def empty():
        return make(splits=lambda: Splits(data(), data(0), data()))

    def triples():
        return make(splits=lambda: Splits(data(), data(), [(1, 2, 3)]))

    def numbers():
        return make(splits=lambda: Splits([(1.0, 2)], data(), data()))

    def unindexed():
        return make(splits=lambda: Splits(iter([]), data(), data()))

    def figures(model, split):
        return {"parameters": sum(p.numel() for p in model.parameters()), split: 0.5}

    def with_figures(extra_metrics=figures):
        return replace(make(), extra_metrics=extra_metrics)

    def no_figures():
        return with_figures(lambda model, split: None)

    def words_as_figures():
        return with_figures(lambda model, split: {"BLEU": "31.2"})

    constant = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's file, beside a module that it imports, in the current folder."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neighbour.py").write_text("CLASSES = 10\n")
    (tmp_path / "mine_toy.py").write_text(textwrap.dedent(MINE))
    before = set(sys.modules)
    yield tmp_path / "mine_toy.py"
    for name in set(sys.modules) - before:
        if "mine_toy" in name or name == "neighbour":
            del sys.modules[name]


@pytest.mark.parametrize("form", ["relative", "absolute", "module"])
def test_resolving_a_users_task(mine: Path, form: str) -> None:
    source = {"relative": "mine_toy.py", "absolute": str(mine), "module": "mine_toy"}[form]
    task = resolve(f"{source}:task")
    assert task.name == "mine"
    assert task.model()(*task.example()).shape == (2, 10)
    assert len(task.splits().train) == 3  # type: ignore[arg-type]  # a TensorDataset


def test_two_files_of_one_name_are_two_modules(mine: Path) -> None:
    other = mine.parent / "other" / "mine_toy.py"
    other.parent.mkdir()
    other.write_text(mine.read_text().replace('"mine"', '"other"'))
    assert [resolve(f"{path}:task").name for path in (mine, other, mine)] == [
        "mine",
        "other",
        "mine",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", r"no task 'mnits' \(did you mean 'mnist'\?\); .*cifar10-vit.* file.py:function"),
        ("qqqq", r"no task 'qqqq'; the built-in ones are digits"),
        ("", "no task ''"),
        ("mine_toy.py", "write mine_toy.py:function"),
        ("mine_toy.py:", "no task"),
        (":task", "no task"),
        ("absent.py:task", "no file absent.py"),
        ("absent.module:task", "absent.module could not be imported: ModuleNotFoundError"),
        ("mine_toy.py:absent", "mine_toy.py has no function 'absent'"),
        ("mine_toy.py:constant", "no function 'constant'"),
        ("mine_toy.py:raises", "raises failed with KeyError: 'absent'"),
        ("mine_toy.py:gives_none", "returned None; return a .*Task"),
        ("mine_toy.py:make_", "no function 'make_'"),
        ("broken_toy.py:task", "broken_toy.py could not be imported: SyntaxError"),
        ("mine_toy.py:data", "returned a value of type TensorDataset"),
    ],
)
def test_names_that_lead_to_no_task(mine: Path, name: str, message: str) -> None:
    (mine.parent / "broken_toy.py").write_text("def task(:\n")
    with pytest.raises(TaskError, match=message) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.usefixtures("mine")
def test_errors_of_widthwise_pass_unchanged() -> None:
    with pytest.raises(DataError, match=r"^The data is missing; get it\.$"):
        resolve("mine_toy.py:no_data")


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("function", "part", "message"),
    [
        ("no_module", "model", r"model\(\) .* a value of type dict; return a torch.nn.Module"),
        ("no_tuple", "example", r"example\(\) .* type Tensor; return a tuple"),
        ("no_splits", "splits", r"splits\(\) .* a tuple of 2; return Splits"),
        ("empty", "splits", "The valid split .* is empty"),
        ("triples", "splits", "The test split .* gives 3 values for an item"),
        ("numbers", "splits", r"The train split .* inputs of shape \(1,\)"),
        ("unindexed", "splits", "The train split .* A generator can be gone through only once"),
    ],
)
def test_parts_of_another_form(function: str, part: str, message: str) -> None:
    task = resolve(f"mine_toy.py:{function}")
    with pytest.raises(TaskError, match=message) as caught:
        getattr(task, part)()
    assert "'mine'" in str(caught.value)


@pytest.mark.usefixtures("mine")
def test_extra_metrics() -> None:
    model = torch.nn.Linear(5, 10)
    found = resolve("mine_toy.py:with_figures").extra_metrics
    assert found is not None
    assert found(model, "valid") == {"parameters": 60, "valid": 0.5}
    assert resolve("mine_toy.py:task").extra_metrics is None
    for function, given in (("no_figures", "None"), ("words_as_figures", "type dict")):
        wrong = resolve(f"mine_toy.py:{function}").extra_metrics
        assert wrong is not None
        with pytest.raises(
            TaskError, match=rf"extra_metrics\(\) of task 'mine' returned .*{given}"
        ):
            wrong(model, "test")


def test_built_in_names_are_pinned() -> None:
    assert list(BUILT_IN) == [
        "digits",
        "mnist",
        "mnist-cnn",
        "fashion-mnist",
        "fashion-mnist-cnn",
        "fashion-mnist-mobilenet",
        "cifar10",
        "cifar10-vit",
        "cifar10-mobilenet",
        "cifar10-resnet20",
        "cifar10-resnet56",
        "modelnet10",
        "nsl-kdd",
        "nsl-kdd-test-plus",
        "ptb-lstm-small",
        "ptb-lstm",
        "ptb-lstm-large",
        "wikitext2-lstm",
        "ptb-char-gpt",
        "multi30k",
    ]
