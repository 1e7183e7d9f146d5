"""Tiny diffusion models: for each architecture a few tensors with the names of the real ones, and what becomes of them.

`MODELS` says of each tensor by hand what the converter of City96 and its patch make of it: v (attention values),
qkv, down (the second feed-forward matrix), end (of the first or last block), other: quantized; odd: rows that are no
blocks; kept: as the converter has it; exact: float32. `TYPES` is their table of types. Both are written from the patch,
not from the code under test.
"""

from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

TYPES = {
    "Q2_K": {"v": "Q3_K"},
    "Q3_K_S": {},
    "Q3_K_M": {"v": "Q5_K Q5_K Q4_K", "qkv": "Q4_K", "down": "Q4_K"},
    "Q3_K_L": {"v": "Q5_K", "qkv": "Q4_K", "down": "Q5_K"},
    "Q4_0": {"down": "Q4_1"},
    "Q4_1": {},
    "Q4_K_S": {"v": "Q5_K Q5_K Q5_K Q5_K Q4_K", "down": "Q5_K"},
    "Q4_K_M": {"v": "Q6_K", "qkv": "Q5_K", "down": "Q6_K"},
    "Q5_0": {"down": "Q5_1"},
    "Q5_1": {},
    "Q5_K_S": {},
    "Q5_K_M": {"v": "Q6_K", "qkv": "Q6_K", "down": "Q6_K"},
    "Q6_K": {},
    "Q8_0": {},
}
"""What a file of this type has for values, fused attention and the second feed-forward matrix: of several types, the
first for the first tensor of the kind, and so on; the last for all others. Without an entry, the file's own type."""
DEFAULTS = {name: name[:4] for name in TYPES}

