"""A small checkpoint of several shards, and what a folder holds."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_shards(folder: Path, n_shards: int = 4, rows: int = 64) -> Path:
    """A linear layer of 256 inputs in each shard, with an index, config.json and a tokenizer."""
    folder.mkdir()
    weight_map = {}
    for i in range(n_shards):
        name = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
        weight = np.random.default_rng(i).standard_normal((rows, 256)).astype(np.float32)
        members = {f"layers.{i}.weight": weight, f"layers.{i}.bias": np.ones(rows, np.float32)}
        save_file(members, folder / name)
        weight_map |= dict.fromkeys(members, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    return folder


def contents_of(folder: Path) -> dict[str, bytes]:
    """All files in a folder and below it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
