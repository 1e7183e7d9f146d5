"""bitsandbytes as a peer: its 4-bit functions on the CPU, with new outputs every time and torch's threads."""

import numpy as np

from bench.work import Call


def quantize(values: np.ndarray, quant_type: str, n_threads: int, *, nested: bool = False) -> Call:
    """`quantize_4bit` of float32 or bfloat16 values in blocks of 64."""
    import torch
    from bitsandbytes import functional

    torch.set_num_threads(n_threads)
    if values.dtype == np.float32:
        tensor = torch.from_numpy(values)
    else:
        tensor = torch.from_numpy(values.view(np.uint16)).view(torch.bfloat16)
    return lambda: functional.quantize_4bit(tensor, quant_type=quant_type, compress_statistics=nested)


def dequantize(values: np.ndarray, quant_type: str, n_threads: int) -> Call:
    """`dequantize_4bit` of what these values become."""
    import torch
    from bitsandbytes import functional

    torch.set_num_threads(n_threads)
    data, state = functional.quantize_4bit(torch.from_numpy(values), quant_type=quant_type)
    return lambda: functional.dequantize_4bit(data, state)
