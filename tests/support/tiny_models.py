"""Tiny random models of many architectures, made by transformers, and inputs for them.

A record names the classes of transformers; sizes are such that every row is whole blocks of 64. `MODELS` has decoders,
encoders, encoders with decoders, mixtures of experts and state spaces, with tied and with separate heads.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

VOCABULARY, HIDDEN, MLP, LAYERS, HEADS = 128, 64, 128, 2, 4
LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": MLP, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
BERT = {key: LLAMA[key] for key in LLAMA if key != "num_key_value_heads"}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 64,
        "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
T5 = {"vocab_size": VOCABULARY, "d_model": HIDDEN, "d_kv": 16, "d_ff": MLP, "num_layers": LAYERS, "num_heads": HEADS,
      "decoder_start_token_id": 0}  # fmt: skip
BART = {
    "vocab_size": VOCABULARY, "d_model": HIDDEN, "encoder_layers": LAYERS, "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS, "encoder_ffn_dim": MLP, "decoder_ffn_dim": MLP,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}  # fmt: skip

VIT = {"hidden_size": HIDDEN, "intermediate_size": MLP, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
       "image_size": 16, "patch_size": 8}  # fmt: skip
WAVE = {
    "vocab_size": 32, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "intermediate_size": MLP, "conv_dim": (64, 64), "conv_stride": (4, 2), "conv_kernel": (8, 4),
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
CROSS_ATTENTION = {"add_cross_attention": True, "is_decoder": True}
STARTS = {"decoder_start_token_id": 1, "pad_token_id": 0}


@dataclass(frozen=True)
class TinyModel:
    """A model: its class and configuration in transformers, and what it takes."""

    kind: str
    model: str
    config: str
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: str = "tokens"

    def make(self, transformers: ModuleType, torch: ModuleType) -> Any:
        """The model with random weights, the same every time, large enough for the logits to differ."""
        torch.manual_seed(1)
        model = getattr(transformers, self.model)(getattr(transformers, self.config)(**deepcopy(self.settings)))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        return model.eval()

    def save(self, folder: Path, transformers: ModuleType, torch: ModuleType) -> Path:
        """The folder, as transformers saves it."""
        self.make(transformers, torch).save_pretrained(folder)
        return folder

    def example(self, torch: ModuleType) -> dict[str, Any]:
        """Inputs."""
        tokens = torch.arange(3, 19).reshape(2, 8)
        if self.inputs == "tokens":
            return {"input_ids": tokens}
        if self.inputs == "both":
            return {"input_ids": tokens, "decoder_input_ids": tokens[:, :4]}
        generator = torch.Generator().manual_seed(2)
        if self.inputs == "wave":
            return {"input_values": torch.randn(2, 400, generator=generator)}
        if self.inputs == "sound":
            sound = torch.randn(2, 8, 20, generator=generator)
            return {"input_features": sound, "decoder_input_ids": tokens[:, :4]}
        pixels = torch.randn(2, 3, 16, 16, generator=generator)
        if self.inputs == "image and text":
            return {"pixel_values": pixels, "input_ids": tokens}
        if self.inputs == "image and decoder":
            return {"pixel_values": pixels, "decoder_input_ids": tokens[:, :4]}
        return {"pixel_values": pixels}


def _decoder(name: str, config: str | None = None, /, **settings: Any) -> TinyModel:
    return TinyModel("decoder", f"{name}ForCausalLM", config or f"{name}Config", LLAMA | settings)


def _encoder(name: str, task: str = "ForMaskedLM", **settings: Any) -> TinyModel:
    return TinyModel("encoder", f"{name}{task}", f"{name}Config", BERT | settings)


def _several(name: str, inputs: str, **settings: Any) -> TinyModel:
    return TinyModel("several inputs", name, settings.pop("config"), settings, inputs)


def _experts(name: str, **settings: Any) -> TinyModel:
    return TinyModel("mixture of experts", f"{name}ForCausalLM", f"{name}Config", LLAMA | settings)


MODELS: dict[str, TinyModel] = {
    "Llama": _decoder("Llama"),
    "Llama, tied": _decoder("Llama", tie_word_embeddings=True),
    "Llama, classifier": TinyModel(
        "decoder", "LlamaForSequenceClassification", "LlamaConfig", LLAMA | {"num_labels": 3}
    ),
    "Mistral": _decoder("Mistral"),
    "Qwen2": _decoder("Qwen2"),
    "Qwen2, tied": _decoder("Qwen2", tie_word_embeddings=True),
    "Qwen3, tied": _decoder("Qwen3", tie_word_embeddings=True, head_dim=16),
    "Gemma 2": _decoder("Gemma2", head_dim=16),
    "Phi-3": _decoder("Phi3", rope_scaling=None),
    "StarCoder2": _decoder("Starcoder2"),
    "OLMo 2": _decoder("Olmo2"),
    "OPT": _decoder("OPT", ffn_dim=MLP, word_embed_proj_dim=HIDDEN),
    "Bloom": TinyModel("decoder", "BloomForCausalLM", "BloomConfig", {
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS}),
    "Falcon": _decoder("Falcon", ffn_hidden_size=MLP, alibi=False),
    "GPT-NeoX": _decoder("GPTNeoX"),
    "GPT-J": TinyModel("decoder", "GPTJForCausalLM", "GPTJConfig", GPT2 | {"rotary_dim": 16}),
    "GPT-2": TinyModel("decoder", "GPT2LMHeadModel", "GPT2Config", GPT2),
    "GPT-2, untied": TinyModel("decoder", "GPT2LMHeadModel", "GPT2Config", GPT2 | {"tie_word_embeddings": False}),
    "T5": TinyModel("encoder-decoder", "T5ForConditionalGeneration", "T5Config", T5, "both"),
    "T5 v1.1": TinyModel("encoder-decoder", "T5ForConditionalGeneration", "T5Config",
                         T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, "both"),
    "T5, encoder": TinyModel("encoder", "T5EncoderModel", "T5Config", T5),
    "BART": TinyModel("encoder-decoder", "BartForConditionalGeneration", "BartConfig", BART, "both"),
    "Marian": TinyModel("encoder-decoder", "MarianMTModel", "MarianConfig", BART, "both"),
    "Whisper": TinyModel("encoder-decoder", "WhisperForConditionalGeneration", "WhisperConfig",
                         BART | {"num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 16,
                                 "suppress_tokens": None, "begin_suppress_tokens": None}, "sound"),
    "BERT": TinyModel("encoder", "BertModel", "BertConfig", BERT),
    "BERT, masked": TinyModel("encoder", "BertForMaskedLM", "BertConfig", BERT),
    "BERT, classifier": TinyModel("encoder", "BertForSequenceClassification", "BertConfig", BERT | {"num_labels": 3}),
    "RoBERTa, classifier": TinyModel("encoder", "RobertaForSequenceClassification", "RobertaConfig",
                                     BERT | {"num_labels": 3}),
    "DistilBERT": TinyModel("encoder", "DistilBertForMaskedLM", "DistilBertConfig", {
        "vocab_size": VOCABULARY, "dim": HIDDEN, "hidden_dim": MLP, "n_layers": LAYERS, "n_heads": HEADS,
        "max_position_embeddings": 64}),
    "ViT": TinyModel("encoder", "ViTForImageClassification", "ViTConfig", {
        "hidden_size": HIDDEN, "intermediate_size": MLP, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "image_size": 16, "patch_size": 8, "num_labels": 3}, "image"),
    "Mixtral": _experts("Mixtral", num_local_experts=4),
    "Qwen2-MoE": _experts("Qwen2Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64,
                          shared_expert_intermediate_size=64),
    "Qwen3-MoE": _experts("Qwen3Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64, head_dim=16),
    "OLMoE": _experts("Olmoe", num_experts=4, num_experts_per_tok=2),
    "DeepSeek-V3": _experts("DeepseekV3", n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=64,
                            first_k_dense_replace=1, n_group=1, topk_group=1, q_lora_rank=64, kv_lora_rank=64,
                            qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=16, num_key_value_heads=4),
    "Mamba": TinyModel("state space", "MambaForCausalLM", "MambaConfig", {
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "state_size": 16, "num_hidden_layers": LAYERS,
        "time_step_rank": 64}),
    "Mamba 2": TinyModel("state space", "Mamba2ForCausalLM", "Mamba2Config", {
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "state_size": 16, "num_hidden_layers": LAYERS, "head_dim": 16,
        "num_heads": 8, "expand": 2, "n_groups": 1, "chunk_size": 8}),
    "RWKV": TinyModel("state space", "RwkvForCausalLM", "RwkvConfig", {
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "attention_hidden_size": HIDDEN, "intermediate_size": MLP,
        "num_hidden_layers": LAYERS, "context_length": 64, "rescale_every": 0}),
    "RecurrentGemma": TinyModel("state space", "RecurrentGemmaForCausalLM", "RecurrentGemmaConfig", LLAMA | {
        "lru_width": 64, "attention_window_size": 16, "block_types": ["recurrent", "attention"], "head_dim": 16}),
    "Falcon, ALiBi": _decoder("Falcon", ffn_hidden_size=MLP, alibi=True, multi_query=False, bias=True),
    "StableLM": _decoder("StableLm"),
    "Cohere": _decoder("Cohere"),
    "Granite": _decoder("Granite"),
    "GLM-4": _decoder("Glm4", head_dim=16),
    "Gemma 3": TinyModel("decoder", "Gemma3ForCausalLM", "Gemma3TextConfig", LLAMA | {"head_dim": 16}),
    "Gemma 3n": TinyModel("decoder", "Gemma3nForCausalLM", "Gemma3nTextConfig", LLAMA | {
        "head_dim": 16, "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 64, "laurel_rank": 64,
        "num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"],
        "activation_sparsity_pattern": [0.0, 0.0]}),
    "Nemotron": _decoder("Nemotron"),
    "Persimmon": _decoder("Persimmon"),
    "MPT": TinyModel("decoder", "MptForCausalLM", "MptConfig", {
        "vocab_size": VOCABULARY, "d_model": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "max_seq_len": 64,
        "expansion_ratio": 2}),
    "CodeGen": TinyModel("decoder", "CodeGenForCausalLM", "CodeGenConfig", GPT2 | {"rotary_dim": 16}),
    "GPT-BigCode": TinyModel("decoder", "GPTBigCodeForCausalLM", "GPTBigCodeConfig", GPT2),
    "OPT, projected": _decoder("OPT", ffn_dim=MLP, word_embed_proj_dim=128, do_layer_norm_before=False),
    "UMT5": TinyModel("encoder-decoder", "UMT5ForConditionalGeneration", "UMT5Config", T5, "both"),
    "mBART": TinyModel("encoder-decoder", "MBartForConditionalGeneration", "MBartConfig", BART, "both"),
    "Pegasus": TinyModel("encoder-decoder", "PegasusForConditionalGeneration", "PegasusConfig", BART, "both"),
    "TrOCR": TinyModel("decoder", "TrOCRForCausalLM", "TrOCRConfig", {
        "vocab_size": VOCABULARY, "d_model": HIDDEN, "decoder_layers": LAYERS, "decoder_attention_heads": HEADS,
        "decoder_ffn_dim": MLP, "max_position_embeddings": 64}),
    "BERT with GPT-2": TinyModel("encoder-decoder", "EncoderDecoderModel", "EncoderDecoderConfig", STARTS | {
        "encoder": BERT | {"model_type": "bert"}, "decoder": GPT2 | CROSS_ATTENTION | {"model_type": "gpt2"}}, "both"),
    "ALBERT": _encoder("Albert", embedding_size=64),
    "ELECTRA": _encoder("Electra", embedding_size=64),
    "DeBERTa": _encoder("Deberta", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "DeBERTa-v2": _encoder("DebertaV2", relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "ModernBERT": _encoder("ModernBert", cls_token_id=1, sep_token_id=2),
    "RoFormer": _encoder("RoFormer", embedding_size=64),
    "XLNet": TinyModel("encoder", "XLNetLMHeadModel", "XLNetConfig", {
        "vocab_size": VOCABULARY, "d_model": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "d_inner": MLP}),
    "XLM": TinyModel("encoder", "XLMWithLMHeadModel", "XLMConfig", {
        "vocab_size": VOCABULARY, "emb_dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS}),
    "SigLIP, vision": TinyModel("encoder", "SiglipVisionModel", "SiglipVisionConfig", VIT, "image"),
    "WavLM": TinyModel("encoder", "WavLMForCTC", "WavLMConfig", WAVE | {"num_feat_extract_layers": 2}, "wave"),
    "CLIP": _several("CLIPModel", "image and text", config="CLIPConfig", text_config=BERT, vision_config=VIT,
                     projection_dim=64),
    "ViT with GPT-2": _several(
        "VisionEncoderDecoderModel", "image and decoder", config="VisionEncoderDecoderConfig",
        encoder=VIT | {"model_type": "vit"}, decoder=GPT2 | CROSS_ATTENTION | {"model_type": "gpt2"}, **STARTS),
    "LLaVA": _several(
        "LlavaForConditionalGeneration", "tokens", config="LlavaConfig", text_config=LLAMA | {"model_type": "llama"},
        vision_config=VIT | {"model_type": "clip_vision_model"}, image_token_index=100),
    "PaliGemma": _several(
        "PaliGemmaForConditionalGeneration", "tokens", config="PaliGemmaConfig", image_token_index=100,
        projection_dim=64, text_config=LLAMA | {"model_type": "gemma", "head_dim": 16},
        vision_config=VIT | {"model_type": "siglip_vision_model", "projection_dim": 64}),
    "Phi-MoE": _experts("Phimoe", num_local_experts=4),
    "Granite-MoE": _experts("GraniteMoe", num_local_experts=4),
    "FlexOLMo": _experts("FlexOlmo", num_experts=4, num_experts_per_tok=2),
    "Jamba": _experts("Jamba", num_experts=4, num_experts_per_tok=2, mamba_d_state=16, mamba_dt_rank=64,
                      attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1,
                      use_mamba_kernels=False),
}  # fmt: skip
