"""Vocabularies of a checkpoint as GGUF's keys: tokens, types, scores, merges, special tokens, the chat template.

Source of what becomes which key: `_set_vocab_gpt2`, `_set_vocab_sentencepiece` and `_set_vocab_llama_hf` in llama.cpp's
`conversion/base.py`, `set_vocab` of its architectures. Special tokens, merges and templates are read by `gguf`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantcore._base.text import quote
from quantcore.conversion.hf.byte_pair_files import HINT, VOCABULARY_FILE, has_byte_pair_files, read_byte_pair_files
from quantcore.conversion.hf.encoding import encode
from quantcore.conversion.hf.pre_tokenizers import CHECK_TEXT, name_by_pattern, name_by_tokens
from quantcore.conversion.hf.sentencepiece import (
    BYTE,
    CONTROL,
    MODEL_FILE,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    read_pieces,
)
from quantcore.errors import FileFormatError
from quantcore.files.disk import label
from quantcore.models.checkpoint_config import read_json

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
_SPACE = "\u2581"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_PADDING_SCORE, _ADDED_SCORE = -10000.0, -1000.0
_LOOK_SPECIAL = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
_SPECIAL_MARKS = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))
_SPECIAL, _MORE_SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask"), "additional_special_tokens"
_TEMPLATES = "tokenizer.chat_templates"
_FLAGS = (("Lowercase", "lowercase"), ("StripAccents", "strip_accents"))


@dataclass(frozen=True)
class Tokenizer:
    """The files of a tokenizer in a folder.

    Attributes
    ----------
    folder : Path
    vocab_size : int or None
        Of config.json.
    """

    folder: Path
    vocab_size: int | None

    def read(self, name: str) -> dict[str, Any] | None:
        """The object in a file, None if there is none."""
        return read_json(self.folder / name, "tokenizer")

    def has(self, name: str) -> bool:
        """Whether there is a file."""
        return (self.folder / name).is_file()

    def require(self) -> dict[str, Any]:
        """tokenizer.json with the fields that every one has; or what vocab.json and merges.txt stand for."""
        found = self.read(TOKENIZER_FILE)
        if found is None and has_byte_pair_files(self.folder):
            found = read_byte_pair_files(self.folder)
        if found is None:
            hint = f"; {HINT}" if self.has("vocab.txt") or self.has(VOCABULARY_FILE) else ""
            raise FileFormatError(f"{label(self.folder)}: has no tokenizer: {TOKENIZER_FILE} is missing{hint}")
        model = found.get("model")
        if not isinstance(model, dict) or not isinstance(model.get("vocab"), (dict, list)):
            raise FileFormatError(f"{label(self.folder / TOKENIZER_FILE)}: model.vocab is missing")
        return found

    def check_size(self, size: int) -> None:
        """Refuse a vocabulary that is larger than the model's."""
        if self.vocab_size is not None and size > self.vocab_size:
            raise FileFormatError(
                f"{label(self.folder)}: the tokenizer has tokens up to id {size - 1}, but vocab_size is "
                f"{self.vocab_size}"
            )


def looks_special(token: str) -> bool:
    """Whether a token that is not marked as special ought to be."""
    return token in _LOOK_SPECIAL or any(token.startswith(s) and token.endswith(e) for s, e in _SPECIAL_MARKS)


def read_base_vocabulary(tokenizer: Tokenizer, notices: list[str]) -> tuple[list[str], list[int], str]:
    """Tokens, their types and the name of the pre-tokenizer of a tokenizer.json of BPE or WordPiece.

    Raises
    ------
    FileFormatError
        There is no tokenizer.json, it is of another kind, or llama.cpp has no name for its pre-tokenizer.
    """
    spec = tokenizer.require()
    path = label(tokenizer.folder / TOKENIZER_FILE)
    vocabulary = spec["model"]["vocab"]
    if not isinstance(vocabulary, dict) or not all(isinstance(i, int) for i in vocabulary.values()):
        raise FileFormatError(f"{path}: model.vocab: expected tokens with their ids")
    added = {int(t["id"]): t for t in spec.get("added_tokens") or []}
    for id_, token in ((tokenizer.read(CONFIG_FILE) or {}).get("added_tokens_decoder") or {}).items():
        if token["content"] not in vocabulary:
            added.setdefault(int(id_), token)
    for content in _special_contents(tokenizer):
        if all(content != token["content"] for token in added.values()):
            id_ = vocabulary.get(content, max(len(vocabulary), max(added, default=-1) + 1))
            added[id_] = {"content": content, "special": True}
    by_id = {id_: token for token, id_ in vocabulary.items()} | {id_: t["content"] for id_, t in added.items()}
    if min(by_id) < 0:
        raise FileFormatError(f"{path}: model.vocab: {quote(by_id[min(by_id)])} has the id {min(by_id)}")
    size = max(by_id) + 1
    tokenizer.check_size(size)
    tokens, types = [], []
    # A model without vocab_size has as many tokens as its tokenizer.
    for i in range(size if tokenizer.vocab_size is None else tokenizer.vocab_size):
        token, kind = by_id.get(i, f"[PAD{i}]"), NORMAL if i in by_id else UNUSED
        if i in added:
            is_control = added[i].get("special") or looks_special(token)
            token, kind = (token, CONTROL) if is_control else (token.replace(_SPACE, " "), USER_DEFINED)
        tokens.append(token)
        types.append(kind)
    return tokens, types, _recognise(spec, path, notices)


