"""For PyTorch: fake quantization with gradients, quantization-aware training, QLoRA. Needs the extra `torch`.

Nothing in quantcore imports this package. Tensors stay where they are: kernels use the memory of CPU tensors.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("quantcore.torch needs the package torch (pip install quantcore[torch])") from error

from quantcore.torch.linear4bit import Linear4bit
from quantcore.torch.matmul import matmul_4bit

__all__ = ["Linear4bit", "matmul_4bit"]
