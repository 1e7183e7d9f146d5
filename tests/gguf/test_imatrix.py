"""Importance matrices: sums of activations, both layouts of files, merging, selection, and malformed files."""

import struct

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError
from quantcore.gguf import Imatrix
from quantcore.gguf.imatrix_files import ImatrixEntry
from tests.support.hostile_imatrix import BAD_LEGACY, GOOD, HOSTILE, KEYS, VALID, legacy_file, write

NAMES = ("blk.0.attn_q.weight", "blk.0.ffn_down_exps.weight")


def entry_of(count: int = 1) -> ImatrixEntry:
    return ImatrixEntry(np.ones((1, 2)), np.array([count], np.int64))


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def make(seed: int = 0) -> Imatrix:
    """A matrix with a dense tensor, and with one of three experts of which the second was never used."""
    experts = (rows(4, 8, seed=seed), np.empty((0, 8), np.float32), rows(2, 8, seed=seed + 1))
    activations = {NAMES[0]: [rows(3, 5, 16, seed=seed), rows(7, 16, seed=seed)], NAMES[1]: experts}
    return Imatrix.from_activations(activations, datasets=["wiki.txt", "code.txt"], chunk_size=4)


def test_weights_are_mean_squares():
    x = np.concatenate([rows(3, 5, 16).reshape(15, 16), rows(7, 16)]).astype(np.float64)
    matrix = make()
    weights = matrix.weights(NAMES[0])
    assert weights.shape == (1, 16) and weights.dtype == np.float32
    np.testing.assert_allclose(weights[0], (x**2).mean(axis=0), rtol=1e-6)
    assert matrix.entries[NAMES[0]].counts.tolist() == [22] and matrix.chunk_count == 6


def test_experts_that_were_never_used_have_weights_of_1_and_are_named():
    matrix = make()
    weights = matrix.weights(NAMES[1])
    assert weights.shape == (3, 8) and (weights[1] == 1).all() and not (weights[0] == 1).any()
    assert matrix.notices == (f"{NAMES[1]}: 1 of 3 matrices were never used: weights of 1",)


@pytest.mark.parametrize("legacy", [False, True])
def test_files_come_back(legacy, tmp_path):
    matrix = make()
    matrix.save(tmp_path / "m", legacy=legacy)
    back = Imatrix.load(tmp_path / "m")
    assert (back.entries.keys(), back.chunk_count) == (matrix.entries.keys(), 6)
    assert back.datasets == (("wiki.txt",) if legacy else ("wiki.txt", "code.txt"))
    assert (back.path, len(back)) == (str(tmp_path / "m"), 2)
    for name in NAMES:
        ours, theirs = matrix.weights(name).ravel(), back.weights(name).ravel()
        np.testing.assert_allclose(theirs, ours, rtol=1e-6)
    if not legacy:
        assert back.notices == matrix.notices and back.chunk_size == 4
        back.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


def test_gguf_file_has_what_llama_imatrix_writes(tmp_path):
    matrix = make()
    matrix.save(tmp_path / "m.gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert [key for key in reader.fields if not key.startswith("GGUF.")] == [
        "general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size",
    ]  # fmt: skip
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["wiki.txt", "code.txt"]
    found = {t.name: t for t in reader.tensors}
    assert list(found) == [f"{name}.{part}" for name in NAMES for part in ("in_sum2", "counts")]
    assert found[NAMES[1] + ".in_sum2"].shape.tolist() == [8, 3]
    assert found[NAMES[1] + ".counts"].shape.tolist() == [1, 3]
    assert found[NAMES[1] + ".counts"].data.ravel().tolist() == [4, 0, 2]
    np.testing.assert_array_equal(
        found[NAMES[0] + ".in_sum2"].data.ravel(), matrix.entries[NAMES[0]].sums[0].astype("f4")
    )


def test_legacy_sums_are_divided_by_their_count_if_there_is_one(tmp_path):
    path = tmp_path / "m.dat"
    path.write_bytes(legacy_file(("a", 4, [2.0, 8.0]), ("b", 0, [3.0, 5.0])))
    matrix = Imatrix.load(path)
    assert matrix.weights("a").tolist() == [[0.5, 2.0]] and matrix.weights("b").tolist() == [[3.0, 5.0]]
    assert (matrix.chunk_count, matrix.datasets) == (0, ())
    path.write_bytes(legacy_file(("a", 4, [2.0]), tail=struct.pack("<ii", 12, 3) + b"x.y"))
    assert (Imatrix.load(path).chunk_count, Imatrix.load(path).datasets) == (12, ("x.y",))


@given(st.permutations(range(4)))
def test_merging_adds_sums_and_does_not_depend_on_the_order(order):
    matrices = [make(seed) for seed in range(4)]
    first, *others = (matrices[i] for i in order)
    merged = first.merge(*others)
    expected = matrices[0].merge(*matrices[1:])
    for name in NAMES:
        assert (merged.entries[name].sums == expected.entries[name].sums).all()
        total = sum(matrix.entries[name].sums for matrix in matrices)
        np.testing.assert_allclose(merged.entries[name].sums, total, rtol=1e-14)
        assert (merged.entries[name].counts == 4 * matrices[0].entries[name].counts).all()
    assert merged.chunk_count == 24 and set(merged.datasets) == {"wiki.txt", "code.txt"}


