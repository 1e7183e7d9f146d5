"""`load_qlora`: folders with weights packed in 4 bits become models with `Linear4bit`, without quantizing again."""

import json

import pytest
from safetensors.numpy import load_file, save_file

from quantcore.conversion import quantize_checkpoint
from quantcore.errors import FileFormatError, InvalidTypeError, InvalidValueError

torch = pytest.importorskip("torch")
nn = torch.nn
qt = pytest.importorskip("quantcore.torch")
Linear4bit, load_qlora, prepare_qlora = qt.Linear4bit, qt.load_qlora, qt.prepare_qlora

IDS = torch.arange(12).reshape(2, 6)


class Model(nn.Module):
    """A tied head, a layer under two names, a buffer that is not saved and one that is."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 64)
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64, bias=False)
        self.again = self.up
        self.norm = nn.BatchNorm1d(64)
        self.lm_head = nn.Linear(64, 12)
        self.lm_head.weight = self.embed.weight
        self.register_buffer("factor", torch.tensor(0.5), persistent=False)

    def forward(self, ids):
        x = self.embed(ids)
        x = x + self.down(torch.relu(self.again(x))) * self.factor
        return self.lm_head(self.norm(x.flatten(0, 1)))


def on_meta(keep_buffers=True):
    """The model with parameters that take no memory, as `accelerate.init_empty_weights` makes it."""
    model = Model().eval()
    for module in model.modules():
        for members in (module._parameters, {} if keep_buffers else module._buffers):
            for name, tensor in members.items():
                if tensor is not None:
                    value = tensor.to("meta")
                    members[name] = nn.Parameter(value) if isinstance(tensor, nn.Parameter) else value
    model.lm_head.weight = model.embed.weight
    return model


def write(folder, state):
    folder.mkdir()
    arrays = {name: value.float().numpy() if value.is_floating_point() else value.numpy() for name, value in state}
    save_file(arrays, folder / "model.safetensors")


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Model()
    model(IDS)  # statistics of the norm
    return model.eval()


@pytest.fixture
def folder(model, tmp_path):
    """The model in NF4."""
    state = [(n, t) for n, t in model.state_dict().items() if n != "lm_head.weight" and not n.startswith("again")]
    write(tmp_path / "floats", state)
    quantize_checkpoint(tmp_path / "floats", tmp_path / "nf4", "nf4", double_quant=True)
    return tmp_path / "nf4"


def shards(folder):
    """The same tensors in two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"model-0000{1 + name.startswith('up')}-of-00002.safetensors" for name in tensors}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


@pytest.mark.parametrize("build", [lambda: Model().eval(), on_meta], ids=["CPU", "meta"])
@pytest.mark.parametrize("is_split", [False, True])
def test_codes_and_floats_are_those_of_the_folder(model, folder, is_split, build):
    expected = prepare_qlora(model, scale_code="dynamic", rank=0)
    if is_split:
        shards(folder)
    target = build()
    loaded = load_qlora(target, folder, rank=4, adapters=["down"])
    assert loaded is target and torch.equal(loaded(IDS), expected(IDS))
    assert type(loaded.up) is Linear4bit and loaded.again is loaded.up
    assert loaded.up.record == expected.up.record and loaded.down.record == expected.down.record
    assert loaded.lm_head.weight is loaded.embed.weight
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {"down.lora_a", "down.lora_b"}
    assert [(entry.name, entry.reason) for entry in loaded.skipped] == [
        ("embed", "not packed in the checkpoint"), ("lm_head", "not packed in the checkpoint"),
    ]  # fmt: skip


def test_parameters_keep_the_dtype_of_the_model(folder):
    loaded = load_qlora(Model().bfloat16(), folder)
    floats = {n: value.dtype for n, value in loaded.named_parameters() if ".lora_" not in n}
    assert set(floats.values()) == {torch.bfloat16} and "up.bias" in floats
    assert loaded.norm.num_batches_tracked.dtype == torch.int64 and loaded.norm.num_batches_tracked == 1


def test_a_loaded_model_learns(folder):
    model = load_qlora(on_meta(), folder, rank=2)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(10):
        loss = nn.functional.cross_entropy(model(IDS), IDS.flip(1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def without(name):
    def change(model):
        delattr(model, name)

    return change


def other(name, module):
    def change(model):
        setattr(model, name, module())

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("down"), r"tensor 'down.weight': the model has no such layer$"),
        (other("down", lambda: nn.Conv1d(2, 2, 2)), r"tensor 'down.weight': is packed, but .* a Conv1d there: only"),
        (
            other("down", lambda: nn.Linear(64, 128, bias=False)),
            r"'down.weight': has shape \(64, 128\), the model's \(1",
        ),
        (
            other("up", lambda: nn.Linear(64, 128, bias=False)),
            r"tensor 'up.bias': the model has no such parameter or b",
        ),
        (without("norm"), r"tensor 'norm.\w+': the model has no such parameter or buffer$"),
        (other("norm", lambda: nn.BatchNorm1d(3)), r"'norm.\w+': has shape \(64,\), the model's \(3,\)$"),
        (other("more", lambda: nn.Linear(2, 2)), r"has no tensor for the parameter 'more.weight' of the model$"),
    ],
)
def test_what_does_not_fit_is_named_and_the_model_unchanged(folder, change, message):
    model = Model()
    change(model)
    before = {name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    with pytest.raises(InvalidValueError, match=message):
        load_qlora(model, folder)
    after = model.state_dict(keep_vars=True)
    assert after.keys() == before.keys()
    assert all(value is before[name][0] and torch.equal(value, before[name][1]) for name, value in after.items())


def test_a_buffer_without_values_is_named(folder):
    with pytest.raises(InvalidValueError, match=r"^model: the buffer 'factor' is on the meta device, and no tensor"):
        load_qlora(on_meta(keep_buffers=False), folder)


def test_wrong_arguments(folder, tmp_path):
    for options, error, message in (
        ({"rank": -1}, InvalidValueError, r"^rank: expected an integer from 0 to 2147483647, got -1$"),
        ({"rank": 0, "adapters": ["up"]}, InvalidValueError, r"^rank: expected an integer >= 1 for"),
        ({"adapters": ["embed"]}, InvalidValueError, r"^adapters: 'embed' is no layer that becomes 4 bits"),
    ):
        with pytest.raises(error, match=message):
            load_qlora(Model(), folder, **options)
    with pytest.raises(InvalidTypeError, match=r"^model: expected a torch.nn.Module, got int$"):
        load_qlora(3, folder)
    with pytest.raises(FileFormatError, match=r"no weight is packed in bitsandbytes' 4-bit layout$"):
        load_qlora(Model(), tmp_path / "floats")
    with pytest.raises(OSError, match="absent"):
        load_qlora(Model(), tmp_path / "absent")
