# table.pxd: what one CPU level offers: a function pointer per kernel. Kernels are pure: pointers and counts in,
# no Python, no allocation, no check; they return the first block they could not take, or -1.
from libc.stdint cimport int64_t, uint8_t

# values: n_blocks * block_size elements of a Dtype (floats.pxd); out: n_blocks * bytes_per_block bytes.
ctypedef int64_t (*QuantizeBlocks)(const uint8_t* values, int dtype, int64_t n_blocks, uint8_t* out) noexcept nogil
ctypedef int64_t (*DequantizeBlocks)(const uint8_t* data, int64_t n_blocks, uint8_t* values, int dtype) noexcept nogil

ctypedef struct BlockKernels:
    int id  # ggml's type id
    int block_size
    int bytes_per_block
    QuantizeBlocks quantize
    DequantizeBlocks dequantize

cdef enum:
    N_FORMATS = 5

ctypedef struct KernelTable:
    BlockKernels formats[N_FORMATS]
