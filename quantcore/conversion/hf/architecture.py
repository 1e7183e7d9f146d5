"""What an architecture is to the conversion: a record of names, tables and a few functions.

A new architecture is one module with a record, and a line in `registry`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore.conversion.hf.hyperparameters import (
    FEED_FORWARD,
    HEADS,
    LAYERS,
    VOCABULARY,
    WIDTH,
    Hyperparameters,
    write_common,
)
from quantcore.conversion.hf.metadata_reader import GGUFMetadata
from quantcore.conversion.hf.vocabularies import Tokenizer
from quantcore.errors import FileFormatError
from quantcore.models.tensors import StoredTensor


@dataclass
class Context:
    """A conversion under way.

    Attributes
    ----------
    folder : Path
    config : Hyperparameters
    tokenizer : Tokenizer
    writer : gguf.GGUFWriter
        Takes the keys; it writes no file.
    n_layers : int
    file_type : int
        `general.file_type`.
    notices : list of str
        Takes what the user should know.
    """

    folder: Path
    config: Hyperparameters
    tokenizer: Tokenizer
    writer: Any
    n_layers: int
    file_type: int
    notices: list[str]


@dataclass(frozen=True, slots=True)
class Experts:
    """Matrices of experts, which GGUF stacks by layer.

    Attributes
    ----------
    part : str
        What is in the name of each expert's tensor.
    name, stacked : str
        The name of one, and what the stack is called before it is mapped; with `{layer}`, `{expert}` and `{word}`.
    words : tuple of str
        The words of an expert's tensors, in the order in which the stacks are stored.
    count : tuple of str
        The hyperparameter with the number of experts.
    fused : mapping of str to tuple of str
        The words of each of the tensors that transformers 5 makes of all experts of a layer while it runs a model.
    fused_name : str
        Their names, with `{layer}` and `{word}`.
    """

    part: str
    name: str
    stacked: str
    words: tuple[str, ...]
    count: tuple[str, ...]
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fused_name: str = "model.layers.{layer}.mlp.experts.{word}"


def of_layers(*names: str) -> tuple[str, ...]:
    """Names of a decoder's tensors in its layers."""
    return tuple(f"model.layers.{{layer}}.{name}" for name in names)


DECODER = (
    "model.embed_tokens.weight",
    "model.norm.weight",
    "lm_head.weight",
    *of_layers(
        "input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.q_proj.weight",
        "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.o_proj.weight",
    ),
)  # fmt: skip
"""The tensors that most decoders have."""
FEED_FORWARD_NAMES = of_layers("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight")
SCALED = ("_proj.weight", "lm_head.weight")
"""The matrices beside which llama.cpp takes a scale; it takes none beside embeddings and what chooses experts."""
QKV_BIASES = of_layers("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias")
QK_NORMS = of_layers("self_attn.q_norm.weight", "self_attn.k_norm.weight")


def keep_name(name: str) -> str | None:
    """The name itself."""
    return name


def write_common_keys(context: Context) -> None:
    """Write the keys that most architectures have."""
    write_common(context.config, context.writer, context.n_layers, context.file_type)


def no_constants(_: Context) -> list[tuple[str, NDArray[np.float32]]]:
    """No tensors beside those of the checkpoint."""
    return []


def no_parts(_: Context, __: StoredTensor) -> list[StoredTensor] | None:
    """Nothing that the record's tables do not say."""
    return None


def no_settings(metadata: GGUFMetadata) -> dict[str, Any]:
    """No way back."""
    raise FileFormatError(f"{metadata.path}: its architecture is not converted back")


@dataclass(frozen=True, slots=True)
class Architecture:
    """An architecture.

    Attributes
    ----------
    names : tuple of str
        As config.json calls it in `architectures`.
    gguf_name : str
        `general.architecture`.
    write_vocabulary, write_keys : (context) -> None
        Write the keys of the tokenizer; and the hyperparameters, `general.file_type` among them.
    rename : (name) -> name or None
        A tensor's name before it is mapped to GGUF's; None leaves it out.
    is_permuted : bool
        Rows of queries and keys are interleaved for ggml's rotary embedding.
    shifted : tuple of str
        Endings of the names of tensors to which one is added.
    transposed : tuple of str
        Endings of the names of matrices that are stored as (inputs, outputs).
    scaled : tuple of str
        Endings of the names of matrices whose products llama.cpp multiplies by the scale beside them, so that blocks of
        NVFP4 can stay.
    experts : Experts, optional
    split : (context, tensor) -> tensors or None
        Other tensors in place of one, by names that are mapped then; None for what the tables say.
    constants : (context) -> list of (name, values)
        Tensors that are computed from hyperparameters.
    constant_names : tuple of str
        All that there may be of them.
    tensor_names : tuple of str
        The tensors of the checkpoint but for experts, with `{layer}`, for the way back; empty if there is none.
    read_settings : (metadata) -> dict
        config.json that a GGUF file's metadata stand for.
    required : tuple of names
        Hyperparameters without which there is no model; each is a tuple of alternatives.
    defaults : mapping
        Values of hyperparameters that config.json may leave out.
    """

    names: tuple[str, ...]
    gguf_name: str
    write_vocabulary: Callable[[Context], None]
    tensor_names: tuple[str, ...] = ()
    read_settings: Callable[[GGUFMetadata], dict[str, Any]] = no_settings
    write_keys: Callable[[Context], None] = write_common_keys
    rename: Callable[[str], str | None] = keep_name
    is_permuted: bool = False
    shifted: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()
    scaled: tuple[str, ...] = ()
    experts: Experts | None = None
    split: Callable[[Context, StoredTensor], list[StoredTensor] | None] = no_parts
    constants: Callable[[Context], list[tuple[str, NDArray[np.float32]]]] = no_constants
    constant_names: tuple[str, ...] = ()
    required: Sequence[tuple[str, ...]] = (LAYERS, WIDTH, HEADS, FEED_FORWARD, VOCABULARY)
    defaults: Mapping[str, Any] = field(default_factory=dict)
