"""Tensors of a checkpoint with the name of an entry that a quantized weight gets: no output that we would refuse."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantcore import dequantize_checkpoint, quantize_checkpoint
from quantcore.cli import main
from quantcore.errors import FileFormatError
from quantcore.models import open_model
from quantcore.safetensors.reader import INDEX_NAME

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
STATE = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")


def write_shards(folder, *shards):
    folder.mkdir()
    for name, tensors in zip(SHARDS, shards, strict=True):
        save_file(tensors, folder / name)
    weight_map = {tensor: name for name, tensors in zip(SHARDS, shards, strict=True) for tensor in tensors}
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def matrix():
    return np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)


@pytest.mark.parametrize("part", STATE)
@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("is_same_shard", [False, True])
def test_tensor_named_like_a_state_is_refused(part, double_quant, is_same_shard, tmp_path):
    other = {f"a.weight.{part}": np.ones(3, np.float32)}
    first, second = {"a.weight": matrix()}, {"b.weight": matrix()}
    source = write_shards(tmp_path / "in", *((first | other, second) if is_same_shard else (first, second | other)))
    for target in ("out", "out.safetensors"):
        with pytest.raises(FileFormatError, match=rf"'a\.weight\.{part}': has the name of a part of 'a\.weight'"):
            quantize_checkpoint(source, tmp_path / target, "nf4", double_quant=double_quant)
        assert main(["quantize", str(source), str(tmp_path / target), "nf4"]) == 1
        assert not (tmp_path / target).exists()


@pytest.mark.parametrize("double_quant", [False, True])
def test_excluded_weight_may_have_such_a_neighbour(double_quant, tmp_path):
    """The way out that the message names, and the valid neighbour: such a name beside another weight."""
    other = {"a.weight.absmax": np.ones(3, np.float32), "c.weight.absmax": np.ones(3, np.float32)}
    source = write_shards(tmp_path / "in", {"a.weight": matrix()}, {"b.weight": matrix()} | other)
    for target in ("out", "out.safetensors"):
        quantize_checkpoint(source, tmp_path / target, "nf4", double_quant=double_quant, exclude=["^a"])
        with open_model(tmp_path / target) as model:
            assert {name: t.type for name, t in model.tensors.items()} == {
                "a.weight": "F32", "b.weight": "NF4", "a.weight.absmax": "F32", "c.weight.absmax": "F32",
            }  # fmt: skip
        dequantize_checkpoint(tmp_path / target, tmp_path / f"back-{target}")
        with open_model(tmp_path / f"back-{target}") as model:
            assert set(model.tensors) == {"a.weight", "b.weight", *other}
