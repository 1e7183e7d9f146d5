"""The machine that a figure was measured on: processor, CPUs, memory, system."""

import os
import platform
from pathlib import Path

from quantcore._base.parallel import num_cpus

_CPUINFO = Path("/proc/cpuinfo")


def describe() -> dict[str, str | int | None]:
    """The facts that a table of speeds is recorded with. `memory_bytes` is None where the system does not tell."""
    return {
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "cpus_available": num_cpus(),
        "memory_bytes": memory_bytes(),
        "system": platform.platform(),
    }


def cpu_name() -> str:
    """The processor's name as the system has it; its architecture if it has none."""
    try:
        lines = _CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == "model name")
    return next(names, "") or platform.processor() or platform.machine()


def memory_bytes() -> int | None:
    """The bytes of memory of the machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, and others not every name
        return None
