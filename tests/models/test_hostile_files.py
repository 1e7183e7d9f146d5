"""Malformed files of the catalogues are refused with one line, at once and in little memory; their neighbours are read.

The catalogues are ``hostile_gguf.py``, ``hostile_safetensors.py`` and ``hostile_checkpoints.py`` in ``tests/support``.
"""

import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors import deserialize

from quantcore.errors import FileFormatError, QuantcoreError
from quantcore.gguf.reader import GGUFReader
from quantcore.safetensors.reader import SafetensorsReader, open_checkpoint
from tests.support import gguf_bytes, hostile_checkpoints, hostile_gguf, hostile_safetensors
from tests.support.gguf_bytes import EVERY_VALUE
from tests.support.hostile_cases import cases, deadline, refusal, written

# GGUF


@cases(hostile_gguf.MALFORMED)
def test_malformed_gguf_is_refused(case, tmp_path):
    path = written(tmp_path, case)
    message = refusal(GGUFReader, path)
    assert str(path) in message
    assert re.search(r"offset \d+", message)


@cases(hostile_gguf.ON_DISK)
def test_what_is_no_gguf_file_is_refused(case, tmp_path):
    path = case(tmp_path)
    assert str(path) in refusal(GGUFReader, path)


@cases(hostile_gguf.UNOPENABLE)
def test_what_cannot_be_opened_is_named(case, tmp_path):
    path = case(tmp_path)
    for open_file in (GGUFReader, SafetensorsReader, open_checkpoint):
        assert str(path) in refusal(open_file, path, OSError)


def test_every_family_has_a_valid_neighbour():
    def families(*catalogues):
        return {name.split("/")[0] for catalogue in catalogues for name in catalogue}

    assert families(hostile_gguf.MALFORMED) <= families(hostile_gguf.VALID)
    assert families(hostile_gguf.ON_DISK) <= families(hostile_gguf.VALID_ON_DISK)
    assert families(hostile_safetensors.MALFORMED) <= families(hostile_safetensors.VALID)
    assert families(hostile_checkpoints.CHECKPOINTS) <= families(hostile_checkpoints.VALID_CHECKPOINTS)


@cases(hostile_gguf.VALID)
def test_valid_gguf_is_read_as_by_gguf_py(case, tmp_path):
    path = written(tmp_path, case)
    theirs = gguf.GGUFReader(path)
    with GGUFReader(path) as ours:
        assert ours.version == theirs.fields["GGUF.version"].parts[0][0]
        assert ours.alignment == theirs.alignment
        fields = [field for name, field in theirs.fields.items() if not name.startswith("GGUF.")]
        assert [(kv.key, kv.type_id, kv.raw) for kv in ours.kvs] == [
            (field.name, field.types[0], b"".join(part.tobytes() for part in field.parts[3:])) for field in fields
        ]
        assert [(t.name, t.shape, t.type_id, t.offset, t.nbytes) for t in ours.tensors] == [
            (t.name, tuple(t.shape[::-1].tolist()), t.tensor_type, t.data_offset, t.n_bytes) for t in theirs.tensors
        ]
        for tensor, other in zip(ours.tensors, theirs.tensors, strict=True):
            buffer = bytearray(tensor.nbytes)
            ours.read_into(tensor, 0, buffer)
            assert buffer == other.data.tobytes()


@cases(hostile_gguf.VALID_ON_DISK)
def test_valid_gguf_on_disk_is_read(case, tmp_path):
    with GGUFReader(case(tmp_path)) as reader:
        assert [tensor.name for tensor in reader.tensors] == ["w"]


def test_values_are_decoded(tmp_path):
    with GGUFReader(written(tmp_path, hostile_gguf.VALID["value type/every one"])) as reader:
        for key, (type_id, _, value) in EVERY_VALUE.items():
            decoded = reader.value(key)
            decoded = decoded.tolist() if isinstance(decoded, np.ndarray) else decoded
            assert decoded == (pytest.approx(value) if type_id == gguf_bytes.F32_VALUE else value), key
        assert reader.value("x.missing") is None


