"""Models as lists of tensors, without weights: the shapes that people quantize, for which types are compared.

Names and shapes are those of llama.cpp's files; a model is told by its layers' tensors and a few hyper-parameters.
"""

from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TypeCase:
    """A model.

    Attributes
    ----------
    architecture : str
    n_layers, n_heads, n_kv_heads, n_experts : int
    tensors : dict of str to tuple of int
        Shapes with the innermost extent last, in the order in which llama-quantize takes them.
    """

    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    n_experts: int
    tensors: dict[str, Shape]


def _case(
    architecture: str,
    n_layers: int,
    heads: tuple[int, int],
    width: int,
    *layer_kinds: tuple[range, dict[str, Shape]],
    n_experts: int = 0,
    tied: bool = False,
) -> TypeCase:
    tensors: dict[str, Shape] = {} if tied else {"output.weight": (1024, width)}
    tensors["token_embd.weight"] = (1024, width)
    for i in range(n_layers):
        for layers, kinds in layer_kinds:
            if i in layers:
                tensors |= {f"blk.{i}.{kind}.weight": shape for kind, shape in sorted(kinds.items())}
    ordered = sorted(tensors.items(), key=lambda item: _order(item[0]))
    return TypeCase(architecture, n_layers, *heads, n_experts, dict(ordered))


def _order(name: str) -> tuple[int, bytes]:
    return int(name.split(".")[1]) if name.startswith("blk.") else -1, name.encode()


def _attention(width: int, inner: int, shared: int) -> dict[str, Shape]:
    return {
        "attn_q": (inner, width), "attn_k": (shared, width), "attn_v": (shared, width), "attn_output": (width, inner),
    }  # fmt: skip


def _dense(width: int, ff: int) -> dict[str, Shape]:
    return {"ffn_gate": (ff, width), "ffn_up": (ff, width), "ffn_down": (width, ff)}


def _experts(n: int, width: int, ff: int) -> dict[str, Shape]:
    return {"ffn_gate_exps": (n, ff, width), "ffn_up_exps": (n, ff, width), "ffn_down_exps": (n, width, ff)}


def _shared_experts(width: int, ff: int) -> dict[str, Shape]:
    return {"ffn_gate_shexp": (ff, width), "ffn_up_shexp": (ff, width), "ffn_down_shexp": (width, ff)}


_MLA = {
    "attn_q_a": (1536, 7168), "attn_q_b": (24576, 1536), "attn_kv_a_mqa": (576, 7168), "attn_k_b": (128, 512, 128),
    "attn_v_b": (128, 128, 512), "attn_output": (7168, 16384),
}  # fmt: skip
_MLA_JOINT = {name: _MLA[name] for name in _MLA if name not in ("attn_k_b", "attn_v_b")} | {"attn_kv_b": (32768, 512)}
_DELTA = {
    "attn_qkv": (8192, 2048), "attn_gate": (4096, 2048), "ssm_beta_alpha": (64, 2048), "ssm_out": (2048, 4096),
}  # fmt: skip
_MAMBA = {"ssm_in": (10304, 2688), "ssm_out": (2688, 4096)}

