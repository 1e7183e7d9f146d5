"""The works under pytest-benchmark have names and groups that stay, by which `--benchmark-compare` finds them."""

import re

import pytest

from bench.bench_works import SUITES, cases, group
from bench.table import versions


@pytest.mark.slow
def test_names_are_unique_and_the_same_in_every_process():
    found = list(cases())
    assert len(set(found)) == len(found) and found == list(cases())
    assert {suite for suite, *_ in found} == set(SUITES)
    parts = [part for _, title, library, _ in found for part in (title, library)]
    assert [part for part in parts if not part.strip() or re.search(r"0x|\bat [0-9a-f]{6,}|[/\\]|/tmp", part)] == []
    members = [(group(suite, title, n_threads), library) for suite, title, library, n_threads in found]
    assert len(set(members)) == len(members)


def test_the_heading_of_a_table_names_versions():
    assert re.match(r"quantcore \d+\.\d+\.\d+\S*, numpy \d+\.", versions())
