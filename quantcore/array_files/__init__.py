"""Arrays of floats in .npy, .npz, Parquet, zarr and safetensors files, streamed in slabs of bounded size.

Modules
-------
stored : `open_arrays` and the arrays of a file.
streamed : arrays sent on in slabs.
slabs : how an array is cut into slabs.
npy, npz : the two formats of NumPy, read strictly.
parquet : columns of Parquet files.
zarr_arrays, zarr_places : zarr arrays and groups, and where they lie.
members : the bytes of a member of an .npz archive.
"""

from quantcore.array_files.stored import FileArray, StoredArray, open_arrays

__all__ = ["FileArray", "StoredArray", "open_arrays"]
