"""Which tests are collected and which of them run, for the tests and the doctests alike.

`pytest` alone runs the fast set: no test marked `slow`, and of a test with many cases a few that lie evenly among them.
`pytest FILE` runs every case of the file's tests that are not slow. All run with `--full`, with a selection by marks or
names (`-m`, `-k`), and where tests are named by their ids (`FILE::TEST`). The header and the last lines of the output
say what is left out.
"""

from importlib.util import find_spec

import pytest

# Optional modules, for their doctests, and tests beside large peers are collected only where these are installed.
_NEEDS = {
    "quantcore/arrow": "pyarrow",
    "quantcore/dask": "dask",
    "quantcore/onnx": "onnxruntime",
    "quantcore/torch": "torch",
    "quantcore/torch/layers_of_transformers.py": "transformers",
    "quantcore/zarr": "zarr",
    "tests/test_onnx.py": "onnxruntime",
    "tests/torch/test_onnx_export.py": "onnxscript",
    "tests/torch/test_qlora_transformers.py": "transformers",
    "tests/conversion/test_coded_peers.py": "transformers",
    "tests/conversion/test_transformers_parity.py": "transformers",
}
collect_ignore = [path for path, package in _NEEDS.items() if find_spec(package) is None]

MOST_CASES = 3
"""Of one test, in the fast set."""

_N_LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run all tests: the slow ones, and every case of each")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes half a second or more; left out of plain pytest, see --full")


def _leaves_out_slow(config: pytest.Config) -> bool:
    is_named = any("::" in argument for argument in config.args)
    return not (config.option.full or config.option.markexpr or config.option.keyword or is_named)


def _leaves_out_cases(config: pytest.Config) -> bool:
    return _leaves_out_slow(config) and config.args_source is not pytest.Config.ArgsSource.ARGS


def pytest_report_header(config: pytest.Config) -> str:
    if not _leaves_out_slow(config):
        return "all tests of this selection"
    return f"no slow tests{', and a few cases of each' if _leaves_out_cases(config) else ''}: --full runs all"


def _spread(items: list[pytest.Item]) -> list[pytest.Item]:
    """`MOST_CASES` of `items`, the first and the last among them, or all where there are no more."""
    if len(items) <= MOST_CASES:
        return items
    return [items[index * (len(items) - 1) // (MOST_CASES - 1)] for index in range(MOST_CASES)]


def _test_of(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not _leaves_out_slow(config):
        return
    kept = [item for item in items if not item.get_closest_marker("slow")]
    if _leaves_out_cases(config):
        cases: dict[str, list[pytest.Item]] = {}
        for item in kept:
            cases.setdefault(_test_of(item), []).append(item)
        kept = [item for found in cases.values() for item in _spread(found)]
    ids = {id(item) for item in kept}
    left_out = [item for item in items if id(item) not in ids]
    config.stash[_N_LEFT_OUT] = len(left_out)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if id(item) in ids]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if n := config.stash.get(_N_LEFT_OUT, 0):
        terminalreporter.write_sep("-", f"{n} tests left out: pytest --full runs all", yellow=True)
