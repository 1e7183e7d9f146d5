"""`EmbeddingQuantizer`: ranges, what is refused, states, recall."""

import copy
import json
import pickle

import ml_dtypes
import numpy as np
import pytest

from quantcore import QuantGranularity, QuantizedTensor, QuantMode, quantize_tensor
from quantcore.embeddings import EmbeddingQuantizer, recall_at_k
from quantcore.errors import FileFormatError, InvalidStateError, InvalidTypeError, InvalidValueError, OutputFileError

F32 = np.float32
EVERY = [
    ("affine", "uint8"),
    ("affine", "int8"),
    ("affine", "uint4"),
    ("faiss", "QT_8bit"),
    ("faiss", "QT_4bit_uniform"),
    ("sentence-transformers", "int8"),
    ("sentence-transformers", "ubinary"),
]
every_scheme = pytest.mark.parametrize(("layout", "scheme"), EVERY)


class Subclass(np.ndarray):
    """An array of a class of its own."""


@pytest.fixture
def vectors(rng: np.random.Generator) -> np.ndarray:
    return (rng.standard_normal((200, 48)) * rng.uniform(0.1, 2, 48) + rng.uniform(-9, 9, 48)).astype(F32)


# Our own codes


@pytest.mark.parametrize(("scheme", "mode", "bits"), [("uint8", "OFFSET", 8), ("int8", "SYMMETRIC", 8)])
def test_affine_codes_are_those_of_tensors(scheme, mode, bits, vectors):
    quantizer = EmbeddingQuantizer(scheme).fit(vectors)
    whole = quantize_tensor(vectors, QuantGranularity.per_channel(1), QuantMode[mode], bits)
    assert quantizer.params == whole.params
    assert np.array_equal(quantizer.transform(vectors), whole.data)
    assert np.array_equal(quantizer.inverse_transform(whole.data), whole.dequantize())
    per_vector = EmbeddingQuantizer(scheme, per="vector")
    made = per_vector.transform(vectors)
    assert made == quantize_tensor(vectors, QuantGranularity.per_channel(0), QuantMode[mode], bits)
    assert np.array_equal(per_vector.inverse_transform(made), made.dequantize())


@pytest.mark.parametrize("d", [1, 6, 7])
def test_four_bits_are_packed_low_nibble_first(d, rng):
    vectors = rng.standard_normal((30, d)).astype(F32)
    quantizer = EmbeddingQuantizer("uint4").fit(vectors)
    codes = quantize_tensor(vectors, QuantGranularity.per_channel(1), QuantMode.OFFSET, 4).data
    padded = np.pad(codes, [(0, 0), (0, d % 2)])
    packed = quantizer.transform(vectors)
    assert np.array_equal(packed, padded[:, ::2] | padded[:, 1::2] << np.uint8(4))
    lows, highs = quantizer.ranges
    assert (np.abs(quantizer.inverse_transform(packed) - vectors) <= (highs - lows) / 30 * 1.001).all()


# Ranges


@every_scheme
def test_batches_and_merges_equal_one_fit(layout, scheme, vectors):
    whole = EmbeddingQuantizer(scheme, layout=layout).fit(vectors)
    parts = [EmbeddingQuantizer(scheme, layout=layout) for _ in range(3)]
    for part, batch in zip(parts, (vectors[:1], vectors[1:150], vectors[150:]), strict=True):
        part.partial_fit(batch[:0]).partial_fit(batch)
    merged = parts[2].merge(parts[0]).merge(parts[1])
    assert merged.num_rows == whole.num_rows == (0 if scheme == "ubinary" else 200)
    assert np.array_equal(merged.transform(vectors), whole.transform(vectors))
    if scheme != "ubinary":
        assert np.array_equal(merged.ranges, whole.ranges)
        ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
        known = EmbeddingQuantizer(scheme, layout=layout).partial_fit(ranges)
        assert np.array_equal(known.transform(vectors), whole.transform(vectors))


@pytest.mark.parametrize(("layout", "scheme"), EVERY[:-1])
def test_one_row_is_not_enough(layout, scheme, vectors):
    quantizer = EmbeddingQuantizer(scheme, layout=layout)
    with pytest.raises(InvalidValueError, match=r"^values: ranges need at least 2 vectors, got 1"):
        quantizer.fit(vectors[:1])
    with pytest.raises(InvalidStateError, match=r"^ranges: they need at least 2 vectors, .* saw 0$"):
        quantizer.transform(vectors)
    quantizer.partial_fit(vectors[:1])
    for ask in (lambda: quantizer.transform(vectors), lambda: quantizer.ranges, lambda: quantizer.params):
        with pytest.raises(InvalidStateError, match=r"^ranges: they need at least 2 vectors, .* saw 1$"):
            ask()
    assert quantizer.partial_fit(vectors[1:]).transform(vectors).shape[0] == 200


