"""Models that torch.export and torch.jit.trace recorded compute what the model computes."""

import warnings
from typing import Any

import pytest

from quantcore import InvalidStateError, QuantGranularity
from tests.support.marks import slow_but_first

torch = pytest.importorskip("torch")
nn = torch.nn
functional = pytest.importorskip("quantcore.torch")
FakeQuantize = functional.FakeQuantize
convert = functional.convert
disable_observer = functional.disable_observer
prepare_qat = functional.prepare_qat

KINDS = {
    "per channel, 8 bits": {"granularity": QuantGranularity.per_channel()},
    "per tensor, 8 bits": {"narrow_range": False},
    "per channel, 4 bits": {"bits": 4, "granularity": QuantGranularity.per_channel()},
    "per tensor, 4 bits, asymmetric": {"bits": 4, "symmetric": False},
    "last axis, 3 bits": {"bits": 3, "granularity": QuantGranularity.per_channel(1)},
    "learned, 8 bits": {"learn_scale": True, "symmetric": False},
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.fc = nn.Linear(5 * 36, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.norm(self.conv(x))).flatten(1))


def trained(kind: dict[str, Any], bits: int = 8, symmetric: bool = False) -> nn.Module:
    torch.manual_seed(0)
    weight = FakeQuantize(**{"observer": "min_max"} | kind)
    model = prepare_qat(Net(), weight=weight, activation=FakeQuantize(bits, symmetric, observer="min_max"))
    for _ in range(2):
        model(torch.randn(4, 3, 6, 6))
    return model.eval().apply(disable_observer)


@pytest.mark.parametrize("is_converted", [True, False])
@pytest.mark.parametrize("kind", slow_but_first(KINDS))
def test_traces_and_exported_programs_compute_the_same(kind, is_converted):
    model = trained(KINDS[kind])
    if is_converted:
        convert(model)
    x, other = torch.randn(4, 3, 6, 6), torch.randn(4, 3, 6, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trace = torch.jit.trace(model, (x,))
        program = torch.export.export(model, (x,)).module()
    for found in (trace(other), program(other)):
        assert torch.allclose(found, model(other), atol=1e-5)


@pytest.mark.parametrize("granularity", [QuantGranularity.per_group(16), QuantGranularity()])
def test_embeddings_and_groups(granularity):
    weight = FakeQuantize(4, granularity=granularity, observer="current")
    model = convert(prepare_qat(nn.Sequential(nn.Embedding(9, 40), nn.Linear(40, 3)), weight=weight))
    ids = torch.tensor([[3, 8, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.allclose(torch.jit.trace(model, (ids,))(ids + 0), model(ids), atol=1e-5)


def test_what_would_be_wrong_is_refused():
    model = prepare_qat(nn.Sequential(nn.Linear(3, 2)), activation=FakeQuantize(observer="min_max"))
    x = torch.randn(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InvalidStateError, match="has no scale yet"):
            torch.jit.trace(model, (x,))
        model(x)
        with pytest.raises(InvalidStateError, match=r"0\.input: still observes.*disable_observer"):
            torch.jit.trace(model, (x,))
        for made in (model, convert(model)):
            with pytest.raises(InvalidStateError, match=r"torch\.jit\.script: .* cannot be scripted"):
                torch.jit.script(made)
