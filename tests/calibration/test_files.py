"""Calibrating on files equals calibrating on their arrays; statistics files can be read back and merged."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import quantcore.array_files.streamed
from quantcore import Calibrator, InvalidStateError, InvalidTypeError, InvalidValueError, OutputFileError
from quantcore.array_files.streamed import stream_slabs
from quantcore.calibration.files import calibrate_files
from quantcore.calibration.state_files import load_statistics, merge_statistics, save_statistics
from quantcore.errors import FileFormatError

F32 = np.float32
MAKERS: dict[str, Callable[..., Calibrator]] = {
    "min_max": Calibrator.min_max,
    "moving_average": lambda **options: Calibrator.moving_average(averaging_constant=0.3, **options),
    "percentile": Calibrator.percentile,
}


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of 4 KiB, so that small arrays take many."""

    def small(*arguments: Any, **options: Any) -> int:
        return stream_slabs(*arguments, **options, slab_bytes=4096)

    monkeypatch.setattr("quantcore.calibration.files.stream_slabs", small)
    assert quantcore.array_files.streamed.SLAB_BYTES > 1 << 20


@pytest.fixture
def arrays(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "layer.0": rng.standard_normal((40, 30, 5)).astype(F32),
        "layer.1": np.asfortranarray(rng.standard_t(3, (70, 90, 3))),
        "layer.2": rng.standard_normal((3, 4, 1)).astype(np.float16),
    }


def without_batches(calibrators: dict[str, Calibrator]) -> dict[str, dict[str, Any]]:
    return {name: c.to_dict() | {"num_batches": None} for name, c in calibrators.items()}


def in_memory(
    make: Callable[..., Calibrator], batches: list[dict[str, np.ndarray]], **options: Any
) -> dict[str, Calibrator]:
    calibrators: dict[str, Calibrator] = {}
    for batch in batches:
        for name, array in batch.items():
            calibrators.setdefault(name, make(**options)).observe(array)
    return calibrators


@pytest.mark.parametrize("method", MAKERS)
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, -3])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_files_are_their_arrays(method, axis, save, arrays, tmp_path):
    batches = [{name: array * array.dtype.type(1 + i) for name, array in arrays.items()} for i in range(3)]
    paths = [tmp_path / f"{i}.npz" for i in range(3)]
    for path, batch in zip(paths, batches, strict=True):
        save(path, **batch)
    found = calibrate_files(paths, MAKERS[method](axis=axis))
    wanted = in_memory(MAKERS[method], batches, axis=axis)
    assert list(found) == list(wanted)
    assert without_batches(found) == without_batches(wanted)
    if method == "moving_average":
        assert {calibrator.num_batches for calibrator in found.values()} == {3}


@pytest.mark.parametrize("method", MAKERS)
@pytest.mark.parametrize("axis", [None, 0])
def test_npy_files_are_batches_of_one_entry(method, axis, arrays, tmp_path):
    batches = [
        arrays["layer.0"],
        arrays["layer.0"][:, :7] * F32(2),
        np.asfortranarray(arrays["layer.0"][:, 3:] * F32(3)),
    ]
    for i, batch in enumerate(batches):
        np.save(tmp_path / f"{i}.npy", batch)
    paths = [tmp_path / f"{i}.npy" for i in range(3)]
    found = calibrate_files(paths, MAKERS[method](axis=axis))
    assert without_batches(found) == without_batches(
        in_memory(MAKERS[method], [{"values": b} for b in batches], axis=axis)
    )
    backwards = calibrate_files(paths[::-1], MAKERS[method](axis=axis))
    assert (without_batches(backwards) == without_batches(found)) == (method != "moving_average")


@pytest.mark.slow
def test_vectors_have_channels_of_one_value(rng, tmp_path):
    batches = [rng.standard_normal(5000) for _ in range(3)]
    for i, batch in enumerate(batches):
        np.save(tmp_path / f"{i}.npy", batch)
    for method in MAKERS:
        found = calibrate_files([tmp_path / f"{i}.npy" for i in range(3)], MAKERS[method](axis=0))["values"]
        wanted = in_memory(MAKERS[method], [{"values": batch} for batch in batches], axis=0)["values"]
        assert found.compute().to_dict() == wanted.compute().to_dict()


