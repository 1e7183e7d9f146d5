"""ggml's tensor types: their facts, quantization and dequantization of arrays, records.

Modules
-------
types : every fact of a type, in its row.
formats : `quantize` and `dequantize`.
importance : weights of columns, checked.
records : quantized blocks together with the shape of the values, one class per format.
"""

from quantcore.ggml.formats import EFFORTS, SUPPORTED_TYPES, UNWEIGHTED_TYPES, dequantize, quantize
from quantcore.ggml.records import RECORDS, Blocks
from quantcore.ggml.types import GGML_TYPES, GGUF_BLOCK_SIZE, Family, GGMLType, GGUFQuantType, ImatrixUse, as_ggml_type

__all__ = [
    "EFFORTS",
    "GGML_TYPES",
    "GGUF_BLOCK_SIZE",
    "IQ1_M",
    "IQ1_S",
    "IQ2_S",
    "IQ2_XS",
    "IQ2_XXS",
    "IQ3_S",
    "IQ3_XXS",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
    "NVFP4",
    "Q1_0",
    "Q2_0",
    "Q2_K",
    "Q3_K",
    "Q4_0",
    "Q4_1",
    "Q4_K",
    "Q5_0",
    "Q5_1",
    "Q5_K",
    "Q6_K",
    "Q8_0",
    "RECORDS",
    "SUPPORTED_TYPES",
    "TQ1_0",
    "TQ2_0",
    "UNWEIGHTED_TYPES",
    "Blocks",
    "Family",
    "GGMLType",
    "GGUFQuantType",
    "ImatrixUse",
    "as_ggml_type",
    "dequantize",
    "quantize",
]

IQ1_M = RECORDS["IQ1_M"]
IQ1_S = RECORDS["IQ1_S"]
IQ2_S = RECORDS["IQ2_S"]
IQ2_XS = RECORDS["IQ2_XS"]
IQ2_XXS = RECORDS["IQ2_XXS"]
IQ3_S = RECORDS["IQ3_S"]
IQ3_XXS = RECORDS["IQ3_XXS"]
IQ4_NL = RECORDS["IQ4_NL"]
IQ4_XS = RECORDS["IQ4_XS"]
MXFP4 = RECORDS["MXFP4"]
NVFP4 = RECORDS["NVFP4"]
Q1_0 = RECORDS["Q1_0"]
Q2_0 = RECORDS["Q2_0"]
Q2_K = RECORDS["Q2_K"]
Q3_K = RECORDS["Q3_K"]
Q4_0 = RECORDS["Q4_0"]
Q4_1 = RECORDS["Q4_1"]
Q4_K = RECORDS["Q4_K"]
Q5_0 = RECORDS["Q5_0"]
Q5_1 = RECORDS["Q5_1"]
Q5_K = RECORDS["Q5_K"]
Q6_K = RECORDS["Q6_K"]
Q8_0 = RECORDS["Q8_0"]
TQ1_0 = RECORDS["TQ1_0"]
TQ2_0 = RECORDS["TQ2_0"]
