"""`FakeQuantize`: observers, learned scales, switches, and everything that copies or stores a module."""

import copy
import io
import pickle

import numpy as np
import pytest

import quantcore
from quantcore import CalibrationMethod, QuantGranularity
from quantcore.errors import InvalidStateError, InvalidTypeError, InvalidValueError

torch = pytest.importorskip("torch")
nn = torch.nn
qt = pytest.importorskip("quantcore.torch")
FakeQuantize = qt.FakeQuantize

CHANNELS = QuantGranularity.per_channel(0)
GROUPS = QuantGranularity.per_group(8)
OPTIONS = [
    {"bits": 4, "observer": "current"},
    {"bits": 4, "observer": "current", "granularity": GROUPS},
    {"bits": 8, "symmetric": False, "observer": "min_max"},
    {"bits": 5, "symmetric": False, "observer": "moving_average", "granularity": CHANNELS},
    {"bits": 4, "observer": "mse", "narrow_range": False},
    {"bits": 8, "observer": CalibrationMethod("percentile", lower=1.0, upper=99.0)},
    {"bits": 3, "learn_scale": True, "granularity": CHANNELS},
    {"bits": 4, "symmetric": False, "learn_scale": True},
]


def batches(rng, n=3):
    return [torch.from_numpy(rng.standard_normal((6, 20), dtype=np.float32) * (k + 1) + 0.3) for k in range(n)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_forward_is_fake_quantize_with_its_parameters(rng, options):
    fq = FakeQuantize(**options)
    for x in batches(rng):
        y = fq(x)
        expected = quantcore.fake_quantize_with_params(x, fq.params)
        assert np.array_equal(y.detach().numpy(), expected)


@pytest.mark.parametrize(
    ("observer", "torchs"),
    [("min_max", "MinMaxObserver"), ("moving_average", "MovingAverageMinMaxObserver")],
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_scales_are_those_of_torchs_observers(rng, observer, torchs, symmetric):
    module = pytest.importorskip("torch.ao.quantization.observer")
    scheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    dtype = torch.qint8 if symmetric else torch.quint8
    theirs = getattr(module, torchs)(dtype=dtype, qscheme=scheme)
    ours = FakeQuantize(8, symmetric, narrow_range=False, observer=observer)
    for x in batches(rng):
        theirs(x)
        ours(x)
        scale, zero_point = theirs.calculate_qparams()
        torch.testing.assert_close(ours.scale, scale, rtol=1e-6, atol=0)
        assert torch.equal(ours.zero_point, zero_point.int())


def test_observers_see_every_batch_or_the_last(rng):
    first, second = torch.tensor([[-4.0, 4.0]]), torch.tensor([[-1.0, 1.0]])
    for observer, absmax in (("min_max", 4.0), ("current", 1.0), ("moving_average", 4 - 0.01 * 3)):
        fq = FakeQuantize(8, observer=observer)
        fq(first)
        fq(second)
        assert fq.scale.item() == pytest.approx(absmax / 127)


def test_switches(rng):
    model = nn.Sequential(FakeQuantize(2), nn.Identity())
    fq = model[0]
    x, wider = torch.tensor([-1.0, 0.4]), torch.tensor([-8.0, 8.0])
    model.apply(qt.disable_fake_quant)
    assert model(x) is x
    assert fq.scale.item() == 1.0
    model.apply(qt.disable_observer)
    model.apply(qt.enable_fake_quant)
    assert model(wider).tolist() == [-1.0, 1.0]
    model.apply(qt.enable_observer)
    assert model(wider).tolist() == [-8.0, 8.0]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_train_and_eval_are_not_switches(rng, options):
    fq = FakeQuantize(**options)
    first, *_ = batches(rng)
    y = fq(first)
    fq.disable_observer()
    fq.eval()
    assert torch.equal(fq(first), y)
    fq.train()
    assert torch.equal(fq(first), y)
    with torch.inference_mode():
        assert torch.equal(fq(first), y)


def test_without_a_scale():
    fq = FakeQuantize()
    fq.disable_observer()
    with pytest.raises(InvalidStateError, match="FakeQuantize: has no scale yet"):
        fq(torch.ones(2))
    empty = torch.empty(0, 3)
    assert fq(empty) is empty
    fq.enable_observer()
    assert fq(empty).shape == (0, 3)
    assert not fq.is_calibrated
    fq.calibrate(torch.ones(2))
    assert fq.is_calibrated


def test_learned_scale_trains_and_keeps_its_parameter():
    x = torch.linspace(-1, 1, 401) ** 5  # most of it far from the extremes
    fq = FakeQuantize(3, learn_scale=True)
    optimizer = torch.optim.Adam(fq.parameters(), lr=0.01)  # before there is a scale
    scale = fq.scale
    errors = []
    for _ in range(60):
        optimizer.zero_grad()
        error = ((fq(x) - x) ** 2).mean()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert fq.scale is scale
    assert errors[-1] < 0.9 * errors[0]  # the extremes are not the best step for 3 bits
    fq(10 * x)
    assert torch.equal(fq.scale, scale)  # the observer gave the first scale alone


def test_learned_zero_point_gets_a_gradient(rng):
    x, *_ = batches(rng)
    fq = FakeQuantize(4, symmetric=False, learn_scale=True)
    fq(x)
    fq(3 * x).square().sum().backward()
    assert {name for name, _ in fq.named_parameters()} == {"scale", "zero_point"}
    assert fq.scale.grad.abs().item() > 0
    assert fq.zero_point.grad.abs().item() > 0
    assert {name for name, _ in FakeQuantize(4, learn_scale=True).named_parameters()} == {"scale"}
    assert not list(FakeQuantize(4).parameters())


def saved(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_state_dict_round_trip(rng, options):
    fq, other = FakeQuantize(**options), FakeQuantize(**options)
    first, second, third = batches(rng)
    fq(first)
    fq(second)
    other.load_state_dict(saved(fq.state_dict()))
    for x in (third, first):  # what was observed goes on as it would have
        assert torch.equal(fq(x), other(x))
    assert fq.params == other.params
    fq.disable_observer()
    fq.disable_fake_quant()
    other.load_state_dict(saved(fq.state_dict()))
    assert other(x) is x
    assert not other.is_observer_enabled


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies(rng, options, duplicate):
    fq = FakeQuantize(**options)
    assert not duplicate(fq).is_calibrated
    first, second, third = batches(rng)
    fq(first)
    other = duplicate(fq)
    before = fq.params
    other(5 * second)
    assert fq.params == before
    fq(5 * second)
    assert torch.equal(fq(third), other(third))


def test_state_dict_holds_tensors_only(rng):
    fq = FakeQuantize(observer="mse")
    fq(batches(rng)[0])
    save = pytest.importorskip("safetensors.torch").save
    assert save(fq.state_dict())


def test_a_state_of_other_parameters_is_refused(rng):
    state = FakeQuantize(4).state_dict()
    for options, name in (
        ({"bits": 8}, "bits"),
        ({"bits": 4, "symmetric": False}, "symmetric"),
        ({"bits": 4, "observer": "current"}, "method"),
        ({"bits": 4, "granularity": CHANNELS}, "axis"),
    ):
        with pytest.raises(InvalidValueError, match=f"^{name}: the FakeQuantize has"):
            FakeQuantize(**options).load_state_dict(state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scales_stay_exact_in_other_dtypes(rng, dtype):
    for options in OPTIONS:
        fq = FakeQuantize(**options)
        fq(batches(rng)[0])
        fq.disable_observer()
        before = fq.params
        fq.to(dtype)
        assert fq.params == before
        assert fq(torch.ones(6, 20, dtype=dtype)).dtype == dtype


def test_other_devices_are_refused():
    with pytest.raises(InvalidTypeError, match=r"x: expected a dense CPU tensor, got .* device meta"):
        FakeQuantize()(torch.empty(3, device="meta"))
    fq = FakeQuantize()
    fq(torch.ones(3))
    fq.disable_observer()
    with pytest.raises(InvalidTypeError, match="scale: expected a CPU tensor, got one on device meta"):
        fq.to("meta")(torch.ones(3))


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"bits": 1}, InvalidValueError, "bits"),
        ({"bits": 4.0}, InvalidTypeError, "bits"),
        ({"symmetric": 1}, InvalidTypeError, "symmetric"),
        ({"narrow_range": None}, InvalidTypeError, "narrow_range"),
        ({"learn_scale": "yes"}, InvalidTypeError, "learn_scale"),
        ({"granularity": "per_group"}, InvalidValueError, "granularity"),
        ({"granularity": 64}, InvalidTypeError, "granularity"),
        ({"observer": "median"}, InvalidValueError, "observer"),
        ({"observer": None}, InvalidTypeError, "observer"),
        ({"observer": "mse", "granularity": GROUPS}, InvalidValueError, "observer"),
    ],
)
def test_what_is_refused(options, error, name):
    with pytest.raises(error, match=f"^{name}: "):
        FakeQuantize(**options)


