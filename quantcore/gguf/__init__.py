"""The GGUF container: a strict reader, and a writer. `quantcore.conversion` decides what is quantized to which type.

Modules
-------
reader, writer : `GGUFReader`, `GGUFWriter`.
parts, part_names : `open_gguf`, which opens all parts of a split model as one.
values : `KeyValue`, a metadata entry.
imatrix, imatrix_files : `Imatrix`, the importance of a model's input channels, and its files.
layout : the value types, the limits, the record of a tensor.
cursor : reads the head of a file field by field.
"""

from quantcore.gguf.imatrix import Imatrix
from quantcore.gguf.layout import TensorInfo, ValueType
from quantcore.gguf.parts import GGUFModel, open_gguf
from quantcore.gguf.reader import GGUFReader
from quantcore.gguf.values import KeyValue
from quantcore.gguf.writer import GGUFWriter

__all__ = [
    "GGUFModel",
    "GGUFReader",
    "GGUFWriter",
    "Imatrix",
    "KeyValue",
    "TensorInfo",
    "ValueType",
    "open_gguf",
]
