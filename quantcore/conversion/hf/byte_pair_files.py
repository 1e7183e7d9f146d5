"""vocab.json and merges.txt as the tokenizer.json that transformers makes of them, for the tokenizers of two families.

Source: `GPT2Converter` and `Qwen2Converter` in transformers' `convert_slow_tokenizer.py` (4.57), the special tokens of
`GPT2Tokenizer` and `Qwen2Tokenizer`. llama.cpp's converter loads such folders through `AutoTokenizer`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantcore._base.text import brief, quote
from quantcore.errors import FileFormatError
from quantcore.files.disk import InputFile, label
from quantcore.models.checkpoint_config import CONFIG, read_json
from quantcore.safetensors.folders import MAX_HEADER_BYTES

VOCABULARY_FILE, MERGES_FILE = "vocab.json", "merges.txt"
_CONFIG_FILE, _SPECIAL_FILE, _ADDED_FILE = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_END = "<|endoftext|>"


HINT = "transformers writes tokenizer.json: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


@dataclass(frozen=True, slots=True)
class _Family:
    """Tokenizers of one kind: how they cut words, and their special tokens unless the folder has others."""

    classes: tuple[str, ...]
    model_types: tuple[str, ...]
    normalizer: dict[str, Any] | None
    pre_tokenizer: dict[str, Any]
    special: dict[str, str]


_FAMILIES = (
    _Family(
        ("GPT2Tokenizer", "GPT2TokenizerFast"),
        ("gpt2",),
        None,
        _byte_level(use_regex=True),
        {"bos_token": _END, "eos_token": _END, "unk_token": _END},
    ),
    _Family(
        ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
        ("qwen2", "qwen3", "qwen3_moe"),
        {"type": "NFC"},
        {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": _QWEN2_PATTERN}, "behavior": "Isolated", "invert": False},
                _byte_level(use_regex=False),
            ],
        },
        {"eos_token": _END, "unk_token": _END, "pad_token": _END},
    ),
)


def has_byte_pair_files(folder: Path) -> bool:
    """Whether a folder has both files."""
    return (folder / VOCABULARY_FILE).is_file() and (folder / MERGES_FILE).is_file()


def read_byte_pair_files(folder: Path) -> dict[str, Any]:
    """The tokenizer.json of a folder that only has vocab.json and merges.txt.

    Raises
    ------
    FileFormatError
        The tokenizer is of another kind, so that only transformers knows how it cuts words; or a file is malformed, a
        special token has no id.
    """
    config = read_json(folder / _CONFIG_FILE, "tokenizer") or {}
    family = _find_family(folder, config)
    vocabulary = read_json(folder / VOCABULARY_FILE, "tokenizer") or {}
    if not all(type(id_) is int for id_ in vocabulary.values()):
        raise FileFormatError(f"{label(folder / VOCABULARY_FILE)}: expected tokens with their ids")
    return {
        "added_tokens": _added_tokens(folder, config, family, vocabulary),
        "normalizer": family.normalizer,
        "pre_tokenizer": family.pre_tokenizer,
        "post_processor": None,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": _read_merges(folder / MERGES_FILE)},
    }


def _find_family(folder: Path, config: dict[str, Any]) -> _Family:
    name = config.get("tokenizer_class")
    model_type = (read_json(folder / CONFIG, "config") or {}).get("model_type")
    for family in _FAMILIES:
        if name in family.classes or (name is None and model_type in family.model_types):
            return family
    raise FileFormatError(
        f"{label(folder)}: has no tokenizer: tokenizer.json is missing, and {VOCABULARY_FILE} with {MERGES_FILE} does "
        f"not tell how {brief(name or model_type)} cuts words; {HINT}"
    )


def _read_merges(path: Path) -> list[list[str]]:
    with InputFile(path) as file:
        lines = file.read_text(MAX_HEADER_BYTES).split("\n")
    pairs = [line.split() for line in lines[lines[0].startswith("#version") :] if line.strip()]
    if any(len(pair) != 2 for pair in pairs):
        wrong = next(pair for pair in pairs if len(pair) != 2)
        raise FileFormatError(f"{label(path)}: expected two tokens in a line, got {brief(' '.join(wrong))}")
    return pairs


def _added_tokens(
    folder: Path, config: dict[str, Any], family: _Family, vocabulary: dict[str, int]
) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for id_, token in (config.get("added_tokens_decoder") or {}).items():
        found[int(id_)] = {"id": int(id_), "normalized": False, **token}
    for content, id_ in (read_json(folder / _ADDED_FILE, "tokenizer") or {}).items():
        found.setdefault(int(id_), {"id": int(id_), "content": content, "special": False, "normalized": True})
    ids = vocabulary | {token["content"]: id_ for id_, token in found.items()}
    for content in _special_tokens(folder, config, family):
        if content not in ids:
            raise FileFormatError(f"{label(folder)}: the special token {quote(content)} is not in {VOCABULARY_FILE}")
        token = {"id": ids[content], "content": content, "normalized": False}
        found[ids[content]] = {**token, **found.get(ids[content], {}), "special": True}
    return [found[id_] for id_ in sorted(found)]


def _special_tokens(folder: Path, config: dict[str, Any], family: _Family) -> Iterator[str]:
    named = read_json(folder / _SPECIAL_FILE, "tokenizer") or {}
    for name in _SPECIAL:
        token = config.get(name, named.get(name, family.special.get(name)))
        content = token.get("content") if isinstance(token, dict) else token
        if content is not None:
            yield str(content)
    for token in config.get("additional_special_tokens") or named.get("additional_special_tokens") or []:
        yield str(token.get("content") if isinstance(token, dict) else token)
