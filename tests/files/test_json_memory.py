"""Strict JSON: what is parsed is what Python parses, and hostile text costs little memory before it is refused."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore.errors import FileFormatError
from quantcore.files import strict_json
from quantcore.files.strict_json import parse_members, parse_object

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def members(data: bytes, may_be_long: str = "long") -> list[tuple[str, Any]]:
    return list(parse_members(data, "file", "header", may_be_long=may_be_long))


@given(
    content=st.dictionaries(TEXT, VALUES, max_size=6),
    indent=st.sampled_from([None, 1, "\t"]),
    ensure_ascii=st.booleans(),
    window=st.sampled_from([1, 2, 7, 64, 1024]),
    space=st.sampled_from(["", " ", "\n\r\t "]),
)
def test_members_are_those_of_the_object(content, indent, ensure_ascii, window, space):
    data = (space + json.dumps(content, indent=indent, ensure_ascii=ensure_ascii) + space).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_json, "_FIRST_WINDOW", window)
        patch.setattr(strict_json, "_LONGEST_MEMBER", 1 << 30)
        found = members(data)
    assert found == list(content.items())
    assert parse_object(data, "file", "header") == content


MALFORMED = {
    "empty": b"",
    "space": b" \n ",
    "array": b"[]",
    "open": b"{",
    "no name": b"{,}",
    "name a number": b"{1: 2}",
    "name alone": b'{"a"}',
    "no colon": b'{"a" 1}',
    "two colons": b'{"a":: 1}',
    "no value": b'{"a": }',
    "no comma": b'{"a": 1 "b": 2}',
    "comma at the end": b'{"a": 1,}',
    "comma in front": b'{,"a": 1}',
    "never closed": b'{"a": 1',
    "closed by a bracket": b'{"a": 1]',
    "closed twice": b'{"a": 1}}',
    "more behind": b'{"a": 1} 2',
    "NUL behind": b'{"a": 1}\0',
    "the same name twice": b'{"a": 1, "\\u0061": 2}',
    "the same name twice, within": b'{"a": {"b": 1, "b": 2}}',
    "NaN": b'{"a": NaN}',
    "no UTF-8": b'{"a": "\xff"}',
    "half a character at the end": '{"a": "é'.encode()[:-1],
    "byte-order mark": b'\xef\xbb\xbf{"a": 1}',
    "deep": b'{"a": ' + b"[" * 100_000,
    "5000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "other space": '{"a":\u00a01}'.encode(),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_an_object_is_refused_in_one_line(data):
    for parse in (members, lambda data: parse_object(data, "file", "header")):
        with pytest.raises(FileFormatError, match=r"^file: header: ") as caught:
            parse(data)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 300


# Memory

SIZE = 1_500_000
HOSTILE = {
    "empty lists": "[],",
    "lists of one": "[1],",
    "empty objects": "{},",
    "objects": '{"a":1},',
    "lists of lists": "[[],[]],",
    "escaped names": '{"\\"":[]},',
}


def peak_of(parse: Any, data: bytes) -> tuple[int, str]:
    """Bytes allocated at most while a text is refused, and what is said about it."""
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError) as caught:
            parse(data)
        return tracemalloc.get_traced_memory()[1], str(caught.value)
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", ["a", "long"])
def test_values_that_take_far_more_memory_than_their_text_are_refused(name, unit):
    data = f'{{"{name}": [{(unit * (SIZE // len(unit)))[:-1]}]}}'.encode()
    for parse in (members, lambda data: parse_object(data, "file", "header")):
        peak, problem = peak_of(parse, data)
        assert peak < 3 * len(data), problem
        assert "16 times the memory" in problem or "more than 262144 bytes" in problem


@pytest.mark.parametrize("unit", ["300,", "1.5,", '"ab",', "[12,34],"])
def test_a_member_of_a_header_is_short(unit):
    data = f'{{"a": [{(unit * (SIZE // len(unit)))[:-1]}]}}'.encode()
    peak, problem = peak_of(members, data)
    assert peak < 3 * len(data)
    assert "a member of more than 262144 bytes begins at byte 1" in problem


HONEST = {
    "a header": {
        f"model.layers.{i}.weight": {"dtype": "F32", "shape": [1, 2], "data_offsets": [8 * i, 8 * i + 8]}
        for i in range(30_000)
    },
    "a header of short names": {
        f"{i:x}": {"dtype": "U8", "shape": [], "data_offsets": [i, i + 1]} for i in range(40_000)
    },
    "an index": {"weight_map": {f"layers.{i}.weight": "model-00001-of-00002.safetensors" for i in range(30_000)}},
    "counts": {"counts": [0] * 500_000 + [300] * 500_000},
    "JSON within a text": {"long": {"tags": json.dumps([[], {}, [1, [2]]] * 100_000)}},
    "a text of escapes": {"long": {"x": '"\\' * 1_000_000}},
    "a text of brackets": {"long": {"x": "[]{}," * 500_000}},
}


@pytest.mark.slow
@pytest.mark.parametrize("content", HONEST.values(), ids=HONEST)
def test_honest_text_of_megabytes_is_parsed(content):
    data = json.dumps(content, separators=(",", ":")).encode()
    assert parse_object(data, "file", "header") == content
    assert members(data, next(iter(content))) == list(content.items())
