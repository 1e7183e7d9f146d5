"""The model in the package: a small network for the UCI digits, and its accuracy after quantization to each format.

The weights and the held-out images lie beside this file (`bench/train_digits.py`). Every figure is measured end
to end: safetensors, a quantized file, its reader and decoder, a forward pass.
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

from quantcore._base import arguments, arrays
from quantcore._base.records import shown
from quantcore.analysis.measures import sqnr_db
from quantcore.blockwise.codebooks import BITSANDBYTES_CODES
from quantcore.conversion import quantize_model
from quantcore.conversion.file_types import name_of_pure
from quantcore.conversion.rules import UNWEIGHTED_MODEL_TYPES, unweighted_model_type
from quantcore.conversion.to_bitsandbytes import quantize_checkpoint
from quantcore.errors import InvalidValueError
from quantcore.files.paths import local_path
from quantcore.ggml.types import TYPES_BY_NAME, GGUFQuantType
from quantcore.models import open_model
from quantcore.safetensors.reader import SafetensorsReader

__all__ = ["FormatEvaluation", "digits_test_set", "digits_weights", "evaluate_formats", "top1_accuracy"]

LAYERS = ("fc1", "fc2", "fc3")
DEFAULT_FORMATS = tuple(sorted(UNWEIGHTED_MODEL_TYPES, key=lambda t: (-t.bits_per_weight, t.name != "F16")))
"""Every type that needs no importance matrix, the largest first."""
FOUR_BIT_FORMATS = tuple(code.upper() + scales for scales in ("", "-double") for code in BITSANDBYTES_CODES)
Weights = dict[str, NDArray[np.float32]]


@shown()
@dataclass(frozen=True, slots=True, repr=False)
class FormatEvaluation:
    """The digits network after quantization to a format.

    Attributes
    ----------
    format : str
    bits_per_weight : float
        Bits per weight of the matrices, scales included.
    file_bytes : int
        Size of the GGUF file, or of the safetensors file for NF4 and FP4.
    sqnr_db : float
        Over all weight matrices together.
    layer_sqnr_db : dict of str to float
        The SQNR of each weight matrix.
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
    """The float32 parameters: `fc1` (256, 64), `fc2` (128, 256), `fc3` (10, 128), each `.weight` and `.bias`.

    All are rounded to float16, as which the file has the matrices.
    """
    return {name: values.astype(np.float32, copy=False) for name, values in _data("digits.safetensors").items()}


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
    taken = _check_weights(weights)
    images, labels = digits_test_set()
    x = images.astype(np.float32) / 16
    for layer in LAYERS:
        x = x @ taken[f"{layer}.weight"].T + taken[f"{layer}.bias"]
        if layer != LAYERS[-1]:
            x = np.maximum(x, 0)
    return float(np.mean(x.argmax(axis=1) == labels))


def _check_weights(weights: Any) -> Weights:
    taken = {}
    for name, original in digits_weights().items():
        given = arguments.mapping(weights, "weights", "from names to arrays").get(name)
        source = arrays.take_floats(given, f"weights: {name}")
        if source.shape != original.shape:
            raise InvalidValueError(f"weights: {name}: expected shape {original.shape}, got {source.shape}")
        taken[name] = source.values(0, source.size).reshape(source.shape).astype(np.float32, copy=False)
    return taken


def evaluate_formats(
    formats: Iterable[GGUFQuantType | str | int] = DEFAULT_FORMATS, *, folder: str | os.PathLike[str] | None = None
) -> tuple[FormatEvaluation, ...]:
    """Quantize the digits network to a file of each format, read it back, and measure its accuracy.

    Parameters
    ----------
    formats : iterable of GGUFQuantType, str or int
        Types that `quantize` takes, which go through a GGUF file; "NF4", "FP4", "NF4-double" and "FP4-double" (with
        double-quantized scales), which go through a safetensors file in the layout of bitsandbytes.
    folder : path, optional
        The folder to keep the files in, `digits-FORMAT.gguf` and `digits-FORMAT.safetensors`. None: they are not kept.

    Returns
    -------
    tuple of FormatEvaluation
        In the order of `formats`.
    """
    names = [_format_name(fmt) for fmt in arguments.entries(formats, "formats", "types")]
    if folder is not None:
        return tuple(_evaluate(name, local_path(folder)) for name in names)
    with tempfile.TemporaryDirectory(prefix="quantcore-") as scratch:
        return tuple(_evaluate(name, Path(scratch)) for name in names)


def _format_name(fmt: GGUFQuantType | str | int) -> str:
    for name in FOUR_BIT_FORMATS:
        if isinstance(fmt, str) and fmt.lower() == name.lower():
            return name
    return unweighted_model_type(fmt, "formats").name


def _evaluate(name: str, folder: Path) -> FormatEvaluation:
    original = digits_weights()
    matrices = [key for key in original if key.endswith(".weight")]
    with as_file(files("quantcore.demo") / "digits.safetensors") as source:
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
    """The file, the weights decoded from it, and the bytes of its matrices."""
    path = folder / f"digits-{name}.gguf"
    quantize_model(source, path, name_of_pure(TYPES_BY_NAME[name]), pure=True, arch="digits-mlp", force=True)
    return path, *_decode(path, matrices)


def _through_safetensors(source: Path, folder: Path, name: str, matrices: list[str]) -> tuple[Path, Weights, int]:
    """As `_through_gguf`."""
    path = folder / f"digits-{name}.safetensors"
    quant_type, *double = name.lower().split("-")
    quantize_checkpoint(source, path, quant_type, double_quant=bool(double), force=True)
    return path, *_decode(path, matrices)


def _decode(path: Path, matrices: list[str]) -> tuple[Weights, int]:
    with open_model(path) as model:
        weights = {name: tensor.values().reshape(tensor.shape) for name, tensor in model.tensors.items()}
        return weights, sum(model.tensors[name].nbytes for name in matrices)


def _data(name: str) -> dict[str, NDArray[Any]]:
    """All tensors of a file in this folder."""
    with as_file(files("quantcore.demo") / name) as path:
        return _tensors(path)


def _tensors(path: Path) -> dict[str, NDArray[Any]]:
    """All tensors of a safetensors file."""
    tensors = {}
    with SafetensorsReader(path) as reader:
        for tensor in reader.tensors:
            array = np.empty(tensor.shape, {"F32": np.float32, "F16": np.float16, "U8": np.uint8}[tensor.dtype])
            reader.read_into(tensor, 0, array)
            tensors[tensor.name] = array
    return tensors