CASES = {
    "Qwen3 0.6B": _case(
        "qwen3", 28, (16, 8), 1024, (range(28), _attention(1024, 2048, 1024) | _dense(1024, 3072)), tied=True
    ),
    "Qwen3 14B": _case("qwen3", 40, (40, 8), 5120, (range(40), _attention(5120, 5120, 1024) | _dense(5120, 17408))),
    "Llama 3.1 70B": _case(
        "llama", 80, (64, 8), 8192, (range(80), _attention(8192, 8192, 1024) | _dense(8192, 28672))
    ),
    "LLaMA 65B": _case("llama", 80, (64, 64), 8192, (range(80), _attention(8192, 8192, 8192) | _dense(8192, 22016))),
    "Llama 2 7B": _case("llama", 32, (32, 32), 4096, (range(32), _attention(4096, 4096, 4096) | _dense(4096, 11008))),
    "SmolLM2 135M": _case(
        "llama", 30, (9, 3), 576, (range(30), _attention(576, 576, 192) | _dense(576, 1536)), tied=True
    ),
    "Gemma 3 4B": _case(
        "gemma3", 34, (8, 4), 2560, (range(34), _attention(2560, 2048, 1024) | _dense(2560, 10240)), tied=True
    ),
    "Mixtral 8x7B": _case(
        "llama", 32, (32, 8), 4096,
        (range(32), _attention(4096, 4096, 1024) | _experts(8, 4096, 14336) | {"ffn_gate_inp": (8, 4096)}),
        n_experts=8,
    ),
    "Mixtral 8x7B, experts apart": _case(
        "llama", 32, (32, 8), 4096,
        (range(32), _attention(4096, 4096, 1024) | {
            f"ffn_{part}.{i}": (4096, 14336) if part == "down" else (14336, 4096)
            for part in ("gate", "up", "down") for i in range(8)
        }),
        n_experts=8,
    ),
    "Qwen3 30B-A3B": _case(
        "qwen3moe", 48, (32, 4), 2048, (range(48), _attention(2048, 4096, 512) | _experts(128, 2048, 768)),
        n_experts=128,
    ),
    "DeepSeek V3": _case(
        "deepseek2", 61, (128, 1), 7168, (range(61), _MLA), (range(3), _dense(7168, 18432)),
        (range(3, 61), _experts(256, 7168, 2048) | _shared_experts(7168, 2048)), n_experts=256,
    ),
    "DeepSeek V3, joint": _case(
        "deepseek2", 61, (128, 128), 7168, (range(61), _MLA_JOINT), (range(3), _dense(7168, 18432)),
        (range(3, 61), _experts(256, 7168, 2048) | _shared_experts(7168, 2048)), n_experts=256,
    ),
    "gpt-oss 120B": _case(
        "gpt-oss", 36, (64, 8), 2880, (range(36), _attention(2880, 4096, 512) | _experts(128, 2880, 2880)),
        n_experts=128,
    ),
    "GLM 4.6V": _case(
        "glm4moe", 46, (96, 8), 4096, (range(46), _attention(4096, 12288, 1024)), (range(1), _dense(4096, 10944)),
        (range(1, 46), _experts(128, 4096, 1408) | _shared_experts(4096, 1408)), n_experts=128,
    ),
    "Qwen3 Coder Next": _case(
        "qwen3next", 48, (16, 2), 2048, (range(48), _experts(512, 2048, 512) | _shared_experts(2048, 512)),
        (range(3, 48, 4), _attention(2048, 8192, 512)),
        (range(48), {}), *((range(i, i + 1), _DELTA) for i in range(48) if i % 4 != 3), n_experts=512,
    ),
    "Nemotron Nano 3 30B": _case(
        "nemotron_h_moe", 52, (0, 0), 2688, (range(0, 52, 2), _MAMBA), (range(5, 52, 10), _attention(2688, 4096, 256)),
        *((range(i, i + 1), {"ffn_up_exps": (128, 1856, 2688), "ffn_down_exps": (128, 2688, 1856)})
          for i in range(1, 52, 2) if i % 10 != 5),
        n_experts=128,
    ),
    "Falcon 7B": _case("falcon", 32, (71, 1), 4544, (range(32), {
        "attn_qkv": (4672, 4544), "attn_output": (4544, 4544), "ffn_up": (18176, 4544), "ffn_down": (4544, 18176),
    })),
    "Falcon 40B": _case("falcon", 60, (128, 8), 8192, (range(60), {
        "attn_qkv": (9216, 8192), "attn_output": (8192, 8192), "ffn_up": (32768, 8192), "ffn_down": (8192, 32768),
    })),
    "Phi-3 mini": _case("phi3", 32, (32, 32), 3072, (range(32), {
        "attn_qkv": (9216, 3072), "attn_output": (3072, 3072), "ffn_up": (16384, 3072), "ffn_down": (3072, 8192),
    })),
    "GPT-2": _case("gpt2", 12, (12, 12), 768, (range(12), {
        "attn_qkv": (2304, 768), "attn_output": (768, 768), "ffn_up": (3072, 768), "ffn_down": (768, 3072),
    }), tied=True),
    "BERT base": _case("bert", 12, (12, 12), 768, (range(12), _attention(768, 768, 768) | {
        "ffn_up": (3072, 768), "ffn_down": (768, 3072),
    }), tied=True),
}  # fmt: skip
"""Models by name."""


def summarize(tensors: list[str], types: list[str]) -> str:
    """The types of a model's tensors: the most frequent one, then for each kind of tensor its exceptions by layer."""
    default = max(dict.fromkeys(types), key=types.count)
    found: dict[tuple[str, str], list[str]] = {}
    for name, type_name in zip(tensors, types, strict=True):
        if type_name != default:
            layer, kind = name.split(".")[1:3] if name.startswith("blk.") else ("", name)
            if name.startswith("blk.") and name.split(".")[3] != "weight":
                kind += "." + name.split(".")[3]
            found.setdefault((kind, type_name), []).append(layer)
    exceptions = (f"{kind} {name} {','.join(_ranges(layers))}" for (kind, name), layers in found.items())
    return "; ".join([default, *exceptions])


def _ranges(layers: list[str]) -> list[str]:
    """Layers as ranges."""
    if layers == [""]:
        return []
    runs: list[list[int]] = []
    for layer in map(int, layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return [str(first) if first == last else f"{first}-{last}" for first, last in runs]
