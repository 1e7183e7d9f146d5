"""The command line as a program of its own: signals, pipes, terminals."""

import errno
import io
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

import quantcore
from quantcore.cli import main
from quantcore.gguf import GGUFReader
from tests.support.command_line import ENVIRONMENT, OLD, PROGRAM, is_one_line, normal
from tests.support.models import Tensor, gguf, write_gguf, write_sparse_gguf

pytestmark = pytest.mark.slow  # a program of its own for each test


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "env": ENVIRONMENT, "timeout": 120} | options
    return subprocess.run([*PROGRAM, *map(str, arguments)], text=True, **options)


# As a program of its own


def test_program(model, out):
    assert run("--version").stdout == f"quantcore {quantcore.__version__} ({quantcore.isa()})\n"
    result = run("quantize", model, out, "Q4_0", "--json")
    assert result.returncode == 0 and len(json.loads(result.stdout)["tensors"]) == 5
    assert is_one_line(result.stderr) and "note: output.weight" in result.stderr
    result = run("quantize", model, out, "Q4_0")
    assert (result.returncode, result.stdout) == (1, "") and is_one_line(result.stderr)
    result = run("quantize", model)
    assert (result.returncode, result.stdout) == (2, "") and is_one_line(result.stderr)


def test_paths_that_are_no_text(model, tmp_path):
    output = tmp_path / os.fsdecode(b"caf\xe9.gguf")
    result = run("quantize", model, output, "Q8_0")
    assert (result.returncode, result.stderr) == (0, "") and "caf\\udce9.gguf: 4 of 5" in result.stdout
    result = run("inspect", output)
    assert (result.returncode, result.stderr) == (0, "")
    result = run("inspect", f"{output}x")
    assert result.returncode == 1 and is_one_line(result.stderr)


@pytest.fixture
def long_listing(tmp_path: Path) -> Path:
    """A model whose listing does not fit into a pipe."""
    write_gguf(
        tmp_path / "long.gguf", [Tensor(f"blk.{i}.a.very.long.name.of.a.vector", normal(1)) for i in range(3000)]
    )
    return tmp_path / "long.gguf"


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_reader_that_goes_away(flags, long_listing):
    command = [*PROGRAM, "inspect", str(long_listing), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize("arguments", [["inspect"], ["--help"], ["demo", "--json"]], ids=" ".join)
def test_reader_that_was_never_there(arguments, model):
    reading, writing = os.pipe()
    os.close(reading)
    arguments = [*arguments, model] if arguments == ["inspect"] else arguments
    result = run(*arguments, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "--json"], ["--help"]], ids=" ".join)
