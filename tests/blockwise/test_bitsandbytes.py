"""NF4 and FP4 beside the genuine bitsandbytes: its bytes, its statistics, its checkpoints, read and written.

Where its CPU path departs from its GPU kernels, a test says how. The hostile mappings and the golden vectors, in
modules of their own, need neither bitsandbytes nor torch.
"""

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore import (
    Quantized4Bit,
    dequantize_4bit,
    dequantize_4bit_double,
    quantize_4bit,
    quantize_4bit_double,
)
from quantcore.blockwise.codebooks import CODEBOOKS, dynamic_map
from tests.support import reference_blockwise as reference
from tests.support.bitsandbytes_cases import (
    DTYPES,
    F32,
    array_of,
    assert_same_values,
    decode,
    every_dtype,
    every_type,
    tensor_of,
)
from tests.support.contract import DISTRIBUTIONS, assert_same_floats
from tests.support.marks import slow_but_first

BLOCK_SIZES = [64, 4096, 32, 128, 256, 512, 1024, 2048]
every_block_size = pytest.mark.parametrize("block_size", slow_but_first(BLOCK_SIZES, n_fast=2))


def assert_same_quantization(bnb: ModuleType, tensor: Any, block_size: int, quant_type: str) -> Quantized4Bit:
    data, state = bnb.quantize_4bit(tensor, blocksize=block_size, quant_type=quant_type)
    q = quantize_4bit(tensor, block_size=block_size, quant_type=quant_type)
    np.testing.assert_array_equal(q.data, data.numpy().reshape(-1))
    assert_same_floats(q.scales, state.absmax.numpy())
    return q


# The codes


@pytest.mark.slow
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
    assert ours[values.size :].tolist() == theirs[values.size :].tolist()  # the padding of the last byte


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
    """Their CPU path stores 1e-38 as the absmax of a block of zeros; both decode to almost zero."""
    values = np.full(70, value, F32)
    data, state = bnb.quantize_4bit(torch.tensor(values), quant_type=quant_type)
    q = quantize_4bit(values, quant_type=quant_type)
    np.testing.assert_array_equal(q.data, data.numpy().reshape(-1))
    assert state.absmax.tolist() == [F32(value), F32(1e-38)]
    assert q.scales.tolist() == [F32(value)] * 2
    np.testing.assert_allclose(dequantize_4bit(q), decode(bnb, data, state), atol=2e-42)


def test_fp4_has_two_zeros(torch, bnb):
    """Values that round to zero get code 8 if positive, and 0 if negative or zero, as in their CPU path."""
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
        assert_same_values(dequantize_4bit(q, dtype=dtype), decode(bnb, data, state), quant_type)


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
@pytest.mark.parametrize("n_blocks", [2, 3, 100, 255, 256, 257, pytest.param(5000, marks=pytest.mark.slow)])
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
    assert_same_values(dequantize_4bit_double(q), decode(bnb, theirs.data, theirs.state), quant_type)