def test_a_refused_fit_changes_nothing(vectors):
    quantizer = EmbeddingQuantizer().fit(vectors)
    before = quantizer.ranges
    bad = vectors.copy()
    bad[7, 3] = np.nan
    for call in (quantizer.fit, quantizer.partial_fit):
        with pytest.raises(InvalidValueError, match=r"^values: must be finite, got nan .*\(row 7, column 3\)$"):
            call(bad)
    assert np.array_equal(quantizer.ranges, before) and quantizer.num_rows == 200
    assert quantizer.fit(vectors[:50, :8]).n_dimensions == 8


def test_ranges_beyond_float32_are_refused():
    vectors = np.array([[0, -3e38], [1, 3e38]], F32)
    for layout, scheme in EVERY[3:6]:
        with pytest.raises(InvalidValueError, match="range from"):
            EmbeddingQuantizer(scheme, layout=layout).fit(vectors).transform(vectors)


def test_tiny_ranges_and_constants(rng):
    vectors = np.zeros((4, 3), F32)
    vectors[:, 0] = np.array([0, 1, 2, 3], F32) * np.finfo(F32).smallest_subnormal
    vectors[:, 1] = 7
    for layout, scheme in EVERY[:6]:
        quantizer = EmbeddingQuantizer(scheme, layout=layout).fit(vectors)
        decoded = quantizer.inverse_transform(quantizer.transform(vectors))
        if scheme != "QT_4bit_uniform":
            assert (decoded[:, 1] == 7).all() or scheme == "int8"
            assert np.abs(decoded[:, 0]).max() < 1e-30


# Bad rows


@every_scheme
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_rows_are_named_or_dropped(layout, scheme, value, vectors):
    quantizer = EmbeddingQuantizer(scheme, layout=layout).fit(vectors)
    bad = vectors.copy()
    bad[[5, 130], [47, 0]] = value
    with pytest.raises(InvalidValueError, match=rf"^values: must be finite, got {value} .*\(row 5, column 47\)$"):
        quantizer.transform(bad)
    is_good = quantizer.good_rows(bad)
    assert np.flatnonzero(~is_good).tolist() == [5, 130]
    assert np.array_equal(quantizer.transform(bad, on_bad="drop"), quantizer.transform(vectors[is_good]))
    dropped = EmbeddingQuantizer(scheme, layout=layout).fit(bad, on_bad="drop")
    assert dropped == EmbeddingQuantizer(scheme, layout=layout).fit(vectors[is_good])


def test_rows_that_are_missing_or_of_another_length(vectors):
    rows = [*vectors[:10].tolist()]
    quantizer = EmbeddingQuantizer().fit(rows)
    assert np.array_equal(quantizer.ranges, EmbeddingQuantizer().fit(vectors[:10]).ranges)
    rows[4] = rows[4][:-1]
    rows[6] = None
    with pytest.raises(InvalidValueError, match=r"^values: row 4: expected a vector of 48 values, got shape \(47,\)$"):
        quantizer.transform(rows)
    kept = [i for i in range(10) if i not in (4, 6)]
    assert np.array_equal(quantizer.transform(rows, on_bad="drop"), quantizer.transform(vectors[kept]))
    objects = np.empty(10, object)
    for i, row in enumerate(rows):
        objects[i] = None if row is None else np.array(row, F32)
    assert np.flatnonzero(~quantizer.good_rows(objects)).tolist() == [4, 6]
    objects[4] = objects[3]
    with pytest.raises(InvalidValueError, match=r"^values: row 6: expected a vector of 48 values, got nothing$"):
        quantizer.fit(objects)
    with pytest.raises(InvalidTypeError, match=r"^values: row 0: expected float32"):
        quantizer.transform([["a"] * 48, [1.0]])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, F32, np.float64], ids=lambda dtype: dtype.__name__)
