"""NF4 and FP4 beside the genuine bitsandbytes: its bytes, its statistics, its checkpoints, read and written.

Where its CPU path departs from its GPU kernels, a test says how. The hostile mappings and the golden vectors need
neither bitsandbytes nor torch.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from quantcore import (
    DoubleQuantized4Bit,
    InvalidValueError,
    QuantcoreError,
    Quantized4Bit,
    dequantize_4bit,
    dequantize_4bit_double,
    from_bitsandbytes,
    quantize_4bit,
    quantize_4bit_double,
)
from quantcore.codebooks import CODEBOOKS, dynamic_map
from tests import reference_blockwise as reference
from tests.contract import DISTRIBUTIONS, assert_same_floats
from tests.make_golden_blockwise import PATH
from tests.make_golden_blockwise import decoded as decompressed

F32 = np.float32
DTYPES = ["float32", "float16", "bfloat16"]
BLOCK_SIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096]
every_type = pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
every_block_size = pytest.mark.parametrize("block_size", BLOCK_SIZES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(scope="module")
def torch() -> Iterator[ModuleType]:
    """torch, without its compiler, which bitsandbytes would start for some shapes."""
    torch = pytest.importorskip("torch")
    with torch.compiler.set_stance("force_eager"):
        yield torch


@pytest.fixture(scope="module")
def bnb(torch: ModuleType) -> ModuleType:
    return pytest.importorskip("bitsandbytes.functional")


def tensor_of(torch: ModuleType, values: np.ndarray, dtype: str) -> Any:
    """The values as a tensor, zero where they do not fit."""
    tensor = torch.tensor(values).to(getattr(torch, dtype))
    return torch.where(tensor.isfinite(), tensor, torch.zeros_like(tensor))


def array_of(tensor: Any) -> np.ndarray:
    """The tensor as an array of the same dtype."""
    torch = sys.modules["torch"]
    is_bfloat16 = tensor.dtype == torch.bfloat16
    return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16) if is_bfloat16 else tensor.numpy()


def decoded(bnb: ModuleType, data: Any, state: Any) -> np.ndarray:
    """What bitsandbytes decodes, in the state's dtype and shape.

    It is asked for one long row: its AVX-512 path takes wrong scales where the rows of a matrix cut blocks in two.
    """
    shape, state.shape = state.shape, (int(np.prod(state.shape)),)
    values = array_of(bnb.dequantize_4bit(data, state)).reshape(shape)
    state.shape = shape
    return values


def assert_same_values(ours: np.ndarray, theirs: np.ndarray, quant_type: str) -> None:
    """Equal to the last bit; but FP4's second zero, code 8, is sometimes a negative zero in their CPU path."""
    assert ours.dtype == theirs.dtype
    if quant_type == "fp4":
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert_same_floats(ours, theirs)


def assert_same_quantization(bnb: ModuleType, tensor: Any, block_size: int, quant_type: str) -> Quantized4Bit:
    data, state = bnb.quantize_4bit(tensor, blocksize=block_size, quant_type=quant_type)
    q = quantize_4bit(tensor, block_size=block_size, quant_type=quant_type)
    np.testing.assert_array_equal(q.data, data.numpy().reshape(-1))
    assert_same_floats(q.scales, state.absmax.numpy())
    return q


# The codes


def test_tables_are_theirs(bnb):
    for quant_type in ("nf4", "fp4"):
        assert_same_floats(CODEBOOKS[quant_type].table, bnb.get_4bit_type(quant_type, device="cpu").numpy())
    assert_same_floats(dynamic_map(), bnb.create_dynamic_map().numpy())
    assert_same_floats(reference.dynamic_map(), bnb.create_dynamic_map().numpy())


@every_dtype
@every_type
@every_block_size
def test_same_bytes(torch, bnb, block_size, quant_type, dtype, rng):
    for distribution in DISTRIBUTIONS.values():
        values = distribution(rng, int(rng.integers(1, 10)) * block_size)
        assert_same_quantization(bnb, tensor_of(torch, values, dtype), block_size, quant_type)


