"""gpt-oss. Source: `conversion/gpt_oss.py` of llama.cpp.

The experts of a layer are one tensor, in which rows of gate and up take turns; MXFP4 is taken over as it is.
"""

from dataclasses import replace

import numpy as np

from quantcore._base.text import quote
from quantcore.conversion.hf.architecture import Architecture, Context, write_common_keys
from quantcore.conversion.hf.streams import select_rows, transpose_stack
from quantcore.conversion.hf.vocabularies import write_bpe
from quantcore.errors import FileFormatError
from quantcore.models.tensors import StoredTensor

_EXPERTS = ".mlp.experts."


def _write_keys(context: Context) -> None:
    write_common_keys(context)
    context.writer.add_sliding_window(context.config.require(("sliding_window",)))
    context.writer.add_expert_feed_forward_length(context.config.count(("intermediate_size",)))


def _rename(name: str) -> str:
    return f"{name}.weight" if "sinks" in name else name


def _split_experts(_context: Context, tensor: StoredTensor) -> list[StoredTensor] | None:
    base, found, part = tensor.name.rpartition(_EXPERTS)
    if not found:
        return None
    word, _, ending = part.partition("_proj")
    end = "bias" if ending == "_bias" else "weight"
    if word not in ("gate_up", "down") or ending not in ("", "_bias") or len(tensor.shape) != (2 if ending else 3):
        raise FileFormatError(f"{tensor.file}: tensor {quote(tensor.name)}: shape {tensor.shape} is not of experts")
    if end == "weight" and tensor.ggml is not None and tensor.ggml.block_size == 1:
        tensor = transpose_stack(tensor, tensor.name)  # floats are the other way round than blocks
    if word == "down":
        return [replace(tensor, name=f"{base}{_EXPERTS}down_proj.{end}")]
    n_experts, n_rows = tensor.shape[:2]
    if n_rows % 2:
        raise FileFormatError(f"{tensor.file}: tensor {quote(tensor.name)}: {n_rows} rows are not gate and up")
    flat = replace(tensor, shape=(n_experts * n_rows, *tensor.shape[2:]))
    rows = np.arange(n_experts * n_rows)
    shape = (n_experts, n_rows // 2, *tensor.shape[2:])
    return [
        replace(select_rows(flat, f"{base}{_EXPERTS}{word}_proj.{end}", rows[first::2]), shape=shape)
        for first, word in enumerate(("gate", "up"))
    ]


GPT_OSS = Architecture(
    names=("GptOssForCausalLM",),
    gguf_name="gpt-oss",
    write_vocabulary=lambda context: write_bpe(context.tokenizer, context.writer, context.notices),
    write_keys=_write_keys,
    rename=_rename,
    split=_split_experts,
)