def test_rows_of_every_dtype_are_dropped(dtype, value, vectors):
    if abs(value) == 1e300 and dtype is not np.float64:
        value = np.inf
    bad = vectors.astype(dtype)
    bad[3, 1] = value
    quantizer = EmbeddingQuantizer().fit(vectors)
    assert quantizer.good_rows(vectors.astype(dtype)).all()
    assert np.flatnonzero(~quantizer.good_rows(bad)).tolist() == [3]
    kept = np.delete(bad, 3, axis=0)
    assert np.array_equal(quantizer.transform(bad, on_bad="drop"), quantizer.transform(kept))
    assert EmbeddingQuantizer().fit(bad, on_bad="drop") == EmbeddingQuantizer().fit(kept)


def test_rows_of_a_list_are_dropped_for_what_they_are_beyond():
    """Values that only float64 holds are told as they are, though the rows come one by one."""
    rows = [[0.0, 1.0], [2.0, 3e300], None, [4.0, 5.0]]
    quantizer = EmbeddingQuantizer().partial_fit(rows, on_bad="drop")
    assert quantizer.ranges.tolist() == [[0, 1], [4, 5]]
    with pytest.raises(
        InvalidValueError, match=r"^values: 3e\+300 .* is beyond the range of float32 .*\(row 1, column 1"
    ):
        quantizer.partial_fit([*rows[:2], np.ones(2, np.float16), np.ones(2)])


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("call", ["fit", "partial_fit"])
def test_the_length_is_that_of_most_vectors(place, call, vectors):
    rows = vectors[:4].tolist()
    rows.insert(place, [1.0, 2.0])
    quantizer = EmbeddingQuantizer()
    assert np.flatnonzero(~quantizer.good_rows(rows)).tolist() == [place]
    with pytest.raises(
        InvalidValueError, match=rf"^values: row {place}: expected a vector of 48 values, got shape \(2,\)"
    ):
        getattr(quantizer, call)(rows)
    assert quantizer.n_dimensions is None
    getattr(quantizer, call)(rows, on_bad="drop")
    assert quantizer.num_rows == 4 and quantizer == EmbeddingQuantizer().fit(vectors[:4])


def test_no_length_is_guessed_without_a_majority(vectors):
    long, short = vectors[:2].tolist(), [[1.0, 2.0], [3.0, 4.0]]
    quantizer = EmbeddingQuantizer(per="vector")
    for on_bad in ("error", "drop"):
        for call in (quantizer.partial_fit, quantizer.fit, quantizer.transform):
            with pytest.raises(
                InvalidValueError, match=r"^values: which length .*: 2 values in row 0, 48 values in row 2"
            ):
                call([*short, *long], on_bad=on_bad)
    assert quantizer.n_dimensions is None
    known = EmbeddingQuantizer().fit(vectors)
    assert np.array_equal(known.transform([*short, *long], on_bad="drop"), known.transform(vectors[:2]))
    for rows in (short, [[], []]):
        assert known.transform(rows, on_bad="drop").shape == (0, 48)
    with pytest.raises(InvalidValueError, match=r"^values: expected vectors of 48 values, got 2$"):
        known.transform(short)


MISSING = [[], (), [None], [None, None], [np.nan, np.nan], [None, np.float64("nan")], np.array([None, np.nan], object)]


@pytest.mark.parametrize("missing", MISSING, ids=str)
@every_scheme
def test_a_batch_of_missing_rows_changes_nothing(layout, scheme, missing, vectors):
    quantizer = EmbeddingQuantizer(scheme, layout=layout).partial_fit(missing, on_bad="drop")
    assert quantizer == EmbeddingQuantizer(scheme, layout=layout) and quantizer.n_dimensions is None
    assert not quantizer.good_rows(missing).any() and len(quantizer.good_rows(missing)) == len(missing)
    quantizer.partial_fit(vectors)
    before = quantizer.to_dict()
    assert quantizer.partial_fit(missing, on_bad="drop").to_dict() == before
    assert quantizer.transform(missing, on_bad="drop").shape == (0, quantizer.transform(vectors).shape[1])
    if len(missing):
        with pytest.raises(InvalidValueError, match=r"^values: row 0: expected a vector of 48 values, got nothing$"):
            quantizer.partial_fit(missing)
        with pytest.raises(InvalidValueError, match=r"^values: row 0: expected a vector, got nothing$"):
            EmbeddingQuantizer(scheme, layout=layout).partial_fit(missing)


def test_nan_instead_of_a_vector_is_a_missing_row(vectors):
    rows = [*vectors[:3], np.nan, np.float32("nan"), *vectors[3:6]]
    with pytest.raises(InvalidValueError, match=r"^values: row 3: expected a vector of 48 values, got nothing$"):
        EmbeddingQuantizer().fit(rows)
    assert EmbeddingQuantizer().fit(rows, on_bad="drop") == EmbeddingQuantizer().fit(vectors[:6])
    for wrong in (np.full(2, np.nan), [np.nan, 1.0]):
        with pytest.raises(InvalidValueError, match=r"^values: expected a matrix, .* got shape \(2,\)$"):
            EmbeddingQuantizer().fit(wrong, on_bad="drop")


