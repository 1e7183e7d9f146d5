"""The diagrams of docs/layouts.md: what stands at which byte of a block, for each type of ggml that has blocks; and the
values of 4-bit codes.

Usage: python -m ci.layouts [--check]   (--check: exit 1 if the document's diagrams are others)
"""

import sys
from pathlib import Path
from typing import NamedTuple

from ci.document_part import DocumentPart
from quantcore.blockwise.codebooks import CODEBOOKS
from quantcore.ggml import GGUFQuantType


class Field(NamedTuple):
    """A field as ggml names it, its bytes and what they hold."""

    name: str
    n_bytes: int
    holds: str


D = Field("d", 2, "fp16 scale")
M = Field("m", 2, "fp16 minimum")
DMIN = Field("dmin", 2, "fp16 scale of the minima")
NIBBLES = Field("qs", 16, "byte j: code of element j low nibble, of j + 16 high nibble")
FIFTHS = Field("qh", 4, "bit j: the fifth bit of element j")
SIXES = Field("scales", 12, "eight 6-bit scales and eight 6-bit minima")
SUB_NIBBLES = Field("qs", 128, "byte 32k + i: element 64k + i low nibble, 64k + 32 + i high nibble")
SIGNS = "7 bits for each 8 elements: their signs; the number of negative ones is even"

LAYOUTS: dict[str, tuple[str, tuple[Field, ...]]] = {
    "Q4_0": ("(q - 8) * d", (D, NIBBLES)),
    "Q4_1": ("q * d + m", (D, M, NIBBLES)),
    "Q5_0": ("(q - 16) * d", (D, FIFTHS, NIBBLES)),
    "Q5_1": ("q * d + m", (D, M, FIFTHS, NIBBLES)),
    "Q8_0": ("q * d", (D, Field("qs", 32, "int8 codes in order"))),
    "Q2_K": (
        "d * scale * q - dmin * minimum, sub-blocks of 16",
        (
            Field("scales", 16, "one byte for each 16 elements: scale low nibble, minimum high nibble"),
            Field("qs", 64, "byte 32h + i: elements 128h + i, + 32, + 64, + 96, two bits each, the first lowest"),
            D,
            DMIN,
        ),
    ),
    "Q3_K": (
        "(q - 4) * d * (scale - 32), sub-blocks of 16",
        (
            Field("hmask", 32, "bit k of byte i: the third bit of element 32k + i"),
            Field("qs", 64, "byte 32h + i: elements 128h + i, + 32, + 64, + 96, two bits each, the first lowest"),
            Field("scales", 12, "sixteen 6-bit scales"),
            D,
        ),
    ),
    "Q4_K": ("d * scale * q - dmin * minimum, sub-blocks of 32", (D, DMIN, SIXES, SUB_NIBBLES)),
    "Q5_K": (
        "d * scale * q - dmin * minimum, sub-blocks of 32",
        (
            D,
            DMIN,
            SIXES,
            Field("qh", 32, "bits 2k and 2k + 1 of byte i: elements 64k + i and 64k + 32 + i"),
            SUB_NIBBLES,
        ),
    ),
    "Q6_K": (
        "(q - 32) * d * scale, sub-blocks of 16",
        (
            Field("ql", 128, "lower four bits; runs of 32 elements 0 and 2, then 1 and 3, of each half share bytes"),
            Field("qh", 64, "upper two bits; byte 32h + i: elements 128h + i, + 32, + 64, + 96, the first lowest"),
            Field("scales", 16, "int8, one for each 16 elements"),
            D,
        ),
    ),
    "IQ1_S": (
        "(value + shift) * d * (2 * scale + 1), points of 8 values -1, 0, 1",
        (
            D,
            Field("qs", 32, "for each 8 elements the lower 8 bits of a point's index"),
            Field("qh", 16, "for each 32 elements uint16: 4 x 3 upper bits of indices, 3 of scale, the shift's sign"),
        ),
    ),
    "IQ1_M": (
        "(value + shift) * d * (2 * scale + 1), points of 8 values -1, 0, 1",
        (
            Field("qs", 32, "for each 8 elements the lower 8 bits of a point's index"),
            Field("qh", 16, "for each 8 elements a nibble: 3 upper bits of the index, the shift's sign"),
            Field("scales", 8, "for each 64 elements uint16: 4 x 3 bits of scale, 4 bits of d (fp16 over all four)"),
        ),
    ),
    "IQ2_XXS": (
        "sign * value * d * (0.5 + scale) / 4, points of 8 values 8, 25, 43",
        (D, Field("qs", 64, f"for each 32 elements 4 indices of 8 bits, then 32 bits: {SIGNS}; the scale's 4 bits")),
    ),
    "IQ2_XS": (
        "sign * value * d * (0.5 + scale) / 4, points of 8 values 8, 25, 43",
        (
            D,
            Field("qs", 64, "for each 8 elements uint16: 9 bits of index, 7 of signs"),
            Field("scales", 8, "a nibble for each 16 elements"),
        ),
    ),
    "IQ2_S": (
        "sign * value * d * (0.5 + scale) / 4, points of 8 values 8, 25, 43",
        (
            D,
            Field("qs", 32, "for each 8 elements the lower 8 bits of a point's index"),
            Field("signs", 32, "a bit for each element"),
            Field("qh", 8, "for each 32 elements the upper two bits of four indices"),
            Field("scales", 8, "a nibble for each 16 elements"),
        ),
    ),
    "IQ3_XXS": (
        "sign * value * d * (0.5 + scale) / 2, points of 4 values 4, 12, ..., 62",
        (
            D,
            Field("qs", 64, "for each 4 elements a point's index"),
            Field("gas", 32, f"for each 32 elements 32 bits: {SIGNS}; the scale's 4 bits"),
        ),
    ),
    "IQ3_S": (
        "sign * value * d * (1 + 2 * scale), points of 4 values 1, 3, ..., 15",
        (
            D,
            Field("qs", 64, "for each 4 elements the lower 8 bits of a point's index"),
            Field("qh", 8, "a bit for each 4 elements: the ninth of the index"),
            Field("signs", 32, "a bit for each element"),
            Field("scales", 4, "a nibble for each 32 elements"),
        ),
    ),
    "IQ4_NL": ("level(q) * d", (D, NIBBLES)),
    "IQ4_XS": (
        "level(q) * d * (scale - 32), sub-blocks of 32",
        (
            D,
            Field("scales_h", 2, "the upper two bits of eight scales, the first lowest"),
            Field("scales_l", 4, "their lower four bits, the first of two low"),
            Field("qs", 128, "16 bytes a sub-block, byte j: element j low nibble, j + 16 high nibble"),
        ),
    ),
    "TQ1_0": (
        "(q - 1) * d",
        (
            Field("qs", 48, "five codes a byte, to base 3: 32 bytes for 160 elements, 16 bytes for 80"),
            Field("qh", 4, "four codes a byte, for the last 16 elements"),
            D,
        ),
    ),
    "TQ2_0": (
        "(q - 1) * d",
        (Field("qs", 64, "byte 32h + i: elements 128h + i, + 32, + 64, + 96, the first lowest"), D),
    ),
    "MXFP4": ("e2m1(q) * 2**(e - 127)", (Field("e", 1, "the exponent of the scale, E8M0"), NIBBLES)),
    "NVFP4": (
        "e2m1(q) * scale, sub-blocks of 16",
        (
            Field("d", 4, "four scales, E4M3 without a sign"),
            Field("qs", 32, "8 bytes a sub-block, byte j: element j low nibble, j + 8 high nibble"),
        ),
    ),
    "Q1_0": ("d for a 1, -d for a 0", (D, Field("qs", 16, "bits in order, the first lowest"))),
    "Q2_0": ("(q - 1) * d", (D, Field("qs", 16, "byte j: elements 4j to 4j + 3, the first lowest"))),
}


