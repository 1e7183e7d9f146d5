"""The map of the layers, the dots of the worst tensors, and what is folded."""

import re

import numpy as np
import pytest

from quantcore.conversion import compare_models, quantize_model, split_model
from quantcore.models.layer_map import layer_map
from quantcore.report.layer_map import map_section
from tests.support.command_line import normal
from tests.support.models import Tensor, write_gguf

KINDS = ("attn_q", "attn_v", "ffn_up")


@pytest.fixture
def pair(tmp_path):
    tensors = [Tensor(f"blk.{i}.{kind}.weight", normal(4, 64, seed=i)) for i in range(14) for kind in KINDS]
    tensors += [Tensor(f"blk.{i}.attn_norm.weight", normal(64)) for i in range(14)]
    tensors += [Tensor(f"v.blk.{i}.attn_q.weight", normal(2, 64)) for i in range(3)]
    tensors += [Tensor("token_embd.weight", normal(8, 64)), Tensor("output_norm.weight", normal(64))]
    write_gguf(tmp_path / "ref.gguf", tensors)
    types = [(r"^blk\.11\.attn_v", "Q8_0"), (r"^blk\.3\.ffn_up", "F32")]
    quantize_model(tmp_path / "ref.gguf", tmp_path / "q.gguf", "Q4_0", pure=True, tensor_types=types)
    return tmp_path / "ref.gguf", tmp_path / "q.gguf"


def test_map(pair):
    result = compare_models(*pair)
    found = layer_map(result.tensors)
    assert found.layers == tuple(range(14)) and found.kinds == KINDS and len(found.cells) == 14 * 3
    html = map_section(found)
    colours = dict(re.findall(r'background: (#\w+); color: #\w+" title="([^:]+):', html))
    by_name = {name: colour for colour, name in re.findall(r'background: (#\w+); color: #\w+" title="([^:]+):', html)}
    assert by_name["blk.11.attn_v.weight"] == "#fde725" and "#440154" in colours  # the best, and the worst
    assert 'title="blk.3.ffn_up.weight: F32, exact dB">=<' in html and "blk.3.ffn_up.weight" not in by_name
    assert html.count('<th scope="row">') == 14 and html.count('<th scope="col">') == 1 + len(KINDS)


@pytest.mark.parametrize("names", [
    [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(3)],
    [f"{i}.weight" for i in (0, 7, 11)],
])  # fmt: skip
def test_names_of_other_models(names, tmp_path):
    write_gguf(tmp_path / "a.gguf", [Tensor(name, normal(2, 32)) for name in names])
    write_gguf(tmp_path / "b.gguf", [Tensor(name, normal(2, 32), "Q8_0") for name in names])
    found = layer_map(compare_models(tmp_path / "a.gguf", tmp_path / "b.gguf").tensors)
    assert len(found.cells) == 3 and len(found.kinds) == 1


def test_no_map_without_layers(tmp_path):
    write_gguf(tmp_path / "a.gguf", [Tensor("a.weight", normal(2, 32)), Tensor("blk.0.b.weight", normal(2, 32))])
    assert layer_map(compare_models(tmp_path / "a.gguf", tmp_path / "a.gguf").tensors) is None
    assert map_section(None) == ""


def test_names_are_escaped(tmp_path):
    tensors = [Tensor(f"blk.{i}.<script>\"'.weight", normal(2, 32)) for i in range(2)]
    write_gguf(tmp_path / "a.gguf", tensors)
    quantize_model(tmp_path / "a.gguf", tmp_path / "b.gguf", "Q8_0")
    html = map_section(layer_map(compare_models(tmp_path / "a.gguf", tmp_path / "b.gguf").tensors))
    assert "<script" not in html and "&lt;script&gt;" in html


@pytest.mark.slow
def test_page_and_notices(pair, call, tmp_path):
    pytest.importorskip("matplotlib")
    parts = split_model(pair[1], tmp_path / "parts", max_tensors=20).parts
    with open(parts[2].path, "ab") as file:
        file.write(bytes(9))
    with open(pair[0], "ab") as file:
        file.write(bytes(5))
    notes = [f"{pair[0]}: 5 bytes after the last tensor", f"{parts[0].path}: part 3: 9 bytes after the last tensor"]
    status, _, err = call("report", pair[0], parts[0].path, "-o", tmp_path / "r.html")
    assert status == 0 and [note in line for note, line in zip(notes, err.splitlines(), strict=True)] == [True, True]
    status, _, err = call("compare", pair[0], parts[0].path)
    assert status == 0 and [note in line for note, line in zip(notes, err.splitlines(), strict=True)] == [True, True]
    text = (tmp_path / "r.html").read_text()
    assert '<section class="map">' in text and "<details><summary>61 tensors</summary>" in text
    # The axis of the worst tensors does not start at zero.
    figure = text[text.index("Worst tensors") : text.index("Formats")]
    ticks = [float(t) for t in re.findall(r"text-anchor: middle[^>]*>(\d+\.?\d*)</text>", figure)]
    assert ticks and min(ticks) > 5 and np.ptp(ticks) < 15
