"""`quantcore bench`: the figures of `run_full_benchmark_suite`, as text, Markdown or JSON."""

import json

import pytest

from quantcore import run_full_benchmark_suite
from quantcore.cli import main


def output(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    capsys.readouterr()
    assert main(["bench", *flags]) == 0
    text, err = capsys.readouterr()
    assert err == ""
    return text


def test_forms(capsys):
    suite = run_full_benchmark_suite(1024, rng=0)
    assert output(capsys, "--size", "1024") == suite.to_text() + "\n"
    assert output(capsys, "--size", "1024", "--markdown") == suite.to_markdown() + "\n"
    assert json.loads(output(capsys, "--size=1024", "--json")) == json.loads(suite.to_json())


def test_seed_decides(capsys):
    first, again, other = (output(capsys, "--size=256", f"--seed={seed}") for seed in (5, 5, 6))
    assert first == again == run_full_benchmark_suite(256, rng=5).to_text() + "\n"
    assert other != first
    assert output(capsys, "--size=256", "--seed=5", "-j3") == first


@pytest.mark.parametrize(
    "flags", [["--size", "1000"], ["--size", "0"], ["--seed", "-1"], ["--seed", "9" * 5000], ["--json", "--markdown"]]
)
def test_usage(flags, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["bench", *flags])
    text, err = capsys.readouterr()
    assert leaving.value.code == 2 and text == "" and err.startswith("quantcore: error: ") and err.count("\n") == 1
