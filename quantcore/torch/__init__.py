"""PyTorch modules: fake quantization with gradients, quantization-aware training, QLoRA. Needs the extra `torch`.

Nothing in quantcore imports this package. Kernels work in the memory of CPU tensors, without copies.
"""

from quantcore._base.extras import missing_extra as _missing_extra

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise _missing_extra("quantcore.torch", "torch", _error) from None

from quantcore.torch.batch_norm import fold_batch_norms
from quantcore.torch.coverage import Skipped
from quantcore.torch.fake_quantizer import FakeQuantize
from quantcore.torch.functional import fake_quantize, fake_quantize_learned
from quantcore.torch.imatrix import collect_imatrix
from quantcore.torch.linear4bit import Linear4bit
from quantcore.torch.matmul import matmul_4bit
from quantcore.torch.peft_adapters import save_peft_adapter
from quantcore.torch.qat import convert, prepare_qat
from quantcore.torch.qlora import merge_qlora, prepare_qlora
from quantcore.torch.qlora_checkpoint import load_qlora
from quantcore.torch.switches import disable_fake_quant, disable_observer, enable_fake_quant, enable_observer

__all__ = [
    "FakeQuantize",
    "Linear4bit",
    "Skipped",
    "collect_imatrix",
    "convert",
    "disable_fake_quant",
    "disable_observer",
    "enable_fake_quant",
    "enable_observer",
    "fake_quantize",
    "fake_quantize_learned",
    "fold_batch_norms",
    "load_qlora",
    "matmul_4bit",
    "merge_qlora",
    "prepare_qat",
    "prepare_qlora",
    "save_peft_adapter",
]