def test_vectors_have_values(vectors):
    for empty in (np.empty((3, 0), F32), [[], []]):
        with pytest.raises(InvalidValueError, match=r"^values: expected vectors of at least one value, got 0$"):
            EmbeddingQuantizer().partial_fit(empty)
    assert EmbeddingQuantizer().partial_fit(np.empty((0, 0), F32)).n_dimensions is None


def test_what_does_not_fit_is_refused(vectors):
    quantizer = EmbeddingQuantizer().fit(vectors)
    cases = [
        (lambda: quantizer.transform(vectors[:, :7]), r"^values: expected vectors of 48 values, got 7$"),
        (lambda: quantizer.transform(vectors[0]), r"^values: expected a matrix, .* got shape \(48,\)$"),
        (lambda: quantizer.partial_fit(vectors[:, :7]), r"^values: expected vectors of 48 values, got 7$"),
        (lambda: quantizer.transform(vectors, on_bad="null"), r"^on_bad: expected one of error, drop, got 'null'$"),
        (lambda: quantizer.inverse_transform(np.zeros((2, 7), np.uint8)), r"^codes: vectors of 48 values take 48 by"),
        (lambda: quantizer.transform(vectors, out=np.empty((200, 7), np.uint8)), r"^out: expected shape"),
        (lambda: EmbeddingQuantizer("int4"), r"^scheme: expected one of uint8, int8, uint4, got"),
        (
            lambda: EmbeddingQuantizer("Binary"),
            r"^scheme: expected one of uint8, int8, uint4, which the layout 'affine' has, got 'Binary', "
            r"which is one of 'sentence-transformers'$",
        ),
        (
            lambda: EmbeddingQuantizer("uint8", layout="faiss"),
            r"^scheme: expected one of QT_8bit, .*which the layout 'faiss' has, got 'uint8', "
            r"which is one of 'affine' and 'sentence-transformers'$",
        ),
        (lambda: quantizer.inverse_transform(vectors.astype(np.uint8), out=vectors[:7]), r"^out: expected shape"),
        (lambda: EmbeddingQuantizer(layout="annoy"), r"^layout: expected one of affine, faiss, sentence-transformers"),
        (lambda: EmbeddingQuantizer(per="row"), r"^per: expected one of dimension, vector, got 'row'$"),
        (lambda: EmbeddingQuantizer(method="best"), r"^method: expected one of min_max, mse, got 'best'$"),
        (lambda: EmbeddingQuantizer("uint4", per="vector"), r"^per: vector goes with int8 and uint8"),
        (lambda: EmbeddingQuantizer("QT_8bit", layout="faiss", method="mse"), r"^method: mse goes with the layout aff"),
        (lambda: quantizer.merge(EmbeddingQuantizer("int8")), r"^other: expected affine uint8, got affine int8$"),
        (lambda: quantizer.merge(EmbeddingQuantizer().fit(vectors[:, :7])), r"^other: expected vectors of 48 values"),
        (lambda: EmbeddingQuantizer(per="vector").transform(vectors, out=vectors), r"^out: does not go with ranges"),
    ]
    for call, message in cases:
        with pytest.raises(InvalidValueError, match=message):
            call()
    for codes in (np.zeros((2, 48), np.int8), np.zeros((2, 48))):
        with pytest.raises(InvalidTypeError, match=r"^codes: expected uint8 \(affine uint8\), got dtype"):
            quantizer.inverse_transform(codes)
    with pytest.raises(InvalidTypeError, match=r"^codes: expected a QuantizedTensor, got ndarray$"):
        EmbeddingQuantizer(per="vector").inverse_transform(np.zeros((2, 48), np.uint8))
    with pytest.raises(InvalidTypeError, match=r"^other: expected an EmbeddingQuantizer"):
        quantizer.merge(vectors)


