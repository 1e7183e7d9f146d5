"""Every example of README.md and docs/ runs as it stands: the Python and the commands of a document, in their order.

A document may presume what it speaks of (a model, batches of activations); `SCENES` makes it. Blocks marked `text` show
what is printed, or programs of others; `py` is a sketch with names of others, which a test that stands before it runs.
"""

import importlib.util
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quantcore
from quantcore.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What is no example for a user's own session: installing, testing the checkout, and what changes the shell.
OTHER_COMMANDS = ("pip", "pytest", "eval")
IMPORT = re.compile(r"^\s*(?:import|from) (\w+)", re.MULTILINE)
IMPLIED = {"torch.onnx.export": "onnxscript"}
"""Packages that a call needs without an import of them."""

Names = dict[str, Any]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape, dtype=np.float32)


def write_model(path: str, *, kind: str = "F16") -> None:
    """Two layers whose rows are whole super-blocks."""
    from tests.support.models import KeyValue, Tensor, write_gguf

    names = ("token_embd", "output", *(f"blk.{i}.{n}" for i in range(2) for n in ("attn_q", "attn_v", "ffn_down")))
    dtype = {"F16": np.float16, "F32": np.float32}[kind]
    tensors = [Tensor(f"{name}.weight", normal(32, 256).astype(dtype)) for name in names]
    write_gguf(Path(path), tensors, key_values=[KeyValue("general.architecture", "llama", "STRING")])


def write_imatrix(path: str, width: int = 256, matrices: tuple[str, ...] = ("attn_q", "attn_v", "ffn_down")) -> None:
    from quantcore.gguf import Imatrix

    names = [f"blk.{i}.{name}.weight" for i in range(2) for name in matrices]
    Imatrix.from_activations({name: normal(64, width) for name in names}).save(path)


def write_folder(path: str) -> None:
    """A model of the Hugging Face kind."""
    from tests.support.hf_models import make_model

    make_model("qwen3", Path(path))


def model() -> Names:
    write_model("model-f16.gguf")
    return {}


def models() -> Names:
    write_model("model-f16.gguf")
    write_imatrix("imatrix.gguf")
    write_imatrix("other.gguf")
    write_model("whole.gguf")
    main(["split", "whole.gguf", "model-f16", "--split-max-tensors", "3"])
    return {"activations": normal(64, 256)}


def folder() -> Names:
    pytest.importorskip("gguf")
    write_folder("my-model")
    return {}


def image_models() -> Names:
    from tests.support.image_models import make_image_model

    for name in ("flux1-dev", "unknown"):
        make_image_model("flux", Path(f"{name}.safetensors"))
    main(["quantize", "flux1-dev.safetensors", "flux1-dev-BF16.gguf", "BF16"])
    return {}


def torch_modules() -> Names:
    torch = pytest.importorskip("torch")
    write_folder("folder")
    return {"torch": torch, "x": torch.randn(8, 64), "chunks": [torch.arange(16)[None]]}


def hugging_face() -> Names:
    pytest.importorskip("gguf")
    write_folder("FOLDER")
    write_imatrix("imatrix.gguf", 64, ("attn_q", "attn_v"))
    return {}


def onnx() -> Names:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    value_infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", k)) for name, k in (("x", 16), ("y", 4))
    ]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node], "g", value_infos[:1], value_infos[1:], [numpy_helper.from_array(normal(16, 4), "w")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), "model.onnx")
    return {"batches": [{"x": normal(2, 16)} for _ in range(4)]}


def pipelines() -> Names:
    pyarrow = pytest.importorskip("pyarrow")
    vectors = normal(256, 32)
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), 32)
    table = pyarrow.table({"embedding": column, "id": pyarrow.array(range(256))})
    names = {"vectors": vectors, "queries": vectors[:16], "column": column, "table": table}
    names |= {"field": normal(36, 180) + 280, "weights": normal(64, 256)}
    return names | {"batches": table.to_batches()}


SCENES: dict[str, Callable[[], Names]] = {
    "docs/calibration.md": onnx,
    "docs/comfyui.md": image_models,
    "docs/data_pipelines.md": pipelines,
    "docs/how_to.md": model,
    "docs/huggingface.md": hugging_face,
    "docs/models.md": models,
    "docs/torch.md": torch_modules,
    "docs/tutorials/llama_cpp.md": folder,
    "docs/tutorials/qlora.md": folder,
}


def blocks(document: Path) -> list[tuple[int, str, str]]:
    """Line, language and text of each block."""
    text = document.read_text()
    return [(text[: found.start()].count("\n") + 2, found[1], found[2]) for found in BLOCK.finditer(text)]


def relative(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def run_commands(text: str, where: str) -> None:
    for line in text.splitlines():
        program, *words = shlex.split(line, comments=True) or ["pip"]
        if program in OTHER_COMMANDS:
            continue
        assert program == "quantcore", f"{where}: {line}"
        assert main([word for pattern in words for word in _expanded(pattern)]) == 0, f"{where}: {line}"


def _expanded(word: str) -> list[str]:
    return sorted(str(path) for path in Path().glob(word)) if "*" in word else [word]


def missing_packages(text: str) -> list[str]:
    """What a block needs and is not installed: the block is left out, and the test of its document is a skip."""
    named = [*IMPORT.findall(text), *(package for call, package in IMPLIED.items() if call in text)]
    return [package for package in named if importlib.util.find_spec(package) is None]


@pytest.fixture
def threads_as_before() -> Iterator[None]:
    """An example that sets the number of threads sets it for itself alone."""
    yield
    quantcore.set_num_threads(None)


@pytest.mark.slow
@pytest.mark.may_skip
@pytest.mark.usefixtures("threads_as_before")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of torch's exporter
@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if any(b[1] in ("python", "sh") for b in blocks(d))], ids=relative
)
def test_examples_run_as_pasted(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left_out: list[str] = []
    names: Names = {"__name__": "example", **SCENES.get(relative(document), dict)()}
    for line, language, text in blocks(document):
        where = f"{relative(document)}:{line}"
        if language == "python" and (missing := missing_packages(text)):
            left_out.append(f"{where} needs {', '.join(missing)}")
        elif language == "python":
            exec(compile("\n" * (line - 1) + text, where, "exec"), names)
        elif language == "sh":
            run_commands(text, where)
        else:
            assert language in ("text", "py"), f"{where}: a block of {language or 'no language'}"
    if left_out:
        pytest.skip("; ".join(left_out))


def test_every_document_has_languages_that_are_run():
    found = {language for document in DOCUMENTS for _, language, _ in blocks(document)}
    assert found == {"python", "py", "sh", "text"}


def test_a_sketch_names_the_test_that_runs_it():
    sketches = [
        (document, line) for document in DOCUMENTS for line, language, _ in blocks(document) if language == "py"
    ]
    for document, line in sketches:
        before = document.read_text().splitlines()[: line - 2]
        named = re.findall(r"`(tests/[\w/]+\.py)`", "\n".join(before[-4:]))
        assert named and all((ROOT / name).exists() for name in named), f"{relative(document)}:{line}"
