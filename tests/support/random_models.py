"""Models of many architectures with random shapes and names, and random options: what nobody thought of.

As in `quantize_cases`, nothing depends on the version of a library: the digests in
`tests/golden/llama_quantize/random.json` stand for files made from exactly these bytes.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from quantcore.mixed_precision.name_patterns import group_names
from tests.support.quantize_cases import TYPES, Options, Source

COUNT, FIRST_SUGGESTED = 168, 160
"""The number of cases, and the first of those with tensor types as `quantcore suggest` writes them."""
_T = TypeVar("_T")
_ARCHITECTURES = (
    "llama", "llama", "llama", "falcon", "gpt2", "bert", "t5", "gemma2", "phi3", "qwen2", "qwen2moe", "qwen3moe",
    "deepseek2", "mamba", "jamba", "starcoder", "bloom", "stablelm", "gptneox", "olmoe", "command-r", "t5encoder",
)  # fmt: skip
_PARTS = (
    "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "attn_kv_b", "attn_kv_a_mqa", "attn_k_b", "attn_q_a",
    "ffn_up", "ffn_gate", "ffn_down", "ffn_down_shexp", "ffn_gate_inp", "ffn_gate_inp_shexp", "attn_norm", "ssm_in",
    "ssm_conv1d", "ssm_x", "time_mix_w1", "time_mix_key", "attn_rel_b", "nextn.eh_proj", "indexer.k_proj",
    "attn_q_norm",
)  # fmt: skip
_VECTORS = ("attn_norm", "attn_q_norm")
_TOP = (
    "output_norm.weight", "rope_freqs.weight", "position_embd.weight", "token_types.weight", "cls.weight",
    "cls.output.weight", "per_layer_token_embd.weight", "v.patch_embd.weight", "mm.0.weight", "noise", "bias5",
)  # fmt: skip
_IDS = {
    "F32": 0, "F16": 1, "BF16": 30, "Q4_0": 2, "Q5_1": 7, "Q8_0": 8, "Q6_K": 14, "IQ4_NL": 20, "MXFP4": 39, "Q2_K": 10,
}  # fmt: skip
_PATTERNS = ("attn_v", "ffn_down", "ffn_(up|gate)", r"blk\.[0-3]\.", "_exps", r"attn_output\.weight$", ".*", "^token")
_OVERRIDES = (
    ("general.name", "str", "other"), ("my.float", "float", 0.1), ("my.flag", "bool", True), ("my.n", "int", -7),
    ("general.file_type", "int", 3), ("ARCH.expert_count", "int", 8), ("ARCH.block_count", "int", 80),
)  # fmt: skip
_HYPERPARAMETERS: dict[str, Any] = {
    "context_length": 64, "attention.layer_norm_rms_epsilon": 2.0**-17, "attention.layer_norm_epsilon": 2.0**-17,
    "rope.dimension_count": 32, "attention.key_length": 32, "attention.value_length": 32, "vocab_size": 16,
    "attention.causal": True, "attention.sliding_window": 128, "ssm.conv_kernel": 4, "ssm.inner_size": 64,
    "ssm.state_size": 16, "ssm.time_step_rank": 8, "attention.kv_lora_rank": 16, "attention.q_lora_rank": 16,
    "attention.key_length_mla": 32, "attention.value_length_mla": 32, "expert_feed_forward_length": 64,
    "expert_shared_count": 1, "expert_shared_feed_forward_length": 64, "expert_weights_scale": 1.0,
    "leading_dense_block_count": 1, "logit_scale": 1.0, "attention.relative_buckets_count": 32,
    "attention.clamp_kqv": 1.0, "final_logit_softcapping": 32.0, "attn_logit_softcapping": 64.0,
    "use_parallel_residual": True, "decoder_block_count": 4,
}  # fmt: skip


class _Dice:
    """Decisions from the raw bits of a generator."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def below(self, n: int) -> int:
        """A number from 0 to n - 1."""
        return int(self._bits.random_raw() >> 16) % n

    def one_in(self, n: int) -> bool:
        """Whether something happens that does so once in n times."""
        return self.below(n) == 0

    def pick(self, items: Sequence[_T]) -> _T:
        """One of some items."""
        return items[self.below(len(items))]

    def some(self, items: Sequence[_T], count: int) -> list[_T]:
        """So many different items, in a random order."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(min(count, len(left)))]


def make_case(number: int) -> tuple[Source, Options]:
    """The model and the options of a number; the options' source is the number."""
    dice = _Dice(number)
    source = _make_source(dice)
    options = (
        _suggest(dice, source, str(number)) if number >= FIRST_SUGGESTED else _make_options(dice, source, str(number))
    )
    return source, options


