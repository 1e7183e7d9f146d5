"""Diffusion models as ComfyUI-GGUF reads them: images and video. They keep the names of their tensors.

The convention is that of City96's converter and of its patch of llama.cpp (github.com/city96/ComfyUI-GGUF, `tools/`).

Modules
-------
architectures : the record of an architecture, and those there are.
source : `find_image_model`, which architecture a checkpoint is; `take_image_model`, its tensors and keys.
mix : which type its tensors get; shapes : tensors of more dimensions than ggml has.
"""

from quantcore.conversion.image_models.architectures import IMAGE_MODELS, ImageModel, image_model
from quantcore.conversion.image_models.mix import ImageMix, tell_slow_types
from quantcore.conversion.image_models.shapes import fold, unfold
from quantcore.conversion.image_models.source import find_image_model, take_image_model

__all__ = [
    "IMAGE_MODELS",
    "ImageMix",
    "ImageModel",
    "find_image_model",
    "fold",
    "image_model",
    "take_image_model",
    "tell_slow_types",
    "unfold",
]
