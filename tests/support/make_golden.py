"""Write the golden vectors of one new format: inputs, and what the genuine library makes of them.

Run once for each format, by hand, where its library is installed: ``python -m tests.support.make_golden q4_1``. The
GGUF formats need the wheel pywhispercpp, nf4 and fp4 need torch and bitsandbytes. A file that exists is never
overwritten, and the files of other formats are not touched.
"""

import argparse
import json

from tests.support import golden, golden_bitsandbytes, golden_ggml

SOURCES = {
    **{fmt.name.lower(): golden_ggml for fmt in golden_ggml.GOLDEN_FORMATS},
    **dict.fromkeys(golden_bitsandbytes.QUANT_TYPES, golden_bitsandbytes),
}
"""Which module makes the vectors of which format."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format", type=str.lower, choices=SOURCES, help="a format that has no golden vectors yet")
    name = parser.parse_args(arguments).format
    path = golden.path_of(name)
    if path.exists():
        parser.exit(1, f"{path} exists: golden vectors are never regenerated\n")
    source = SOURCES[name]
    lines = [json.dumps(vector) for vector in source.make_vectors(name)]
    head = {"made by": source.describe_maker(), "fields": source.FIELDS}
    with path.open("x") as file:
        file.write(f'{json.dumps(head)[:-1]}, "vectors": [\n' + ",\n".join(lines) + "\n]}\n")
    print(f"{path}: {len(lines)} vectors")


if __name__ == "__main__":
    main()
