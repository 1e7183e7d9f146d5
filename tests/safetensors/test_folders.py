"""Folders as they lie on disks: under every usual name, with and without an index, and through links."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore.conversion import dequantize_checkpoint, quantize_checkpoint
from quantcore.errors import FileFormatError
from quantcore.safetensors.reader import open_checkpoint

A = {"a.weight": np.arange(256, dtype=np.float32).reshape(4, 64)}
B = {"b.weight": np.ones((2, 64), np.float32)}
OTHER = {"other": np.zeros(1, np.float32)}


def write(folder: Path, files: dict[str, dict[str, np.ndarray]], index: str = "", **weight_map: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensors in files.items():
        save_file(tensors, folder / name)
    if index:
        (folder / index).write_text(json.dumps({"weight_map": {f"{k}.weight": v for k, v in weight_map.items()}}))
    return folder


def names(path: Path) -> set[str]:
    with open_checkpoint(path) as checkpoint:
        for tensor in checkpoint.tensors:
            checkpoint.read_into(tensor, 0, bytearray(tensor.nbytes))
        return {tensor.name for tensor in checkpoint.tensors}


S1, S2 = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
D1, D2 = (f"diffusion_pytorch_{name}" for name in (S1, S2))
INDEX = "model.safetensors.index.json"
READ = {
    "one file": ({"model.safetensors": A | B}, {}),
    "diffusers": ({"diffusion_pytorch_model.safetensors": A | B}, {}),
    "diffusers, sharded": ({D1: A, D2: B}, {"index": f"diffusion_pytorch_{INDEX}", "a": D1, "b": D2}),
    "adapter": ({"adapter_model.safetensors": A | B}, {}),
    "shards without an index": ({S1: A, S2: B}, {}),
    "diffusers' shards without an index": ({D1: A, D2: B}, {}),
    "index with a weight_map only": ({S1: A, S2: B}, {"index": INDEX, "a": S1, "b": S2}),
    "Mistral": ({"consolidated.safetensors": A | B}, {}),
    "consolidated beside shards": (
        {S1: A, S2: B, "consolidated.safetensors": OTHER},
        {"index": INDEX, "a": S1, "b": S2},
    ),
    "consolidated beside shards without an index": ({S1: A, S2: B, "consolidated.safetensors": OTHER}, {}),
    "a variant": ({"model.fp16.safetensors": A | B}, {}),
    "a variant beside the plain one": ({"model.safetensors": A | B, "model.fp16.safetensors": OTHER}, {}),
    "a name of its own": ({"flux1-dev.safetensors": A | B}, {}),
    "a shard that holds more than the index says": ({S1: A, S2: B}, {"index": INDEX, "a": S1}),
}


@pytest.mark.parametrize(("files", "index"), READ.values(), ids=READ)
def test_folder_is_read_and_converted(files, index, tmp_path):
    folder = write(tmp_path / "in", files, **index)
    expected = {"a.weight"} if list(index) == ["index", "a"] else {"a.weight", "b.weight"}
    assert names(folder) == expected
    quantize_checkpoint(folder, tmp_path / "nf4", "nf4")
    dequantize_checkpoint(tmp_path / "nf4", tmp_path / "back")
    assert names(tmp_path / "back") == expected
    written = {name for name in os.listdir(tmp_path / "back") if name.endswith(".safetensors")}
    assert written <= set(files)
    assert any(name.endswith(".index.json") for name in os.listdir(tmp_path / "nf4")) == (
        "index" in index or S1 in files or D1 in files
    )


REFUSED = {
    "nothing": ({}, {}, "has neither model.safetensors.index.json nor model.safetensors"),
    "a shard is missing": ({S1: A}, {}, "has 1 of the 2 shards of 'model', and no index"),
    "shards of two kinds": ({S1: A, S2: B, "model-00001-of-00001.safetensors": OTHER}, {}, "00001, 00002 of 'model'"),
    "several": ({"ae.safetensors": A, "flux.safetensors": B}, {}, "several checkpoints (ae.safetensors, flux.safeten"),
    "stale index": ({S1: A, S2: B}, {"index": INDEX, "a": S1, "b": S1}, "'b.weight' is mapped to"),
    "index of what is nowhere": ({S1: A}, {"index": INDEX, "a": S1, "z": S1}, "'z.weight' is mapped to"),
    "index of a shard that is not there": ({S1: A}, {"index": INDEX, "a": S1, "b": S2}, f"shard '{S2}': missing"),
}


@pytest.mark.parametrize(("files", "index", "problem"), REFUSED.values(), ids=REFUSED)
def test_folder_is_refused_by_name(files, index, problem, tmp_path):
    folder = write(tmp_path / "in", files, **index)
    with pytest.raises(FileFormatError) as refusal:
        open_checkpoint(folder)
    assert problem in str(refusal.value) and str(folder) in str(refusal.value)


def test_a_pipeline_says_which_of_its_folders_to_name(tmp_path):
    write(tmp_path / "text_encoder", {"model.safetensors": A})
    write(tmp_path / "vae", {"diffusion_pytorch_model.safetensors": B})
    with pytest.raises(FileFormatError, match="its folders text_encoder, vae have checkpoints: name one of them"):
        open_checkpoint(tmp_path)
    assert names(tmp_path / "text_encoder") == set(A)


def test_gguf_files_are_named(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    (tmp_path / "a-Q4_0.gguf").write_bytes(b"")
    with pytest.raises(FileFormatError, match=r"nor model\.safetensors; name its file a-Q4_0\.gguf$"):
        open_checkpoint(tmp_path)
    (tmp_path / "a-Q8_0.gguf").write_bytes(b"")
    with pytest.raises(FileFormatError, match=r"; of its GGUF files \(a-Q4_0\.gguf, a-Q8_0\.gguf\), name one$"):
        open_checkpoint(tmp_path)


def test_pickles_are_named(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileFormatError, match=r"pickle files \(pytorch_model\.bin\) are never opened"):
        open_checkpoint(tmp_path)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A snapshot of the hub's cache whose blobs are links to another store themselves."""
    folder = write(tmp_path / "cache" / "models--x" / "snapshots" / "rev", {S1: A, S2: B}, INDEX, a=S1, b=S2)
    (folder / "config.json").write_text("{}")
    blobs, store = folder.parent.parent / "blobs", tmp_path / "store" / "ab"
    blobs.mkdir()
    store.mkdir(parents=True)
    for i, path in enumerate(sorted(folder.iterdir())):
        path.rename(store / str(i))
        (blobs / f"etag{i}").symlink_to(os.path.relpath(store / str(i), blobs))
        path.symlink_to(os.path.relpath(blobs / f"etag{i}", folder))
    return folder


@pytest.mark.parametrize("opened", [".", INDEX, S1])
def test_links_of_the_hub_cache_are_followed(opened, snapshot, tmp_path):
    assert names(snapshot / opened) == (set(A) if opened == S1 else set(A | B))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    quantize_checkpoint(snapshot / opened, tmp_path / "out", "nf4")
    assert {path: path.read_bytes() for path in before} == before
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


def test_a_link_to_what_is_no_file_is_refused(snapshot):
    for target, error in (("fifo", FileFormatError), ("folder", FileFormatError), ("nothing", FileFormatError)):
        (snapshot / S2).unlink()
        (snapshot / S2).symlink_to(target)
        if target == "fifo":
            os.mkfifo(snapshot / target)
        elif target == "folder":
            (snapshot / target).mkdir()
        with pytest.raises(error, match=S2):
            open_checkpoint(snapshot)