def test_safetensors_and_other_files_together(arrays, tmp_path, rng):
    weights = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    weights["layer.3"] = rng.standard_normal((7, 900)).astype(ml_dtypes.bfloat16)
    save_file(weights, tmp_path / "model.safetensors")
    np.savez(tmp_path / "x.npz", **arrays)
    found = calibrate_files([tmp_path / "model.safetensors", tmp_path / "x.npz"], Calibrator.percentile())
    wanted = in_memory(Calibrator.percentile, [weights, arrays])
    assert without_batches(found) == without_batches(wanted)
    (tmp_path / "folder").mkdir()
    save_file(weights, tmp_path / "folder" / "model.safetensors")
    folder = calibrate_files([tmp_path / "folder"], Calibrator.min_max())
    assert without_batches(folder) == without_batches(in_memory(Calibrator.min_max, [weights]))


def test_what_is_excluded(arrays, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    save_file({"ids": np.arange(5), "layer.0": arrays["layer.0"]}, tmp_path / "x.safetensors")
    paths = [tmp_path / "x.npz", tmp_path / "x.safetensors"]
    found = calibrate_files(paths, Calibrator.min_max(), exclude=["ids", r"\.[12]$"])
    assert list(found) == ["layer.0"]
    with pytest.warns(UserWarning, match=r"x\.safetensors: ids: I64 is not a float type: left out"):
        assert "ids" not in calibrate_files(paths, Calibrator.min_max())
    for exclude in (["("], "ids", [5]):
        with pytest.raises((InvalidTypeError, InvalidValueError), match="exclude"):
            calibrate_files(paths, Calibrator.min_max(), exclude=exclude)
    with pytest.raises(InvalidValueError, match="no arrays"):
        calibrate_files(paths, Calibrator.min_max(), exclude=["."])


def test_a_pattern_that_excludes_nothing_is_told(arrays, tmp_path):
    """One that fits an array of any file is in use."""
    np.savez(tmp_path / "x.npz", **arrays)
    np.savez(tmp_path / "y.npz", other=arrays["layer.0"])
    notes: list[str] = []
    paths = [tmp_path / "x.npz", tmp_path / "y.npz"]
    calibrate_files(paths, Calibrator.min_max(), exclude=["^other$", "layr", r"\.1$"], notify=notes.append)
    assert notes == ["exclude: 'layr' fits no name"]


def test_progress_ends_with_all_bytes(arrays, tmp_path):
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    seen: list[tuple[int, int]] = []
    calibrate_files([tmp_path / "x.npz"] * 2, Calibrator.min_max(), progress=lambda *pair: seen.append(pair))
    total = 2 * sum(array.nbytes for array in arrays.values())
    assert {pair[1] for pair in seen} == {total}
    assert [pair[0] for pair in seen] == sorted({pair[0] for pair in seen})
    assert seen[-1] == (total, total)
    assert len(seen) > 10


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_values_that_are_not_finite_name_the_array(bad, arrays, tmp_path):
    arrays["layer.1"][69, 89, 2] = bad
    np.savez(tmp_path / "x.npz", **arrays)
    for axis in (None, 0, 2):
        with pytest.raises(InvalidValueError, match=rf"x\.npz: layer\.1: must be finite, got {bad} at \(69, 89, 2\)$"):
            calibrate_files([tmp_path / "x.npz"], Calibrator.percentile(axis=axis))
    np.save(tmp_path / "x.npy", np.full(9, 1e39))
    with pytest.raises(InvalidValueError, match=r"x\.npy: .*float32"):
        calibrate_files([tmp_path / "x.npy"], Calibrator.percentile())


@pytest.mark.parametrize("policy", ["raise", "omit"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("order", ["C", "F"])
def test_values_beyond_float32_are_told_by_their_place(order, axis, policy, tmp_path):
    values = np.ones((70, 90, 3), order=order)  # many slabs
    values[67, 89, 1] = -1e39
    if policy == "omit":
        values[3, 4, 2] = math.nan
    np.save(tmp_path / "x.npy", values)
    for make in MAKERS.values():
        with pytest.raises(
            InvalidValueError,
            match=r"x\.npy: -1e\+39 at \(67, 89, 1\) is beyond the range of float32 \(±3\.4\d*e\+38\)$",
        ):
            calibrate_files([tmp_path / "x.npy"], make(axis=axis), nan_policy=policy)


def test_what_is_refused_names_the_array_and_no_batch(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 4)))
    np.save(tmp_path / "b.npy", np.ones((3, 5)))
    for make in MAKERS.values():
        with pytest.raises(InvalidValueError, match=r"b\.npy: expected 4 channels along axis 1 as before, got 5$"):
            calibrate_files([tmp_path / "a.npy", tmp_path / "b.npy"], make(axis=1))
    wide = {"wide": Calibrator.min_max(mode="offset").partial_fit(np.array([-3e38, 3e38]))}
    with pytest.raises(InvalidValueError, match=r"^wide: the range from"):
        save_statistics(tmp_path / "out.json", wide)


@pytest.mark.parametrize(("policy", "bad"), [("Raise", "nan at (1, 2)"), ("OMIT", "inf at (3, 0)")])
def test_policies_in_any_case(policy, bad, tmp_path):
    values = np.ones((4, 3), np.float32)
    values[1, 2], values[3, 0] = math.nan, math.inf
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(InvalidValueError, match=rf"must be finite, got {re.escape(bad)}$"):
        calibrate_files([tmp_path / "x.npy"], Calibrator.min_max(), nan_policy=policy)


def test_channels_that_differ_name_the_array(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 4)))
    np.save(tmp_path / "b.npy", np.ones((3, 5)))
    with pytest.raises(InvalidValueError, match=r"b\.npy: .*4 channels.*5"):
        calibrate_files([tmp_path / "a.npy", tmp_path / "b.npy"], Calibrator.min_max(axis=1))
    with pytest.raises(InvalidValueError, match=r"a\.npy: axis 2"):
        calibrate_files([tmp_path / "a.npy"], Calibrator.min_max(axis=2))
    np.save(tmp_path / "c.npy", np.ones((0, 5)))
    with pytest.raises(InvalidValueError, match=r"c\.npy: shape \(0, 5\)"):
        calibrate_files([tmp_path / "c.npy"], Calibrator.min_max())


