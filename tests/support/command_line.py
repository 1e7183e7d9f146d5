"""The command line as a program, and what the tests of its commands share."""

import os
import sys
from pathlib import Path

import numpy as np

import quantcore
from tests.support.models import Tensor, write_gguf

# As a user's shell starts it: buffered output.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
ENVIRONMENT |= {"PYTHONPATH": str(Path(quantcore.__file__).parents[1]), "PYTHONIOENCODING": "utf-8"}
PROGRAM = [sys.executable, "-P", "-m", "quantcore"]
OLD = b"precious"


def is_one_line(text: str) -> bool:
    return text.startswith("quantcore: ") and text.endswith("\n") and text[:-1].isprintable()


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def write_model(path: Path) -> Path:
    """Four matrices and a vector."""
    names = ("token_embd.weight", "output.weight", "blk.0.attn_q.weight", "blk.0.ffn_up.weight")
    tensors = [Tensor(name, normal(8, 64, seed=i)) for i, name in enumerate(names)]
    write_gguf(path, [*tensors, Tensor("output_norm.weight", normal(64))])
    return path
