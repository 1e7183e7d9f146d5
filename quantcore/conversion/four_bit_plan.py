"""The plan of a checkpoint's quantization to NF4 or FP4: a job for every tensor, and config.json with the settings."""

import re
from dataclasses import dataclass
from typing import Any

from quantcore._base import arguments, arrays
from quantcore._base.arrays import ELEMENT_TYPES
from quantcore._base.text import quote
from quantcore.blockwise.bitsandbytes import DTYPES
from quantcore.blockwise.codebooks import BITSANDBYTES_CODES, check_block_size
from quantcore.conversion.checkpoint_plan import CheckpointPlan
from quantcore.conversion.checkpoint_rules import Layout, decide
from quantcore.conversion.tensor_jobs import Job, KeptTensor, QuantizedWeight
from quantcore.conversion.transposed_weights import TransposedWeight
from quantcore.errors import FileFormatError
from quantcore.models.bitsandbytes_decoder import packed_weights, state_names
from quantcore.models.checkpoint_config import read_config
from quantcore.models.decoded_checkpoint import DecodedCheckpoint, decode_checkpoint
from quantcore.models.quantized_sources import without_quantization
from quantcore.safetensors.reader import Checkpoint, SafetensorsInfo

STORAGE = {"uint8": "U8", "float16": "F16", "bfloat16": "BF16", "float32": "F32"}
"""The dtypes that codes may be stored under, and safetensors' names of them."""


@dataclass(frozen=True, slots=True)
class FourBitCode:
    """How weights are coded, checked; the attributes are those parameters of `quantize_checkpoint`."""

    quant_type: str
    block_size: int
    double_quant: bool
    quant_storage: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "quant_type", arguments.choice(self.quant_type, "quant_type", BITSANDBYTES_CODES))
        object.__setattr__(self, "block_size", check_block_size(self.block_size, "block_size"))
        object.__setattr__(self, "double_quant", arguments.flag(self.double_quant, "double_quant"))
        object.__setattr__(self, "quant_storage", arguments.choice(self.quant_storage, "quant_storage", STORAGE))

    def job(self, tensor: SafetensorsInfo, layout: Layout) -> Job:
        """The job for a tensor."""
        if layout is Layout.KEPT:
            return KeptTensor(tensor)
        kind = TransposedWeight if layout is Layout.TRANSPOSED else QuantizedWeight
        return kind(tensor, self.quant_type, self.block_size, self.double_quant, STORAGE[self.quant_storage])


def check_compute_dtype(compute_dtype: str | None) -> str | None:
    """Refuse what bitsandbytes does not multiply in."""
    return None if compute_dtype is None else arguments.choice(compute_dtype, "compute_dtype", DTYPES)


def plan_four_bits(
    opened: Checkpoint, code: FourBitCode, patterns: tuple[re.Pattern[str], ...], compute_dtype: str | None
) -> CheckpointPlan:
    """Decide what becomes of every tensor; `patterns` are of weights that are kept.

    Raises
    ------
    ValueError
        The checkpoint is quantized already or by a method that is not decoded; a name or a storage type does not fit.
    """
    settings = read_config(opened.folder)
    checkpoint = decode_checkpoint(opened, settings)
    if packed := packed_weights(opened):
        raise FileFormatError(f"{checkpoint.path}: is quantized already (it has the state of {quote(min(packed))})")
    decisions = decide(checkpoint, settings, patterns)
    found = {tensor.name: decisions.tensors[tensor.name] for tensor in checkpoint.tensors}
    jobs = {tensor.name: code.job(tensor, found[tensor.name].layout) for tensor in checkpoint.tensors}
    _check_names(checkpoint, jobs)
    quantization = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": code.quant_type,
        "bnb_4bit_use_double_quant": code.double_quant,
        "bnb_4bit_compute_dtype": compute_dtype or _dtype_of(jobs),
        "bnb_4bit_quant_storage": code.quant_storage,
        "llm_int8_skip_modules": decisions.skip_modules,
    }
    return CheckpointPlan(
        checkpoint,
        jobs,
        merge_config(settings, quantization),
        (*checkpoint.notices, *decisions.notices),
        {name: decision.rule for name, decision in decisions.tensors.items()},
        {name: decision.layout for name, decision in found.items() if decision.layout is not Layout.KEPT},
    )


def merge_config(settings: dict[str, Any] | None, quantization: dict[str, Any] | None) -> dict[str, Any] | None:
    """config.json with the quantization entered, or without one; None if the checkpoint has no config.json."""
    if settings is None:
        return None
    merged = without_quantization(settings)
    return merged if quantization is None else merged | {"quantization_config": quantization}


def _check_names(checkpoint: DecodedCheckpoint, jobs: dict[str, Job]) -> None:
    """Refuse tensors with the name of an entry that a quantized weight gets, whatever shard they are in."""
    for name, job in jobs.items():
        if isinstance(job, QuantizedWeight):
            for entry in state_names(name):
                if entry in jobs:
                    raise FileFormatError(
                        f"{checkpoint.path}: tensor {quote(entry)}: has the name of a part of {quote(name)} once that "
                        "is quantized; --exclude (exclude=) keeps the weight as it is"
                    )


def _dtype_of(jobs: dict[str, Job]) -> str:
    """The dtype that most of the quantized weights have, in which transformers is to compute; it has no float64."""
    sizes = dict.fromkeys(DTYPES, 0)
    for job in jobs.values():
        if isinstance(job, QuantizedWeight):
            name = arrays.DTYPE_NAMES[ELEMENT_TYPES[job.source.dtype]]
            sizes[name if name in sizes else "float32"] += job.source.nbytes
    return max(sizes, key=lambda name: sizes[name])