def test_arguments(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    used = Calibrator.min_max()
    used.observe(np.ones(3))
    with pytest.raises(InvalidValueError, match="calibrator: expected one without data"):
        calibrate_files([tmp_path / "a.npy"], used)
    with pytest.raises(InvalidTypeError, match="calibrator"):
        calibrate_files([tmp_path / "a.npy"], Calibrator.min_max)  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="paths"):
        calibrate_files(str(tmp_path / "a.npy"), Calibrator.min_max())
    with pytest.raises(InvalidValueError, match="no arrays"):
        calibrate_files([], Calibrator.min_max())
    template = Calibrator.min_max()
    calibrate_files([tmp_path / "a.npy"], template)
    assert not template.has_data


# Statistics files


@pytest.fixture
def calibrators(rng: np.random.Generator) -> dict[str, Calibrator]:
    result = {
        'a "quoted"\nname': Calibrator.min_max(),
        "b": Calibrator.percentile(4, False, axis=0),
        "ü": Calibrator.moving_average(),
    }
    for calibrator in result.values():
        calibrator.observe(rng.standard_normal((5, 50)))
    return result


def test_statistics_come_back(calibrators, tmp_path):
    path = tmp_path / "stats.json"
    save_statistics(path, calibrators)
    assert without_batches(load_statistics(path)) == without_batches(calibrators)
    content = json.loads(path.read_text())
    assert set(content) == {"format", "version", "calibrators", "results"}
    assert (content["format"], content["version"]) == ("quantcore.calibration", 1)
    assert content["results"] == {name: c.compute().to_dict() for name, c in calibrators.items()}
    assert content["calibrators"] == {name: c.to_dict() for name, c in calibrators.items()}
    with pytest.raises(OutputFileError, match="exists already"):
        save_statistics(path, calibrators)
    before = path.read_bytes()
    with pytest.raises(InvalidStateError):
        save_statistics(path, {"x": Calibrator.mse()}, force=True)
    assert path.read_bytes() == before
    save_statistics(path, {}, force=True)
    assert load_statistics(path) == {}
    assert [entry.name for entry in tmp_path.iterdir()] == ["stats.json"]


