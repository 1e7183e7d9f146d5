# _core.pyx: the only interface between Python and the kernels: it turns arrays into pointers and releases the GIL. It
# checks nothing, since quantcore/_base/arrays.py has done that. A kernel with its arrays is an object (core/kernel.pxi)
# that several threads run together.
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t

from quantcore._kernels.common.floats cimport size_of
from quantcore._kernels.table cimport Grids, KernelTable, ScaledCodes

cdef extern from "cpu.h":
    int quantcore_x86_64_level() noexcept nogil

cdef extern from "atomics.h":
    int64_t quantcore_take(int64_t* counter, int64_t step) noexcept nogil
    int64_t quantcore_read(int64_t* value) noexcept nogil
    void quantcore_lower(int64_t* value, int64_t candidate) noexcept nogil
    const void* quantcore_look(const void** place) noexcept nogil
    const void* quantcore_publish(const void** place, const void* made) noexcept nogil

cdef KernelTable* TABLE = NULL
cdef Grids GRIDS


def x86_64_level():
    """The x86-64 psABI level (1 to 4) that this CPU and its operating system support; 0 on other architectures."""
    return quantcore_x86_64_level()


def use(table):
    """Use a level's kernels (the capsule `table` of its module). Called once, at import."""
    global TABLE
    TABLE = <KernelTable*> PyCapsule_GetPointer(table, "quantcore._kernels.table")
    TABLE.grids = &GRIDS


def walk_strings(const uint8_t[::1] buffer, int64_t offset, int64_t n_strings):
    """Skip up to n_strings strings (a 64-bit length, then that many bytes) that lie completely in the buffer.

    Returns their number and the offset after the last one: (n, offset).
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


include "core/kernel.pxi"
include "core/arrays.pxi"
include "core/grids.pxi"
include "core/blocks.pxi"
include "core/nibbles.pxi"
include "core/scales.pxi"
include "core/scaled_codes.pxi"
include "core/affine.pxi"
include "core/floor_codes.pxi"
include "core/parameters.pxi"
include "core/fake_quant.pxi"
include "core/statistics.pxi"
include "core/errors.pxi"