def test_the_file_may_shrink_while_it_is_open(tmp_path):
    path = written(tmp_path, hostile_gguf.VALID["magic/GGUF"])
    with GGUFReader(path) as reader:
        os.truncate(path, path.stat().st_size - 1)
        message = refusal(lambda _: reader.read_into(reader.tensors[0], 0, bytearray(reader.tensors[0].nbytes)), path)
    assert str(path) in message


@pytest.mark.parametrize("open_file", [GGUFReader, SafetensorsReader, open_checkpoint])
def test_reading_stays_inside_the_tensor(open_file, tmp_path):
    """Bytes of the neighbours, or of the header, must not come out."""
    is_gguf = open_file is GGUFReader
    data = hostile_gguf.VALID["offset/three tensors"] if is_gguf else hostile_safetensors.VALID["length/as it is"]
    with open_file(written(tmp_path, data)) as reader:
        tensor = reader.tensors[0]
        for start, size in ((0, tensor.nbytes + 1), (1, tensor.nbytes), (tensor.nbytes, 1), (-1, 1), (2**63, 1)):
            buffer = bytearray(b"\xaa" * size)
            with pytest.raises(QuantcoreError):
                reader.read_into(tensor, start, buffer)
            assert buffer == b"\xaa" * size


# safetensors


@pytest.mark.parametrize("open_file", [SafetensorsReader, open_checkpoint])
@cases(hostile_safetensors.VALID)
def test_valid_safetensors_is_read_as_by_the_library(case, open_file, tmp_path):
    path = written(tmp_path, case, "model.safetensors")
    theirs = dict(deserialize(case))
    with open_file(path) as ours:
        assert {t.name: (t.dtype, list(t.shape)) for t in ours.tensors} == {
            name: (tensor["dtype"], tensor["shape"]) for name, tensor in theirs.items()
        }
        for tensor in ours.tensors:
            buffer = bytearray(tensor.nbytes)
            ours.read_into(tensor, 0, buffer)
            assert buffer == theirs[tensor.name]["data"]


def test_safetensors_metadata_is_read(tmp_path):
    with SafetensorsReader(written(tmp_path, hostile_safetensors.VALID["metadata/text to text"])) as reader:
        assert reader.metadata == {"format": "pt", "note": ""}


@cases(hostile_checkpoints.VALID_CHECKPOINTS)
def test_valid_checkpoint_is_read(case, tmp_path):
    root = case(tmp_path)
    for path in (root, root / hostile_checkpoints.INDEX):
        with open_checkpoint(path) as checkpoint:
            assert {tensor.name for tensor in checkpoint.tensors} >= {"a", "b"}
            for tensor in checkpoint.tensors:
                buffer = bytearray(tensor.nbytes)
                checkpoint.read_into(tensor, 0, buffer)
                assert np.frombuffer(buffer, np.float32).tolist() == [1, -2]


@pytest.mark.parametrize("open_file", [SafetensorsReader, open_checkpoint])
@cases(hostile_safetensors.MALFORMED)
def test_malformed_safetensors_is_refused(case, open_file, tmp_path):
    path = written(tmp_path, case, "model.safetensors")
    assert str(path) in refusal(open_file, path)


@cases(hostile_safetensors.ON_DISK)
def test_what_is_no_safetensors_file_is_refused(case, tmp_path):
    path = case(tmp_path)
    assert str(path) in refusal(SafetensorsReader, path)


@cases(hostile_safetensors.ON_DISK)
def test_what_is_no_checkpoint_is_refused(case, tmp_path):
    path = case(tmp_path)
    assert str(path) in refusal(open_checkpoint, path)


@cases(hostile_checkpoints.CHECKPOINTS)
def test_hostile_checkpoint_is_refused(case, tmp_path):
    root = case(tmp_path)
    for path in (root, root / hostile_checkpoints.INDEX):
        assert str(root) in refusal(open_checkpoint, path)


