"""A cluster of processes, where Dask's own port for its dashboard is taken."""

from collections.abc import Iterator
from typing import Any

import pytest

OPTIONS = {"threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}  # any free port; None is 8787 too


@pytest.fixture(scope="package")
def cluster(dask_port_is_taken) -> Iterator[Any]:
    """The client of two workers."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, **OPTIONS) as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture
def one_worker(dask_port_is_taken) -> Iterator[Any]:
    """The client of one worker, whose death is an error."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=1, **OPTIONS) as cluster, distributed.Client(cluster) as client:
        cluster.scheduler.allowed_failures = 0
        yield client
