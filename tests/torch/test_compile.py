"""`torch.compile` leaves our layers as they are and compiles around them; without it, the compiler is not loaded."""

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn
qt = pytest.importorskip("quantcore.torch")


def network(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
    if kind == "Linear4bit":
        model[0] = qt.Linear4bit.from_linear(model[0], rank=2)
        return model
    weight = qt.FakeQuantize(4, learn_scale=kind == "learned")
    qt.prepare_qat(model, weight=weight, activation=qt.FakeQuantize(8, symmetric=False))
    model(torch.randn(5, 16))
    model.apply(qt.disable_observer)
    return qt.convert(model) if kind == "converted" else model


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of the compiler itself, between two of its parts
@pytest.mark.parametrize("kind", ["QAT", "learned", "converted", "Linear4bit"])
def test_compiled_models_compute_the_same(kind):
    model = network(kind)
    compiled = torch.compile(model, backend="eager")
    gradients = []
    for function in (model, compiled):
        x = torch.linspace(-1, 1, 48).reshape(3, 16).requires_grad_()
        y = function(x)
        y.square().sum().backward()
        gradients.append((y.detach(), x.grad))
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.slow
def test_the_compiler_is_loaded_only_by_those_who_compile():
    code = (
        "import sys, torch; before = 'torch._dynamo' in sys.modules; import quantcore.torch as qt;"
        "qt.FakeQuantize()(torch.ones(2)); print(before, 'torch._dynamo' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout in ("False False\n", "True True\n")
