"""Reading models of any container: tensors, values, inspection, and the comparison of two models.

Modules
-------
opening : `open_model`, the way into every container.
tensors : a tensor of an open model: its bytes, and its values slab by slab.
checkpoint_config : config.json of a checkpoint.
quantized_sources : how a checkpoint is quantized already; what is not decoded is refused by its name.
decoded_checkpoint : a checkpoint of codes as one of floats, which conversions read.
scaled_layouts : the table of layouts of codes with scales; scaled_claims : which tensors are in which of them.
code_tables : the values of codes. decoders, scaled_tensors, bitsandbytes_decoder : what decodes a tensor.
ggml_repacker : MXFP4 and NVFP4 as the blocks of ggml; block_scales : the scales beside these.
comparison, comparison_results, tensor_comparison : the comparison of two open models.
layer_map : compared tensors by layer and kind; plots : the same, drawn.
inspection : `describe`.
"""

from quantcore.models.comparison import ModelComparison, TensorComparison
from quantcore.models.inspection import describe
from quantcore.models.opening import Model, open_model
from quantcore.models.tensors import ModelTensor

__all__ = [
    "Model",
    "ModelComparison",
    "ModelTensor",
    "TensorComparison",
    "describe",
    "open_model",
]
