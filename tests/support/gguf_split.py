"""llama.cpp's gguf-split from the functions of its library: gguf.h of the wheel xllamacpp, in a process of its own.

The tool itself is in no wheel. What it does with the metadata is written out again here, call by call; heads and
offsets are the library's. The data are copied from the input.
"""

import ctypes
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_POINTER, _TEXT, _LONG = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64


class _OpenParams(ctypes.Structure):
    """`struct gguf_init_params` of gguf.h."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", _POINTER))


_FUNCTIONS = {
    "gguf_init_empty": (_POINTER,),
    "gguf_init_from_file": (_POINTER, _TEXT, _OpenParams),
    "gguf_set_kv": (None, _POINTER, _POINTER),
    "gguf_set_val_u16": (None, _POINTER, _TEXT, ctypes.c_uint16),
    "gguf_set_val_i32": (None, _POINTER, _TEXT, ctypes.c_int32),
    "gguf_get_n_tensors": (_LONG, _POINTER),
    "gguf_get_tensor_name": (_TEXT, _POINTER, _LONG),
    "gguf_get_tensor_offset": (ctypes.c_size_t, _POINTER, _LONG),
    "gguf_get_data_offset": (ctypes.c_size_t, _POINTER),
    "gguf_get_meta_size": (ctypes.c_size_t, _POINTER),
    "gguf_get_meta_data": (None, _POINTER, _POINTER),
    "gguf_add_tensor": (None, _POINTER, _POINTER),
    "ggml_get_tensor": (_POINTER, _POINTER, _TEXT),
    "ggml_nbytes": (ctypes.c_size_t, _POINTER),
}


def split(source: Path, prefix: Path, *, max_tensors: int = 0, max_size: int = 0, no_tensor_first: bool = False) -> int:
    """Write the parts; returns how many there are."""
    return _run("split", source, prefix, max_tensors, max_size, no_tensor_first)


def merge(parts: list[Path], target: Path) -> None:
    """Write the merged file."""
    _run("merge", list(map(str, parts)), target)


def _run(*request: Any) -> int:
    child = subprocess.run(
        [sys.executable, __file__], input=json.dumps(request, default=str), capture_output=True, text=True, check=True
    )
    return int(child.stdout.splitlines()[-1])


class _Input:
    """An open file with its tensors, as (name, tensor, bytes)."""

    def __init__(self, library: Any, path: str) -> None:
        self._context = _POINTER()
        self.gguf = library.gguf_init_from_file(path.encode(), _OpenParams(True, ctypes.addressof(self._context)))
        data, start = Path(path).read_bytes(), library.gguf_get_data_offset(self.gguf)
        self.tensors = []
        for i in range(library.gguf_get_n_tensors(self.gguf)):
            tensor = library.ggml_get_tensor(self._context, library.gguf_get_tensor_name(self.gguf, i))
            first = start + library.gguf_get_tensor_offset(self.gguf, i)
            self.tensors.append((tensor, data[first : first + library.ggml_nbytes(tensor)]))


def _split(lib: Any, source: str, prefix: str, max_tensors: int, max_size: int, no_tensor_first: bool) -> int:
    given = _Input(lib, source)
    parts: list[tuple[Any, list[bytes]]] = []

    def begin() -> None:
        gguf = lib.gguf_init_empty()
        if not parts:
            lib.gguf_set_kv(gguf, given.gguf)
        lib.gguf_set_val_u16(gguf, b"split.no", len(parts))
        lib.gguf_set_val_u16(gguf, b"split.count", 0)
        lib.gguf_set_val_i32(gguf, b"split.tensors.count", len(given.tensors))
        parts.append((gguf, []))

    begin()
    if no_tensor_first:
        begin()
    size = 0
    for i, (tensor, data) in enumerate(given.tensors):
        padded = -(-len(data) // 32) * 32
        if (size + padded > max_size) if max_size else (i and i % max_tensors == 0):
            begin()
            size = 0
        size += padded
        lib.gguf_add_tensor(parts[-1][0], tensor)
        parts[-1][1].append(data)
    for i, (gguf, blobs) in enumerate(parts):
        lib.gguf_set_val_u16(gguf, b"split.count", len(parts))
        _write(lib, gguf, blobs, Path(f"{prefix}-{i + 1:05d}-of-{len(parts):05d}.gguf"))
    return len(parts)


def _merge(lib: Any, paths: list[str], target: str) -> int:
    merged, blobs = lib.gguf_init_empty(), []
    for i, given in enumerate([_Input(lib, path) for path in paths]):
        if i == 0:
            lib.gguf_set_val_u16(given.gguf, b"split.count", 0)
            lib.gguf_set_kv(merged, given.gguf)
        for tensor, data in given.tensors:
            lib.gguf_add_tensor(merged, tensor)
            blobs.append(data)
    _write(lib, merged, blobs, Path(target))
    return 1


def _write(lib: Any, gguf: Any, blobs: list[bytes], path: Path) -> None:
    head = ctypes.create_string_buffer(lib.gguf_get_meta_size(gguf))
    lib.gguf_get_meta_data(gguf, head)
    path.write_bytes(head.raw + b"".join(data + bytes(-len(data) % 32) for data in blobs))


def main() -> None:
    """Do the one request on stdin."""
    spec = importlib.util.find_spec("xllamacpp")
    assert spec is not None and spec.origin is not None
    (path,) = Path(spec.origin).parent.glob("xllamacpp*.so")
    library = ctypes.CDLL(str(path))
    for name, (result, *arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    command, *arguments = json.load(sys.stdin)
    print(f"\n{ {'split': _split, 'merge': _merge}[command](library, *arguments) }")


if __name__ == "__main__":
    main()
