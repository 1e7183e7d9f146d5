"""Columns of every layout have the codes of NumPy, and come back; what is wrong with a row is told by its place."""

import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")

from quantcore import (  # noqa: E402  (only where pyarrow is)
    Calibrator,
    QuantGranularity,
    QuantMode,
    QuantParams,
    dequantize,
    quantize,
    quantize_tensor,
    quantize_with_params,
)
from quantcore import arrow as qa  # noqa: E402
from quantcore.errors import InvalidTypeError, InvalidValueError  # noqa: E402

F32 = np.float32
D = 32


@pytest.fixture
def vectors(rng: np.random.Generator) -> np.ndarray:
    return (rng.standard_normal((50, D)) * 3 + rng.uniform(-50, 50, D)).astype(F32)


def fixed(vectors: np.ndarray, kind: Any = None) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), kind or pa.float32()), vectors.shape[1])


def lists(vectors: np.ndarray, cls: Any = None) -> Any:
    cls = cls or pa.ListArray
    offsets = np.arange(len(vectors) + 1) * vectors.shape[1]
    dtype = np.int64 if cls is pa.LargeListArray else np.int32
    return cls.from_arrays(pa.array(offsets.astype(dtype)), pa.array(vectors.reshape(-1)))


def views(vectors: np.ndarray, cls: Any) -> Any:
    """Lists in reverse order of their values: they do not lie together."""
    n, d = vectors.shape
    dtype = np.int64 if cls is pa.LargeListViewArray else np.int32
    places = pa.array((np.arange(n)[::-1] * d).astype(dtype))
    return cls.from_arrays(places, pa.array(np.full(n, d, dtype)), pa.array(vectors[::-1].reshape(-1)))


def around(vectors: np.ndarray, before: int, after: int) -> np.ndarray:
    """The vectors between others."""
    other = np.full((1, D), 1e6, F32)
    return np.concatenate([np.repeat(other, before, axis=0), vectors, np.repeat(other, after, axis=0)])


LAYOUTS: dict[str, Callable[[np.ndarray], Any]] = {
    "fixed": fixed,
    "fixed double": lambda v: fixed(v.astype(np.float64), pa.float64()),
    "list": lists,
    "large list": lambda v: lists(v, pa.LargeListArray),
    "list view": lambda v: views(v, pa.ListViewArray),
    "large list view": lambda v: views(v, pa.LargeListViewArray),
    "slice": lambda v: fixed(around(v, 3, 2)).slice(3, len(v)),
    "slice of lists": lambda v: lists(around(v, 3, 2)).slice(3, len(v)),
    "slice of slice": lambda v: fixed(around(v, 3, 0)).slice(1).slice(2),
    "taken": lambda v: fixed(np.repeat(v, 2, axis=0)).take(pa.array(range(0, 2 * len(v), 2), pa.int64())),
    "of a struct": lambda v: pa.StructArray.from_arrays([fixed(around(v, 1, 0))], ["x"]).slice(1).field("x"),
    "tensor type": lambda v: pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [D]), fixed(v)),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
SCHEMES = {"uint8": QuantMode.OFFSET, "int8": QuantMode.SYMMETRIC}


@every_layout
@pytest.mark.parametrize("scheme", SCHEMES)
def test_codes_per_dimension_are_those_of_numpy(layout, scheme, vectors):
    column = LAYOUTS[layout](vectors)
    made = qa.quantize(column, scheme)
    whole = quantize_tensor(vectors, QuantGranularity.per_channel(1), SCHEMES[scheme])
    assert isinstance(made, pa.ExtensionArray) and made.type == qa.AffineType(whole.params, D)
    assert made.type.extension_name == "quantcore.affine" and made.storage.type == pa.list_(
        made.storage.type.value_type, D
    )
    assert np.array_equal(qa.to_numpy(made), whole.data) and qa.params_of(made) == whole.params
    again = qa.dequantize(made)
    assert again.type == pa.list_(pa.float32(), D)
    assert np.array_equal(qa.to_numpy(again), whole.dequantize())
    assert np.array_equal(qa.to_numpy(column), vectors)


