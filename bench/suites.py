"""All suites of works: whatever `python -m bench.table` and `pytest bench/` measure."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

from bench.analysis_works import analysis_works
from bench.blockwise_works import blockwise_works
from bench.calibration_works import calibration_works
from bench.coded_works import coded_works
from bench.embedding_works import embedding_works
from bench.qat_works import qat_works
from bench.work import Work
from bench.works import works

SUITES: dict[str, Callable[[int], Iterator[Work]]] = {
    "formats": works,
    "blockwise": blockwise_works,
    "calibration": calibration_works,
    "analysis": analysis_works,
    "qat": qat_works,
    "coded": coded_works,
    "embeddings": embedding_works,
}
if find_spec("torch") is not None:
    from bench.torch_works import torch_works

    SUITES["torch"] = torch_works
