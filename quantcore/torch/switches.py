"""The switches of every FakeQuantize in a model, as functions for `model.apply`."""

from torch import nn

from quantcore.torch.fake_quantizer import FakeQuantize

__all__ = ["disable_fake_quant", "disable_observer", "enable_fake_quant", "enable_observer"]


def enable_fake_quant(module: nn.Module) -> None:
    """For `model.apply`: switch fake quantization on in every FakeQuantize."""
    if isinstance(module, FakeQuantize):
        module.enable_fake_quant()


def disable_fake_quant(module: nn.Module) -> None:
    """For `model.apply`: switch fake quantization off in every FakeQuantize."""
    if isinstance(module, FakeQuantize):
        module.disable_fake_quant()


def enable_observer(module: nn.Module) -> None:
    """For `model.apply`: switch the observer of every FakeQuantize on."""
    if isinstance(module, FakeQuantize):
        module.enable_observer()


def disable_observer(module: nn.Module) -> None:
    """For `model.apply`: switch the observer of every FakeQuantize off, so that scales stay."""
    if isinstance(module, FakeQuantize):
        module.disable_observer()
