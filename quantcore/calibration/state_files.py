"""The statistics file: calibrators by name, and their results.

JSON: {"format": "quantcore.calibration", "version": 1, "calibrators": {name: state}, "results": {name: result}}. States
are read back and merged; results are for readers that only want the numbers.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from quantcore._base import arguments
from quantcore._base.text import brief, quote
from quantcore.calibration.calibrator import Calibrator
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError, QuantcoreError
from quantcore.files.disk import InputFile, OutputFile, label
from quantcore.files.kinds import GGUF, HEAD_BYTES, NPY, NPZ, PARQUET, SAFETENSORS, STATISTICS, ZARR, kind_of
from quantcore.files.strict_json import read_object

__all__ = ["load_statistics", "merge_statistics", "save_statistics", "statistics_parts"]

FORMAT = "quantcore.calibration"
VERSION = 1
MAX_BYTES = 1 << 30
_DATA = (NPY, NPZ, PARQUET, ZARR, SAFETENSORS, GGUF)
_KEYS = {"format", "version", "calibrators", "results"}


def save_statistics(
    path: str | os.PathLike[str],
    calibrators: Mapping[str, Calibrator],
    *,
    force: bool = False,
    inputs: tuple[str | os.PathLike[str], ...] = (),
) -> None:
    """Write a statistics file atomically.

    Parameters
    ----------
    path : path
        The output.
    calibrators : mapping of str to Calibrator
        Calibrators that have observed data.
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
    for name, calibrator in arguments.mapping(calibrators, "calibrators", "from names to Calibrators").items():
        arguments.utf_8(name, "calibrators: name")
        if not isinstance(calibrator, Calibrator):
            raise InvalidTypeError(f"calibrators: {quote(name)}: expected a Calibrator, got {brief(calibrator)}")
    with OutputFile(path, force=force, inputs=inputs) as file:
        for part in statistics_parts(calibrators):
            file.write(part.encode())


def statistics_parts(calibrators: Mapping[str, Calibrator]) -> Iterator[str]:
    """The text of a statistics file, in ASCII, part by part: that of a state may be much larger than the state.

    Raises
    ------
    InvalidStateError
        A calibrator has no data.
    """
    results = {name: found.compute_named(label(name[:80])).to_dict() for name, found in calibrators.items()}
    yield f'{{"format": {json.dumps(FORMAT)}, "version": {VERSION}, "calibrators": {{'
    for i, (name, calibrator) in enumerate(calibrators.items()):
        yield f"{',' * (i > 0)}\n{json.dumps(name)}: {_text(calibrator.to_dict())}"
    yield f'}},\n"results": {_text(results)}}}\n'


def load_statistics(path: str | os.PathLike[str]) -> dict[str, Calibrator]:
    """Read the calibrators of a statistics file, as `quantcore calibrate -o` writes it.

    Returns
    -------
    dict of str to Calibrator
        By the names of the arrays; each goes on from what it has observed, and `compute` gives its scale.

    Raises
    ------
    FileFormatError
        The file is not a statistics file of a known version, or a state in it is inconsistent; the message names it.
    OSError
        The file cannot be read.
    """
    with InputFile(path) as file:
        kind = kind_of(file.read(0, min(HEAD_BYTES, file.size)))
        if kind is not None and kind != STATISTICS:
            use = "quantcore calibrate takes it without --merge" if kind in _DATA else kind.use
            raise FileFormatError(f"{file.label}: statistics: not valid JSON, but {kind.name}: {use}")
        content = read_object(file, MAX_BYTES, "statistics")
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
    return {name: _restore(state, f"{where}: calibrators: {label(name[:80])}") for name, state in states.items()}


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
    for path in arguments.entries(paths, "paths", "paths"):
        for name, calibrator in load_statistics(path).items():
            if name not in merged:
                merged[name] = calibrator
                continue
            try:
                merged[name].merge(calibrator)
            except QuantcoreError as error:
                raise InvalidValueError(f"{label(path)}: {label(name[:80])}: {error}") from None
    return merged


def _restore(state: Any, where: str) -> Calibrator:
    try:
        return Calibrator.from_dict(state)
    except QuantcoreError as error:
        raise FileFormatError(f"{where}: {error}") from None


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
