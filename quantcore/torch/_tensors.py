"""Between tensors and kernels, without copies: the memory of new tensors to write to, checked buffers of modules.

Tensors of users come in through `quantcore._arrays` as all arrays do; here is what only torch needs.
"""

import functools
import json
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from quantcore import _arrays
from quantcore.errors import InvalidTypeError, InvalidValueError
from quantcore.tables import brief

P = ParamSpec("P")
R = TypeVar("R")

ELEMENT_TYPES = {
    torch.float32: _arrays.FLOAT32,
    torch.float16: _arrays.FLOAT16,
    torch.bfloat16: _arrays.BFLOAT16,
}
"""What kernels write. They compute in float32, so float64 is widened from that."""


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """A function that `torch.compile` calls as it is, since it cannot see into kernels.

    `torch.compiler.disable` loads the compiler, which takes seconds: only where something else has loaded it.
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


def floats(tensor: Any, name: str) -> torch.Tensor:
    """A dense float tensor on the CPU, as it is.

    Raises
    ------
    InvalidTypeError
        It is no tensor, lies on another device (also "meta"), is sparse, or has no float dtype.
    """
    if not isinstance(tensor, torch.Tensor):
        raise InvalidTypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        raise InvalidTypeError(f"{name}: expected a dense CPU tensor, got {tensor.layout} on device {tensor.device}")
    if tensor.dtype not in ELEMENT_TYPES and tensor.dtype != torch.float64:
        raise InvalidTypeError(f"{name}: expected float32, float16, bfloat16 or float64, got {tensor.dtype}")
    return tensor


def readable(tensor: torch.Tensor) -> Any:
    """A checked tensor as an argument of a function of quantcore; float32, the usual case, in the quickest way."""
    return tensor.detach().numpy() if tensor.dtype == torch.float32 and not tensor.is_neg() else tensor


def writable_bytes(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """The memory of a contiguous tensor that was just made."""
    raw = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    return _arrays.bytes_of(raw.numpy())


def output(tensor: torch.Tensor) -> NDArray[Any]:
    """A contiguous tensor that was just made, as the `out=` of a function of quantcore."""
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    wanted, _ = _arrays.float_dtype("bfloat16", "dtype")
    return tensor.view(torch.int16).numpy().view(wanted)


def array(tensor: torch.Tensor, name: str) -> NDArray[Any]:
    """A read-only NumPy view of a buffer, which a record takes over without a copy."""
    if tensor.device.type != "cpu":
        raise InvalidTypeError(f"{name}: expected a CPU tensor, got one on device {tensor.device}")
    view: NDArray[Any] = tensor.detach().numpy()
    view.setflags(write=False)
    return view


def tensor_of(values: NDArray[Any]) -> torch.Tensor:
    """A tensor with a copy of an array that may be read-only."""
    return torch.from_numpy(np.array(values, order="C"))


def packed_state(version: int, fields: dict[str, Any]) -> torch.Tensor:
    """A module's extra state as a tensor of JSON, so that a state_dict holds nothing but tensors (safetensors)."""
    text = json.dumps({"version": version} | fields)
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def unpacked_state(
    state: Any, version: int, layout: dict[str, Any], name: str, others: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The fields of `packed_state`: `others`, and those of `layout` with the same values; all else is refused."""
    keys = {*layout, *others}
    try:
        fields = json.loads(bytes(state.to(torch.uint8).cpu().numpy()))
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidValueError(f"{name}: the extra state is not what get_extra_state gave ({brief(error)})") from None
    if not isinstance(fields, dict) or fields.pop("version", None) != version:
        raise InvalidValueError(f"{name}: the extra state has an unknown version; known: {version}")
    if set(fields) != keys:
        raise InvalidValueError(f"{name}: the extra state has fields {brief(sorted(fields))}, expected {sorted(keys)}")
    for key, value in layout.items():
        if fields[key] != value:
            raise InvalidValueError(f"{key}: the {name} has {value!r}, the state_dict {brief(fields[key])}")
    return fields


class ChecksState:
    """A mixin for modules: an extra state that is refused is refused before torch copies any tensor of the module."""

    def _checked_state(self, state: Any) -> Any:
        """What `set_extra_state` takes over; raises if that is nothing for this module."""
        raise NotImplementedError

    def set_extra_state(self, state: Any) -> None:
        """Refuse the state of a module with other parameters."""
        self._checked_state(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        key = prefix + "_extra_state"
        if key in state_dict:
            self._checked_state(state_dict[key])
        super()._load_from_state_dict(state_dict, prefix, *others)  # type: ignore[misc]


class KeepsDtypes:
    """A mixin for modules: `.half()` and `.to(dtype)` leave the buffers and parameters named here as they are.

    Scales in float16 would be other scales: codes that were made for the exact ones would decode to something else.
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
