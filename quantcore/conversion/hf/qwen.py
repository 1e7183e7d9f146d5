"""Qwen2, Qwen3 and Qwen3-MoE. Source: `conversion/qwen.py` of llama.cpp."""

from dataclasses import replace
from typing import Any

import numpy as np

from quantcore._base.text import quote
from quantcore.conversion.hf.architecture import (
    DECODER,
    FEED_FORWARD_NAMES,
    QK_NORMS,
    QKV_BIASES,
    SCALED,
    Architecture,
    Context,
    Experts,
    of_layers,
    write_common_keys,
)
from quantcore.conversion.hf.metadata_reader import GGUFMetadata
from quantcore.conversion.hf.pooling import write_pooling
from quantcore.conversion.hf.sentencepiece import MODEL_FILE
from quantcore.conversion.hf.streams import select_rows
from quantcore.conversion.hf.vocabularies import write_bpe, write_sentencepiece
from quantcore.errors import FileFormatError
from quantcore.models.tensors import StoredTensor


def _write_vocabulary(context: Context) -> None:
    if context.tokenizer.has(MODEL_FILE):
        write_sentencepiece(context.tokenizer, context.writer)
    else:
        write_bpe(context.tokenizer, context.writer, context.notices)


def _write_keys(context: Context) -> None:
    write_common_keys(context)
    write_pooling(context)


def _write_qwen3_keys(context: Context) -> None:
    """As for Qwen2; rerankers are refused, whose output is cut down to two tokens in llama.cpp."""
    named = context.config.values.get("_name_or_path")
    if any("qwen3-reranker" in str(name).lower() for name in (context.folder.resolve().name, named)):
        raise FileFormatError(f"{context.config.path}: a reranker of Qwen3 is not converted")
    _write_keys(context)


def _write_expert_keys(context: Context) -> None:
    write_common_keys(context)
    for key in ("moe_intermediate_size", "shared_expert_intermediate_size"):
        if (size := context.config.find((key,))) is not None:
            shared = "shared_" if key.startswith("shared") else ""
            getattr(context.writer, f"add_expert_{shared}feed_forward_length")(size)


def _split_fused_experts(_: Context, tensor: StoredTensor) -> list[StoredTensor] | None:
    """Experts that are one tensor already: of gate and up together, half of each expert's rows is one of them."""
    name = tensor.name.removesuffix(".weight")
    if name.endswith("mlp.experts.down_proj"):
        return [replace(tensor, name=f"{name}.weight")]
    if not name.endswith("mlp.experts.gate_up_proj"):
        return None
    if len(tensor.shape) != 3 or tensor.shape[1] % 2:
        raise FileFormatError(f"{tensor.file}: tensor {quote(tensor.name)}: shape {tensor.shape} is not gate and up")
    n_experts, n_rows, width = tensor.shape
    flat = replace(tensor, shape=(n_experts * n_rows, width))
    rows = np.arange(n_experts * n_rows).reshape(n_experts, 2, n_rows // 2)
    base = name.removesuffix(".gate_up_proj")
    return [
        replace(
            select_rows(flat, f"{base}.{word}.weight", rows[:, half].reshape(-1)), shape=(n_experts, n_rows // 2, width)
        )
        for half, word in enumerate(("gate_proj", "up_proj"))
    ]


def _read_settings(metadata: GGUFMetadata, version: str) -> dict[str, Any]:
    metadata.take("pooling_type", int)
    return metadata.decoder(f"Qwen{version}ForCausalLM", f"qwen{version.replace('M', '_m').lower()}") | {
        "head_dim": metadata.head_dim(),
        "rope_scaling": metadata.rope_scaling(),
        "hidden_act": "silu",
        "use_sliding_window": False,
    }


def _read_qwen2_settings(metadata: GGUFMetadata) -> dict[str, Any]:
    if not metadata.has("blk.0.attn_q.bias"):
        raise FileFormatError(f"{metadata.path}: Qwen 2 has biases, but blk.0.attn_q.bias is missing")
    return _read_settings(metadata, "2")


def _read_qwen3_settings(metadata: GGUFMetadata) -> dict[str, Any]:
    return _read_settings(metadata, "3") | {"attention_bias": metadata.has("blk.0.attn_q.bias")}


def _read_expert_settings(metadata: GGUFMetadata) -> dict[str, Any]:
    return _read_settings(metadata, "3Moe") | {
        "attention_bias": False,
        "num_experts": metadata.require("expert_count"),
        "num_experts_per_tok": metadata.require("expert_used_count"),
        "moe_intermediate_size": metadata.require("expert_feed_forward_length"),
        # What llama.cpp does, whatever the original had.
        "norm_topk_prob": True,
    }


QWEN2 = Architecture(
    names=("Qwen2ForCausalLM",),
    gguf_name="qwen2",
    write_vocabulary=_write_vocabulary,
    write_keys=_write_keys,
    tensor_names=(*DECODER, *FEED_FORWARD_NAMES, *QKV_BIASES),
    read_settings=_read_qwen2_settings,
)
QWEN2_ENCODER = replace(QWEN2, names=("Qwen2Model",), rename=lambda name: f"model.{name}")
QWEN3 = replace(
    QWEN2,
    names=("Qwen3ForCausalLM", "Qwen3Model"),
    gguf_name="qwen3",
    scaled=SCALED,
    write_keys=_write_qwen3_keys,
    tensor_names=(*DECODER, *FEED_FORWARD_NAMES, *QK_NORMS),
    read_settings=_read_qwen3_settings,
)
QWEN3_MOE = Architecture(
    names=("Qwen3MoeForCausalLM",),
    gguf_name="qwen3moe",
    scaled=SCALED,
    write_vocabulary=lambda context: write_bpe(context.tokenizer, context.writer, context.notices),
    write_keys=_write_expert_keys,
    tensor_names=(*DECODER, *of_layers("mlp.gate.weight"), *QK_NORMS),
    read_settings=_read_expert_settings,
    experts=Experts(
        part="mlp.experts.",
        name="model.layers.{layer}.mlp.experts.{expert}.{word}.weight",
        stacked="model.layers.{layer}.mlp.experts.{word}.weight",
        words=("down_proj", "gate_proj", "up_proj"),
        count=("num_local_experts", "num_experts"),
        fused={"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)},
    ),
    split=_split_fused_experts,
)
