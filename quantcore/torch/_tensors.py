"""Tensors as arguments of kernels without copies, and the checked buffers and states of modules.

Tensors of users pass through `quantcore._base.arrays` as all arrays do; this module has what only torch needs.
"""

import functools
import json
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from quantcore._base import arrays
from quantcore._base.text import brief
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.files.strict_json import parse_text

_SHORTEST_STATE = 1024
P = ParamSpec("P")
R = TypeVar("R")

ELEMENT_TYPES = {
    torch.float32: arrays.FLOAT32,
    torch.float16: arrays.FLOAT16,
    torch.bfloat16: arrays.BFLOAT16,
}
"""The dtypes that kernels can write. They compute in float32; float64 results are widened from it."""


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """Make `torch.compile` call a function as it is, since it cannot trace kernels.

    `torch.compiler.disable` loads the compiler, which takes seconds, so it is used only if the compiler is loaded.
    """
    opaque: list[Callable[P, R]] = []

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if not opaque:
            opaque.append(torch.compiler.disable(function))
        return opaque[0](*args, **kwargs)

    return called


def take_floats(tensor: Any, name: str) -> torch.Tensor:
    """Check that it is a dense float tensor on the CPU, and return it.

    Raises
    ------
    InvalidTypeError
        It is not a tensor, is on another device (including "meta"), is sparse, or has no float dtype.
    """
    if not isinstance(tensor, torch.Tensor):
        raise InvalidTypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        raise InvalidTypeError(f"{name}: expected a dense CPU tensor, got {tensor.layout} on device {tensor.device}")
    if tensor.dtype not in ELEMENT_TYPES and tensor.dtype != torch.float64:
        raise InvalidTypeError(f"{name}: expected float32, float16, bfloat16 or float64, got {tensor.dtype}")
    return tensor


def readable(tensor: torch.Tensor) -> Any:
    """A checked tensor as an argument of a quantcore function; float32, the usual case, takes a short cut."""
    return tensor.detach().numpy() if tensor.dtype == torch.float32 and not tensor.is_neg() else tensor


def writable_bytes(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """The memory of a new contiguous tensor as an array."""
    raw = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    return arrays.bytes_of(raw.numpy())


def output(tensor: torch.Tensor) -> NDArray[Any]:
    """A new contiguous tensor as the `out=` of a quantcore function."""
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    wanted, _ = arrays.float_dtype("bfloat16", "dtype")
    return tensor.view(torch.int16).numpy().view(wanted)


def array(tensor: torch.Tensor, name: str) -> NDArray[Any]:
    """A read-only NumPy view of a buffer."""
    if tensor.device.type != "cpu":
        raise InvalidTypeError(f"{name}: expected a CPU tensor, got one on device {tensor.device}")
    view: NDArray[Any] = tensor.detach().numpy()
    view.setflags(write=False)
    return view


def tensor_of(values: NDArray[Any]) -> torch.Tensor:
    """A tensor with a copy of an array that may be read-only."""
    return torch.from_numpy(np.array(values, order="C"))


def pack_state(version: int, fields: dict[str, Any]) -> torch.Tensor:
    """A module's extra state as a tensor of JSON, so that a state_dict holds only tensors, as safetensors needs."""
    text = json.dumps({"version": version} | fields)
    # Blanks up to a power of two: the states of a model and of its average have the same length.
    length = max(_SHORTEST_STATE, 1 << (len(text) - 1).bit_length())
    return torch.frombuffer(bytearray(text.ljust(length).encode()), dtype=torch.uint8)


def unpack_state(
    state: Any, version: int, layout: dict[str, Any], name: str, others: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The fields of `packed_state`: those named in `others`, and `layout` unchanged; anything else is refused."""
    keys = {*layout, *others}
    try:
        fields = parse_text(bytes(state.to(torch.uint8).cpu().numpy()))
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidValueError(f"{name}: the extra state is not what get_extra_state gave ({brief(error)})") from None
    if fields.pop("version", None) != version:
        raise InvalidValueError(f"{name}: the extra state has an unknown version; known: {version}")
    if set(fields) != keys:
        raise InvalidValueError(f"{name}: the extra state has fields {brief(sorted(fields))}, expected {sorted(keys)}")
    for key, value in layout.items():
        if fields[key] != value:
            raise InvalidValueError(f"{key}: the {name} has {value!r}, the state_dict {brief(fields[key])}")
    return fields


class ChecksState:
    """A mixin for modules: a bad extra state is refused before torch copies any tensor of the module."""

    def _checked_state(self, state: Any) -> Any:
        """Check the extra state and return what `set_extra_state` restores."""
        raise NotImplementedError

    def set_extra_state(self, state: Any) -> None:
        """Refuse the state of a module with different parameters."""
        self._checked_state(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        key = prefix + "_extra_state"
        if key in state_dict:
            self._checked_state(state_dict[key])
        super()._load_from_state_dict(state_dict, prefix, *others)  # type: ignore[misc]


class KeepsDtypes:
    """A mixin for modules: `.half()` and `.to(dtype)` do not convert the buffers and parameters named here.

    Scales rounded to float16 would no longer match their codes, which would decode to different values.
    """

    _exact: tuple[str, ...] = ()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        exact = {name: getattr(self, name).detach() for name in self._exact if getattr(self, name, None) is not None}
        super()._apply(fn, recurse)  # type: ignore[misc]
        for name, before in exact.items():
            now = getattr(self, name)
            if now.dtype != before.dtype:
                now.data = before.to(now.device)
        return self
