"""Write the golden digests of split models: what llama.cpp b11739's `keep_split` makes of parts.

``python -m tests.support.make_golden_splits PYTHON`` with a python that has the wheel llama-cpp-py-sync==0.11739. A
file that exists is never overwritten.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from quantcore.conversion import split_model
from quantcore.conversion.file_types import FILE_TYPES
from tests.support import llama_quantize
from tests.support.quantize_cases import SOURCES, digest

PATH = Path(__file__).parents[1] / "golden" / "llama_quantize" / "splits.json"
MAX_TENSORS = 13

# The source, the type, and the options of either side.
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "mix": ("llama", "Q4_K_M", {}, {}),
    "mix of experts": ("moe", "Q3_K_M", {}, {}),
    "pure": ("gqa", "Q8_0", {"pure": True}, {"pure": True}),
    "prune layers": ("llama", "IQ4_XS", {"prune_layers": [3, 7]}, {"prune_layers": [3, 7]}),
    "override metadata": (
        "falcon", "Q5_K_M", {"kv_overrides": {"general.name": "other"}},
        {"kv_overrides": [["general.name", "str", "other"]]},
    ),
    "copy": ("bert", "COPY", {}, {"only_copy": True}),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", help="a python that has llama-cpp-py-sync==0.11739")
    python = parser.parse_args().python
    if PATH.exists():
        parser.exit(1, f"{PATH} exists: golden digests are never regenerated\n")
    with tempfile.TemporaryDirectory() as name:
        folder, jobs = Path(name), []
        for i, (source, file_type, _, theirs) in enumerate(CASES.values()):
            (folder / source).write_bytes(SOURCES[source].build())
            parts = split_model(folder / source, folder / source, max_tensors=MAX_TENSORS, force=True).parts
            ftype = FILE_TYPES[file_type].id if file_type in FILE_TYPES else 0
            jobs.append({"source": parts[0].path, "target": str(folder / f"out{i}-"), "ftype": ftype} | theirs)
            jobs[-1]["keep_split"] = True
        assert not any(llama_quantize.run(python, jobs))
        files = {
            case: [digest(path.read_bytes()) for path in sorted(folder.glob(f"out{i}--*.gguf"))]
            for i, case in enumerate(CASES)
        }
    golden = {"made by": "llama-cpp-py-sync 0.11739 (llama.cpp b11739)", "files": files}
    PATH.write_text(json.dumps(golden, indent=0) + "\n")
    print(f"{PATH}: {sum(map(len, files.values()))} parts")


if __name__ == "__main__":
    main()
