"""Files that the genuine libraries open are opened, and what is unusual about them is said."""

import json
import os
import struct

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore import dequantize_model, quantize_model
from quantcore.cli import main
from quantcore.errors import FileFormatError, InvalidStateError, InvalidValueError
from quantcore.gguf import GGUFReader
from quantcore.gguf.layout import MAX_RESIDENT_BYTES, layer_then_name
from quantcore.models import describe, open_model
from quantcore.models.inspection import format_description
from tests.support import hostile_gguf, llama_client, tolerated_gguf
from tests.support.gguf_bytes import (
    ARCHITECTURE,
    ARRAY,
    F32_VALUE,
    KV,
    STRING,
    U8,
    U32,
    Tensor,
    array,
    array_kv,
    build_gguf,
    string,
    text_kv,
    u32,
)
from tests.support.hostile_cases import MEMORY, cases, deadline, written
from tests.support.memory import memory_below

needs_llama = pytest.mark.skipif(not llama_client.is_installed("xllamacpp"), reason="needs xllamacpp")
RAW = b"caf\xe9 \xff\x1b[2J"


# beside llama.cpp


@needs_llama
def test_valid_files_are_those_that_llama_opens(tmp_path):
    catalogue = hostile_gguf.VALID | {f"trailing/{name}": data for name, (data, _) in tolerated_gguf.TRAILING.items()}
    paths = [written(tmp_path, data, f"{i}.gguf") for i, data in enumerate(catalogue.values())]
    opened = dict(zip(catalogue, llama_client.opens(paths), strict=True))
    assert {name for name, is_open in opened.items() if not is_open} == set(tolerated_gguf.LONG_NAMES)
    for path in paths:
        GGUFReader(path).close()


@pytest.mark.slow
@needs_llama
@pytest.mark.parametrize("name", ["8 GB behind the data", "string of 40 MB", "array of 5 * 10^6 strings"])
def test_large_valid_files_are_opened_by_llama_too(name, tmp_path):
    assert llama_client.opens([hostile_gguf.VALID_ON_DISK["sparse/" + name](tmp_path)]) == [True]


# bytes behind the last tensor


@cases(tolerated_gguf.TRAILING)
def test_bytes_behind_the_last_tensor_are_a_notice(case, tmp_path, capsys):
    data, count = case
    path = written(tmp_path, data)
    with GGUFReader(path) as reader:
        assert reader.notices == (f"{count} bytes after the last tensor are not read",)
    assert main(["inspect", str(path)]) == 0
    assert capsys.readouterr().err == f"quantcore: note: {count} bytes after the last tensor are not read\n"
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notices"] == [f"{count} bytes after the last tensor are not read"]
    report = quantize_model(path, tmp_path / "out.gguf", "Q8_0")
    assert f"{count} bytes after the last tensor are not read" in report.notices
    with GGUFReader(tmp_path / "out.gguf") as reader:
        assert reader.notices == ()


@cases({name: hostile_gguf.VALID[name] for name in ("magic/GGUF", "data/tail not padded", "data/half of the padding")})
def test_padding_is_no_notice(case, tmp_path):
    with GGUFReader(written(tmp_path, case)) as reader:
        assert reader.notices == ()


# types that are not known here


@cases(tolerated_gguf.UNKNOWN_TYPES)
def test_unknown_types_are_shown_with_the_bytes_they_have(case, tmp_path):
    data, expected = case
    path = written(tmp_path, data)
    with GGUFReader(path) as reader:
        assert [(t.type.name, t.nbytes) for t in reader.tensors] == expected
        for tensor in reader.tensors:
            buffer = bytearray(tensor.nbytes)
            reader.read_into(tensor, 0, buffer)
            assert buffer == data[tensor.offset : tensor.offset + tensor.nbytes]
    description = describe(path)
    assert [(t["type"], t["bytes"]) for t in description["tensors"]] == expected
    assert all(name in format_description(description) for name, _ in expected)


def unknown_model(folder, *, name=b"blk.0.attn_norm.weight", ne=(64,), data=bytes(range(40))):
    tensors = (
        Tensor(b"blk.0.attn_q.weight", (32, 2), data=np.linspace(-1, 1, 64, dtype=np.float32).tobytes()),
        Tensor(name, ne, 57, data),
        Tensor(b"output_norm.weight"),
    )
    return written(folder, build_gguf(tensors=tensors))


def test_unknown_type_is_copied_where_the_tensor_is_kept(tmp_path):
    path, out = unknown_model(tmp_path), tmp_path / "out.gguf"
    report = quantize_model(path, out, "Q8_0")
    assert [(t.source_type, t.target_type) for t in report.tensors] == [
        ("F32", "F32"), ("type 57", "type 57"), ("F32", "Q8_0"),
    ]  # fmt: skip
    with GGUFReader(out) as reader:
        (tensor,) = (t for t in reader.tensors if t.type_id == 57)
        buffer = bytearray(tensor.nbytes)
        reader.read_into(tensor, 0, buffer)
    assert (tensor.shape, buffer) == ((64,), bytes(range(40)) + bytes(24))


