"""What a file is, by its first bytes, and which command takes it: a wrong file is called by its right name."""

from dataclasses import dataclass

_MOST_HEADER_BYTES = 100_000_000  # of a safetensors file
ZARR_NAMES = ("zarr.json", ".zarray", ".zgroup")
"""The files that make a folder a zarr array or group."""
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
"""How the names of PyTorch's pickles end."""
HEAD_BYTES = 256
"""How many bytes tell the kind of a file."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of files: its name with an article, and what can be done with one."""

    name: str
    use: str


GGUF = FileKind("a GGUF file", "quantcore quantize takes it for GGUF types, dequantize decodes it")
SAFETENSORS = FileKind("a safetensors file", "quantcore quantize takes it")
STATISTICS = FileKind("a statistics file of quantcore calibrate", "quantcore calibrate --merge takes it")
PICKLE = FileKind("a pickle (PyTorch)", "pickle files are never opened; use safetensors")
ARCHIVE = FileKind("a zip archive (PyTorch's hold a pickle)", "pickle files are never opened; use safetensors")
NPY = FileKind("a .npy array of NumPy", "quantcore calibrate takes it")
PARQUET = FileKind("a Parquet file", "quantcore calibrate takes it")
ZARR = FileKind("a zarr array or group", "quantcore calibrate takes it")
NPZ = FileKind("an .npz archive of NumPy", "quantcore calibrate takes it")
_COMPRESSED = FileKind("a compressed file", "decompress it first")
_OLD_GGML = FileKind("a ggml file from before GGUF", "llama.cpp's converters make a GGUF file of it")
_WEB_PAGE = FileKind("a page of HTML", "it may be what a server said instead of sending the file")

_MAGICS = {
    b"GGUF": GGUF,
    b"\x93NUMPY": NPY,
    b"PAR1": PARQUET,
    b"ARROW1": FileKind("an Arrow file", "no command takes it; save its columns as .npy or .npz"),
    b"\x89HDF\r\n": FileKind("an HDF5 file", "no command takes it; save its arrays as safetensors or .npz"),
    b"lmgg": _OLD_GGML,
    b"fmgg": _OLD_GGML,
    b"tjgg": _OLD_GGML,
    b"algg": FileKind("a LoRA adapter in a ggml file from before GGUF", _OLD_GGML.use),
    b"\x80\x02": PICKLE,
    b"\x80\x03": PICKLE,
    b"\x80\x04": PICKLE,
    b"\x80\x05": PICKLE,
    b"PK\x05\x06": ARCHIVE,
    b"version https://git-lfs": FileKind("a pointer of Git LFS", "git lfs pull fetches the file that it stands for"),
    b"\x1f\x8b": _COMPRESSED,
    b"BZh": _COMPRESSED,
    b"\xfd7zXZ\x00": _COMPRESSED,
    b"\x28\xb5\x2f\xfd": _COMPRESSED,
    b"7z\xbc\xaf\x27\x1c": _COMPRESSED,
    b"<!DOCTYPE": _WEB_PAGE,
    b"<!doctype": _WEB_PAGE,
    b"<html": _WEB_PAGE,
}


def kind_of(head: bytes | bytearray) -> FileKind | None:
    """The kind of a file with these first `HEAD_BYTES` bytes, or fewer if it has no more; None if none is known."""
    if int.from_bytes(head[:8], "little") <= _MOST_HEADER_BYTES and head[8:9] == b"{":
        return SAFETENSORS
    if head.startswith(b"{") and b'"quantcore.calibration"' in head:
        return STATISTICS
    if head.startswith(b"PK\x03\x04"):
        name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        if bytes(name).rpartition(b"/")[2].decode("latin-1") in ZARR_NAMES:
            return ZARR
        return NPZ if name.endswith(b".npy") else ARCHIVE
    return next((kind for magic, kind in _MAGICS.items() if head.startswith(magic)), None)


def say_wrong(path: str, kind: FileKind, wanted: str) -> str:
    """A line about a file that is of another kind than it must be."""
    return f"{path}: is {kind.name}, not {wanted}: {kind.use}"
