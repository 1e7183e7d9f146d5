"""For PyTorch: fake quantization with gradients, quantization-aware training, QLoRA. Needs the extra `torch`.

Nothing in quantcore imports this package. Tensors stay where they are: kernels use the memory of CPU tensors.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("quantcore.torch needs the package torch (pip install quantcore[torch])") from error

from quantcore.torch.fake_quantizer import FakeQuantize
from quantcore.torch.functional import fake_quantize, fake_quantize_learned
from quantcore.torch.linear4bit import Linear4bit
from quantcore.torch.matmul import matmul_4bit
from quantcore.torch.qat import convert, prepare_qat
from quantcore.torch.switches import disable_fake_quant, disable_observer, enable_fake_quant, enable_observer

__all__ = [
    "FakeQuantize",
    "Linear4bit",
    "convert",
    "disable_fake_quant",
    "disable_observer",
    "enable_fake_quant",
    "enable_observer",
    "fake_quantize",
    "fake_quantize_learned",
    "matmul_4bit",
    "prepare_qat",
]
