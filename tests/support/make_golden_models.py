"""Write what llama.cpp b11739 makes of whole models: digests of the files that it makes of the sources of
`quantize_cases` and `random_models`, and the types that it chooses for the models of `type_cases`.

``python -m tests.support.make_golden_models files PYTHON`` with a python that has llama-cpp-py-sync==0.11739, which
needs glibc 2.38. A file that exists is never overwritten.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from quantcore.conversion.file_types import FILE_TYPES
from quantcore.ggml.types import GGML_TYPES
from tests.support import llama_quantize, random_models
from tests.support.quantize_cases import CHUNKS, DATASET, MATRIX_FILE, OPTIONS, SOURCES, TYPES, Source, digest
from tests.support.type_cases import CASES, summarize

FOLDER = Path(__file__).parents[1] / "golden" / "llama_quantize"
MAKER = "llama-cpp-py-sync 0.11739 (llama.cpp b11739)"
REFUSED = "refused"
TYPES_WITHOUT_FAILURE = tuple(name for name in TYPES if name != "Q1_0")
"""Every name but the one for which llama.cpp has no fallback and ends the process."""


def case_name(source: str, name: str, *, is_weighted: bool) -> str:
    """How a file is called: the source, the name of its type or of the options, with or without importance."""
    return f"{source}/{name}{'/weighted' if is_weighted else ''}"


def read_golden(name: str) -> dict[str, Any]:
    """The contents of a golden file: `files`, `random` or `types`."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def _jobs(folder: Path) -> dict[str, dict[str, Any]]:
    jobs = {}
    for source in SOURCES:
        for name in TYPES:
            for is_weighted in (False, True):
                case = case_name(source, name, is_weighted=is_weighted)
                jobs[case] = _job(folder, source, name, is_weighted, {})
    for name, options in OPTIONS.items():
        case = case_name(options.source, name, is_weighted=options.is_weighted)
        jobs[case] = _job(folder, options.source, options.type, options.is_weighted, options.theirs)
    return jobs


def _job(
    folder: Path, source: str, name: str, is_weighted: bool, theirs: dict[str, Any], model: Source | None = None
) -> dict[str, Any]:
    ftype = FILE_TYPES[name].id if name in FILE_TYPES else 0
    job: dict[str, Any] = {"source": str(folder / source), "ftype": ftype, **theirs}
    if is_weighted:
        weights = (model or SOURCES[source]).weights()
        job["imatrix"] = {key: values.ravel().tolist() for key, values in weights.items()}
        job["kv_overrides"] = [
            *theirs.get("kv_overrides", []),
            ["quantize.imatrix.file", "str", MATRIX_FILE],
            ["quantize.imatrix.dataset", "str", DATASET],
            ["quantize.imatrix.entries_count", "int", len(weights)],
            ["quantize.imatrix.chunks_count", "int", CHUNKS],
        ]
    return job


def _make_files(python: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = {key: source.build() for key, source in SOURCES.items()}
        for key, data in sources.items():
            (folder / key).write_bytes(data)
        jobs = _jobs(folder)
        for i, job in enumerate(jobs.values()):
            job["target"] = str(folder / f"{i}.gguf")
        statuses = llama_quantize.run(python, list(jobs.values()))
        files = {
            case: REFUSED if status else digest(Path(job["target"]).read_bytes())
            for (case, job), status in zip(jobs.items(), statuses, strict=True)
        }
    return {"made by": MAKER, "sources": {key: digest(data) for key, data in sources.items()}, "files": files}


def _make_random(python: str) -> dict[str, Any]:
    """The digests of the source and of the file by number."""
    found: dict[str, list[str]] = {}
    for start in range(0, random_models.COUNT, 20):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            jobs = []
            for number in range(start, min(start + 20, random_models.COUNT)):
                source, options = random_models.make_case(number)
                (folder / options.source).write_bytes(source.build())
                job = _job(folder, options.source, options.type, options.is_weighted, options.theirs, source)
                jobs.append(job | {"target": str(folder / f"{number}.gguf")})
            for job, status in zip(jobs, _run_all(python, jobs), strict=True):
                before, after = Path(job["source"]), Path(job["target"])
                found[before.name] = [digest(before.read_bytes()), REFUSED if status else digest(after.read_bytes())]
    return {"made by": MAKER, "files": found}


def _run_all(python: str, jobs: list[dict[str, Any]]) -> list[int]:
    """The status of each job, also if one ends the process."""
    try:
        return llama_quantize.run(python, jobs)
    except subprocess.CalledProcessError:
        return [1] if len(jobs) == 1 else [_run_all(python, [job])[0] for job in jobs]


def _make_types(python: str) -> dict[str, Any]:
    models = [
        {
            "architecture": case.architecture, "n_embd": 256, "n_ff": 256, "n_layer": case.n_layers,
            "n_head": case.n_heads, "n_head_kv": case.n_kv_heads, "n_expert": case.n_experts, "n_embd_head_k": 64,
            "n_embd_head_v": 64,
            "tensors": [[name, shape[::-1]] for name, shape in case.tensors.items()],
        }
        for case in CASES.values()
    ]  # fmt: skip
    answers = llama_quantize.choose_types(python, models, [FILE_TYPES[name].id for name in TYPES_WITHOUT_FAILURE])
    found = {}
    for (name, case), answer in zip(CASES.items(), answers, strict=True):
        found[name] = {
            file_type: summarize(list(case.tensors), [GGML_TYPES[i].name for i in types])
            for file_type, types in zip(TYPES_WITHOUT_FAILURE, answer, strict=True)
        }
    return {"made by": MAKER, "types": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("files", "random", "types"))
    parser.add_argument("python", help="a python that has llama-cpp-py-sync==0.11739")
    options = parser.parse_args()
    path = FOLDER / f"{options.what}.json"
    if path.exists():
        parser.exit(1, f"{path} exists: golden files are never regenerated\n")
    make = {"files": _make_files, "random": _make_random, "types": _make_types}[options.what]
    golden = make(options.python)
    FOLDER.mkdir(exist_ok=True)
    path.write_text(json.dumps(golden, indent=0) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
