"""The real model inside the package: a small network on the UCI digits, and what each format does to its accuracy.

The weights and the held-out images are in `data/` (made by `bench/train_digits.py`). Every figure goes the whole way:
safetensors, a quantized file, what its reader and decoder make of it, a forward pass.
"""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore.analysis import sqnr_db
from quantcore.bitsandbytes_checkpoint import dequantize_checkpoint, quantize_checkpoint
from quantcore.formats import dequantize, supported_format
from quantcore.ggml_types import GGUFQuantType
from quantcore.gguf import GGUFReader, quantize_model
from quantcore.safetensors import SafetensorsReader

__all__ = ["FormatEvaluation", "digits_test_set", "digits_weights", "evaluate_formats", "top1_accuracy"]

LAYERS = ("fc1", "fc2", "fc3")
DEFAULT_FORMATS = (GGUFQuantType.F32, GGUFQuantType.F16, GGUFQuantType.BF16, GGUFQuantType.Q8_0, GGUFQuantType.Q4_0)
FOUR_BIT_FORMATS = ("NF4", "FP4", "NF4-double", "FP4-double")
Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class FormatEvaluation:
    """What a format does to the digits network.

    Attributes
    ----------
    format : str
    bits_per_weight : float
        Of the weight matrices, scales included.
    file_bytes : int
        Size of the GGUF file, or of the safetensors file for NF4 and FP4.
    sqnr_db : float
        Over all weight matrices together.
    layer_sqnr_db : dict of str to float
        Of each weight matrix.
    top1_accuracy : float
        Share of the held-out images that are classified correctly.
    """

    format: str
    bits_per_weight: float
    file_bytes: int
    sqnr_db: float
    layer_sqnr_db: dict[str, float]
    top1_accuracy: float


def digits_weights() -> Weights:
    """The float32 parameters: `fc1` (256, 64), `fc2` (128, 256), `fc3` (10, 128), each `.weight` and `.bias`."""
    return _data("digits.safetensors")


def digits_test_set() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The held-out images, uint8 of shape (n, 64) with values 0 to 16, and their labels, uint8 of shape (n,)."""
    tensors = _data("digits-test.safetensors")
    return tensors["images"], tensors["labels"]


def top1_accuracy(weights: Weights) -> float:
    """The share of held-out images that the network with these parameters classifies correctly.

    Parameters
    ----------
    weights : dict
        As `digits_weights` returns.
    """
    images, labels = digits_test_set()
    x = images.astype(np.float32) / 16
    for layer in LAYERS:
        x = x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
        if layer != LAYERS[-1]:
            x = np.maximum(x, 0)
    return float(np.mean(x.argmax(axis=1) == labels))


def evaluate_formats(
    formats: Iterable[GGUFQuantType | str | int] = DEFAULT_FORMATS, *, folder: str | os.PathLike[str] | None = None
) -> tuple[FormatEvaluation, ...]:
    """Take the digits network through a file of each format and measure what is left of it.

    Parameters
    ----------
    formats : iterable of GGUFQuantType, str or int
        Types that `quantize` takes, which go through a GGUF file; "NF4", "FP4", "NF4-double" and "FP4-double" (with
        double-quantized scales), which go through a safetensors file in the layout of bitsandbytes.
    folder : path, optional
        Where to leave the files, `digits-FORMAT.gguf` and `digits-FORMAT.safetensors`; None: nowhere.

    Returns
    -------
    tuple of FormatEvaluation
        In the order of `formats`.
    """
    if folder is not None:
        return tuple(_evaluated(_format_name(f), Path(folder)) for f in formats)
    with tempfile.TemporaryDirectory(prefix="quantcore-") as scratch:
        return evaluate_formats(formats, folder=Path(scratch))


def _format_name(fmt: GGUFQuantType | str | int) -> str:
    for name in FOUR_BIT_FORMATS:
        if isinstance(fmt, str) and fmt.lower() == name.lower():
            return name
    return supported_format(fmt, "formats").name


def _evaluated(name: str, folder: Path) -> FormatEvaluation:
    original = digits_weights()
    matrices = [key for key in original if key.endswith(".weight")]
    with as_file(files("quantcore") / "data" / "digits.safetensors") as source:
        to_file = _through_safetensors if name in FOUR_BIT_FORMATS else _through_gguf
        path, restored, n_bytes = to_file(source, folder, name, matrices)
    return FormatEvaluation(
        format=name,
        bits_per_weight=8 * n_bytes / sum(original[key].size for key in matrices),
        file_bytes=path.stat().st_size,
        sqnr_db=sqnr_db(*(np.concatenate([w[key].ravel() for key in matrices]) for w in (original, restored))),
        layer_sqnr_db={key: sqnr_db(original[key], restored[key]) for key in matrices},
        top1_accuracy=top1_accuracy(restored),
    )


def _through_gguf(source: Path, folder: Path, name: str, matrices: list[str]) -> tuple[Path, Weights, int]:
    """The file, the weights it gives back, and the bytes of the matrices in it."""
    path = folder / f"digits-{name}.gguf"
    quantize_model(source, path, name, pure=True, arch="digits-mlp", force=True)
    weights: Weights = {}
    with GGUFReader(path) as reader:
        for tensor in reader.tensors:
            data = np.empty(tensor.nbytes, np.uint8)
            reader.read_into(tensor, 0, data)
            weights[tensor.name] = dequantize(data, tensor.type_id).reshape(tensor.shape)
        return path, weights, sum(t.nbytes for t in reader.tensors if t.name in matrices)


def _through_safetensors(source: Path, folder: Path, name: str, matrices: list[str]) -> tuple[Path, Weights, int]:
    """As `_through_gguf`; the scales and what else decoding needs are tensors beside each matrix."""
    path = folder / f"digits-{name}.safetensors"
    quant_type, *double = name.lower().split("-")
    quantize_checkpoint(source, path, quant_type, double_quant=bool(double), force=True)
    with SafetensorsReader(path) as reader:
        n_bytes = sum(t.nbytes for t in reader.tensors if t.name.startswith(tuple(matrices)))
    with tempfile.TemporaryDirectory(prefix="quantcore-") as scratch:
        decoded = Path(scratch) / path.name
        dequantize_checkpoint(path, decoded, "F32")
        return path, _tensors(decoded), n_bytes


def _data(name: str) -> dict[str, NDArray[Any]]:
    """All tensors of a file in `data/`."""
    with as_file(files("quantcore") / "data" / name) as path:
        return _tensors(path)


def _tensors(path: Path) -> dict[str, NDArray[Any]]:
    """All tensors of a safetensors file."""
    tensors = {}
    with SafetensorsReader(path) as reader:
        for tensor in reader.tensors:
            array = np.empty(tensor.shape, {"F32": np.float32, "U8": np.uint8}[tensor.dtype])
            reader.read_into(tensor, 0, array)
            tensors[tensor.name] = array
    return tensors
