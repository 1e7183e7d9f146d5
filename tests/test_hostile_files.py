"""Malformed files of the catalogues are refused with one line, at once and in little memory; their neighbours are read.

The catalogues are ``tests/hostile_gguf.py`` and ``tests/hostile_safetensors.py``.
"""

import json
import os
import random
import re
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
from safetensors import deserialize

import quantcore
from quantcore.cli import main
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


def refusal(open_file: Callable[[Path], object], path: Path, *errors: type[Exception]) -> str:
    """Open a file that must be refused; return the message after checking all that is common to refusals."""
    descriptors = len(os.listdir("/dev/fd"))
    tracemalloc.start()
    try:
        with deadline(), pytest.raises(errors or FileFormatError) as caught:
            open_file(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
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


@cases(hostile_safetensors.VALID_CHECKPOINTS)
def test_valid_checkpoint_is_read(case, tmp_path):
    root = case(tmp_path)
    for path in (root, root / hostile_safetensors.INDEX):
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


@cases(hostile_safetensors.CHECKPOINTS)
def test_hostile_checkpoint_is_refused(case, tmp_path):
    root = case(tmp_path)
    for path in (root, root / hostile_safetensors.INDEX):
        assert str(root) in refusal(open_checkpoint, path)


@cases(hostile_safetensors.PICKLES)
def test_pickle_is_refused_by_content_and_never_opened(case, tmp_path):
    path = case(tmp_path)
    for open_file in (GGUFReader, SafetensorsReader, open_checkpoint):
        assert str(path) in refusal(open_file, path)
    with pytest.raises(QuantcoreError):
        open_checkpoint(tmp_path)  # a folder that holds nothing else
    assert not (tmp_path / hostile_safetensors.PICKLE_MARKER).exists()


# A shell's view: resource limits and the command line

_OPEN_UNDER_LIMITS = """
import json, resource, sys
from quantcore.errors import QuantcoreError
from quantcore.gguf.reader import GGUFReader
from quantcore.safetensors import SafetensorsReader, open_checkpoint

files = json.load(sys.stdin)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + int(sys.argv[1]),) * 2)
for name, opener, path in files:
    before = resource.getrusage(resource.RUSAGE_SELF)
    try:
        globals()[opener](path)
        print(name, opener, "was accepted")
    except QuantcoreError:
        pass
    except BaseException as error:
        print(name, opener, type(error).__name__)
    after = resource.getrusage(resource.RUSAGE_SELF)
    if after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime > 1:
        print(name, opener, "took more than a second")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs the size of the address space")
def test_all_are_refused_under_a_memory_limit(tmp_path):
    """Nothing is mapped, and nothing is allocated behind the back of tracemalloc."""
    files = []

    def add(catalogue, *openers):
        for name, case in catalogue.items():
            folder = tmp_path / str(len(files))
            folder.mkdir()
            path = written(folder, case) if isinstance(case, bytes) else case(folder)
            files.extend((name, opener, str(path)) for opener in openers)

    add(hostile_gguf.MALFORMED, "GGUFReader")
    add(hostile_gguf.ON_DISK, "GGUFReader")
    add(hostile_safetensors.MALFORMED, "SafetensorsReader")
    add(hostile_safetensors.ON_DISK, "SafetensorsReader", "open_checkpoint")
    add(hostile_safetensors.CHECKPOINTS, "open_checkpoint")
    child = subprocess.run(
        [sys.executable, "-P", "-c", _OPEN_UNDER_LIMITS, str(MEMORY)],
        input=json.dumps(files),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=60,
    )
    assert (child.stdout, child.stderr, child.returncode) == ("", "", 0)


def run_program(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "quantcore", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)


def _file(data: bytes, name: str) -> Callable[[Path], Path]:
    return lambda folder: written(folder, data, name)


_ON_COMMAND_LINE = {
    "empty file": _file(b"", "model.gguf"),
    "text": _file(hostile_gguf.MALFORMED["magic/text"], "model.gguf"),
    "a newline in a key": _file(hostile_gguf.MALFORMED["key/twice, with a newline"], "model.gguf"),
    "offset beyond the file": _file(hostile_gguf.MALFORMED["offset/beyond the file"], "model.gguf"),
    "10^9 strings": hostile_gguf.ON_DISK["sparse/array of 10^9 strings"],
    "FIFO": hostile_gguf.ON_DISK["on disk/FIFO"],
    "safetensors of 2^64-1": _file(hostile_safetensors.MALFORMED["length/2^64-1"], "model.safetensors"),
    "shard in the parent": hostile_safetensors.CHECKPOINTS["shard/in the parent"],
    "pickle in a zip": hostile_safetensors.PICKLES["pickle/in a zip as pytorch_model.bin"],
}
_NASTY = "before\x1b[2J\r\n\x9b\u202eafter"
_ESCAPES = {
    "model.gguf": hostile_gguf.build_gguf(
        kvs=(hostile_gguf.ARCHITECTURE, hostile_gguf.text_kv(_NASTY.encode(), _NASTY.encode())),
        tensors=(hostile_gguf.Tensor(_NASTY.encode()),),
    ),
    "model.safetensors": hostile_safetensors.build_safetensors(
        {"__metadata__": {_NASTY: _NASTY}, _NASTY: hostile_safetensors.entry()}, bytes(8)
    ),
}


@cases(_ON_COMMAND_LINE | hostile_gguf.UNOPENABLE)
@pytest.mark.parametrize("command", ["inspect", "quantize"])
def test_command_line_refuses_in_one_line(command, case, tmp_path, capfd):
    (tmp_path / "in").mkdir()
    path = case(tmp_path / "in")
    (tmp_path / "out").mkdir()
    output = written(tmp_path / "out", b"precious", "old.gguf")
    with deadline():
        status = main(
            [command, str(path), *([str(output), "Q4_0", "--pure", "--force"] if command == "quantize" else [])]
        )
    out, err = capfd.readouterr()
    assert (status, out) == (1, "")
    assert err.endswith("\n") and err[:-1].isprintable(), err
    assert str(path) in err
    assert list(output.parent.iterdir()) == [output] and output.read_bytes() == b"precious"


@pytest.mark.parametrize("command", ["inspect", "quantize"])
@pytest.mark.parametrize("case", ["a newline in a key", "FIFO", "shard in the parent"])
def test_program_refuses_in_one_line(command, case, tmp_path):
    path = _ON_COMMAND_LINE[case](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = run_program(command, path, *([tmp_path / "out.gguf", "Q4_0", "--pure"] if command == "quantize" else []))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.endswith("\n") and result.stderr[:-1].isprintable(), result.stderr
    assert str(path) in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_program_takes_the_valid_neighbour(tmp_path):
    path = written(tmp_path, hostile_gguf.VALID["offset/three tensors"])
    assert run_program("inspect", path).returncode == 0
    result = run_program("quantize", path, tmp_path / "out.gguf", "Q4_0", "--pure")
    assert result.returncode == 0, result.stderr
    with GGUFReader(tmp_path / "out.gguf") as reader:
        assert {tensor.name for tensor in reader.tensors} == {"h", "a", "b"}


@pytest.mark.parametrize("name", ["model.gguf", "model.safetensors"])
def test_inspect_shows_nothing_that_drives_a_terminal(name, tmp_path, capfd):
    path = written(tmp_path, _ESCAPES[name], name)
    assert main(["inspect", str(path)]) == 0
    out, err = capfd.readouterr()
    assert "before" in out and "after" in out
    assert [line for line in out.split("\n") if not line.isprintable()] == []
    assert err == ""


def test_a_path_with_a_newline_gives_one_line(tmp_path):
    path = written(tmp_path, b"", "a\nb\x1b[2J.gguf")
    for open_file in (GGUFReader, SafetensorsReader, open_checkpoint):
        refusal(open_file, path)


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
