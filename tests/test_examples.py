"""The examples run, print a table and find what they claim; here with as little training as shows it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import quantcore

EXAMPLES = Path(__file__).parent.parent / "examples"
CLAIMS = {
    "qat_digits.py": (["--epochs", "3", "--bits", "3"], ["torch", "sklearn"], "3 bit"),
    "qlora_transformer.py": (["--steps", "100"], ["torch"], "NF4 base + LoRA"),
}


def run(name, options):
    paths = [str(Path(quantcore.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(EXAMPLES / name), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.parametrize("name", CLAIMS)
def test_example(name):
    options, needed, row = CLAIMS[name]
    for package in needed:
        pytest.importorskip(package)
    child = run(name, options)
    assert child.returncode == 0, child.stdout + child.stderr
    assert row in child.stdout
    assert child.stderr == ""


def test_an_example_that_does_not_find_its_claim_fails():
    pytest.importorskip("torch")
    child = run("qlora_transformer.py", ["--steps", "2"])
    assert child.returncode == 1
    assert "the adapters did not learn the task" in child.stdout


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(CLAIMS)
