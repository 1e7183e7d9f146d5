"""The statistics file: calibrators by name, with what they compute.

JSON: {"format": "quantcore.calibration", "version": 1, "calibrators": {name: state}, "results": {name: result}}. The
states are what is read back and merged; the results are there for whoever wants the numbers only.
"""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from quantcore._files import InputFile, OutputFile, label
from quantcore._json import parsed_json
from quantcore.calibration import Calibrator
from quantcore.errors import FileFormatError, InvalidValueError, QuantcoreError
from quantcore.tables import brief

__all__ = ["load_statistics", "merge_statistics", "save_statistics"]

FORMAT = "quantcore.calibration"
VERSION = 1
MAX_BYTES = 1 << 30
_KEYS = {"format", "version", "calibrators", "results"}


def save_statistics(
    path: str | os.PathLike[str],
    calibrators: Mapping[str, Calibrator],
    *,
    force: bool = False,
    inputs: tuple[str | os.PathLike[str], ...] = (),
) -> None:
    """Write a statistics file; it appears whole or not at all.

    Parameters
    ----------
    path : path
        The output.
    calibrators : mapping of str to Calibrator
        All with data.
    force : bool
        Replace an existing file.
    inputs : paths
        Files that must not be the output.

    Raises
    ------
    OSError
        The output exists, is an input, or cannot be written (OutputFileError).
    InvalidStateError
        A calibrator has no data.
    """
    results = {name: calibrator.compute().to_dict() for name, calibrator in calibrators.items()}
    with OutputFile(path, force=force, inputs=inputs) as file:
        # Calibrator by calibrator, since the text of all states may be much larger than they are.
        file.write(f'{{"format": {json.dumps(FORMAT)}, "version": {VERSION}, "calibrators": {{'.encode())
        for i, (name, calibrator) in enumerate(calibrators.items()):
            file.write(f"{',' * (i > 0)}\n{json.dumps(name)}: {_text(calibrator.to_dict())}".encode())
        file.write(f'}},\n"results": {_text(results)}}}\n'.encode())


def load_statistics(path: str | os.PathLike[str]) -> dict[str, Calibrator]:
    """Read the calibrators of a statistics file.

    Raises
    ------
    FileFormatError
        The file is not a statistics file of a known version, or a state in it is inconsistent; the message names it.
    OSError
        The file cannot be read.
    """
    with InputFile(path) as file:
        if file.size > MAX_BYTES:
            raise FileFormatError(f"{file.label}: {file.size} bytes, the limit of a statistics file is {MAX_BYTES}")
        content = parsed_json(file.read(0, file.size), file.label, "statistics")
    where = label(path)
    if content.get("format") != FORMAT:
        raise FileFormatError(f"{where}: format: expected {FORMAT!r}, got {brief(content.get('format'))}")
    if type(content.get("version")) is not int or content["version"] != VERSION:
        raise FileFormatError(f"{where}: version: expected {VERSION}, got {brief(content.get('version'))}")
    if set(content) != _KEYS:
        raise FileFormatError(f"{where}: expected exactly the keys {sorted(_KEYS)}, got {brief(sorted(content))}")
    states, results = content["calibrators"], content["results"]
    if not isinstance(states, dict) or not isinstance(results, dict) or set(states) != set(results):
        raise FileFormatError(f"{where}: calibrators, results: expected objects with the same names")
    return {name: _restored(state, f"{where}: calibrators: {label(name[:80])}") for name, state in states.items()}


def merge_statistics(paths: Iterable[str | os.PathLike[str]]) -> dict[str, Calibrator]:
    """The calibrators of several statistics files; those of the same name are merged.

    Raises
    ------
    FileFormatError, OSError
        A file is malformed or cannot be read.
    InvalidValueError
        Two calibrators of one name differ in method, bits or shape, or are moving averages.
    """
    merged: dict[str, Calibrator] = {}
    for path in paths:
        for name, calibrator in load_statistics(path).items():
            if name not in merged:
                merged[name] = calibrator
                continue
            try:
                merged[name].merge(calibrator)
            except QuantcoreError as error:
                raise InvalidValueError(f"{label(path)}: {label(name[:80])}: {error}") from None
    return merged


def _restored(state: Any, where: str) -> Calibrator:
    try:
        return Calibrator.from_dict(state)
    except QuantcoreError as error:
        raise FileFormatError(f"{where}: {error}") from None


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
