"""Phi-3 and Phi-4. Source: `conversion/phi.py` of llama.cpp."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore.conversion.hf.architecture import DECODER, Architecture, Context, of_layers
from quantcore.conversion.hf.hyperparameters import FEED_FORWARD, HEADS, KV_HEADS, WIDTH
from quantcore.conversion.hf.metadata_reader import GGUFMetadata
from quantcore.conversion.hf.sentencepiece import MODEL_FILE
from quantcore.conversion.hf.vocabularies import (
    CONFIG_FILE,
    write_bpe,
    write_sentencepiece,
)
from quantcore.errors import FileFormatError
from quantcore.files.disk import label

_CONTEXT = ("n_positions", "max_position_embeddings")
_FACTORS = ("rope_factors_long.weight", "rope_factors_short.weight")
_ORIGINAL = "original_max_position_embeddings"


def _original_context(context: Context) -> int:
    found = context.config.check(context.config.rope.get(_ORIGINAL), _ORIGINAL, int)
    if not found or found < 1:
        raise FileFormatError(f"{context.config.path}: {_ORIGINAL} is missing")
    return int(found)


def _rope_dimensions(context: Context) -> int:
    part = context.config.rope_value("partial_rotary_factor")
    return int((1.0 if part is None else part) * context.config.count(WIDTH)) // context.config.count(HEADS)


def _write_keys(context: Context) -> None:
    config, writer = context.config, context.writer
    writer.add_context_length(config.require(_CONTEXT))
    writer.add_rope_scaling_orig_ctx_len(_original_context(context))
    writer.add_embedding_length(config.require(WIDTH))
    writer.add_feed_forward_length(config.require(FEED_FORWARD))
    writer.add_block_count(context.n_layers)
    writer.add_head_count(config.require(HEADS))
    writer.add_head_count_kv(config.require(KV_HEADS))
    writer.add_layer_norm_rms_eps(config.require(("rms_norm_eps",), float))
    writer.add_rope_dimension_count(_rope_dimensions(context))
    writer.add_rope_freq_base(config.rope_value("rope_theta"))
    writer.add_file_type(context.file_type)
    # 0 tells Phi-4, which has none, from Phi-3.
    writer.add_sliding_window(config.find(("sliding_window",)) or 0)


def _rope_factors(context: Context) -> list[tuple[str, NDArray[np.float32]]]:
    """The factors of long and of short contexts; the key that scales attention is written here, before all others."""
    config = context.config
    long, short = (_numbers(context, f"{word}_factor") for word in ("long", "short"))
    if not long:
        return []
    n_factors = _rope_dimensions(context) / 2
    if not short or len(long) != len(short) or len(long) != n_factors:
        raise FileFormatError(f"{config.path}: long_factor and short_factor must have {n_factors:g} items each")
    if not config.rope.get("rope_type"):
        raise FileFormatError(f"{config.path}: rope_scaling.type is missing")
    original = _original_context(context)
    context.writer.add_rope_scaling_attn_factors(_attention_factor(config.require(_CONTEXT), original))
    return [
        ("rope_factors_long.weight", np.array(long, np.float32)),
        ("rope_factors_short.weight", np.array(short, np.float32)),
    ]


def _attention_factor(length: int, original: int) -> float:
    scale = length / original
    return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0


def _numbers(context: Context, name: str) -> list[Any]:
    found = context.config.check(context.config.rope.get(name), name, list) or []
    return [context.config.check(item, name, float) for item in found]


def _write_vocabulary(context: Context) -> None:
    tokenizer = context.tokenizer
    if (tokenizer.read(CONFIG_FILE) or {}).get("tokenizer_class") == "GPT2Tokenizer":
        write_bpe(tokenizer, context.writer, context.notices)
        return
    if not tokenizer.has(MODEL_FILE):
        raise FileFormatError(f"{label(context.folder)}: has no tokenizer: {MODEL_FILE} is missing")
    write_sentencepiece(tokenizer, context.writer, marks_only=True)


def _read_settings(metadata: GGUFMetadata) -> dict[str, Any]:
    settings = metadata.decoder("Phi3ForCausalLM", "phi3")
    head_dim = metadata.head_dim(is_whole=False)
    original = metadata.require("rope.scaling.original_context_length")
    scaling: dict[str, Any] | None = metadata.rope_scaling()
    if any(metadata.has(name) for name in _FACTORS):
        factors = {name: metadata.tensors[f"rope_factors_{name}.weight"].values() for name in ("long", "short")}
        scaling = {"type": "longrope"} | {
            f"{name}_factor": [float(str(value)) for value in values] for name, values in factors.items()
        }
        wanted = _attention_factor(settings["max_position_embeddings"], original)
        if not math.isclose(metadata.take("rope.scaling.attn_factor", float) or 0.0, wanted, rel_tol=1e-6):
            raise FileFormatError(f"{metadata.path}: phi3.rope.scaling.attn_factor: expected {wanted:g}")
    return settings | {
        "partial_rotary_factor": metadata.require("rope.dimension_count") / head_dim,
        "original_max_position_embeddings": original,
        "rope_scaling": scaling,
        "sliding_window": metadata.take("attention.sliding_window", int) or None,
        "hidden_act": "silu",
    }


PHI3 = Architecture(
    names=("Phi3ForCausalLM",),
    gguf_name="phi3",
    write_vocabulary=_write_vocabulary,
    write_keys=_write_keys,
    constants=_rope_factors,
    constant_names=_FACTORS,
    tensor_names=(
        *(name for name in DECODER if not name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))),
        *of_layers("self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight", "mlp.down_proj.weight"),
    ),
    read_settings=_read_settings,
)