@every_dtype
@every_type
def test_same_bytes_near_midpoints(torch, bnb, quant_type, dtype, rng):
    """Values a few float32 steps around the products of midpoints and absmax, where the codes change."""
    cuts = np.array(reference.midpoints(np.sort(reference.TABLES[quant_type])), F32)
    absmax = tensor_of(torch, np.exp2(rng.uniform(-12, 12, 20_000)).astype(F32), dtype).float().numpy()
    values = np.concatenate([cuts, -cuts, cuts], dtype=F32)[:31] * absmax[:, None]
    steps = rng.integers(-3, 4, values.shape)
    values = np.where(values != 0, (values.view(np.int32) + steps).astype(np.int32).view(F32), values)
    blocks = np.concatenate([values, absmax[:, None]], axis=1)
    assert_same_quantization(bnb, tensor_of(torch, blocks, dtype), 32, quant_type)


@given(
    kind=st.sampled_from(list(DISTRIBUTIONS)),
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-140, 60),
    shape=st.lists(st.integers(1, 6), max_size=3),
    block_size=st.sampled_from(BLOCK_SIZES),
    quant_type=st.sampled_from(["nf4", "fp4"]),
    dtype=st.sampled_from(DTYPES),
)
def test_same_bytes_of_any_shape_and_scale(torch, bnb, kind, seed, exponent, shape, block_size, quant_type, dtype):
    shape = (*shape, block_size)
    with np.errstate(over="ignore"):
        values = np.ldexp(DISTRIBUTIONS[kind](np.random.default_rng(seed), int(np.prod(shape))), exponent)
    q = assert_same_quantization(bnb, tensor_of(torch, values.reshape(shape), dtype), block_size, quant_type)
    assert q.shape == shape


@every_type
def test_empty(torch, bnb, quant_type):
    assert_same_quantization(bnb, torch.empty(0), 64, quant_type)


@every_type
@pytest.mark.parametrize("shape", [(1,), (2,), (63,), (65,), (1000,), (33, 7), (5, 3, 11), (129, 64), (4097,)])
def test_short_last_block(torch, bnb, quant_type, shape, rng):
    """Their CPU path divides by the absmax of a short last block, and the code of a value at a midpoint may differ."""
    values = rng.standard_normal(shape, dtype=F32)
    data, state = bnb.quantize_4bit(torch.tensor(values), quant_type=quant_type)
    q = quantize_4bit(values, quant_type=quant_type)
    assert_same_floats(q.scales, state.absmax.numpy())
    n_whole = values.size // 64 * 64
    ours, theirs = (reference.unpack(x, 2 * x.size) for x in (q.data, data.numpy().reshape(-1)))
    np.testing.assert_array_equal(ours[:n_whole], theirs[:n_whole])
    last = values.reshape(-1)[n_whole:]
    if last.size:
        divided = reference.codes(last / q.scales[-1], np.ones(1, F32), quant_type)
        np.testing.assert_array_equal(theirs[n_whole : values.size], divided)
        multiplied = reference.codes(last, q.scales[-1:], quant_type)
        np.testing.assert_array_equal(ours[n_whole : values.size], multiplied)
    assert ours[values.size :].tolist() == theirs[values.size :].tolist()  # what fills up the last byte


@every_type
def test_short_last_block_that_differs(torch, bnb, quant_type):
    cut = reference.midpoints(np.sort(reference.TABLES[quant_type]))[-1]
    absmax = np.arange(1, 2, 2.0**-10).astype(F32)
    at_cut = (absmax * cut)[:, None].view(np.int32) + np.arange(-2, 3, dtype=np.int32)
    at_cut = at_cut.view(F32)
    turns = (at_cut / absmax[:, None] > cut) != (at_cut * (F32(1) / absmax[:, None]) > cut)
    i, j = np.argwhere(turns)[0]
    block = np.full(64, at_cut[i, j])
    block[0] = absmax[i]
    assert_same_quantization(bnb, torch.tensor(block), 64, quant_type)
    short = block[:62]
    theirs, _ = bnb.quantize_4bit(torch.tensor(short), quant_type=quant_type)
    ours = quantize_4bit(short, quant_type=quant_type)
    assert ours.data.tolist() == quantize_4bit(block, quant_type=quant_type).data[:31].tolist()
    assert (ours.data != theirs.numpy().reshape(-1)).all()