def _special_contents(tokenizer: Tokenizer) -> Iterator[str]:
    """The special tokens that the tokenizer's configuration names; transformers adds those that it does not find."""
    config = tokenizer.read(CONFIG_FILE) or {}
    # Files before transformers 4.34 have them here, which counts more then.
    own = {} if "added_tokens_decoder" in config else tokenizer.read(SPECIAL_FILE) or {}
    more = [*(config.get(_MORE_SPECIAL) or []), *(own.get(_MORE_SPECIAL) or [])]
    for token in (*((config | own).get(f"{name}_token") for name in _SPECIAL), *more):
        if isinstance(content := _content(token), str) and content:
            yield content


def _recognise(spec: dict[str, Any], path: str, notices: list[str]) -> str:
    try:
        name = name_by_tokens(encode(spec, CHECK_TEXT))
    except ValueError:
        name = None
    if name is None and (name := name_by_pattern(spec.get("pre_tokenizer"))):
        notices.append(
            f"pre-tokenizer: {name}, by the pattern of {TOKENIZER_FILE}: llama.cpp does not list this vocabulary"
        )
    if name is None:
        kind = (spec.get("pre_tokenizer") or {}).get("type")
        raise FileFormatError(f"{path}: pre_tokenizer: llama.cpp has no name for this one ({kind})")
    return name


def write_bpe(tokenizer: Tokenizer, writer: Any, notices: list[str]) -> None:
    """Write a vocabulary of byte-level BPE."""
    tokens, types, pre = read_base_vocabulary(tokenizer, notices)
    if tokenizer.require()["model"].get("type", "BPE") != "BPE":
        kind = tokenizer.require()["model"]["type"]
        raise FileFormatError(
            f"{label(tokenizer.folder / TOKENIZER_FILE)}: model.type: expected BPE, got {quote(kind)}"
        )
    _write(writer, "gpt2", pre, tokens, types)
    write_special(tokenizer, writer, load_merges=True)


def write_word_pieces(tokenizer: Tokenizer, writer: Any, notices: list[str], n_token_types: int) -> None:
    """Write a vocabulary of WordPiece: what begins a word gets a mark, what continues one loses its own."""
    tokens, types, pre = read_base_vocabulary(tokenizer, notices)
    writer.add_token_type_count(n_token_types)
    marked = [
        token if kind == CONTROL else token[2:] if token.startswith("##") else _SPACE + token
        for token, kind in zip(tokens, types, strict=True)
    ]
    _write(writer, "bert", pre, marked, types)
    write_special(tokenizer, writer, n_vocab=len(tokens))


def read_sentencepiece(tokenizer: Tokenizer, *, marks_only: bool = False) -> tuple[list[bytes], list[float], list[int]]:
    """Tokens, scores and types of tokenizer.model, with the tokens that other files add.

    Parameters
    ----------
    tokenizer : Tokenizer
    marks_only : bool, default False
        Only the mark of an added token makes it special, not its looks; tokenizer.json adds tokens, too.
    """
    pieces = read_pieces(tokenizer.folder / MODEL_FILE)
    size = tokenizer.vocab_size or len(pieces)
    tokens = [f"[PAD{i}]".encode() for i in range(size)]
    scores, types = [_PADDING_SCORE] * size, [UNUSED] * size
    for i, piece in enumerate(pieces[:size]):
        tokens[i], scores[i] = piece.text, piece.score
        types[i] = NORMAL if piece.type == USER_DEFINED else piece.type
    for token, id_ in (tokenizer.read("added_tokens.json") or {}).items():
        if 0 <= int(id_) < size:
            tokens[id_], scores[id_], types[id_] = token.encode(), _ADDED_SCORE, USER_DEFINED
    for id_, entry in _added_entries(tokenizer, with_json=marks_only):
        token = entry["content"]
        if 0 <= id_ < size:
            is_control = entry.get("special") or (looks_special(token) and not marks_only)
            tokens[id_] = (token if is_control or marks_only else token.replace(_SPACE, " ")).encode()
            scores[id_], types[id_] = _ADDED_SCORE, CONTROL if is_control else USER_DEFINED
    return tokens, scores, types


