"""`quantize_model` with importance matrices: which weights reach which rows, and what is refused or told."""

import numpy as np
import pytest

from quantcore.conversion import quantize_model
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.gguf import Imatrix
from tests.support import ggml
from tests.support.model_files import contents, fields, normal, write_model

NAME, EXPERTS = "blk.0.ffn_up.weight", "blk.0.ffn_up_exps.weight"


def importance(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).exponential(size=(9, *shape)).astype(np.float32)


def test_every_expert_has_its_own_weights_in_any_number_of_slabs(tmp_path, out, small_slabs):
    values, activations = normal(3, 5, 256), importance(3, 256)
    path = write_model(tmp_path / "in.gguf", (EXPERTS, values), (NAME, values[0]))
    matrix = Imatrix.from_activations({EXPERTS: tuple(activations.transpose(1, 0, 2)), NAME: activations[:, 0]})
    weights = matrix.weights(EXPERTS)
    for n_threads in (1, 3):
        quantize_model(path, out, "Q5_1", pure=True, imatrix=matrix, force=True, n_threads=n_threads)
        expected = b"".join(ggml.quantize(values[i], 7, weights[i]) for i in range(3))
        assert contents(out)[EXPERTS] == ("Q5_1", (3, 5, 256), expected)
        assert contents(out)[NAME][2] == ggml.quantize(values[0], 7, matrix.weights(NAME)[0])


def test_rows_longer_than_a_slab_are_read_whole(tmp_path, out, small_slabs):
    values, activations = normal(2, 2048), importance(2048)
    path = write_model(tmp_path / "in.gguf", (NAME, values))
    matrix = Imatrix.from_activations({NAME: activations})
    quantize_model(path, out, "Q4_0", pure=True, imatrix=matrix)
    assert contents(out)[NAME][2] == ggml.quantize(values, 2, matrix.weights(NAME)[0])


def test_quantized_sources_are_weighted_too(tmp_path, out, small_slabs):
    from quantcore import dequantize, quantize

    values = normal(4, 256)
    path = write_model(tmp_path / "in.gguf", (NAME, quantize(values, "Q8_0"), "Q8_0"))
    matrix = Imatrix.from_activations({NAME: importance(256)})
    quantize_model(path, out, "Q4_K", pure=True, imatrix=matrix, allow_requantize=True)
    decoded = dequantize(quantize(values, "Q8_0"), "Q8_0")
    assert contents(out)[NAME][2] == ggml.quantize(decoded, 12, matrix.weights(NAME)[0])


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0"])
def test_effort_is_best_for_every_tensor_by_its_weights(name, tmp_path, out, small_slabs):
    from quantcore import dequantize, quantize

    values, activations = normal(3, 5, 256), importance(3, 256)
    path = write_model(tmp_path / "in.gguf", (EXPERTS, values), (NAME, values[0]))
    matrix = Imatrix.from_activations({EXPERTS: tuple(activations.transpose(1, 0, 2))})
    expected = quantize(values, name, imatrix=matrix.weights(EXPERTS), effort="best")
    for n_threads in (1, 3):
        quantize_model(path, out, name, pure=True, imatrix=matrix, effort="best", force=True, n_threads=n_threads)
        assert contents(out)[EXPERTS] == (name, (3, 5, 256), expected.tobytes())
        assert contents(out)[NAME][2] == quantize(values[0], name, effort="best").tobytes()
    assert not (dequantize(expected, name) == dequantize(quantize(values, name), name)).all()


def test_unknown_effort_is_refused_before_anything_is_written(tmp_path, out):
    path = write_model(tmp_path / "in.gguf", (NAME, normal(2, 256)))
    with pytest.raises(InvalidValueError, match=r"^effort: expected one of reference, best, got 'most'$"):
        quantize_model(path, out, "Q4_0", effort="most")
    assert not out.exists()


@pytest.fixture
def three(tmp_path):
    """A model of three matrices, and the importance of all of them in a file."""
    names = ("blk.0.attn_q.weight", NAME, "output.weight")
    path = write_model(tmp_path / "three.gguf", *((name, normal(2, 256)) for name in names))
    Imatrix.from_activations({name: importance(256) for name in names}, datasets=["d" * 200]).save(tmp_path / "m.gguf")
    return path


def test_file_and_selection_are_written_into_the_metadata(three, tmp_path, out):
    matrix = tmp_path / "m.gguf"
    quantize_model(three, out, "Q4_K_M", imatrix=matrix, include_weights=["attn", "ffn"])
    written = {k: v for k, v in fields(out).items() if k.startswith("quantize.")}
    assert list(written) == [f"quantize.imatrix.{k}" for k in ("file", "dataset", "entries_count", "chunks_count")]
    assert written["quantize.imatrix.file"][1][8:].decode() == str(matrix)[:127]
    assert written["quantize.imatrix.dataset"][1][8:] == b"d" * 127
    assert written["quantize.imatrix.entries_count"] == (4, (2).to_bytes(4, "little"))
    assert list(fields(out))[-4:] == list(written)