def test_codes_per_vector_have_to_be_of_the_scheme(vectors):
    quantizer = EmbeddingQuantizer(per="vector").fit(vectors)
    rows, axis = vectors[:3], QuantGranularity.per_channel
    from_end = quantize_tensor(rows, axis(-2), QuantMode.OFFSET)
    assert np.array_equal(quantizer.inverse_transform(from_end), quantizer.inverse_transform(quantizer.transform(rows)))
    wrong = [
        (quantize_tensor(rows[0], axis(0), QuantMode.OFFSET), r"expected a matrix, .*, got shape \(48,\)$"),
        (quantize_tensor(rows[:, None], axis(0), QuantMode.OFFSET), r"expected a matrix, .*, got shape \(3, 1, 48\)$"),
        (quantize_tensor(rows[:, :7].copy(), axis(0), QuantMode.OFFSET), r"expected vectors of 48 values, got 7$"),
        (
            quantize_tensor(rows, axis(1), QuantMode.OFFSET),
            r"expected 8 bits offset .*per_channel\(0\) .* got .*per_channel\(1",
        ),
        (
            quantize_tensor(rows, mode=QuantMode.OFFSET),
            r"expected 8 bits offset .*, got 8 bits offset .*per_tensor\(\)$",
        ),
        (
            quantize_tensor(rows, axis(0), QuantMode.SYMMETRIC),
            r"expected 8 bits offset .* \(affine uint8 per vector\), got 8 bits symmetric ",
        ),
        (quantize_tensor(rows, axis(0), QuantMode.OFFSET, 4), r"expected 8 bits offset .*, got 4 bits offset "),
    ]
    for codes, message in wrong:
        with pytest.raises(InvalidValueError, match=f"^codes: {message}"):
            quantizer.inverse_transform(codes)


@every_scheme
def test_empty_batches_and_out(layout, scheme, vectors):
    quantizer = EmbeddingQuantizer(scheme, layout=layout).fit(vectors)
    codes = quantizer.transform(vectors)
    out = np.empty_like(codes)
    assert quantizer.transform(vectors, out=out) is out and np.array_equal(out, codes)
    restored = np.empty_like(vectors)
    assert quantizer.inverse_transform(codes, out=restored) is restored
    assert np.array_equal(restored, quantizer.inverse_transform(codes))
    assert quantizer.transform(vectors[:0]).shape == (0, codes.shape[1])
    assert quantizer.inverse_transform(codes[:0]).shape == (0, 48)
    view = np.empty_like(codes).view(Subclass)
    assert quantizer.transform(vectors, out=view) is view and np.array_equal(view, codes)
    assert quantizer.transform(vectors[:0], out=view[:0]).shape == view[:0].shape
    view = np.empty_like(vectors).view(Subclass)
    assert quantizer.inverse_transform(codes, out=view) is view and np.array_equal(view, restored)
    made = EmbeddingQuantizer(per="vector").transform(vectors[:0])
    assert isinstance(made, QuantizedTensor) and made.shape == (0, 48)


# States


@every_scheme
def test_states_come_back(layout, scheme, vectors, tmp_path):
    quantizer = EmbeddingQuantizer(scheme, layout=layout).fit(vectors)
    path = tmp_path / "quantizer.json"
    quantizer.save(path)
    copies = [
        EmbeddingQuantizer.load(path),
        pickle.loads(pickle.dumps(quantizer)),
        copy.deepcopy(quantizer),
        EmbeddingQuantizer.from_dict(json.loads(json.dumps(quantizer.to_dict()))),
    ]
    for again in copies:
        assert again == quantizer and repr(again) == repr(quantizer)
        assert np.array_equal(again.transform(vectors), quantizer.transform(vectors))
        assert np.array_equal(again.partial_fit(vectors * 2).transform(vectors), again.transform(vectors))
    with pytest.raises(OutputFileError, match="exists already"):
        quantizer.save(path)
    quantizer.save(path, force=True)
    empty = EmbeddingQuantizer(scheme, layout=layout)
    assert EmbeddingQuantizer.from_dict(empty.to_dict()) == empty != quantizer


