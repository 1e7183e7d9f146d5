"""Models, importance matrices and options on which whole files are compared with those of llama-quantize.

The golden digests (`tests/golden/llama_quantize/`) stand for files made from exactly these bytes, so nothing here may
depend on the version of a library: files are built field by field, and the values are raw bits of a generator.
"""

import hashlib
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.support import gguf_bytes
from tests.support.gguf_bytes import KV, Tensor, text_kv, u32

TYPES = (
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L",
    "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS",
    "IQ3_XS", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4_MOE", "Q1_0", "Q2_0",
)  # fmt: skip
"""Every name of llama-quantize but COPY and the aliases."""
DATASET, CHUNKS, MATRIX_FILE = "calibration.txt", 7, "matrix.gguf"
_BITS = {"F32": gguf_bytes.F32, "F16": gguf_bytes.F16, "BF16": gguf_bytes.BF16}


@dataclass(frozen=True)
class Source:
    """A model: its hyper-parameters and the shapes of its tensors, the innermost extent last."""

    architecture: str
    parameters: dict[str, int | float]
    tensors: dict[str, tuple[int, ...]]
    weight_type: str = "F32"

    def build(self) -> bytes:
        """The GGUF file."""
        kvs = [text_kv(b"general.architecture", self.architecture.encode()), text_kv(b"general.name", b"tiny")]
        for key, value in self.parameters.items():
            name = f"{self.architecture}.{key}".encode()
            if isinstance(value, bool):
                kvs.append(KV(name, gguf_bytes.BOOL, bytes([value])))
            elif isinstance(value, float):
                kvs.append(KV(name, gguf_bytes.F32_VALUE, struct.pack("<f", value)))
            else:
                kvs.append(KV(name, gguf_bytes.U32, u32(value)))
        kvs.append(KV(b"general.file_type", gguf_bytes.U32, u32(0)))
        tensors = [self._tensor(i, name, shape) for i, (name, shape) in enumerate(self.tensors.items())]
        return gguf_bytes.build_gguf(kvs=kvs, tensors=tensors)

    def weights(self) -> dict[str, np.ndarray]:
        """Importance of the columns of every matrix but one, float32 of shape (matrices, columns)."""
        found = {}
        for i, (name, shape) in enumerate(self.tensors.items()):
            if len(shape) > 1 and name != "token_embd.weight":
                n_matrices = shape[0] if len(shape) > 2 else 1
                raw = _raw(1000 + i, n_matrices * shape[-1])
                found[name] = ((raw >> np.uint64(50)) + np.uint64(1)).astype(np.float32).reshape(n_matrices, shape[-1])
        return found

    def _tensor(self, seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
        weight_type = self.weight_type if len(shape) > 1 else "F32"
        values = make_values(seed, shape)
        if weight_type == "F16":
            data = values.astype(np.float16).tobytes()
        elif weight_type == "BF16":  # cut off
            data = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16).tobytes()
        else:
            data = values.tobytes()
        return Tensor(name.encode(), tuple(reversed(shape)), _BITS[weight_type], data)


