"""A checkpoint as a diffusion model for ComfyUI-GGUF: which one it is, its tensors, and what they are without a mix."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from quantcore._base.text import quote, shorten
from quantcore.conversion.image_models.architectures import IMAGE_MODELS, ImageModel
from quantcore.conversion.image_models.shapes import fold, make_rows
from quantcore.errors import FileFormatError
from quantcore.ggml.types import TYPES_BY_NAME, GGMLType
from quantcore.gguf.values import KeyValue
from quantcore.models.tensors import StoredTensor

_PREFIXES = ("model.diffusion_model.", "model.")
"""What precedes the tensors in a file that has other models as well: the first that there is."""
_COMMON_PREFIXES = ("net.",)
"""What may precede all tensors."""
_SMALL = 1024
_F32, _F16, _BF16 = (TYPES_BY_NAME[name] for name in ("F32", "F16", "BF16"))


@dataclass(frozen=True)
class TakenImageModel:
    """What a checkpoint becomes.

    Attributes
    ----------
    tensors : list of StoredTensor
        By name.
    kvs : tuple of KeyValue
        Shapes that are other ones in the file.
    kept : mapping of str to GGMLType
        The types of tensors that are not quantized, by name.
    notices : tuple of str
    """

    tensors: list[StoredTensor]
    kvs: tuple[KeyValue, ...]
    kept: Mapping[str, GGMLType]
    notices: tuple[str, ...]


def find_image_model(names: Iterable[str], path: str) -> ImageModel | None:
    """The architecture that the names of a checkpoint's tensors tell, None if it is not one of ComfyUI-GGUF.

    Raises
    ------
    FileFormatError
        It is in a layout that ComfyUI-GGUF does not read.
    """
    names = set(names)
    prefix = _find_prefix(names)
    bare = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    for model in IMAGE_MODELS.values():
        if any(bare.issuperset(marks) for marks in model.marks):
            if found := bare.intersection(model.other_layouts):
                raise FileFormatError(
                    f"{path}: {quote(min(found))} tells {model.name} in the layout of diffusers, which ComfyUI-GGUF "
                    "does not read; ComfyUI's node ModelSave writes the other one; --keep-names (keep_names=True) "
                    "writes a container of what is there"
                )
            return model
    return None


def take_image_model(
    model: ImageModel, sources: Iterable[StoredTensor], float_type: GGMLType | None, path: str
) -> TakenImageModel:
    """The tensors and keys of a diffusion model.

    Parameters
    ----------
    model : ImageModel
    sources : iterable of StoredTensor
        The tensors of the checkpoint.
    float_type : GGMLType, optional
        The type of the file if it is one of floats.
    path : str
        For messages.

    Raises
    ------
    FileFormatError
        No tensor is one of the model.
    """
    sources = list(sources)
    prefix = _find_prefix({tensor.name for tensor in sources})
    named = [replace(t, name=t.name.removeprefix(prefix)) for t in sources if t.name.startswith(prefix)]
    tensors = sorted(
        (t for t in named if not any(part in t.name for part in model.ignored)), key=lambda t: t.name.encode("utf-8")
    )
    if not tensors:
        raise FileFormatError(f"{path}: has no tensors of a diffusion model")
    used = {prefix + t.name for t in tensors}
    notices = [f"{shorten(t.name)}: left out (no part of {model.name})" for t in sources if t.name not in used]
    exact = {t.name for t in tensors if _is_exact(model, t)}
    tensors, kvs = fold(tensors)
    if model.is_reshaped:
        tensors, more = make_rows(tensors)
        kvs += more
    kept = {t.name: _kept_type(t, t.name in exact, float_type) for t in tensors if not t.is_integer}
    if float_type is None:
        kept = {t.name: kept[t.name] for t in tensors if t.name in kept and not model.is_quantizable(t.name, t.shape)}
    return TakenImageModel(tensors, kvs, kept, tuple(notices))


def _is_exact(model: ImageModel, tensor: StoredTensor) -> bool:
    """Whether a tensor stays float32: it is small, ComfyUI does not decode it, or ggml has no such shape."""
    n_dimensions = len(tensor.shape)
    is_exact = n_dimensions == 1 or tensor.size <= _SMALL or any(part in tensor.name for part in model.exact)
    return n_dimensions > 4 or (is_exact and not _is_half(tensor))


def _is_half(tensor: StoredTensor) -> bool:
    """Whether a tensor is one of float16, or of eight bits, in the checkpoint."""
    return tensor.type == "F16" or tensor.origin is not None


def _kept_type(tensor: StoredTensor, is_exact: bool, float_type: GGMLType | None) -> GGMLType:
    if is_exact or float_type == _F32:
        return _F32
    return float_type or (_BF16 if tensor.type == "BF16" else _F16)


def _find_prefix(names: set[str]) -> str:
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in names):
            return prefix
    return next((p for p in _COMMON_PREFIXES if names and all(name.startswith(p) for name in names)), "")
