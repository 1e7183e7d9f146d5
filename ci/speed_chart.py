"""The bars of docs/speed.svg: how many times as fast as other libraries, from the tables of docs/benchmarks.md.

Usage: python -m ci.speed_chart [--check]   (--check: exit 1 if the picture is another one)
"""

import argparse
import re
import sys
from math import log10
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "speed.svg"
THREADS, LEVEL, DTYPE = "2", "x86_64_v4", "float32"
ROWS = {
    "Q4_0 quantize": ("ggml", "gguf-py"),
    "Q4_0 dequantize": ("ggml", "gguf-py"),
    "Q8_0 quantize": ("ggml",),
    "nf4 quantize": ("bitsandbytes",),
    "nf4 dequantize": ("bitsandbytes",),
    "int8 per tensor quantize": ("torch", "onnxruntime"),
    "int8 per channel, axis 0 quantize": ("torch",),
    "fake quantize per tensor": ("torch",),
    "min-max observe": ("torch MinMaxObserver",),
    "histogram observe": ("torch HistogramObserver",),
}
"""Works of the table, and the peers to show."""

LEFT, BAR, STEP, WIDTH, TOP = 290, 15, 21, 420, 58
GREATEST = 100.0


def measured(text: str) -> dict[str, dict[str, float]]:
    """The ratios of each work at the level, dtype and number of threads that are shown."""
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and (cells[1], cells[2], cells[3]) == (DTYPE, THREADS, LEVEL):
            peers = re.findall(r"([^;]+?) ([\d.]+)x", cells[6])
            found.setdefault(cells[0], {name.strip(): float(ratio) for name, ratio in peers})
    return found


def machine(text: str) -> str:
    """The machine of the table that is shown, as the document names it below the heading."""
    found = re.search(r"^## Works\n.*?^(\S[^,\n]*, \d+ CPUs),", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def place(ratio: float) -> float:
    """Where a ratio is on the logarithmic axis from 1 to 100."""
    return LEFT + WIDTH * log10(max(1.0, min(ratio, GREATEST))) / log10(GREATEST)


def picture(text: str) -> str:
    """The bars as SVG, readable on a light and on a dark page, of the document's tables."""
    ratios = measured(text)
    bars = [(f"{work}: {peer}", ratios[work][peer]) for work, peers in ROWS.items() for peer in peers]
    height = TOP + STEP * len(bars) + 32
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 70} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        "<title>How many times as fast as other libraries on the CPU</title>",
        f'<rect width="100%" height="{height}" rx="8" fill="#ffffff"/>',
        '<text x="16" y="24" font-size="15" font-weight="600" fill="#1f2328">Times as fast as</text>',
        '<text x="160" y="24" fill="#59636e">two threads, float32, 16.8 million weights, the same process in turns; '
        "docs/benchmarks.md</text>",
    ]
    for tick in (1, 3, 10, 30, 100):
        x = place(tick)
        lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="46" y2="{height - 28}" stroke="#d1d9e0"/>')
        lines.append(f'<text x="{x:.1f}" y="42" text-anchor="middle" fill="#59636e">{tick}&#215;</text>')
    for i, (label, ratio) in enumerate(bars):
        y = TOP + STEP * i
        end = place(ratio)
        lines.append(f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end" fill="#1f2328">{escape(label)}</text>')
        lines.append(f'<rect x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="{BAR}" rx="2" fill="#0969da"/>')
        lines.append(f'<text x="{end + 6:.1f}" y="{y + 12}" fill="#1f2328">{ratio:g}&#215;</text>')
    lines.append(f'<text x="16" y="{height - 10}" fill="#59636e">{escape(machine(text))}, {LEVEL}</text>')
    return "\n".join([*lines, "</svg>", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the picture is stale")
    options = parser.parse_args()
    drawn = picture(TABLES.read_text())
    if PICTURE.exists() and PICTURE.read_text() == drawn:
        return 0
    if options.check:
        print(f"{PICTURE}: stale, run python -m ci.speed_chart", file=sys.stderr)
        return 1
    PICTURE.write_text(drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