def test_full_standard_output_is_one_line_and_1(arguments, long_listing):
    arguments = [*arguments, long_listing] if "inspect" in arguments else arguments
    with open("/dev/full", "w") as full:
        result = run(*arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (result.returncode, result.stderr) == (
        1,
        f"quantcore: error: standard output: {os.strerror(errno.ENOSPC)}\n",
    )


@pytest.mark.parametrize("closed", ["0<&- 1>&- 2>&-", "1>&-", "2>&-"])
def test_closed_standard_streams(closed, model, out):
    command = shlex.join([*PROGRAM, "quantize", str(model), str(out), "Q4_0"])
    result = subprocess.run(
        ["sh", "-c", f"{command} {closed}"], capture_output=True, env=ENVIRONMENT, text=True, timeout=60
    )
    assert result.returncode == 0 and "Traceback" not in result.stderr
    assert {t.name for t in gguf.GGUFReader(out).tensors} == {t.name for t in gguf.GGUFReader(model).tensors}
    result = subprocess.run(
        ["sh", "-c", f"{command} {closed}"], capture_output=True, env=ENVIRONMENT, text=True, timeout=60
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert is_one_line(result.stderr) == ("2>" not in closed)


def on_terminal(*arguments: object) -> tuple[int, bytes, bytes]:
    """Run with stderr on a terminal: exit status, stdout and what the terminal got."""
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    # Every step is shown, however fast it is.
    environment = ENVIRONMENT | {"TQDM_MININTERVAL": "0", "TERM": "xterm"}
    command = [*PROGRAM, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = bytearray()
        try:
            while data := os.read(master, 1 << 16):
                shown += data
        except OSError as error:
            assert error.errno == errno.EIO  # the terminal's other end is closed
        os.close(master)
        out = process.stdout.read()
    return process.returncode, out, bytes(shown)


def test_progress_bar_on_a_terminal(model, out, tmp_path):
    status, text, shown = on_terminal("quantize", model, out, "Q8_0")
    assert status == 0 and b"5 tensors converted" in text
    assert b"quantize: " in shown and b"100%" in shown and b"\n" not in shown
    status, text, shown = on_terminal("dequantize", out, tmp_path / "floats.gguf", "--json")
    assert status == 0 and json.loads(text)
    assert b"dequantize: " in shown and b"100%" in shown


@pytest.mark.parametrize("flags", [["--no-progress"], ["--dry-run", "--no-progress"]])
def test_no_progress_bar_if_it_is_not_wanted(flags, model, out):
    status, _, shown = on_terminal("quantize", model, out, "Q8_0", *flags)
    assert (status, shown) == (0, b"")


def test_error_on_a_terminal_is_a_line_of_its_own(model, out):
    out.write_bytes(OLD)
    status, text, shown = on_terminal("quantize", model, out, "Q8_0")
    assert (status, text) == (1, b"")
    assert shown.endswith(b"replaces it\r\n") and shown.split(b"\r")[-2].startswith(b"quantcore: error: ")


def test_no_progress_bar_without_a_terminal_or_tqdm(call, model, out, monkeypatch, capsys):
    assert call("quantize", model, out, "Q8_0").err == ""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["quantize", str(model), str(out), "Q8_0", "--force"]) == 0
    assert "quantize: " in terminal.getvalue()
    monkeypatch.setitem(sys.modules, "tqdm", None)
    terminal.truncate(0)
    assert main(["quantize", str(model), str(out), "Q8_0", "--force"]) == 0
    assert terminal.getvalue() == ""


# Python takes no notice of Ctrl-C in a process that was started in the background.
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from quantcore.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("force", [False, True])
def test_ctrl_c_leaves_nothing(force, tmp_path):
    source, folder = tmp_path / "in.gguf", tmp_path / "out"
    write_sparse_gguf(source, {"a.weight": (1 << 14, 1 << 15)})  # 2 GiB
    folder.mkdir()
    output = folder / "out.gguf"
    if force:
        output.write_bytes(OLD)
    command = [sys.executable, "-P", "-c", INTERRUPTIBLE, "quantize", str(source), str(output), "Q8_0", "--json"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, *["--force"] * force], text=True, env=ENVIRONMENT, **streams) as process:
        while not any(path.stat().st_size for path in folder.iterdir() if path != output):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        text, err = process.communicate(timeout=60)
    assert (process.returncode, text, err) == (130, "", "quantcore: interrupted\n")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == ({"out.gguf": OLD} if force else {})


def test_ctrl_c_while_the_program_is_imported(monkeypatch, capsys):
    class Interrupts:
        def find_spec(self, name, path, target=None):
            if name == "quantcore.cli.program":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "quantcore.cli.program", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupts(), *sys.meta_path])
    assert main(["demo"]) == 130
    assert capsys.readouterr() == ("", "quantcore: interrupted\n")


def test_readers_agree_on_what_the_program_wrote(model, out):
    assert run("quantize", model, out, "Q4_0", "--pure").returncode == 0
    with GGUFReader(out) as ours:
        theirs = gguf.GGUFReader(out)
        assert [(t.name, t.offset, t.nbytes) for t in ours.tensors] == [
            (t.name, t.data_offset, t.n_bytes) for t in theirs.tensors
        ]
