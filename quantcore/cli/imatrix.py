"""`imatrix`: importance matrices of llama-imatrix, shown and merged."""

import argparse
from typing import Any

from quantcore._base.text import table
from quantcore.cli.arguments import PROGRAM, add_parser, output_file
from quantcore.cli.terminal import print_json, say, show
from quantcore.files.disk import check_output
from quantcore.gguf.imatrix import Imatrix, ImatrixEntry

_MAKE = (
    'python -c "import numpy as np, quantcore.gguf as g; '
    "g.Imatrix.from_activations({'blk.0.attn_q.weight': np.random.randn(64, 32)}).save('imatrix.gguf')\""
)


def add_imatrix(commands: Any) -> None:
    """Add the parser of `imatrix` and those of its two commands."""
    parser = add_parser(
        commands, "imatrix", "show and merge importance matrices", _MAKE, f"{PROGRAM} imatrix show imatrix.gguf"
    )
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    shown = add_parser(
        inner, "show", "show what is in an importance matrix", _MAKE, f"{PROGRAM} imatrix show imatrix.gguf"
    )
    shown.add_argument("input", metavar="FILE", help="GGUF, or llama-imatrix's older .dat")
    shown.add_argument("--json", action="store_true", help="print as JSON")
    shown.set_defaults(command=_show)
    merged = add_parser(
        inner,
        "merge",
        "add up importance matrices",
        _MAKE,
        f"{PROGRAM} imatrix merge imatrix.gguf imatrix.gguf -o merged.gguf",
    )
    merged.add_argument("inputs", metavar="FILE", nargs="+", help="GGUF, or llama-imatrix's older .dat")
    merged.add_argument("-o", "--output", metavar="OUT", type=output_file, required=True, help="file to write")
    merged.add_argument("--legacy", action="store_true", help="write the older layout (.dat)")
    merged.add_argument("--force", action="store_true", help="replace an existing output")
    merged.add_argument("--json", action="store_true", help="print the report as JSON")
    merged.set_defaults(command=_merge)


def _show(options: argparse.Namespace) -> int:
    matrix = Imatrix.load(options.input)
    for notice in matrix.notices:
        say(f"note: {notice}")
    rows = [_describe(name, entry) for name, entry in matrix.entries.items()]
    if options.json:
        print_json({**_summary(matrix), "tensors": rows})
        return 0
    head = ("tensor", "matrices", "columns", "count", "least", "mean", "greatest")
    cells = [
        (r["name"], str(r["matrices"]), str(r["columns"]), str(r["count"]), *(f"{r[k]:.4g}" for k in head[4:]))
        for r in rows
    ]
    show(table(head, cells, right=(1, 2, 3, 4, 5, 6)))
    sources = f" of {', '.join(matrix.datasets)}" if matrix.datasets else ""
    show(f"{len(matrix)} tensors, {matrix.chunk_count} chunks of {matrix.chunk_size} tokens{sources}")
    return 0


def _merge(options: argparse.Namespace) -> int:
    check_output(options.output, force=options.force, inputs=tuple(options.inputs))
    matrices = [Imatrix.load(path) for path in options.inputs]
    merged = matrices[0].merge(*matrices[1:])
    merged.save(options.output, legacy=options.legacy, force=options.force)
    if options.json:
        print_json({"output": options.output, **_summary(merged)})
    else:
        show(f"{options.output}: {len(merged)} tensors, {merged.chunk_count} chunks, from {len(matrices)} files")
    return 0


def _summary(matrix: Imatrix) -> dict[str, Any]:
    return {
        "n_tensors": len(matrix),
        "datasets": list(matrix.datasets),
        "chunk_count": matrix.chunk_count,
        "chunk_size": matrix.chunk_size,
    }


def _describe(name: str, entry: ImatrixEntry) -> dict[str, Any]:
    weights = entry.weights()
    return {
        "name": name,
        "matrices": int(weights.shape[0]),
        "columns": int(weights.shape[1]),
        "count": int(entry.counts.sum()),
        "least": float(weights.min()),
        "mean": float(weights.mean(dtype="f8")),
        "greatest": float(weights.max()),
    }