def test_merging_statistics(tmp_path, rng):
    batches = [rng.standard_normal((5, 50)).astype(F32) for _ in range(3)]
    for i, batch in enumerate(batches):
        calibrators = {"a": Calibrator.percentile(axis=0), f"only {i}": Calibrator.moving_average()}
        for calibrator in calibrators.values():
            calibrator.observe(batch)
        save_statistics(tmp_path / f"{i}.json", calibrators)
    merged = merge_statistics([tmp_path / f"{i}.json" for i in range(3)])
    assert list(merged) == ["a", "only 0", "only 1", "only 2"]
    wanted = Calibrator.percentile(axis=0)
    for batch in batches:
        wanted.observe(batch)
    assert merged["a"].to_dict() == wanted.to_dict()
    with pytest.raises(InvalidValueError, match=r"0\.json: only 0: .*moving averages"):
        merge_statistics([tmp_path / "0.json", tmp_path / "0.json"])
    other = Calibrator.entropy(axis=0)
    other.observe(batches[0])
    save_statistics(tmp_path / "other.json", {"a": other})
    with pytest.raises(InvalidValueError, match=r"other\.json: a: .*percentile.*entropy"):
        merge_statistics([tmp_path / "0.json", tmp_path / "other.json"])


def content_of(**fields: Any) -> dict[str, Any]:
    calibrator = Calibrator.min_max()
    calibrator.observe(np.ones(3))
    content = {
        "format": "quantcore.calibration",
        "version": 1,
        "calibrators": {"a": calibrator.to_dict()},
        "results": {"a": calibrator.compute().to_dict()},
    }
    return {key: value for key, value in (content | fields).items() if value is not ...}


HOSTILE: dict[str, tuple[object, str]] = {
    "no JSON": (b"{", "not valid JSON"),
    "empty": (b"", "not valid JSON"),
    "not UTF-8": (b'{"\xff": 1}', "not valid JSON"),
    "deep": (b"[" * 100_000, "not valid JSON"),
    "NaN": (b'{"format": NaN}', "not valid JSON"),
    "twice the same key": (b'{"format": 1, "format": 1}', "duplicate"),
    "huge integer": (b'{"version": 1' + b"0" * 5000 + b"}", "not valid JSON"),
    "a list": (b"[]", "JSON object"),
    "no format": (content_of(format=...), "format"),
    "format of a state": (content_of(format="quantcore.calibrator"), "format"),
    "version 2": (content_of(version=2), "version"),
    "version true": (content_of(version=True), "version"),
    "version 1.0": (content_of(version=1.0), "version"),
    "a key too many": (content_of(x=1), "keys"),
    "no results": (content_of(results=...), "keys"),
    "results of others": (content_of(results={"b": {}}), "results"),
    "calibrators a list": (content_of(calibrators=[], results=[]), "calibrators"),
    "a state null": (content_of(calibrators={"a": None}), "calibrators: a: "),
    "a state that is none": (content_of(calibrators={"a": {"format": "x"}}), "calibrators: a: format"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_statistics_are_refused(case, tmp_path):
    content, problem = HOSTILE[case]
    path = tmp_path / "stats.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(FileFormatError, match=problem) as refusal:
        load_statistics(path)
    assert str(refusal.value).startswith(str(path))
    assert str(refusal.value).isprintable()


def test_the_valid_neighbour_is_read(tmp_path: Path) -> None:
    (tmp_path / "stats.json").write_text(json.dumps(content_of()))
    assert load_statistics(tmp_path / "stats.json")["a"].num_batches == 1


def test_too_large_statistics_are_not_read(tmp_path):
    path = tmp_path / "stats.json"
    path.touch()
    with open(path, "r+b") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(FileFormatError, match="limit"):
        load_statistics(path)
    with pytest.raises(FileNotFoundError):
        load_statistics(tmp_path / "none.json")