def diagram(name: str) -> str:
    """The block as boxes, offsets above them, and what each field holds."""
    formula, fields = LAYOUTS[name]
    qtype = GGUFQuantType[name]
    widths = [max(len(f.name), len(str(f.n_bytes)) + 2, min(34, f.n_bytes // 4)) + 2 for f in fields]
    offsets, at = [], 0
    for field in fields:
        offsets.append(at)
        at += field.n_bytes
    top = "".join(f"{o:<{w + 1}}" for o, w in zip(offsets, widths, strict=True)) + str(at)
    rows = [
        top,
        "┌" + "┬".join("─" * w for w in widths) + "┐",
        "│" + "│".join(f" {f.name}".ljust(w) for f, w in zip(fields, widths, strict=True)) + "│",
        "└" + "┴".join("─" * w for w in widths) + "┘",
    ]
    listed = [f"- `{f.name}`, {f.n_bytes} byte{'s' if f.n_bytes > 1 else ''}: {f.holds}" for f in fields]
    head = f"### {name}\n\n{qtype.block_size} weights in {at} bytes; `x = {formula}`."
    return "\n".join([head, "", "```text", *rows, "```", "", *listed, ""])


def codes() -> str:
    """The values of the 16 codes of each table, in units of the block's scale."""
    names = ("nf4", "fp4", "int4")
    rows = [[f"{CODEBOOKS[name].table[code]:.7g}" for name in names] for code in range(16)]
    head = "## 4-bit codes of bitsandbytes\n\n| code | NF4 | FP4 | int4 |\n|---|---|---|---|"
    return "\n".join([head, *(f"| {code} | {' | '.join(row)} |" for code, row in enumerate(rows)), ""])


def diagrams() -> str:
    """All of them, in the order of the table, and the codes that follow them in the document."""
    return "\n" + "\n".join([*map(diagram, LAYOUTS), codes()])


PART = DocumentPart(Path(__file__).parents[1] / "docs" / "layouts.md", "ci.layouts", diagrams)

if __name__ == "__main__":
    sys.exit(PART.main(__doc__.split("\n")[0]))
