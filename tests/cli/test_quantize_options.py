"""`quantize` with the words of llama-quantize, and `imatrix`: what reaches the library, and refusals in one line."""

import json
from pathlib import Path

import numpy as np
import pytest

from quantcore.conversion import quantize_model
from quantcore.gguf import Imatrix
from tests.support.command_line import is_one_line
from tests.support.model_files import contents, fields, normal, write_model

NAMES = ("blk.0.attn_q.weight", "blk.0.ffn_up.weight", "blk.1.attn_q.weight", "output.weight")


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A model whose rows are whole blocks of every type."""
    return write_model(tmp_path / "wide-f32.gguf", *((name, normal(2, 256)) for name in NAMES))


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    activations = {name: np.random.default_rng(1).exponential(size=(9, 256)) for name in NAMES}
    Imatrix.from_activations(activations, datasets=["wiki.txt"], chunk_size=4).save(tmp_path / "m.gguf")
    return tmp_path / "m.gguf"


OPTIONS = {
    "mix": (["q4_k_m"], {"qtype": "Q4_K_M"}),
    "alias": (["Q4_K"], {"qtype": "Q4_K_M"}),
    "copy": (["copy"], {"qtype": "COPY"}),
    "imatrix": (["IQ2_XXS", "--imatrix", "MATRIX"], {"qtype": "IQ2_XXS", "imatrix": "MATRIX"}),
    "include": (
        ["--imatrix", "MATRIX", "--include-weights", "ffn", "--include-weights", "output", "Q4_0"],
        {"qtype": "Q4_0", "imatrix": "MATRIX", "include_weights": ["ffn", "output"]},
    ),
    "exclude": (
        ["Q4_0", "--imatrix=MATRIX", "--exclude-weights=ffn"],
        {"qtype": "Q4_0", "imatrix": "MATRIX", "exclude_weights": ["ffn"]},
    ),
    "effort": (["Q4_0", "--effort", "best"], {"qtype": "Q4_0", "effort": "best"}),
    "effort by importance": (
        ["--effort=best", "Q8_0", "--imatrix", "MATRIX"], {"qtype": "Q8_0", "effort": "best", "imatrix": "MATRIX"},
    ),
    "prune": (["--prune-layers", "0", "Q8_0"], {"qtype": "Q8_0", "prune_layers": [0]}),
    "override": (
        ["Q8_0", "--override-kv", "a.i=int:-3", "--override-kv=a.f=float:0.5", "--override-kv", "a.b=bool:true",
         "--override-kv", "general.name=str:x=y:z"],
        {"qtype": "Q8_0", "kv_overrides": {"a.i": -3, "a.f": 0.5, "a.b": True, "general.name": "x=y:z"}},
    ),
    "capitals in a pattern": (
        ["Q8_0", "--tensor-type", "ATTN_Q=q6_k"], {"qtype": "Q8_0", "tensor_types": [("attn_q", 14)]},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("words", "options"), OPTIONS.values(), ids=OPTIONS)
def test_words_of_llama_quantize(words, options, call, wide, matrix, out, tmp_path):
    options = {key: str(matrix) if value == "MATRIX" else value for key, value in options.items()}
    quantize_model(wide, tmp_path / "expected.gguf", **options)
    status, _, _ = call("quantize", wide, out, *(word.replace("MATRIX", str(matrix)) for word in words))
    assert status == 0 and out.read_bytes() == (tmp_path / "expected.gguf").read_bytes()


def test_output_may_be_left_out(call, wide, tmp_path, monkeypatch):
    expected = tmp_path / "expected.gguf"
    quantize_model(wide, expected, "Q4_K_M", pure=True)
    for words in (["q4_k", "--pure"], ["--pure", "Q4_K_M", "--force"]):
        status, text, _ = call("quantize", wide, *words)
        assert status == 0 and text.startswith(f"{tmp_path / 'wide-f32-Q4_K_M.gguf'}: ")
        assert (tmp_path / "wide-f32-Q4_K_M.gguf").read_bytes() == expected.read_bytes()
    monkeypatch.chdir(tmp_path)
    assert call("quantize", "wide-f32.gguf", "q8_0").out.startswith("wide-f32-Q8_0.gguf: ")
    folder = tmp_path / "folder"
    folder.mkdir()
    from safetensors.numpy import save_file

    save_file({"a.weight": normal(2, 32)}, folder / "model.safetensors")
    assert call("quantize", folder, "Q8_0", "--arch", "x").status == 0
    assert contents(tmp_path / "folder-Q8_0.gguf").keys() == {"a.weight"}


def test_types_from_a_file_keep_their_place(call, wide, out, tmp_path):
    (tmp_path / "types.txt").write_text("blk\\.1=Q5_0\n  ATTN=q6_K\tffn_up=F16\n")
    words = ["--tensor-type", r"blk\.0\.attn=Q4_0", "--tensor-type-file", tmp_path / "types.txt"]
    assert call("quantize", wide, out, "Q8_0", *words, "--tensor-type", "ffn=Q5_1").status == 0
    assert {name: found[0] for name, found in contents(out).items()} == {
        NAMES[0]: "Q4_0", NAMES[1]: "F16", NAMES[2]: "Q5_0", NAMES[3]: "Q8_0",
    }  # fmt: skip


USAGE = {
    "unknown type": (["Q9_K"], "unknown type 'Q9_K'"),
    "unknown type without output": (None, "unknown type 'Q9_K'"),
    "override without a type": (["Q8_0", "--override-kv", "a=3"], "expected KEY=TYPE:VALUE"),
    "override of an unknown type": (["Q8_0", "--override-kv", "a=u8:3"], "expected KEY=TYPE:VALUE"),
    "override of another type": (["Q8_0", "--override-kv", "a=int:x"], "'a': 'x' is no int"),
    "override with a bad bool": (["Q8_0", "--override-kv", "a=bool:1"], "'a': '1' is no bool"),
    "layers": (["Q8_0", "--prune-layers", "1,x"], "expected an integer >= 0, got 'x'"),
    "selection without a matrix": (["Q8_0", "--include-weights", "a"], "--include-weights goes with --imatrix only"),
    "both selections": (
        ["Q8_0", "--imatrix", "m", "--include-weights", "a", "--exclude-weights", "b"], "does not go with",
    ),
    "no output for codes": (["nf4"], "nf4 needs an output"),
    "codes with a matrix": (["nf4", "--imatrix", "m"], "--imatrix goes with GGUF types only"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "problem"), USAGE.values(), ids=USAGE)
def test_wrong_usage(words, problem, call, wide, out):
    needs_no_output = words in (None, ["nf4"])
    status, text, err = call("quantize", wide, *([] if needs_no_output else [out]), *(words or ["Q9_K"]))
    assert (status, text) == (2, "") and is_one_line(err) and problem in err
    assert not out.exists()


REFUSED = {
    "pattern": (["Q8_0", "--tensor-type", "atn=Q4_0"], "tensor_types: 'atn' fits no tensor of the model"),
    "layer": (["Q8_0", "--prune-layers", "0,7"], "prune_layers: the model has no layer 7; it has 2, 0 to 1"),
    "all layers": (["Q8_0", "--prune-layers", "0,1"], "prune_layers: no layer of the model remains"),
    "importance": (["IQ3_XXS"], "needs an importance matrix"),
    "matrix that is none": (["Q8_0", "--imatrix", "MODEL"], "no importance matrix"),
    "matrix that is not there": (["Q8_0", "--imatrix", "nowhere"], "nowhere"),
    "file of types that is not there": (["Q8_0", "--tensor-type-file", "nowhere"], "nowhere"),
    "file of types that is none": (["Q8_0", "--tensor-type-file", "MODEL"], "not UTF-8"),
}


@pytest.mark.parametrize(("words", "problem"), REFUSED.values(), ids=REFUSED)
def test_refusals(words, problem, call, wide, out):
    status, text, err = call("quantize", wide, out, *(word.replace("MODEL", str(wide)) for word in words))
    assert (status, text) == (1, "") and is_one_line(err) and problem in err
    assert not out.exists()


def test_no_fallback(call, tmp_path, out):
    path = write_model(tmp_path / "in.gguf", ("blk.0.ffn_up.weight", normal(2, 96)))
    told = call("quantize", path, out, "Q4_K").err
    assert "blk.0.ffn_up.weight: Q4_K needs rows of whole 256s, got 96: stored as Q5_0" in told
    out.unlink()
    status, _, err = call("quantize", path, out, "Q4_K", "--no-fallback")
    assert status == 1 and is_one_line(err) and not out.exists()
    assert "tensor 'blk.0.ffn_up.weight': Q4_K needs rows of whole 256s, got 96" in err


def test_what_is_said_of_many_tensors_is_one_line(call, tmp_path, out):
    names = [f"blk.{i}.{kind}.weight" for i in range(9) for kind in ("attn_q", "ffn_up")]
    path = write_model(tmp_path / "in.gguf", *((n, normal(2, 96 if "attn" in n else 32)) for n in names))
    lines = [line for line in call("quantize", path, out, "Q4_K", "--pure").err.splitlines() if "stored as" in line]
    need = "Q4_K needs rows of whole 256s, got"
    assert lines == [
        f"quantcore: note: {names[i]}, {names[i + 2]} and 7 more: {need} {n}: stored as Q5_0"
        for i, n in ((0, 96), (1, 32))
    ]


def test_matrix_is_never_overwritten(call, wide, matrix):
    before = matrix.read_bytes()
    status, _, err = call("quantize", wide, matrix, "Q4_0", "--imatrix", matrix, "--force")
    assert status == 1 and "is the same file as the input" in err and matrix.read_bytes() == before


def test_imatrix_show(call, matrix):
    status, text, err = call("imatrix", "show", matrix)
    assert (status, err) == (0, "") and "4 tensors, 3 chunks of 4 tokens of wiki.txt" in text
    shown = json.loads(call("imatrix", "show", matrix, "--json").out)
    assert (shown["n_tensors"], shown["datasets"], shown["chunk_count"]) == (4, ["wiki.txt"], 3)
    weights = Imatrix.load(matrix).weights(NAMES[0])
    (first,) = (tensor for tensor in shown["tensors"] if tensor["name"] == NAMES[0])
    assert (first["columns"], first["count"]) == (256, 9) and first["greatest"] == weights.max()


@pytest.mark.parametrize("legacy", [False, True])
def test_imatrix_merge(legacy, call, matrix, tmp_path):
    out = tmp_path / "merged"
    flags = ["--legacy"] if legacy else []
    assert call("imatrix", "merge", matrix, matrix, "-o", out, *flags).status == 0
    merged, one = Imatrix.load(out), Imatrix.load(matrix)
    assert merged.chunk_count == 6
    for name in NAMES:
        np.testing.assert_allclose(merged.weights(name), one.weights(name), rtol=1e-6)
        assert legacy or merged.entries[name].counts[0] == 18
    status, _, err = call("imatrix", "merge", matrix, "-o", out)
    assert status == 1 and is_one_line(err) and "exists already" in err
    status, _, err = call("imatrix", "merge", matrix, "-o", matrix, "--force")
    assert status == 1 and "is the same file as the input" in err


def test_imatrix_refuses_other_files(call, wide):
    status, text, err = call("imatrix", "show", wide)
    assert (status, text) == (1, "") and is_one_line(err) and "no importance matrix" in err
    assert call("imatrix").status == 2


def test_pruned_model_counts_its_layers(call, wide, out):
    assert call("quantize", wide, out, "COPY", "--prune-layers", "0").status == 0
    assert list(contents(out)) == ["output.weight", "blk.0.attn_q.weight"]
    assert list(fields(out))[-1] == "llama.block_count"
