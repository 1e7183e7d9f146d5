"""Quantized columns in tables, files and streams: they come back with their parameters, and never mix with others'."""

import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quantcore

pa = pytest.importorskip("pyarrow")

import pyarrow.dataset  # noqa: E402
import pyarrow.feather  # noqa: E402
import pyarrow.parquet  # noqa: E402

from quantcore import Calibrator, QuantMode, quantize_with_params  # noqa: E402
from quantcore import arrow as qa  # noqa: E402
from quantcore.errors import InvalidTypeError, InvalidValueError  # noqa: E402

F32 = np.float32
KINDS = [("uint8", None), ("int8", None), ("uint8", "vector"), ("int8", "vector"), ("Q8_0", None)]
every_kind = pytest.mark.parametrize(("scheme", "granularity"), KINDS)
REFUSALS = (pa.ArrowInvalid, pa.ArrowTypeError)


def table_of(rng: np.random.Generator, n: int = 90, factor: float = 1) -> Any:
    """A table in several chunks, with a null vector and two columns of vectors."""
    vectors = (rng.standard_normal((n, 32)) * factor + 20).astype(F32)
    rows = [None if i == 4 else row for i, row in enumerate(vectors)]
    whole = pa.table(
        {
            "id": pa.array(range(n)),
            "embedding": pa.array(rows, pa.list_(pa.float32(), 32)),
            "other": pa.array(list(vectors[::-1]), pa.list_(pa.float32())),
            "temperature": pa.array(vectors[:, 0]),
        }
    )
    return pa.concat_tables([whole[:30], whole[30:31], whole[31:]])


def write_parquet(table: Any, path: Path) -> Any:
    pyarrow.parquet.write_table(table, path, row_group_size=20)
    return pyarrow.parquet.read_table(path)


def write_feather(table: Any, path: Path) -> Any:
    pyarrow.feather.write_feather(table, path)
    return pyarrow.feather.read_table(path)


def write_file(table: Any, path: Path) -> Any:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def write_stream(table: Any, path: Path) -> Any:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


WRITERS: dict[str, Callable[[Any, Path], Any]] = {
    "parquet": write_parquet,
    "feather": write_feather,
    "file": write_file,
    "stream": write_stream,
}


@every_kind
@pytest.mark.parametrize("writer", WRITERS)
def test_files_and_streams_give_back_columns_and_parameters(writer, scheme, granularity, rng, tmp_path):
    made = qa.quantize_table(table_of(rng), ["embedding", "other"], scheme, granularity=granularity)
    again = WRITERS[writer](made, tmp_path / "table")
    assert again.schema.equals(made.schema) and again.equals(made)
    for name in ("embedding", "other"):
        assert again.column(name).type == made.column(name).type
        assert qa.params_of(again.column(name)) == qa.params_of(made.column(name))
    decoded = qa.dequantize_table(again)
    assert decoded.equals(qa.dequantize_table(made)) and decoded.column("embedding").null_count == 1
    assert decoded.schema.names == made.schema.names


@every_kind
def test_tables_with_other_parameters_are_not_joined(scheme, granularity, rng, tmp_path):
    first, second = (qa.quantize_table(table_of(rng), "embedding", scheme, granularity=granularity) for _ in range(2))
    is_same = granularity == "vector" or scheme == "Q8_0"
    for i, table in enumerate((first, second)):
        pyarrow.parquet.write_table(table, tmp_path / f"{i}.parquet")
    joins = [
        lambda: pa.concat_tables([first, second]),
        lambda: pa.concat_tables([first, second], promote_options="default"),
        lambda: pa.concat_tables([first, second], promote_options="permissive"),
        lambda: pyarrow.parquet.read_table(tmp_path),
        lambda: pyarrow.dataset.dataset(tmp_path).to_table(),
        lambda: pa.Table.from_batches([*first.to_batches(), *second.to_batches()]),
    ]
    for join in joins:
        if is_same:  # vectors and blocks have their own scales with them
            column = join().column("embedding")
            expected = pa.chunked_array(
                [*qa.dequantize(first["embedding"]).chunks, *qa.dequantize(second["embedding"]).chunks]
            )
            assert qa.dequantize(column).combine_chunks().equals(expected.combine_chunks())
        else:
            with pytest.raises(REFUSALS):
                join()


def test_batches_are_quantized_with_known_parameters(rng):
    table = table_of(rng)
    calibrator = qa.calibrate(table["embedding"], Calibrator.min_max(axis=1, mode=QuantMode.OFFSET))
    params = calibrator.compute().params
    work = pickle.loads(pickle.dumps(functools.partial(qa.quantize_table, columns={"embedding": params})))
    parts = [work(batch) for batch in table.to_batches(max_chunksize=7)]
    assert all(isinstance(part, pa.RecordBatch) for part in parts)
    whole = qa.quantize_table(table, "embedding")
    assert whole.schema.equals(parts[0].schema, check_metadata=True)
    assert pa.Table.from_batches(parts).combine_chunks().equals(whole.combine_chunks())
    empty = work(table.to_batches()[0][:0])
    assert empty.num_rows == 0 and empty.schema.equals(parts[0].schema)
    codes = qa.to_numpy(whole["embedding"].combine_chunks().drop_null())
    vectors = qa.to_numpy(table["embedding"].combine_chunks().drop_null())
    assert np.array_equal(codes, quantize_with_params(vectors, params))


