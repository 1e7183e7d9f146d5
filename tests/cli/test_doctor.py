"""`quantcore doctor`: its facts, and a check of the kernels that can fail."""

import json
import os
import sys
import zlib
from importlib import metadata

import numpy as np
import pytest

import quantcore
from quantcore._base.extras import EXTRAS, install_hint
from quantcore._kernels import SUPPORTED_LEVELS
from quantcore.cli import doctor
from tests.support import ggml
from tests.support.levels import at_level, every_other_level


def found_wrong() -> list[str]:
    return doctor.wrong_formats()


def test_facts(call):
    status, text, err = call("doctor", "--json")
    assert (status, err) == (0, "")
    facts = json.loads(text)
    assert (facts["quantcore"], facts["numpy"]) == (quantcore.__version__, np.__version__)
    assert (facts["level"], facts["supported_levels"]) == (quantcore.isa(), list(SUPPORTED_LEVELS))
    assert facts["threads"] == quantcore.get_num_threads() and facts["machine"]["cpus"] == os.cpu_count()
    assert facts["self_test"] == dict.fromkeys(doctor.CHECKS, True)
    assert facts["extras"].keys() == EXTRAS.keys()
    assert facts["extras"]["gguf"] == {"extra": "hf", "version": metadata.version("gguf")}


def test_text_names_what_is_missing(call, monkeypatch):
    monkeypatch.setattr(doctor, "_version", {"gguf": "7.8.9"}.get)
    monkeypatch.setenv("QUANTCORE_NUM_THREADS", "3")
    text = call("doctor").out
    rows = dict(line.split(maxsplit=1) for line in text.splitlines() if line)
    assert rows["gguf"] == "7.8.9" and rows["dask"] == f"missing: {install_hint('dask')}"
    assert rows["threads"] == "3" and rows["settings"].endswith("QUANTCORE_NUM_THREADS=3")
    assert rows["kernels"].startswith(quantcore.isa())


def test_nothing_optional_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    assert doctor._version("dask") is None and doctor._version("no_such_package") is None
    before = set(sys.modules)
    doctor.diagnose()
    assert not {"torch", "onnx", "matplotlib"} & (set(sys.modules) - before)


@pytest.mark.parametrize("name", [name for name in doctor.CHECKS if name != "nf4"])
def test_what_is_expected_is_what_ggml_writes(name):
    expected = ggml.quantize(doctor.sample(), quantcore.GGUFQuantType[name])
    assert zlib.crc32(expected) == doctor.CHECKS[name]


def test_what_is_expected_is_what_bitsandbytes_writes(bnb, torch):
    codes, _ = bnb.quantize_4bit(torch.from_numpy(doctor.sample()), blocksize=64, quant_type="nf4")
    assert zlib.crc32(codes.numpy().tobytes()) == doctor.CHECKS["nf4"]


@every_other_level
def test_every_level_passes(level):
    assert at_level(level, found_wrong) == []


def test_wrong_bytes_are_told(call, monkeypatch):
    monkeypatch.setitem(doctor.CHECKS, "Q8_0", 1)
    status, text, err = call("doctor")
    assert (status, err) == (1, "") and "WRONG bytes in Q8_0\n" in text
    assert json.loads(call("doctor", "--json").out)["self_test"]["Q8_0"] is False