def _added_entries(tokenizer: Tokenizer, *, with_json: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, entry in ((tokenizer.read(CONFIG_FILE) or {}).get("added_tokens_decoder") or {}).items():
        yield int(key), entry
    if with_json:
        for entry in (tokenizer.read(TOKENIZER_FILE) or {}).get("added_tokens") or []:
            yield int(entry["id"]), entry


def write_sentencepiece(tokenizer: Tokenizer, writer: Any, *, marks_only: bool = False) -> None:
    """Write the vocabulary of tokenizer.model; `marks_only` as in `read_sentencepiece`."""
    tokens, scores, types = read_sentencepiece(tokenizer, marks_only=marks_only)
    _write(writer, "llama", "default", tokens, types, scores)
    write_special(tokenizer, writer, n_vocab=len(tokens))


def has_byte_fallback(tokenizer: Tokenizer) -> bool:
    """Whether tokenizer.json is one of SentencePiece's kind, with tokens for single bytes."""
    model = tokenizer.require()["model"]
    return model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def write_byte_fallback(tokenizer: Tokenizer, writer: Any) -> None:
    """Write the vocabulary of a tokenizer.json of SentencePiece's kind, without scores."""
    spec = tokenizer.require()
    config = tokenizer.read(CONFIG_FILE) or {}
    special = {_content(config.get(f"{name}_token")) for name in _SPECIAL}
    special |= {_content(token) for token in config.get(_MORE_SPECIAL) or []}
    by_id = {id_: token for token, id_ in spec["model"]["vocab"].items()}
    size = len(by_id)
    names = {int(t["id"]): t["content"] for t in spec.get("added_tokens") or []}
    tokens, types = [], []
    for i in range(size):
        if i not in by_id:
            raise FileFormatError(f"{label(tokenizer.folder / TOKENIZER_FILE)}: model.vocab: no token has the id {i}")
        token = names.get(i, by_id[i])
        tokens.append(token)
        types.append(BYTE if _BYTE_TOKEN.fullmatch(token) else CONTROL if token in special else NORMAL)
    for id_ in sorted(i for i in names if i >= size):
        tokens.append(names[id_])
        types.append(CONTROL if names[id_] in special else USER_DEFINED)
    _write(writer, "llama", "default", tokens, types, [_ADDED_SCORE] * len(tokens))
    write_special(tokenizer, writer, n_vocab=len(tokens))


def write_special(
    tokenizer: Tokenizer, writer: Any, *, defaults: Mapping[str, int] | None = None, **options: Any
) -> None:
    """Write special tokens, merges and the chat template, which `gguf` finds in the folder.

    `defaults` gives the ids of special tokens that it does not find.
    """
    from gguf import SpecialVocab

    vocabulary = SpecialVocab(tokenizer.folder, **options)
    for name, id_ in (defaults or {}).items():
        vocabulary.special_token_ids.setdefault(name, id_)
    spec = tokenizer.read(TOKENIZER_FILE) or {}
    _find_first_token(tokenizer, spec, vocabulary)
    vocabulary.add_to_gguf(writer)
    if (templates := writer.kv_data[0].get(_TEMPLATES)) is not None:
        templates.value = sorted(templates.value)  # The order of a set is another one in each process.
    for name, value in _normalization(spec.get("normalizer")).items():
        writer.add_bool(f"tokenizer.ggml.normalizer.{name}", value)


def _find_first_token(tokenizer: Tokenizer, spec: Mapping[str, Any], vocabulary: Any) -> None:
    """The token that the post-processor puts first begins a text where tokenizer_config.json names none that does.

    gguf 0.19 does not look there, later ones do.
    """
    config = tokenizer.read(CONFIG_FILE)
    processor = spec.get("post_processor") or {}
    if not config or (config.get("bos_token") and config.get("cls_token")):
        return
    for step in processor.get("processors", [processor]):
        single = step.get("single") or []
        if step.get("type") != "TemplateProcessing" or len(single) < 2:
            continue
        first = single[0].get("SpecialToken", {}).get("id")
        if not first or first in (config.get("bos_token"), config.get("cls_token")):
            continue
        if not isinstance(config.get("add_bos_token"), bool):
            vocabulary.add_special_token["bos"] = True
        if not config.get("bos_token") and not config.get("cls_token"):
            ids = [int(t["id"]) for t in spec.get("added_tokens") or [] if t["content"] == first]
            if ids:  # It is written before the others.
                others = {kind: id_ for kind, id_ in vocabulary.special_token_ids.items() if kind != "bos"}
                vocabulary.special_token_ids = {"bos": ids[0], **others}


def _normalization(normalizer: Any) -> dict[str, bool]:
    """What a normalizer does with capitals and accents, where it says so."""
    if not isinstance(normalizer, dict):
        return {}
    found: dict[str, bool] = {}
    for part in normalizer.get("normalizers") or [normalizer]:
        if part.get("type") == "BertNormalizer":
            found |= {name: part[name] for _, name in _FLAGS if isinstance(part.get(name), bool)}
        found |= {name: True for kind, name in _FLAGS if part.get("type") == kind}
    return {name: found[name] for _, name in _FLAGS if name in found}


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _write(
    writer: Any,
    model: str,
    pre: str,
    tokens: Sequence[str | bytes],
    types: list[int],
    scores: list[float] | None = None,
) -> None:
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    if scores is not None:
        writer.add_token_scores(scores)
    writer.add_token_types(types)
