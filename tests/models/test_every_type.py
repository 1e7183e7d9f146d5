"""A file that gguf-py wrote, with random blocks of every type: inspected, opened, compared and decoded."""

import contextlib
import json

import numpy as np
import pytest

from quantcore import GGUFQuantType, InvalidValueError, dequantize, dequantize_model, quantize_model
from quantcore.conversion.file_types import name_of_pure
from quantcore.conversion.rules import UNWEIGHTED_MODEL_TYPES
from quantcore.demo import evaluate_formats
from quantcore.ggml import SUPPORTED_TYPES
from quantcore.gguf import Imatrix
from quantcore.mixed_precision import suggest_model_types
from quantcore.models import open_model
from tests.support import ggml
from tests.support.contract import FORMATS, Format, assert_same_floats, every_format
from tests.support.models import Tensor, gguf, write_gguf

NEED_WEIGHTS = sorted(set(SUPPORTED_TYPES) - set(UNWEIGHTED_MODEL_TYPES))
every_needy_type = pytest.mark.parametrize("qtype", NEED_WEIGHTS, ids=lambda qtype: qtype.name)


def finite_rows(fmt: Format, rng: np.random.Generator) -> np.ndarray:
    """Six random rows of two blocks or more, as bytes, whose values are finite: a finite scale may be too large."""
    rows: list[np.ndarray] = []
    while len(rows) < 6:
        row = rng.integers(0, 256, fmt.nbytes(2 * fmt.row), dtype=np.uint8)
        with contextlib.suppress(InvalidValueError):
            if np.isfinite(dequantize(row, fmt.id)).all():
                rows.append(row)
    return np.array(rows)


@pytest.fixture
def stored(tmp_path, rng, monkeypatch):
    """The path of the file, and the rows of each type."""
    monkeypatch.setitem(gguf.constants.GGML_QUANT_SIZES, GGUFQuantType.Q2_0, (64, 18))  # newer than gguf-py
    rows = {fmt.name: finite_rows(fmt, rng) for fmt in FORMATS}
    writer = gguf.GGUFWriter(tmp_path / "every.gguf", "llama")
    for fmt in FORMATS:
        writer.add_tensor(f"blk.{fmt.id}.ffn_down.weight", rows[fmt.name], raw_dtype=GGUFQuantType(fmt.id))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "every.gguf", rows


def test_every_type_is_read_and_decoded(stored, call, tmp_path):
    path, rows = stored
    inspected = call("inspect", path, "--json")
    assert inspected.status == 0
    types = {t["name"]: t["type"] for t in json.loads(inspected.out)["tensors"]}
    assert types == {f"blk.{fmt.id}.ffn_down.weight": fmt.name for fmt in FORMATS}
    assert all(fmt.name in call("inspect", path).out for fmt in FORMATS)
    assert call("dequantize", path, tmp_path / "f32.gguf").status == 0
    with open_model(path) as model, open_model(tmp_path / "f32.gguf") as decoded:
        for fmt in FORMATS:
            name = f"blk.{fmt.id}.ffn_down.weight"
            values = ggml.dequantize(rows[fmt.name], fmt.id)
            assert model.tensors[name].shape == (6, 2 * fmt.row)
            assert_same_floats(model.tensors[name].values(), values)
            is_block = fmt.block_size > 1
            assert decoded.tensors[name].type == ("F32" if is_block else fmt.name)
            assert_same_floats(decoded.tensors[name].values(), values)
    compared = call("compare", tmp_path / "f32.gguf", path, "--json")
    assert compared.status == 0 and all(fmt.name in compared.out for fmt in FORMATS)


@pytest.mark.slow
@every_format
def test_files_are_written_with_every_type(fmt, tmp_path, rng):
    """By `quantize_model`, which refuses those that need an importance matrix unless there is one."""
    values = rng.standard_normal((5, 512)).astype(np.float32)
    write_gguf(tmp_path / "in.gguf", [Tensor("blk.0.ffn_down.weight", values)])
    name, matrix, weights = name_of_pure(GGUFQuantType(fmt.id).layout), None, None
    if fmt.id in NEED_WEIGHTS:
        with pytest.raises(InvalidValueError, match=rf"'blk.0.ffn_down.weight': {fmt.name} needs an importance matrix"):
            quantize_model(tmp_path / "in.gguf", tmp_path / "out.gguf", name, pure=True)
        assert [path.name for path in tmp_path.iterdir()] == ["in.gguf"]
        matrix = Imatrix.from_activations({"blk.0.ffn_down.weight": rng.standard_normal((9, 512))})
        weights = matrix.weights("blk.0.ffn_down.weight")[0]
    quantize_model(tmp_path / "in.gguf", tmp_path / "out.gguf", name, pure=True, imatrix=matrix)
    dequantize_model(tmp_path / "out.gguf", tmp_path / "back.gguf")
    with open_model(tmp_path / "out.gguf") as model, open_model(tmp_path / "back.gguf") as back:
        (tensor,) = model.tensors.values()
        assert tensor.type == fmt.name
        expected = ggml.dequantize(ggml.quantize(values, fmt.id, weights), fmt.id)
        assert_same_floats(tensor.values(), expected)
        assert_same_floats(back.tensors[tensor.name].values(), expected)


@pytest.fixture
def wide(tmp_path, rng):
    """A model with rows of whole blocks of every type."""
    values = rng.standard_normal((2, 256)).astype(np.float32)
    write_gguf(tmp_path / "wide.gguf", [Tensor("blk.0.ffn_up.weight", values)])
    return tmp_path / "wide.gguf"


@every_needy_type
def test_types_that_need_an_importance_matrix_are_refused_by_name(qtype, wide, source, out):
    """Their kernels read weights, so that what has none must not come so far."""
    needs = rf": {qtype.name} needs an importance matrix, one weight per column$"
    with pytest.raises(InvalidValueError, match=rf"'blk\.0\.ffn_up\.weight': {qtype.name} needs an importance matrix"):
        quantize_model(wide, out, "Q4_0", tensor_types=[("ffn", qtype)])
    with pytest.raises(InvalidValueError, match=f"^types{needs}"):
        suggest_model_types(source, 5, [qtype, "Q4_0"])
    with pytest.raises(InvalidValueError, match=f"^formats{needs}"):
        evaluate_formats([qtype])
    assert not out.exists()


@every_needy_type
def test_the_command_line_refuses_them_in_one_line(qtype, wide, out, call):
    result = call("quantize", wide, out, "Q4_0", "--tensor-type", f"ffn={qtype.name}")
    assert (result.status, result.out, result.err.count("\n")) == (1, "", 1)
    assert f"{qtype.name} needs an importance matrix" in result.err
