"""Models and values that are refused by name, and what is left when something goes wrong on the way."""

import errno
import itertools
import json
import os
import resource

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore import GGUFQuantType, quantize
from quantcore.conversion import dequantize_model, quantize_model
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError, OutputFileError, QuantcoreError
from tests.support.model_files import DTYPES, SLAB, contents, fields, normal, write_model
from tests.support.models import gguf

OLD = b"precious"


# Values that cannot be stored

THIRD = 2 * SLAB + 77
BAD_VALUES = {
    "nan": ("a.weight", "F32", np.nan, "Q4_0", "must be finite, got nan"),
    "inf in F16": ("a.weight", "F16", np.inf, "Q8_0", "must be finite, got inf"),
    "-inf in BF16": ("a.weight", "BF16", -np.inf, "F16", "must be finite, got -inf"),
    "-inf, F32 to F32": ("a.weight", "F32", -np.inf, "F32", "must be finite, got -inf"),
    "nan, F32 kept": ("a.bias", "F32", np.nan, "Q4_0", "must be finite, got nan"),
    "inf, F16 kept": ("a.bias", "F16", np.inf, "Q4_0", "must be finite, got inf"),
    "nan, BF16 kept": ("a.bias", "BF16", np.nan, "F32", "must be finite, got nan"),
    "nan, F64 kept": ("a.bias", "F64", np.nan, "F32", "must be finite, got nan"),
    "too large for Q4_0": ("a.weight", "F32", -6e5, "Q4_0", r"-600000\.0 .* too large for Q4_0"),
    "too large for Q8_0": ("a.weight", "BF16", 1e7, "Q8_0", r" .* too large for Q8_0"),
    "too large for F16": ("a.weight", "F32", 1e5, "F16", r"100000\.0 .* too large for F16"),
    "too large for float32": ("a.weight", "F64", 1e300, "Q4_0", r"1e\+300 .* beyond the range of float32"),
}


@pytest.mark.parametrize(("name", "origin", "value", "target", "problem"), BAD_VALUES.values(), ids=BAD_VALUES)
@pytest.mark.usefixtures("small_slabs")
def test_value_that_cannot_be_stored_is_named_with_its_place(name, origin, value, target, problem, tmp_path, out):
    values = normal(*((2560,) if name == "a.bias" else (40, 64)), dtype=DTYPES[origin])
    values.flat[[THIRD, THIRD + SLAB]] = value
    path = write_model(tmp_path / "in.gguf", (name, values))
    out.write_bytes(OLD)
    with pytest.raises(InvalidValueError, match=problem) as caught:
        quantize_model(path, out, target, force=True)
    assert str(caught.value).startswith(f"tensor {name!r}: ")
    assert f"at flat index {THIRD}" in str(caught.value)
    assert out.read_bytes() == OLD and sorted(os.listdir(tmp_path)) == ["in.gguf", "out.gguf"]


