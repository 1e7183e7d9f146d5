"""Coverage-guided fuzzing (atheris) of the readers of untrusted files, started from the tests' catalogues.

For any bytes, a reader either raises `FileFormatError` with one printable line, or gives tensors that lie inside the
file, values that decode, and a text without control characters. Whatever our safetensors reader accepts, the
safetensors library accepts too; whatever the GGUF reader accepts can be quantized, or is refused with one of our
errors. An importance matrix that was read can be saved in both layouts and comes back.

Usage: python -m ci.fuzz_parsers [--runs 40000] [--seconds 300] [--seed 1] [--corpus FOLDER] [READER...]
One process per reader. The same seed gives the same executions, so that a change is judged by what it changes; look for
new findings with another one (0: a random one) and more runs. Needs atheris, the test dependencies and an installed
quantcore. Exit 0: no finding.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris
from safetensors import deserialize

from tests.support import hostile_gguf, hostile_imatrix, hostile_safetensors, tolerated_gguf

IS_FUZZING = sys.argv[1:2] == ["--inside"]  # a child, that runs one reader; the parent only starts them and reports

with atheris.instrument_imports(include=["quantcore"]) if IS_FUZZING else contextlib.nullcontext():
    from quantcore.conversion import quantize_model
    from quantcore.errors import FileFormatError, QuantcoreError
    from quantcore.gguf.imatrix import Imatrix
    from quantcore.gguf.reader import GGUFReader
    from quantcore.gguf.values import is_value
    from quantcore.models.inspection import describe, format_description
    from quantcore.safetensors.reader import SafetensorsReader

ROUND_TRIP_EVERY = 8  # quantizing a whole file takes far longer than reading it


def check_gguf(path: str, data: bytes) -> None:
    with GGUFReader(path) as reader:
        for tensor in reader.tensors:
            buffer = bytearray(tensor.nbytes)
            reader.read_into(tensor, 0, buffer)
            assert buffer == data[tensor.offset : tensor.offset + tensor.nbytes]
        for kv in reader.kvs:
            reader.value(kv.key)
            assert is_value(kv.type_id, kv.raw)
    check_text(path)
    if sum(data) % ROUND_TRIP_EVERY == 0:
        target = Path(tempfile.gettempdir(), "quantized.gguf")
        try:
            quantize_model(path, target, "Q8_0", force=True, n_threads=1)
        except QuantcoreError as error:
            assert str(error).isprintable(), error
        else:
            GGUFReader(target).close()


def check_safetensors(path: str, data: bytes) -> None:
    with SafetensorsReader(path) as reader:
        for tensor in reader.tensors:
            buffer = bytearray(tensor.nbytes)
            reader.read_into(tensor, 0, buffer)
            assert buffer == data[tensor.offset : tensor.offset + tensor.nbytes]
        ours = {t.name: t.shape for t in reader.tensors}
    assert ours == {name: tuple(entry["shape"]) for name, entry in deserialize(data)}
    check_text(path)


def check_imatrix(path: str, data: bytes) -> None:
    matrix = Imatrix.load(path)
    for name in matrix.entries:
        assert (matrix.weights(name) >= 0).all()
    saved = Path(tempfile.gettempdir(), "imatrix")
    for legacy in (False, True):
        try:
            matrix.save(saved, legacy=legacy, force=True)
        except QuantcoreError as error:
            assert str(error).isprintable(), error
        else:
            assert Imatrix.load(saved).entries.keys() == matrix.entries.keys()
    assert matrix.merge(matrix).entries.keys() == matrix.entries.keys()


def check_text(path: str) -> None:
    for line in format_description(describe(path)).split("\n"):
        assert line.isprintable(), line


CHECKS: dict[str, Callable[[str, bytes], None]] = {
    "gguf": check_gguf,
    "safetensors": check_safetensors,
    "imatrix": check_imatrix,
}
SEEDS = {
    "gguf": [
        *hostile_gguf.VALID.values(),
        *hostile_gguf.MALFORMED.values(),
        *(data for data, _ in (*tolerated_gguf.TRAILING.values(), *tolerated_gguf.UNKNOWN_TYPES.values())),
    ],
    "safetensors": [*hostile_safetensors.VALID.values(), *hostile_safetensors.MALFORMED.values()],
    "imatrix": [hostile_imatrix.VALID, *hostile_imatrix.BAD_LEGACY.values(), *hostile_imatrix.gguf_files()],
}
LONGEST_SEED = 1 << 14


def fuzz(parser: str, arguments: list[str]) -> None:
    """Run libFuzzer in this process; does not return."""
    check = CHECKS[parser]
    descriptor = os.memfd_create(parser)  # a regular file that no disk has to keep up with
    path = f"/proc/self/fd/{descriptor}"

    def one(data: bytes) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)
        try:
            check(path, data)
        except FileFormatError as error:
            assert str(error).isprintable(), error

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def run(parser: str, options: argparse.Namespace, folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that fuzzes one reader; its finds go to `folder`."""
    for name in ("seeds", "corpus", "findings", "temporary"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(SEEDS[parser]):
        if len(seed) <= LONGEST_SEED:
            (folder / "seeds" / f"{i:04}").write_bytes(seed)
    limits = [f"-runs={options.runs}", f"-max_total_time={options.seconds}", "-timeout=10", "-rss_limit_mb=1024"]
    limits += ["-max_len=16384", "-print_final_stats=1", f"-seed={options.seed}"]
    corpora = [str(folder / "corpus"), str(folder / "seeds")]
    command = [sys.executable, "-m", "ci.fuzz_parsers", "--inside", parser, *limits]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [*command, f"-artifact_prefix={folder}/findings/", *corpora],
            env=os.environ | {"TMPDIR": str(folder / "temporary"), "PYTHONHASHSEED": "0"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", default=list(CHECKS), metavar="READER", help=", ".join(CHECKS))
    parser.add_argument("--runs", type=int, default=40_000, help="executions a reader")
    parser.add_argument("--seconds", type=int, default=300, help="at most this long")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations; 0: a random one")
    parser.add_argument("--corpus", type=Path, help="folder for seeds, corpora and findings, kept (default: temporary)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.corpus or Path(temporary)).resolve()
        processes = {name: run(name, options, folder / name) for name in options.readers}
        failed = []
        for name, process in processes.items():
            status = process.wait()
            log = (folder / name / "log").read_text(errors="replace")
            executed = next((s.split()[-1] for s in log.split("\n") if "number_of_executed_units" in s), "no")
            print(f"{name}: {executed} executions, {'0 findings' if status == 0 else f'exit status {status}'}")
            if status:
                print(log[-5000:])
                failed.append(name)
    return 1 if failed else 0


if __name__ == "__main__":
    if IS_FUZZING:
        fuzz(sys.argv[2], sys.argv[3:])
    sys.exit(main())
