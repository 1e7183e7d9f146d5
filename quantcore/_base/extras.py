"""Optional packages: which extra of the distribution brings each, and the one text that says how to install it."""

from quantcore.errors import MissingExtraError

DISTRIBUTION = "quantcore-quantization"
"""The name on PyPI, as in pyproject.toml; `quantcore` is the name that is imported and the command."""

EXTRAS = {
    "dask": "dask",
    "gguf": "hf",
    "matplotlib": "report",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "ml_dtypes": "bfloat16",
    "pyarrow": "arrow",
    "torch": "torch",
    "tqdm": "cli",
    "zarr": "zarr",
}
"""The extra that installs a package."""


def install_hint(extra: str) -> str:
    """The command that installs an extra, quoted for a shell."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def missing_extra(what: str, package: str, error: ImportError) -> MissingExtraError:
    """The error to raise where `what` cannot work because importing `package` failed."""
    return MissingExtraError(f"{what} needs {package}: {install_hint(EXTRAS[package])} ({error})")
