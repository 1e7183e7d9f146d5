"""What transformers takes where config.json leaves a hyperparameter out, by `model_type`.

Source: the configuration classes of transformers 4.57. Sizes without which there is no model have no default here.
"""

from collections.abc import Callable, Mapping
from typing import Any

_Values = dict[str, Any]


def _heads(values: _Values) -> Any:
    return values.get("num_attention_heads")


def _head_dim(values: _Values) -> Any:
    width, heads = values.get("hidden_size"), values.get("num_attention_heads")
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else None


DERIVED: Mapping[str, Mapping[str, Callable[[_Values], Any]]] = {
    "llama": {"num_key_value_heads": _heads, "head_dim": _head_dim},
    "phi3": {"num_key_value_heads": _heads},
    **{name: {"num_key_value_heads": _heads} for name in ("mistral", "mixtral", "qwen2", "qwen3")},
}
"""Hyperparameters that follow from others where they are missing or null."""

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10000.0},
    "mistral": {
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "num_key_value_heads": 8,
    },
    "mixtral": {
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "num_key_value_heads": 8,
        "num_local_experts": 8, "num_experts_per_tok": 2,
    },
    "bert": {"max_position_embeddings": 512, "layer_norm_eps": 1e-12, "type_vocab_size": 2},
    "qwen2": {
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "num_key_value_heads": 32,
    },
    "qwen3": {
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "num_key_value_heads": 32,
        "head_dim": 128,
    },
    "qwen3_moe": {
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "num_key_value_heads": 4,
        "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
    },
    "gemma2": {
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "num_key_value_heads": 4,
        "head_dim": 256, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096,
    },
    "gemma3_text": {
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0, "num_key_value_heads": 4, "num_attention_heads": 8, "head_dim": 256,
        "sliding_window": 4096, "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216,
        "num_hidden_layers": 26,
    },
    "phi3": {
        "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "partial_rotary_factor": 1.0,
    },
    "gpt_oss": {
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 150000.0, "num_key_value_heads": 8,
        "head_dim": 64, "num_local_experts": 128, "num_experts_per_tok": 4, "sliding_window": 128,
    },
    "gpt2": {"n_positions": 1024, "layer_norm_epsilon": 1e-5},
}  # fmt: skip


def fill_in(values: _Values, model_type: str) -> _Values:
    """Hyperparameters with what transformers takes for those that are missing."""
    filled = {**DEFAULTS.get(model_type, {}), **values}
    for name, derive in DERIVED.get(model_type, {}).items():
        if filled.get(name) is None and (derived := derive(filled)) is not None:
            filled[name] = derived
    return filled