def make_values(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Bell-shaped values, larger in some columns: sums of bits, so that none is rounded."""
    size = int(np.prod(shape))
    raw = _raw(seed, size)
    sixteen = np.uint64(0xFFFF)
    total = sum(((raw >> np.uint64(shift)) & sixteen).astype(np.int64) for shift in (0, 16, 32, 48))
    scales = np.exp2((_raw(seed + 500, shape[-1]) >> np.uint64(62)).astype(np.float32))
    values = ((total - 2 * 65535).astype(np.float32) * np.float32(2**-18)).reshape(shape)
    return np.ascontiguousarray(values * scales)


def _raw(seed: int, count: int) -> np.ndarray:
    return np.random.PCG64(seed).random_raw(count)


def _parameters(
    n_layers: int, n_heads: int, n_kv_heads: int, width: int, ff: int, **more: int | float
) -> dict[str, Any]:
    return {
        "context_length": 64, "embedding_length": width, "block_count": n_layers, "feed_forward_length": ff,
        "attention.head_count": n_heads, "attention.head_count_kv": n_kv_heads,
        "attention.layer_norm_rms_epsilon": 2.0**-17, "attention.layer_norm_epsilon": 2.0**-17,
        "rope.dimension_count": width // n_heads, "vocab_size": 16, **more,
    }  # fmt: skip


def _llama(n_layers: int, width: int = 256, ff: int = 256, *, n_experts: int = 0, tied: bool = False) -> dict[str, Any]:
    tensors: dict[str, tuple[int, ...]] = {"token_embd.weight": (16, width)}
    for i in range(n_layers):
        block = f"blk.{i}."
        tensors[block + "attn_norm.weight"] = (width,)
        tensors |= {f"{block}attn_{part}.weight": (4, width) for part in ("q", "k", "v", "output")}
        if n_experts:
            tensors[block + "ffn_gate_inp.weight"] = (n_experts, width)
        stack, suffix = ((n_experts,), "_exps") if n_experts else ((), "")
        tensors |= {f"{block}ffn_{part}{suffix}.weight": (*stack, 3, width) for part in ("gate", "up")}
        tensors[f"{block}ffn_down{suffix}.weight"] = (*stack, 2, ff)
    tensors["output_norm.weight"] = (width,)
    return tensors if tied else tensors | {"output.weight": (16, width)}


def _bert(n_layers: int, width: int, ff: int) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (16, width), "position_embd.weight": (8, width), "token_types.weight": (2, width),
        "token_embd_norm.weight": (width,), "token_embd_norm.bias": (width,),
    }  # fmt: skip
    for i in range(n_layers):
        block = f"blk.{i}."
        tensors |= {f"{block}attn_{part}.weight": (4, width) for part in ("q", "k", "v", "output")}
        tensors |= {f"{block}attn_{part}.bias": (4,) for part in ("q", "k", "v")}
        tensors |= {block + "ffn_up.weight": (4, width), block + "ffn_down.weight": (4, ff)}
        tensors |= {block + "layer_output_norm.weight": (width,), block + "attn_output_norm.weight": (width,)}
    return tensors


def _falcon(n_layers: int) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {"token_embd.weight": (16, 256)}
    for i in range(n_layers):
        tensors |= {f"blk.{i}.{part}.weight": (3, 256) for part in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")}
    return tensors | {"output_norm.weight": (256,), "output.weight": (16, 256)}


SOURCES = {
    "llama": Source("llama", _parameters(9, 4, 2, 256, 512), _llama(9, ff=512)),
    "gqa": Source("llama", _parameters(8, 8, 2, 256, 256), _llama(8, tied=True), "F16"),
    "moe": Source(
        "llama",
        _parameters(8, 4, 2, 256, 256, expert_count=8, expert_used_count=2),
        _llama(8, n_experts=8),
        "BF16",
    ),
    "odd": Source("llama", _parameters(3, 4, 4, 96, 80), _llama(3, 96, 80)),
    "bert": Source("bert", _parameters(3, 4, 4, 384, 512, **{"attention.causal": False}), _bert(3, 384, 512)),
    "falcon": Source("falcon", _parameters(16, 4, 4, 256, 256), _falcon(16)),
}
"""Tiny models by name. The rows of `odd` are whole blocks of few types; `bert` has MiniLM's width."""


@dataclass(frozen=True)
class Options:
    """Options for both sides: those of `quantize_model`, and the fields and lists of `llama_model_quantize_params`."""

    source: str
    type: str
    ours: dict[str, Any]
    theirs: dict[str, Any] = field(default_factory=dict)
    is_weighted: bool = False


_OVERRIDES = [("attn_v", "Q8_0"), (r"blk\.[0-3]\.ffn_down", "Q6_K"), ("ffn_(up|gate)", "IQ4_NL"), ("token", "Q5_1")]
_OVERRIDE_IDS = [["attn_v", 8], [r"blk\.[0-3]\.ffn_down", 14], ["ffn_(up|gate)", 20], ["token", 7]]
_KVS = {"general.name": "other", "my.float": 0.1, "my.flag": True, "my.number": -7, "general.file_type": 99}
_KV_LIST = [["general.name", "str", "other"], ["my.float", "float", 0.1], ["my.flag", "bool", True],
            ["my.number", "int", -7], ["general.file_type", "int", 99]]  # fmt: skip

OPTIONS = {
    "pure": Options("llama", "Q4_K_M", {"pure": True}, {"pure": True}),
    "pure, weighted": Options("moe", "IQ2_M", {"pure": True}, {"pure": True}, True),
    "tensor types": Options("llama", "Q4_K_M", {"tensor_types": _OVERRIDES}, {"tensor_types": _OVERRIDE_IDS}),
    "tensor types, pure": Options(
        "llama", "Q4_K_M", {"tensor_types": _OVERRIDES, "pure": True}, {"tensor_types": _OVERRIDE_IDS, "pure": True}
    ),
    "tensor type that needs weights": Options(
        "llama", "Q4_K_M", {"tensor_types": [("attn_q", "IQ1_S")]}, {"tensor_types": [["attn_q", 19]]}, True
    ),
    "output type": Options("llama", "Q4_K_M", {"output_tensor_type": "Q5_0"}, {"output_tensor_type": 6}),
    "output type of tied embeddings": Options("gqa", "Q4_0", {"output_tensor_type": "F16"}, {"output_tensor_type": 1}),
    "output type, tied and pure": Options(
        "gqa", "Q4_0", {"output_tensor_type": "F16", "pure": True}, {"output_tensor_type": 1, "pure": True}
    ),
    "embedding type": Options("gqa", "Q2_K", {"token_embedding_type": "Q8_0"}, {"token_embedding_type": 8}),
    "embedding type of a float file": Options("llama", "F16", {"token_embedding_type": 8}, {"token_embedding_type": 8}),
    "leave output": Options(
        "llama", "IQ3_M", {"leave_output_tensor": True}, {"quantize_output_tensor": False}, True
    ),
    "prune layers": Options("llama", "Q4_K_M", {"prune_layers": [3, 7]}, {"prune_layers": [3, 7]}, True),
    "prune first layers": Options("moe", "Q3_K_L", {"prune_layers": [1, 0]}, {"prune_layers": [0, 1]}, True),
    "override metadata": Options("llama", "Q8_0", {"kv_overrides": _KVS}, {"kv_overrides": _KV_LIST}),
    "override what types depend on": Options(
        "moe", "Q4_K_M", {"kv_overrides": {"llama.expert_count": 4}},
        {"kv_overrides": [["llama.expert_count", "int", 4]]},
    ),
    "copy": Options("gqa", "COPY", {}, {"only_copy": True}),
    "copy without layers": Options(
        "moe", "COPY", {"prune_layers": [2]}, {"only_copy": True, "prune_layers": [2]}
    ),
}  # fmt: skip
"""Options by name."""


def digest(data: bytes) -> str:
    """What is stored of a file."""
    return hashlib.sha256(data).hexdigest()[:32]
