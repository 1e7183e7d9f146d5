"""The files beside the tensors that a model needs to run: tokenizer, generation settings, processors, its own code.

A converted folder gets a copy of each, so that it loads without the original. Weights of other kinds, images and
whatever else lies in a folder stay where they are.
"""

import os
from fnmatch import fnmatchcase
from pathlib import Path

COMPANIONS = (
    # tokenizers
    "tokenizer*.json", "*.model", "*.tiktoken", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json",
    "tekken.json", "normalizer.json", "spiece.*", "bpe.codes", "dict.txt", "chat_template*", "*.jinja",
    "tokenization_*.py",
    # generation, images, sound, video
    "generation_config*.json", "*preprocessor_config.json", "*processor_config.json", "speaker*.json",
    # adapters, sentence-transformers, diffusers, Mistral
    "adapter_config.json", "modules.json", "sentence_*_config.json", "config_sentence_transformers.json",
    "scheduler_config.json", "params.json",
    # the code of models that transformers does not have, which config.json names
    "modeling_*.py", "configuration_*.py", "processing_*.py", "image_processing_*.py",
)  # fmt: skip
"""Names of files that are copied, as patterns of a shell."""
COMPANION_FOLDERS = ("additional_chat_templates", "1_Pooling", "2_Dense", "2_Normalize", "3_Normalize")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")


def find_companions(folder: Path) -> dict[str, Path]:
    """The files to copy: the path below the folder, and where it is. Links are followed to regular files."""
    found = {}
    for inside in ("", *COMPANION_FOLDERS):
        if not (folder / inside).is_dir():
            continue
        for name in sorted(os.listdir(folder / inside)):
            path = folder / inside / name
            is_wanted = bool(inside) or any(fnmatchcase(name, pattern) for pattern in COMPANIONS)
            if is_wanted and not name.endswith(_WEIGHTS) and path.is_file():
                found[os.path.join(inside, name)] = path
    return found