@pytest.mark.parametrize("origin", ["Q4_0", "Q8_0"])
@pytest.mark.usefixtures("small_slabs")
def test_block_with_an_infinite_scale_is_named(origin, tmp_path, out):
    data = quantize(normal(40, 64), origin)
    n_bytes = GGUFQuantType[origin].bytes_per_block
    data.reshape(-1, n_bytes)[THIRD // 32 :: 16, :2].view(np.float16)[:] = np.inf
    path = write_model(tmp_path / "in.gguf", ("a.weight", data, origin))
    block = rf"tensor 'a\.weight': block {THIRD // 32} of {origin} .* inf or NaN"
    for attempt in (
        lambda: dequantize_model(path, out),
        lambda: quantize_model(path, out, "F16", allow_requantize=True),
        lambda: quantize_model(path, out, origin),
    ):
        with pytest.raises(InvalidValueError, match=block):
            attempt()
        assert not out.exists()


@pytest.mark.usefixtures("small_slabs")
def test_decoded_value_beyond_f16_is_named(tmp_path, out):
    values = normal(40, 64)
    values.flat[THIRD] = 1e6
    path = write_model(tmp_path / "in.gguf", ("a.weight", quantize(values, "Q8_0"), "Q8_0"))
    with pytest.raises(InvalidValueError, match=rf"tensor 'a\.weight': .* at flat index {THIRD} is too large for F16"):
        dequantize_model(path, out, "F16")
    assert not out.exists()


# What is refused as a whole


@pytest.mark.parametrize(("count", "is_taken"), [(0, True), (1, True), (2, False), (65535, False)])
def test_part_of_a_split_model_needs_the_others(count, is_taken, tmp_path, out):
    split = {"split__no": (0, gguf.GGUFValueType.UINT16), "split__count": (count, gguf.GGUFValueType.UINT16)}
    path = write_model(tmp_path / "in.gguf", ("a.weight", normal(1, 32)), **split)
    if is_taken:
        quantize_model(path, out, "Q8_0")
        assert not {key for key in fields(out) if key.startswith("split.")}
    else:
        with pytest.raises(FileFormatError, match=rf"in\.gguf: is part 1 of {count}, whose name ends in -00001-of-"):
            quantize_model(path, out, "Q8_0")
        assert not out.exists()


BAD_ARGUMENTS = {
    "qtype unknown": ({"qtype": "Q9"}, InvalidValueError, "qtype: "),
    "qtype without kernels": ({"qtype": "Q8_K"}, InvalidValueError, "qtype: unknown type 'Q8_K'"),
    "qtype None": ({"qtype": None}, InvalidTypeError, "qtype: "),
    "qtype bool": ({"qtype": True}, InvalidTypeError, "qtype: "),
    "output_tensor_type": ({"output_tensor_type": "x"}, InvalidValueError, "output_tensor_type: "),
    "token_embedding_type": ({"token_embedding_type": 2.0}, InvalidTypeError, "token_embedding_type: "),
    "tensor_types, no regex": ({"tensor_types": [("(", "Q8_0")]}, InvalidValueError, "tensor_types: "),
    "tensor_types, type": ({"tensor_types": [("a", "x")]}, InvalidValueError, "tensor_types: "),
    "tensor_types, number": ({"tensor_types": [(1, "Q8_0")]}, InvalidTypeError, "tensor_types: "),
    "tensor_types, bytes": ({"tensor_types": [(b"a", "Q8_0")]}, InvalidTypeError, "tensor_types: "),
    "tensor_types, no pairs": ({"tensor_types": [("a",)]}, QuantcoreError, "tensor_types: "),
    "tensor_types, text": ({"tensor_types": "a=Q8_0"}, QuantcoreError, "tensor_types: "),
    "tensor_types None": ({"tensor_types": None}, QuantcoreError, "tensor_types: "),
    "arch empty": ({"arch": ""}, InvalidValueError, "arch: "),
    "arch control": ({"arch": "a\nb"}, InvalidValueError, "arch: "),
    "arch surrogate": ({"arch": "\ud800"}, InvalidValueError, "arch: "),
    "arch type": ({"arch": 1}, InvalidTypeError, "arch: "),
    "n_threads 0": ({"n_threads": 0}, InvalidValueError, "n_threads: "),
    "n_threads -1, dry run": ({"n_threads": -1, "dry_run": True}, InvalidValueError, "n_threads: "),
    "n_threads float": ({"n_threads": 2.0}, InvalidTypeError, "n_threads: "),
}


@pytest.mark.parametrize(("options", "error", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_argument_is_named(options, error, message, source, out):
    with pytest.raises(error, match=rf"^{message}"):
        quantize_model(source, out, **({"qtype": "Q8_0"} | options))
    assert os.listdir(out.parent) == ["in.gguf"]


@pytest.mark.parametrize("qtype", ["Q8_0", 2, "Q6_K", "nonsense", None])
def test_models_are_decoded_to_float_types_only(qtype, source, out):
    with pytest.raises((InvalidValueError, InvalidTypeError), match=r"^qtype: "):
        dequantize_model(source, out, qtype)
    assert not out.exists()


@pytest.mark.parametrize("call", [quantize_model, dequantize_model])
def test_input_is_never_the_output(call, source, tmp_path):
    before = source.read_bytes()
    (tmp_path / "link.gguf").symlink_to("in.gguf")
    for output in (source, tmp_path / "link.gguf"):
        with pytest.raises(OutputFileError, match="same file as the input"):
            call(source, output, "F16", force=True)
    assert source.read_bytes() == before


@pytest.mark.parametrize("call", [quantize_model, dequantize_model])
def test_existing_output_is_replaced_by_force_only(call, source, out):
    out.write_bytes(OLD)
    with pytest.raises(OutputFileError, match="exists already"):
        call(source, out, "F16")
    assert out.read_bytes() == OLD
    call(source, out, "F16", force=True)
    assert contents(out).keys() == contents(source).keys()


# While it runs


@pytest.mark.usefixtures("small_slabs")
def test_progress_rises_to_the_total(source, out):
    calls = []
    report = quantize_model(source, out, "Q4_0", progress=lambda *state: calls.append(state))
    done, totals = zip(*calls, strict=True)
    assert set(totals) == {report.source_bytes} == {sum(len(data) for _, _, data in contents(source).values())}
    assert list(done) == sorted(set(done)) and done[0] > 0 and done[-1] == report.source_bytes
    assert len(calls) == sum(-(-t.source_bytes // 4 // SLAB) for t in report.tensors)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("call", [1, 2, 20])
@pytest.mark.usefixtures("small_slabs")
def test_nothing_is_left_of_an_interrupted_model(call, error, source, out):
    out.write_bytes(OLD)
    countdown = itertools.count(call, -1)

    def interrupt(done: int, total: int) -> None:
        if next(countdown) == 1:
            raise error

    with pytest.raises(error):
        quantize_model(source, out, "Q4_0", force=True, progress=interrupt)
    assert out.read_bytes() == OLD and sorted(os.listdir(out.parent)) == ["in.gguf", "out.gguf"]


@pytest.mark.usefixtures("small_slabs")
def test_input_that_shrinks_meanwhile_is_reported(source, out):
    size = source.stat().st_size
    with pytest.raises(FileFormatError, match=rf"in\.gguf: ends at offset {size // 2} .* had {size} bytes"):
        quantize_model(source, out, "Q4_0", progress=lambda *_: os.truncate(source, size // 2))
    assert os.listdir(out.parent) == ["in.gguf"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 1.0])
@pytest.mark.usefixtures("small_slabs")
def test_write_that_fails_is_reported_wherever_it_is(share, source, out):
    """Also that of the very last slab, which is written while nothing else is left to do."""
    quantize_model(source, out, "Q8_0")
    n_bytes = out.stat().st_size
    out.write_bytes(OLD)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * (n_bytes - 1)), hard))
    try:
        with pytest.raises(OSError) as caught:
            quantize_model(source, out, "Q8_0", force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert out.read_bytes() == OLD and sorted(os.listdir(out.parent)) == ["in.gguf", "out.gguf"]


def test_dry_run_refuses_what_the_run_would_refuse(source, out, tmp_path):
    out.write_bytes(OLD)
    with pytest.raises(OutputFileError, match="exists already"):
        quantize_model(source, out, "Q8_0", dry_run=True)
    with pytest.raises(OutputFileError, match="same file as the input"):
        quantize_model(source, source, "Q8_0", dry_run=True, force=True)
    path = write_model(tmp_path / "quantized.gguf", ("a.weight", quantize(normal(2, 64), "Q8_0"), "Q8_0"))
    with pytest.raises(InvalidValueError, match="allow_requantize"):
        quantize_model(path, out, "Q4_0", dry_run=True, force=True)
    save_file({"a" * 64: normal(3)}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidValueError, match="1 to 63 bytes"):
        quantize_model(tmp_path / "model.safetensors", out, "Q4_0", dry_run=True, force=True)
    assert out.read_bytes() == OLD


def test_dry_run_reports_and_writes_nothing(source, out):
    options = {"tensor_types": [("ffn", "F16")], "progress": lambda *_: pytest.fail("something is done")}
    planned = quantize_model(source, out, "Q4_0", dry_run=True, **options)
    assert os.listdir(out.parent) == ["in.gguf"]
    del options["progress"]
    assert quantize_model(source, out, "Q4_0", **options) == planned
    assert json.loads(json.dumps(planned.to_dict())) == planned.to_dict()
    assert planned.to_dict()["target_bytes"] == sum(len(data) for _, _, data in contents(out).values())


@pytest.mark.parametrize("flag", ["pure", "leave_output_tensor", "allow_requantize", "force", "dry_run"])
def test_flags_are_true_or_false(flag, source, out):
    with pytest.raises(InvalidTypeError, match=rf"^{flag}: expected a bool, got 'no'$"):
        quantize_model(source, out, "Q8_0", **{flag: "no"})
    assert not out.exists()