def test_bad_rows_of_a_table(rng):
    table = table_of(rng)
    other = table["other"].to_pylist()
    other[40][3] = float("nan")
    temperature = [*table["temperature"].to_pylist()]
    temperature[7] = float("inf")
    table = table.set_column(2, "other", pa.array(other, pa.list_(pa.float32())))
    table = table.set_column(3, "temperature", pa.array(temperature, pa.float32()))
    with pytest.raises(
        InvalidValueError, match=r"^column 'other': row 40, dimension 3: must be a finite float32, got na"
    ):
        qa.quantize_table(table, ["embedding", "other"])
    with pytest.raises(InvalidValueError, match=r"^column 'temperature': row 7: must be a finite float32, got inf$"):
        qa.quantize_table(table, "temperature")
    names = ["embedding", "other", "temperature"]
    nulls = qa.quantize_table(table, names, on_bad="null")
    assert [nulls[name].null_count for name in names] == [1, 1, 1] and nulls.num_rows == 90
    dropped = qa.quantize_table(table, names, on_bad="drop")
    assert dropped["id"].to_pylist() == [i for i in range(90) if i not in (7, 40)]
    assert dropped["embedding"].null_count == 1  # a null is not bad
    assert dropped["other"].type == nulls["other"].type
    strict = pa.schema([field.with_nullable(field.name != "other") for field in table.schema])
    assert qa.quantize_table(table.cast(strict), "other", on_bad="null").schema.field("other").nullable


def test_parameters_are_mirrored_for_engines_that_drop_types(rng, tmp_path):
    made = qa.quantize_table(table_of(rng), "embedding")
    field = made.schema.field("embedding")
    dropped = pa.field("embedding", field.type.storage_type, metadata=field.metadata)
    assert qa.params_of(dropped) == qa.params_of(field) == field.type.params
    with pytest.raises(InvalidValueError, match=r"^column: .* has no parameters$"):
        qa.params_of(pa.field("embedding", field.type.storage_type))
    blocks = qa.quantize_table(table_of(rng), "embedding", "Q4_0").schema.field("embedding")
    assert qa.params_of(pa.field("x", blocks.type.storage_type, metadata=blocks.metadata)).name == "Q4_0"
    # A table that lost the types is not decoded by what its metadata say, which may be another file's.
    storage = pa.chunked_array([chunk.storage for chunk in made["embedding"].chunks])
    plain = made.set_column(1, dropped, storage)
    assert qa.dequantize_table(plain).equals(plain)
    with pytest.raises(InvalidValueError, match=r"^column 'embedding': column: .* has no parameters; params= gives"):
        qa.dequantize_table(plain, "embedding")
    assert qa.dequantize(storage, params=qa.params_of(dropped)).equals(qa.dequantize(made["embedding"]))


@pytest.mark.slow
def test_a_reader_without_quantcore_sees_codes_and_parameters(rng, tmp_path):
    path = tmp_path / "table.parquet"
    made = qa.quantize_table(table_of(rng), "embedding")
    pyarrow.parquet.write_table(made, path)
    code = (
        "import pyarrow.parquet as pq; field = pq.read_table('table.parquet').schema.field('embedding'); "
        "print(field.type); print(field.metadata[b'quantcore'] == field.metadata[b'ARROW:extension:metadata'])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    kind, is_same = child.stdout.splitlines()
    assert kind.startswith("fixed_size_list<") and is_same == "True"
    environment = os.environ | {"PYTHONPATH": str(Path(quantcore.__file__).parents[1])}
    code = f"import quantcore.arrow; {code}"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert child.stdout.startswith("extension<quantcore.affine")


def test_what_does_not_fit_is_refused(rng):
    table = table_of(rng)
    with pytest.raises(InvalidValueError, match=r"^columns: expected one of 'id, embedding, other, .*, got 'vector'$"):
        qa.quantize_table(table, "vector")
    with pytest.raises(InvalidTypeError, match=r"^columns: expected a string, got 3$"):
        qa.quantize_table(table, [3])
    with pytest.raises(InvalidTypeError, match=r"^column 'id': expected floats or lists of floats, got int64$"):
        qa.quantize_table(table, "id")
    with pytest.raises(InvalidTypeError, match=r"^columns: expected an iterable of names of columns, got 3$"):
        qa.quantize_table(table, 3)
    with pytest.raises(InvalidTypeError, match=r"^table: expected an Arrow table or record batch, got dict$"):
        qa.quantize_table({}, "embedding")
    with pytest.raises(InvalidValueError, match=r"^on_bad: expected one of"):
        qa.quantize_table(table, "embedding", on_bad="ignore")


def test_anything_with_a_stream_is_a_table(rng):
    table = table_of(rng)

    class Frame:
        def __arrow_c_stream__(self, requested_schema=None):
            return table.__arrow_c_stream__(requested_schema)

    made = qa.quantize_table(Frame(), "embedding")
    assert made.equals(qa.quantize_table(table, "embedding"))
    assert qa.dequantize_table(Frame()).equals(table)
