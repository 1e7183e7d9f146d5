"""`quantcore bench`: the figures of `run_full_benchmark_suite`, as text, Markdown or JSON."""

import json

import pytest

from quantcore import isa, run_full_benchmark_suite, run_speed_benchmark
from quantcore._base.machine import cpu_name
from quantcore.cli import main


def output(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    capsys.readouterr()
    assert main(["bench", "--no-speed", *flags]) == 0
    text, err = capsys.readouterr()
    assert err == ""
    return text


def test_forms(capsys):
    suite = run_full_benchmark_suite(1024, rng=0)
    assert output(capsys, "--size", "1024") == suite.to_text() + "\n"
    assert output(capsys, "--size", "1024", "--markdown") == suite.to_markdown() + "\n"
    found = json.loads(output(capsys, "--size=1024", "--json"))
    assert found["results"] == json.loads(suite.to_json())["results"] and found["speed"] == []


def test_speed_and_machine_follow(capsys, monkeypatch):
    results = run_speed_benchmark(1 << 16, formats=["Q8_0", "nf4"], n_threads=1)
    asked = []
    monkeypatch.setattr("quantcore.cli.bench.run_speed_benchmark", lambda **options: asked.append(options) or results)
    errors = output(capsys, "--size=256", "-j1")
    assert main(["bench", "--size=256", "-j1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(errors)
    about, *table = text[len(errors) :].strip().splitlines()
    assert isa() in about and cpu_name() in about
    assert [line.split()[:3] for line in table[2:]] == [["Q8_0", "65536", "1"], ["nf4", "65536", "1"]]
    assert main(["bench", "--size=256", "-j1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["quantize_rate"] for row in found["speed"]] == [r.quantize_rate for r in results]
    assert found["machine"]["level"] == isa() and found["machine"]["cpus_available"] >= 1
    assert main(["bench", "--size=256", "-j1", "--markdown"]) == 0
    assert "| Q8_0 | 65536 | 1 |" in capsys.readouterr().out
    assert asked == [{"rng": 0, "n_threads": 1}] * 3


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
