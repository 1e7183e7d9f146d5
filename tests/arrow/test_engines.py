"""The recipes of docs/data_pipelines.md: every engine gives the bytes that NumPy gives."""

import functools
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")

from quantcore import Calibrator, QuantParams, quantize_with_params  # noqa: E402
from quantcore import arrow as qa  # noqa: E402

N = 300


@pytest.fixture
def vectors(rng: np.random.Generator) -> np.ndarray:
    return (rng.standard_normal((N, 16)) + rng.uniform(-30, 30, 16)).astype(np.float32)


@pytest.fixture
def table(vectors: np.ndarray) -> Any:
    return pa.table({"id": pa.array(range(N)), "embedding": pa.array(list(vectors), pa.list_(pa.float32(), 16))})


@pytest.fixture
def params(vectors: np.ndarray) -> QuantParams:
    return Calibrator.min_max(axis=1, mode="offset").partial_fit(vectors).compute().params


def codes_of(column: Any) -> np.ndarray:
    """Codes in whatever lists an engine has made of them."""
    return np.array(column.to_pylist(), np.uint8)


@pytest.mark.may_skip
def test_polars(table, vectors, params):
    polars = pytest.importorskip("polars")
    frame = polars.from_arrow(table)
    made = qa.quantize_table(frame, {"embedding": params})
    assert np.array_equal(qa.to_numpy(made["embedding"]), quantize_with_params(vectors, params))
    assert qa.quantize(frame["embedding"], params=params).type == made["embedding"].type
    # Polars may know no extension types: it gets the codes, and their parameters are kept beside.
    storage = pa.chunked_array([chunk.storage for chunk in made["embedding"].chunks])
    back = polars.from_arrow(pa.table({"codes": storage}))["codes"]
    assert (
        qa.dequantize(back, params=made["embedding"].type)
        .combine_chunks()
        .equals(qa.dequantize(made["embedding"]).combine_chunks())
    )


@pytest.mark.may_skip
def test_duckdb(table, vectors, params):
    duckdb = pytest.importorskip("duckdb")
    kind = qa.AffineType(params, 16)
    made = qa.quantize_table(table, {"embedding": params})
    codes = pa.chunked_array([chunk.storage for chunk in made["embedding"].chunks])
    plain = pa.table({"id": made["id"], "codes": codes})
    with duckdb.connect() as connection:
        connection.register("plain", plain)
        found = connection.sql("SELECT codes FROM plain WHERE id >= 100 ORDER BY id").to_arrow_table()["codes"]
    assert np.array_equal(codes_of(found), quantize_with_params(vectors[100:], params))
    restored = qa.to_numpy(qa.dequantize(found, params=kind))
    assert np.array_equal(restored, qa.to_numpy(qa.dequantize(made["embedding"]))[100:])


@pytest.mark.may_skip
@pytest.mark.slow
def test_hugging_face_datasets(table, vectors, params):
    datasets = pytest.importorskip("datasets")
    work = functools.partial(qa.quantize_table, columns={"embedding": params})

    def codes(batch: Any) -> Any:
        made = work(batch)
        column = pa.chunked_array([chunk.storage for chunk in made["embedding"].chunks])
        return pa.table({"id": made["id"], "codes": column})

    dataset = datasets.Dataset(table).with_format("arrow")
    found = dataset.map(codes, batched=True, batch_size=70, remove_columns=["embedding"], load_from_cache_file=False)
    assert np.array_equal(codes_of(found.data["codes"]), quantize_with_params(vectors, params))


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    module = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    module.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield module
    module.shutdown()


@pytest.mark.may_skip
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray(ray, table, vectors, params):
    def codes(batch: Any) -> Any:
        column = qa.quantize_table(batch, {"embedding": params})["embedding"]
        return pa.table({"id": batch["id"], "codes": pa.chunked_array([chunk.storage for chunk in column.chunks])})

    found = ray.data.from_arrow(table).map_batches(codes, batch_format="pyarrow", batch_size=70).take_all()
    rows = sorted(found, key=lambda row: row["id"])
    assert np.array_equal(np.array([row["codes"] for row in rows], np.uint8), quantize_with_params(vectors, params))


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sql = pytest.importorskip("pyspark.sql")
    if shutil.which("java") is None:
        pytest.skip("needs Java")
    builder = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.local.dir", str(tmp_path_factory.mktemp("spark")))
    session = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", 70).getOrCreate()
    yield session
    session.stop()


@pytest.mark.may_skip
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_spark(spark, vectors):
    params = Calibrator.min_max(axis=1).partial_fit(vectors).compute().params  # Spark has no unsigned bytes
    work = functools.partial(qa.quantize_table, columns={"embedding": params})

    def plain_codes(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            column = work(batch)["embedding"].storage.cast(pa.list_(pa.int8()))
            yield pa.record_batch({"id": batch["id"], "codes": column})

    rows = [(i, vector.tolist()) for i, vector in enumerate(vectors)]
    frame = spark.createDataFrame(rows, "id bigint, embedding array<float>")
    found = frame.mapInArrow(plain_codes, "id bigint, codes array<tinyint>").collect()
    codes = np.array([row.codes for row in sorted(found, key=lambda row: row.id)])
    assert np.array_equal(codes, quantize_with_params(vectors, params))


@pytest.mark.slow
def test_processes_of_dask_give_the_same_bytes_and_statistics(dask_port_is_taken, table, vectors, params):
    dask = pytest.importorskip("dask")
    distributed = pytest.importorskip("distributed")
    batches = table.to_batches(max_chunksize=70)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        distributed.Client(cluster),
    ):
        start = Calibrator.min_max(axis=1, mode="offset")
        parts = [dask.delayed(qa.calibrate)(batch["embedding"], start) for batch in batches]
        work = functools.partial(qa.quantize_table, columns={"embedding": params})
        made = [dask.delayed(work)(batch) for batch in batches]
        calibrators, tables = dask.compute(parts, made)
    merged = functools.reduce(lambda one, other: one.merge(other), reversed(calibrators))
    assert merged.compute().params == params
    whole = pa.Table.from_batches(tables)
    assert whole["embedding"].type == qa.AffineType(params, 16)
    assert np.array_equal(qa.to_numpy(whole["embedding"]), quantize_with_params(vectors, params))