def test_merging_takes_tensors_of_either_and_refuses_other_shapes():
    one, two = make(), Imatrix.from_activations({"other.weight": rows(3, 4)})
    assert set(one.merge(two).entries) == {*NAMES, "other.weight"}
    with pytest.raises(InvalidValueError, match=r"tensor 'other\.weight' has sums of shapes \(1, 4\) and \(1, 5\)"):
        two.merge(Imatrix.from_activations({"other.weight": rows(3, 5)}))
    with pytest.raises(InvalidTypeError, match=r"^others: expected an Imatrix, got 'path'$"):
        one.merge("path")  # type: ignore[arg-type]


def test_selection_by_parts_of_names():
    matrix = make()
    assert list(matrix.select(include=["attn"]).entries) == [NAMES[0]]
    assert list(matrix.select(exclude=["attn_q", "attn"]).entries) == [NAMES[1]]
    assert matrix.select().entries == matrix.entries
    with pytest.raises(InvalidValueError, match=r"^include_weights: 'atn' is in no name of the importance matrix$"):
        matrix.select(include=["atn"])
    with pytest.raises(InvalidValueError, match=r"^include_weights, exclude_weights: only one"):
        matrix.select(include=["attn"], exclude=["ffn"])
    with pytest.raises(InvalidValueError, match=r"^importance matrix: no tensor 'x' among 2$"):
        matrix.weights("x")


@pytest.mark.parametrize(
    ("activations", "error", "problem"),
    [
        ([rows(2, 2)], InvalidTypeError, "activations: expected a mapping"),
        ({"a": np.ones((2, 2), int)}, InvalidTypeError, "activations of 'a': "),
        ({"a": [rows(2, 2), rows(2, 3)]}, InvalidValueError, "activations of 'a': 3 columns after batches of 2"),
        ({"a": (rows(2, 2), rows(2, 3))}, InvalidValueError, "activations of 'a': experts with different"),
        ({"a": []}, InvalidValueError, "activations of 'a': no batches"),
        ({"a": np.float32([[1, np.nan]])}, InvalidValueError, "activations of 'a': must be finite, got nan at .* 1"),
        ({"a": np.empty((3, 0), np.float32)}, InvalidValueError, "activations of 'a': no columns"),
    ],
)
def test_bad_activations_are_refused(activations, error, problem):
    with pytest.raises(error, match=problem):
        Imatrix.from_activations(activations)


def test_valid_neighbour_of_the_malformed_files(tmp_path):
    weights = Imatrix.load(write(tmp_path / "m", GOOD, KEYS)).weights("a")
    np.testing.assert_allclose(weights, [[1 / 3, 2 / 3]], rtol=1e-6)


@pytest.mark.parametrize(("contents", "problem"), HOSTILE.values(), ids=HOSTILE)
def test_malformed_gguf_files_are_refused(contents, problem, tmp_path):
    path = write(tmp_path / "m", *contents)
    with pytest.raises(FileFormatError, match=problem) as caught:
        Imatrix.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("data", BAD_LEGACY.values(), ids=BAD_LEGACY)
def test_malformed_legacy_files_are_refused(data, tmp_path):
    path = tmp_path / "m.dat"
    path.write_bytes(VALID)
    assert len(Imatrix.load(path)) == 1
    path.write_bytes(data)
    with pytest.raises(FileFormatError) as caught:
        Imatrix.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_is_not_saved_and_old_files_are_kept(tmp_path):
    with pytest.raises(InvalidValueError, match="nothing to write"):
        Imatrix({}).save(tmp_path / "m")
    (tmp_path / "m").write_bytes(b"precious")
    with pytest.raises(OSError, match="exists already"):
        make().save(tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == b"precious"
    make().save(tmp_path / "m", force=True)
    assert len(Imatrix.load(tmp_path / "m")) == 2


@pytest.mark.parametrize("legacy", [False, True])
def test_sums_beyond_float32_are_not_saved(legacy, tmp_path):
    large = Imatrix.from_activations({"a": np.full((1, 2), 1.5e19, np.float32)})
    with pytest.raises(InvalidValueError, match=r"^importance of 'a': 4\.5e\+38 is beyond float32"):
        large.merge(large).save(tmp_path / "m", legacy=legacy)
    assert list(tmp_path.iterdir()) == []


LONG = "x" * (1 << 16)
BEYOND_INT32 = {
    "chunks": (entry_of(), 2**31, ("a",), "chunk_count: expected an integer from 0 to 2147483647, got 2147483648"),
    "rows": (entry_of(2**31), 1, ("a",), "count of 'a': expected an integer from 0 to 2147483647, got 2147483648"),
    "a name of the data": (entry_of(), 1, (LONG,), "name of the data: 65536 bytes, the limit is 65535"),
    "half a pair": (entry_of(), 1, ("\ud800",), "name of the data: '.*' has half of a surrogate pair"),
}


@pytest.mark.parametrize(("entry", "n_chunks", "datasets", "message"), BEYOND_INT32.values(), ids=BEYOND_INT32)
def test_what_the_older_layout_cannot_hold_is_refused(entry, n_chunks, datasets, message, tmp_path):
    matrix = Imatrix({"a": entry}, datasets, n_chunks)
    with pytest.raises(InvalidValueError, match=message):
        matrix.save(tmp_path / "m", legacy=True)
    assert list(tmp_path.iterdir()) == []


def test_the_largest_numbers_of_the_older_layout_come_back(tmp_path):
    Imatrix({"a": entry_of(2**31 - 1)}, ("a",), 2**31 - 1).save(tmp_path / "m", legacy=True)
    back = Imatrix.load(tmp_path / "m")
    assert (back.chunk_count, back.entries["a"].counts.tolist()) == (2**31 - 1, [2**31 - 1])