@every_type
@pytest.mark.parametrize("value", [0.0, 1e-42])
def test_short_last_block_of_zeros(torch, bnb, quant_type, value):
    """Their CPU path stores 1e-38 for the absmax of one that has none; both decode to next to nothing."""
    values = np.full(70, value, F32)
    data, state = bnb.quantize_4bit(torch.tensor(values), quant_type=quant_type)
    q = quantize_4bit(values, quant_type=quant_type)
    np.testing.assert_array_equal(q.data, data.numpy().reshape(-1))
    assert state.absmax.tolist() == [F32(value), F32(1e-38)]
    assert q.scales.tolist() == [F32(value)] * 2
    np.testing.assert_allclose(dequantize_4bit(q), decoded(bnb, data, state), atol=2e-42)


def test_fp4_has_two_zeros(torch, bnb):
    """What rounds to zero gets code 8 if it is positive, and 0 if it is negative or zero: as their CPU path has it."""
    block = np.zeros(64, F32)
    block[:5] = 1, 1e-4, -1e-4, 0.0, -0.0
    q = assert_same_quantization(bnb, torch.tensor(block), 64, "fp4")
    assert reference.unpack(q.data, 6).tolist() == [3, 8, 0, 0, 0, 0]
    assert dequantize_4bit(q).tolist() == [1.0] + [0.0] * 63
    assert not np.signbit(dequantize_4bit(q)).any()


# The values


