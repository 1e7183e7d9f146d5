"""Small models for the tests of `quantize_model`: written with gguf-py, and what gguf-py reads in them."""

import itertools
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tests.support.models import Tensor, gguf

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}
BITS = {np.dtype(ml_dtypes.bfloat16): np.uint16}
SLAB = 512


def normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def stored(name: str, values: np.ndarray, type_name: str | None = None) -> Tensor:
    """A tensor for `write_model`; bfloat16 as the bits that gguf-py takes for it."""
    return Tensor(name, values.view(np.uint8), "BF16") if values.dtype in BITS else Tensor(name, values, type_name)


def write_model(path: Path, *tensors: tuple[Any, ...], **key_values: Any) -> Path:
    """A GGUF file by gguf-py: float arrays, and quantized bytes if a type is named."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in key_values.items():
        writer.add_key_value(key.replace("__", "."), *value)
    for tensor in itertools.starmap(stored, tensors):
        raw_type = None if tensor.type_name is None else gguf.GGMLQuantizationType[tensor.type_name]
        writer.add_tensor(tensor.name, tensor.values, raw_dtype=raw_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def contents(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of each tensor, in the file's order, by gguf-py."""
    reader = gguf.GGUFReader(path)
    return {t.name: (t.tensor_type.name, tuple(t.shape[::-1].tolist()), t.data.tobytes()) for t in reader.tensors}


def fields(path: Path) -> dict[str, tuple[int, bytes]]:
    """Type and raw value of each metadata entry, in the file's order, by gguf-py."""
    return {
        name: (int(field.types[0]), b"".join(part.tobytes() for part in field.parts[3:]))
        for name, field in gguf.GGUFReader(path).fields.items()
        if not name.startswith("GGUF.")
    }


def write_source(path: Path) -> Path:
    """A small model with everything that the rules for types look at."""
    return write_model(
        path,
        ("token_embd.weight", normal(10, 64)),
        ("output.weight", normal(10, 64, seed=1)),
        ("output_norm.weight", normal(64)),
        ("blk.0.attn_q.weight", normal(64, 64)),
        ("blk.0.ffn_up.weight", normal(96, 64)),
        ("blk.1.attn_q.weight", normal(64, 64, seed=1)),
    )


MATRICES = ("token_embd.weight", "output.weight", "blk.0.attn_q.weight", "blk.0.ffn_up.weight", "blk.1.attn_q.weight")
