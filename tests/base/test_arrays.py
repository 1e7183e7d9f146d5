"""The boundary: which arrays are accepted, which are copied, which are refused, and with which message."""

import array
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import quantcore
from quantcore import Q4_0, Q8_0, InvalidTypeError, InvalidValueError, QuantcoreError, dequantize, quantize
from quantcore._base.arrays import are_finite
from quantcore._base.lengths import common_length
from tests.support.memory import MEGABYTE, memory_below

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BF16, np.dtype(np.float64)]
VALUES = np.random.default_rng(7).standard_normal((6, 64)).astype(np.float32)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=lambda dtype: dtype.__name__)
def test_which_values_are_finite_in_float32(dtype):
    most = min(np.finfo(dtype).max, dtype(np.finfo(np.float32).max) if dtype != np.float16 else np.inf)
    values = np.array([0, -1, most, -most, np.inf, -np.inf, np.nan], dtype)
    assert are_finite(values).tolist() == [True] * 4 + [False] * 3
    if dtype is np.float64:
        assert are_finite(np.nextafter(values[2:4], [np.inf, -np.inf])).tolist() == [False] * 2


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([3], 3), ([3, 3, 2], 3), ([2, 3, 3], 3), ([0, 0, 0, 4], 4), ([], 0), ([0, 0], 0), ([5, 1, 5, 2, 5], 5)],
)
def test_the_length_of_most_vectors(lengths, expected):
    assert common_length(np.array(lengths, np.int64), np.arange(len(lengths)), "values") == expected


@pytest.mark.parametrize(
    ("lengths", "shown"),
    [
        ([3, 2], "3 values in row 10, 2 values in row 11"),
        ([4, 0, 3, 3, 4], "4 values in row 10, 3 values in row 12"),
        ([2, 2, 1, 3, 9, 8], r"2 values in row 10, 1 values in row 12, 3 values in row 13, 9 values in row 14, \.\.\."),
    ],
)
def test_no_length_of_most_vectors(lengths, shown):
    with pytest.raises(InvalidValueError, match=rf"^values: which length is right cannot be told, .*: {shown}$"):
        common_length(np.array(lengths, np.int64), np.arange(10, 10 + len(lengths)), "values")


class DLPackOnly:
    """An array that only offers DLPack."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def __dlpack__(self, **options: Any) -> Any:
        return self._values.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._values.__dlpack_device__()


class ArrayInterfaceOnly:
    """An array that only offers `__array__`, as pyarrow's do."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._values


class Subclass(np.ndarray):
    """A subclass that would break code which trusts its operators."""

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("must not be used")

    reshape = view = astype = __getitem__  # type: ignore[assignment]


def read_only(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values.flags.writeable = False
    return values


def misaligned(values: np.ndarray) -> np.ndarray:
    raw = np.zeros(values.nbytes + 1, np.uint8)[1:]
    raw[:] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    copy = raw.view(values.dtype).reshape(values.shape)
    assert values.itemsize == 1 or not copy.flags.aligned
    return copy


def strided(values: np.ndarray) -> np.ndarray:
    return np.repeat(values, 3, axis=-1)[..., ::3]


def byte_swapped(values: np.ndarray) -> np.ndarray:
    bits = f"u{values.itemsize}"
    return values.view(bits).byteswap().view(values.dtype.newbyteorder(">"))


FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "as it is": lambda values: values,
    "read-only": read_only,
    "strided": strided,
    "reversed": lambda values: values[::-1, ::-1].copy()[::-1, ::-1],
    "Fortran": np.asfortranarray,
    "byte-swapped": byte_swapped,
    "byte-swapped and strided": lambda values: strided(byte_swapped(values)),
    "misaligned": misaligned,
    "subclass": lambda values: values.copy().view(Subclass),
    "memory-mapped": lambda values: values.copy().view(np.memmap),
    "with __array__": ArrayInterfaceOnly,
    "with DLPack": DLPackOnly,
    "memoryview": memoryview,
    "nested list": lambda values: values.tolist(),
}


# What is taken


# Arrays of ml_dtypes have no buffer protocol and no DLPack; their lists hold scalars that NumPy takes for objects.
NOT_BFLOAT16 = ("memoryview", "with DLPack", "nested list")


