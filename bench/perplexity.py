"""Which file type to choose: `python -m bench.perplexity [TYPE ...]`, the table of docs/choosing.md.

SmolLM2-135M in each of llama-quantize's file types, with and without an importance matrix: bits per weight, size of the
file and the perplexity that llama.cpp measures. `examples/importance_smollm2.py` has the parts and tells what it needs.
"""

import argparse
import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType

from quantcore.conversion import quantize_model
from quantcore.errors import InvalidValueError
from quantcore.models import open_model

EXAMPLE = Path(__file__).parent.parent / "examples" / "importance_smollm2.py"
TYPES = (
    "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_NL", "IQ4_XS", "Q4_0", "Q3_K_L", "Q3_K_M",
    "Q3_K_S", "IQ3_M", "IQ3_XXS", "Q2_K", "IQ2_M", "IQ2_XXS", "IQ1_M",
)  # fmt: skip


def load_example() -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bits_per_weight(path: Path) -> float:
    """Bits of all tensors by the number of their elements."""
    with open_model(path) as model:
        tensors = list(model.tensors.values())
    return 8 * sum(tensor.nbytes for tensor in tensors) / sum(tensor.size for tensor in tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("types", nargs="*", default=TYPES, metavar="TYPE")
    parser.add_argument("--tokens", type=int, default=16384, help="tokens that the importance is collected from")
    parser.add_argument("--test-tokens", type=int, default=8192, help="tokens that the perplexity is measured on")
    options = parser.parse_args()
    example = load_example()
    with tempfile.TemporaryDirectory() as folder:
        floats, matrix, out = (Path(folder, name) for name in ("floats.gguf", "imatrix.gguf", "out.gguf"))
        source = example.find_source()
        quantize_model(source, floats, "F32", allow_requantize=True)
        example.collect(source, options.tokens, matrix)
        print("| type | bits per weight | MB | perplexity | with imatrix |\n|---|---|---|---|---|")
        for kind in options.types:
            row = []
            for imatrix in (None, matrix):
                try:
                    quantize_model(floats, out, kind, imatrix=imatrix, force=True)
                except InvalidValueError:
                    row.append("refused")  # It needs an importance matrix.
                else:
                    row.append(f"{example.perplexity(out, options.test_tokens):.2f}")
            size = out.stat().st_size / 1e6
            print(f"| {kind} | {bits_per_weight(out):.2f} | {size:.0f} | {row[0]} | {row[1]} |", flush=True)


if __name__ == "__main__":
    main()
