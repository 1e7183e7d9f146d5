"""Dask: arrays to codes and back, calibration, and checkpoints whose shards are quantized by a cluster.

Needs the extra `dask`. Nothing else in the package imports it. The results are those of one process, to the last bit.

Modules
-------
arrays : `quantize`, `dequantize`.
calibration : `calibrate`.
checkpoints : `quantize_checkpoint`.
"""

from quantcore._base.extras import missing_extra as _missing_extra

try:
    import dask.array as _dask_array  # noqa: F401  (to say what is missing)
except ImportError as _error:
    raise _missing_extra("quantcore.dask", "dask", _error) from None

from quantcore.dask.arrays import dequantize, quantize
from quantcore.dask.calibration import calibrate
from quantcore.dask.checkpoints import quantize_checkpoint

__all__ = ["calibrate", "dequantize", "quantize", "quantize_checkpoint"]
