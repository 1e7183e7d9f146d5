"""The keys that `gguf` collects for a file, as entries of quantcore's writer."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantcore.conversion.hf.architecture import Context
from quantcore.errors import FileFormatError, QuantcoreError
from quantcore.files.disk import label
from quantcore.gguf.layout import ValueType
from quantcore.gguf.values import KeyValue

_QUANTIZATION_VERSION = 2


def write_metadata(folder: Path, writer: Any) -> None:
    """Write the kind of file, the model's name, its size, and what its card tells.

    Parameters
    ----------
    folder : Path
    writer : gguf.GGUFWriter
        Knows the tensors already, so that it can count the parameters.
    """
    from gguf import GGUFType, Metadata, size_label

    total, shared, expert, n_experts = writer.get_total_parameter_count()
    metadata = Metadata.load(None, folder, None, total)
    if metadata.name is None:
        metadata.name = folder.resolve().name
    if metadata.size_label is None and total > 0:
        metadata.size_label = size_label(total, shared, expert, n_experts)
    writer.add_type(GGUFType.MODEL)
    metadata.set_gguf_meta_model(writer)


def collect(context: Context) -> tuple[KeyValue, ...]:
    """The keys that a writer has collected, in their order."""
    entries = context.writer.kv_data[0].items()
    try:
        return tuple(_entry(key, found.value, found.type.name, found.sub_type) for key, found in entries)
    except QuantcoreError as error:
        raise FileFormatError(f"{label(context.folder)}: {error}") from None


def write_quantization_version(writer: Any) -> None:
    """Write the version of ggml's formats."""
    writer.add_quantization_version(_QUANTIZATION_VERSION)


@contextmanager
def reading(folder: Path, what: str) -> Iterator[None]:
    """What other libraries raise at damaged files becomes one line; their warnings are not shown."""
    logger = logging.getLogger("gguf")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except (QuantcoreError, OSError, MemoryError):
        raise
    except Exception as error:  # Parsers of YAML and others have their own.
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
        raise FileFormatError(f"{label(folder)}: {what}: damaged or of an unknown kind ({reason})") from None
    finally:
        logger.setLevel(level)


def _entry(key: str, value: Any, kind: str, item_kind: Any) -> KeyValue:
    if kind != ValueType.ARRAY.name:
        return KeyValue.of(key, value, kind)
    from gguf import GGUFValueType

    items = list(value)
    found = item_kind or GGUFValueType.get_type(items[0])
    return KeyValue.array(key, items, found.name)
