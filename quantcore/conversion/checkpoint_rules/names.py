"""Rules for the names of tensors that many models share, for those that nothing else knows."""

import re
from collections.abc import Container, Mapping

KEPT_NAMES: Mapping[str, re.Pattern[str]] = {
    "the output head": re.compile(
        r"(^|\.)(lm_head|embed_out|proj_out|output_projection|score|classifier|qa_outputs|cls|logits\w*)(\.|$)"
    ),
    "an embedding": re.compile(
        r"embed|(^|\.)(wte|wpe|shared|tok_embeddings|relative_attention_bias|rel_pos\w*|\w+_tokens?)(\.|$)", re.I
    ),
    "a norm": re.compile(r"norm|(^|\.)ln_\w+\.", re.I),
    "a router of experts": re.compile(r"(^|\.)(router|gate|gating|switch|shared_expert_gate)(\.\w+)?\.weight$"),
    "a part that transformers keeps in float32": re.compile(r"(^|\.)qformer\."),
    "an adapter": re.compile(r"(^|\.)(lora|ia3|adalora|vera)_\w+(\.|$)"),
}
"""Why a tensor with a name like that is kept."""
COMMON_HEADS = (
    "lm_head", "lm_head.decoder", "cls.predictions.decoder", "generator_lm_head", "lm_loss", "pred_layer.proj",
    "embed_out", "output_projection", "proj_out", "vocab_projector",
)  # fmt: skip
"""Heads that are tied so often that no tensor of the checkpoint may show them."""
_EXPERT = re.compile(r"(^|\.)\w*experts\.\w+\.")
_PACKED_PROJECTION = "in_proj_weight"


def keep_by_name(name: str) -> str:
    """Why a matrix of floats is kept, by its name alone; an empty text if it is quantized."""
    for reason, pattern in KEPT_NAMES.items():
        if pattern.search(name):
            return reason
    return "" if name.endswith(".weight") else "its name does not end in .weight"


def keep_by_company(name: str, names: Container[str]) -> str:
    """Why a matrix of an unknown model of transformers is kept, by its own name and those of all tensors."""
    if _EXPERT.search(name):
        return "an expert, which transformers 5 may fuse with others"
    owner, _, layer = name.removesuffix(".weight").rpartition(".")
    if layer == "out_proj" and f"{owner}.{_PACKED_PROJECTION}" in names:
        return "a part of torch's own attention"
    return ""
