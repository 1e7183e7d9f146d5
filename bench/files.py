"""Whole files beside llama.cpp and the disk: `python -m bench.files [--gigabytes 2] [--rounds 5] [--folder DIR]`.

Random llama models are quantized by our command line and by cyllama's `llama_model_quantize`, which is llama-quantize
itself, each in a process of its own, one after the other in every round. The lower limit for any program is `cat IN`
plus writing as many bytes as OUT has until they are on the disk, for which ours waits and llama.cpp does not. Comparing
is measured beside `cat` of both files. Times are those of whole processes, Python's start included; medians over the
rounds.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from tests.support import llama_client

HEAD = (
    "| work | threads | IN, OUT (MB) | seconds | peak MB | cyllama: seconds, peak MB | ratio | bare seconds | ratio |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
_WRITE = """
import os, sys
left, data = int(sys.argv[2]), bytes(range(256)) * 4096
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
while left:
    left -= os.write(file, data[:left])
os.fsync(file)
"""


@dataclass(frozen=True)
class Job:
    """A command, and the file that it makes."""

    command: list[str]
    makes: Path | None = None
    stdin: str = ""


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    seconds: float
    peak_mb: float


def cost(job: Job, environment: dict[str, str]) -> Cost:
    """Run a job to its end; what it makes is not there before."""
    if job.makes is not None:
        job.makes.unlink(missing_ok=True)
    start = perf_counter()
    process = subprocess.Popen(
        job.command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(job.stdin.encode())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, job.command)
    return Cost(seconds, usage.ru_maxrss * 1024 / 1e6)


def costs(jobs: dict[str, Job], rounds: int, folder: Path) -> dict[str, Cost]:
    """Each job's median time and largest peak over interleaved rounds, after one that warms up."""
    # Modules are compiled once, as those of an installed package.
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(folder / "pycache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    runs = [{name: cost(job, environment) for name, job in jobs.items()} for _ in range(rounds + 1)][1:]
    return {
        name: Cost(median(run[name].seconds for run in runs), max(run[name].peak_mb for run in runs)) for name in jobs
    }


def write_source(path: Path, type_name: str, n_bytes: float) -> None:
    """See `model_files.write_model`."""
    from bench.model_files import write_model

    write_model(path, type_name, n_bytes)


def machine() -> str:
    """See `table.machine`."""
    from bench.table import machine

    return machine()


def row(title: str, n_threads: int, files: tuple[Path, Path], result: dict[str, Cost]) -> str:
    """One line of the table; the bare costs are those of "in" and "out"."""
    ours, bare = result["ours"], result["in"].seconds + result["out"].seconds
    sizes = ", ".join(f"{path.stat().st_size / 1e6:.0f}" for path in files)
    peer = result.get("cyllama")
    beside = f"{peer.seconds:.2f}, {peer.peak_mb:.0f} | {peer.seconds / ours.seconds:.1f}x" if peer else "|"
    return (
        f"| {title} | {n_threads} | {sizes} | {ours.seconds:.2f} | {ours.peak_mb:.0f} | {beside} | "
        f"{result['in'].seconds:.2f} + {result['out'].seconds:.2f} | {ours.seconds / bare:.1f}x |"
    )


def quantize_jobs(source: Path, out: Path, target: str, n_bytes: int, n_threads: int) -> dict[str, Job]:
    """Ours, llama.cpp's where it is installed, and the bare reading and writing of `n_bytes`."""
    plain, theirs = out.with_name("plain"), out.with_name("theirs.gguf")
    command = [sys.executable, "-m", "quantcore", "quantize", str(source), str(out), target, "--pure"]
    jobs = {"ours": Job([*command, "-j", str(n_threads)], out)}
    if llama_client.is_installed("cyllama"):
        request = {"command": "quantize", "source": str(source), "n_threads": n_threads}
        request["jobs"] = [[llama_client.FILE_TYPES[target], str(theirs)]]
        jobs["cyllama"] = Job([sys.executable, llama_client.__file__], theirs, json.dumps(request))
    jobs["in"] = Job(["cat", str(source)])
    jobs["out"] = Job([sys.executable, "-I", "-S", "-c", _WRITE, str(plain), str(n_bytes)], plain)
    return jobs


def compare_jobs(source: Path, out: Path, n_threads: int) -> dict[str, Job]:
    """Ours, and the bare reading of both files."""
    command = [sys.executable, "-m", "quantcore", "compare", str(source), str(out), "-j", str(n_threads)]
    return {"ours": Job(command), "in": Job(["cat", str(source)]), "out": Job(["cat", str(out)])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--sources", nargs="+", default=["F32", "BF16"], choices=["F32", "F16", "BF16"])
    parser.add_argument("--targets", nargs="+", default=["Q4_0", "Q8_0"], choices=llama_client.FILE_TYPES)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="make the files in here, on the disk to be measured")
    options = parser.parse_args()
    # What takes memory is done aside: Linux counts the peak of the process that starts another one as its peak too.
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as aside,
        tempfile.TemporaryDirectory(dir=options.folder) as name,
    ):
        print(
            f"{aside.submit(machine).result()}; medians of {options.rounds} interleaved rounds.\n\n{HEAD}", flush=True
        )
        folder = Path(name)
        source, out = folder / "source.gguf", folder / "out.gguf"
        for source_type in options.sources:
            aside.submit(write_source, source, source_type, options.gigabytes * 1e9).result()
            for target in options.targets:
                subprocess.run(
                    [sys.executable, "-m", "quantcore", "quantize", source, out, target, "--pure", "--force"],
                    stdout=subprocess.DEVNULL,
                    check=True,
                )
                n_bytes = out.stat().st_size
                for n_threads in options.threads:
                    jobs = quantize_jobs(source, out, target, n_bytes, n_threads)
                    result = costs(jobs, options.rounds, folder)
                    print(row(f"quantize {source_type} to {target}", n_threads, (source, out), result), flush=True)
                    jobs = compare_jobs(source, out, n_threads)
                    result = costs(jobs, options.rounds, folder)
                    print(row(f"compare {source_type} with {target}", n_threads, (source, out), result), flush=True)
            source.unlink()


if __name__ == "__main__":
    main()
