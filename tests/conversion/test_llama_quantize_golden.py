"""Whole files are those of llama.cpp b11739's `llama_model_quantize`: every name, with and without importance, and each
option, by digests of its files (`tests.support.make_golden_models`).
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from quantcore.conversion import quantize_model
from quantcore.errors import InvalidValueError
from quantcore.gguf import Imatrix
from quantcore.gguf.imatrix import ImatrixEntry
from tests.support import random_models
from tests.support.make_golden_models import REFUSED, case_name, read_golden
from tests.support.marks import slow_but_first
from tests.support.quantize_cases import CHUNKS, DATASET, MATRIX_FILE, OPTIONS, SOURCES, TYPES, Source, digest

GOLDEN, RANDOM = read_golden("files"), read_golden("random")
# Where llama-quantize has no type to fall back to and refuses, we store F16.
WITHOUT_FALLBACK = {("odd", "Q1_0")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sources."""
    path = tmp_path_factory.mktemp("sources")
    for name, source in SOURCES.items():
        (path / name).write_bytes(source.build())
    return path


@cache
def matrix_of(source: str) -> Imatrix:
    """The importance matrix of a source, as if it had been loaded."""
    return make_matrix(SOURCES[source])


def make_matrix(source: Source) -> Imatrix:
    entries = {
        name: ImatrixEntry(weights.astype(np.float64), np.ones(len(weights), np.int64))
        for name, weights in source.weights().items()
    }
    return Imatrix(entries, (DATASET,), CHUNKS, 512, MATRIX_FILE)


def test_sources_are_those_of_the_digests(folder):
    assert {name: digest((folder / name).read_bytes()) for name in SOURCES} == GOLDEN["sources"]


def test_every_file_has_its_digest():
    cases = {case_name(s, t, is_weighted=w) for s in SOURCES for t in TYPES for w in (False, True)}
    cases |= {case_name(o.source, name, is_weighted=o.is_weighted) for name, o in OPTIONS.items()}
    assert cases == GOLDEN["files"].keys()


@pytest.mark.parametrize("source", slow_but_first(list(SOURCES)))
@pytest.mark.parametrize("name", TYPES)
def test_every_name_gives_the_file_of_llama_quantize(name, source, folder, tmp_path):
    for is_weighted in (False, True):
        expected = GOLDEN["files"][case_name(source, name, is_weighted=is_weighted)]
        imatrix = matrix_of(source) if is_weighted else None
        out = tmp_path / f"{is_weighted}.gguf"
        if expected == REFUSED and (source, name) not in WITHOUT_FALLBACK:
            assert not is_weighted
            with pytest.raises(InvalidValueError, match=r"^tensor '.*': .* needs an importance matrix"):
                quantize_model(folder / source, out, name)
            assert not out.exists()
            continue
        report = quantize_model(folder / source, out, name.lower() if is_weighted else name, imatrix=imatrix)
        if (source, name) in WITHOUT_FALLBACK:
            assert expected == REFUSED and any("stored as F16" in notice for notice in report.notices)
        else:
            assert digest(out.read_bytes()) == expected


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_gives_the_file_of_llama_quantize(name, folder, tmp_path):
    options = OPTIONS[name]
    imatrix = matrix_of(options.source) if options.is_weighted else None
    out = tmp_path / "out.gguf"
    quantize_model(folder / options.source, out, options.type, imatrix=imatrix, **options.ours)
    case = case_name(options.source, name, is_weighted=options.is_weighted)
    assert digest(out.read_bytes()) == GOLDEN["files"][case] != REFUSED


@pytest.mark.parametrize("number", slow_but_first(range(random_models.COUNT), 60))
def test_random_models_give_the_file_of_llama_quantize(number, tmp_path):
    """What llama-quantize refuses, we refuse as well, unless there is a type to fall back to."""
    source, options = random_models.make_case(number)
    data = source.build()
    (tmp_path / "in.gguf").write_bytes(data)
    before, after = RANDOM["files"][str(number)]
    assert digest(data) == before
    matrix = make_matrix(source) if options.is_weighted else None
    try:
        report = quantize_model(
            tmp_path / "in.gguf", tmp_path / "out.gguf", options.type, imatrix=matrix, **options.ours
        )
    except InvalidValueError:
        assert after == REFUSED
    else:
        if after == REFUSED:
            assert any("stored as" in notice for notice in report.notices)
        else:
            assert digest((tmp_path / "out.gguf").read_bytes()) == after


def test_most_random_models_are_not_refused():
    assert sum(after != REFUSED for _, after in RANDOM["files"].values()) > 0.8 * random_models.COUNT


def test_golden_files_differ():
    digests = [d for d in GOLDEN["files"].values() if d != REFUSED]
    assert len(set(digests)) > len(digests) * 0.9
