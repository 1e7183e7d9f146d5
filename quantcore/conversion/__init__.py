"""Conversion of whole model files: to GGUF, to bitsandbytes' 4-bit safetensors, and back to floats.

Modules
-------
to_gguf : `quantize_model`; gguf_settings : what is wanted of it; from_gguf : `dequantize_model`.
to_bitsandbytes : `quantize_checkpoint`, `dequantize_checkpoint`.
checkpoint_plan : the steps of both; four_bit_plan : what becomes of every tensor.
tensor_jobs : how one tensor of a checkpoint is kept, or packed to 4 bits; transposed_weights : the other way round.
checkpoint_shards : the same by several processes, shard by shard.
comparison : `compare_models`.
split_files : `split_model`, `merge_model`; splitting : which tensors go into which part.
hf : from Hugging Face folders: tensors' names, metadata and tokenizers as llama.cpp's converter has them.
image_models : diffusion models for ComfyUI-GGUF.
checkpoint_rules : which tensors of a checkpoint become 4-bit weights.
companions : tokenizer and other files that go with the tensors.
rules : which tensor gets which type; mixes : the default mixes of llama-quantize; file_types : their names.
type_plan : the plan of a conversion, with the importance of columns.
model_facts : what mixes depend on in a model; layers : leaving out layers; metadata : keys that are written.
gguf_source : the tensors and metadata that a GGUF file takes over.
gguf_pipeline : tensors through the kernels into files; checkpoint_files : shards, index and folder of a checkpoint.
options : where and how a conversion writes.
outcome : the record of what was done.
"""

from quantcore.conversion.comparison import compare_models
from quantcore.conversion.from_gguf import dequantize_model
from quantcore.conversion.outcome import ModelReport, TensorReport
from quantcore.conversion.split_files import PartReport, SplitReport, merge_model, split_model
from quantcore.conversion.to_bitsandbytes import dequantize_checkpoint, quantize_checkpoint
from quantcore.conversion.to_gguf import quantize_model

__all__ = [
    "ModelReport",
    "PartReport",
    "SplitReport",
    "TensorReport",
    "compare_models",
    "dequantize_checkpoint",
    "dequantize_model",
    "merge_model",
    "quantize_checkpoint",
    "quantize_model",
    "split_model",
]
