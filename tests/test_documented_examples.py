"""Every example of README.md and docs/ runs as it stands, each document in a process and a folder of its own."""

import os
import re
import subprocess
import sys

import pytest

from tests.support.documents import DOCUMENTS, ROOT, absent, blocks, left_out, relative, scene

# Of torch's exporter and the like, which warn of their own future.
WARNINGS = ["-W", "error", *(f"-Wignore::{name}" for name in ("FutureWarning", "DeprecationWarning"))]


@pytest.mark.slow
@pytest.mark.may_skip
@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if any(b[1] in ("python", "sh") for b in blocks(d))], ids=relative
)
def test_examples_run_as_pasted(document, tmp_path, dask_port_is_taken):
    if absent(scene(document).needs):
        pytest.skip(left_out(document)[0])
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.run(
        [sys.executable, *WARNINGS, "-m", "tests.support.documents", str(document)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]
    if missing := left_out(document):
        pytest.skip("; ".join(missing))


def test_every_document_has_languages_that_are_run():
    found = {language for document in DOCUMENTS for _, language, _ in blocks(document)}
    assert found == {"python", "py", "sh", "text"}


def test_a_sketch_names_the_test_that_runs_it():
    sketches = [
        (document, line) for document in DOCUMENTS for line, language, _ in blocks(document) if language == "py"
    ]
    for document, line in sketches:
        before = document.read_text().splitlines()[: line - 2]
        named = re.findall(r"`(tests/[\w/]+\.py)`", "\n".join(before[-4:]))
        assert named and all((ROOT / name).exists() for name in named), f"{relative(document)}:{line}"
