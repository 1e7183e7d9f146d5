"""The architectures of ComfyUI-GGUF as data. A new one is a row here and one in the tests.

Source: the templates of `tools/convert.py` (what tells an architecture, what stays float32, what is left out) and the
lists in `tools/lcpp.patch` (what is not quantized) of github.com/city96/ComfyUI-GGUF, as of September 2025.
"""

from dataclasses import dataclass

from quantcore.gguf.layout import n_dimensions

_Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImageModel:
    """An architecture.

    Attributes
    ----------
    name : str
        `general.architecture`.
    marks : tuple of names
        Each is a set of tensors that tells the architecture.
    kept : tuple of str
        Parts of the names of tensors that are not quantized.
    kept_names : tuple of str
        Names of tensors that are not quantized.
    exact : tuple of str
        Parts of the names of parameters that stay float32, since ComfyUI does not decode them.
    ignored : tuple of str
        Parts of the names of tensors that are left out.
    other_layouts : tuple of str
        Tensors that tell a layout which ComfyUI-GGUF does not read.
    is_reshaped : bool
        Convolutions become matrices with rows of 256, so that they can be quantized.
    """

    name: str
    marks: tuple[_Names, ...]
    kept: _Names
    kept_names: _Names = ()
    exact: _Names = ()
    ignored: _Names = ()
    other_layouts: _Names = ()
    is_reshaped: bool = False

    def is_quantizable(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether a tensor is a matrix that may be quantized."""
        return (
            name.endswith("weight")
            and n_dimensions(shape) == 2
            and name not in self.kept_names
            and not any(part in name for part in (*_KEPT, *self.kept, *self.exact))
        )


_KEPT = ("_norm.weight",)
_STREAMS = ("txt_in.", "img_in.", "time_in.", "vector_in.", "guidance_in.", "final_layer.")
_UNET = (
    "class_embedding.", "time_embedding.", "add_embedding.", "time_embed.", "label_emb.", "conv_in.", "conv_out.",
)  # fmt: skip
_UNET_NAMES = ("input_blocks.0.0.weight", "out.2.weight")

_ALL = (
    ImageModel(
        "flux",
        marks=(("single_transformer_blocks.0.attn.norm_k.weight",), ("double_blocks.0.img_attn.proj.weight",)),
        other_layouts=("single_transformer_blocks.0.attn.norm_k.weight",),
        kept=_STREAMS,
    ),
    ImageModel(
        "sd3",
        marks=(("transformer_blocks.0.ff_context.net.0.proj.weight",), ("joint_blocks.0.x_block.attn.qkv.weight",)),
        other_layouts=("transformer_blocks.0.ff_context.net.0.proj.weight",),
        kept=("final_layer.", "time_text_embed.", "context_embedder.", "t_embedder.", "y_embedder.", "x_embedder."),
        kept_names=("proj_out.weight", "pos_embed"),
    ),
    ImageModel(
        "aura",
        marks=(
            ("double_layers.3.modX.1.weight",),
            ("joint_transformer_blocks.3.ff_context.out_projection.weight",),
        ),
        other_layouts=("joint_transformer_blocks.3.ff_context.out_projection.weight",),
        kept=("t_embedder.", "init_x_linear."),
        kept_names=(
            "modF.1.weight", "cond_seq_linear.weight", "final_linear.weight", "positional_encoding", "register_tokens",
        ),
    ),
    ImageModel(
        "hidream",
        marks=(
            (
                "caption_projection.0.linear.weight",
                "double_stream_blocks.0.block.ff_i.shared_experts.w3.weight",
            ),
        ),
        kept=("p_embedder.", "t_embedder.", "x_embedder.", "final_layer.", "caption_projection."),
        exact=(".ff_i.gate.weight", "img_emb.emb_pos"),
    ),
    ImageModel(
        "cosmos",
        marks=(("blocks.0.mlp.layer1.weight", "blocks.0.adaln_modulation_cross_attn.1.weight"),),
        kept=("p_embedder.", "t_embedder.", "t_embedding_norm.", "x_embedder.", "final_layer."),
        exact=("pos_embedder",),
        ignored=("_extra_state", "accum_"),
    ),
    ImageModel(
        "qwen_image",
        marks=(
            (
                "time_text_embed.timestep_embedder.linear_2.weight",
                "transformer_blocks.0.attn.norm_added_q.weight",
                "transformer_blocks.0.img_mlp.net.0.proj.weight",
            ),
        ),
        kept=("img_in.", "txt_in.", "time_text_embed.", "proj_out.", "norm_out."),
    ),
    ImageModel(
        "ltxv",
        marks=(
            (
                "adaln_single.emb.timestep_embedder.linear_2.weight",
                "transformer_blocks.27.scale_shift_table",
                "caption_projection.linear_2.weight",
            ),
        ),
        kept=("adaln_single.", "caption_projection.", "patchify_proj.", "proj_out."),
        exact=("scale_shift_table",),
    ),
    ImageModel(
        "hyvid",
        marks=(
            (
                "double_blocks.0.img_attn_proj.weight",
                "txt_in.individual_token_refiner.blocks.1.self_attn_qkv.weight",
            ),
        ),
        kept=_STREAMS,
    ),
    ImageModel(
        "wan",
        marks=(("blocks.0.self_attn.norm_q.weight", "text_embedding.2.weight", "head.modulation"),),
        kept=(
            "modulation.", "patch_embedding.", "text_embedding.", "time_projection.", "time_embedding.", "img_emb.",
            "head.", "cond_encoder.", "frame_packer.", "audio_injector.", "casual_audio_encoder.",
        ),
        exact=(
            ".modulation", ".encoder.padding_tokens", "trainable_cond_mask", "casual_audio_encoder.weights",
            "casual_audio_encoder.encoder.conv",
        ),
    ),
    ImageModel(
        "sdxl",
        marks=(
            ("down_blocks.0.downsamplers.0.conv.weight", "add_embedding.linear_1.weight"),
            (
                "input_blocks.3.0.op.weight", "input_blocks.6.0.op.weight", "output_blocks.2.2.conv.weight",
                "output_blocks.5.2.conv.weight",
            ),
            ("label_emb.0.0.weight",),
        ),
        kept=_UNET,
        kept_names=_UNET_NAMES,
        is_reshaped=True,
    ),
    ImageModel(
        "sd1",
        marks=(
            ("down_blocks.0.downsamplers.0.conv.weight",),
            (
                "input_blocks.3.0.op.weight", "input_blocks.6.0.op.weight", "input_blocks.9.0.op.weight",
                "output_blocks.2.1.conv.weight", "output_blocks.5.2.conv.weight", "output_blocks.8.2.conv.weight",
            ),
        ),
        kept=_UNET,
        kept_names=_UNET_NAMES,
        is_reshaped=True,
    ),
    ImageModel(
        "lumina2",
        marks=(("cap_embedder.1.weight", "context_refiner.0.attention.qkv.weight"),),
        kept=("t_embedder.", "x_embedder.", "final_layer.", "cap_embedder.", "context_refiner.", "noise_refiner."),
        # Parameters of Z-Image, which has this architecture.
        exact=("x_pad_token", "cap_pad_token"),
    ),
)  # fmt: skip

IMAGE_MODELS: dict[str, ImageModel] = {model.name: model for model in _ALL}
"""The architectures by name, in the order in which a checkpoint is compared with them."""


def image_model(architecture: object) -> ImageModel | None:
    """The record of `general.architecture`; None for one that is no diffusion model."""
    return IMAGE_MODELS.get(architecture) if isinstance(architecture, str) else None