@every_layout
def test_codes_per_vector_and_per_tensor(layout, vectors):
    column = LAYOUTS[layout](vectors)
    for scheme, mode in SCHEMES.items():
        whole = quantize_tensor(vectors, QuantGranularity.per_channel(0), mode)
        made = qa.quantize(column, scheme, granularity="vector")
        names = ["codes", "scale", "offset"][: 3 if scheme == "uint8" else 2]
        assert [field.name for field in made.storage.type] == names
        assert np.array_equal(qa.to_numpy(made), whole.data) and qa.params_of(made) == whole.params
        assert np.array_equal(qa.to_numpy(qa.dequantize(made)), whole.dequantize())
        one = quantize_tensor(vectors, None, mode)
        made = qa.quantize(column, scheme, granularity="tensor")
        assert np.array_equal(qa.to_numpy(made), one.data) and qa.params_of(made) == one.params
        assert np.array_equal(qa.to_numpy(qa.dequantize(made)), one.dequantize())


@every_layout
def test_blocks(layout, vectors):
    made = qa.quantize(LAYOUTS[layout](vectors), "q8_0")
    packed = quantize(vectors, "Q8_0")
    assert made.type.extension_name == "quantcore.block" and made.storage.type == pa.binary(34)
    assert np.array_equal(qa.to_numpy(made), packed) and qa.params_of(made).name == "Q8_0"
    assert np.array_equal(qa.to_numpy(qa.dequantize(made)), dequantize(packed, "Q8_0"))


def test_columns_of_numbers(rng):
    values = (rng.standard_normal(1000) + 290).astype(F32)
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        column = pa.array(values.astype(kind.to_pandas_dtype()))
        whole = quantize_tensor(np.asarray(column), None, QuantMode.OFFSET)
        made = qa.quantize(column)
        assert made.storage.type == pa.uint8() and np.array_equal(qa.to_numpy(made), whole.data)
        assert np.array_equal(qa.to_numpy(qa.dequantize(made)), whole.dequantize())
    with_nulls = pa.array([None, *values.tolist(), None])
    made = qa.quantize(with_nulls, params=qa.quantize(pa.array(values)).type)
    assert made.is_null().to_pylist() == [True] + [False] * 1000 + [True]
    assert np.array_equal(qa.to_numpy(made.slice(1, 1000)), qa.to_numpy(qa.quantize(pa.array(values))))
    with pytest.raises(InvalidValueError, match=r"^granularity: a column of numbers has one scale"):
        qa.quantize(with_nulls, granularity="dimension")
    with pytest.raises(InvalidValueError, match=r"a column of numbers does not go with a block format"):
        qa.quantize(with_nulls, "Q8_0")


# Nulls, chunks, empty columns


def with_nulls(column: Any, places: list[int]) -> Any:
    """The column with nulls in front of these places, whatever lies in memory there."""
    indices = pa.array([i for j in range(len(column)) for i in ([None, j] if j in places else [j])], pa.int32())
    return column.take(indices)


NULLS = [0, 7, 8, 49]


@pytest.mark.parametrize("layout", ["fixed", "list", "large list", "slice", "slice of lists"])
@pytest.mark.parametrize(
    ("scheme", "granularity"), [("uint8", None), ("int8", "vector"), ("uint8", "vector"), ("Q8_0", None)]
)
def test_null_rows_stay_null(layout, scheme, granularity, vectors):
    column = with_nulls(LAYOUTS[layout](vectors), NULLS)
    assert column.null_count == 4
    made = qa.quantize(column, scheme, granularity=granularity)
    full = qa.quantize(LAYOUTS[layout](vectors), scheme, granularity=granularity)
    assert made.is_null().to_pylist() == column.is_null().to_pylist()
    assert made.type == full.type and made.drop_null().equals(full)
    again = qa.dequantize(made)
    assert again.is_null().to_pylist() == column.is_null().to_pylist()
    assert again.drop_null().equals(qa.dequantize(full))
    for part in (slice(3, 20), slice(40, 54)):
        assert qa.dequantize(made[part]).equals(again[part])
    with pytest.raises(InvalidValueError, match=r"^column: row 0: null$"):
        qa.to_numpy(made)
    if granularity == "vector":
        params = qa.params_of(made)
        assert np.array_equal(params.scales[~made.is_null().to_numpy(zero_copy_only=False)], qa.params_of(full).scales)


