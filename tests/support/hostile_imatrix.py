"""Files of importance matrices in both layouts, valid and malformed."""

import struct
import tempfile
from pathlib import Path

import numpy as np

from quantcore.files.disk import OutputFile
from quantcore.gguf import GGUFWriter, KeyValue


def legacy_file(*entries: tuple[str, int, list[float]], tail: bytes = b"") -> bytes:
    data = struct.pack("<i", len(entries))
    for name, count, values in entries:
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", count, len(values))
        data += struct.pack(f"<{len(values)}f", *values)
    return data + tail


GOOD = {"a.in_sum2": [1.0, 2.0], "a.counts": [3.0]}
KEYS = {"imatrix.datasets": ["x"], "imatrix.chunk_count": 1, "imatrix.chunk_size": 512}


def write(path: Path, tensors: dict[str, list[float]], keys: dict[str, object], kind: str = "imatrix") -> Path:
    kvs = [KeyValue.string("general.type", kind)]
    kvs += [KeyValue.array(k, v, "string") if isinstance(v, list) else KeyValue.uint32(k, v) for k, v in keys.items()]
    with OutputFile(path, force=True) as file:
        writer = GGUFWriter(file, kvs, [(name, (len(values),), "F32") for name, values in tensors.items()])
        for values in tensors.values():
            writer.write(np.array(values, np.float32))
            writer.end_tensor()
    return path


HOSTILE = {
    "another kind": ((GOOD, KEYS, "model"), "general.type: expected 'imatrix', got 'model'"),
    "no metadata": ((GOOD, {}), "the key imatrix.datasets is missing"),
    "no sums": (({"a.weight": [1.0]}, KEYS), "it has no sums"),
    "no counts": (({"a.in_sum2": [1.0]}, KEYS), "importance of 'a': .counts is missing"),
    "counts that do not fit": (({"a.in_sum2": [1.0, 2.0, 3.0], "a.counts": [1.0, 1.0]}, KEYS), "3 sums and 2 counts"),
    "NaN": (
        ({"a.in_sum2": [1.0, np.nan], "a.counts": [1.0]}, KEYS),
        "must be finite and not negative, got nan at .* 1",
    ),
    "negative": (({"a.in_sum2": [-1.0], "a.counts": [1.0]}, KEYS), "must be finite and not negative, got -1.0"),
    "infinite count": (({"a.in_sum2": [1.0], "a.counts": [np.inf]}, KEYS), "must be finite"),
    "count beyond integers": (({"a.in_sum2": [1.0], "a.counts": [1e30]}, KEYS), "expected counts of at most 2\\^53"),
}


VALID = legacy_file(("a", 4, [2.0, 8.0]), tail=struct.pack("<ii", 1, 1) + b"x")
BAD_LEGACY = {
    "empty": b"",
    "no tensors": struct.pack("<i", 0),
    "more tensors than bytes": struct.pack("<i", 2**31 - 1) + VALID[4:],
    "negative length of a name": VALID[:4] + struct.pack("<i", -1) + VALID[8:],
    "name beyond the end": VALID[:4] + struct.pack("<i", 60000) + VALID[8:],
    "no sums": legacy_file(("a", 4, [])),
    "sums beyond the end": VALID[:13] + struct.pack("<i", 2**30) + VALID[17:],
    "cut off": VALID[:20],
    "twice": legacy_file(("a", 4, [2.0]), ("a", 4, [2.0])),
    "NaN": legacy_file(("a", 4, [2.0, np.nan])),
    "negative": legacy_file(("a", 4, [-2.0])),
    "text": b"a text file that is no importance matrix",
    "dataset beyond the end": VALID[:-1],
}


def gguf_files() -> list[bytes]:
    """The files in the GGUF layout, a valid one and the malformed ones."""
    with tempfile.TemporaryDirectory() as folder:
        contents = [(GOOD, KEYS), *(case for case, _ in HOSTILE.values())]
        return [write(Path(folder, "m"), *case).read_bytes() for case in contents]