@cases(hostile_safetensors.PICKLES)
def test_pickle_is_refused_by_content_and_never_opened(case, tmp_path):
    path = case(tmp_path)
    for open_file in (GGUFReader, SafetensorsReader, open_checkpoint):
        assert str(path) in refusal(open_file, path)
    with pytest.raises(QuantcoreError):
        open_checkpoint(tmp_path)  # a folder that holds nothing else
    assert not (tmp_path / hostile_safetensors.PICKLE_MARKER).exists()


# Truncations and mutations

_GGUF_BASES = (
    "truncation/the whole file",
    "value type/every one",
    "alignment/64",
    "blocks/Q8_0",
    "array/raw-byte tokens",
)
_SAFETENSORS_BASES = ("length/as it is", "offsets/header not in file order", "header/name with escapes", "dtype/BF16")


@pytest.mark.parametrize("name", ["truncation/the whole file", "value type/every one", "alignment/64"])
def test_every_prefix_of_a_gguf_file_is_refused(name, tmp_path):
    path = written(tmp_path, hostile_gguf.VALID[name])
    GGUFReader(path).close()
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(FileFormatError):
            GGUFReader(path)


@pytest.mark.parametrize("name", ["length/as it is", "dtype/F16"])
def test_every_prefix_of_a_safetensors_file_is_refused(name, tmp_path):
    path = written(tmp_path, hostile_safetensors.VALID[name], "model.safetensors")
    SafetensorsReader(path).close()
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(FileFormatError):
            SafetensorsReader(path)


def mutants(path: Path, header: int, count: int, rng: random.Random) -> Iterator[bytes]:
    """Change 1 (mostly) to 3 bytes of the file's header, `count` times over; yield what the file then holds."""
    data = path.read_bytes()
    with path.open("r+b", buffering=0) as file:  # in place: to truncate and rewrite would wait for the disk
        for _ in range(count):
            mutant = bytearray(data)
            for at in rng.choices(range(header), k=rng.choice((1, 1, 1, 1, 2, 3))):
                mutant[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256), mutant[at] ^ 1 << rng.randrange(8)))
            file.seek(0)
            file.write(mutant)
            yield bytes(mutant)


@pytest.mark.parametrize("name", _GGUF_BASES)
def test_gguf_with_mutated_header_is_read_or_refused(name, tmp_path):
    path = written(tmp_path, hostile_gguf.VALID[name])
    with GGUFReader(path) as reader:
        header = reader.tensors[0].offset
    outcomes = {"read": 0, "refused": 0}
    for mutant in mutants(path, header, 2000, random.Random(name)):
        try:
            with deadline(), GGUFReader(path) as reader:
                for tensor in reader.tensors:
                    assert header <= tensor.offset <= tensor.offset + tensor.nbytes <= len(mutant)
                    buffer = bytearray(tensor.nbytes)
                    reader.read_into(tensor, 0, buffer)
                    assert buffer == mutant[tensor.offset : tensor.offset + tensor.nbytes]
                for kv in reader.kvs:
                    reader.value(kv.key)
            outcomes["read"] += 1
        except FileFormatError as error:
            assert str(error).isprintable(), error
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 50, outcomes


@pytest.mark.parametrize("name", _SAFETENSORS_BASES)
def test_safetensors_with_mutated_header_is_read_or_refused(name, tmp_path):
    data = hostile_safetensors.VALID[name]
    header = 8 + int.from_bytes(data[:8], "little")
    outcomes = {"read": 0, "refused": 0}
    path = written(tmp_path, data, "model.safetensors")
    for _ in mutants(path, header, 1500, random.Random(name)):
        try:
            with deadline(), SafetensorsReader(path):
                outcomes["read"] += 1
        except FileFormatError as error:
            assert str(error).isprintable(), error
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 0, outcomes
