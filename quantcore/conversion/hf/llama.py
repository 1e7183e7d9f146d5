"""Llama, Mistral and Mixtral. Source: `conversion/llama.py` of llama.cpp."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantcore.conversion.hf.architecture import (
    DECODER,
    FEED_FORWARD_NAMES,
    QKV_BIASES,
    SCALED,
    Architecture,
    Context,
    Experts,
    of_layers,
    write_common_keys,
)
from quantcore.conversion.hf.metadata_reader import GGUFMetadata
from quantcore.conversion.hf.sentencepiece import MODEL_FILE
from quantcore.conversion.hf.vocabularies import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    has_byte_fallback,
    write_bpe,
    write_byte_fallback,
    write_sentencepiece,
    write_special,
)
from quantcore.errors import FileFormatError
from quantcore.files.disk import label

_FREQUENCIES = "rope_freqs.weight"
_CODE_LLAMA_TOKENS, _GRANITE_TOKENS = 32016, 49152
_CODE_LLAMA_SPECIAL = {"prefix": 32007, "suffix": 32008, "middle": 32009, "eot": 32010}


def _write_vocabulary(context: Context) -> None:
    tokenizer, writer = context.tokenizer, context.writer
    if tokenizer.has("tekken.json") and not tokenizer.has(TOKENIZER_FILE):
        raise FileFormatError(f"{label(tokenizer.folder)}: has no tokenizer that is read: only tekken.json")
    prefix = (tokenizer.read(CONFIG_FILE) or {}).get("add_prefix_space")
    if isinstance(prefix, bool):
        writer.add_add_space_prefix(prefix)
    if tokenizer.has(MODEL_FILE):
        write_sentencepiece(tokenizer, writer)
    elif has_byte_fallback(tokenizer):
        write_byte_fallback(tokenizer, writer)
    else:
        write_bpe(tokenizer, writer, context.notices)
    if tokenizer.vocab_size == _CODE_LLAMA_TOKENS:
        names = tuple(_CODE_LLAMA_SPECIAL)
        write_special(tokenizer, writer, defaults=_CODE_LLAMA_SPECIAL, special_token_types=names)
    if tokenizer.vocab_size == _GRANITE_TOKENS:
        writer.add_add_bos_token(False)


def _write_keys(context: Context) -> None:
    write_common_keys(context)
    context.writer.add_vocab_size(context.tokenizer.vocab_size)
    context.writer.add_rope_dimension_count(context.config.head_dim)


def _rope_freqs(context: Context) -> list[tuple[str, NDArray[np.float32]]]:
    """Factors by which the frequencies of Llama 3 are divided.

    Source: `_compute_llama3_parameters` in transformers' `modeling_rope_utils.py`; in float32 as the converter has it.
    """
    config = context.config
    if str(config.rope_value("rope_type", str) or "").lower() != "llama3":
        return []
    values = {
        name: default if (value := config.rope_value(name)) is None else value
        for name, default in (
            ("rope_theta", 10000.0),
            ("factor", 8.0),
            ("low_freq_factor", 1.0),
            ("high_freq_factor", 4.0),
            ("original_max_position_embeddings", 8192),
        )
    }
    if min(values.values()) <= 0 or values["low_freq_factor"] == values["high_freq_factor"]:
        raise FileFormatError(f"{config.path}: rope parameters of llama3 must be positive, its two factors different")
    return [(_FREQUENCIES, _compute_factors(config.head_dim, values))]


def _compute_factors(head_dim: int, values: Mapping[str, float]) -> NDArray[np.float32]:
    """The factors in float32, in the order of torch's operations: a quotient of a number and a tensor is the reciprocal
    times the number. Powers are rounded correctly, from which torch's own differ in the last bit on some CPUs.
    """
    f32 = np.float32
    exponents = np.arange(0, head_dim, 2, dtype=f32) / f32(head_dim)
    powers = np.power(float(f32(values["rope_theta"])), exponents.astype(np.float64)).astype(f32)
    factor, original = values["factor"], values["original_max_position_embeddings"]
    low, high = values["low_freq_factor"], values["high_freq_factor"]
    factors = []
    for wavelength in f32(1) / (f32(1) / powers) * f32(2 * math.pi):
        if wavelength < original / high:
            factors.append(f32(1))
        elif wavelength > original / low:
            factors.append(f32(factor))
        else:
            smooth = (f32(1) / wavelength * f32(original) - f32(low)) / f32(high - low)
            factors.append(f32(1) / ((f32(1) - smooth) / f32(factor) + smooth))
    return np.array(factors, f32)


def _read_settings(metadata: GGUFMetadata) -> dict[str, Any]:
    n_experts = metadata.take("expert_count", int)
    name, model_type = ("MixtralForCausalLM", "mixtral") if n_experts else ("LlamaForCausalLM", "llama")
    settings = metadata.decoder(name, model_type)
    settings |= {"head_dim": metadata.head_dim(), "hidden_act": "silu", "rope_scaling": metadata.rope_scaling()}
    if metadata.has(_FREQUENCIES):
        if settings["rope_scaling"] is not None:
            raise FileFormatError(f"{metadata.path}: {_FREQUENCIES} besides another scaling of the rotary embedding")
        settings["rope_scaling"] = _read_factors(metadata, settings["head_dim"], settings["rope_theta"])
    biases = ["blk.0.attn_q.bias", "blk.0.attn_k.bias", "blk.0.attn_v.bias", "blk.0.attn_output.bias"]
    n_biases = sum(map(metadata.has, biases))
    if n_experts:
        settings |= {"num_local_experts": n_experts, "num_experts_per_tok": metadata.require("expert_used_count")}
    else:
        settings |= {"attention_bias": n_biases > 0, "mlp_bias": metadata.has("blk.0.ffn_up.bias")}
    if n_biases not in ((0,) if n_experts else (0, len(biases))):
        raise FileFormatError(f"{metadata.path}: {name} does not have the biases of this file")
    return settings


def _read_factors(metadata: GGUFMetadata, head_dim: int, theta: float) -> dict[str, Any]:
    """The parameters that give the same factors to the last bit: those of Llama 3.1 and later, for some context."""
    found = metadata.tensors[_FREQUENCIES].values()
    for exponent in range(4, 25):
        values = {
            "factor": float(found.max()),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1 << exponent,
        }
        if np.array_equal(_compute_factors(head_dim, {**values, "rope_theta": theta}), found):
            return {"rope_type": "llama3", **values}
    raise FileFormatError(f"{metadata.path}: {_FREQUENCIES} has no factors of llama3")


LLAMA = Architecture(
    names=("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"),
    gguf_name="llama",
    scaled=(*SCALED, "w1.weight", "w2.weight", "w3.weight"),
    write_vocabulary=_write_vocabulary,
    write_keys=_write_keys,
    rename=lambda name: name.replace("text_model.", ""),
    is_permuted=True,
    experts=Experts(
        part="block_sparse_moe.experts",
        name="model.layers.{layer}.block_sparse_moe.experts.{expert}.{word}.weight",
        stacked="layers.{layer}.feed_forward.experts.{word}.weight",
        words=("w1", "w2", "w3"),
        count=("num_local_experts",),
        fused={"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)},
    ),
    constants=_rope_freqs,
    constant_names=(_FREQUENCIES,),
    tensor_names=(
        *DECODER,
        *FEED_FORWARD_NAMES,
        *QKV_BIASES,
        *of_layers("self_attn.o_proj.bias", "mlp.gate_proj.bias", "mlp.up_proj.bias", "mlp.down_proj.bias"),
        *of_layers("block_sparse_moe.gate.weight"),
    ),
    read_settings=_read_settings,
)