def test_damaged_states_are_refused(vectors, tmp_path):
    state = EmbeddingQuantizer().fit(vectors).to_dict()
    changes = [
        ({"format": "other"}, r"format: expected 'quantcore.embeddings', got 'other'$"),
        ({"version": 2}, r"version: 2 is unknown; known: 1$"),
        ({"scheme": "int8"}, r"calibrator: contradicts affine int8"),
        ({"scheme": ["uint8"]}, r"scheme: expected one of"),
        ({"num_rows": 0}, r"calibrator: contradicts num_rows or n_dimensions$"),
        ({"num_rows": True}, r"num_rows: expected an integer"),
        ({"n_dimensions": 7}, r"calibrator: contradicts num_rows or n_dimensions$"),
        ({"n_dimensions": None}, r"calibrator: contradicts num_rows or n_dimensions$"),
        ({"n_dimensions": 0}, r"n_dimensions: expected an integer from 1 "),
        ({"calibrator": None}, r"mapping: expected a mapping, got None$"),
        ({"more": 1}, r"'more': is missing, or not a field"),
    ]
    path = tmp_path / "quantizer.json"
    for change, message in changes:
        path.write_text(json.dumps(state | change))
        with pytest.raises(FileFormatError, match=message):
            EmbeddingQuantizer.load(path)
    path.write_text("{")
    with pytest.raises(FileFormatError, match=r"quantizer.json'?: quantizer: "):
        EmbeddingQuantizer.load(path)
    with pytest.raises(InvalidTypeError, match=r"^mapping: expected a mapping"):
        EmbeddingQuantizer.from_dict([])


# Recall


def test_recall_equals_a_naive_search(rng):
    base, queries = rng.standard_normal((300, 20)).astype(F32), rng.standard_normal((15, 20)).astype(F32)
    quantizer = EmbeddingQuantizer("uint4").fit(base)
    decoded = quantizer.inverse_transform(quantizer.transform(base))

    def naive(vectors: np.ndarray, metric: str) -> list[list[int]]:
        wide, asked = vectors.astype(float), queries.astype(float)
        if metric == "l2":
            distance = ((asked[:, None] - wide[None]) ** 2).sum(axis=2)
        elif metric == "ip":
            distance = -asked @ wide.T
        else:
            distance = -asked @ (wide / np.linalg.norm(wide, axis=1, keepdims=True)).T
        return np.argsort(distance, axis=1)[:, :7].tolist()

    for metric in ("l2", "ip", "cosine"):
        exact, found = naive(base, metric), naive(decoded, metric)
        expected = np.mean([len(set(a) & set(b)) / 7 for a, b in zip(exact, found, strict=True)])
        assert quantizer.recall_at_k(base, queries, 7, metric=metric) == pytest.approx(expected)
        assert recall_at_k(exact, found) == pytest.approx(expected) and 0.3 < expected < 1
    with pytest.raises(InvalidValueError, match=r"^k: expected an integer from 1 to 300, got 301$"):
        quantizer.recall_at_k(base, queries, 301)
    with pytest.raises(InvalidValueError, match=r"^metric: expected one of l2, ip, cosine, got 'dot'$"):
        quantizer.recall_at_k(base, queries, metric="dot")
    with pytest.raises(InvalidValueError, match=r"^base: must not be empty"):
        quantizer.recall_at_k(base[:0], queries)
    with pytest.raises(InvalidValueError, match=r"^exact, found: expected the same shape"):
        recall_at_k(exact, exact[:1])
    with pytest.raises(InvalidTypeError, match=r"^exact: expected integers"):
        recall_at_k([[0.5]], [[1]])


@pytest.mark.parametrize(
    ("exact", "found", "expected"),
    [
        ([[1, 1, 2]], [[1, 1, 2]], 1),
        ([[1, 1, 2]], [[1, 3, 4]], 1 / 2),
        ([[3, -1, -1]], [[3, -1, -1]], 1),
        ([[3, -1, -1], [4, 5, 6]], [[7, -1, -1], [6, 5, -1]], 2 / 4),
        ([[-1, -1], [0, 1]], [[2, 3], [0, 2]], 1 / 2),
        ([[1, 2]], [[-1, -1]], 0),
    ],
)
def test_recall_of_duplicates_and_of_padding(exact, found, expected):
    assert recall_at_k(exact, found) == expected
    with pytest.raises(InvalidValueError, match=r"^exact: has no index of a neighbour, all are negative$"):
        recall_at_k(np.full((2, 3), -1), np.zeros((2, 3), int))


def test_recall_of_vectors_far_from_zero(rng):
    """Asymmetric codes widen such ranges to zero and keep one bit in ten of what is searched for."""
    centres = rng.standard_normal((20, 64))
    base = (centres[rng.integers(20, size=2100)] + 0.5 * rng.standard_normal((2100, 64))) * 0.01
    base = (base + rng.uniform(5, 50, 64)).astype(F32)
    base, queries = base[:2000], base[2000:]
    ours = EmbeddingQuantizer().fit(base).recall_at_k(base, queries)
    theirs = EmbeddingQuantizer("QT_8bit", layout="faiss").fit(base).recall_at_k(base, queries)
    assert ours >= max(0.9, theirs - 0.02)  # by chance the one or the other is ahead by less
