"""Weights in few bits: what quantization promises of one tensor, of a module, of training."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import widthwise as ww
from fitting import fitted
from widthwise import pruning, quantization
from widthwise.errors import QuantizationError, ScoreError
from widthwise.quantization.quantized import grouped

SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
UNIFORM = st.builds(
    quantization.Uniform,
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    per=st.sampled_from(["tensor", "channel", "group"]),
    group=st.integers(1, 12),
)
FORMATS = st.one_of(UNIFORM, st.builds(quantization.Codebook, values=st.integers(2, 256)))
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def drawn(shape, seed, zeros=0.3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator) * 10 ** torch.rand(1, generator=generator)
    tensor[torch.rand(shape, generator=generator) < zeros] = 0
    return tensor.to(dtype)


def one(tensor, form, **more):
    make = quantization.uniform if isinstance(form, quantization.Uniform) else quantization.shared
    return make(tensor, form, **more)


def mlp(inputs=12, hidden=32, outputs=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


# ---------------------------------------------------------------- one tensor


@settings(deadline=None, max_examples=150)
@given(shape=SHAPES, form=UNIFORM, seed=st.integers(0, 10**6))
def test_a_weight_is_at_most_half_a_step_away(shape, form, seed):
    tensor = drawn(shape, seed)
    found = quantization.uniform(tensor, form, calibration="minmax")
    error = grouped((found.dense() - tensor).abs(), form)
    assert (error <= 0.5001 * found.scales[..., None]).all()
    low, high = grouped(tensor, form).aminmax(dim=-1)
    low, high = low.clamp(max=0), high.clamp(min=0)
    reach = 2 * torch.maximum(-low, high) if form.symmetric else high - low
    most = 2**form.bits - (2 if form.symmetric else 1)
    wanted = torch.where(reach > 0, reach / most, 1.0)
    assert torch.allclose(found.scales, wanted, rtol=1e-5)


@settings(deadline=None, max_examples=150)
@given(
    shape=SHAPES,
    form=FORMATS,
    seed=st.integers(0, 10**6),
    calibration=st.sampled_from(["minmax", "mse"]),
    dtype=st.sampled_from(DTYPES),
)
def test_zeros_stay_zero_and_codes_in_their_range(shape, form, seed, calibration, dtype):
    tensor = drawn(shape, seed, dtype=dtype)
    before = tensor.clone()
    more = {"calibration": calibration} if isinstance(form, quantization.Uniform) else {}
    found = one(tensor, form, **more)
    dense = found.dense()
    assert torch.equal(tensor, before)
    assert dense.shape == tensor.shape
    assert dense.dtype == dtype
    assert found.codes.shape == tensor.shape
    assert found.codes.dtype == torch.uint8
    assert (dense[tensor == 0] == 0).all()
    assert not dense[tensor == 0].signbit().any()
    most = 2**form.bits if isinstance(form, quantization.Uniform) else len(found.values)
    assert int(found.codes.max()) < most
    if isinstance(form, quantization.Uniform) and form.symmetric:
        assert int(found.codes.min()) > 0
    if isinstance(form, quantization.Codebook):
        assert len(found.values) <= form.values
        assert (found.values == 0).any() or not (tensor == 0).any()
    assert torch.equal(found.of(dense).dense(), dense)  # what is on the grid stays there


@settings(deadline=None, max_examples=60)
@given(shape=SHAPES, form=UNIFORM, seed=st.integers(0, 10**6), weighted=st.booleans())
def test_a_searched_range_is_never_worse(shape, form, seed, weighted):
    tensor = drawn(shape, seed)
    weights = torch.rand(shape) ** 4 if weighted else None
    counts = torch.ones(shape) if weights is None else weights
    errors = []
    for calibration in ("minmax", "mse"):
        found = quantization.uniform(tensor, form, weights=weights, calibration=calibration)
        errors.append(grouped((found.dense() - tensor).square() * counts, form).sum(-1))
    assert (errors[1] <= errors[0] * (1 + 1e-5) + 1e-12).all()


def test_a_searched_range_is_much_better_for_two_bits_and_sees_weights():
    tensor = drawn((64, 256), 0, zeros=0)
    errors = {}
    for calibration in ("minmax", "mse"):
        found = quantization.uniform(tensor, quantization.Uniform(2), calibration=calibration)
        errors[calibration] = float((found.dense() - tensor).square().mean())
    assert errors["mse"] < 0.55 * errors["minmax"]
    large = (tensor.abs() > 2 * tensor.std()).float()
    forms = [
        quantization.uniform(tensor, quantization.Uniform(2), weights=w) for w in (None, large)
    ]
    of_large = [float(((f.dense() - tensor) * large).square().sum()) for f in forms]
    assert of_large[1] < 0.7 * of_large[0]


@pytest.mark.parametrize("count", [3, 4, 8, 16, 64])
@pytest.mark.parametrize("zeros", [0, 0.5, 0.95])
def test_shared_values_are_never_worse_than_evenly_spaced_ones(count, zeros):
    tensor = drawn((40, 50), count, zeros)
    tensor[0, 0] = 8 * tensor.abs().max()  # a straggler, on which evenly spaced ones are wasted
    shared = quantization.shared(tensor, quantization.Codebook(count))
    error = float((shared.dense() - tensor).square().sum())
    low, high = tensor.min(), tensor.max()
    even = torch.linspace(float(low), float(high), count)
    if zeros:
        even[even.abs().argmin()] = 0
    nearest = (tensor[..., None] - even).abs().amin(-1)
    assert error <= (1 + 1e-6) * float(nearest.square().sum())
    if count > 3:
        form = quantization.Uniform(int(math.log2(count)), per="tensor")
        uniform = quantization.uniform(tensor, form)
        assert error < float((uniform.dense() - tensor).square().sum())


def test_k_means_finds_the_best_values_for_a_normal_tensor():
    """Squared errors of the optimal scalar quantizers of a normal variable (Max, 1960)."""
    tensor = torch.randn(300_000, generator=torch.Generator().manual_seed(1))
    for count, best in [(4, 0.1175), (8, 0.03454), (16, 0.009497)]:
        found = quantization.shared(tensor, quantization.Codebook(count))
        assert float((found.dense() - tensor).square().mean()) < 1.02 * best


def test_few_different_weights_are_kept_exactly():
    tensor = torch.tensor([[0.0, 1.5, -0.25], [1.5, -0.0, 7.0]])
    found = quantization.shared(tensor, quantization.Codebook(4))
    assert found.values.tolist() == [-0.25, 0.0, 1.5, 7.0]
    assert torch.equal(found.dense(), tensor)


def test_weights_draw_the_shared_values_to_what_matters():
    tensor = torch.cat([torch.linspace(0.9, 1.1, 100), torch.linspace(-9, -8, 100)])
    weights = torch.cat([torch.ones(100), torch.zeros(100)])
    plain = quantization.shared(tensor, quantization.Codebook(4)).dense()
    weighted = quantization.shared(tensor, quantization.Codebook(4), weights=weights).dense()
    error = [float((d - tensor)[:100].square().sum()) for d in (plain, weighted)]
    assert error[1] < 0.3 * error[0]
    assert (
        quantization.shared(tensor, quantization.Codebook(3), weights=weights * 0)
        .values.isfinite()
        .all()
    )


@pytest.mark.parametrize("form", [quantization.Uniform(4), quantization.Codebook(4)])
def test_tensors_that_cannot_be_quantized(form):
    for value in (math.nan, math.inf):
        with pytest.raises(QuantizationError, match="not finite"):
            one(torch.tensor([1.0, value]), form)
    with pytest.raises(QuantizationError, match="too large"):
        one(torch.tensor([3e38, -3e38]), form)
    with pytest.raises(QuantizationError, match="int64"):
        one(torch.ones(3, dtype=torch.int64), form)
    with pytest.raises(QuantizationError, match="without values"):
        one(torch.ones(0, 3), form)
    with pytest.raises(QuantizationError, match="importances"):
        one(torch.ones(3), form, weights=-torch.ones(3))
    with pytest.raises(QuantizationError, match="importances"):
        one(torch.ones(3), form, weights=torch.ones(2))


def test_formats_out_of_their_ranges():
    for wrong in ({"bits": 1}, {"bits": 9}, {"bits": 4.0}, {"group": 0}, {"per": "row"}):
        with pytest.raises(ValueError, match="give"):
            quantization.Uniform(**wrong)
    for wrong in (1, 257, 4.0):
        with pytest.raises(ValueError, match="2 to 256"):
            quantization.Codebook(wrong)
    with pytest.raises(ValueError, match="symmetric"):
        quantization.Uniform(4, symmetric=1)
    with pytest.raises(ValueError, match="calibration"):
        quantization.uniform(torch.ones(3), quantization.Uniform(4), calibration="best")


# ---------------------------------------------------------------- modules


def test_matrices_are_quantized_in_place_and_vectors_left_alone():
    module = mlp()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    parameter = module[0].weight
    found = quantization.quantize_(module, quantization.Uniform(4))
    assert found.keys() == {"0.weight", "2.weight"} == {*quantization.quantizable(module)}
    assert module[0].weight is parameter
    assert parameter.requires_grad
    for name, p in module.named_parameters():
        assert torch.equal(p, found[name].dense() if name in found else before[name])
        assert torch.equal(p, before[name]) != (name in found)


def test_each_tensor_can_have_its_own_format():
    module = mlp()
    forms = {"0.weight": quantization.Codebook(4), "2.bias": quantization.Uniform(8)}
    found = quantization.quantize_(module, forms)
    assert {name: each.format for name, each in found.items()} == forms
    assert len(module[0].weight.unique()) == 4
    assert quantization.quantize_(module, quantization.Uniform(8), tensors=["2.weight"]).keys() == {
        "2.weight"
    }


def test_what_a_module_refuses_changes_nothing():
    module = mlp()
    with torch.no_grad():
        module[2].weight[0, 0] = math.nan
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    with pytest.raises(QuantizationError, match=r"'2\.weight' cannot be quantized: .*not finite"):
        quantization.quantize_(module, quantization.Uniform(4))
    with pytest.raises(QuantizationError, match=r"did you mean '0\.weight'"):
        quantization.quantize_(module, quantization.Uniform(4), tensors=["0.weigh"])
    with pytest.raises(QuantizationError, match="no matrix"):
        quantization.quantize_(nn.LayerNorm(3), quantization.Uniform(4))
    with pytest.raises(ValueError, match="not both"):
        quantization.quantize_(module, {"0.weight": quantization.Uniform(4)}, tensors=["0.weight"])
    for name, p in module.named_parameters():
        assert torch.equal(p.nan_to_num(), before[name].nan_to_num())


def test_an_elastic_network_is_quantized_as_its_model():
    net = ww.Elastic(mlp(), (torch.randn(4, 12),))
    found = quantization.quantize_(net, quantization.Uniform(4))
    assert found.keys() == {"0.weight", "2.weight"}
    assert torch.equal(net.model[0].weight, found["0.weight"].dense())


# ---------------------------------------------------------------- sensitivity


def task(seed=0, count=600):
    """Four classes of noise around four points."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(4, (count,), generator=generator)
    points = torch.randn(4, 12, generator=torch.Generator().manual_seed(9))
    return points[target] + 0.7 * torch.randn(count, 12, generator=generator), target


