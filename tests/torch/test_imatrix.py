"""`collect_imatrix`: the sums are those of the definition, and stand where quantization of the model looks for them."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantcore import InvalidValueError, quantize
from quantcore.conversion import quantize_model
from quantcore.gguf import Imatrix
from tests.support.hf_models import EXPERTS, LAYERS, MODELS, RETURNING, make_model

torch = pytest.importorskip("torch")
nn = torch.nn
collect_imatrix = pytest.importorskip("quantcore.torch").collect_imatrix


def test_collect_imatrix_sums_the_squares_of_inputs(rng):
    model = nn.ModuleDict({"up": nn.Linear(6, 8), "down": nn.Linear(8, 6, bias=False), "idle": nn.Linear(2, 2)})
    model.forward = lambda x, scale=1.0: model["down"](torch.relu(model["up"](x * scale)))  # type: ignore[method-assign]
    batches = [torch.randn(3, 5, 6) for _ in range(4)]
    matrix = collect_imatrix(
        model.train(), [*batches[:2], (batches[2],), {"x": batches[3], "scale": 2.0}], datasets=["t"]
    )
    inputs = torch.cat([*batches[:3], batches[3] * 2]).reshape(-1, 6)
    hidden = torch.relu(model["up"](inputs)).detach()
    for name, seen in {"up.weight": inputs, "down.weight": hidden}.items():
        np.testing.assert_allclose(matrix.weights(name)[0], seen.square().mean(0).numpy(), rtol=1e-5)
    assert set(matrix.entries) == {"up.weight", "down.weight"}
    assert matrix.datasets == ("t",)
    assert model.training
    assert not any(m._forward_pre_hooks for m in model.modules())
    stacked = {"up.weight": ("exps", 1), "idle.weight": ("exps", 0)}
    experts = collect_imatrix(model, batches[:1], names=stacked)
    assert experts.entries["exps"].counts.tolist() == [0, 15]
    with pytest.raises(InvalidValueError, match="no linear layer was given anything"):
        collect_imatrix(model, [])
    with pytest.raises(InvalidValueError, match=r"up\.input: .*finite"):
        collect_imatrix(model, [batches[0] * np.nan])


def test_layers_that_share_an_input_have_the_same_sums_unless_it_was_changed():
    model = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in "abc"})

    def forward(x):
        model["a"](x)
        model["b"](x)
        return model["c"](x.mul_(2))

    model.forward = forward  # type: ignore[method-assign]
    matrix = collect_imatrix(model, [torch.ones(3, 4), torch.ones(2, 4)])
    assert [matrix.weights(f"{name}.weight")[0, 0] for name in "abc"] == [1, 1, 4]
    assert matrix.entries["b.weight"].counts == [5]


def test_a_weight_can_become_several_tensors_and_none():
    model = nn.ModuleDict({"both": nn.Linear(4, 4), "left": nn.Linear(4, 4)})
    model.forward = lambda x: model["left"](model["both"](x))  # type: ignore[method-assign]
    matrix = collect_imatrix(model, [torch.ones(3, 4)], names={"both.weight": ["gate", ("up", 1)]})
    assert {name: entry.counts.tolist() for name, entry in matrix.entries.items()} == {"gate": [3], "up": [0, 3]}


class StoredExperts(nn.Module):
    """Matrices in one parameter, used one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Parameter(torch.randn(3, 5, 4))
        self.conv = nn.Conv1d(4, 4, 1)

    def forward(self, x):
        self.conv(x.T)
        return nn.functional.linear(x, self.stack[2]), nn.functional.linear(x[:2], self.stack[0], None)


def test_experts_in_one_parameter_are_told_apart():
    matrix = collect_imatrix(StoredExperts(), [torch.full((3, 4), 2.0)])
    assert {name: entry.counts.tolist() for name, entry in matrix.entries.items()} == {"stack": [2, 0, 3]}
    assert matrix.weights("stack").tolist() == [[4] * 4, [1] * 4, [4] * 4]


