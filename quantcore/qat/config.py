"""The codes that fake quantization rounds to."""

from dataclasses import dataclass
from typing import Self

from quantcore._base import arguments
from quantcore.affine.modes import QuantMode, check_bits, check_limits, code_range

__all__ = ["FakeQuantConfig"]


@dataclass(frozen=True)
class _Codes:
    """The fields. They stand apart since the constructor `FakeQuantConfig.symmetric` has the name of one of them.

    A dataclass would take that method for the field's default. A record finds its own fields before its class's
    methods, so `config.symmetric` is the field.
    """

    bits: int
    symmetric: bool
    qmin: int
    qmax: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", check_bits(self.bits))
        object.__setattr__(self, "symmetric", arguments.flag(self.symmetric, "symmetric"))
        for name in ("qmin", "qmax"):
            object.__setattr__(self, name, arguments.integer_of_either_sign(getattr(self, name), name))
        check_limits(self.qmin, self.qmax, self.bits, self.mode, "qmin", "qmax")

    @property
    def mode(self) -> QuantMode:
        """Symmetric or not, as a QuantMode."""
        return QuantMode.SYMMETRIC if self.symmetric else QuantMode.ASYMMETRIC


class FakeQuantConfig(_Codes):
    """The codes that values are rounded to. Construct it with `symmetric`, `asymmetric` or the like.

    Attributes
    ----------
    bits : int
        2 to 8.
    symmetric : bool
        Whether the zero point is always 0. (On the class, `symmetric` is the constructor of such codes.)
    qmin, qmax : int
        The smallest and the largest code; they fit into `bits` bits, signed if symmetric.
    mode : QuantMode
        `symmetric` as a QuantMode.

    Raises
    ------
    ValueError
        `bits` is out of range or does not hold `qmin` to `qmax`.
    TypeError
        A field has another type.

    Examples
    --------
    >>> FakeQuantConfig.asymmetric(4)
    FakeQuantConfig(bits=4, symmetric=False, qmin=0, qmax=15)
    >>> FakeQuantConfig.symmetric(4).symmetric
    True
    """

    @classmethod
    def symmetric(cls, bits: int = 8) -> Self:  # type: ignore[override]
        """Codes from `-qmax` to `qmax = 2**(bits - 1) - 1`, zero point 0."""
        bits = check_bits(bits)
        return cls(bits, True, *code_range(bits, QuantMode.SYMMETRIC))

    @classmethod
    def asymmetric(cls, bits: int = 8) -> Self:
        """Codes from 0 to `2**bits - 1`, with a zero point."""
        bits = check_bits(bits)
        return cls(bits, False, *code_range(bits, QuantMode.ASYMMETRIC))

    @classmethod
    def q4_symmetric(cls) -> Self:
        """Codes from -7 to 7."""
        return cls.symmetric(4)

    @classmethod
    def q8_symmetric(cls) -> Self:
        """Codes from -127 to 127."""
        return cls.symmetric(8)

    @property
    def num_levels(self) -> int:
        """The number of codes."""
        return self.qmax - self.qmin + 1