def _make_source(dice: _Dice) -> Source:
    architecture = dice.pick(_ARCHITECTURES)
    n_layers = dice.pick((1, 2, 3, 4, 7, 8, 11, 13, 17, 32, 80 if architecture in ("llama", "qwen2") else 9))
    n_heads = dice.pick((1, 2, 4, 8, 12))
    n_experts = dice.pick((0, 0, 0, 2, 4, 8, 8, 60))
    columns = dice.pick((256, 256, 256, 512, 32, 64, 96, 288, 320, 160))
    parameters = {
        "embedding_length": columns,
        "block_count": n_layers,
        "feed_forward_length": dice.pick((256, 512, columns, 96)),
        "attention.head_count": n_heads,
        **({} if dice.one_in(6) else {"attention.head_count_kv": dice.pick((1, 2, n_heads))}),
        **({"expert_count": n_experts, "expert_used_count": 1} if n_experts else {}),
        **_HYPERPARAMETERS,
    }
    tensors = {"token_embd.weight": (16, columns)}
    if not dice.one_in(3):
        tensors["output.weight"] = (16, columns)
    tensors |= {name: (dice.pick((1, 2, 5)), columns) for name in dice.some(_TOP, dice.below(4))}
    tensors |= dict(_layers(dice, architecture, parameters))
    order = dice.some(list(tensors), len(tensors)) if dice.one_in(2) else list(tensors)
    return Source(architecture, parameters, {name: tensors[name] for name in order}, dice.pick(("F32", "F16", "BF16")))


def _layers(dice: _Dice, architecture: str, parameters: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    n_layers, n_experts = parameters["block_count"], parameters.get("expert_count", 0)
    starts = ("enc.blk", "dec.blk") if architecture.startswith("t5") else ("enc.blk",) if dice.one_in(30) else ("blk",)
    parts = dice.some(_PARTS, 4 if n_layers > 17 else 9)
    parts += [part for part in ("attn_v", "ffn_down") if part not in parts]
    for start in starts:
        for layer in range(n_layers):
            for part in parts:
                if dice.one_in(40):
                    continue
                columns = parameters["feed_forward_length" if "down" in part else "embedding_length"]
                shape: tuple[int, ...] = (dice.pick((1, 2, 3, 4)), columns)
                name = f"{start}.{layer}.{part}"
                if part in _VECTORS:
                    shape = (columns,)
                elif part in ("ffn_up", "ffn_gate", "ffn_down") and n_experts and start == "blk":
                    name, shape = f"{name}_exps", (min(n_experts, 9), 2, columns)
                elif part == "attn_k_b":
                    shape = (2, *shape)
                yield f"{name}.weight", shape


def _suggest(dice: _Dice, source: Source, name: str) -> Options:
    """A type for some of the tensors, by patterns that are grouped by layers."""
    types = ("Q4_0", "Q5_1", "Q8_0", "IQ4_NL")
    chosen = {name: dice.pick(types[: 2 + dice.below(3)]) for name in source.tensors if not dice.one_in(3)}
    pairs = group_names(chosen, [name for name in source.tensors if name not in chosen])
    ours = {"pure": True, "tensor_types": list(pairs)}
    return Options(name, "Q4_1", ours, {"pure": True, "tensor_types": [[p, _IDS[t]] for p, t in pairs]})


def _make_options(dice: _Dice, source: Source, name: str) -> Options:
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    file_type = "COPY" if dice.one_in(16) else dice.pick(TYPES)
    if file_type == "COPY":
        theirs["only_copy"] = True
    if dice.one_in(6):
        ours["pure"] = theirs["pure"] = True
    if dice.one_in(10):
        ours["leave_output_tensor"], theirs["quantize_output_tensor"] = True, False
    columns = source.parameters["embedding_length"]
    for option in ("output_tensor_type", "token_embedding_type"):
        fitting = [t for t in _IDS if int(columns) % 256 == 0 or t not in ("Q6_K", "Q2_K")]
        if dice.one_in(8):
            ours[option] = dice.pick(fitting)
            theirs[option] = _IDS[ours[option]]
    if dice.one_in(4) and file_type != "COPY":
        types = [(dice.pick(_PATTERNS), dice.pick(list(_IDS))) for _ in range(1 + dice.below(3))]
        types = [(p, t) for p, t in types if any(re.search(p, key) for key in source.tensors)]
        ours["tensor_types"], theirs["tensor_types"] = types, [[p, _IDS[t]] for p, t in types]
    n_layers = int(source.parameters["block_count"])
    if dice.one_in(6) and n_layers > 3:
        pruned = sorted(dice.some(range(n_layers), 1 + dice.below(2)))
        ours["prune_layers"] = theirs["prune_layers"] = pruned
    if dice.one_in(6):
        entries = [(k.replace("ARCH", source.architecture), kind, v) for k, kind, v in dice.some(_OVERRIDES, 2)]
        entries = [entry for entry in entries if "expert" not in entry[0] or "expert_count" in source.parameters]
        ours["kv_overrides"] = {key: value for key, _, value in entries}
        theirs["kv_overrides"] = [list(entry) for entry in entries]
    is_weighted = dice.one_in(2) or file_type.startswith(("IQ1", "IQ2", "IQ3_XXS", "Q2_K_S"))
    return Options(name, file_type, ours, theirs, is_weighted)
