"""Random models as GGUF files, written with gguf-py matrix by matrix, for the benchmarks of whole files."""

from pathlib import Path

import gguf
import numpy as np

from tests.support.models import add_llama_parameters

WIDTH = 4096


def write_model(path: Path, type_name: str, n_bytes: float) -> None:
    """Write about `n_bytes` of square matrices of a type under the header of a llama, as its quantizer needs it."""
    qtype = gguf.GGMLQuantizationType[type_name]
    matrix = np.random.default_rng(0).standard_normal((WIDTH, WIDTH), dtype=np.float32)
    size = gguf.quants.quantize(matrix, qtype).nbytes
    n_layers = max(1, round(n_bytes / size))
    writer = gguf.GGUFWriter(path, "llama")
    add_llama_parameters(writer, n_layers=n_layers, n_embd=WIDTH, n_ff=WIDTH)
    dtype = np.dtype(np.uint8 if type_name == "BF16" else matrix.dtype)
    shape = (WIDTH, WIDTH * matrix.itemsize // dtype.itemsize * size // matrix.nbytes)
    for i in range(n_layers):
        writer.add_tensor_info(f"blk.{i}.ffn_up.weight", shape, dtype, size, qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for i in range(n_layers):
        writer.write_tensor_data(gguf.quants.quantize(matrix * np.float32(0.02 * (1 + i / n_layers)), qtype))
    writer.close()