@pytest.mark.parametrize(
    ("form", "dtype"), [(f, t) for f in FORMS for t in DTYPES if t != BF16 or f not in NOT_BFLOAT16], ids=str
)
def test_every_form_gives_the_same_bytes(form, dtype):
    values = VALUES.astype(dtype)
    given = FORMS[form](values)
    expected = quantize(values, "Q8_0")
    np.testing.assert_array_equal(quantize(given, "Q8_0"), expected)
    np.testing.assert_array_equal(Q8_0.quantize(given).data, expected)
    np.testing.assert_array_equal(VALUES.astype(dtype), values)


def test_broadcast_values():
    values = np.broadcast_to(VALUES[:1], (5, 64))
    np.testing.assert_array_equal(quantize(values, "Q8_0"), quantize(values.copy(), "Q8_0"))


@pytest.mark.parametrize("typecode", ["f", "d"])
def test_array_array(typecode):
    values = array.array(typecode, VALUES[0].tolist())
    np.testing.assert_array_equal(quantize(values, "Q4_0"), quantize(VALUES[0], "Q4_0"))


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, DLPackOnly, ArrayInterfaceOnly, read_only, strided])
def test_every_form_of_data(form):
    data = quantize(VALUES[0], "Q8_0")
    np.testing.assert_array_equal(dequantize(form(data), "Q8_0"), dequantize(data, "Q8_0"))


@pytest.mark.parametrize("qtype", ["F32", "F16", "BF16"])
def test_misaligned_data(qtype):
    data = quantize(VALUES, qtype)
    given = np.zeros(data.size + 1, np.uint8)[1:].reshape(data.shape)
    given[:] = data
    np.testing.assert_array_equal(dequantize(given, qtype), dequantize(data, qtype))


