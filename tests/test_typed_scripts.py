"""A user's script under `mypy --strict`: every public name has a type, and the wrong ones are found."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import quantcore

ROOT = Path(quantcore.__file__).parents[1]
SCRIPT = """
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import quantcore as qc
import quantcore.analysis
import quantcore.conversion
import quantcore.gguf
import quantcore.models
import quantcore.safetensors

weights: NDArray[np.float32] = np.zeros((4, 256), np.float32)
packed: NDArray[np.uint8] = qc.quantize(weights, "Q4_0")
record: qc.Blocks = qc.Q4_K.quantize(weights)
four: qc.Quantized4Bit = qc.quantize_4bit(weights, quant_type="nf4")
double: qc.DoubleQuantized4Bit = qc.quantize_4bit_double(weights)
tensor: qc.QuantizedTensor = qc.quantize_tensor(weights, "per_channel", "asymmetric")
for quantized in (record, four, double, tensor):
    qc.dequantize(quantized)
values: NDArray[np.float32] = qc.dequantize(record) + qc.dequantize_4bit(four) + qc.dequantize_tensor(tensor)
half: NDArray[np.float16] = qc.dequantize(record, dtype=np.float16)
values = qc.dequantize(packed, "Q4_0", out=np.empty((4, 256), np.float32))
params: qc.QuantParams = qc.calibrate_per_channel(weights, mode="asymmetric")
scale: np.float32 = params.scales[0]
result: qc.CalibrationResult = qc.calibrate_min_max(weights, mode=qc.QuantMode.OFFSET)
stats: qc.QuantErrorStats = qc.error_stats(weights, weights)
sqnr: float = stats.sqnr_db
report: quantcore.conversion.ModelReport = qc.quantize_model(Path("a.gguf"), "b.gguf", "Q4_K_M")
sizes: int = report.target_bytes
with qc.open_model("b.gguf") as model:
    tensors: dict[str, quantcore.models.ModelTensor] = model.tensors
comparison: quantcore.models.ModelComparison = qc.compare_models("a.gguf", "b.gguf")
speeds: tuple[qc.SpeedResult, ...] = qc.run_speed_benchmark(1)
matrix: quantcore.gguf.Imatrix = quantcore.gguf.Imatrix.load("imatrix.gguf")
"""
WRONG = {
    "qc.quantize(weights, 1.5)": "arg-type",
    "qc.quantize_4bit(weights, quant_type=4)": "arg-type",
    "count: str = qc.get_num_threads()": "assignment",
    "qc.quantize_tensor(weights, mode=8)": "arg-type",
    "qc.no_such_function()": "attr-defined",
    "half = qc.dequantize(record)": "assignment",
}


def mypy(script: Path) -> str:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(script.parent)]
    # As an installed package is found: mypy reads py.typed beside the modules, not the settings of this checkout.
    child = subprocess.run(
        [*command, str(script)],
        capture_output=True,
        text=True,
        cwd=script.parent,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
        timeout=600,
    )
    return child.stdout + child.stderr


@pytest.mark.slow
def test_every_public_name_has_a_type(tmp_path):
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    names = "\n".join(f"reveal_type(qc.{name})" for name in quantcore.__all__)
    script.write_text(f"{SCRIPT}\n{names}\n" + "\n".join(WRONG))
    lines = [line for line in mypy(script).splitlines() if line.startswith("script.py")]
    revealed = [line for line in lines if "Revealed type" in line]
    assert len(revealed) == len(quantcore.__all__)
    assert [line for line in revealed if re.search(r'is "Any"|is "def \(\*args: Any, \*\*kwargs: Any\)', line)] == []
    first_wrong = (script.read_text().count("\n") + 1) - len(WRONG)
    found = {int(line.split(":")[1]): line.rpartition("[")[2].rstrip("]") for line in lines if ": error: " in line}
    assert found == {first_wrong + 1 + i: code for i, code in enumerate(WRONG.values())}
