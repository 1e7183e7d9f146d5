"""What all tests share: seeds, Hypothesis profiles, and skips that may not pass unnoticed.

Environment: QUANTCORE_REQUIRE_PEERS=1 makes every skip a failure, except of tests marked `may_skip`; =all of
those, too.
QUANTCORE_TEST_SEED repeats a run's random data, those of Hypothesis too, as CI does.
HYPOTHESIS_PROFILE is "default" or "thorough".
"""

import contextlib
import os
import signal
import socket
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import settings

GIVEN_SEED = os.environ.get("QUANTCORE_TEST_SEED")
SEED = int(GIVEN_SEED or int.from_bytes(os.urandom(4)))
REQUIRE_PEERS = os.environ.get("QUANTCORE_REQUIRE_PEERS", "")

_COMMON = settings(deadline=None, derandomize=bool(GIVEN_SEED))
settings.register_profile("default", _COMMON, max_examples=40)
settings.register_profile("thorough", _COMMON, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "may_skip: a skip is no failure even with QUANTCORE_REQUIRE_PEERS=1")
    # A shell starts background jobs with SIGINT ignored, and the children of the tests would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    return f"random data: QUANTCORE_TEST_SEED={SEED}"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random data that are new every run, and do not depend on which other tests run."""
    print(f"QUANTCORE_TEST_SEED={SEED}")  # shown if the test fails
    return np.random.default_rng([SEED, zlib.crc32(request.node.name.encode())])


@pytest.fixture(scope="module")
def expected_digests(request: pytest.FixtureRequest) -> dict[str, int]:
    """What the level of this process computes; other tests of the module compare that with the definitions."""
    digests: dict[str, int] = request.module.digests(SEED)
    return digests


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def bnb(torch: ModuleType) -> Iterator[ModuleType]:
    """The functions of bitsandbytes, without torch's compiler, which they would start for some shapes."""
    functional = pytest.importorskip("bitsandbytes.functional")
    with torch.compiler.set_stance("force_eager"):
        yield functional


@pytest.fixture(scope="session")
def dask_port_is_taken() -> Iterator[None]:
    """As where another cluster runs, the port of Dask's dashboard has an owner."""
    with socket.socket() as server:
        with contextlib.suppress(OSError):  # somebody else already
            server.bind(("", 8787))
            server.listen()
        yield


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where an output goes."""
    return tmp_path / "out.gguf"


@pytest.fixture
def old(out: Path) -> Path:
    """An output from an earlier run."""
    out.write_bytes(b"precious")
    return out


@pytest.fixture
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are quantized in slabs so small that each has many."""
    from quantcore.conversion import gguf_pipeline
    from tests.support.model_files import SLAB

    monkeypatch.setattr(gguf_pipeline, "SLAB_ELEMENTS", SLAB)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model for the tests of `quantize_model`."""
    from tests.support.model_files import write_source

    return write_source(tmp_path / "in.gguf")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model for the tests of the command line."""
    from tests.support.command_line import write_model

    return write_model(tmp_path / "in.gguf")


class Result(NamedTuple):
    """What the command line gave back."""

    status: int
    out: str
    err: str


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the command line in this process."""
    from quantcore.cli import main

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            status = leaving.code
        return Result(status, *capsys.readouterr())

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    may_skip = REQUIRE_PEERS != "all" and item.get_closest_marker("may_skip") is not None
    is_expected = hasattr(report, "wasxfail") or may_skip
    if REQUIRE_PEERS and report.skipped and not is_expected:
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if REQUIRE_PEERS and report.skipped:
        _fail(report)
    return report


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"QUANTCORE_REQUIRE_PEERS={REQUIRE_PEERS} allows no skip: {reason}"
