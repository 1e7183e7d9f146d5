"""JSON from files that may be hostile: one object, no duplicate keys, no NaN, and one line if it is anything else."""

import json
from typing import Any, NoReturn

from quantcore.errors import FileFormatError


def parsed_json(data: bytes | bytearray, path: str, field: str) -> dict[str, Any]:
    """The object that a file holds; FileFormatError names the file and the field."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("duplicate keys")
        return result

    def refuse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    def number(text: str) -> float:
        return -0.0 if text == "-0" else int(text)  # no integer holds a negative zero: other readers take it as a float

    try:
        parsed = json.loads(
            data.decode("utf-8"), object_pairs_hook=unique, parse_int=number, parse_constant=refuse_constant
        )
    except (ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())[:120]
        raise FileFormatError(f"{path}: {field}: not valid JSON ({problem})") from None
    if not isinstance(parsed, dict):
        raise FileFormatError(f"{path}: {field}: must be a JSON object")
    return parsed
