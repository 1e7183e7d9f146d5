"""Which codes fake quantization aims at."""

from dataclasses import dataclass
from typing import Self

from quantcore._arrays import flag
from quantcore.granularity import QuantMode, check_bits, check_limits, code_range, integer_of_either_sign

__all__ = ["FakeQuantConfig"]


@dataclass(frozen=True, slots=True)
class FakeQuantConfig:
    """Which codes values are rounded to. Made by `symmetric`, `asymmetric`, `q4_symmetric` and `q8_symmetric`.

    Attributes
    ----------
    bits : int
        2 to 8.
    is_symmetric : bool
        Whether the zero point is 0. (The name `symmetric` is that of the constructor.)
    qmin, qmax : int
        The smallest and the largest code; `bits` hold them, with a sign if symmetric.

    Raises
    ------
    ValueError
        `bits` is out of range or does not hold `qmin` to `qmax`.
    TypeError
        A field has another type.

    Examples
    --------
    >>> FakeQuantConfig.asymmetric(4)
    FakeQuantConfig(bits=4, is_symmetric=False, qmin=0, qmax=15)
    """

    bits: int
    is_symmetric: bool
    qmin: int
    qmax: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", check_bits(self.bits))
        object.__setattr__(self, "is_symmetric", flag(self.is_symmetric, "is_symmetric"))
        for name in ("qmin", "qmax"):
            object.__setattr__(self, name, integer_of_either_sign(getattr(self, name), name))
        check_limits(self.qmin, self.qmax, self.bits, self.mode, "qmin", "qmax")

    @classmethod
    def symmetric(cls, bits: int = 8) -> Self:
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
    def mode(self) -> QuantMode:
        """The same as a QuantMode."""
        return QuantMode.SYMMETRIC if self.is_symmetric else QuantMode.ASYMMETRIC

    @property
    def num_levels(self) -> int:
        """How many codes there are."""
        return self.qmax - self.qmin + 1
