"""What a tokenizer.json makes of a text, as Hugging Face's `tokenizers` encodes it: its four stages in order.

This encodes one short text, by which llama.cpp's converter recognises pre-tokenizers; it is not meant to be fast. A
component that is not known here makes a `ValueError`. Source: the documentation of `tokenizers`.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

Json = dict[str, Any]
_BYTE_LEVEL = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CATEGORY = re.compile(r"\\(p|P)\{(\^?)(\w+)\}")


def byte_characters() -> dict[int, str]:
    """The printable character that stands for each byte in vocabularies of GPT-2's kind."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def encode(tokenizer: Json, text: str) -> list[int]:
    """The ids of a text with the special tokens around it.

    Parameters
    ----------
    tokenizer : dict
        A tokenizer.json.
    text : str

    Raises
    ------
    ValueError
        A component is not known, or the text has a piece without a token.
    """
    normalizer = _normalizer(tokenizer.get("normalizer"))
    pre_tokenizer = _pre_tokenizer(tokenizer.get("pre_tokenizer"))
    model = _model(tokenizer["model"])
    added = tokenizer.get("added_tokens") or []
    ids: list[int] = []
    for part, found in _split_added(text, [t for t in added if not t.get("normalized")]):
        if found is not None:
            ids.append(found)
            continue
        for piece, inner in _split_added(normalizer(part), [t for t in added if t.get("normalized")]):
            if inner is not None:
                ids.append(inner)
                continue
            for word in pre_tokenizer([piece]):
                ids += model(word)
    return _surround(tokenizer.get("post_processor"), ids)


def _split_added(text: str, added: list[Json]) -> Iterator[tuple[str, int | None]]:
    """Parts of a text, the added tokens among them with their ids."""
    contents = sorted((t["content"] for t in added if t["content"]), key=len, reverse=True)
    if not contents:
        yield from [(text, None)] if text else []
        return
    ids = {t["content"]: int(t["id"]) for t in added}
    for part in re.split(f"({'|'.join(map(re.escape, contents))})", text):
        if part:
            yield part, ids.get(part)


# Normalizers: from text to text.


def _normalizer(spec: Json | None) -> Callable[[str], str]:
    kind = None if spec is None else spec["type"]
    if spec is None or kind is None:
        return lambda text: text
    if kind == "Sequence":
        steps = [_normalizer(step) for step in spec["normalizers"]]
        return lambda text: _chain(steps, text)
    if kind in ("NFC", "NFD", "NFKC", "NFKD"):
        return lambda text: unicodedata.normalize(kind, text)
    if kind == "Lowercase":
        return str.lower
    if kind == "StripAccents":
        return _strip_accents
    if kind == "Prepend":
        return lambda text: spec["prepend"] + text if text else text
    if kind == "Replace":
        return lambda text: _compile(spec["pattern"], text).sub(lambda _: str(spec["content"]), text)
    if kind == "BertNormalizer":
        return lambda text: _normalize_bert(spec, text)
    raise ValueError(f"the normalizer {kind} is not known")


def _chain(steps: list[Callable[[str], str]], text: str) -> str:
    for step in steps:
        text = step(text)
    return text


def _strip_accents(text: str) -> str:
    return "".join(c for c in text if unicodedata.category(c) != "Mn")


def _normalize_bert(spec: Json, text: str) -> str:
    if spec.get("clean_text", True):
        kept = (c for c in text if c in "\t\n\r" or not (c in "\0\ufffd" or unicodedata.category(c)[0] == "C"))
        text = "".join(" " if c.isspace() else c for c in kept)
    if spec.get("handle_chinese_chars", True):
        text = "".join(f" {c} " if _is_chinese(c) else c for c in text)
    is_lower = spec.get("lowercase", True)
    strips = spec.get("strip_accents")
    if is_lower if strips is None else strips:
        text = _strip_accents(unicodedata.normalize("NFD", text))
    return text.lower() if is_lower else text


_CHINESE = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def _is_chinese(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _CHINESE)


# Pre-tokenizers: from pieces of text to smaller pieces.


def _pre_tokenizer(spec: Json | None) -> Callable[[Iterable[str]], Iterable[str]]:
    kind = None if spec is None else spec["type"]
    if spec is None or kind is None:
        return lambda pieces: pieces
    if kind == "Sequence":
        steps = [_pre_tokenizer(step) for step in spec["pretokenizers"]]

        def run(pieces: Iterable[str]) -> Iterable[str]:
            for step in steps:
                pieces = step(pieces)
            return pieces

        return run
    cutters: dict[str, Callable[[str], list[str]]] = {
        "Split": lambda text: _cut(spec["pattern"], text, spec["behavior"], bool(spec.get("invert"))),
        "Digits": lambda text: _cut(
            {"Regex": r"\p{N}" if spec.get("individual_digits") else r"\p{N}+"}, text, "Isolated", False
        ),
        "Punctuation": lambda text: _cut(
            {"Regex": r"[!-/:-@\[-`{-~\p{P}]"}, text, spec.get("behavior", "Isolated"), False
        ),
        "Whitespace": lambda text: re.findall(r"\w+|[^\w\s]+", text),
        "WhitespaceSplit": str.split,
        "BertPreTokenizer": lambda text: [
            part for word in text.split() for part in _cut({"Regex": r"[!-/:-@\[-`{-~\p{P}]"}, word, "Isolated", False)
        ],
        "ByteLevel": lambda text: _cut_bytes(spec, text),
    }
    if kind not in cutters:
        raise ValueError(f"the pre-tokenizer {kind} is not known")
    cut = cutters[kind]
    return lambda pieces: [part for piece in pieces for part in cut(piece) if part]


