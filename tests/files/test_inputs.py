"""Files that are read whole, up to a limit."""

import pytest

from quantcore import FileFormatError
from quantcore.files.inputs import InputFile
from quantcore.files.strict_json import read_object


def test_a_file_is_read_whole_up_to_its_limit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    with InputFile(path) as file:
        assert file.read_whole(3) == b"abc"
        with pytest.raises(FileFormatError, match=r"a: 3 bytes, the limit is 2$"):
            file.read_whole(2)
        with pytest.raises(FileFormatError, match=r"a: 3 bytes, the limit of the index is 2$"):
            read_object(file, 2, "index")


def test_a_text_has_to_be_utf_8(tmp_path):
    path = tmp_path / "a"
    path.write_bytes("é".encode())
    with InputFile(path) as file:
        assert file.read_text(2) == "é"
    path.write_bytes(b"\xff")
    with InputFile(path) as file, pytest.raises(FileFormatError, match=r"a: is not UTF-8$"):
        file.read_text(2)
