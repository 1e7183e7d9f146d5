"""`doctor`: versions, CPU level, threads, machine and extras in one place, and whether the kernels compute rightly."""

import argparse
import os
import platform
import sys
import zlib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import quantcore
from quantcore._base import machine
from quantcore._base.extras import EXTRAS, install_hint
from quantcore._base.text import bytes_text, table
from quantcore._kernels import SUPPORTED_LEVELS
from quantcore.cli.arguments import PROGRAM, add_parser
from quantcore.cli.terminal import print_json, show

_SETTINGS = ("QUANTCORE_ISA", "QUANTCORE_NUM_THREADS")

CHECKS = {
    "Q4_0": 0x70E353C9,
    "Q8_0": 0xD310D022,
    "Q4_K": 0x738CF72D,
    "IQ4_XS": 0x31353142,
    "nf4": 0x0DD4F3E7,
}
"""CRC-32 of the codes of `sample()` in some formats: those of ggml and bitsandbytes."""


def add_doctor(commands: Any) -> None:
    """Add the parser of `doctor`."""
    parser = add_parser(
        commands,
        "doctor",
        "show versions, CPU level, threads, machine and extras, and check the kernels",
        f"{PROGRAM} doctor",
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(command=_doctor)


def sample() -> np.ndarray[Any, np.dtype[np.float32]]:
    """64 rows of 256 values from -1 to 1 that follow from integers, so that they are the same everywhere."""
    codes = np.arange(1 << 14, dtype=np.uint64) * 2654435761 % (1 << 24)
    return (codes.astype(np.float32) / np.float32(1 << 23) - np.float32(1)).reshape(64, 256)


def wrong_formats() -> list[str]:
    """The formats of `CHECKS` in which the kernels do not give the bytes that they should."""
    values = sample()
    found = {
        name: quantcore.quantize_4bit(values, quant_type=name).data
        if name == "nf4"
        else quantcore.quantize(values, name)
        for name in CHECKS
    }
    return [name for name, codes in found.items() if zlib.crc32(codes.tobytes()) != CHECKS[name]]


def diagnose() -> dict[str, Any]:
    """The facts, for JSON."""
    wrong = wrong_formats()
    return {
        "quantcore": quantcore.__version__,
        "path": str(Path(quantcore.__file__).parent),
        "level": quantcore.isa(),
        "supported_levels": list(SUPPORTED_LEVELS),
        "self_test": {name: name not in wrong for name in CHECKS},
        "threads": quantcore.get_num_threads(),
        "settings": {name: os.environ[name] for name in _SETTINGS if name in os.environ},
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "executable": sys.executable,
        "numpy": np.__version__,
        "machine": machine.describe(),
        "extras": {package: {"extra": extra, "version": _version(package)} for package, extra in EXTRAS.items()},
    }


def _version(package: str) -> str | None:
    """The version of an installed package, which is not imported; None if it is missing."""
    try:
        if find_spec(package) is None:
            return None
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
    except ValueError:  # a stub in sys.modules
        return None


def _doctor(options: argparse.Namespace) -> int:
    facts = diagnose()
    wrong = [name for name, is_right in facts["self_test"].items() if not is_right]
    if options.json:
        print_json(facts)
    else:
        show(_describe(facts, wrong))
    return 1 if wrong else 0


def _describe(facts: dict[str, Any], wrong: list[str]) -> str:
    about = facts["machine"]
    memory = f", {bytes_text(about['memory_bytes'])} of memory" if about["memory_bytes"] else ""
    settings = ", ".join(f"{name}={value}" for name, value in facts["settings"].items())
    test = f"WRONG bytes in {', '.join(wrong)}" if wrong else f"right bytes in {', '.join(CHECKS)}"
    rows = [
        ("quantcore", f"{facts['quantcore']} in {facts['path']}"),
        ("kernels", f"{facts['level']}; supported here: {', '.join(facts['supported_levels'])}"),
        ("self-test", test),
        ("threads", str(facts["threads"])),
        ("settings", settings or f"none of {', '.join(_SETTINGS)}"),
        ("python", f"{facts['python']}, {'with' if facts['gil'] else 'without'} the GIL, {facts['executable']}"),
        ("numpy", facts["numpy"]),
        ("machine", f"{about['cpu']}, {about['cpus_available']} of {about['cpus']} CPUs{memory}"),
        ("system", about["system"]),
    ]
    extras = [
        (package, row["version"] or f"missing: {install_hint(row['extra'])}")
        for package, row in facts["extras"].items()
    ]
    return f"{table(('quantcore doctor', ''), rows)}\n\n{table(('optional package', ''), extras)}"
