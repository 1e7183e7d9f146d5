"""Calibrators equal torch's observers, bit for bit: scales, zero points and extremes, batch by batch."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from quantcore import Calibrator
from tests.support.marks import slow_but_first

F32 = np.float32
CODES = pytest.mark.parametrize(("symmetric", "narrow"), [(True, True), (True, False), (False, True)])
SMALLEST_NORMAL = 2.0**-126


@pytest.fixture
def observers() -> ModuleType:
    pytest.importorskip("torch")
    return pytest.importorskip("torch.ao.quantization.observer")


def torchs(observers: ModuleType, kind: str, bits: int, symmetric: bool, narrow: bool, **options: Any) -> Any:
    """The observer with our codes, and without torch's own limit to scales (eps)."""
    import torch

    top = 2 ** (bits - 1) - 1
    limits = (-top if narrow else -top - 1, top) if symmetric else (0, 2**bits - 1)
    scheme = "symmetric" if symmetric else "affine"
    return getattr(observers, kind)(
        dtype=torch.qint8 if symmetric else torch.quint8,
        qscheme=getattr(torch, f"per_{'channel' if 'ch_axis' in options else 'tensor'}_{scheme}"),
        quant_min=limits[0],
        quant_max=limits[1],
        eps=2.0**-149,
        **options,
    )


def check(calibrator: Calibrator, observer: Any) -> None:
    result = calibrator.compute()
    scales, zero_points = (tensor.numpy() for tensor in observer.calculate_qparams())
    np.testing.assert_array_equal(np.ravel(result.observed_min), observer.min_val.numpy().ravel())
    np.testing.assert_array_equal(np.ravel(result.observed_max), observer.max_val.numpy().ravel())
    np.testing.assert_array_equal(np.ravel(result.scale), scales.astype(np.float64))
    np.testing.assert_array_equal(np.ravel(result.zero_point), zero_points)


def batches(rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Sequences of batches: of any sign, without zero, growing, shrinking, constant, tiny and huge."""
    sequences = [
        [rng.uniform(low, high, (4, 3, 40)).astype(F32) * F32(1 + 0.3 * i) for i in range(5)]
        for low, high in ((-1, 1), (-0.1, 5), (5, 6), (-7, -6), (-1e30, 1e29), (1e-30, 2e-30))
    ]
    sequences += [
        [rng.standard_normal((4, 3, 40)).astype(F32) / F32(i + 1) for i in range(5)],
        [np.full((4, 3, 40), value, F32) for value in (0.1, 0.3, -0.2)],
    ]
    return sequences


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
@CODES
def test_min_max(observers, bits, symmetric, narrow, rng):
    import torch

    for sequence in batches(rng):
        calibrator = Calibrator.min_max(bits, symmetric, narrow_range=narrow)
        observer = torchs(observers, "MinMaxObserver", bits, symmetric, narrow)
        for batch in sequence:
            calibrator.observe(batch)
            observer(torch.tensor(batch))
            check(calibrator, observer)


@pytest.mark.parametrize("constant", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("bits", [4, 8])
@CODES
def test_moving_average(observers, constant, bits, symmetric, narrow, rng):
    import torch

    for sequence in batches(rng):
        calibrator = Calibrator.moving_average(bits, symmetric, constant, narrow_range=narrow)
        observer = torchs(
            observers, "MovingAverageMinMaxObserver", bits, symmetric, narrow, averaging_constant=constant
        )
        for batch in sequence:
            calibrator.observe(batch)
            observer(torch.tensor(batch))
            check(calibrator, observer)


@pytest.mark.parametrize("axis", slow_but_first([1, 0, 2]))
@CODES
def test_per_channel(observers, axis, symmetric, narrow, rng):
    import torch

    for sequence in batches(rng):
        for kind, calibrator, options in (
            ("PerChannelMinMaxObserver", Calibrator.min_max(8, symmetric, axis=axis, narrow_range=narrow), {}),
            (
                "MovingAveragePerChannelMinMaxObserver",
                Calibrator.moving_average(8, symmetric, 0.25, axis=axis, narrow_range=narrow),
                {"averaging_constant": 0.25},
            ),
        ):
            observer = torchs(observers, kind, 8, symmetric, narrow, ch_axis=axis, **options)
            for batch in sequence:
                calibrator.observe(batch)
                observer(torch.tensor(batch))
                check(calibrator, observer)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_tensors_of_other_dtypes(observers, dtype, rng):
    import torch

    values = torch.tensor(rng.standard_normal((5, 60))).to(getattr(torch, dtype))
    calibrator = Calibrator.min_max(8, True)
    calibrator.observe(values)
    observer = torchs(observers, "MinMaxObserver", 8, True, True)
    observer(values.float())
    check(calibrator, observer)


def test_torchs_smallest_scale_is_not_ours(observers):
    """torch's scales end at its eps, 2**-23 by default, and tiny tensors become zeros. Ours end at 2**-126."""
    import torch

    values = np.array([-1e-9, 1e-9], F32)
    observer = observers.MinMaxObserver(qscheme=torch.per_tensor_symmetric, dtype=torch.qint8)
    observer(torch.tensor(values))
    assert observer.calculate_qparams()[0] == 2.0**-23
    calibrator = Calibrator.min_max(narrow_range=False)
    calibrator.observe(values)
    assert calibrator.compute().scale == pytest.approx(1e-9 / 127.5)
    calibrator.reset()
    calibrator.observe(values * F32(1e-36))
    assert (calibrator.compute().scale, calibrator.compute().zero_point) == (1.0, 0)
    assert F32(1e-9) * F32(1e-36) / 127.5 < SMALLEST_NORMAL