@pytest.mark.parametrize("shape", [(0,), (0, 32), (3, 0), (2, 0, 64), (0, 0)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_empty(shape, dtype):
    data = quantize(np.empty(shape, dtype), "Q4_0")
    assert (data.shape, data.dtype) == ((*shape[:-1], shape[-1] // 32 * 18), np.uint8)
    assert dequantize(data, "Q4_0").shape == shape
    assert Q4_0.quantize(np.empty(shape, dtype)).dequantize().shape == shape


# Torch


@pytest.mark.may_skip
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize(
    "form",
    [
        lambda tensor: tensor,
        lambda tensor: tensor.requires_grad_(),
        lambda tensor: tensor.T.contiguous().T,
        lambda tensor: tensor[::2],
        lambda tensor: (-1j * tensor.to(dtype=__import__("torch").complex64)).imag.to(tensor.dtype),
    ],
    ids=["plain", "requires grad", "transposed", "strided", "negative bit"],
)
def test_torch_tensors(form, dtype):
    torch = pytest.importorskip("torch")
    tensor = form(torch.tensor(VALUES).to(getattr(torch, dtype)))
    expected = quantize(tensor.detach().to(torch.float32).resolve_neg().numpy().copy(), "Q8_0")
    np.testing.assert_array_equal(quantize(tensor, "Q8_0"), expected)


@pytest.mark.may_skip
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_torch_tensors_are_not_copied(dtype):
    torch = pytest.importorskip("torch")
    tensor = torch.ones((1 << 15, 64), dtype=getattr(torch, dtype))
    out = np.empty((1 << 15, 68), np.uint8)
    with memory_below(MEGABYTE):
        quantize(tensor, "Q8_0", out=out)
    np.testing.assert_array_equal(out[0], quantize(np.ones(64, np.float32), "Q8_0"))


@pytest.mark.may_skip
def test_torch_tensors_that_are_refused():
    torch = pytest.importorskip("torch")
    floats = torch.ones(2, 32)
    for tensor in (floats.int(), floats.bool(), floats + 1j, floats.to_sparse(), floats.to("meta")):
        with pytest.raises(InvalidTypeError, match=r"^values: "):
            quantize(tensor, "Q8_0")
    with pytest.raises(InvalidValueError, match=r"^values: .*shape \(\)"):
        quantize(torch.tensor(1.0), "Q8_0")


# What is refused


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.zeros(32, np.int8), "int8"),
        (np.zeros(32, np.uint64), "uint64"),
        (np.zeros(32, bool), "bool"),
        (np.zeros(32, np.complex64), "complex64"),
        (np.zeros(32, object), "object"),
        (np.zeros(32, "f4,f4"), "'f0'"),
        (np.zeros(32, "S4"), "S4"),
        (np.zeros(32, "M8[s]"), "datetime64"),
        (np.zeros(32, np.longdouble), np.dtype(np.longdouble).name),
        (np.zeros(32, ml_dtypes.float8_e4m3fn), "float8_e4m3fn"),
        ([1, 2, 3], "int64"),
        ([True] * 32, "bool"),
        (["1.0"] * 32, "<U3"),
        ([10**400, 1.0], "object"),
        (None, "got None"),
        (object(), "got <object object"),
        ("values", "got 'values'"),
        (b"\0" * 128, "got b'\\x00"),
        ({1.0: 2.0}, "got {1.0: 2.0}"),
        (5, "int64"),
    ],
)
def test_other_dtypes_are_refused_by_name(values, dtype):
    for function in (lambda: quantize(values, "Q8_0"), lambda: Q4_0.quantize(values)):
        with pytest.raises(InvalidTypeError, match=r"^values: ") as error:
            function()
        assert dtype in str(error.value)


@pytest.mark.parametrize("values", [[[1.0], [1.0, 2.0]], [1.0, [2.0]]])
def test_ragged_lists_are_refused(values):
    with pytest.raises(InvalidTypeError, match=r"^values: cannot be read as an array"):
        quantize(values, "F32")


class BrokenDLPack:
    """Offers a broken DLPack: no device, or a device that NumPy cannot read."""

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("on another device")


class BrokenDLPackDevice(BrokenDLPack):
    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


@pytest.mark.parametrize("values", [BrokenDLPack(), BrokenDLPackDevice()])
def test_broken_dlpack_is_refused(values):
    with pytest.raises(InvalidTypeError, match=r"^values: cannot be read as an array"):
        quantize(values, "F32")


@pytest.mark.parametrize("mask", [False, True, [True] + [False] * 31])
def test_masked_arrays_are_refused(mask):
    masked = np.ma.array(np.zeros(32, np.float32), mask=mask)
    with pytest.raises(InvalidTypeError, match=r"^values: masked"):
        quantize(masked, "Q8_0")
    with pytest.raises(InvalidTypeError, match=r"^data: masked"):
        dequantize(np.ma.array(np.zeros(34, np.uint8)), "Q8_0")


@pytest.mark.parametrize("values", [1.0, np.float32(1), np.array(1.0), np.array(1, BF16)])
def test_no_dimensions_are_refused(values):
    with pytest.raises(InvalidValueError, match=r"^values: .*shape \(\)"):
        quantize(values, "F32")
    with pytest.raises(InvalidValueError, match=r"^values: .*shape \(\)"):
        Q8_0.quantize(values)


@pytest.mark.parametrize(
    "data", [np.zeros(34, np.int8), np.zeros(34, np.float32), [0] * 34, None, "text", [b"\0"] * 34]
)
def test_data_must_be_uint8(data):
    with pytest.raises(InvalidTypeError, match=r"^data: expected uint8, got dtype "):
        dequantize(data, "Q8_0")


def test_data_must_have_a_dimension():
    with pytest.raises(InvalidValueError, match=r"^data: .*shape \(\)"):
        dequantize(np.uint8(1), "F32")


def test_errors_are_ours_and_the_built_in_ones():
    assert issubclass(InvalidValueError, QuantcoreError) and issubclass(InvalidValueError, ValueError)
    assert issubclass(InvalidTypeError, QuantcoreError) and issubclass(InvalidTypeError, TypeError)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", ["as it is", "read-only", "with __array__", "subclass"])
def test_no_copy_is_made(dtype, form):
    """Of any dtype: halves and doubles are converted by the tile."""
    values = FORMS[form](np.ones((1 << 15, 64), dtype))
    out = np.empty((1 << 15, 68), np.uint8)
    with memory_below(MEGABYTE // 4):
        quantize(values, "Q8_0", out=out)
    with memory_below(out.nbytes + MEGABYTE // 4):
        quantize(values, "Q8_0")


def test_one_copy_is_made_of_what_is_not_contiguous():
    values = np.ones((64, 1 << 15), np.float32).T
    with memory_below(values.nbytes + values.nbytes // 2):
        quantize(values, "Q8_0")


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_dequantize_makes_nothing_but_its_result(dtype):
    data = quantize(np.ones((1 << 15, 64), np.float32), "Q8_0")
    with memory_below((1 << 21) * dtype.itemsize + MEGABYTE // 4):
        dequantize(data, "Q8_0", dtype=dtype)


def test_records_keep_no_copy():
    values = np.ones(64 << 15, np.float32)
    with memory_below((68 << 15) + MEGABYTE // 4):
        Q8_0.quantize(values)
    with memory_below((68 << 15) + MEGABYTE // 4):
        Q8_0.quantize(values[:-1])


# Numbers of threads


@pytest.mark.parametrize("call", [lambda n: quantize(VALUES, "Q8_0", n_threads=n), quantcore.set_num_threads])
def test_number_of_threads_is_checked(call):
    for n_threads in (0, -1, -(2**70)):
        with pytest.raises(InvalidValueError, match=rf"^n_threads: expected an integer >= 1, got {n_threads}$"):
            call(n_threads)
    for not_integer in (True, False, np.True_, 1.0, 1.5, "2", b"2", [1], np.float32(1), object):
        with pytest.raises(InvalidTypeError, match=r"^n_threads: expected an integer >= 1, got "):
            call(not_integer)


@pytest.mark.parametrize(
    "call",
    [
        lambda n: dequantize(quantize(VALUES, "Q8_0"), "Q8_0", n_threads=n),
        lambda n: Q8_0.quantize(VALUES, n_threads=n),
        lambda n: Q8_0.quantize(VALUES).dequantize(n_threads=n),
        lambda n: Q8_0.quantize(VALUES[0, :5], n_threads=n),
        lambda n: quantize(VALUES[:0], "Q8_0", n_threads=n),
    ],
)
def test_number_of_threads_is_checked_everywhere(call):
    for n_threads in (0, True, "2"):
        with pytest.raises(QuantcoreError, match=r"^n_threads: "):
            call(n_threads)
    for n_threads in (1, np.int64(2), np.uint8(200), 10**30):
        call(n_threads)


@pytest.fixture
def default_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.delenv("QUANTCORE_NUM_THREADS", raising=False)
    quantcore.set_num_threads(None)
    yield monkeypatch
    quantcore.set_num_threads(None)


def test_default_number_of_threads(default_threads):
    n_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert quantcore.get_num_threads() == n_cpus
    default_threads.setenv("QUANTCORE_NUM_THREADS", "5")
    assert quantcore.get_num_threads() == 5
    quantcore.set_num_threads(np.int64(3))
    assert quantcore.get_num_threads() == 3
    quantcore.set_num_threads(None)
    assert quantcore.get_num_threads() == 5


@pytest.mark.parametrize("setting", ["0", "-1", "1.5", "two", " 2", "+2", "٢", "1e3", "True"])
def test_environment_is_checked(default_threads, setting):
    default_threads.setenv("QUANTCORE_NUM_THREADS", setting)
    with pytest.raises(InvalidValueError, match=r"^QUANTCORE_NUM_THREADS: expected an integer >= 1, got "):
        quantcore.get_num_threads()
    with pytest.raises(InvalidValueError, match=r"^QUANTCORE_NUM_THREADS: "):
        quantize(np.zeros((1 << 15, 64), np.float32), "Q8_0")


@pytest.mark.parametrize(
    ("setting", "answer"), [("3", "3"), ("0", "quantcore.errors.InvalidValueError: QUANTCORE_NUM_THREADS: ")]
)
def test_environment_of_a_new_process(setting, answer):
    variables = {"PYTHONPATH": str(Path(quantcore.__file__).parents[1]), "QUANTCORE_NUM_THREADS": setting}
    child = subprocess.run(
        [sys.executable, "-c", "import quantcore; print(quantcore.get_num_threads())"],
        capture_output=True,
        text=True,
        env=os.environ | variables,
        timeout=60,
    )
    assert (child.stdout + child.stderr).splitlines()[-1].startswith(answer)
