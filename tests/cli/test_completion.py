"""`quantcore completion`: the scripts, run by the shells themselves where they are installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from quantcore.cli.program import _make_parser
from quantcore.cli.quantize_arguments import file_type_or_code

BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_quantcore
printf '%s\\n' "${COMPREPLY[@]}"
"""
# What zsh's own functions would be asked, one argument a line.
ZSH = """
_arguments() { print -rl -- arguments "$@" }
_describe() { print -rl -- describe ${(P)2} }
compdef() { }
source "$1"; shift
words=("$@"); CURRENT=$#
_quantcore
"""
FISH = "source $argv[1]; complete -C (string join ' ' -- $argv[2..])"


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"needs {shell}")


@pytest.fixture
def script(call, tmp_path, monkeypatch):
    def write(shell: str) -> Path:
        status, text, err = call("completion", shell)
        assert (status, err) == (0, "")
        (tmp_path / "script").write_text(text)
        return tmp_path / "script"

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a model.gguf").touch()
    monkeypatch.chdir(folder)
    return write


def run(*command: object) -> list[str]:
    child = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert (child.returncode, child.stderr) in ((0, ""), (1, "")), child.stderr
    return child.stdout.splitlines()


def commands() -> list[str]:
    return _make_parser()[1]


@needs("bash")
def test_bash(script):
    def complete(*words: str) -> list[str]:
        return run("bash", "-c", BASH, "bash", path, "quantcore", *words)

    path = script("bash")
    assert complete("") == commands()
    assert complete("com") == ["compare", "completion"] and complete("--v") == ["--version"]
    assert complete("quantize", "--tok") == ["--token-embedding-type"]
    assert complete("quantize", "a.gguf", "b.gguf", "Q4_K") == ["Q4_K_S", "Q4_K_M"]
    assert complete("quantize", "a") == ["a model.gguf"]
    assert "Q6_K" in complete("quantize", "--output-tensor-type", "Q6")
    assert complete("quantize", "--imatrix", "a") == ["a model.gguf"]
    assert complete("imatrix", "m") == ["merge"] and complete("imatrix", "merge", "--l") == ["--legacy"]
    assert complete("calibrate", "--method", "m") == ["min_max", "moving_average", "mse"]
    assert complete("completion", "f") == ["fish"] and complete("completion", "a") == [""]
    assert complete("imatrix", "a") == complete("bench", "a") == [""]
    assert complete("quantize", "--effort", "=", "b") == ["best"]
    assert complete("quantize", "--effort", "=") == ["reference", "best"]
    assert complete("quantize", "--imatrix", "=", "a") == ["a model.gguf"]


@pytest.mark.may_skip
@needs("zsh")
def test_zsh(script):
    def complete(*words: str) -> list[str]:
        return run("zsh", "-f", "-c", ZSH, "zsh", path, "quantcore", *words)

    path = script("zsh")
    top = complete("")
    assert top[0] == "describe" and [line.split(":")[0] for line in top[1 : top.index("arguments")]] == commands()
    asked = complete("quantize", "")
    assert asked[0] == "arguments" and any(line.startswith("*--pure[") and line.endswith("]") for line in asked)
    assert any(line.startswith("*--imatrix=[") and line.endswith("]:FILE:_files") for line in asked)
    assert any(line.startswith("*--output-tensor-type=[") and " Q6_K " in line for line in asked)
    assert " Q4_K_M " in asked[-1] and "_files" in asked[-1]
    assert any(line.startswith("*--effort=[") and line.endswith(":(reference best)") for line in asked)
    assert complete("imatrix", "")[-1] == "*:argument:(show merge)"
    assert not any("_files" in line for line in complete("completion", ""))
    assert any(line.startswith("*--legacy[") for line in complete("imatrix", "merge", ""))


@pytest.mark.may_skip
@needs("fish")
def test_fish(script):
    def complete(*words: str) -> list[str]:
        return [line.split("\t")[0] for line in run("fish", "--no-config", "-c", FISH, path, "quantcore", *words)]

    path = script("fish")
    assert set(complete("''")) >= set(commands())
    assert complete("compl") == ["completion"]
    assert complete("quantize", "--tok") == ["--token-embedding-type"]
    assert set(complete("quantize", "--output-tensor-type", "Q6")) == {"Q6_K"}
    assert "Q4_K_M" in complete("quantize", "x.gguf", "y.gguf", "Q4_K")
    assert complete("imatrix", "mer") == ["merge"] and complete("imatrix", "merge", "--leg") == ["--legacy"]
    assert complete("calibrate", "--method", "mo") == ["moving_average"]
    assert set(complete("completion", "''")) == {"bash", "zsh", "fish"} and complete("bench", "a") == []
    assert complete("quantize", "--effort=b") == ["--effort=best"]
    assert complete("quantize", "--imatrix", "a") == ["a model.gguf"]


def test_every_word_is_accepted(call):
    text = call("completion", "bash").out
    [line] = [line for line in text.splitlines() if line.strip().startswith('"quantize") flags=')]
    for word in line.split('words="')[1].split('"')[0].split():
        assert file_type_or_code(word).upper() == word.upper()
    for name in commands():
        assert f'" {name}") command="{name}"' in text


def test_unknown_shell(call):
    status, text, err = call("completion", "tcsh")
    assert (status, text) == (2, "") and "bash" in err