def _cut_bytes(spec: Json, text: str) -> list[str]:
    if spec.get("add_prefix_space") and not text.startswith(" "):
        text = " " + text
    parts = _compile({"Regex": _BYTE_LEVEL}, text).findall(text) if spec.get("use_regex", True) else [text]
    characters = byte_characters()
    return ["".join(characters[byte] for byte in part.encode()) for part in parts]


def _compile(pattern: Json, text: str) -> re.Pattern[str]:
    """A pattern whose classes of characters, which `re` lacks, list those of the text."""
    if "String" in pattern:
        return re.compile(re.escape(pattern["String"]))
    expression = pattern["Regex"]
    characters = sorted(set(text))

    def members(match: re.Match[str]) -> str:
        is_negated = (match[1] == "P") != (match[2] == "^")
        found = (c for c in characters if unicodedata.category(c).startswith(match[3]) != is_negated)
        # A character that is in no text stands for an empty class.
        listed = "".join(map(re.escape, found)) or "\uffff"
        return listed if _is_in_class(expression, match.start()) else f"[{listed}]"

    try:
        return re.compile(_CATEGORY.sub(members, expression))
    except re.error as error:
        raise ValueError(f"the pattern {expression!r} is not understood ({error})") from None


def _is_in_class(expression: str, position: int) -> bool:
    is_inside, i = False, 0
    while i < position:
        if expression[i] == "\\":
            i += 1
        elif expression[i] == "[":
            is_inside = True
        elif expression[i] == "]":
            is_inside = False
        i += 1
    return is_inside


def _cut(pattern: Json, text: str, behavior: str, is_inverted: bool) -> list[str]:
    parts: list[tuple[str, bool]] = []
    position = 0
    for match in _compile(pattern, text).finditer(text):
        if match.end() > match.start():
            parts += [(text[position : match.start()], False), (match[0], True)]
            position = match.end()
    parts.append((text[position:], False))
    parts = [(part, is_match != is_inverted) for part, is_match in parts if part]
    if behavior == "Isolated":
        return [part for part, _ in parts]
    if behavior == "Removed":
        return [part for part, is_match in parts if not is_match]
    joined: list[str] = []
    before: bool | None = None
    for part, is_match in parts:
        if (
            (behavior == "Contiguous" and is_match == before)
            or (behavior == "MergedWithPrevious" and is_match and before is False)
            or (behavior == "MergedWithNext" and not is_match and before is True)
        ):
            joined[-1] += part
        else:
            joined.append(part)
        before = is_match
    return joined


# Models: from a piece to ids.


def _model(spec: Json) -> Callable[[str], list[int]]:
    vocabulary = spec["vocab"]
    kind = spec.get("type", "BPE" if "merges" in spec else None)
    if kind == "WordPiece":
        return lambda word: _word_pieces(spec, vocabulary, word)
    if kind != "BPE":
        raise ValueError(f"the model {kind} is not known")
    ranks = {tuple(m.split(" ") if isinstance(m, str) else m): i for i, m in enumerate(spec["merges"])}
    return lambda word: _merge(spec, vocabulary, ranks, word)


def _merge(spec: Json, vocabulary: dict[str, int], ranks: dict[tuple[str, ...], int], word: str) -> list[int]:
    if spec.get("ignore_merges") and word in vocabulary:
        return [vocabulary[word]]
    parts = list(word)
    while len(parts) > 1:
        pairs = [ranks.get(pair, len(ranks)) for pair in pairwise(parts)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        if pairs[best] == len(ranks):
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    ids: list[int] = []
    for part in parts:
        if part in vocabulary:
            ids.append(vocabulary[part])
        elif spec.get("byte_fallback") and all(f"<0x{b:02X}>" in vocabulary for b in part.encode()):
            ids += [vocabulary[f"<0x{b:02X}>"] for b in part.encode()]
        elif spec.get("unk_token") in vocabulary:
            ids.append(vocabulary[spec["unk_token"]])
    return ids


def _word_pieces(spec: Json, vocabulary: dict[str, int], word: str) -> list[int]:
    unknown = [vocabulary[spec.get("unk_token", "[UNK]")]]
    if len(word) > spec.get("max_input_chars_per_word", 100):
        return unknown
    ids, start = [], 0
    while start < len(word):
        prefix = spec.get("continuing_subword_prefix", "##") if start else ""
        stop = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in vocabulary), None)
        if stop is None:
            return unknown
        ids.append(vocabulary[prefix + word[start:stop]])
        start = stop
    return ids


def _surround(spec: Json | None, ids: list[int]) -> list[int]:
    """The ids with the special tokens that the post-processor adds."""
    kind = None if spec is None else spec["type"]
    if spec is None or kind in (None, "ByteLevel"):
        return ids
    if kind == "Sequence":
        for step in spec["processors"]:
            ids = _surround(step, ids)
        return ids
    if kind in ("RobertaProcessing", "BertProcessing"):
        return [spec["cls"][1], *ids, spec["sep"][1]]
    if kind != "TemplateProcessing":
        raise ValueError(f"the post-processor {kind} is not known")
    out: list[int] = []
    for item in spec["single"]:
        out += ids if "Sequence" in item else spec["special_tokens"][item["SpecialToken"]["id"]]["ids"]
    return out