# Names of GGUF, first with stand-ins for the classes of transformers: matrices by the names of a checkpoint.


class Conv1D(nn.Module):
    """As in GPT-2: (inputs, outputs)."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.nf = rows
        self.weight = nn.Parameter(torch.zeros(columns, rows))

    def forward(self, x):
        return x @ self.weight


class StandIn(nn.Module):
    """Gives each matrix of a checkpoint its own input."""

    base_model_prefix = "model"

    def __init__(self, values: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.config = type("Config", (), {"to_dict": lambda _: values})()
        for name, shape in shapes.items():
            *path, last = name.split(".")
            owner: nn.Module = self
            for part in path if len(shape) == 3 else path[:-1]:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner._modules[part]
            if len(shape) == 3:
                owner.register_parameter(last, nn.Parameter(torch.zeros(shape)))
            elif len(shape) == 2 and "embed" not in name and "wte" not in name and "wpe" not in name:
                owner.add_module(path[-1], (Conv1D if ".c_" in name else nn.Linear)(*shape[::-1]))

    def forward(self, seed):
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 3:
                for i, matrix in enumerate(parameter):
                    x = torch.rand(i + 1, matrix.shape[1], generator=generator)
                    nn.functional.linear(x, parameter[i])
            elif parameter.ndim == 2:
                layer = self.get_submodule(name.removesuffix(".weight"))
                columns = layer.weight.shape[0] if isinstance(layer, Conv1D) else layer.weight.shape[1]
                expert = int(name.split(".experts.")[1].split(".")[0]) if ".experts." in name else 0
                layer(torch.rand(expert + 1, columns, generator=generator))


def stand_in(name: str, **changes: Any) -> nn.Module:
    architecture, sizes, shapes, _ = MODELS[name]
    config = {"architectures": [architecture], **sizes, **changes}
    return type(architecture, (StandIn,), {})(config, {key: shape for key, shape in shapes.items() if 0 not in shape})


@pytest.mark.parametrize("name", RETURNING)
def test_weights_stand_where_the_conversion_of_the_folder_finds_them(name, tmp_path):
    pytest.importorskip("gguf")
    folder = make_model(name, tmp_path / "tiny")
    collect_imatrix(stand_in(name), [1, 2]).save(tmp_path / "m.gguf")
    report = quantize_model(folder, tmp_path / "out.gguf", "Q4_0", pure=True, imatrix=tmp_path / "m.gguf")
    matrix = Imatrix.load(tmp_path / "m.gguf")
    quantize_model(folder, tmp_path / "floats.gguf", "F32")
    floats, done = read(tmp_path / "floats.gguf"), read(tmp_path / "out.gguf")
    named = {key for key in done if key.startswith("blk.") and done[key][0] == "Q4_0"}
    assert len(named) >= 4 * LAYERS
    assert named <= set(matrix.entries)
    assert all(key.startswith("blk.") for key in matrix.entries)
    for key in named:
        values = floats[key][1].view(np.float32)
        weights = matrix.weights(key)
        assert np.ptp(weights) > 0
        if len(weights) == 1:
            expected = quantize(values.reshape(-1, weights.shape[1]), "Q4_0", imatrix=weights[0])
        else:
            expected = quantize(values.reshape(len(weights), -1, weights.shape[1]), "Q4_0", imatrix=weights)
            assert matrix.entries[key].counts.tolist() == [2 * (i + 1) for i in range(EXPERTS)]
        assert done[key][1].tobytes() == expected.tobytes()
    assert not [notice for notice in report.notices if "blk." in notice]


def read(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    gguf = pytest.importorskip("gguf")
    return {
        t.name: (t.tensor_type.name, np.ascontiguousarray(t.data).reshape(-1)) for t in gguf.GGUFReader(path).tensors
    }


def test_the_output_is_collected_if_asked_for_and_wrappers_are_seen_through():
    pytest.importorskip("gguf")
    model = stand_in("llama", vocab_size=5)
    model.lm_head = nn.Linear(64, 5)
    inner = set(collect_imatrix(model, [1]).entries)
    assert set(collect_imatrix(model, [1], process_output=True).entries) == inner | {"output.weight"}
    wrapped = nn.ModuleDict({"module": model})
    wrapped.forward = model.forward  # type: ignore[method-assign]
    assert set(collect_imatrix(wrapped, [1]).entries) == inner


def test_a_model_that_is_not_converted_has_its_own_names():
    model = stand_in("llama")
    type(model).__name__ = "OtherForCausalLM"
    model.config.to_dict()["architectures"] = None
    assert "model.layers.0.mlp.up_proj.weight" in collect_imatrix(model, [1]).entries


def test_experts_that_are_not_seen_are_named():
    pytest.importorskip("gguf")
    model = stand_in("qwen3moe of transformers 5")
    model.forward = lambda seed: [  # type: ignore[method-assign]
        layer(torch.ones(1, layer.in_features)) for layer in model.modules() if isinstance(layer, nn.Linear)
    ]
    with pytest.warns(UserWarning, match=r"experts that were not seen: model\.layers\.0\.mlp\.experts\.gate_up_proj"):
        collect_imatrix(model, [1])


# Genuine models of transformers.


@pytest.mark.slow
@pytest.mark.may_skip
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "mixtral", "qwen3moe", "bert", "gpt2", "gemma3", "phi3"])
def test_genuine_models_of_transformers(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    folder = make_model(name, tmp_path / "tiny")
    auto = transformers.AutoModel if name == "bert" else transformers.AutoModelForCausalLM
    model = auto.from_pretrained(folder, pad_token_id=0)
    batches = [{"input_ids": torch.randint(3, 20, (2, 17))} for _ in range(3)]
    seen: dict[str, dict[int, list[Any]]] = {}
    hooks = [
        module.register_forward_pre_hook(keep_routed(seen.setdefault(path, {})))
        for path, module in model.named_modules()
        if hasattr(module, "gate_up_proj") and getattr(module, "num_experts", 0)
    ]
    with warnings.catch_warnings(record=True) as told:
        matrix = collect_imatrix(model, batches)
    assert not [one for one in told if "collect_imatrix" in str(one.message)]
    for hook in hooks:
        hook.remove()
    report = quantize_model(folder, tmp_path / "out.gguf", "Q4_0", pure=True, imatrix=matrix)
    named = {key for key, (kind, _) in read(tmp_path / "out.gguf").items() if key.startswith("blk.") and kind == "Q4_0"}
    assert named <= set(matrix.entries)
    assert not [notice for notice in report.notices if "blk." in notice]
    for layer, path in enumerate(seen):
        for word in ("gate", "up"):
            entry = matrix.entries[f"blk.{layer}.ffn_{word}_exps.weight"]
            for expert, count in enumerate(entry.counts):
                rows = np.concatenate([np.zeros((0, entry.sums.shape[1])), *seen[path].get(expert, [])])
                assert count == len(rows)
                np.testing.assert_allclose(entry.sums[expert], np.square(rows).sum(0), rtol=1e-5)
        down = matrix.entries[f"blk.{layer}.ffn_down_exps.weight"]
        assert down.counts.tolist() == matrix.entries[f"blk.{layer}.ffn_up_exps.weight"].counts.tolist()
    if name in ("mixtral", "qwen3moe"):
        assert sum(down.counts) == sum(entry.counts) == 3 * 2 * 17


def keep_routed(rows: dict[int, list[Any]]) -> Any:
    def keep(_, args):
        hidden, chosen = args[:2]
        for expert in range(EXPERTS):
            rows.setdefault(expert, []).append(hidden[(chosen == expert).any(-1)].double().numpy())

    return keep
