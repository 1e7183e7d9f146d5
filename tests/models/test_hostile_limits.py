"""Hostile files as a shell sees them: resource limits and the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import quantcore
from quantcore.cli import main
from quantcore.gguf.reader import GGUFReader
from quantcore.safetensors.reader import SafetensorsReader, open_checkpoint
from tests.support import gguf_bytes, hostile_checkpoints, hostile_gguf, hostile_safetensors
from tests.support.hostile_cases import MEMORY, cases, deadline, refusal, written
from tests.support.marks import slow_but_first

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(quantcore.__file__).parents[1])}


# A shell's view: resource limits and the command line

_OPEN_UNDER_LIMITS = """
import json, resource, sys
from quantcore.errors import QuantcoreError
from quantcore.gguf.reader import GGUFReader
from quantcore.safetensors.reader import SafetensorsReader, open_checkpoint

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


@pytest.mark.slow
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
    add(hostile_checkpoints.CHECKPOINTS, "open_checkpoint")
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
    "shard in the parent": hostile_checkpoints.CHECKPOINTS["shard/in the parent"],
    "pickle in a zip": hostile_safetensors.PICKLES["pickle/in a zip as pytorch_model.bin"],
}
_NASTY = "before\x1b[2J\r\n\x9b\u202eafter"
_ESCAPES = {
    "model.gguf": gguf_bytes.build_gguf(
        kvs=(gguf_bytes.ARCHITECTURE, gguf_bytes.text_kv(_NASTY.encode(), _NASTY.encode())),
        tensors=(gguf_bytes.Tensor(_NASTY.encode()),),
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


@pytest.mark.parametrize("command", slow_but_first(["quantize", "inspect"]))
@pytest.mark.parametrize("case", slow_but_first(["a newline in a key", "FIFO", "shard in the parent"]))
def test_program_refuses_in_one_line(command, case, tmp_path):
    path = _ON_COMMAND_LINE[case](tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = run_program(command, path, *([tmp_path / "out.gguf", "Q4_0", "--pure"] if command == "quantize" else []))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.endswith("\n") and result.stderr[:-1].isprintable(), result.stderr
    assert str(path) in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
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
