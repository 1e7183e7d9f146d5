"""What an `EmbeddingQuantizer` is, as a mapping for JSON and in a file, and back."""

import json
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from quantcore._base import arguments
from quantcore._base.text import brief
from quantcore.calibration import Calibrator
from quantcore.embeddings.fitting import Fitted
from quantcore.errors import FileFormatError, InvalidValueError, QuantcoreError
from quantcore.files.disk import InputFile, OutputFile
from quantcore.files.strict_json import parse_object

_FORMAT, _VERSION = "quantcore.embeddings", 1
_MOST_BYTES = 1 << 30
_MOST_ROWS = 1 << 62
_FIELDS = ("layout", "scheme", "per", "method", "n_dimensions", "num_rows", "calibrator")


class SavedQuantizer:
    """The methods of a quantizer that only concern its state, by which two are equal."""

    _fitted: Fitted

    def to_dict(self) -> dict[str, Any]:
        """The parameters and everything fitted, for JSON; `EmbeddingQuantizer.from_dict` restores an equal one."""
        fitted, scheme = self._fitted, self._fitted.scheme
        sizes = fitted.n_dimensions, fitted.num_rows
        values = (scheme.layout, scheme.name, fitted.per, fitted.method, *sizes, fitted.calibrator.to_dict())
        return {"format": _FORMAT, "version": _VERSION, **dict(zip(_FIELDS, values, strict=True))}

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Self:
        """Restore what `to_dict` returned.

        Raises
        ------
        ValueError, TypeError
            The format or version is unknown; a field is missing, unknown, out of range or contradicts another one.
        """
        made = cls.__new__(cls)
        made._fitted = _restore(arguments.state(mapping, _FORMAT, _VERSION))
        return made

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write `to_dict` to a JSON file, atomically.

        Raises
        ------
        OSError
            The file exists and `force` is false, or it cannot be written (OutputFileError).
        """
        with OutputFile(path, force=force) as file:
            file.write(json.dumps(self.to_dict(), separators=(",", ":"), allow_nan=False).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        FileFormatError
            The file does not hold a quantizer of a known version; the message names what is wrong.
        OSError
            The file cannot be read.
        """
        with InputFile(path) as file:
            content = parse_object(file.read_whole(_MOST_BYTES, "a quantizer"), file.label, "quantizer")
            try:
                return cls.from_dict(content)
            except QuantcoreError as error:
                raise FileFormatError(f"{file.label}: {error}") from None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SavedQuantizer):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__: ClassVar[None] = None  # type: ignore[assignment]


def _restore(mapping: Mapping[str, Any]) -> Fitted:
    wrong = sorted({*map(str, mapping)} ^ {"format", "version", *_FIELDS})
    if wrong:
        raise InvalidValueError(f"{brief(wrong[0])}: is missing, or not a field of a quantizer")
    fitted = Fitted(mapping["layout"], mapping["scheme"], mapping["per"], mapping["method"])
    calibrator = Calibrator.from_dict(mapping["calibrator"])
    if calibrator._key() != fitted.calibrator._key():
        raise InvalidValueError(f"calibrator: contradicts {fitted.scheme.text}, got {brief(calibrator)}")
    num_rows = arguments.integer(mapping["num_rows"], "num_rows", 0, _MOST_ROWS)
    n_dimensions = mapping["n_dimensions"]
    if n_dimensions is not None:
        n_dimensions = arguments.integer(n_dimensions, "n_dimensions", 1, _MOST_ROWS)
    if bool(num_rows) != calibrator.has_data or (calibrator.has_data and calibrator.num_channels != n_dimensions):
        raise InvalidValueError("calibrator: contradicts num_rows or n_dimensions")
    fitted.calibrator, fitted.num_rows, fitted.n_dimensions = calibrator, num_rows, n_dimensions
    return fitted