def test_what_lies_under_a_null_does_not_count(vectors):
    dirty = vectors.copy()
    dirty[5] = np.nan
    mask = pa.array(np.arange(50) == 5)
    column = pa.FixedSizeListArray.from_arrays(pa.array(dirty.reshape(-1)), D, mask=mask)
    made = qa.quantize(column)
    kept = np.delete(vectors, 5, axis=0)
    assert made.null_count == 1 and qa.params_of(made) == qa.params_of(qa.quantize(fixed(kept)))


@every_layout
@pytest.mark.parametrize(("scheme", "granularity"), [("uint8", None), ("int8", "vector"), ("Q8_0", None)])
def test_chunks_are_one_column(layout, scheme, granularity, vectors):
    whole = qa.quantize(LAYOUTS[layout](vectors), scheme, granularity=granularity)
    column = pa.chunked_array([LAYOUTS[layout](vectors[a:b]) for a, b in ((0, 1), (1, 30), (30, 30), (30, 50))])
    made = qa.quantize(column, scheme, granularity=granularity)
    assert isinstance(made, pa.ChunkedArray) and made.num_chunks == 4
    assert made.type == whole.type and made.combine_chunks().equals(pa.chunked_array([whole]).combine_chunks())
    again = qa.dequantize(made)
    assert again.num_chunks == 4 and np.array_equal(qa.to_numpy(again), qa.to_numpy(qa.dequantize(whole)))
    assert np.array_equal(qa.to_numpy(made), qa.to_numpy(whole))
    if granularity == "vector":
        assert qa.params_of(made) == qa.params_of(whole)


@every_layout
@pytest.mark.parametrize(("scheme", "granularity"), [("uint8", None), ("int8", "vector"), ("Q8_0", None)])
def test_empty_batches_with_known_parameters(layout, scheme, granularity, vectors):
    kind = qa.quantize(LAYOUTS[layout](vectors), scheme, granularity=granularity).type
    empty = LAYOUTS[layout](vectors)[:0]
    for column in (empty, pa.chunked_array([], empty.type), pa.chunked_array([empty])):
        made = qa.quantize(column, params=kind)
        assert len(made) == 0 and made.type == kind
        again = qa.dequantize(made)
        assert len(again) == 0 and again.type == pa.list_(pa.float32(), D)
        assert qa.to_numpy(made).shape[0] == 0
    nulls = LAYOUTS[layout](vectors[:1]).take(pa.array([None, None], pa.int32()))
    made = qa.quantize(nulls, params=kind)
    assert made.null_count == 2 and qa.dequantize(made).null_count == 2


def test_one_row_or_none_has_no_ranges(vectors):
    for column in (fixed(vectors[:1]), fixed(vectors[:0]), pa.chunked_array([], pa.list_(pa.float32(), D))):
        with pytest.raises(InvalidValueError, match=r"^column: ranges need at least 2 rows, got [01]; params= takes"):
            qa.quantize(column)
    with pytest.raises(InvalidValueError, match=r"^column: has no vector that tells how many values they have"):
        qa.quantize(pa.array([], pa.list_(pa.float32())), "Q8_0")
    assert len(qa.quantize(fixed(vectors[:1]), "Q8_0")) == 1
    assert len(qa.quantize(fixed(vectors[:1]), granularity="vector")) == 1


# Zero copy


def addresses(array: np.ndarray) -> tuple[int, int]:
    start = array.__array_interface__["data"][0]
    return start, start + array.nbytes


@pytest.mark.parametrize("layout", ["fixed", "list", "large list", "slice", "slice of lists", "slice of slice"])
def test_matrices_are_views_of_arrows_memory(layout, vectors):
    column = LAYOUTS[layout](vectors)
    matrix = qa.to_numpy(column)
    start, stop = addresses(matrix)
    memory = column.values.buffers()[1]
    assert memory.address <= start < stop <= memory.address + memory.size
    assert not matrix.flags.writeable


