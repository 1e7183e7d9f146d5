"""What the metadata of an array say of a codec, which may come from anywhere: each refusal names codec and field."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from quantcore._base.text import brief
from quantcore.errors import InvalidTypeError, InvalidValueError, QuantcoreError

AFFINE, BLOCK = "quantcore.affine", "quantcore.block"
"""The names of the codecs, in zarr v3 and in numcodecs."""
VERSION = 1
_FLOATS = ("float16", "float32", "float64")


def configured(name: str, kind: Any, configuration: Any) -> Any:
    """What the configuration of a codec stands for: `kind.of_configuration` of it."""
    if not isinstance(configuration, Mapping):
        raise InvalidTypeError(f"{name}: configuration: expected an object, got {brief(configuration)}")
    try:
        return kind.of_configuration(configuration)
    except QuantcoreError as error:
        raise type(error)(f"{name}: configuration: {error}") from None


def check_fields(configuration: Mapping[str, Any], fields: set[str]) -> None:
    """Check that a configuration has these fields, no other ones, and a version that is known."""
    for field in sorted(fields - set(configuration)):
        raise InvalidValueError(f"{field}: is missing")
    for field in sorted(set(map(str, configuration)) - fields):
        raise InvalidValueError(f"{brief(field)}: is no field of the configuration")
    if type(configuration["version"]) is not int or configuration["version"] != VERSION:
        raise InvalidValueError(f"version: {brief(configuration['version'])} is unknown; known: {VERSION}")


def check_dtype(name: str, dtype: np.dtype[Any]) -> None:
    """Refuse arrays of what is no float."""
    if dtype.name not in _FLOATS:
        raise InvalidTypeError(f"{name}: dtype: expected one of {', '.join(_FLOATS)}, got {dtype}")
