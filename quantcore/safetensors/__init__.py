"""The safetensors container: a strict reader of files and folders of shards, and a writer.

Modules
-------
folders : `find_files`, which files of a folder are the checkpoint.
reader : `open_checkpoint`.
writer : `SafetensorsWriter`.
"""

from quantcore.safetensors.reader import Checkpoint, open_checkpoint
from quantcore.safetensors.writer import SafetensorsWriter

__all__ = ["Checkpoint", "SafetensorsWriter", "open_checkpoint"]
