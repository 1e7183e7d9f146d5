"""How an embedding model joins its tokens' vectors: the files of sentence-transformers."""

import json
from typing import Any

from quantcore.conversion.hf.architecture import Context
from quantcore.errors import FileFormatError
from quantcore.files.disk import InputFile, label
from quantcore.models.checkpoint_config import read_json

_FLAGS = (
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_lasttoken", "lasttoken"),
)
_MODES = {"mean": "MEAN", "cls": "CLS", "lasttoken": "LAST"}
_MOST_BYTES = 1 << 20


def write_pooling(context: Context) -> None:
    """Write the kind of pooling, if modules.json names one.

    Raises
    ------
    FileFormatError
        It is another one than mean, CLS or last token.
    """
    from gguf import PoolingType

    path = context.folder / "modules.json"
    if not path.is_file():
        return
    with InputFile(path) as file:
        text = file.read_whole(_MOST_BYTES)
    try:
        modules: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise FileFormatError(f"{label(path)}: not valid JSON") from None
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise FileFormatError(f"{label(path)}: expected a list of modules")
    folder = next((m.get("path") for m in modules if str(m.get("type")).endswith("Pooling")), None)
    if folder is None:
        return
    if not isinstance(folder, str) or ".." in folder or folder.startswith("/"):
        raise FileFormatError(f"{label(path)}: path of the pooling: expected a folder beside it")
    config_path = context.folder / folder / "config.json"
    config = read_json(config_path, "pooling")
    if config is None:
        raise FileFormatError(f"{label(config_path)}: missing")
    mode = next((mode for flag, mode in _FLAGS if config.get(flag)), config.get("pooling_mode"))
    if mode not in _MODES:
        raise FileFormatError(f"{label(config_path)}: only pooling by mean, cls and lasttoken is known to llama.cpp")
    context.writer.add_pooling_type(PoolingType[_MODES[mode]])
