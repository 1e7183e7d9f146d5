"""GPT-2. Source: `conversion/gpt2.py` of llama.cpp."""

from typing import Any

from quantcore.conversion.hf.architecture import Architecture, Context
from quantcore.conversion.hf.hyperparameters import HEADS, LAYERS, VOCABULARY
from quantcore.conversion.hf.metadata_reader import GGUFMetadata
from quantcore.conversion.hf.vocabularies import write_bpe
from quantcore.errors import FileFormatError


def _write_keys(context: Context) -> None:
    config, writer = context.config, context.writer
    width = config.count(("n_embd",))
    writer.add_block_count(context.n_layers)
    writer.add_context_length(config.require(("n_ctx", "n_positions")))
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(4 * width)
    writer.add_head_count(config.require(("n_head",)))
    writer.add_layer_norm_eps(config.require(("layer_norm_epsilon",), float))
    writer.add_file_type(context.file_type)


def _rename(name: str) -> str | None:
    # The mask of the attention, which older files hold.
    return None if name.endswith((".attn.bias", ".attn.masked_bias")) else name


def _read_settings(metadata: GGUFMetadata) -> dict[str, Any]:
    width = metadata.require("embedding_length")
    if metadata.require("feed_forward_length") != 4 * width:
        raise FileFormatError(f"{metadata.path}: gpt2.feed_forward_length is not four times the width")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": width,
        "n_layer": metadata.require("block_count"),
        "n_head": metadata.heads(),
        "n_positions": metadata.require("context_length"),
        "layer_norm_epsilon": metadata.require("attention.layer_norm_epsilon", float),
        "activation_function": "gelu_new",
        **metadata.vocabulary(),
    }


_BLOCK = (
    *(f"{part}.{end}" for part in ("ln_1", "ln_2", "attn.c_attn", "attn.c_proj") for end in ("weight", "bias")),
    *(f"mlp.{part}.{end}" for part in ("c_fc", "c_proj") for end in ("weight", "bias")),
)
_TENSORS = (
    "transformer.wte.weight",
    "transformer.wpe.weight",
    "transformer.ln_f.weight",
    "transformer.ln_f.bias",
    "lm_head.weight",
    *(f"transformer.h.{{layer}}.{name}" for name in _BLOCK),
)  # fmt: skip

GPT2 = Architecture(
    names=("GPT2LMHeadModel",),
    gguf_name="gpt2",
    write_vocabulary=lambda context: write_bpe(context.tokenizer, context.writer, context.notices),
    write_keys=_write_keys,
    tensor_names=_TENSORS,
    read_settings=_read_settings,
    rename=_rename,
    transposed=(".c_attn.weight", ".c_proj.weight", ".c_fc.weight"),
    required=(LAYERS, ("n_embd",), HEADS, VOCABULARY),
)
