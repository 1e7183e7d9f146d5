"""The metadata of a GGUF file as hyperparameters of a Hugging Face checkpoint, the way back of `hyperparameters`.

Whatever a file says of its model has to be understood: a key that nobody asked for may change what the model computes,
so that no config.json is made of it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from quantcore._base.text import brief
from quantcore.errors import FileFormatError
from quantcore.gguf.values import KeyValue
from quantcore.models.tensors import StoredTensor

_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
_TOKENS = (
    ("bos_token_id", "tokenizer.ggml.bos_token_id"),
    ("eos_token_id", "tokenizer.ggml.eos_token_id"),
    ("pad_token_id", "tokenizer.ggml.padding_token_id"),
)
_DECODER = (
    ("hidden_size", "embedding_length", int),
    ("num_hidden_layers", "block_count", int),
    ("intermediate_size", "feed_forward_length", int),
    ("num_attention_heads", "attention.head_count", int),
    ("max_position_embeddings", "context_length", int),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon", float),
)
_YARN = (
    ("attention_factor", "attn_factor"),
    ("extrapolation_factor", "yarn_ext_factor"),
    ("attention_factor", "yarn_attn_factor"),
    ("beta_fast", "yarn_beta_fast"),
    ("beta_slow", "yarn_beta_slow"),
)


class GGUFMetadata:
    """What a GGUF file says of its model.

    Parameters
    ----------
    kvs : iterable of KeyValue
    architecture : str
        `general.architecture`, with which keys begin.
    tensors : mapping of str to StoredTensor
        By the names of llama.cpp.
    path : str
        Of the file, for messages.
    """

    def __init__(
        self, kvs: tuple[KeyValue, ...], architecture: str, tensors: Mapping[str, StoredTensor], path: str
    ) -> None:
        self.tensors = tensors
        self.path = path
        self._kvs = {kv.key: kv for kv in kvs}
        self._prefix = f"{architecture}."
        self._taken: set[str] = set()

    def take(self, key: str, kind: type) -> Any:
        """The value of a key of the architecture; None if it is not there."""
        self._taken.add(key)
        return self._value(self._prefix + key, kind)

    def require(self, key: str, kind: type = int) -> Any:
        """As `take`; a FileFormatError if it is missing."""
        found = self.take(key, kind)
        if found is None:
            raise FileFormatError(f"{self.path}: {self._prefix}{key} is missing")
        return found

    def heads(self, key: str = "attention.head_count") -> int:
        """Heads of queries, or of keys and values, which are as many if the file tells of none."""
        found = self.take(key, int)
        found = self.require("attention.head_count") if found is None else found
        if found < 1:
            raise FileFormatError(f"{self.path}: {self._prefix}{key}: expected an integer >= 1, got {found}")
        return int(found)

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads("attention.head_count_kv")

    def head_dim(self, *, is_whole: bool = True) -> int:
        """Elements of a head, of which the file may tell several times; `is_whole`: all of them are rotated."""
        keys = ("attention.key_length", "attention.value_length", *(["rope.dimension_count"] if is_whole else []))
        found = {value for key in keys if (value := self.take(key, int)) is not None}
        if len(found) > 1:
            raise FileFormatError(f"{self.path}: {' and '.join(keys)} differ: {sorted(found)}")
        return int(found.pop()) if found else int(self.require("embedding_length")) // self.heads()

    def has(self, name: str) -> bool:
        """Whether there is a tensor of a name."""
        return name in self.tensors

    def rows(self, name: str) -> int:
        """The rows of a tensor."""
        if name not in self.tensors:
            raise FileFormatError(f"{self.path}: tensor {name} is missing")
        return int(self.tensors[name].shape[0])

    def vocabulary(self) -> dict[str, Any]:
        """The size of the vocabulary, special tokens, and whether the head is the embedding."""
        tokens = {name: self._value(key, int) for name, key in _TOKENS}
        return {"vocab_size": self.rows("token_embd.weight"), "tie_word_embeddings": not self.has("output.weight")} | {
            name: token if token is not None and token < self.rows("token_embd.weight") else None
            for name, token in tokens.items()
        }

    def decoder(self, name: str, model_type: str) -> dict[str, Any]:
        """What all decoders with rotary embeddings have in common."""
        self.take("vocab_size", int)
        return {
            "architectures": [name],
            "model_type": model_type,
            **{setting: self.require(key, kind) for setting, key, kind in _DECODER},
            "num_key_value_heads": self.kv_heads,
            "rope_theta": self.take("rope.freq_base", float) or 10000.0,
            **self.vocabulary(),
        }

    def rope_scaling(self) -> dict[str, Any] | None:
        """`rope_scaling` of config.json."""
        kind, factor = self.take("rope.scaling.type", str), self.take("rope.scaling.factor", float)
        self.take("rope.scaling.finetuned", bool)
        if kind is None or kind == "none":
            return None
        if kind not in ("linear", "yarn") or factor is None:
            raise FileFormatError(f"{self.path}: {self._prefix}rope.scaling.type: {kind!r} is not understood")
        found = {"rope_type": kind, "factor": factor}
        if kind == "yarn":
            found["original_max_position_embeddings"] = self.require("rope.scaling.original_context_length")
            yarn = ((name, self.take(f"rope.scaling.{key}", float)) for name, key in _YARN)
            found |= {name: value for name, value in yarn if value is not None}
        return found

    def check_understood(self) -> None:
        """Refuse if there is a key of the architecture that nothing was made of."""
        keys = (key.removeprefix(self._prefix) for key in self._kvs if key.startswith(self._prefix))
        if unknown := sorted(set(keys) - self._taken):
            raise FileFormatError(f"{self.path}: {self._prefix}{unknown[0]} has no place in it")

    def _value(self, key: str, kind: type) -> Any:
        if key not in self._kvs:
            return None
        found = self._kvs[key].value
        if isinstance(found, bool) == (kind is bool):
            if kind is float and isinstance(found, (int, float)):
                # The shortest number that is this one in float32: 1e-05, and not 9.999999747378752e-06.
                return float(str(np.float32(found)))
            if isinstance(found, kind):
                return found
        raise FileFormatError(f"{self.path}: {key}: expected {_KINDS[kind]}, got {brief(found)}")
