"""The table of architectures: the 4-bit linear layers of the models that transformers has, by `model_type`.

A module that no entry names is kept. The entries are what transformers 5 makes 4-bit layers of; where transformers 4
does so too with a router or an expert that later versions fuse, it is kept, so that both load the folder.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ARCHITECTURES", "FUSED_WHEN_LOADED", "Architecture", "is_module"]

FUSED_WHEN_LOADED = {
    "llama4": ".feed_forward.experts.gate_up_proj",
    "llama4_text": ".feed_forward.experts.gate_up_proj",
}
"""Models whose fused experts transformers replaces by others when it loads 4 bits, and finds no weights for them."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The layers of one kind of model.

    Attributes
    ----------
    linear : tuple of str
        Ends of the names of the modules that become 4-bit layers.
    transposed : tuple of str
        The same, of layers that store their weight as (inputs, outputs): `Conv1D` of GPT-2.
    heads : tuple of str
        Modules that are kept even if the checkpoint has no tensor for them, because they are tied.
    kept : tuple of str
        Patterns that are found in the names of modules that are kept although their names end like a layer's.
    """

    linear: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()
    heads: tuple[str, ...] = ("lm_head",)
    kept: tuple[str, ...] = ()

    def layout_of(self, name: str) -> str:
        """ "linear" or "transposed" for the name of a weight, empty if it is kept."""
        if any(re.search(pattern, name) for pattern in self.kept):
            return ""
        if is_module(name, self.transposed):
            return "transposed"
        return "linear" if is_module(name, self.linear) else ""


def is_module(name: str, ends: tuple[str, ...]) -> bool:
    """Whether a tensor is the weight of a module whose name ends like that, at a dot."""
    return any(f".{name}".endswith(f".{end}.weight") for end in ends)


_QKV = ("q_proj", "k_proj", "v_proj")
_QKVO = (*_QKV, "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_EXPERTS = (r"\.experts\.",)
"""transformers 5 loads experts into one array each, which has no 4-bit form."""
_MASKED = ("decoder",)  # the head of masked language models is cls.predictions.decoder or lm_head.decoder

_GPT2 = Architecture(transposed=("c_attn", "q_attn", "c_proj", "c_fc"))
_LLAMA = Architecture((*_QKVO, *_MLP))
_SQUARED = Architecture((*_QKVO, "up_proj", "down_proj"))
_PHI3 = Architecture((*_QKVO, "qkv_proj", "gate_up_proj", "down_proj"))
_NEOX = Architecture(("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"), heads=("lm_head", "embed_out"))
_GPTJ = Architecture((*_QKV, "qkv_proj", "out_proj", "fc_in", "fc_out"))
_BART = Architecture(
    (*_QKV, "out_proj", "fc1", "fc2"),
    heads=("lm_head", "shared", "embed_tokens", "proj_out", "output_projection"),
    kept=(r"(^|\.)classification_head\.",),
)
_T5_HEADS = ("lm_head", "shared", "embed_tokens")
_T5 = Architecture(("q", "k", "v", "o", "wi", "wi_0", "wi_1"), heads=_T5_HEADS)
_LONG_T5 = Architecture(("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"), heads=_T5_HEADS)
_BERT = Architecture(("query", "key", "value", "dense"), heads=_MASKED, kept=(r"(^|\.)classifier\.",))
_ELECTRA = Architecture(_BERT.linear, heads=("generator_lm_head",), kept=_BERT.kept)
_VIT = Architecture(("query", "key", "value", "dense", *_QKV, "out_proj", "fc1", "fc2"), heads=("classifier",))
_MIXTRAL = Architecture(_QKVO, kept=_EXPERTS)
_QWEN_MOE = Architecture((*_QKVO, *_MLP, "shared_expert_gate", "in_proj_qkvz", "in_proj_ba", "out_proj"), kept=_EXPERTS)
_DEEPSEEK = Architecture((*_QKVO, *_MLP, "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"), kept=_EXPERTS)
_MAMBA2 = Architecture(("in_proj", "out_proj"))

ARCHITECTURES: Mapping[str, Architecture] = {
    # decoders
    **dict.fromkeys(
        ("llama", "mistral", "ministral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo", "olmo2", "olmo3",
         "stablelm", "cohere", "cohere2", "granite", "smollm3", "ernie4_5", "exaone4", "helium", "seed_oss",
         "hunyuan_v1_dense"),
        _LLAMA,
    ),
    "gemma3n_text": Architecture(
        (*_QKVO, *_MLP, "linear_left", "linear_right", "per_layer_input_gate", "per_layer_projection",
         "per_layer_model_projection", "correction_coefs", "prediction_coefs", "modality_router",
         *(f"altup_{way}projections.{i}" for way in ("", "unembed_") for i in range(3)))
    ),
    **dict.fromkeys(("nemotron", "arcee"), _SQUARED),
    **dict.fromkeys(("phi3", "glm", "glm4"), _PHI3),
    "phi": Architecture((*_QKV, "dense", "fc1", "fc2")),
    "starcoder2": Architecture((*_QKVO, "c_fc", "c_proj")),
    "opt": Architecture((*_QKV, "out_proj", "fc1", "fc2", "project_in", "project_out")),
    "gpt_neo": Architecture((*_QKV, "out_proj", "c_fc", "c_proj")),
    "gpt_bigcode": Architecture(("c_attn", "c_proj", "c_fc")),
    "mpt": Architecture(("Wqkv", "out_proj", "up_proj", "down_proj")),
    **dict.fromkeys(("gptj", "codegen"), _GPTJ),
    **dict.fromkeys(("bloom", "gpt_neox", "gpt_neox_japanese", "persimmon"), _NEOX),
    **dict.fromkeys(("gpt2", "openai-gpt", "imagegpt", "decision_transformer"), _GPT2),
    "falcon": Architecture(),  # its layers are of a class of its own, of which transformers 5 makes no 4-bit layers
    # encoders with decoders, and decoders of their kind
    **dict.fromkeys(
        ("bart", "mbart", "pegasus", "marian", "m2m_100", "blenderbot", "whisper", "xglm", "biogpt", "trocr"), _BART
    ),
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5),  # wo is kept in float32
    **dict.fromkeys(("longt5", "switch_transformers"), _LONG_T5),
    # encoders
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "camembert", "big_bird", "roformer", "layoutlm", "esm", "nystromformer"),
        _BERT,
    ),
    "longformer": Architecture(
        (*_BERT.linear, "query_global", "key_global", "value_global"), heads=_MASKED, kept=_BERT.kept
    ),
    "ibert": Architecture(),  # its layers are of a class of its own
    "xlnet": Architecture(("layer_1", "layer_2"), heads=("lm_loss",)),
    "electra": _ELECTRA,
    "distilbert": Architecture(
        ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2", "vocab_transform", "pre_classifier"),
        heads=("vocab_projector",),
    ),
    "deberta": Architecture(("in_proj", "pos_proj", "pos_q_proj", "dense"), heads=_MASKED),
    "deberta-v2": Architecture(
        ("query_proj", "key_proj", "value_proj", "pos_key_proj", "pos_query_proj", "dense"), heads=_MASKED
    ),
    "albert": Architecture(
        ("query", "key", "value", "dense", "ffn", "ffn_output", "embedding_hidden_mapping_in", "pooler"), heads=_MASKED
    ),
    "mpnet": Architecture(("q", "k", "v", "o", "dense"), heads=_MASKED, kept=(r"(^|\.)classifier\.",)),
    "modernbert": Architecture(("Wqkv", "Wi", "Wo", "dense"), heads=_MASKED),
    "clip_text_model": Architecture((*_QKV, "out_proj", "fc1", "fc2"), heads=()),
    "wavlm": Architecture(  # the projections of its attention are multiplied by hand
        ("gru_rel_pos_linear", "intermediate_dense", "output_dense", "projection"), heads=()
    ),
    "clip": Architecture((*_QKV, "out_proj", "fc1", "fc2", "visual_projection"), heads=("text_projection",)),
    "vit": _VIT,
    # mixtures of experts
    **dict.fromkeys(("mixtral", "qwen3_moe", "olmoe", "granitemoe", "gpt_oss", "phimoe", "flex_olmo"), _MIXTRAL),
    **dict.fromkeys(("qwen2_moe", "qwen3_next"), _QWEN_MOE),
    "dbrx": Architecture(("Wqkv", "out_proj"), kept=_EXPERTS),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe", "ernie4_5_moe"), _DEEPSEEK),
    # state spaces, and mixtures with them
    "mamba": Architecture(("in_proj", "x_proj", "out_proj")),  # dt_proj is multiplied by hand
    "falcon_mamba": Architecture(("in_proj", "x_proj", "dt_proj", "out_proj")),
    "mamba2": _MAMBA2,
    "jamba": Architecture((*_QKVO, *_MLP, "in_proj", "x_proj", "dt_proj", "out_proj"), kept=_EXPERTS),
    "bamba": Architecture((*_QKVO, *_MLP, "in_proj", "out_proj")),
    "rwkv": Architecture(("key", "value", "receptance", "output"), heads=("head",)),
    "recurrent_gemma": Architecture((*_QKVO, *_MLP, "linear_x", "linear_y", "linear_out")),
}  # fmt: skip
