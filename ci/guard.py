"""Have the kernels become slower? Compared with ci/guard.json without a clock: ci/guard.sh builds and starts this.

There are two figures. The first is the number of instructions of a kernel module that every work of bench/ executes, by
callgrind, which does not support AVX-512, so at the other two CPU levels. The second is the list of loops that the
compiler vectorised in each function, with their widths, at every level. Exit 1 if a figure is worse, or is missing on
one side.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import zip_longest
from pathlib import Path

BASELINE = Path(__file__).with_name("guard.json")
LEVELS = ("baseline", "x86_64_v3", "x86_64_v4")
COUNTED_LEVELS = LEVELS[:2]
N_ELEMENTS = 1 << 17  # fewer, and the exact percentiles are NumPy's
# Changes of instructions that are no failure. Half of them gone may mean that the work is now done outside the kernels.
ALLOWED = (-0.5, 0.1)
ALLOWED_TO_OTHER_COMPILERS = (-0.75, 0.5)
BETTER = -0.1

AGAIN = "If that is meant: `bash ci/guard.sh --write`, and commit ci/guard.json."

Figures = dict[str, dict[str, float]]  # work: CPU level: instructions per element
Loops = dict[str, dict[str, list[int]]]  # function: CPU level: bytes of each loop's vectors, descending


def counted(package: Path, requests: Path, scratch: Path) -> Figures:
    """Instructions per element of each work, the levels side by side."""
    running = {}
    for level in COUNTED_LEVELS:
        command = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", "--compress-strings=no"]
        command += [f"--callgrind-out-file={scratch / level}", sys.executable, "-m", "ci.count_works"]
        environment = os.environ | {"QUANTCORE_ISA": level, "PYTHONPATH": str(package)}
        running[level] = subprocess.Popen([*command, str(requests), str(N_ELEMENTS)], env=environment)
    if failed := [level for level, process in running.items() if process.wait() != 0]:
        raise SystemExit(f"callgrind failed at {', '.join(failed)}")
    figures: Figures = defaultdict(dict)
    for level in running:
        for dump in scratch.glob(f"{level}.*"):
            name, instructions = read_dump(dump.read_text(), str(package.resolve() / f"quantcore/_kernels/_{level}."))
            figures[name][level] = round(instructions / N_ELEMENTS, 3)
    return figures


def read_dump(text: str, module: str) -> tuple[str, int]:
    """The name and the instructions of one object file in a dump of callgrind, without those that it calls."""
    (name,) = re.findall(r"^desc: Trigger: Client Request: (.+)$", text, re.MULTILINE)
    instructions, is_in_module, is_call = 0, False, False
    for line in text.splitlines():
        if line.startswith("ob="):
            is_in_module = module in line
        elif line.startswith("calls="):
            is_call = True  # the next line is the callee's share
        elif line[:1].isdigit() or line[:1] in tuple("+-*"):
            position_and_cost = line.split()
            if is_in_module and not is_call and len(position_and_cost) == 2:
                instructions += int(position_and_cost[1])
            is_call = False
    return name, instructions


def vectorized(source: Path) -> Loops:
    """The vectorised loops of each function of the Cython sources, as gcc's vectoriser has dumped them in the build."""
    loops: Loops = defaultdict(dict)
    for level in LEVELS:
        dumps = "".join(path.read_text() for path in source.rglob(f"_{level}.c.*.vect"))  # none without the vectoriser
        widest: dict[tuple[str, int, int], int] = defaultdict(int)
        # Copies of an inlined loop and the narrower loop for its tail have its place.
        for found in re.finditer(r"(\S+):(\d+):(\d+): optimized: loop vectorized using (\d+) byte", dumps):
            place = found[1], int(found[2]), int(found[3])
            widest[place] = max(widest[place], int(found[4]))
        for (file, line, _), width in widest.items():
            loops[function_at(source, file, line)].setdefault(level, []).append(width)
    for levels in loops.values():
        for widths in levels.values():
            widths.sort(reverse=True)
    return loops