def test_a_batch_with_nan_changes_nothing(rng):
    fq = FakeQuantize()
    fq(torch.ones(3))
    before = fq.params
    with pytest.raises(InvalidValueError, match="must be finite"):
        fq(torch.tensor([9.0, float("nan")]))
    assert fq.params == before
    assert fq(torch.ones(3)).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("label", ["", "head.input"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_is_refused_names_the_module_or_x(options, label, rng):
    name = label or "x"
    fq = FakeQuantize(**options)
    fq.label = label
    bad = torch.full((2, 16), float("nan"))
    for call in (fq, fq.preview):
        with pytest.raises(
            InvalidValueError, match=rf"^{name}: must be finite, got nan at flat index 0 \(row 0, column 0\)$"
        ):
            call(bad)
    with pytest.raises(
        InvalidTypeError, match=rf"^{name}: expected float32, float16, bfloat16 or float64, got torch.int"
    ):
        fq(torch.ones(2, 16, dtype=torch.int32))
    fq(torch.ones(2, 16))
    if fq.granularity.axis is not None and fq.observer is not None and not fq.learn_scale:
        with pytest.raises(InvalidValueError, match=rf"^{name}: expected 2 channels along axis 0 as before, got 3$"):
            fq(torch.ones(3, 16))
    fq.disable_observer()
    with pytest.raises(InvalidValueError, match=rf"^{name}: must be finite, got nan"):
        fq(bad)
    if fq.granularity.axis is not None:
        with pytest.raises(
            InvalidValueError, match=rf"^params: 2 scales per_channel, but {name} of shape \(3, 16\) needs 3"
        ):
            fq(torch.ones(3, 16))
        fq.granularity = QuantGranularity.per_channel(3)
        with pytest.raises(InvalidValueError, match=rf"^{f'{label}: ' if label else ''}axis: 3 is out of range"):
            fq(torch.ones(2, 16))


@pytest.mark.parametrize("parent", [lambda m: m, nn.Sequential], ids=["alone", "child"])
def test_a_refused_state_changes_nothing(rng, parent):
    ours, theirs = FakeQuantize(8), FakeQuantize(4)
    for fq in (ours, theirs):
        fq(batches(rng)[fq is ours])
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(InvalidValueError, match=r"^bits: the FakeQuantize has 8, the state_dict 4$"):
        parent(ours).load_state_dict(parent(theirs).state_dict())
    after = ours.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ({"lower": 1.0, "upper": 99.0}, {"lower": 1.0, "upper": 90.0}, r"^upper: .* 99\.0, the state_dict 90\.0$"),
        ({"lower": 1.0, "upper": 99.0}, {"lower": 2.0, "upper": 99.0}, r"^lower: "),
        ({"averaging_constant": 0.5}, {"averaging_constant": 0.25}, r"^averaging_constant: "),
    ],
)
def test_an_observer_with_other_parameters_is_refused(rng, ours, theirs, message):
    name = "percentile" if "lower" in ours else "moving_average"
    ours, theirs = (FakeQuantize(observer=CalibrationMethod(name, **options)) for options in (ours, theirs))
    theirs(batches(rng)[0])
    with pytest.raises(InvalidValueError, match=message):
        ours.load_state_dict(theirs.state_dict())
    assert not ours.is_calibrated
