"""The table of all types in docs/formats.md, made from the rows of `quantcore/ggml/types.py`.

Usage: python -m ci.formats_table [--check]   (--check: exit 1 if the document's table is another one)
"""

import sys
from math import isfinite
from pathlib import Path

from ci.document_part import DocumentPart
from quantcore.ggml import GGML_TYPES, GGMLType, GGUFQuantType, ImatrixUse

HEAD = (
    "| type | id | block | bytes | bits per weight | family | importance matrix | values below |\n" + "|---" * 8 + "|"
)
IMATRIX = {
    ImatrixUse.IGNORED: "no effect",
    ImatrixUse.OPTIONAL: "weighs errors",
    ImatrixUse.REQUIRED_IN_MODELS: "weighs errors",
    ImatrixUse.REQUIRED: "needed",
}


def row(layout: GGMLType) -> str:
    """The row of a type; types that are only read, or only shown, have no use for the last two columns."""
    bits = 8 * layout.bytes_per_block / layout.block_size
    cells = [layout.name, layout.id, layout.block_size, layout.bytes_per_block, f"{bits:.5g}", layout.family.value]
    if layout.id in set(GGUFQuantType):
        limit = f"{layout.limit:,.0f}" if isfinite(layout.limit) and layout.limit < 1e30 else "all of float32"
        cells += [IMATRIX[layout.imatrix], limit]
    else:
        cells += ["not quantized to", ""]
    return f"| {' | '.join(map(str, cells))} |".replace("|  |", "| |")


def table() -> str:
    """All types, by family and bits per weight."""
    families = list(dict.fromkeys(layout.family for layout in GGML_TYPES.values()))
    order = sorted(GGML_TYPES.values(), key=lambda t: (families.index(t.family), t.bytes_per_block / t.block_size))
    return "\n".join([HEAD, *map(row, order)])


PART = DocumentPart(Path(__file__).parents[1] / "docs" / "formats.md", "ci.formats_table", table)

if __name__ == "__main__":
    sys.exit(PART.main(__doc__.split("\n")[0]))
