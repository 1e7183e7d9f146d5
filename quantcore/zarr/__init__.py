"""Zarr arrays of floats stored as codes: codecs for zarr v3, filters for v2. Needs the extra `zarr`.

Importing it registers the codecs; where the package is installed, zarr finds them by itself (entry points).

Modules
-------
codecs : `AffineCodec` and `BlockCodec`, which turn a chunk of a v3 array into bytes.
filters : `AffineFilter` and `BlockFilter`, the same for v2 arrays, as codecs of numcodecs.
affine_chunks, block_chunks : the bytes of a chunk, and how they are configured.
metadata : checks of what the metadata of an array say.
standard : the same parameters in zarr's own codecs `scale_offset` and `cast_value`.
"""

from quantcore._base.extras import missing_extra as _missing_extra

try:
    import numcodecs
    import zarr
except ImportError as _error:
    raise _missing_extra("quantcore.zarr", "zarr", _error) from None

from quantcore.zarr.codecs import AffineCodec, BlockCodec
from quantcore.zarr.filters import AffineFilter, BlockFilter
from quantcore.zarr.standard import standard_codecs

__all__ = ["AffineCodec", "AffineFilter", "BlockCodec", "BlockFilter", "standard_codecs"]

for _codec in (AffineCodec, BlockCodec):
    zarr.registry.register_codec(_codec.name, _codec)
for _filter in (AffineFilter, BlockFilter):
    numcodecs.register_codec(_filter)
