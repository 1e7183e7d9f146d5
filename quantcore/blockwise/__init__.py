"""4-bit codes in blocks with one scale each, for QLoRA: int4, NF4, FP4, double quantization, bitsandbytes' layout.

Modules
-------
quantize : quantize and dequantize arrays, slabs and records.
decoding : codes to floats.
records : the results.
codebooks : the code tables.
bitsandbytes : the packed state as a checkpoint holds it.
"""

from quantcore.blockwise.quantize import (
    BLOCK_SIZE,
    DOUBLE_QUANT_BLOCK_SIZE,
    dequantize_4bit,
    dequantize_4bit_double,
    from_bitsandbytes,
    quantize_4bit,
    quantize_4bit_double,
)
from quantcore.blockwise.records import DoubleQuantized4Bit, Quantized4Bit

__all__ = [
    "BLOCK_SIZE",
    "DOUBLE_QUANT_BLOCK_SIZE",
    "DoubleQuantized4Bit",
    "Quantized4Bit",
    "dequantize_4bit",
    "dequantize_4bit_double",
    "from_bitsandbytes",
    "quantize_4bit",
    "quantize_4bit_double",
]
