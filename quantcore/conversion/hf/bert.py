"""BERT: MiniLM, BGE and other encoders. Source: `conversion/bert.py` of llama.cpp."""

from dataclasses import replace
from typing import Any

from quantcore.conversion.hf.architecture import Architecture, Context, write_common_keys
from quantcore.conversion.hf.metadata_reader import GGUFMetadata
from quantcore.conversion.hf.pooling import write_pooling
from quantcore.conversion.hf.vocabularies import write_word_pieces
from quantcore.errors import FileFormatError
from quantcore.models.tensors import StoredTensor

_LEFT_OUT = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
_LEFT_OUT_PARTS = ("cls.predictions", "cls.seq_relationship")


def _write_keys(context: Context) -> None:
    write_common_keys(context)
    context.writer.add_causal_attention(False)
    write_pooling(context)
    if labels := _labels(context):
        context.writer.add_classifier_output_labels(labels)


def _labels(context: Context) -> list[str]:
    """The names of a classifier's outputs; none if they are those that transformers makes up."""
    labels = context.config.check(context.config.values.get("id2label"), "id2label", dict) or {}
    names = [str(labels[key]) for key in sorted(labels, key=int)]
    return [] if len(names) == 2 and names[0] == "LABEL_0" else names


def _name_classifier(context: Context, tensor: StoredTensor) -> list[StoredTensor] | None:
    """The classifier's matrix gives the output where its outputs have names; llama.cpp takes it for a layer before that
    where they have none.
    """
    if not tensor.name.startswith("classifier."):
        return None
    if not _labels(context):
        if len(tensor.shape) == 2 and tensor.shape[0] != tensor.shape[1]:
            context.notices.append(
                f"{tensor.name}: llama.cpp does not load classifiers whose outputs have no names: give them as "
                f"id2label in config.json"
            )
        return None
    return [replace(tensor, name=tensor.name.replace("classifier.", "classifier.out_proj."))]


def _write_vocabulary(context: Context) -> None:
    n_types = context.config.count(("type_vocab_size",))
    write_word_pieces(context.tokenizer, context.writer, context.notices, n_types)


def _rename(name: str) -> str | None:
    name = name.removeprefix("bert.")
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            name = name.removesuffix(old) + new
    # Only the encoder is used: neither its pooler nor the heads of its training.
    if name in _LEFT_OUT or name.startswith(_LEFT_OUT_PARTS):
        return None
    return name


def _read_settings(metadata: GGUFMetadata) -> dict[str, Any]:
    if metadata.take("attention.causal", bool) is not False:
        raise FileFormatError(f"{metadata.path}: bert.attention.causal: expected false")
    if metadata.has("cls.output.weight") or metadata.has("cls.weight"):
        raise FileFormatError(f"{metadata.path}: the classifier is without its pooler")
    metadata.take("pooling_type", int)
    tokens = metadata.vocabulary()
    del tokens["tie_word_embeddings"]
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": metadata.require("embedding_length"),
        "num_hidden_layers": metadata.require("block_count"),
        "num_attention_heads": metadata.heads(),
        "intermediate_size": metadata.require("feed_forward_length"),
        "max_position_embeddings": metadata.require("context_length"),
        "type_vocab_size": metadata.rows("token_types.weight"),
        "layer_norm_eps": metadata.require("attention.layer_norm_epsilon", float),
        "hidden_act": "gelu",
        **tokens,
    }


_BLOCK = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip
_TENSORS = (
    *(f"embeddings.{part}_embeddings.weight" for part in ("word", "position", "token_type")),
    "embeddings.LayerNorm.weight",
    "embeddings.LayerNorm.bias",
    "classifier.weight",
    "classifier.bias",
    *(f"encoder.layer.{{layer}}.{part}.{end}" for part in _BLOCK for end in ("weight", "bias")),
)  # fmt: skip

BERT = Architecture(
    names=("BertModel", "BertForMaskedLM", "BertForSequenceClassification"),
    gguf_name="bert",
    write_vocabulary=_write_vocabulary,
    write_keys=_write_keys,
    tensor_names=_TENSORS,
    read_settings=_read_settings,
    rename=_rename,
    split=_name_classifier,
)