@pytest.mark.parametrize("options", [{"include_weights": ["ffn"]}, {"exclude_weights": ["attn", "output"]}])
def test_tensors_that_are_not_selected_have_no_weights(options, three, tmp_path, out):
    report = quantize_model(three, out, "Q4_1", pure=True, imatrix=tmp_path / "m.gguf", **options)
    weights = Imatrix.load(tmp_path / "m.gguf").weights(NAME)[0]
    for name, (_, _, data) in contents(out).items():
        assert data == ggml.quantize(normal(2, 256), 3, weights if name == NAME else None)
    assert report.notices == (
        "the importance matrix has no weights for 2 of the tensors: output.weight, blk.0.attn_q.weight",
    )


REFUSALS = {
    "word in no name": ({"include_weights": ["x"]}, "include_weights: 'x' is in no name"),
    "both": ({"include_weights": ["ffn"], "exclude_weights": ["ffn"]}, "only one of them"),
    "a string": ({"include_weights": "ffn"}, "include_weights: expected an iterable"),
}


@pytest.mark.parametrize(("options", "problem"), REFUSALS.values(), ids=REFUSALS)
def test_bad_selections_are_refused(options, problem, three, tmp_path, out):
    with pytest.raises((InvalidValueError, InvalidTypeError), match=problem):
        quantize_model(three, out, "Q4_K_M", imatrix=tmp_path / "m.gguf", **options)
    assert not out.exists()


def test_selection_without_a_matrix_and_other_objects_are_refused(three, out):
    with pytest.raises(InvalidValueError, match="there is no importance matrix"):
        quantize_model(three, out, "Q4_K_M", include_weights=["ffn"])
    with pytest.raises(InvalidTypeError, match="imatrix: expected an Imatrix or the path of a file, got 3"):
        quantize_model(three, out, "Q4_K_M", imatrix=3)


def test_wrong_sizes_are_refused_but_for_the_token_embeddings(tmp_path, out):
    path = write_model(tmp_path / "in.gguf", ("token_embd.weight", normal(4, 256)), (NAME, normal(4, 256)))
    matrix = Imatrix.from_activations({"token_embd.weight": importance(64), NAME: importance(256)})
    report = quantize_model(path, out, "Q4_0", imatrix=matrix)
    told = (
        "token_embd.weight: the importance matrix has 64 weights, the tensor 1 x 256 columns: quantized without weights"
    )
    assert told in report.notices
    matrix = Imatrix.from_activations({NAME: importance(64)})
    with pytest.raises(InvalidValueError, match=rf"^tensor '{NAME}': the importance matrix has 64 weights, .* 1 x 256"):
        quantize_model(path, out, "Q8_0", imatrix=matrix, force=True)  # also where weights have no effect


def test_weights_follow_layers_that_are_numbered_anew(tmp_path, out):
    names = [f"blk.{i}.attn_q.weight" for i in range(4)]
    path = write_model(tmp_path / "in.gguf", *((name, normal(2, 32, seed=i)) for i, name in enumerate(names)))
    matrix = Imatrix.from_activations({name: importance(32) * (i + 1) for i, name in enumerate(names)})
    quantize_model(path, out, "Q4_0", imatrix=matrix, prune_layers=[1])
    found = contents(out)
    assert list(found) == names[:3]
    for i, old in enumerate((0, 2, 3)):
        assert found[names[i]][2] == ggml.quantize(normal(2, 32, seed=old), 2, matrix.weights(names[old])[0])
    assert fields(out)["llama.block_count"] == (4, (3).to_bytes(4, "little"))


def test_layers_are_numbered_anew_in_the_order_of_the_names_where_it_is_not_that_of_the_numbers(tmp_path, out):
    names = [f"enc.blk.{i}.attn_q.weight" for i in (0, 1, 10, 11, 2)]  # as llama.cpp sorts them
    path = write_model(tmp_path / "in.gguf", *((name, normal(2, 32, seed=i)) for i, name in enumerate(names)))
    quantize_model(path, out, "COPY", prune_layers=[0])
    assert list(contents(out)) == [f"enc.blk.{i}.attn_q.weight" for i in range(4)]
    assert [contents(out)[f"enc.blk.{i}.attn_q.weight"][2] for i in range(4)] == [
        contents(path)[name][2] for name in names[1:]
    ]
    with pytest.raises(InvalidValueError, match=r"^prune_layers: layer 2 would be numbered 2 as another is"):
        quantize_model(path, out, "COPY", prune_layers=[10], force=True)


def test_missing_importance_is_told_by_a_dry_run(tmp_path, out):
    path = write_model(tmp_path / "in.gguf", (NAME, normal(4, 256)))
    report = quantize_model(path, out, "IQ2_XS", dry_run=True)
    (told,) = report.notices
    assert told.startswith(f"tensor '{NAME}': IQ2_XS needs an importance matrix") and not out.exists()
    matrix = Imatrix.from_activations({"other.weight": importance(256)})
    with pytest.raises(InvalidValueError, match=rf"^tensor '{NAME}': IQ2_XS needs an importance matrix"):
        quantize_model(path, out, "IQ2_XS", imatrix=matrix)


def test_negative_weights_of_an_own_matrix_are_refused(tmp_path, out):
    path = write_model(tmp_path / "in.gguf", (NAME, normal(4, 256)))
    matrix = Imatrix.from_activations({NAME: importance(256)})
    matrix.entries[NAME].sums[0, 3] = -1
    with pytest.raises(InvalidValueError, match="importance weights must be finite and not negative"):
        quantize_model(path, out, "Q4_0", imatrix=matrix)
