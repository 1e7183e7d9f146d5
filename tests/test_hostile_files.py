"""Every malformed file of the catalogues is refused with one line, at once and in little memory; their neighbours are read."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors import safe_open

import quantcore
from quantcore.errors import FileFormatError, QuantcoreError
from quantcore.gguf.reader import GGUFReader
from quantcore.safetensors import SafetensorsReader, open_checkpoint
from tests import hostile_gguf, hostile_safetensors
from tests.hostile_gguf import EVERY_VALUE

MEMORY = 64 * 2**20
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(quantcore.__file__).parents[1])}


class Deadline(BaseException):
    """Not an Exception: no reader may swallow it."""


@contextmanager
def deadline(cpu: float = 1.0, wall: float = 20.0) -> Iterator[None]:
    """Interrupt what burns CPU time (a machine under load must not fail the test) or waits, as for a FIFO's writer."""

    def stop(signum: int, frame: object) -> None:
        raise Deadline(signal.Signals(signum).name)

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, cpu)
    outer = signal.setitimer(signal.ITIMER_REAL, wall)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, *outer)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def refusal(open_file: Callable[[Path], object], path: Path, error: type[Exception] = FileFormatError) -> str:
    """Open a file that must be refused; return the message after checking all that is common to refusals."""
    descriptors = len(os.listdir("/dev/fd"))
    tracemalloc.start()
    try:
        with deadline(), pytest.raises(error) as caught:
            open_file(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert isinstance(caught.value, QuantcoreError)
    assert message.isprintable(), message  # one line, and nothing in it that drives a terminal
    assert len(message) < 1000 + len(str(path))
    assert peak < MEMORY
    assert len(os.listdir("/dev/fd")) == descriptors
    return message


def cases(catalogue: dict[str, object]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", catalogue.values(), ids=catalogue.keys())


def written(folder: Path, data: bytes, name: str = "model.gguf") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


# GGUF


@cases(hostile_gguf.MALFORMED)
def test_malformed_gguf_is_refused(case, tmp_path):
    path = written(tmp_path, case)
    assert str(path) in refusal(GGUFReader, path)


@cases(hostile_gguf.ON_DISK)
def test_what_is_no_gguf_file_is_refused(case, tmp_path):
    path = case(tmp_path)
    assert str(path) in refusal(GGUFReader, path, QuantcoreError)


def test_every_family_has_a_valid_neighbour():
    def families(*catalogues):
        return {name.split("/")[0] for catalogue in catalogues for name in catalogue}

    assert families(hostile_gguf.MALFORMED) <= families(hostile_gguf.VALID)
    assert families(hostile_gguf.ON_DISK) <= families(hostile_gguf.VALID_ON_DISK)
    assert families(hostile_safetensors.MALFORMED) <= families(hostile_safetensors.VALID)
    assert families(hostile_safetensors.CHECKPOINTS) <= families(hostile_safetensors.VALID_CHECKPOINTS)


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
            assert decoded == (pytest.approx(value) if type_id == hostile_gguf.F32_VALUE else value), key
        assert reader.value("x.missing") is None


def test_the_file_may_shrink_while_it_is_open(tmp_path):
    path = written(tmp_path, hostile_gguf.VALID["magic/GGUF"])
    with GGUFReader(path) as reader:
        os.truncate(path, path.stat().st_size - 1)
        message = refusal(lambda _: reader.read_into(reader.tensors[0], 0, bytearray(reader.tensors[0].nbytes)), path)
    assert str(path) in message


def test_reading_stays_inside_the_tensor(tmp_path):
    """Bytes of the neighbour, or of the heap, must not come out."""
    path = written(tmp_path, hostile_gguf.VALID["offset/three tensors"])
    with GGUFReader(path) as reader:
        tensor = reader.tensors[1]
        for start, size in ((0, tensor.nbytes + 1), (1, tensor.nbytes), (tensor.nbytes, 1), (-1, 1), (2**63, 1)):
            buffer = bytearray(b"\xaa" * size)
            with pytest.raises(QuantcoreError):
                reader.read_into(tensor, start, buffer)
            assert buffer == b"\xaa" * size


# safetensors


@pytest.mark.parametrize("open_file", [SafetensorsReader, open_checkpoint])
@cases(hostile_safetensors.MALFORMED)
def test_malformed_safetensors_is_refused(case, open_file, tmp_path):
    path = written(tmp_path, case, "model.safetensors")
    assert str(path) in refusal(open_file, path)


@cases(hostile_safetensors.ON_DISK)
def test_what_is_no_safetensors_file_is_refused(case, tmp_path):
    path = case(tmp_path)
    assert str(path) in refusal(SafetensorsReader, path, QuantcoreError)


@cases(hostile_safetensors.ON_DISK)
def test_what_is_no_checkpoint_is_refused(case, tmp_path):
    path = case(tmp_path)
    assert str(path) in refusal(open_checkpoint, path, QuantcoreError)


@cases(hostile_safetensors.CHECKPOINTS)
def test_hostile_checkpoint_is_refused(case, tmp_path):
    root = case(tmp_path)
    for path in (root, root / hostile_safetensors.INDEX):
        assert str(root) in refusal(open_checkpoint, path, QuantcoreError)


@cases(hostile_safetensors.PICKLES)
def test_pickle_is_refused_by_content_and_never_opened(case, tmp_path):
    path = case(tmp_path)
    for open_file in (GGUFReader, SafetensorsReader, open_checkpoint):
        assert str(path) in refusal(open_file, path)
    with pytest.raises(QuantcoreError):
        open_checkpoint(tmp_path)  # a folder that holds nothing else
    assert not (tmp_path / hostile_safetensors.PICKLE_MARKER).exists()


# Truncations and mutations

_GGUF_BASES = ("truncation/the whole file", "value type/every one", "alignment/64", "blocks/Q8_0", "array/raw-byte tokens")
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


def mutations(data: bytes, header: int, count: int, rng: random.Random) -> Iterator[bytes]:
    """Yield `count` copies with 1 (mostly) to 3 bytes of the header changed."""
    for _ in range(count):
        mutant = bytearray(data)
        for position in rng.choices(range(header), k=rng.choice((1, 1, 1, 1, 2, 3))):
            mutant[position] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256), mutant[position] ^ 1 << rng.randrange(8)))
        yield bytes(mutant)


@pytest.mark.parametrize("name", _GGUF_BASES)
def test_gguf_with_mutated_header_is_read_or_refused(name, tmp_path):
    data = hostile_gguf.VALID[name]
    with GGUFReader(written(tmp_path, data)) as reader:
        header = reader.tensors[0].offset
    outcomes = {"read": 0, "refused": 0}
    for mutant in mutations(data, header, 1500, random.Random(name)):
        path = written(tmp_path, mutant)
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
    for mutant in mutations(data, header, 1250, random.Random(name)):
        path = written(tmp_path, mutant, "model.safetensors")
        try:
            with deadline(), SafetensorsReader(path):
                outcomes["read"] += 1
        except FileFormatError as error:
            assert str(error).isprintable(), error
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 10, outcomes
