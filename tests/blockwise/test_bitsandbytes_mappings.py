"""Mappings of arrays as bitsandbytes saves them: read from it, loaded by it, and hostile ones."""

import json
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from quantcore import (
    DoubleQuantized4Bit,
    InvalidTypeError,
    InvalidValueError,
    QuantcoreError,
    Quantized4Bit,
    dequantize_4bit,
    dequantize_4bit_double,
    from_bitsandbytes,
    quantize_4bit,
    quantize_4bit_double,
)
from quantcore.blockwise.codebooks import CODEBOOKS, dynamic_map
from tests.support.bitsandbytes_cases import (
    F32,
    array_of,
    assert_same_values,
    decode,
    every_dtype,
    every_type,
    tensor_of,
)

# Checkpoints


def test_a_weight_of_a_checkpoint_is_taken_by_its_name(rng):
    """A whole checkpoint as safetensors loads it, in which names begin with each other."""
    weights = {name: rng.standard_normal((4, 64), F32) for name in ("up.weight", "up.weight_2", "b.up.weight")}
    records = {name: quantize_4bit_double(w, quant_type="nf4") for name, w in weights.items()}
    checkpoint = {"norm.weight": np.ones(4, F32)}
    for name, record in records.items():
        checkpoint |= record.to_bitsandbytes(name=name)
    for name, record in records.items():
        assert from_bitsandbytes(checkpoint, name=name) == record
        assert from_bitsandbytes(record.to_bitsandbytes(name=name), name) == record
    unnamed = {
        key.removeprefix("up.weight."): values
        for key, values in records["up.weight"].to_bitsandbytes(name="up.weight").items()
    }
    unnamed["weight"] = unnamed.pop("up.weight")
    assert from_bitsandbytes(unnamed, "weight") == records["up.weight"]


def test_a_checkpoint_without_the_weight_says_so(rng):
    record = quantize_4bit(rng.standard_normal((4, 64), F32), quant_type="nf4")
    checkpoint = {"norm.weight": np.ones(4, F32)}
    for name in ("up.weight", "down.weight"):
        checkpoint |= record.to_bitsandbytes(name=name)
    for name, message in (
        (None, r"^name: expected one of the 2 weights in the mapping, \['up.weight', 'down.weight'\]$"),
        ("Up.weight", r"^name: the mapping has no 4-bit weight 'Up.weight'; did you mean up.weight\?$"),
        ("norm.weight", r"^name: the mapping has no 4-bit weight 'norm.weight'"),
    ):
        with pytest.raises(InvalidValueError, match=message):
            from_bitsandbytes(checkpoint, name)
    with pytest.raises(InvalidTypeError, match=r"^name: expected a string, got 3$"):
        from_bitsandbytes(checkpoint, 3)
    with pytest.raises(InvalidValueError, match=r"nf4 or quant_state.bitsandbytes__fp4: expected one, got \[\]$"):
        from_bitsandbytes({"norm.weight": checkpoint["norm.weight"]})
    checkpoint["up.weight.quant_state.bitsandbytes__fp4"] = checkpoint["up.weight.quant_state.bitsandbytes__nf4"]
    with pytest.raises(InvalidValueError, match=r"expected one, got \['up.weight.quant_state"):
        from_bitsandbytes(checkpoint, "up.weight")


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
    assert_same_values(ours, decode(bnb, data, state), quant_type)
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
    bias = torch.ones(3, dtype=torch.bfloat16)  # belongs to another weight
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
