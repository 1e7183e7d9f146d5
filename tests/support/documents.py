"""Every example of a document, run as a reader runs it: `python -m tests.support.documents DOCUMENT`.

The Python and the commands of the document run in their order, in the current folder, in a process that has done
nothing else: what it imports and sets is its own, and builds of libraries that cannot share a process do not meet. A
block whose packages are not installed is left out.

A document may presume what it speaks of (a model, batches of activations); `SCENES` makes it. Blocks marked `text` show
what is printed, or programs of others; `py` is a sketch with names of others, which a test that stands before it runs.
"""

import importlib.util
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What is no example for a user's own session: installing, downloading, testing the checkout, what changes the shell.
OTHER_COMMANDS = ("pip", "hf", "pytest", "eval")
STATUS = re.compile(r"# exits with (\d)$")
IMPORT = re.compile(r"^\s*(?:import|from) (\w+)", re.MULTILINE)
IMPLIED = {
    "torch.onnx.export": ["onnxscript"],
    "quantcore.onnx": ["onnxruntime"],
    "from_pretrained": ["accelerate", "bitsandbytes"],
    ".plot(": ["matplotlib"],
}
"""Packages that a call needs without an import of them."""

Names = dict[str, Any]


class Scene(NamedTuple):
    """Makes what a document presumes in the current folder, and returns names; the packages it needs."""

    make: Callable[[], Names]
    needs: tuple[str, ...] = ()


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


def models() -> Names:
    write_model("model-f16.gguf")
    write_imatrix("imatrix.gguf")
    write_imatrix("other.gguf")
    write_model("whole.gguf")
    run_commands("quantcore split whole.gguf model-f16 --split-max-tensors 3", "models")
    return {"activations": normal(64, 256)}


def folder() -> Names:
    write_folder("my-model")
    return {}


def image_models() -> Names:
    from tests.support.image_models import make_image_model

    for name in ("flux1-dev", "unknown"):
        make_image_model("flux", Path(f"{name}.safetensors"))
    run_commands("quantcore quantize flux1-dev.safetensors flux1-dev-BF16.gguf BF16", "image_models")
    return {}


def write_fp8_folder(source: str, target: str) -> None:
    """The same model with its projections as FP8 codes and a scale for each row."""
    import ml_dtypes

    from quantcore.files.disk import OutputFile
    from quantcore.models import open_model
    from quantcore.safetensors import SafetensorsWriter
    from quantcore.safetensors.writer import TensorSpec

    shutil.copytree(source, target)
    entries: dict[str, tuple[str, np.ndarray]] = {}
    with open_model(source) as model:
        for name, tensor in model.tensors.items():
            values = tensor.values().reshape(tensor.shape)
            if "_proj" in name:
                scales = np.abs(values).max(axis=1, keepdims=True) / np.float32(448)
                entries[name] = "F8_E4M3", (values / scales).astype(ml_dtypes.float8_e4m3fn)
                entries[f"{name}_scale"] = "F32", scales
            else:
                entries[name] = "F32", values
    specs = [TensorSpec(name, dtype, values.shape) for name, (dtype, values) in entries.items()]
    with OutputFile(Path(target, "model.safetensors"), force=True) as file:
        writer = SafetensorsWriter(file, specs, {"format": "pt"})
        for name, (_, values) in entries.items():
            writer.write(name, 0, np.ascontiguousarray(values).reshape(-1).view(np.uint8))


def how_to() -> Names:
    """The folder of a language model, the same in FP8, a diffusion model, and a network in ONNX."""
    names = folder() | image_models() | onnx()
    write_fp8_folder("my-model", "my-model-fp8")
    return names


def torch_modules() -> Names:
    import torch

    write_folder("folder")
    return {"torch": torch, "x": torch.randn(8, 64), "chunks": [torch.arange(16)[None]]}


def hugging_face() -> Names:
    write_folder("FOLDER")
    write_imatrix("imatrix.gguf", 64, ("attn_q", "attn_v"))
    return {}


def onnx() -> Names:
    import onnx
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
    import pyarrow

    vectors = normal(256, 32)
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.reshape(-1)), 32)
    table = pyarrow.table({"embedding": column, "id": pyarrow.array(range(256))})
    names = {"vectors": vectors, "queries": vectors[:16], "column": column, "table": table}
    names |= {"field": normal(36, 180) + 280, "weights": normal(64, 256)}
    return names | {"batches": table.to_batches()}


SCENES = {
    "docs/calibration.md": Scene(onnx, ("onnx",)),
    "docs/comfyui.md": Scene(image_models),
    "docs/data_pipelines.md": Scene(pipelines, ("pyarrow",)),
    "docs/how_to.md": Scene(how_to, ("gguf", "ml_dtypes", "onnx")),
    "docs/huggingface.md": Scene(hugging_face, ("gguf",)),
    "docs/models.md": Scene(models),
    "docs/torch.md": Scene(torch_modules, ("torch",)),
    "docs/tutorials/dask.md": Scene(folder),
    "docs/tutorials/llama_cpp.md": Scene(folder, ("gguf",)),
    "docs/tutorials/qat.md": Scene(folder),
    "docs/tutorials/qlora.md": Scene(folder),
}


def blocks(document: Path) -> list[tuple[int, str, str]]:
    """Line, language and text of each block."""
    text = document.read_text()
    return [(text[: found.start()].count("\n") + 2, found[1], found[2]) for found in BLOCK.finditer(text)]


def relative(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def scene(document: Path) -> Scene:
    return SCENES.get(relative(document), Scene(dict))


def run_commands(text: str, where: str) -> None:
    """Commands of quantcore, in this process, each with the exit status that its comment tells, or 0."""
    from quantcore.cli import main

    for line in text.splitlines():
        program, *words = shlex.split(line, comments=True) or ["pip"]
        if program in OTHER_COMMANDS:
            continue
        assert program == "quantcore", f"{where}: {line}"
        told = STATUS.search(line)
        status = main([word for pattern in words for word in _expanded(pattern)])
        assert status == (int(told[1]) if told else 0), f"{where}: {line}"


def _expanded(word: str) -> list[str]:
    return sorted(str(path) for path in Path().glob(word)) if "*" in word else [word]


def missing_packages(text: str) -> list[str]:
    """What a block of Python needs and is not installed."""
    implied = (package for call, packages in IMPLIED.items() if call in text for package in packages)
    return absent([*IMPORT.findall(text), *implied])


def absent(packages: Iterable[str]) -> list[str]:
    return [package for package in packages if importlib.util.find_spec(package) is None]


def left_out(document: Path) -> list[str]:
    """What of a document cannot run here, and for want of what."""
    if missing := absent(scene(document).needs):
        return [f"{relative(document)} needs {', '.join(missing)}"]
    return [
        f"{relative(document)}:{line} needs {', '.join(missing)}"
        for line, language, text in blocks(document)
        if language == "python" and (missing := missing_packages(text))
    ]


def run(document: Path) -> None:
    """Run what can run here."""
    names: Names = {"__name__": "example", **scene(document).make()}
    for line, language, text in blocks(document):
        where = f"{relative(document)}:{line}"
        if language == "python" and not missing_packages(text):
            exec(compile("\n" * (line - 1) + text, where, "exec"), names)
        elif language == "sh":
            run_commands(text, where)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