def test_codes_are_not_copied(vectors):
    made = qa.quantize(fixed(vectors))
    codes = qa.to_numpy(made)
    memory = made.storage.values.buffers()[1]
    assert addresses(codes) == (memory.address, memory.address + memory.size)
    part = qa.to_numpy(made.slice(10, 5))
    assert addresses(part)[0] == memory.address + 10 * D and part.shape == (5, D)
    blocks = qa.quantize(fixed(vectors), "Q8_0")
    assert addresses(qa.to_numpy(blocks))[0] == blocks.storage.buffers()[1].address


# Bad rows


def bad_column(vectors: np.ndarray, layout: str) -> tuple[Any, dict[int, str]]:
    """Rows of which some are null, and of others why they are bad."""
    rows: list[Any] = vectors.astype(float).tolist()
    problems = {12: r"row 12, dimension 3: must be a finite float32, got nan", 20: "row 20, dimension 31: .* got -inf"}
    rows[2] = None
    rows[12][3] = np.nan
    rows[20][31] = -np.inf
    rows[33][0] = None
    problems[33] = "row 33: null in dimension 0"
    kind = pa.list_(pa.float64(), D) if layout == "fixed" else pa.list_(pa.float64())
    if layout == "list":
        rows[40] = rows[40][:-1]
        problems[40] = "row 40: expected 32 values, got 31"
    else:
        rows[40][5] = 1e39
        problems[40] = r"row 40, dimension 5: must be a finite float32, got 1e\+39"
    return pa.array(rows, kind), problems


@pytest.mark.parametrize("layout", ["fixed", "list"])
@pytest.mark.parametrize("n_chunks", [1, 4])
def test_bad_rows(layout, n_chunks, vectors):
    column, problems = bad_column(vectors, layout)
    step = -(-len(column) // n_chunks)
    chunks = pa.chunked_array([column[i : i + step] for i in range(0, len(column), step)])
    kind = qa.quantize(fixed(vectors)).type
    good = [i for i in range(50) if i != 2 and i not in problems]
    found = qa.quantize(chunks, params=kind, on_bad="null").combine_chunks()
    assert np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False)).tolist() == good
    expected = quantize_with_params(vectors[good], kind.params)
    assert np.array_equal(qa.to_numpy(found.drop_null()), expected)
    dropped = qa.quantize(chunks, params=kind, on_bad="drop").combine_chunks()
    assert len(dropped) == 46 and np.flatnonzero(dropped.is_null().to_numpy(zero_copy_only=False)).tolist() == [2]
    assert np.array_equal(qa.to_numpy(dropped.drop_null()), expected)
    calibrated = qa.quantize(chunks, on_bad="null")
    assert qa.params_of(calibrated) == quantize_tensor(vectors[good], QuantGranularity(axis=1), QuantMode.OFFSET).params
    for place, message in problems.items():
        others = [i for i in problems if i != place]
        alone = pa.chunked_array(
            chunks.combine_chunks().take(pa.array([None if i in others else i for i in range(50)]))
        )
        for call in (lambda a=alone: qa.quantize(a, params=kind), lambda a=alone: qa.quantize(a)):
            with pytest.raises(InvalidValueError, match=f"^column: {message}"):
                call()
    with pytest.raises(InvalidValueError, match=r"^column: row (12|33)"):
        qa.calibrate(chunks, Calibrator.min_max(axis=1))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize("scheme", ["uint8", "Q8_0"])
def test_bad_rows_of_every_dtype(scheme, kind, value, vectors):
    narrow = vectors.astype(kind.to_pandas_dtype())
    bad = narrow.copy()
    bad[7, 3] = value
    good = np.delete(narrow, 7, axis=0)
    expected = qa.quantize(fixed(good, kind), scheme)
    assert qa.quantize(fixed(narrow, kind), scheme, on_bad="drop").equals(qa.quantize(fixed(narrow, kind), scheme))
    assert qa.quantize(fixed(bad, kind), scheme, on_bad="drop").equals(expected)
    made = qa.quantize(fixed(bad, kind), scheme, on_bad="null")
    assert np.flatnonzero(made.is_null().to_numpy(zero_copy_only=False)).tolist() == [7]
    with pytest.raises(
        InvalidValueError, match=rf"^column: row 7, dimension 3: must be a finite float32, got {value}$"
    ):
        qa.quantize(fixed(bad, kind), scheme)


