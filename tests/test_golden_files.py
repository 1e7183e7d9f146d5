"""Every format has its file of golden vectors, and no file is ever overwritten or changed beside another."""

import pytest

from quantcore.blockwise.codebooks import CODEBOOKS
from quantcore.ggml.formats import SUPPORTED_TYPES
from tests.support import golden, make_golden
from tests.support.golden_ggml import GOLDEN_FORMATS, hand_picked

every_file = pytest.mark.parametrize("name", golden.list_formats())


def test_every_format_has_its_file():
    # F32 is the values themselves, and int4 blocks are our own: no other library could have made their vectors.
    formats = {fmt.name for fmt in SUPPORTED_TYPES} - {"F32"} | set(CODEBOOKS) - {"int4"}
    assert golden.list_formats() == sorted(map(str.lower, formats)) == sorted(make_golden.SOURCES)


@every_file
def test_files_hold_enough_vectors_of_their_format(name):
    vectors = golden.read_vectors(name)
    assert len(vectors) >= 30
    assert {vector[0].split()[0].lower() for vector in vectors} == {name}
    assert len({str(vector[:2]) for vector in vectors}) == len(vectors)
    assert golden.path_of(name).stat().st_size < 200_000


@every_file
def test_existing_vectors_are_not_replaced(name, capsys):
    path = golden.path_of(name)
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="1"):
        make_golden.main([name.upper()])
    assert capsys.readouterr().err == f"{path} exists: golden vectors are never regenerated\n"
    assert path.read_bytes() == before


def test_a_new_file_is_made_of_its_format_alone(tmp_path, monkeypatch, capsys):
    fmt = GOLDEN_FORMATS[-1]
    committed = {vector[1]: vector for vector in golden.read_vectors(fmt.name)}
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    make_golden.main([fmt.name])
    assert [path.name for path in tmp_path.iterdir()] == [f"{fmt.name.lower()}.json"]
    made = {vector[1]: vector for vector in golden.read_vectors(fmt.name)}
    assert made.keys() == committed.keys()
    # The rest is random, and another NumPy may draw other values.
    for name in hand_picked(fmt).keys() & made.keys():
        assert made[name] == committed[name], name
    assert f"{len(made)} vectors" in capsys.readouterr().out
