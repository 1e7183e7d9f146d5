"""JSON that may be hostile: one object, said once, or one line that says why not."""

import json
import math

import pytest

from quantcore.errors import FileFormatError
from quantcore.files.strict_json import parse_object, parse_text

REFUSED = {
    "nothing": (b"", "Expecting value"),
    "half an object": (b'{"a": [1', "Expecting ',' delimiter"),
    "two objects": (b"{} {}", "Extra data"),
    "a list": (b"[1]", "must be a JSON object"),
    "a duplicate": (b'{"a": 1, "a": 1}', "duplicate keys"),
    "a duplicate inside": (b'{"a": [{"b": 1, "b": 2}]}', "duplicate keys"),
    "NaN": (b'{"a": NaN}', "NaN is not JSON"),
    "infinity": (b'{"a": -Infinity}', "-Infinity is not JSON"),
    "not UTF-8": (b'{"a": "\xff"}', "utf-8"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "utf-8"),
    "deep": (b"[" * 200_000, "not valid JSON"),
    "an integer of 5000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
}


@pytest.mark.parametrize(("data", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(data, problem):
    with pytest.raises(FileFormatError) as refusal:
        parse_object(data, "x.json", "index")
    message = str(refusal.value)
    assert message.startswith("x.json: index: ") and problem in message
    assert "\n" not in message and len(message) < 200
    with pytest.raises(ValueError, match=r"^(not valid JSON|must be)"):
        parse_text(data)


def test_what_is_taken():
    content = {"a": [1, 2.5, None, True, "ü"], "b": {"a": {}}}
    for data in (json.dumps(content).encode(), bytearray(json.dumps(content, ensure_ascii=False).encode())):
        assert parse_object(data, "x", "header") == content
    (zero,) = parse_text(b'{"a": -0}').values()
    assert math.copysign(1, zero) == -1


def test_words_for_infinity_pass_only_where_they_are_expected():
    data = b'{"limits": [0.0, Infinity, -Infinity, NaN]}'
    limits = parse_object(data, "config.json", "config", nan=True)["limits"]
    assert limits[:3] == [0.0, math.inf, -math.inf] and math.isnan(limits[3])
    with pytest.raises(FileFormatError, match="duplicate"):
        parse_object(b'{"a": NaN, "a": NaN}', "config.json", "config", nan=True)
