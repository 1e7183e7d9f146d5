# arrays.pxi: for _core.pyx, checks of arrays for which NumPy takes microseconds; memory that nobody can change.
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_FULL_RO, PyBUF_ND, PyBUF_STRIDES


cdef class Sealed:
    """A C-contiguous array that nobody else holds, read-only from now on.

    An array over it can be made neither writable nor shorter, not even through its `base`, which leads here.
    """

    cdef Py_buffer memory

    def __cinit__(self, object array):
        PyObject_GetBuffer(array, &self.memory, PyBUF_FULL_RO)

    def __dealloc__(self):
        PyBuffer_Release(&self.memory)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        if flags & PyBUF_WRITABLE:
            raise BufferError("sealed memory is read-only")
        buffer.obj = self
        buffer.buf, buffer.len, buffer.itemsize = self.memory.buf, self.memory.len, self.memory.itemsize
        buffer.readonly, buffer.ndim = 1, self.memory.ndim
        buffer.suboffsets, buffer.internal = NULL, NULL
        # What a consumer does not ask for, it takes for granted.
        buffer.format = self.memory.format if flags & PyBUF_FORMAT else NULL
        buffer.shape = self.memory.shape if flags & PyBUF_ND else NULL
        buffer.strides = self.memory.strides if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL


def are_within(object array, int lowest, int highest):
    """Whether all of an array's 32-bit integers, or the bits of its float32, lie between two integers.

    The bits of the positive finite float32 are the integers from 1 to 0x7F7FFFFF.
    """
    cdef Py_buffer view
    cdef const int32_t* values
    cdef int64_t i, n
    cdef int32_t low = lowest, high = lowest
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    values, n = <const int32_t*> view.buf, view.len // 4
    for i in range(n):
        low = min(low, values[i])
        high = max(high, values[i])
    PyBuffer_Release(&view)
    return low >= lowest and high <= highest


def are_apart(object first, object second):
    """Whether two C-contiguous arrays share no byte; False if one of them is not contiguous."""
    cdef Py_buffer views[2]
    cdef bint result
    try:
        PyObject_GetBuffer(first, &views[0], PyBUF_SIMPLE)
    except (BufferError, ValueError):
        return False
    try:
        PyObject_GetBuffer(second, &views[1], PyBUF_SIMPLE)
    except (BufferError, ValueError):
        PyBuffer_Release(&views[0])
        return False
    result = (
        <uint8_t*> views[0].buf + views[0].len <= <uint8_t*> views[1].buf
        or <uint8_t*> views[1].buf + views[1].len <= <uint8_t*> views[0].buf
    )
    PyBuffer_Release(&views[0])
    PyBuffer_Release(&views[1])
    return result
