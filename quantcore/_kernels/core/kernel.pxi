# kernel.pxi: the base of all classes of _core.pyx: it holds their arrays and distributes chunks to threads.
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

cdef extern from "stack.h":
    ctypedef void (*quantcore_work)(void*) noexcept nogil
    int quantcore_run_with_stack(quantcore_work work, void* argument) noexcept nogil

cdef enum:
    MOST_ARRAYS = 6


cdef int run_with_stack(quantcore_work work, void* argument) except -1:
    """Run what may have large frames, without the GIL: in this thread, or in one with a larger stack."""
    cdef int status
    with nogil:
        status = quantcore_run_with_stack(work, argument)
    if status:
        raise MemoryError("the stack of this thread is too small, and no thread with a larger one can be started")
    return 0


ctypedef struct Chunks:
    void* kernel
    int64_t most  # chunks that may still be taken
    void* into  # what some kernels gather into


cdef void work_on_chunks(void* chunks) noexcept nogil:
    (<Kernel> (<Chunks*> chunks).kernel).run_chunks(<Chunks*> chunks)


cdef class Kernel:
    """A kernel and the arrays it works on.

    `hand_out` sets the number of items, which any number of threads then `run` in ascending chunks. `first_bad` is the
    lowest invalid item (-1: none). Chunks above it are no longer handed out unless `goes_on`; all chunks below it have
    been, so it does not depend on the number of threads.
    """

    cdef Py_buffer arrays[MOST_ARRAYS]
    cdef int n_arrays
    cdef int64_t total, size, position, lowest_bad, is_cancelled
    cdef bint goes_on

    def __dealloc__(self):
        self.release()

    cdef void release(self):
        while self.n_arrays:
            self.n_arrays -= 1
            PyBuffer_Release(&self.arrays[self.n_arrays])

    def let_go(self):
        """Release the arrays when no thread works any more: one that is about to end may still hold this object."""
        self.cancel()
        self.release()

    cdef uint8_t* hold(self, object array, int itemsize, int flags) except? NULL:
        """Hold a C-contiguous array, of the given itemsize unless that is 0, for as long as this object lives."""
        cdef Py_buffer* view = &self.arrays[self.n_arrays]
        if self.n_arrays == MOST_ARRAYS:
            raise RuntimeError("a kernel cannot be made a second time")
        PyObject_GetBuffer(array, view, flags)
        self.n_arrays += 1
        if itemsize and view.itemsize != itemsize:
            raise TypeError(f"expected items of {itemsize} bytes, got {view.itemsize}")
        return <uint8_t*> view.buf

    cdef const uint8_t* read(self, object array, int itemsize=0) except? NULL:
        return self.hold(array, itemsize, PyBUF_SIMPLE)

    cdef uint8_t* write(self, object array, int itemsize=0) except? NULL:
        return self.hold(array, itemsize, PyBUF_WRITABLE)

    cdef int64_t n_bytes(self) noexcept:
        """The bytes of the array that was held last."""
        return self.arrays[self.n_arrays - 1].len

    cdef int64_t n_held(self) noexcept:
        """The number of items of the array that was held last."""
        return self.n_bytes() // self.arrays[self.n_arrays - 1].itemsize

    cdef void begin(self, int64_t total, int64_t size, bint goes_on) noexcept:
        self.goes_on = goes_on
        self.total = total
        self.size = size
        self.position = 0
        self.lowest_bad = INT64_MAX

    def hand_out(self, int64_t total, int64_t size, bint goes_on=False):
        """Begin to hand out items 0 to total, in chunks of `size` items."""
        self.begin(total, size, goes_on)

    def run_whole(self, int64_t total, int64_t size, bint goes_on=False):
        """`hand_out`, `run` to the end and return `first_bad`: for what is too small to share."""
        self.begin(total, size, goes_on)
        self.run(INT64_MAX)
        return self.lowest()

    def run(self, int64_t most):
        """Process chunks until none are left, or `most` are done."""
        self.run_into(most, NULL)

    cdef int run_into(self, int64_t most, void* into) except -1:
        cdef Chunks chunks
        chunks.kernel, chunks.most, chunks.into = <void*> self, most, into
        return run_with_stack(work_on_chunks, &chunks)

    cdef void run_chunks(self, Chunks* chunks) noexcept nogil:
        cdef int64_t start = self.take(&chunks.most)
        while start >= 0:
            self.report(self.work(start, min(self.size, self.total - start)))
            start = self.take(&chunks.most)

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        """Process n items; returns the lowest invalid one, or -1."""
        return -1

    def cancel(self):
        """Hand out no more chunks, ever; those under way are finished."""
        quantcore_take(&self.is_cancelled, 1)

    @property
    def first_bad(self):
        return self.lowest()

    cdef int64_t lowest(self) noexcept:
        return -1 if self.lowest_bad == INT64_MAX else self.lowest_bad

    @property
    def is_done(self):
        """Whether no more chunks will be handed out."""
        cdef int64_t position = quantcore_read(&self.position)
        if position >= self.total or quantcore_read(&self.is_cancelled):
            return True
        return position > quantcore_read(&self.lowest_bad) and not self.goes_on

    cdef int64_t take(self, int64_t* most) noexcept nogil:
        """The first item of the next chunk, or -1 if there is none or `most`, which is counted down, is used up."""
        cdef int64_t start
        if most[0] <= 0:
            return -1
        most[0] -= 1
        start = quantcore_take(&self.position, self.size)
        if start >= self.total or quantcore_read(&self.is_cancelled):
            return -1
        if start > quantcore_read(&self.lowest_bad) and not self.goes_on:
            return -1
        return start

    cdef void report(self, int64_t bad) noexcept nogil:
        if bad >= 0:
            quantcore_lower(&self.lowest_bad, bad)


cdef int64_t counted_from(int64_t first, int64_t bad) noexcept nogil:
    """The index among all items of an item of the chunk that begins at `first`; -1 stays -1."""
    return first + bad if bad >= 0 else -1