@every_dtype
@every_type
@every_block_size
def test_same_values(torch, bnb, block_size, quant_type, dtype, rng):
    for i, distribution in enumerate(DISTRIBUTIONS.values()):
        shape = [(3, block_size), (5, 7, 33), (257,), (4, 96), (2, 3, 4, block_size // 4)][i % 5]
        tensor = tensor_of(torch, distribution(rng, int(np.prod(shape))).reshape(shape), DTYPES[i % 3])
        data, state = bnb.quantize_4bit(tensor, blocksize=block_size, quant_type=quant_type)
        state.dtype = getattr(torch, dtype)
        q = Quantized4Bit(state.absmax.numpy(), data.numpy(), shape, block_size, quant_type)
        assert_same_values(dequantize_4bit(q, dtype=dtype), decoded(bnb, data, state), quant_type)


@every_dtype
@every_type
@pytest.mark.parametrize("shape", [(3, 64), (2, 5, 128), (9, 33)])
def test_same_values_of_rows(torch, bnb, shape, quant_type, dtype, rng):
    data, state = bnb.quantize_4bit(tensor_of(torch, rng.standard_normal(shape), dtype), quant_type=quant_type)
    q = Quantized4Bit(state.absmax.numpy(), data.numpy(), shape, 64, quant_type)
    assert_same_values(dequantize_4bit(q, dtype=dtype), array_of(bnb.dequantize_4bit(data, state)), quant_type)


# The nested statistics


def nested(bnb: ModuleType, tensor: Any, **options: Any) -> SimpleNamespace:
    """bitsandbytes' double quantization as arrays."""
    data, state = bnb.quantize_4bit(tensor, compress_statistics=True, **options)
    return SimpleNamespace(
        data=data,
        state=state,
        codes=state.absmax.numpy(),
        absmax=state.state2.absmax.numpy(),
        offset=F32(state.offset.item()),
    )


@every_type
@pytest.mark.parametrize("n_blocks", [2, 3, 100, 255, 256, 257, 5000])
@every_dtype
def test_nested_statistics(torch, bnb, quant_type, n_blocks, dtype, rng):
    """Their mean is a float32 sum, whose last bits depend on the vector width; ours is the true mean, rounded."""
    tensor = tensor_of(torch, rng.standard_normal((n_blocks, 64), dtype=F32), dtype)
    theirs = nested(bnb, tensor, quant_type=quant_type)
    q = quantize_4bit_double(tensor, quant_type=quant_type, scale_code="dynamic")
    np.testing.assert_array_equal(q.data, theirs.data.numpy().reshape(-1))
    assert theirs.state.state2.blocksize == q.super_block_size == 256
    assert q.offset == pytest.approx(theirs.offset, rel=4 * 2.0**-23)
    shift = abs(q.offset - float(theirs.offset))
    np.testing.assert_allclose(q.super_scales, theirs.absmax, rtol=2.0**-22, atol=2 * shift)
    if shift == 0:
        assert_same_floats(q.super_scales, theirs.absmax)


@every_type
def test_nested_codes_are_the_nearest(torch, bnb, quant_type, rng):
    """Theirs are looked up for 16 bits of the value, and a few are not the nearest."""
    tensor = torch.tensor(rng.standard_normal((40_000, 32), dtype=F32))
    theirs = nested(bnb, tensor, quant_type=quant_type, blocksize=32)
    q = quantize_4bit_double(tensor, quant_type=quant_type, block_size=32, scale_code="dynamic")
    assert np.count_nonzero(q.quantized_scales != theirs.codes) < 0.006 * q.num_blocks
    scales = quantize_4bit(tensor, quant_type=quant_type, block_size=32).scales
    exact = (scales - F32(q.offset)) / q.super_scales.repeat(256)[: q.num_blocks]
    nearest = np.min([np.abs(value - exact) for value in dynamic_map()], axis=0)
    np.testing.assert_allclose(np.abs(dynamic_map()[q.quantized_scales] - exact), nearest, atol=2e-7)
    np.testing.assert_allclose(np.abs(dynamic_map()[theirs.codes] - exact), nearest, atol=2.0**-14)


@every_type
def test_nested_scales_that_are_all_equal(torch, bnb, quant_type):
    """Their codes come from 0 / 0 then; ours are the map's zero. Both decode to the mean."""
    values = np.tile(np.linspace(-3, 3, 64, dtype=F32), 5)
    theirs = nested(bnb, torch.tensor(values), quant_type=quant_type)
    q = quantize_4bit_double(values, quant_type=quant_type, scale_code="dynamic")
    assert dynamic_map()[q.quantized_scales].tolist() == [0.0] * 5
    assert (q.offset, q.super_scales.tolist()) == (float(theirs.offset), theirs.absmax.tolist()) == (3.0, [0.0])
    assert_same_values(dequantize_4bit_double(q), decoded(bnb, theirs.data, theirs.state), quant_type)


# Checkpoints


def state_of(bnb: ModuleType, entries: dict[str, Any], name: str = "weight") -> tuple[Any, Any]:
    """Packed codes and `QuantState`, as transformers takes them from the tensors of a checkpoint."""
    entries = dict(entries)
    data = entries.pop(name)
    return data, bnb.QuantState.from_dict(entries, device="cpu")


def through_safetensors(entries: dict[str, np.ndarray]) -> dict[str, Any]:
    """What torch reads from the file."""
    return pytest.importorskip("safetensors.torch").load(safetensors.numpy.save(entries))


@every_dtype
@every_type
@pytest.mark.parametrize("shape", [(64, 64), (300, 64), (7, 33), (1000,), (3, 5, 64), (3,)])
@pytest.mark.parametrize("scale_code", [None, "linear", "dynamic"])
def test_theirs_reads_ours(torch, bnb, shape, quant_type, dtype, scale_code, rng):
    values = rng.standard_normal(shape, dtype=F32)
    if scale_code is None:
        q = quantize_4bit(values, quant_type=quant_type, block_size=32)
        ours = dequantize_4bit(q, dtype=dtype)
    else:
        options = {"scale_code": scale_code, "super_block_size": 256 if scale_code == "dynamic" else 32}
        q = quantize_4bit_double(values, quant_type=quant_type, block_size=32, **options)
        ours = dequantize_4bit_double(q, dtype=dtype)
    entries = through_safetensors(q.to_bitsandbytes(name="layers.0.weight", dtype=dtype))
    data, state = state_of(bnb, entries, "layers.0.weight")
    assert (data.shape, data.dtype) == (((values.size + 1) // 2, 1), torch.uint8)
    assert (state.shape, state.dtype, state.blocksize) == (shape, getattr(torch, dtype), 32)
    assert state.nested == (scale_code is not None)
    assert_same_values(ours, decoded(bnb, data, state), quant_type)
    assert from_bitsandbytes(entries) == q


@pytest.mark.parametrize("form", ["tensors", "arrays", "prefix", "safetensors"])
@every_dtype
@every_type
@pytest.mark.parametrize("is_nested", [False, True])
def test_ours_reads_theirs(torch, bnb, is_nested, quant_type, dtype, form, rng):
    tensor = tensor_of(torch, rng.standard_normal((300, 64), dtype=F32), dtype)
    data, state = bnb.quantize_4bit(tensor, quant_type=quant_type, compress_statistics=is_nested)
    prefix = "model.layers.3.mlp.down_proj.weight" if form == "prefix" else "weight"
    entries = {prefix: data} | {f"{prefix}.{key}": value for key, value in state.as_dict(packed=True).items()}
    if form == "arrays":
        entries = {key: value.numpy() for key, value in entries.items()}
    elif form == "safetensors":
        saved = pytest.importorskip("safetensors.torch").save(entries)
        entries = safetensors.numpy.load(saved)
    elif form == "tensors":  # as a state that is no part of a checkpoint gives them
        entries = {"weight": data} | state.as_dict(packed=True)
    q = from_bitsandbytes(entries)
    assert (type(q), q.shape) == (DoubleQuantized4Bit if is_nested else Quantized4Bit, (300, 64))
    decode = dequantize_4bit_double if is_nested else dequantize_4bit
    assert_same_values(decode(q, dtype=dtype), array_of(bnb.dequantize_4bit(data, state)), quant_type)
    if not is_nested:
        assert q == quantize_4bit(tensor, quant_type=quant_type)


@pytest.mark.parametrize("storage", ["bfloat16", "float16", "float32", "uint8", "float64"])
@pytest.mark.parametrize("form", ["tensor", "array"])
def test_other_storage_of_the_packed_codes(torch, bnb, storage, form, rng):
    """FSDP wants all parameters of one dtype, so the bytes may pose as floats."""
    values = rng.standard_normal((32, 64), dtype=F32)
    options = {"quant_type": "nf4", "quant_storage": getattr(torch, storage)}
    data, state = bnb.quantize_4bit(torch.tensor(values), **options)
    assert data.dtype == getattr(torch, storage)
    stored = data if form == "tensor" else array_of(data)
    q = from_bitsandbytes({"weight": stored, **state.as_dict(packed=True)})
    assert q == quantize_4bit(values, quant_type="nf4")
    bias = torch.ones(3, dtype=torch.bfloat16)  # is none of our business
    assert from_bitsandbytes({"weight": stored, "bias": bias, **state.as_dict(packed=True)}) == q


@pytest.mark.parametrize("is_nested", [False, True])
def test_layers(torch, bnb, is_nested, rng):
    """Their linear layer computes with our weights, and its state dict comes back as our record."""
    nn = pytest.importorskip("bitsandbytes.nn")
    values = rng.standard_normal((48, 64), dtype=F32)
    if is_nested:
        q: Any = quantize_4bit_double(values, quant_type="nf4", scale_code="dynamic")
        restored = dequantize_4bit_double(q)
    else:
        q = quantize_4bit(values, quant_type="nf4")
        restored = dequantize_4bit(q)
    entries = through_safetensors(q.to_bitsandbytes())
    layer = nn.Linear4bit(64, 48, bias=True, compute_dtype=torch.float32, quant_type="nf4")
    torch.nn.init.ones_(layer.bias)
    data = entries.pop("weight")
    layer.weight = nn.Params4bit.from_prequantized(data=data, quantized_stats=dict(entries), device="cpu")
    inputs = torch.tensor(rng.standard_normal((5, 64), dtype=F32))
    outputs = layer(inputs).detach().numpy()
    np.testing.assert_allclose(outputs, inputs.numpy() @ restored.T + 1, rtol=1e-4, atol=1e-4)
    assert from_bitsandbytes(layer.state_dict()) == q


# Hostile mappings

VALUES = np.random.default_rng(5).standard_normal((4, 50)).astype(F32)
SINGLE = quantize_4bit(VALUES, quant_type="nf4").to_bitsandbytes(name="w")
NESTED = quantize_4bit_double(VALUES, quant_type="nf4", scale_code="dynamic").to_bitsandbytes(name="w")
STATE = "w.quant_state.bitsandbytes__nf4"
MISSING = object()
both = pytest.mark.parametrize("entries", [SINGLE, NESTED], ids=["single", "nested"])


def refused(entries: dict[Any, Any], *words: str) -> None:
    with pytest.raises(QuantcoreError) as error:
        from_bitsandbytes(entries)
    message = str(error.value)
    assert isinstance(error.value, ValueError), message
    assert "\n" not in message and len(message) < 400
    assert message.startswith(words[0]) and all(word in message for word in words), message


def with_state(entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    state = json.loads(entries[STATE].tobytes()) | changes
    state = {key: value for key, value in state.items() if value is not MISSING}
    return entries | {STATE: np.frombuffer(json.dumps(state).encode(), np.uint8)}


@both
def test_what_is_written_is_read(entries):
    record = from_bitsandbytes(entries)
    assert record.shape == (4, 50) and record.to_bitsandbytes(name="w").keys() == entries.keys()
    assert from_bitsandbytes(with_state(entries)) == record
    assert from_bitsandbytes(entries | {"w.bias": None, "other": "?"}) == record


@pytest.mark.parametrize(
    ("entries", "key"), [(entries, key) for entries in (SINGLE, NESTED) for key in entries if "quant_state" not in key]
)
def test_missing_entries(entries, key):
    refused({k: v for k, v in entries.items() if k != key}, f"{key}: missing")


@both
def test_one_state_is_needed(entries):
    other = STATE.replace("nf4", "fp4")
    refused({k: v for k, v in entries.items() if k != STATE}, "quant_state.bitsandbytes__nf4")
    refused({}, "quant_state.bitsandbytes__nf4")
    refused(entries | {other: entries[STATE]}, "quant_state.bitsandbytes__nf4", other)
    refused({(other if k == STATE else k): v for k, v in entries.items()}, other, "quant_type")
    refused({STATE * 2: entries[STATE]}, "")
    for unknown in ("int4", "af4", "", "nf4.x"):
        key = STATE.replace("nf4", unknown)
        refused({(key if k == STATE else k): v for k, v in with_state(entries, quant_type=unknown).items()}, key)


@pytest.mark.parametrize("mapping", [None, [], "weight", 5, {1: VALUES}, {b"w": VALUES}, {None: None}])
def test_what_is_no_mapping_of_names(mapping):
    with pytest.raises(QuantcoreError, match=r"^(mapping|quant_state)"):
        from_bitsandbytes(mapping)


@both
@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"\xff\xfe", b"null", b"[]", b"5", b'"text"', b"{}", b"[" * 100_000, b'{"a":' * 100_000, b"nan"),
        b'{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [4, 50]',
        b'{"quant_type": "nf4"} {"blocksize": 64}',
        b'{"blocksize": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda text: text[:12].decode("latin-1"),
)
def test_broken_json(entries, text):
    refused(entries | {STATE: np.frombuffer(text, np.uint8)}, f"{STATE}: ")


@both
def test_truncated_json(entries):
    text = entries[STATE].tobytes()
    for end in range(len(text)):
        refused(entries | {STATE: np.frombuffer(text[:end], np.uint8)}, f"{STATE}: ")


@given(st.integers(0, 2**32 - 1))
def test_changed_json_gives_nothing_but_our_errors(seed):
    rng = np.random.default_rng(seed)
    for entries in (SINGLE, NESTED):
        text = entries[STATE].copy()
        where = rng.integers(0, text.size, 3)
        text[where] = rng.choice(np.frombuffer(b'0123456789-+.eE"[]{},: \xff\0nul', np.uint8), 3)
        try:
            record = from_bitsandbytes(entries | {STATE: text})
        except QuantcoreError as error:
            assert isinstance(error, ValueError) and str(error).startswith("w.")
        else:
            decode = dequantize_4bit if type(record) is Quantized4Bit else dequantize_4bit_double
            assert decode(record).size == len(record) == VALUES.size


BAD_STATES: list[tuple[str, Any]] = [
    *(("quant_type", value) for value in (MISSING, "fp4", "int4", "NF4", None, 4, ["nf4"], {}, "x" * 10**5)),
    *(("dtype", value) for value in (MISSING, "float64", "torch.float32", None, 32, ["float32"], "x" * 10**5)),
    *(("blocksize", value) for value in (MISSING, 0, -64, 63, 16, 8192, 64.0, "64", True, None, [64], 10**4000)),
    *(("shape", value) for value in (MISSING, None, "4", 200, [], {}, [4.0, 50], [True, 200], [[4, 50]], [-4, -50])),
    *(("shape", value) for value in ([2**62] * 300, [3, 66, 2**60], [2**63], [0, 2**80], [10**4000])),
    *(("shape", value) for value in ([4, 50, -1], ["4", "50"], [1] * 63 + [4, 50], [0, 2**62], [1] * 10**5)),
]
BAD_NESTED_STATES: list[tuple[str, Any]] = [
    *(("nested_blocksize", value) for value in (MISSING, 0, -256, 100, 8192, 256.0, "256", True, None, 10**4000)),
    *(("nested_dtype", value) for value in (MISSING, "float16", "bfloat16", "float64", None, 32, [])),
    *(("nested_offset", value) for value in (MISSING, float("nan"), float("inf"), -float("inf"), 1e39, 10**400)),
    *(("nested_offset", value) for value in ("0", None, True, [0.0], {})),
]


@pytest.mark.parametrize(
    ("entries", "field", "value"),
    [(entries, *bad) for entries in (SINGLE, NESTED) for bad in BAD_STATES]
    + [(NESTED, *bad) for bad in BAD_NESTED_STATES]
    + [(SINGLE, "nested_offset", 0.5), (SINGLE, "nested_blocksize", 256), (SINGLE, "nested_dtype", "float32")],
    ids=lambda value: str(value)[:20] if isinstance(value, str | int) else None,
)
def test_bad_states(entries, field, value):
    refused(with_state(entries, **{field: value}), f"{STATE}: ", field if entries is NESTED else "")


@both
@pytest.mark.parametrize("shape", [[4, 49], [200, 4], [0], [3, 66, 2**50]])
def test_shapes_that_contradict_the_codes(entries, shape):
    refused(with_state(entries, shape=shape), "w: shape")


@both
def test_blocksizes_that_contradict_the_scales(entries):
    for block_size in (32, 128, 4096):
        refused(with_state(entries, blocksize=block_size), "w.absmax: ")


def test_nested_parts_that_contradict():
    parts = ("nested_blocksize", "nested_dtype", "nested_offset")
    refused(with_state(NESTED, **dict.fromkeys(parts, MISSING)), STATE, "nested_offset", "w.nested_absmax")
    refused(SINGLE | {"w.nested_absmax": NESTED["w.nested_absmax"]}, STATE, "nested_offset")
    state = {STATE: NESTED[STATE]}
    refused(SINGLE | state, "w.nested_absmax: missing")


BAD_ARRAYS: list[tuple[str, Any]] = [
    *(("w", value) for value in (np.zeros(99, np.uint8), np.zeros(101, np.uint8), np.zeros(0, np.uint8))),
    ("w", np.zeros(100, F32)),
    *(("w.quant_map", value) for value in (np.zeros(16, F32), CODEBOOKS["fp4"].table, CODEBOOKS["nf4"].table[:15])),
    ("w.quant_map", CODEBOOKS["nf4"].table[::-1]),
    ("w.quant_map", np.full(16, np.nan, F32)),
    *(("w.absmax", value) for value in (np.ones(3, F32), np.ones(5, F32), np.ones(4, np.int64), np.ones(4, F32)[:0])),
]
BAD_SINGLE_ARRAYS = [
    ("w.absmax", np.array([1, np.nan, 1, 1], F32)),
    ("w.absmax", np.array([1, -1, 1, 1], F32)),
    ("w.absmax", np.ones(4, np.uint8)),
]
BAD_NESTED_ARRAYS = [
    ("w.absmax", np.ones(4, F32)),
    ("w.nested_absmax", np.ones(2, F32)),
    ("w.nested_absmax", np.ones(1, np.float64)),
    ("w.nested_absmax", np.array([np.inf], F32)),
    ("w.nested_absmax", np.array([-1], F32)),
    ("w.nested_quant_map", np.zeros(256, F32)),
    ("w.nested_quant_map", dynamic_map()[::-1]),
    ("w.nested_quant_map", np.full(256, np.nan, F32)),
    ("w.nested_quant_map", dynamic_map()[:255]),
]


@pytest.mark.parametrize(
    ("entries", "key", "value"),
    [(entries, *bad) for entries in (SINGLE, NESTED) for bad in BAD_ARRAYS]
    + [(SINGLE, *bad) for bad in BAD_SINGLE_ARRAYS]
    + [(NESTED, *bad) for bad in BAD_NESTED_ARRAYS],
)
def test_bad_arrays(entries, key, value):
    refused(entries | {key: value}, f"{key}: ")


@pytest.mark.parametrize("value", [None, "text", object(), [None], {}, np.zeros(4, "M8[s]"), np.zeros(4, "f4,f4"), 1j])
def test_what_is_no_array(value):
    for entries in (SINGLE, NESTED):
        for key in entries:
            with pytest.raises(QuantcoreError) as error:
                from_bitsandbytes(entries | {key: value})
            assert str(error.value).startswith(f"{key}: ")


@pytest.mark.parametrize("key", SINGLE)
def test_tensors_that_are_elsewhere(torch, key):
    for tensor in (torch.empty(4, device="meta"), torch.ones(4).to_sparse()):
        with pytest.raises(QuantcoreError, match=rf"^{key}: expected a dense CPU tensor"):
            from_bitsandbytes(SINGLE | {key: tensor})


def test_linear_scales_have_no_offset():
    linear = quantize_4bit_double(VALUES, quant_type="nf4").to_bitsandbytes(name="w")
    refused(with_state(linear, nested_offset=0.5), "")


@pytest.mark.parametrize("name", ["", None, 5, b"w"])
def test_names_are_checked(name):
    with pytest.raises(QuantcoreError, match=r"^name: "):
        quantize_4bit(VALUES, quant_type="nf4").to_bitsandbytes(name=name)


@pytest.mark.parametrize("dtype", ["float64", "", None, np.dtype(F32), F32, ["float32"]])
def test_dtypes_are_checked(dtype):
    with pytest.raises(InvalidValueError, match=r"^dtype: expected one of float32, float16, bfloat16, got "):
        quantize_4bit(VALUES, quant_type="nf4").to_bitsandbytes(dtype=dtype)


def test_int4_is_not_theirs():
    for q in (quantize_4bit(VALUES), quantize_4bit_double(VALUES)):
        with pytest.raises(InvalidValueError, match=r"^quant_type: bitsandbytes has nf4 and fp4, got 'int4'$"):
            q.to_bitsandbytes()


# What bitsandbytes wrote once is what we write, for good

GOLDEN = [pytest.param(*vector, id=vector[0]) for vector in json.loads(PATH.read_text())["vectors"]]


def test_there_are_enough_golden_vectors():
    assert len(GOLDEN) >= 60
    assert PATH.stat().st_size < 150_000
    assert len({vector.id for vector in GOLDEN}) == len(GOLDEN)


@pytest.mark.parametrize(("name", "dtype", "values", "entries", "restored"), GOLDEN)
def test_golden(name, dtype, values, entries, restored):
    quant_type, dtype = name[:3], np.dtype(getattr(ml_dtypes, dtype, dtype))
    entries = {key: np.frombuffer(decompressed(text), np.uint8) for key, text in entries.items()}
    state = json.loads(entries[f"quant_state.bitsandbytes__{quant_type}"].tobytes())
    is_nested = "nested_offset" in state
    absmax = "nested_absmax" if is_nested else "absmax"
    entries |= {absmax: entries[absmax].view("<f4"), "quant_map": reference.TABLES[quant_type]}
    q = from_bitsandbytes(entries | ({"nested_quant_map": reference.dynamic_map()} if is_nested else {}))
    weight = np.frombuffer(decompressed(values), dtype).reshape(q.shape)
    options = {"block_size": state["blocksize"], "quant_type": quant_type}
    ours = quantize_4bit(weight, **options)
    assert ours.data.tobytes().hex() == q.data.tobytes().hex()
    if isinstance(q, Quantized4Bit):
        assert ours == q
        decoded_again = dequantize_4bit(q, dtype=dtype)
    else:
        scales = quantize_4bit_double(weight, scale_code="dynamic", **options).decoded_scales()
        np.testing.assert_allclose(scales, q.decoded_scales(), atol=2.0**-14 * q.super_scales.max())
        decoded_again = dequantize_4bit_double(q, dtype=dtype)
    assert_same_values(decoded_again, np.frombuffer(decompressed(restored), dtype).reshape(q.shape), quant_type)


def test_existing_golden_vectors_are_not_replaced():
    before = PATH.read_bytes()
    command = [sys.executable, "-m", "tests.make_golden_blockwise"]
    child = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=60)
    assert (child.returncode, child.stderr) == (1, f"{PATH} exists; --force replaces it\n")
    assert PATH.read_bytes() == before
