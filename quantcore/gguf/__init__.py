"""GGUF files: a strict reader, a writer, and whole models quantized tensor by tensor."""

from quantcore.gguf.layout import KeyValue, TensorInfo
from quantcore.gguf.model import dequantize_model, quantize_model
from quantcore.gguf.reader import GGUFReader
from quantcore.gguf.writer import GGUFWriter

__all__ = [
    "GGUFReader",
    "GGUFWriter",
    "KeyValue",
    "TensorInfo",
    "dequantize_model",
    "quantize_model",
]