MATRIX = (64, 256)
MODELS = {
    "flux": {
        "other": "double_blocks.0.img_attn.proj.weight double_blocks.0.img_mlp.0.weight single_blocks.0.linear1.weight",
        "qkv": "double_blocks.0.img_attn.qkv.weight double_blocks.0.txt_attn.qkv.weight",
        "exact": "double_blocks.0.img_attn.norm.query_norm.scale single_blocks.0.linear1.bias",
        "kept": (
            "img_in.weight txt_in.weight time_in.in_layer.weight vector_in.out_layer.weight "
            "guidance_in.in_layer.weight final_layer.linear.weight final_layer.adaLN_modulation.1.weight"
        ),
    },
    "sd3": {
        "qkv": "joint_blocks.0.x_block.attn.qkv.weight",
        "other": "joint_blocks.0.x_block.mlp.fc1.weight",
        "kept": (
            "pos_embed x_embedder.proj.weight context_embedder.weight y_embedder.mlp.0.weight "
            "t_embedder.mlp.0.weight final_layer.linear.weight"
        ),
    },
    "aura": {
        "other": "double_layers.3.modX.1.weight double_layers.0.attn.w2q.weight",
        "v": "single_layers.0.attn.w1v.weight double_layers.0.attn.w2v.weight",
        "kept": (
            "modF.1.weight cond_seq_linear.weight final_linear.weight init_x_linear.weight positional_encoding "
            "register_tokens t_embedder.mlp.0.weight"
        ),
    },
    "hidream": {
        "kept": (
            "caption_projection.0.linear.weight p_embedder.pooled_embedder.linear_1.weight x_embedder.proj.weight "
            "final_layer.linear.weight"
        ),
        "other": "double_stream_blocks.0.block.ff_i.shared_experts.w3.weight",
        "down": "double_stream_blocks.0.block.ff_i.experts.0.w2.weight",
        "exact": "double_stream_blocks.0.block.ff_i.gate.weight",
        "v": "double_stream_blocks.0.block.attn1.to_v.weight",
    },
    "cosmos": {
        "other": "blocks.0.mlp.layer1.weight blocks.0.adaln_modulation_cross_attn.1.weight",
        "down": "blocks.0.mlp.layer2.weight blocks.0.adaln_modulation_mlp.2.weight",
        "v": "blocks.0.self_attn.v_proj.weight",
        "kept": "x_embedder.proj.1.weight",
        "exact": "pos_embedder.seq t_embedding_norm.weight",
        "left out": "accum_video_sample_counter blocks.0.self_attn.k_norm._extra_state",
    },
    "qwen_image": {
        "kept": (
            "time_text_embed.timestep_embedder.linear_2.weight img_in.weight norm_out.linear.weight proj_out.weight"
        ),
        "exact": "transformer_blocks.0.attn.norm_added_q.weight",
        "end": "transformer_blocks.0.img_mlp.net.0.proj.weight transformer_blocks.59.attn.to_q.weight",
        "other": "transformer_blocks.1.img_mlp.net.0.proj.weight transformer_blocks.1.attn.to_q.weight",
        "down": "transformer_blocks.1.img_mlp.net.2.weight transformer_blocks.1.txt_mlp.net.2.weight",
        "v": "transformer_blocks.1.attn.add_v_proj.weight",
    },
    "ltxv": {
        "kept": (
            "adaln_single.emb.timestep_embedder.linear_2.weight caption_projection.linear_2.weight "
            "patchify_proj.weight proj_out.weight"
        ),
        "exact": "transformer_blocks.27.scale_shift_table",
        "v": "transformer_blocks.0.attn1.to_v.weight",
        "down": "transformer_blocks.0.ff.net.2.weight",
        "other": "transformer_blocks.0.attn1.to_q.weight",
    },
    "hyvid": {
        "other": "double_blocks.0.img_attn_proj.weight single_blocks.0.linear2.weight",
        "qkv": "double_blocks.0.img_attn_qkv.weight",
        "kept": "txt_in.individual_token_refiner.blocks.1.self_attn_qkv.weight",
        "exact": "img_in.proj.weight",
    },
    "wan": {
        "exact": "blocks.0.self_attn.norm_q.weight head.modulation blocks.0.modulation patch_embedding.weight",
        "kept": "text_embedding.2.weight head.head.weight time_projection.1.weight",
        "v": (
            "blocks.0.self_attn.v.weight blocks.1.self_attn.v.weight blocks.10.self_attn.v.weight "
            "blocks.2.self_attn.v.weight blocks.3.self_attn.v.weight"
        ),
        "down": "blocks.0.ffn.2.weight",
        "other": "blocks.0.ffn.0.weight",
    },
    "sdxl": {
        "other": (
            "input_blocks.3.0.op.weight input_blocks.6.0.op.weight output_blocks.2.2.conv.weight "
            "output_blocks.5.2.conv.weight"
        ),
        "kept": "label_emb.0.0.weight input_blocks.0.0.weight out.2.weight time_embed.0.weight",
        "v": "input_blocks.4.1.transformer_blocks.0.attn1.to_v.weight",
        "down": "input_blocks.4.1.transformer_blocks.0.ff.net.2.weight",
        "odd": "input_blocks.4.1.proj_in.weight",
        "exact": "out.0.bias",
    },
    "sd1": {
        "other": "down_blocks.0.downsamplers.0.conv.weight",
        "kept": "conv_in.weight time_embedding.linear_1.weight",
        "v": "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v.weight",
    },
    "lumina2": {
        "kept": (
            "cap_embedder.1.weight context_refiner.0.attention.qkv.weight noise_refiner.0.attention.out.weight "
            "x_embedder.weight"
        ),
        "qkv": "layers.0.attention.qkv.weight",
        "down": "layers.0.feed_forward.w2.weight",
        "other": "layers.0.feed_forward.w1.weight",
        "exact": "x_pad_token",
    },
}
"""The tensors of each architecture by what becomes of them."""
SHAPES = {
    "double_blocks.0.img_attn.norm.query_norm.scale": (128,),
    "single_blocks.0.linear1.bias": (64,),
    "pos_embed": (1, 16, 256),
    "x_embedder.proj.weight": (64, 16, 2, 2),
    "positional_encoding": (1, 16, 256),
    "register_tokens": (1, 8, 256),
    "double_stream_blocks.0.block.ff_i.gate.weight": (4, 512),
    "pos_embedder.seq": (2, 1024),
    "t_embedding_norm.weight": (256,),
    "accum_video_sample_counter": (2, 256),
    "blocks.0.self_attn.k_norm._extra_state": (2, 256),
    "transformer_blocks.0.attn.norm_added_q.weight": (128,),
    "transformer_blocks.27.scale_shift_table": (6, 512),
    "img_in.proj.weight": (32, 4, 1, 2, 2),
    "blocks.0.self_attn.norm_q.weight": (256,),
    "head.modulation": (1, 2, 1024),
    "blocks.0.modulation": (1, 6, 256),
    "patch_embedding.weight": (64, 16, 1, 2, 2),
    "input_blocks.3.0.op.weight": (64, 64, 3, 3),
    "input_blocks.6.0.op.weight": (64, 64, 3, 3),
    "output_blocks.2.2.conv.weight": (64, 64, 3, 3),
    "output_blocks.5.2.conv.weight": (64, 64, 3, 3),
    "input_blocks.0.0.weight": (64, 4, 3, 3),
    "out.2.weight": (4, 64, 3, 3),
    "input_blocks.4.1.transformer_blocks.0.attn1.to_v.weight": (64, 64),
    "input_blocks.4.1.proj_in.weight": (8, 24),
    "out.0.bias": (64,),
    "down_blocks.0.downsamplers.0.conv.weight": (64, 64, 3, 3),
    "conv_in.weight": (64, 4, 3, 3),
    "x_pad_token": (1, 2048),
}
"""The shapes of those that are no matrices of `MATRIX`."""
NUMPY = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}


