"""What the default mixes of llama-quantize depend on in a model: a few of its hyper-parameters.

Source: `llama_model_base::load_hparams` and `load_arch_hparams` of llama.cpp, build b11739.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_DEEP_LLAMAS = frozenset({("deci", 80), ("qwen2", 80), ("jais2", 68)})
"""Architectures and depths of which llama.cpp says "70B" whatever their heads are."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Hyper-parameters that decide about types.

    Attributes
    ----------
    architecture : str
        `general.architecture`.
    n_layers, n_experts : int
        `*.block_count`, `*.expert_count`.
    n_gqa : int
        Attention heads for each head of keys and values, in the first layer.
    is_70b : bool
        Whether llama.cpp counts it among the 70B models, whose attention values are small.
    """

    architecture: str = ""
    n_layers: int = 0
    n_experts: int = 0
    n_gqa: int = 0
    is_70b: bool = False


def read_facts(value: Callable[[str], Any]) -> ModelFacts:
    """The facts of a model whose metadata a function gives by key, None for keys that are not there."""
    architecture = value("general.architecture")
    architecture = architecture if isinstance(architecture, str) else ""

    def number(key: str, default: int = 0) -> int:
        found = value(f"{architecture}.{key}")
        if isinstance(found, list):
            found = found[0] if found else None
        return found if isinstance(found, int) and not isinstance(found, bool) else default

    n_layers = number("block_count")
    n_heads = number("attention.head_count")
    n_kv_heads = number("attention.head_count_kv", n_heads)
    n_experts = number("expert_count")
    is_deep_llama = architecture == "llama" and n_layers == 80 and n_experts != 8 and n_heads != n_kv_heads
    return ModelFacts(
        architecture,
        n_layers,
        n_experts,
        n_heads // n_kv_heads if n_kv_heads > 0 else 0,
        is_deep_llama or (architecture, n_layers) in _DEEP_LLAMAS,
    )
