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


def test_bfloat16_and_float64_rows_are_dropped(vectors):
    narrow = vectors.astype(ml_dtypes.bfloat16)
    narrow[3, 1] = np.nan
    wide = vectors.astype(np.float64)
    wide[3, 1] = 1e300
    quantizer = EmbeddingQuantizer().fit(vectors)
    for bad in (narrow, wide):
        assert np.flatnonzero(~quantizer.good_rows(bad)).tolist() == [3]
        kept = np.delete(bad, 3, axis=0)
        assert np.array_equal(quantizer.transform(bad, on_bad="drop"), quantizer.transform(kept))


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


def test_recall_of_vectors_far_from_zero(rng):
    """Asymmetric codes widen such ranges to zero and keep one bit in ten of what is searched for."""
    centres = rng.standard_normal((20, 64))
    base = (centres[rng.integers(20, size=2100)] + 0.5 * rng.standard_normal((2100, 64))) * 0.01
    base = (base + rng.uniform(5, 50, 64)).astype(F32)
    base, queries = base[:2000], base[2000:]
    ours = EmbeddingQuantizer().fit(base).recall_at_k(base, queries)
    theirs = EmbeddingQuantizer("QT_8bit", layout="faiss").fit(base).recall_at_k(base, queries)
    assert ours >= max(0.9, theirs - 0.02)  # by chance the one or the other is ahead by less