def rows(name: str) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, shape and kind of each tensor of a model, by name."""
    return sorted((key, SHAPES.get(key, MATRIX), kind) for kind, keys in MODELS[name].items() for key in keys.split())


def make_values(name: str, dtype: str) -> dict[str, np.ndarray]:
    """The tensors of a model: random values that are exact in the type."""
    rng = np.random.default_rng(len(name))
    return {key: rng.standard_normal(shape).astype(NUMPY[dtype]) for key, shape, _ in rows(name)}


def make_image_model(name: str, path: Path, dtype: str = "BF16", prefix: str = "") -> Path:
    """A checkpoint in one file."""
    save_file({prefix + key: values for key, values in make_values(name, dtype).items()}, path)
    return path


ENDS = dict.fromkeys(("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M"), "Q5_K")
"""What all matrices of the first and last block of Qwen-Image become; the file's own type in other files."""


def expected_types(name: str, dtype: str, file_type: str) -> dict[str, str]:
    """The type of each tensor of the GGUF file, tensors in the order of their names."""
    seen = {"v": 0, "qkv": 0, "down": 0}
    found = {}
    for key, shape, kind in rows(name):
        if kind == "exact":
            # What is float16 stays that, but for convolutions of five dimensions.
            found[key] = "F16" if dtype == "F16" and len(shape) < 5 else "F32"
        elif kind == "kept":
            found[key] = "BF16" if dtype == "BF16" else "F16"
        elif kind == "odd":
            found[key] = "F16"
        elif kind == "end":
            found[key] = (ENDS | {"Q5_K_M": "Q6_K"}).get(file_type, DEFAULTS[file_type])
        elif kind != "left out":
            types = TYPES[file_type].get(kind, DEFAULTS[file_type]).split()
            number = seen.get(kind, 0)
            if kind in seen:
                seen[kind] += 1
            found[key] = types[min(number, len(types) - 1)]
    return found
