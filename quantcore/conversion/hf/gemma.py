"""Gemma 2 and the text part of Gemma 3. Source: `conversion/gemma.py` of llama.cpp."""

from typing import Any

import numpy as np

from quantcore.conversion.hf.architecture import (
    DECODER,
    FEED_FORWARD_NAMES,
    QK_NORMS,
    SCALED,
    Architecture,
    Context,
    of_layers,
    write_common_keys,
)
from quantcore.conversion.hf.hyperparameters import CONTEXT, FEED_FORWARD, HEADS, KV_HEADS, LAYERS, VOCABULARY, WIDTH
from quantcore.conversion.hf.keys import reading
from quantcore.conversion.hf.metadata_reader import GGUFMetadata
from quantcore.conversion.hf.sentencepiece import MODEL_FILE
from quantcore.conversion.hf.streams import select_rows
from quantcore.conversion.hf.vocabularies import (
    read_sentencepiece,
    write_bpe,
    write_sentencepiece,
)
from quantcore.errors import FileFormatError
from quantcore.files.disk import label
from quantcore.models.tensors import StoredTensor

_ENDINGS = ("norm.weight",)  # Gemma's norms multiply by one more than their weights.


def _write_gemma2_keys(context: Context) -> None:
    config, writer = context.config, context.writer
    writer.add_context_length(config.require(CONTEXT))
    writer.add_embedding_length(config.require(WIDTH))
    writer.add_block_count(context.n_layers)
    writer.add_feed_forward_length(config.require(FEED_FORWARD))
    writer.add_head_count(config.require(HEADS))
    writer.add_head_count_kv(config.require(KV_HEADS))
    writer.add_layer_norm_rms_eps(config.require(("rms_norm_eps",), float))
    writer.add_key_length(config.require(("head_dim",)))
    writer.add_value_length(config.require(("head_dim",)))
    writer.add_file_type(context.file_type)
    writer.add_attn_logit_softcapping(config.require(("attn_logit_softcapping",), float))
    writer.add_final_logit_softcapping(config.require(("final_logit_softcapping",), float))
    writer.add_sliding_window(config.require(("sliding_window",)))


def _write_gemma3_keys(context: Context) -> None:
    config, writer = context.config, context.writer
    write_common_keys(context)
    # Keys that are there already keep their place.
    theta = config.rope_value("rope_theta")
    writer.add_rope_freq_base(1_000_000.0 if theta is None else theta)
    if config.find(("attn_logit_softcapping",), float) is not None:
        raise FileFormatError(f"{config.path}: attn_logit_softcapping: Gemma 3 has none")
    if cap := config.find(("final_logit_softcapping",), float):
        writer.add_final_logit_softcapping(cap)
    if config.find(("sliding_window_pattern",)) != 1:
        writer.add_sliding_window(config.require(("sliding_window",)))
    writer.add_head_count_kv(config.require(KV_HEADS))


def _write_sentencepiece(context: Context) -> None:
    if not context.tokenizer.has(MODEL_FILE):
        raise FileFormatError(f"{label(context.folder)}: has no tokenizer: {MODEL_FILE} is missing")
    write_sentencepiece(context.tokenizer, context.writer)
    context.writer.add_add_space_prefix(False)


def _write_vocabulary(context: Context) -> None:
    if context.tokenizer.has(MODEL_FILE):
        _write_sentencepiece(context)
    else:
        write_bpe(context.tokenizer, context.writer, context.notices)


def _cut_embedding(context: Context, tensor: StoredTensor) -> list[StoredTensor] | None:
    """The embedding without rows beyond the vocabulary."""
    if "embed_tokens.weight" not in tensor.name:
        return None
    tokenizer = context.tokenizer
    with reading(context.folder, "tokenizer"):
        if tokenizer.has(MODEL_FILE):
            n_tokens = len(read_sentencepiece(tokenizer)[0])
        else:
            spec = tokenizer.require()
            n_tokens = len(spec["model"]["vocab"]) + len(spec.get("added_tokens") or [])
    return [select_rows(tensor, tensor.name, np.arange(min(n_tokens, tensor.shape[0])))]


def _read_settings(metadata: GGUFMetadata, version: str, model_type: str, large: int) -> dict[str, Any]:
    """What both have; llama.cpp scales the attention of the largest model, by its layers, otherwise than the others."""
    settings = metadata.decoder(f"Gemma{version}ForCausalLM", model_type)
    if not settings["tie_word_embeddings"]:
        raise FileFormatError(f"{metadata.path}: output.weight: Gemma {version} has no head of its own")
    head_dim = metadata.head_dim()
    is_large = settings["num_hidden_layers"] == large
    return settings | {
        "head_dim": head_dim,
        "query_pre_attn_scalar": settings["hidden_size"] // settings["num_attention_heads"] if is_large else head_dim,
        "sliding_window": metadata.require("attention.sliding_window"),
        "hidden_activation": "gelu_pytorch_tanh",
        "final_logit_softcapping": metadata.take("final_logit_softcapping", float),
        "attn_logit_softcapping": metadata.take("attn_logit_softcapping", float),
        "attention_bias": False,
    }


def _read_gemma3_settings(metadata: GGUFMetadata) -> dict[str, Any]:
    return _read_settings(metadata, "3", "gemma3_text", 62) | {
        "rope_local_base_freq": metadata.take("rope.freq_base_swa", float) or 10000.0,
        "rope_scaling": metadata.rope_scaling(),
        "sliding_window_pattern": 6,
    }


_NAMES = (
    *(name for name in DECODER if name != "lm_head.weight"),
    *FEED_FORWARD_NAMES,
    *of_layers("pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"),
)

GEMMA2 = Architecture(
    names=("Gemma2ForCausalLM",),
    gguf_name="gemma2",
    scaled=SCALED,
    tensor_names=_NAMES,
    read_settings=lambda metadata: _read_settings(metadata, "2", "gemma2", 46),
    write_vocabulary=_write_sentencepiece,
    write_keys=_write_gemma2_keys,
    rename=lambda name: None if name == "lm_head.weight" else name,
    shifted=_ENDINGS,
)
GEMMA3 = Architecture(
    names=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    gguf_name="gemma3",
    scaled=SCALED,
    tensor_names=(*_NAMES, *QK_NORMS),
    read_settings=_read_gemma3_settings,
    write_vocabulary=_write_vocabulary,
    write_keys=_write_gemma3_keys,
    shifted=_ENDINGS,
    split=_cut_embedding,
    required=(LAYERS, WIDTH, HEADS, FEED_FORWARD, VOCABULARY),
)
