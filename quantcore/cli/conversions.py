"""What the commands that convert models share: the report, and the help of a flag."""

import argparse
from collections.abc import Iterable
from math import prod

from quantcore._base.text import bytes_text, printable, table
from quantcore.cli.terminal import print_json, say, show
from quantcore.conversion.outcome import ModelReport

LONG_NAMES = "allow tensors' names of up to 127 bytes in a GGUF file (ComfyUI has them; llama.cpp reads 63)"

_MOST_ALIKE = 3


def show_report(report: ModelReport, options: argparse.Namespace, *, is_detailed: bool) -> int:
    """Print the notices and the sizes, or all of it as JSON; returns the exit code."""
    for notice in _join_alike(report.notices):
        say(f"note: {notice}")
    if options.json:
        print_json(report.to_dict())
        return 0
    if is_detailed:
        rows = [
            (t.name, "x".join(map(str, t.shape)), t.source_type, t.target_type, bytes_text(t.target_bytes), t.rule)
            for t in report.tensors
        ]
        has_rules = any(t.rule for t in report.tensors)
        head = ("tensor", "shape", "from", "to", "size", "rule")
        show(table(head if has_rules else head[:-1], rows if has_rules else [row[:-1] for row in rows], right=(4,)))
    n_changed = sum(t.source_type != t.target_type for t in report.tensors)
    n_elements = sum(prod(t.shape) for t in report.tensors)
    written = f"{report.parts[0]} to {len(report.parts):05d}" if len(report.parts) > 1 else "".join(report.parts)
    show(
        f"{printable(written or options.output)}: {n_changed} of {len(report.tensors)} tensors converted, "
        f"{bytes_text(report.source_bytes)} -> {bytes_text(report.target_bytes)}, "
        f"{8 * report.target_bytes / max(1, n_elements):.2f} bits per weight"
    )
    return 0


def _join_alike(notices: Iterable[str]) -> list[str]:
    """The notices, where those that say the same of several tensors are one line, at the place of the first."""
    names_by_text: dict[str, list[str]] = {}
    for notice in notices:
        name, colon, text = notice.partition(": ")
        names_by_text.setdefault(text if colon else "", []).append(name)
    lines = []
    for text, names in names_by_text.items():
        if not text or len(names) <= _MOST_ALIKE:
            lines += [f"{name}: {text}" if text else name for name in names]
        else:
            lines.append(f"{names[0]}, {names[1]} and {len(names) - 2} more: {text}")
    return lines