def trained(steps=150):
    module = mlp()
    inputs, target = task()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(module(inputs), target).backward()
        optimizer.step()
    return module


def loss_of(module):
    with torch.no_grad():
        return float(F.cross_entropy(module(task()[0]), task()[1]))


def test_fewer_values_where_the_loss_allows():
    module = trained()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    plain = loss_of(module)
    small = {}
    for tolerance in (0.0005, 0.01, 0.1):
        chosen = pruning.few_values(module, [task()], F.cross_entropy, tolerance=tolerance)
        small[tolerance] = sum(form.values for form in chosen.values())
        assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
        for name, form in chosen.items():
            rises = []
            for count in (form.values, max(2, form.values // 2)):
                changed = mlp()
                changed.load_state_dict(module.state_dict())
                quantization.quantize_(changed, quantization.Codebook(count), tensors=[name])
                rises.append(loss_of(changed) - plain)
            assert rises[0] <= tolerance + 1e-6
            assert rises[1] > tolerance - 1e-6 or form.values == 2
    assert small[0.0005] > small[0.01] >= small[0.1]
    with pytest.raises(ScoreError, match="tolerance"):
        pruning.few_values(module, [task()], F.cross_entropy, tolerance=-1)


def test_a_tied_tensor_changes_wherever_it_is_read():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(12, 12, bias=False), nn.Linear(12, 12, bias=False)
            self.outer.weight = self.inner.weight

        def forward(self, x):
            return self.outer(torch.relu(self.inner(x)))

    torch.manual_seed(0)
    module = Tied()
    inputs, target = task()
    changed = Tied()
    changed.load_state_dict(module.state_dict())
    quantization.quantize_(changed, quantization.Codebook(2))
    rise = loss_of(changed) - loss_of(module)
    assert rise > 1e-3
    for tolerance, wanted in ((rise + 1e-5, 2), (rise - 1e-5, 256)):
        found = pruning.few_values(
            module, [(inputs, target)], F.cross_entropy, tolerance=tolerance, counts=(256, 2)
        )
        assert found == {"inner.weight": quantization.Codebook(wanted)}


def test_gradient_magnitudes_are_those_of_backward():
    module = trained(20)
    inputs, target = task()
    batches = [(inputs[:300], target[:300]), (inputs[300:], target[300:])]
    found = pruning.gradient_magnitude(module, batches, F.cross_entropy)
    wanted = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    for x, y in batches:
        module.zero_grad()
        F.cross_entropy(module(x), y).backward()
        for name, p in module.named_parameters():
            wanted[name] += p.grad.abs() / 2
    assert found.keys() == wanted.keys()
    for name, each in found.items():
        assert torch.allclose(each, wanted[name], atol=1e-6)
    record = quantization.quantize_(module, quantization.Codebook(4), weights=found)
    assert record.keys() == {"0.weight", "2.weight"}


# ---------------------------------------------------------------- training


def train(module, steps, lr, after, before=lambda: None):
    inputs, target = task()
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(module(inputs), target).backward()
        before()
        optimizer.step()
        after()


@pytest.mark.parametrize(
    "form",
    [quantization.Uniform(2), quantization.Uniform(2, symmetric=True), quantization.Codebook(2)],
)
def test_training_straight_through_beats_one_shot(form):
    one_shot = trained()
    quantization.quantize_(one_shot, form)
    module = trained()
    quantizer = quantization.StraightThrough(module, form, calibration="mse", frequency=20)
    assert loss_of(module) == loss_of(one_shot)
    train(module, 100, 3e-3, quantizer.step)
    assert quantizer.steps == 100
    for name, found in quantizer.record.items():
        assert torch.equal(dict(module.named_parameters())[name], found.dense())
        assert len(found.codes.unique()) <= 4
    assert loss_of(module) < 0.5 * loss_of(one_shot)


def test_straight_through_is_the_gradient_of_the_quantized_applied_to_the_float():
    module, form = mlp(), quantization.Uniform(3)
    held = {name: p.detach().clone() for name, p in module.named_parameters()}
    quantizer = quantization.StraightThrough(module, form, frequency=3)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    inputs, target = task()
    for step in range(1, 8):
        optimizer.zero_grad()
        F.cross_entropy(module(inputs), target).backward()
        for name, p in module.named_parameters():
            held[name] -= 0.1 * p.grad
        before = quantizer.record
        optimizer.step()
        quantizer.step()
        for name, found in quantizer.record.items():
            close = quantizer.state_dict()[f"float/{name}"]
            assert torch.allclose(close, held[name], atol=1e-6)
            anew = step % 3 == 0
            assert torch.equal(found.scales, before[name].scales) != anew
            wanted = before[name].of(close)
            if anew:
                wanted = quantization.uniform(close, form, calibration="minmax")
            assert torch.equal(found.dense(), wanted.dense())


@pytest.mark.parametrize("form", [quantization.Uniform(2), quantization.Codebook(4)])
def test_pruned_weights_stay_zero_in_training(form):
    module = trained()
    pruner = ww.GradualPruner(module, ww.Schedule(0.7, end=0))
    quantizer = quantization.StraightThrough(module, form, frequency=5)

    def after():
        pruner.step()
        quantizer.step()

    train(module, 23, 1e-2, after)
    for name, mask in pruner.masks.items():
        assert not dict(module.named_parameters())[name][~mask].any()
    with pruning.held_at_zero(module, pruning.zeros_of(module)):
        zeros = {n: p == 0 for n, p in module.named_parameters() if p.dim() == 2}
        again = quantization.StraightThrough(module, form, frequency=5)
        train(module, 23, 1e-2, again.step)
    assert all((dict(module.named_parameters())[n][zero] == 0).all() for n, zero in zeros.items())


@pytest.mark.parametrize("form", [quantization.Uniform(3), quantization.Codebook(8)])
def test_a_stopped_training_goes_on(form):
    whole, stopped = trained(), trained()
    quantizer = quantization.StraightThrough(whole, form, frequency=7)
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.05)
    inputs, target = task()

    def step(module, optimizer, quantizer):
        optimizer.zero_grad()
        F.cross_entropy(module(inputs), target).backward()
        optimizer.step()
        quantizer.step()

    for _ in range(10):
        step(whole, optimizer, quantizer)
    stopped.load_state_dict(whole.state_dict())
    again = quantization.StraightThrough(stopped, form, frequency=7)
    again.load_state_dict(quantizer.state_dict())
    other = torch.optim.SGD(stopped.parameters(), lr=0.05)
    for _ in range(10):
        step(whole, optimizer, quantizer)
        step(stopped, other, again)
    for a, b in zip(whole.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(QuantizationError, match="do not fit"):
        quantization.StraightThrough(mlp(hidden=8), form).load_state_dict(quantizer.state_dict())
    with pytest.raises(ValueError, match="frequency"):
        quantization.StraightThrough(mlp(), form, frequency=0)


@pytest.mark.parametrize("form", [quantization.Uniform(3), quantization.Codebook(8)])
def test_weights_that_are_not_finite_any_more(form):
    module = mlp()
    quantizer = quantization.StraightThrough(module, form)
    with torch.no_grad():
        module[0].weight[0, 0] = math.nan
    with pytest.raises(QuantizationError, match="lower learning rate"):
        quantizer.step()


def test_fit_trains_quantized_weights_and_goes_on(tmp_path):
    inputs, target = task()
    data = torch.utils.data.TensorDataset(inputs, target)
    recipe = ww.Recipe(epochs=4, batch_size=100, lr=1e-2, weight_decay=0.0)

    def run(folder, width=2, **more):
        module = trained()
        quantizer = quantization.StraightThrough(module, quantization.Uniform(width), frequency=5)
        options = {"recipe": recipe, "compress": quantizer, "folder": folder, **more}
        fitted(module, data, F.cross_entropy, **options)
        return module, quantizer

    one_shot = trained()
    quantization.quantize_(one_shot, quantization.Uniform(2))
    module, quantizer = run(tmp_path / "a")
    assert loss_of(module) < 0.7 * loss_of(one_shot)
    assert quantizer.steps == 24
    assert torch.equal(module[0].weight, quantizer.record["0.weight"].dense())
    again, reloaded = run(tmp_path / "a")  # finished: what was kept is loaded
    assert reloaded.steps == 24
    assert torch.equal(again[0].weight, module[0].weight)
    with pytest.raises(ww.RunError):
        run(tmp_path / "a", width=3)
    with pytest.raises(ValueError, match="ema"):
        run(None, recipe=ww.Recipe(epochs=1, ema=0.9))
    with pytest.raises(ValueError, match="new quantizer"):
        run(None, compress=quantizer)


def test_an_elastic_network_trained_straight_through_and_cut(tmp_path):
    inputs, target = task()
    net = ww.Elastic(mlp(), (inputs[:4],))
    quantizer = quantization.StraightThrough(net, quantization.Uniform(4), frequency=10)
    data = torch.utils.data.TensorDataset(inputs, target)
    loss = ww.SandwichLoss(net, F.cross_entropy)
    recipe = ww.Recipe(epochs=10, batch_size=100, lr=1e-2)
    ww.fit(net, data, loss, recipe=recipe, compress=quantizer, run=ww.RunConfig(progress=False))
    assert torch.equal(net.model[0].weight, quantizer.record["0.weight"].dense())
    widths = net.widths(0.5)
    small = net.cut(widths)
    record = quantization.quantize_(small, quantization.Uniform(4))
    path = ww.save(net, tmp_path / "a", widths=widths, module=small, bits=record)
    accuracy = ww.Evaluation([(inputs, target)], ww.ACCURACY)
    assert accuracy(ww.load(path, mlp)) == accuracy(small) > 0.8


def test_shared_values_move_together_by_the_sum_of_their_gradients():
    module = trained()
    with torch.no_grad():
        module[0].weight[:, :6] = 0
    record = quantization.quantize_(module, quantization.Codebook(4))
    tuner = quantization.SharedValues(module, record)
    inputs, target = task()
    F.cross_entropy(module(inputs), target).backward()
    slope = module[0].weight.grad.clone()
    tuner.sum_gradients()
    first = record["0.weight"]
    for code, value in enumerate(first.values.tolist()):
        shares = first.codes == code
        wanted = slope[shares].sum() if value else torch.tensor(0.0)
        assert torch.allclose(module[0].weight.grad[shares], wanted, atol=1e-5)
    before = loss_of(module)
    train(module, 60, 5e-3, tuner.step, tuner.sum_gradients)
    after = tuner.record["0.weight"]
    assert loss_of(module) < 0.9 * before
    assert torch.equal(after.codes, first.codes)
    assert not torch.equal(after.values, first.values)
    assert not module[0].weight[:, :6].any()
    assert torch.equal(module[0].weight, after.dense())


def test_shared_values_of_another_module_are_refused():
    module = mlp()
    record = quantization.quantize_(module, quantization.Codebook(4))
    with pytest.raises(QuantizationError, match="not what the record says"):
        quantization.SharedValues(mlp(), record)
    with pytest.raises(QuantizationError, match="no codebook"):
        quantization.SharedValues(module, quantization.quantize_(module, quantization.Uniform(4)))
