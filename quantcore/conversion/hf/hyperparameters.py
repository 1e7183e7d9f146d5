"""Hyperparameters of a checkpoint (config.json with the defaults of transformers), and the keys of GGUF they become.

Source: `TextModel` in llama.cpp's `conversion/base.py`: which hyperparameter becomes which key, in which order.
"""

from collections.abc import Sequence
from typing import Any

from quantcore._base.text import brief
from quantcore.errors import FileFormatError

LAYERS = ("n_layers", "num_hidden_layers", "n_layer", "num_layers")
CONTEXT = (
    "max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length", "model_max_length",
)  # fmt: skip
WIDTH = ("hidden_size", "n_embd", "dim")
FEED_FORWARD = (
    "prefix_dense_intermediate_size", "dense_intermediate_size", "intermediate_size", "n_inner", "hidden_dim",
)  # fmt: skip
HEADS = ("num_attention_heads", "n_head", "n_heads")
KV_HEADS = ("num_key_value_heads", "n_kv_heads")
VOCABULARY = ("vocab_size",)
_THETA = ("global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta", "rotary_emb_base")
_LOCAL_THETA = (
    "local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta", "rope_local_base_freq",
)  # fmt: skip
_PARTIAL = ("partial_rotary_factor", "rope_pct", "rope_percent")
_ORIGINAL_CONTEXT = "original_max_position_embeddings"

# What comes before the rotary embedding, and behind it: hyperparameters, what takes the first that there is, its kind.
BEFORE_ROPE = (
    (CONTEXT, "context_length", int),
    (WIDTH, "embedding_length", int),
    (FEED_FORWARD, "feed_forward_length", int),
    (HEADS, "head_count", int),
    (KV_HEADS, "head_count_kv", int),
)
BEHIND_ROPE = (
    (("rms_norm_eps", "norm_eps"), "layer_norm_rms_eps", float),
    (("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"), "layer_norm_eps", float),
    (("num_local_experts", "num_experts", "n_routed_experts"), "expert_count", int),
    (("num_experts_per_tok", "num_experts_per_token", "top_k_experts"), "expert_used_count", int),
    (("n_group",), "expert_group_count", int),
    (("topk_group",), "expert_group_used_count", int),
    (("head_dim",), "key_length", int),
    (("head_dim",), "value_length", int),
)


class Hyperparameters:
    """What config.json says of a model; a value of the wrong kind is refused where it is asked for.

    Parameters
    ----------
    values : dict
        config.json with the defaults of the architecture.
    path : str
        Of config.json, for messages.
    """

    def __init__(self, values: dict[str, Any], path: str) -> None:
        self.values = values
        self.path = path
        self.rope = self._rope()

    def find(self, names: Sequence[str], kind: type = int) -> Any:
        """The first of some hyperparameters that is there, None if that is null or none is there."""
        name = next((name for name in names if name in self.values), None)
        return None if name is None else self.check(self.values[name], name, kind)

    def require(self, names: Sequence[str], kind: type = int) -> Any:
        """As `find`; a FileFormatError if it is missing."""
        found = self.find(names, kind)
        if found is None:
            raise FileFormatError(f"{self.path}: {' or '.join(names[:2])} is missing")
        return found

    def count(self, names: Sequence[str]) -> int:
        """A number of heads, layers or columns, at least 1."""
        found = int(self.require(names))
        if not 1 <= found < 1 << 32:
            name = next(name for name in names if name in self.values)
            raise FileFormatError(f"{self.path}: {name}: expected an integer >= 1, got {found}")
        return found

    def check(self, value: Any, name: str, kind: type) -> Any:
        """A value if it is of a kind (int, float, bool, str, list, dict) or null."""
        kinds = (int, float) if kind is float else (kind,)
        if value is None or (isinstance(value, kinds) and (kind is bool or not isinstance(value, bool))):
            return value
        raise FileFormatError(f"{self.path}: {name}: expected {_KINDS[kind]}, got {brief(value)}")

    @property
    def head_dim(self) -> int:
        """Elements of an attention head."""
        found = self.find(("head_dim",))
        return int(found) if found else self.count(WIDTH) // self.count(HEADS)

    @property
    def global_rope(self) -> dict[str, Any]:
        """The rotary embedding of layers with full attention."""
        return self._part("full_attention", self.rope)

    def rope_value(self, name: str, kind: type = float) -> Any:
        """A parameter of the rotary embedding of layers with full attention."""
        return self.check(self.global_rope.get(name), f"rope parameter {name}", kind)

    def _part(self, name: str, default: dict[str, Any]) -> dict[str, Any]:
        part = self.rope.get(name, default)
        checked = self.check(part, f"rope parameters {name}", dict)
        return {} if checked is None else checked

    def _rope(self) -> dict[str, Any]:
        name = "rope_parameters" if "rope_parameters" in self.values else "rope_scaling"
        rope = dict(self.check(self.values.get(name), name, dict) or {})
        if "full_attention" in rope or "sliding_attention" in rope:
            return rope
        if (local := self.find(_LOCAL_THETA, float)) is not None:
            rope["sliding_attention"] = {"rope_theta": local}
        for key, value in (
            ("rope_theta", self.find(_THETA, float)),
            ("rope_type", rope.get("type")),
            ("partial_rotary_factor", self.find(_PARTIAL, float)),
            (_ORIGINAL_CONTEXT, self.find((_ORIGINAL_CONTEXT,))),
        ):
            if key not in rope and value is not None:
                rope[key] = value
        return rope


