"""Tiny Hugging Face folders of each architecture that is converted to GGUF: random weights, a small real tokenizer."""

import json
import struct
from pathlib import Path

import numpy as np

from quantcore.conversion.hf.encoding import byte_characters
from quantcore.files.disk import OutputFile
from quantcore.safetensors.writer import SafetensorsWriter, TensorSpec

WIDTH, ROWS, LAYERS, HEADS, KV_HEADS, HEAD_DIM, EXPERTS = 64, 96, 2, 4, 2, 16, 2
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n")]
BYTE_PAIR_TOKENS = [*CONTROL_TOKENS, *byte_characters().values(), *("".join(pair) for pair in MERGES)]


def byte_pair_files(folder: Path, tokenizer_class: str, **config: object) -> int:
    """vocab.json and merges.txt of the same vocabulary, without tokenizer.json; the size of the vocabulary."""
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(BYTE_PAIR_TOKENS)})
    lines = ["#version: 0.2", *map(" ".join, MERGES)]
    (folder / "merges.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    config = {"tokenizer_class": tokenizer_class, "model_max_length": 128, **config}
    write_json(folder / "tokenizer_config.json", config)
    return len(BYTE_PAIR_TOKENS) + len(config.get("added_tokens_decoder", ()))


def gpt2_files(folder: Path) -> int:
    """A tokenizer of GPT-2 as old folders have it."""
    return byte_pair_files(folder, "GPT2Tokenizer")


def qwen2_files(folder: Path) -> int:
    """A tokenizer of Qwen 2 with a special token and another one behind the vocabulary."""
    added = {
        str(len(BYTE_PAIR_TOKENS) + i): {
            "content": content, "special": special, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False,
        }
        for i, (content, special) in enumerate((("<|vision|>", True), ("<tool>", False)))
    }  # fmt: skip
    more = {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>", "<|vision|>"]}
    return byte_pair_files(folder, "Qwen2Tokenizer", added_tokens_decoder=added, chat_template="{{ messages }}", **more)


def byte_pairs(folder: Path, pre_tokenizer: dict | None = None) -> int:
    """tokenizer.json of byte-level BPE with a few merges; the size of its vocabulary."""
    merges, tokens = MERGES, BYTE_PAIR_TOKENS
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spec = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(CONTROL_TOKENS)],
        "normalizer": None, "pre_tokenizer": pre_tokenizer or digits, "post_processor": None, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)}, "merges": [list(pair) for pair in merges],
        },
    }  # fmt: skip
    write_json(folder / "tokenizer.json", spec)
    config = {
        "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 128, "chat_template": "{{ messages }}",
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", config)
    return len(tokens)


def named_tokens(folder: Path) -> int:
    """Special tokens that only tokenizer_config.json names, one of which is not in the vocabulary, and a template that
    begins with one of them; several chat templates.
    """
    size = byte_pairs(folder)
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    first = {"SpecialToken": {"id": CONTROL_TOKENS[1], "type_id": 0}}
    texts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    spec["added_tokens"] = spec["added_tokens"][1:2]
    spec["post_processor"] = {
        "type": "TemplateProcessing", "single": [first, texts[0]], "pair": [first, *texts],
        "special_tokens": {CONTROL_TOKENS[1]: {"id": CONTROL_TOKENS[1], "ids": [1], "tokens": [CONTROL_TOKENS[1]]}},
    }  # fmt: skip
    write_json(folder / "tokenizer.json", spec)
    templates = [{"name": name, "template": f"{{{{ {name} }}}}"} for name in ("default", "other")]
    write_json(
        folder / "tokenizer_config.json",
        {
            "eos_token": CONTROL_TOKENS[2], "pad_token": "<padding>", "chat_template": templates,
            "additional_special_tokens": [CONTROL_TOKENS[0]], "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )  # fmt: skip
    return size + 1


def word_pieces_with_template(folder: Path) -> int:
    """As `word_pieces`, with a chat template."""
    size = word_pieces(folder)
    path = folder / "tokenizer_config.json"
    write_json(path, json.loads(path.read_text()) | {"chat_template": "{{ messages }}"})
    return size


def word_pieces(folder: Path) -> int:
    """tokenizer.json of WordPiece."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", *(f"##{c}" for c in "abcdefgh"), "the"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ends = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]
    single = [ends[0], {"Sequence": {"id": "A", "type_id": 0}}, ends[1]]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
    spec = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(tokens[:5])],
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing", "single": single, "pair": pair,
            "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in (("[CLS]", 2), ("[SEP]", 3))},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {token: i for i, token in enumerate(tokens)},
        },
    }  # fmt: skip
    write_json(folder / "tokenizer.json", spec)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    write_json(folder / "tokenizer_config.json", {**names, "tokenizer_class": "BertTokenizer", "do_lower_case": True})
    return len(tokens)


def sentence_pieces(folder: Path) -> int:
    """tokenizer.model with a token for each byte, and one added token."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *((f"<0x{b:02X}>", 0.0, 6) for b in range(256))]
    pieces += [("\u2581", -1.0, 1), ("a", -2.0, 1), ("\u2581a", -3.0, 1), ("<user>", 0.0, 4), ("x", -4.5, 1)]
    model = b"".join(_field(1, _piece(*piece)) for piece in pieces)
    trainer = _number(3, 2) + _number(35, 1)  # byte pairs, with tokens for bytes
    (folder / "tokenizer.model").write_bytes(model + _field(2, trainer))
    size = len(pieces)
    added = {
        str(size): {"content": "<|turn|>", "special": True},
        str(size + 1): {"content": "\u2581two", "special": False},
    }
    config = {
        "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": False,
        "added_tokens_decoder": added, "tokenizer_class": "LlamaTokenizer",
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", config)
    return size + 3  # one more than there are tokens


def _number(field: int, value: int) -> bytes:
    return bytes(_varint(field << 3)) + bytes(_varint(value))


def _field(field: int, data: bytes) -> bytes:
    return bytes(_varint(field << 3 | 2)) + bytes(_varint(len(data))) + data


def _piece(text: str, score: float, kind: int) -> bytes:
    return _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, kind)


def _varint(value: int) -> list[int]:
    return [value & 0x7F | 0x80, *_varint(value >> 7)] if value > 0x7F else [value]


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


LLAMA = {
    "hidden_size": WIDTH, "intermediate_size": ROWS, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "hidden_act": "silu",
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
BERT = {
    "hidden_size": WIDTH, "intermediate_size": ROWS, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "max_position_embeddings": 32, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
}  # fmt: skip
GPT2 = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_ctx": 32, "n_positions": 32, "layer_norm_epsilon": 1e-5}
GEMMA = {
    **LLAMA, "head_dim": HEAD_DIM, "sliding_window": 32, "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": HEAD_DIM,
}  # fmt: skip
EXPERT_SIZES = {"num_experts": EXPERTS, "num_experts_per_tok": 1, "moe_intermediate_size": 32, "head_dim": HEAD_DIM}
GPT_OSS = {
    **LLAMA, "head_dim": HEAD_DIM, "num_local_experts": EXPERTS, "num_experts_per_tok": 1, "sliding_window": 32,
    "layer_types": ["sliding_attention", "full_attention"], "attention_bias": True, "swiglu_limit": 7.0,
    "rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
        "original_max_position_embeddings": 32,
    },
}  # fmt: skip
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
LONG_ROPE = {"type": "longrope", "long_factor": [1.5] * 8, "short_factor": [1.0] * 8}


def _decoder(
    *, biases=False, norms=(), head=True, experts="", fused=False, head_dim=HEAD_DIM
) -> dict[str, tuple[int, ...]]:
    """The tensors of a decoder by name; the vocabulary's size stands as 0."""
    q, kv = HEADS * head_dim, KV_HEADS * head_dim
    shapes = {"model.embed_tokens.weight": (0, WIDTH), "model.norm.weight": (WIDTH,)}
    if head:
        shapes["lm_head.weight"] = (0, WIDTH)
    for i in range(LAYERS):
        own = {
            "input_layernorm.weight": (WIDTH,), "post_attention_layernorm.weight": (WIDTH,),
            "self_attn.o_proj.weight": (WIDTH, q),
        }  # fmt: skip
        if fused:
            own |= {"self_attn.qkv_proj.weight": (q + 2 * kv, WIDTH), "mlp.gate_up_proj.weight": (2 * ROWS, WIDTH)}
        else:
            own |= {f"self_attn.{n}_proj.weight": (rows, WIDTH) for n, rows in (("q", q), ("k", kv), ("v", kv))}
        if biases:
            own |= {f"self_attn.{n}_proj.bias": (rows,) for n, rows in (("q", q), ("k", kv), ("v", kv))}
        own |= {name: (HEAD_DIM if "self_attn" in name else WIDTH,) for name in norms}
        if experts == "mixtral":
            own["block_sparse_moe.gate.weight"] = (EXPERTS, WIDTH)
            for e in range(EXPERTS):
                base = f"block_sparse_moe.experts.{e}"
                own |= {f"{base}.w1.weight": (ROWS, WIDTH), f"{base}.w3.weight": (ROWS, WIDTH)}
                own |= {f"{base}.w2.weight": (WIDTH, ROWS)}
        elif experts == "qwen":
            own["mlp.gate.weight"] = (EXPERTS, WIDTH)
            for e in range(EXPERTS):
                base = f"mlp.experts.{e}"
                own |= {f"{base}.gate_proj.weight": (32, WIDTH), f"{base}.up_proj.weight": (32, WIDTH)}
                own |= {f"{base}.down_proj.weight": (WIDTH, 32)}
        elif experts == "qwen fused":
            own |= {
                "mlp.gate.weight": (EXPERTS, WIDTH), "mlp.experts.gate_up_proj": (EXPERTS, 64, WIDTH),
                "mlp.experts.down_proj": (EXPERTS, WIDTH, 32),
            }  # fmt: skip
        else:
            own["mlp.down_proj.weight"] = (WIDTH, ROWS)
            if not fused:
                own |= {"mlp.gate_proj.weight": (ROWS, WIDTH), "mlp.up_proj.weight": (ROWS, WIDTH)}
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in own.items()}
    return shapes


def _bert(n_types: int = 2, n_labels: int = 0) -> dict[str, tuple[int, ...]]:
    shapes = {
        "embeddings.word_embeddings.weight": (0, WIDTH), "embeddings.position_embeddings.weight": (32, WIDTH),
        "embeddings.token_type_embeddings.weight": (n_types, WIDTH), "embeddings.LayerNorm.weight": (WIDTH,),
        "embeddings.LayerNorm.bias": (WIDTH,), "pooler.dense.weight": (WIDTH, WIDTH), "pooler.dense.bias": (WIDTH,),
    }  # fmt: skip
    parts = [("attention.self.query", WIDTH, WIDTH), ("attention.self.key", WIDTH, WIDTH)]
    parts += [("attention.self.value", WIDTH, WIDTH), ("attention.output.dense", WIDTH, WIDTH)]
    parts += [("intermediate.dense", ROWS, WIDTH), ("output.dense", WIDTH, ROWS)]
    for i in range(LAYERS):
        for part, rows, columns in parts:
            shapes |= {f"encoder.layer.{i}.{part}.weight": (rows, columns), f"encoder.layer.{i}.{part}.bias": (rows,)}
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"encoder.layer.{i}.{part}.{end}": (WIDTH,) for end in ("weight", "bias")}
    if n_labels:
        shapes |= {"classifier.weight": (n_labels, WIDTH), "classifier.bias": (n_labels,)}
    return shapes


def _gpt2() -> dict[str, tuple[int, ...]]:
    shapes = {"transformer.wte.weight": (0, WIDTH), "transformer.wpe.weight": (32, WIDTH)}
    shapes |= {f"transformer.ln_f.{end}": (WIDTH,) for end in ("weight", "bias")}
    parts = (("attn.c_attn", 3 * WIDTH, WIDTH), ("attn.c_proj", WIDTH, WIDTH), ("mlp.c_fc", 4 * WIDTH, WIDTH))
    for i in range(LAYERS):
        for part, outputs, inputs in (*parts, ("mlp.c_proj", WIDTH, 4 * WIDTH)):
            shapes |= {
                f"transformer.h.{i}.{part}.weight": (inputs, outputs),
                f"transformer.h.{i}.{part}.bias": (outputs,),
            }
        for part in ("ln_1", "ln_2"):
            shapes |= {f"transformer.h.{i}.{part}.{end}": (WIDTH,) for end in ("weight", "bias")}
    return shapes


def _gpt_oss(*, is_packed: bool) -> dict[str, tuple[int, ...]]:
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes = {"model.embed_tokens.weight": (0, WIDTH), "model.norm.weight": (WIDTH,), "lm_head.weight": (0, WIDTH)}
    for i in range(LAYERS):
        own = {"input_layernorm.weight": (WIDTH,), "post_attention_layernorm.weight": (WIDTH,)}
        for n, rows, columns in (("q", q, WIDTH), ("k", kv, WIDTH), ("v", kv, WIDTH), ("o", WIDTH, q)):
            own |= {f"self_attn.{n}_proj.weight": (rows, columns), f"self_attn.{n}_proj.bias": (rows,)}
        own |= {"self_attn.sinks": (HEADS,), "mlp.router.weight": (EXPERTS, WIDTH), "mlp.router.bias": (EXPERTS,)}
        for n, rows, columns in (("gate_up", 2 * ROWS, WIDTH), ("down", WIDTH, ROWS)):
            name = f"mlp.experts.{n}_proj"
            own[f"{name}_bias"] = (EXPERTS, rows)
            if is_packed:
                own |= {
                    f"{name}_blocks": (EXPERTS, rows, columns // 32, 16),
                    f"{name}_scales": (EXPERTS, rows, columns // 32),
                }
            else:
                own[name] = (EXPERTS, columns, rows)
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in own.items()}
    return shapes


_GEMMA_NORMS = ("pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight")
_QK_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")

MODELS = {
    "llama": ("LlamaForCausalLM", LLAMA, _decoder(), byte_pairs),
    "llama 3": ("LlamaForCausalLM", {**LLAMA, "rope_scaling": LLAMA3_ROPE}, _decoder(head=False), byte_pairs),
    "llama of sentencepiece": ("LlamaForCausalLM", LLAMA, _decoder(), sentence_pieces),
    "mistral": ("MistralForCausalLM", {**LLAMA, "sliding_window": 64}, _decoder(), sentence_pieces),
    "mixtral": (
        "MixtralForCausalLM", {**LLAMA, "num_local_experts": EXPERTS, "num_experts_per_tok": 1},
        _decoder(experts="mixtral"), sentence_pieces,
    ),
    "bert": ("BertModel", BERT, _bert(), word_pieces),
    "llama 3 of long heads": (
        "LlamaForCausalLM", {**LLAMA, "head_dim": 128, "rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE},
        _decoder(head_dim=128), byte_pairs,
    ),
    "llama of named tokens": ("LlamaForCausalLM", LLAMA, _decoder(), named_tokens),
    "bert classifier": (
        "BertForSequenceClassification", {**BERT, "type_vocab_size": 1}, _bert(1, 2), word_pieces_with_template
    ),
    "bert classifier of one label": (
        "BertForSequenceClassification", {**BERT, "id2label": {"0": "SCORE"}, "label2id": {"SCORE": 0}}, _bert(2, 1),
        word_pieces,
    ),
    "qwen2": ("Qwen2ForCausalLM", LLAMA, _decoder(biases=True), byte_pairs),
    "qwen2 with yarn": (
        "Qwen2ForCausalLM",
        {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
        _decoder(biases=True), byte_pairs,
    ),
    "qwen3": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": HEAD_DIM}, _decoder(norms=_QK_NORMS), byte_pairs),
    "qwen3moe": (
        "Qwen3MoeForCausalLM", {**LLAMA, **EXPERT_SIZES}, _decoder(norms=_QK_NORMS, experts="qwen"), byte_pairs
    ),
    "qwen3moe of transformers 5": (
        "Qwen3MoeForCausalLM", {**LLAMA, **EXPERT_SIZES}, _decoder(norms=_QK_NORMS, experts="qwen fused"), byte_pairs
    ),
    "gemma2": ("Gemma2ForCausalLM", GEMMA, _decoder(norms=_GEMMA_NORMS, head=False), sentence_pieces),
    "gemma3": (
        "Gemma3ForCausalLM", {**GEMMA, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        _decoder(norms=(*_GEMMA_NORMS, *_QK_NORMS), head=False), sentence_pieces,
    ),
    "phi3": ("Phi3ForCausalLM", LLAMA, _decoder(fused=True), sentence_pieces),
    "phi3 of long context": (
        "Phi3ForCausalLM",
        {**LLAMA, "rope_scaling": LONG_ROPE, "original_max_position_embeddings": 64, "sliding_window": 32},
        _decoder(fused=True), sentence_pieces,
    ),
    "gpt2": ("GPT2LMHeadModel", GPT2, _gpt2(), byte_pairs),
    "gpt2 of vocab.json": ("GPT2LMHeadModel", GPT2, _gpt2(), gpt2_files),
    "qwen2 of vocab.json": ("Qwen2ForCausalLM", LLAMA, _decoder(biases=True), qwen2_files),
    "gpt-oss": ("GptOssForCausalLM", {**GPT_OSS, "quantization_config": MXFP4}, _gpt_oss(is_packed=True), byte_pairs),
    "gpt-oss of floats": ("GptOssForCausalLM", GPT_OSS, _gpt_oss(is_packed=False), byte_pairs),
}  # fmt: skip
"""Models by a name: the name in config.json, its hyperparameters, the tensors' shapes, the tokenizer."""
RETURNING = [name for name in MODELS if "gpt-oss" not in name and "classifier" not in name]
"""Those whose GGUF files become folders again, and whose layers all have importance."""
_MODEL_TYPES = {
    "LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "MixtralForCausalLM": "mixtral", "BertModel": "bert",
    "BertForSequenceClassification": "bert",
    "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3", "Qwen3MoeForCausalLM": "qwen3_moe",
    "Gemma2ForCausalLM": "gemma2", "Gemma3ForCausalLM": "gemma3_text", "Phi3ForCausalLM": "phi3",
    "GPT2LMHeadModel": "gpt2", "GptOssForCausalLM": "gpt_oss",
}  # fmt: skip


def make_model(name: str, folder: Path, dtype: str = "F32") -> Path:
    """A folder with a tiny model; equal for equal arguments."""
    architecture, sizes, shapes, write_tokenizer = MODELS[name]
    folder.mkdir(parents=True, exist_ok=True)
    n_tokens = write_tokenizer(folder)
    config = {
        "architectures": [architecture],
        "model_type": _MODEL_TYPES[architecture],
        "vocab_size": n_tokens,
        **sizes,
    }
    write_json(folder / "config.json", config)
    write_weights(folder / "model.safetensors", shapes, n_tokens, dtype)
    return folder


PACKED = ("_blocks", "_scales")


def write_weights(path: Path, shapes: dict[str, tuple[int, ...]], n_tokens: int, dtype: str) -> None:
    """Weights that are exact in every float type, or codes of MXFP4, in a file of safetensors."""
    rng = np.random.default_rng(len(shapes))
    whole = {name: tuple(n_tokens if extent == 0 else extent for extent in shape) for name, shape in shapes.items()}
    with OutputFile(path, force=True) as file:
        writer = SafetensorsWriter(
            file,
            [TensorSpec(name, "U8" if name.endswith(PACKED) else dtype, shape) for name, shape in whole.items()],
            {"format": "pt"},
        )
        for name, shape in whole.items():
            if name.endswith(PACKED):
                low, high = (0, 256) if name.endswith("_blocks") else (118, 124)
                writer.write(name, 0, rng.integers(low, high, shape, dtype=np.uint8).reshape(-1))
                continue
            values = (rng.integers(-127, 128, shape) / 128).astype(np.float32)
            bits = values.view(np.uint32) >> 16
            data = {"F32": values, "F16": values.astype(np.float16), "BF16": bits.astype(np.uint16)}[dtype]
            writer.write(name, 0, np.ascontiguousarray(data).reshape(-1).view(np.uint8))
