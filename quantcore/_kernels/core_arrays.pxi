# core_arrays.pxi: questions about arrays, for _core.pyx, that NumPy takes microseconds for.


def are_within(object array, int lowest, int highest):
    """Whether all of an array's 32-bit integers, or the bits of its float32, lie between two integers.

    The bits of positive finite floats are the integers from 1 to 0x7F7FFFFF.
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