_KINDS = {
    int: "an integer", float: "a number", bool: "true or false", str: "a string", list: "a list", dict: "an object",
}  # fmt: skip


def write_common(config: Hyperparameters, writer: Any, n_layers: int, file_type: int) -> None:
    """Write the keys that most architectures have, `general.file_type` at the end."""
    writer.add_block_count(n_layers)
    _write_rows(config, writer, BEFORE_ROPE)
    if config.find(("is_causal",), bool) is False:
        writer.add_causal_attention(False)
    _write_rope_scaling(config, writer)
    if (theta := config.rope_value("rope_theta")) is not None:
        writer.add_rope_freq_base(theta)
    local = config.check(config.rope.get("sliding_attention"), "rope parameters sliding_attention", dict) or {}
    if (theta := config.check(local.get("rope_theta"), "rope_theta", float)) is not None:
        writer.add_rope_freq_base_swa(theta)
    _write_rows(config, writer, BEHIND_ROPE)
    writer.add_file_type(file_type)


def _write_rows(config: Hyperparameters, writer: Any, rows: Sequence[tuple[Sequence[str], str, type]]) -> None:
    for names, key, kind in rows:
        if (value := config.find(names, kind)) is not None:
            getattr(writer, f"add_{key}")(value)


_YARN = (
    (("extrapolation_factor",), "ext_factor"),
    (("attention_factor", "attn_factor"), "attn_factor"),
    (("beta_fast",), "beta_fast"),
    (("beta_slow",), "beta_slow"),
)


def _write_rope_scaling(config: Hyperparameters, writer: Any) -> None:
    from gguf import RopeScalingType

    kind = config.rope_value("rope_type", str)
    factor = config.rope_value("factor")
    if kind in ("linear", "yarn") and factor is not None:
        writer.add_rope_scaling_type(RopeScalingType(kind))
        writer.add_rope_scaling_factor(factor)
        if kind == "yarn":
            original = config.rope_value(_ORIGINAL_CONTEXT, int)
            if original is None:
                raise FileFormatError(f"{config.path}: rope parameter {_ORIGINAL_CONTEXT} is missing")
            writer.add_rope_scaling_orig_ctx_len(original)
            for names, key in _YARN:
                found = next((name for name in names if name in config.global_rope), names[0])
                if (value := config.rope_value(found)) is not None:
                    getattr(writer, f"add_rope_scaling_yarn_{key}")(value)
    elif kind in ("su", "longrope"):
        writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