@cache
def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def function_at(source: Path, file: str, line: int) -> str:
    """The Cython function that a line of C was made from, as "q8_0.pxi: q8_0_quantize_tile"; or just the header."""
    if file.endswith(".h"):
        return Path(file).name
    for i in reversed(range(line)):
        if origin := re.match(r'\s*/\* "(quantcore/_kernels/[\w/]+\.\w+)":(\d+)', lines_of(source / file)[i]):
            break
    else:
        raise SystemExit(f"{file}:{line}: from which Cython line?")
    path = source / origin[1]
    for i in reversed(range(int(origin[2]))):
        if function := re.match(r"cdef [^=]*?(\w+)\(", lines_of(path)[i]):
            return f"{path.name}: {function[1]}"
    raise SystemExit(f"{origin[1]}:{origin[2]}: in which function?")


def compiler(package: Path) -> str:
    """The compiler of the kernels, as the module names it."""
    (module,) = package.glob("quantcore/_kernels/_baseline.*so")
    version = re.search(rb"GCC: \(.*?\) (\d+)\.", module.read_bytes())
    return f"gcc {version[1].decode()}" if version else "another compiler than gcc"


def changed(figures: Figures, before: Figures) -> Iterator[tuple[float, str]]:
    """For each work that both have, the relative change of its instructions, and a line that says so."""
    for work in sorted(figures.keys() & before.keys()):
        for level, count in figures[work].items():
            was = before[work][level]
            change = (count - was) / max(was, 0.001)
            yield change, f"{work} at {level}: {count:.3f} instructions an element, before {was:.3f}: {change:+.1%}"


def changed_loops(loops: Loops, before: Loops) -> Iterator[tuple[bool, str]]:
    """For each function whose loops have changed, whether one is missing or narrower, and a line that says so."""
    for function in sorted(loops.keys() | before.keys()):
        for level in LEVELS:
            widths, were = loops.get(function, {}).get(level, []), before.get(function, {}).get(level, [])
            if widths != were:
                is_worse = any(width < was for width, was in zip_longest(widths, were, fillvalue=0))
                yield is_worse, f"{function} at {level}: loops vectorised by {widths} bytes, before {were}"


def written(built_by: str, figures: Figures, loops: Loops) -> str:
    """The figures as JSON with a line for each work and function, so that changes are read easily."""
    parts = []
    for name, rows in (("instructions", figures), ("loops", loops)):
        lines = (f"    {json.dumps(row)}: {json.dumps(levels, sort_keys=True)}" for row, levels in sorted(rows.items()))
        parts.append(f'  "{name}": {{\n' + ",\n".join(lines) + "\n  }")
    return f'{{\n  "compiler": {json.dumps(built_by)},\n' + ",\n".join(parts) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--package", type=Path, required=True, help="folder with the built package")
    parser.add_argument("--source", type=Path, required=True, help="folder it was built in, with gcc's dumps")
    parser.add_argument("--requests", type=Path, required=True, help="the library of ci/guard.sh for count_works.py")
    parser.add_argument("--scratch", type=Path, required=True, help="an empty folder")
    parser.add_argument("--write", type=Path, help="write the figures here as the new baseline; nothing is compared")
    options = parser.parse_args()
    built_by = compiler(options.package)
    figures = counted(options.package, options.requests, options.scratch)
    loops = vectorized(options.source)
    n_loops = sum(len(widths) for levels in loops.values() for widths in levels.values())
    print(f"{built_by}: {len(figures)} works counted, {n_loops} vectorised loops")
    if options.write:
        options.write.write_text(written(built_by, figures, loops))
        return
    before = json.loads(BASELINE.read_text())
    lowest, highest = ALLOWED
    worse: list[str] = []
    better: list[str] = []
    if built_by == before["compiler"]:
        for is_worse, line in changed_loops(loops, before["loops"]):
            (worse if is_worse else better).append(line)
    else:
        lowest, highest = ALLOWED_TO_OTHER_COMPILERS
        print(f"NOTE: {BASELINE.name} is of {before['compiler']}: no loops compared, up to {highest:+.0%} allowed")
    for work in sorted(figures.keys() ^ before["instructions"].keys()):
        worse.append(f"{work}: only {'measured' if work in figures else 'in ' + BASELINE.name}")
    for change, line in changed(figures, before["instructions"]):
        if not lowest <= change <= highest:
            worse.append(f"{line}, allowed {lowest:+.0%} to {highest:+.0%}")
        elif change < BETTER:
            better.append(line)
    for line in better:
        print(f"better: {line}")
    for line in worse:
        print(f"WORSE: {line}")
    if worse or better:
        print(AGAIN)
    sys.exit(bool(worse))


if __name__ == "__main__":
    main()