def test_large_tensor_of_unknown_type_is_copied_in_slabs(tmp_path):
    size, rng = 3 * 2**19 + 77, np.random.default_rng(0)
    data = rng.integers(0, 256, size * 5 // 8 + 3, np.uint8).tobytes()
    path, out = unknown_model(tmp_path, ne=(size,), data=data), tmp_path / "out.gguf"
    quantize_model(path, out, "F16")
    with GGUFReader(out) as reader:
        (tensor,) = (t for t in reader.tensors if t.type_id == 57)
        buffer = bytearray(len(data))
        reader.read_into(tensor, 0, buffer)
    assert buffer == data


@pytest.mark.parametrize(("type_id", "name"), [(57, "type 57"), (4, r"Q4_2 \(removed\)")])
def test_unknown_type_is_refused_where_it_must_be_decoded(type_id, name, tmp_path):
    path = written(tmp_path, build_gguf(tensors=(Tensor(b"a.weight", (32, 2), type_id, bytes(36)),)))
    message = f"tensor 'a.weight': no kernels to decode {name}"
    with pytest.raises(InvalidValueError, match=message):
        quantize_model(path, tmp_path / "out.gguf", "Q8_0", allow_requantize=True)
    with pytest.raises(InvalidValueError, match=message):
        dequantize_model(path, tmp_path / "out.gguf")
    with open_model(path) as model, pytest.raises(InvalidValueError, match=message):
        model.tensors["a.weight"].values()
    assert os.listdir(tmp_path) == ["model.gguf"]


# tensors without elements


def test_tensor_without_elements_is_kept(tmp_path):
    path, out = written(tmp_path, hostile_gguf.VALID["dims/0 between others"]), tmp_path / "out.gguf"
    quantize_model(path, out, "Q8_0")
    theirs = {t.name: (t.shape.tolist(), t.n_bytes) for t in gguf.GGUFReader(out).tensors}
    assert theirs == {"a": ([32], 128), "h": ([5], 10), "z": ([32, 0], 0)}
    with open_model(out) as model:
        assert model.tensors["z"].values().size == 0


def test_tensor_without_elements_is_taken_from_safetensors(tmp_path):
    save_file({"a": np.zeros((2, 0), np.float32), "b": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    quantize_model(tmp_path, tmp_path / "out.gguf", "Q8_0", arch="llama")
    theirs = {t.name: (t.shape.tolist(), t.n_bytes) for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    assert theirs == {"a": ([0, 2], 0), "b": ([3], 12)}


# names


def test_long_names_are_read_and_written_on_request(tmp_path):
    name = "n" * 120 + ".weight"
    tensor = Tensor(name.encode(), (32, 2), data=bytes(256))
    path, out = written(tmp_path, build_gguf(tensors=(tensor,))), tmp_path / "out"
    assert describe(path)["tensors"][0]["name"] == name
    with pytest.raises(InvalidValueError, match=r"1 to 63 bytes without NUL, this has 127 \(--long-names"):
        quantize_model(path, out, "Q8_0")
    assert main(["quantize", str(path), str(out), "Q8_0"]) == 1
    quantize_model(path, out, "Q8_0", long_names=True)
    dequantize_model(out, tmp_path / "back.gguf", long_names=True)
    assert main(["quantize", str(path), str(out), "Q8_0", "--long-names", "--force"]) == 0
    assert main(["dequantize", str(out), str(tmp_path / "back.gguf"), "--long-names", "--force"]) == 0
    with GGUFReader(tmp_path / "back.gguf") as reader:
        assert [t.name for t in reader.tensors] == [name]


NUMBERS = [
    "9" * 5000, "-" + "9" * 30, "0" * 5000 + "5", "9223372036854775807", "9223372036854775808", "-9223372036854775809",
    "4294967297", "2147483648", "12.attn", " 7", "+7", "- 7", "x", "",
]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS, ids=lambda text: f"{text[:12]}... of {len(text)}")
def test_layers_are_numbered_as_sscanf_reads_them(number):
    import ctypes

    layer = ctypes.c_int(-1)
    ctypes.CDLL(None).sscanf(f"blk.{number}".encode(), b"blk.%d.", ctypes.byref(layer))
    assert layer_then_name(f"blk.{number}") == (layer.value, f"blk.{number}".encode())


# metadata


def test_strings_that_are_not_utf8_are_shown_escaped_and_copied(tmp_path, capsys):
    kvs = (ARCHITECTURE, text_kv(b"x.text", RAW), array_kv(STRING, 2, string(RAW) + string(b"ok")))
    path, out = written(tmp_path, build_gguf(kvs=kvs)), tmp_path / "out.gguf"
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert r"caf\xe9 \xff\x1b[2J" in shown and "\x1b" not in shown
    quantize_model(path, out, "Q8_0")
    with GGUFReader(out) as reader:
        assert reader.value("x.text") == "caf\\xe9 \\xff\x1b[2J"
        assert [(kv.type_id, kv.raw) for kv in reader.kvs[1:3]] == [(kv.type_id, kv.payload) for kv in kvs[1:]]


@pytest.mark.slow
def test_long_metadata_take_little_memory_and_are_copied(tmp_path):
    """50 MB: a string that is no hole, and arrays behind it."""
    text = np.random.default_rng(0).integers(32, 127, 40 * 2**20, np.uint8).tobytes()
    numbers = np.arange(10**6, dtype="<u4").tobytes()
    tokens = b"".join(string(b"token %d" % i) for i in range(200_000))
    kvs = (
        text_kv(b"x.text", text),
        KV(b"x.numbers", ARRAY, array(U32, 10**6, numbers)),
        KV(b"x.tokens", ARRAY, array(STRING, 200_000, tokens)),
        KV(b"x.last", U32, u32(7)),
    )
    path, out = written(tmp_path, build_gguf(kvs=(ARCHITECTURE, *kvs))), tmp_path / "out.gguf"
    with memory_below(8 * 2**20):
        format_description(describe(path))
    with memory_below(MEMORY):
        quantize_model(path, out, "F32", n_threads=1)
    with GGUFReader(out) as reader:
        assert [kv.key for kv in reader.kvs][1:5] == ["x.text", "x.numbers", "x.tokens", "x.last"]
        assert [kv.raw for kv in reader.kvs[1:5]] == [kv.payload for kv in kvs]
        assert reader.value("x.numbers")[-1] == 999_999
        assert reader.value("x.tokens")[-1] == "token 199999"
        assert reader.value("x.last") == 7


def test_what_inspect_shows_of_long_values(tmp_path):
    kvs = (
        text_kv(b"text", b"t" * 100_000),
        KV(b"numbers", ARRAY, array(F32_VALUE, 500, struct.pack("<500f", *range(500)))),
        KV(b"texts", ARRAY, array(STRING, 7, string(b"s" * 100_000) * 7)),
        KV(b"few", ARRAY, array(U8, 2, b"\1\2")),
    )
    metadata = describe(written(tmp_path, build_gguf(kvs=kvs)))["metadata"]
    assert metadata["text"] == "t" * 65536 + "... (100000 bytes)"
    assert metadata["numbers"] == {"length": 500, "first": [0, 1, 2, 3, 4, 5]}
    assert metadata["texts"] == {"length": 7, "first": ["s" * 65536 + "... (100000 bytes)"] * 6}
    assert metadata["few"] == [1, 2]


def test_long_values_are_read_while_the_file_is_open(tmp_path):
    data = build_gguf(kvs=(text_kv(b"long", b"x" * 5000), array_kv(STRING, 500, string(b"abcd") * 500)))
    path = written(tmp_path, data)
    with GGUFReader(path) as reader:
        long, texts = reader.kvs
        assert (long.value, len(texts.value)) == ("x" * 5000, 500)
        with path.open("r+b") as file:  # the first length, of the text and of the first item
            for old in (struct.pack("<Q", 5000), string(b"abcd")):
                file.seek(data.index(old))
                file.write(b"\xff" * 8)
        for kv in (long, texts):
            with pytest.raises(FileFormatError, match="changed while it was open"):
                _ = kv.value
        os.truncate(path, 200)
        with pytest.raises(FileFormatError, match="ends at offset"):
            _ = long.raw
    with pytest.raises(InvalidStateError, match="the file is closed"):
        _ = long.raw


@pytest.mark.slow
def test_inspect_is_linear_in_the_number_of_keys(tmp_path, capsys):
    path = written(tmp_path, build_gguf(kvs=[KV(b"key.%d" % i, U32, u32(i)) for i in range(40_000)]))
    with deadline(cpu=10.0, wall=120.0):  # it took 54 s when each value was searched from the first key on
        assert main(["inspect", str(path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 40_000


@pytest.mark.slow
@pytest.mark.parametrize("what", ["keys", "tensors"])
def test_number_of_entries_is_bounded_by_the_memory_they_take(what, tmp_path, monkeypatch):
    """At a sixteenth of the limit, since tracing is slow."""
    monkeypatch.setattr("quantcore.gguf.cursor.MAX_RESIDENT_BYTES", MAX_RESIDENT_BYTES // 16)
    count = 20_000
    if what == "keys":
        data = build_gguf(kvs=[KV(b"%d" % i, U8, b"\1") for i in range(count)], tensors=())
    else:
        data = build_gguf(tensors=[Tensor(b"%d" % i, (0,), data=b"") for i in range(count)])
    path = written(tmp_path, data)
    with memory_below(MEMORY // 16), pytest.raises(FileFormatError, match="take more than 3145728 bytes of memory"):
        GGUFReader(path)
