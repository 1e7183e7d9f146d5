# _core.pyx: the one door between Python and the kernels: arrays become pointers here, the GIL is released here. Nothing
# is checked: quantcore/_arrays.py has done that. A kernel with its arrays is an object (core_kernel.pxi), which several
# threads run together.
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from quantcore._kernels.floats cimport size_of
from quantcore._kernels.table cimport KernelTable

cdef extern from "cpu.h":
    int quantcore_x86_64_level() noexcept nogil

cdef extern from "atomics.h":
    int64_t quantcore_take(int64_t* counter, int64_t step) noexcept nogil
    int64_t quantcore_read(int64_t* value) noexcept nogil
    void quantcore_lower(int64_t* value, int64_t candidate) noexcept nogil

cdef KernelTable* TABLE = NULL


def x86_64_level():
    """The x86-64 psABI level (1 to 4) that this CPU and its operating system support; 0 on other architectures."""
    return quantcore_x86_64_level()


def use(table):
    """Take a level's kernels (the capsule `table` of its module). Called once, at import."""
    global TABLE
    TABLE = <KernelTable*> PyCapsule_GetPointer(table, "quantcore._kernels.table")


def walk_strings(const uint8_t[::1] buffer, int64_t offset, int64_t n_strings):
    """Walk over up to n_strings strings (a 64-bit length, then that many bytes) that lie whole in the buffer.

    Returns how many there were and the offset behind the last one: (n, offset).
    """
    cdef int64_t n = 0, size = buffer.shape[0]
    cdef uint64_t length
    cdef int j
    while n < n_strings and size - offset >= 8:
        length = 0
        for j in range(8):
            length |= <uint64_t> buffer[offset + j] << (8 * j)
        if length > <uint64_t> (size - offset - 8):
            break
        offset += 8 + <int64_t> length
        n += 1
    return n, offset


include "core_kernel.pxi"
include "core_arrays.pxi"
include "core_blocks.pxi"
include "core_nibbles.pxi"
include "core_scales.pxi"
include "core_affine.pxi"
include "core_parameters.pxi"
include "core_fake_quant.pxi"
include "core_statistics.pxi"
include "core_errors.pxi"