@pytest.mark.parametrize("place", [0, 3, 6])
@pytest.mark.parametrize("n_chunks", [1, 3])
def test_the_length_is_that_of_most_vectors(place, n_chunks, vectors):
    rows: list[Any] = vectors[:6].tolist()
    rows.insert(place, [1.0, 2.0])
    rows.insert(1, None)
    whole = pa.array(rows, pa.list_(pa.float32()))
    step = -(-len(rows) // n_chunks)
    column = pa.chunked_array([whole[i : i + step] for i in range(0, len(rows), step)])
    place = rows.index([1.0, 2.0])
    expected = qa.quantize(fixed(vectors[:6]))
    dropped = qa.quantize(column, on_bad="drop").combine_chunks()
    assert len(dropped) == 7 and dropped.drop_null().equals(expected)
    nulls = qa.quantize(column, on_bad="null").is_null().to_pylist()
    assert [i for i, is_null in enumerate(nulls) if is_null] == sorted([1, place])
    calibrated = qa.calibrate(column, Calibrator.min_max(axis=1), on_bad="drop")
    assert calibrated.compute() == Calibrator.min_max(axis=1).partial_fit(vectors[:6]).compute()
    with pytest.raises(InvalidValueError, match=rf"^column: row {place}: expected 32 values, got 2$"):
        qa.quantize(column)


def test_no_length_is_guessed_without_a_majority(vectors):
    rows: list[Any] = [None, [1.0, 2.0], [3.0, 4.0], *vectors[:2].tolist()]
    column = pa.array(rows, pa.list_(pa.float32()))
    for on_bad in ("error", "null", "drop"):
        with pytest.raises(
            InvalidValueError, match=r"^column: which length .*: 2 values in row 1, 32 values in row 3$"
        ):
            qa.quantize(column, on_bad=on_bad)
        with pytest.raises(
            InvalidValueError, match=r"^column 'x': which length .*: 2 values in row 1, 32 values in row 3$"
        ):
            qa.quantize_table(pa.table({"x": column}), "x", on_bad=on_bad)
    kind = qa.quantize(fixed(vectors)).type
    assert len(qa.quantize(column, params=kind, on_bad="drop")) == 3
    for axis in (1, -1):
        seen = Calibrator.min_max(axis=axis).partial_fit(vectors)
        twice = Calibrator.min_max(axis=axis).partial_fit(vectors).partial_fit(vectors[:2])
        assert qa.calibrate(column, seen, on_bad="drop").to_dict() == twice.to_dict()
        with pytest.raises(InvalidValueError, match=r"^column: row 1: expected 32 values, got 2$"):
            qa.calibrate(column, seen)


def test_ranges_too_wide_name_the_column():
    wide = fixed(np.array([[0, -3e38], [1, 3e38]], F32))
    with pytest.raises(InvalidValueError, match=r"^column: the range from -3\S*e\+38 to 3\S*e\+38 is too wide"):
        qa.quantize(wide)
    with pytest.raises(InvalidValueError, match=r"^column 'x': the range from"):
        qa.quantize_table(pa.table({"x": wide}), "x")
    across = fixed(np.array([[0, 1], [-3e38, 3e38]], F32))
    with pytest.raises(InvalidValueError, match=r"^column: the range from -3\S*e\+38 to 3\S*e\+38 is too wide"):
        qa.quantize(across, granularity="vector")


@pytest.mark.parametrize(("scheme", "value"), [("Q8_0", 1e7), ("Q4_0", 6e5)])
def test_what_a_block_cannot_hold_names_the_column(scheme, value, vectors):
    vectors[3, 5] = value
    with pytest.raises(InvalidValueError, match=rf"^column: {value} at flat index 101 .*is too large for {scheme}$"):
        qa.quantize(fixed(vectors), scheme)


def test_axes_may_be_counted_from_the_end(vectors):
    column = fixed(vectors)
    for axis, granularity in ((-1, "dimension"), (-2, "vector")):
        params = quantize_tensor(vectors, QuantGranularity.per_channel(axis), QuantMode.OFFSET).params
        assert qa.quantize(column, params=qa.AffineType(params, D)).equals(qa.quantize(column, granularity=granularity))
    empty = QuantParams.without_scales(QuantGranularity.per_channel(-2), QuantMode.OFFSET, 8, 0, 255)
    assert qa.AffineType(empty, D) == qa.quantize(column, granularity="vector").type


def test_what_does_not_fit_is_refused(vectors):
    column = fixed(vectors)
    kind = qa.quantize(column).type
    per_group = quantize_tensor(vectors, QuantGranularity.per_group(8)).params
    values = [
        (lambda: qa.quantize(column, on_bad="skip"), r"^on_bad: expected one of error, null, drop, got 'skip'$"),
        (lambda: qa.quantize(column, granularity="row"), r"^granularity: expected one of tensor, vector, dimension"),
        (lambda: qa.quantize(column, granularity="vector", params=kind), r"^granularity: does not go with params"),
        (lambda: qa.quantize(column, "Q4_K"), r"^n_dimensions: 32 is not a multiple of Q4_K's block size 256$"),
        (lambda: qa.quantize(column, "Q9_9"), r"^scheme: "),
        (lambda: qa.quantize(column, granularity="vector", scheme="Q8_0"), r"^granularity: does not go with a block"),
        (
            lambda: qa.quantize(fixed(vectors[:, :7].copy()), params=kind),
            r"^column: expected vectors of 32 values, got",
        ),
        (lambda: qa.quantize(lists(vectors[:, :7].copy()), params=kind), r"^column: row 0: expected 32 values, got 7$"),
        (
            lambda: qa.quantize(pa.array([1.0, 2.0]), params=kind),
            r"^params: .* do not fit column, a column of numbers$",
        ),
        (lambda: qa.quantize(column, params=per_group), r"^params: a column takes one scale, or one per vector"),
        (lambda: qa.quantize(pa.array([[], []], pa.list_(pa.float32()))), r"^column: expected vectors of at least one"),
        (lambda: qa.calibrate(column, Calibrator.min_max(axis=0)), r"^calibrator: expected axis 1"),
        (lambda: qa.calibrate(pa.array([1.0]), Calibrator.min_max(axis=1)), r"^calibrator: expected axis 1"),
    ]
    for call, message in values:
        with pytest.raises(InvalidValueError, match=message):
            call()
    types = [
        (lambda: qa.quantize([[1.0]]), r"^column: expected an Arrow array, got list$"),
        (lambda: qa.quantize(pa.array([[1, 2]])), r"^column: expected floats or lists of floats, got list<"),
        (lambda: qa.quantize(pa.array(["a"])), r"^column: expected floats or lists of floats, got string$"),
        (lambda: qa.quantize(column, params=3), r"^params: expected QuantParams or the type of a column, got 3$"),
        (lambda: qa.calibrate(column, None), r"^calibrator: expected a Calibrator, got None$"),
        (lambda: qa.dequantize(qa.quantize(column), dtype="bfloat16"), r"^dtype: Arrow has no bfloat16"),
        (lambda: qa.AffineType(None), r"^params: expected a QuantParams, got None$"),
        (lambda: qa.BlockType("Q8_0", 32), r"^qtype: expected a GGUFQuantType"),
    ]
    for call, message in types:
        with pytest.raises(InvalidTypeError, match=message):
            call()


# Parameters


def test_decoding_without_parameters_raises(vectors):
    made = qa.quantize(fixed(vectors))
    for storage in (made.storage, pa.chunked_array([made.storage]), fixed(vectors)):
        with pytest.raises(
            InvalidValueError, match=r"^column: fixed_size_list<.*>\[32\] has no parameters; params= giv"
        ):
            qa.dequantize(storage)
        with pytest.raises(InvalidValueError, match=r"has no parameters$"):
            qa.params_of(storage)
    for params in (made.type, made.type.params):
        assert qa.dequantize(made.storage, params=params).equals(qa.dequantize(made))
        assert qa.dequantize(made, params=params).equals(qa.dequantize(made))
    other = qa.quantize(fixed(vectors * 2)).type
    with pytest.raises(InvalidValueError, match=r"^params: the column has parameters of its own, and other ones"):
        qa.dequantize(made, params=other)
    with pytest.raises(InvalidTypeError, match=r"^column: expected fixed_size_list"):
        qa.dequantize(pa.array(["a"]), params=other)
    per_vector = qa.quantize(fixed(vectors), granularity="vector")
    assert qa.dequantize(per_vector.storage, params=per_vector.type).equals(qa.dequantize(per_vector))


def test_types_are_equal_where_their_parameters_are(vectors):
    kind = qa.quantize(fixed(vectors)).type
    same = qa.AffineType(QuantParams.from_dict(json.loads(json.dumps(kind.params.to_dict()))), D)
    negative = Calibrator.min_max(axis=-1, mode=QuantMode.OFFSET).partial_fit(vectors).compute().params
    others = [
        qa.quantize(fixed(vectors * 2)).type,
        qa.quantize(fixed(vectors), "int8").type,
        qa.quantize(fixed(vectors), granularity="vector").type,
        qa.quantize(fixed(vectors), "int8", granularity="vector").type,
        qa.quantize(fixed(vectors), "Q8_0").type,
        qa.quantize(fixed(vectors), "Q4_0").type,
        kind.storage_type,
    ]
    assert kind == same == qa.AffineType(negative, D) and hash(kind) == hash(same)
    assert pickle.loads(pickle.dumps(kind)) == kind
    for other in others:
        assert kind != other and other != kind
    made = [pa.ExtensionArray.from_storage(kind, qa.quantize(fixed(vectors)).storage), qa.quantize(fixed(vectors * 2))]
    for join in (pa.concat_arrays, pa.chunked_array):
        assert len(join([made[0], made[0]])) == 100
        with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
            join(made)
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        made[0].cast(made[1].type)


def test_damaged_parameters_are_refused(vectors):
    kind = qa.quantize(fixed(vectors)).type
    state = json.loads(kind.__arrow_ext_serialize__())
    storage = kind.storage_type
    assert qa.AffineType.__arrow_ext_deserialize__(storage, json.dumps(state).encode()) == kind
    cases = [
        (storage, b"{", r"AffineType: the parameters of the column are damaged"),
        (storage, json.dumps(state | {"version": 2}).encode(), r"version: is unknown"),
        (storage, json.dumps({"version": 1}).encode(), r"damaged: 'params'"),
        (storage, json.dumps(state | {"dimensions": 31}).encode(), r"damaged: params: 32 scales for vectors of 31"),
        (pa.list_(pa.uint8(), 31), json.dumps(state).encode(), r"AffineType: expected fixed_size_list.*, got"),
        (pa.list_(pa.int8(), 32), json.dumps(state).encode(), r"AffineType: expected fixed_size_list.*, got"),
    ]
    for kind_of_storage, text, message in cases:
        with pytest.raises(InvalidValueError, match=message):
            qa.AffineType.__arrow_ext_deserialize__(kind_of_storage, text)
    with pytest.raises(InvalidValueError, match=r"BlockType: .* damaged: type: 'Q9' is unknown"):
        qa.BlockType.__arrow_ext_deserialize__(pa.binary(34), b'{"version": 1, "type": "Q9", "dimensions": 32}')


# Calibration


def test_partitions_merge_to_the_whole(vectors):
    column = with_nulls(fixed(vectors), NULLS)
    for make in (Calibrator.min_max, Calibrator.percentile):
        for axis in (None, 1):
            whole = make(axis=axis).partial_fit(vectors)
            parts = [qa.calibrate(column[a:b], make(axis=axis)) for a, b in ((0, 9), (9, 9), (9, 54))]
            merged = parts[2].merge(parts[0]).merge(parts[1])
            assert merged.compute() == whole.compute()
    start = Calibrator.min_max(axis=1)
    assert qa.calibrate(pa.chunked_array([column, column]), start).num_batches == 2 and not start.has_data


def test_what_speaks_arrow_is_taken(vectors):
    class Array:
        def __arrow_c_array__(self, requested_schema=None):
            return fixed(vectors).__arrow_c_array__(requested_schema)

    class Stream:
        def __arrow_c_stream__(self, requested_schema=None):
            return pa.chunked_array([fixed(vectors)]).__arrow_c_stream__(requested_schema)

    made = qa.quantize(fixed(vectors))
    assert qa.quantize(Array()).equals(made) and qa.quantize(Stream()).chunk(0).equals(made)
