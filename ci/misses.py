"""Where peers are faster and what misses the goals, for docs/benchmarks.md, from the tables of that document.

Usage: python -m ci.misses [--check]   (--check: exit 1 if the document says something else)
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ci.document_part import DocumentPart

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
NEAR = 0.95
"""How many times as fast as its fastest peer a work shall be at least."""

SHARES = {"1": 0.6, "2": 0.8}
"""The share of the roofline that a work shall have with so many threads, at the levels above baseline."""

SHARE_AT_BASELINE = 0.35
LEAST_SHARE = 0.05
"""Works below it compute on a few kilobytes; no memory limits them."""

MOST_NAMED = 5

Row = tuple[str, list[str], list[str]]


def rows(text: str) -> Iterator[Row]:
    """The rows of the tables: the heading they stand under, the cells of their table's head, their own cells."""
    heading, head = "", [""]
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("|"):
            head = []
        elif not head:
            head = [cell.strip() for cell in line.strip("|").split("|")]
        elif not line.startswith("|--"):
            yield heading, head, [cell.strip() for cell in line[1:-1].split("|")]


def ratios(head: list[str], cells: list[str]) -> dict[str, float]:
    """How many times as fast as each peer the work of a row is, under the peer's name and the level."""
    if head[-1] == "ratio to peers":
        found = re.findall(r"([^;]+?) ([\d.]+)x", cells[-1])
        return {f"{name.strip()}, {cells[3]}, {cells[2]} threads, {cells[1]}": float(ratio) for name, ratio in found}
    if head[-1] == "peers, µs":
        found = re.findall(r"([^;]+?) ([\d.]+)(?:;|$)", cells[-1])
        return {f"{name.strip()}, {us} µs beside {cells[1]}": float(us) / float(cells[1]) for name, us in found}
    if head[2].startswith("times as fast as ggml: "):
        levels = head[2].partition(": ")[2].split(" / ")
        of_ggml = {f"ggml, {level}": float(r) for level, r in zip(levels, cells[2].split(" / "), strict=True)}
        others = zip(head[3:], cells[3:], strict=True)
        return of_ggml | {f"{name}, {levels[0]}": float(ratio) for name, ratio in others if ratio}
    return {}


def faster_peers(text: str) -> list[str]:
    """A table of the rows whose work is less than `NEAR` times as fast as a peer."""
    lines = ["| table | work | times as fast as the peer |", "|---|---|---|"]
    for heading, head, cells in rows(text):
        if behind := {peer: ratio for peer, ratio in ratios(head, cells).items() if ratio < NEAR}:
            told = "; ".join(f"{ratio:.2g} ({peer})" for peer, ratio in behind.items())
            lines.append(f"| {heading} | {cells[0]} | {told} |")
    return lines


def low_shares(text: str) -> list[str]:
    """For each table, level and number of threads, how many works in float32 reach their share; the lowest."""
    shares: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for heading, head, cells in rows(text):
        if head[-1] == "ratio to peers" and cells[1] == "float32" and float(cells[5]) >= LEAST_SHARE:
            shares[heading, cells[3], cells[2]][cells[0]] = float(cells[5])
    lines = []
    for (heading, level, threads), found in shares.items():
        goal = SHARE_AT_BASELINE if level == "baseline" else SHARES[threads]
        low = sorted((share, work) for work, share in found.items() if share < goal)
        named = ", ".join(f"{work} {share:.2f}" for share, work in low[:MOST_NAMED])
        where = f"{heading}, {level}, {threads} thread{'s' * (threads != '1')}"
        reached = f"{len(found) - len(low)} of {len(found)} works reach {goal}"
        lines.append(f"- {where}: {reached}{f'; the lowest are {named}' if low else ''}.")
    return lines


def part() -> str:
    text = DOCUMENT.read_text()
    return "\n".join(["", *faster_peers(text), "", "Shares of the roofline:", "", *low_shares(text), ""])


PART = DocumentPart(DOCUMENT, "ci.misses", part)

if __name__ == "__main__":
    sys.exit(PART.main(__doc__.split("\n")[0]))
