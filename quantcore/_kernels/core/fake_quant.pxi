# fake_quant.pxi: fake quantization and its gradients, for _core.pyx. Items as in core/affine.pxi.
from libc.math cimport isnan, sqrt

from quantcore._kernels.table cimport FakeQuantJob, GroupLayout


cdef class FakeQuantize(Kernel):
    """The common part of groups and columns.

    `values`, `grads` and `out`: an array and its element type; `grads` may be None. `parameters`: see rows_of.
    """

    cdef FakeQuantJob job

    cdef int take_arrays(
        self, int work, int64_t first, object values, int dtype, object grads, int grad_dtype, object out,
        int out_dtype, object parameters, object sums,
    ) except -1:
        self.job.work, self.job.rows = work, rows_of(self, parameters)
        self.job.values, self.job.dtype = self.read(values) + first * size_of(dtype), dtype
        self.job.grads, self.job.grad_dtype = NULL, grad_dtype
        if grads is not None:
            self.job.grads = self.read(grads) + first * size_of(grad_dtype)
        self.job.out, self.job.out_dtype = self.write(out) + first * size_of(out_dtype), out_dtype
        self.job.scale_sums = self.job.outside_sums = NULL
        if sums is not None:
            self.job.scale_sums = <double*> self.write(sums, 8)
            self.job.outside_sums = self.job.scale_sums + self.n_held() // 2
        return 0


cdef class FakeQuantizeGroups(FakeQuantize):
    """Fake quantization or a gradient of it (`work`), one scale per group.

    `sums`, only for LSQ, shape (2, number of groups): the sums of the scales' terms, and of the gradient out of range.
    """

    cdef GroupLayout layout

    def __init__(
        self, int work, object values, int dtype, object grads, int grad_dtype, object out, int out_dtype,
        object parameters, object sums, tuple layout,
    ):
        self.take_arrays(work, 0, values, dtype, grads, grad_dtype, out, out_dtype, parameters, sums)
        self.job.in_columns, self.layout = False, layout_of(layout)

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        return TABLE.fake_quant_groups(&self.job, &self.layout, first, n)


cdef class FakeQuantizeColumns(FakeQuantize):
    """As FakeQuantizeGroups, with one scale per column; `sums` have the shape (2, number of chunks, width).

    `parameters` may have more columns.
    """

    cdef int64_t width

    def __init__(
        self, int work, int64_t first, int64_t width, object values, int dtype, object grads, int grad_dtype,
        object out, int out_dtype, object parameters, object sums,
    ):
        self.take_arrays(work, first, values, dtype, grads, grad_dtype, out, out_dtype, parameters, sums)
        self.job.in_columns, self.width = True, width

    cdef int64_t work(self, int64_t first, int64_t n) noexcept nogil:
        cdef FakeQuantJob job = self.job
        if job.scale_sums != NULL:
            job.scale_sums += first // self.size * self.width
            job.outside_sums += first // self.size * self.width
        return TABLE.fake_quant_columns(&job, self.width, first, n)


def lsq_gradients(
    list parts, const float[::1] scales, int64_t count, int64_t tail_count, int64_t per_row, double quant_max,
    double factor, double[:, ::1] totals, float[:, ::1] gradients,
):
    """Gradients of scales and zero points (`gradients`, shape (2, n)) from the kernels' sums.

    `parts`: (sums, outer, inner) with sums of shape (2, outer x n x inner); they are added to `totals` of shape (2, n),
    which must be zero. The factor is `factor`, or 1 / sqrt(N * quant_max) if that is NaN; N is `count`, or
    `tail_count` for the last scale of each `per_row`.
    """
    cdef const double[:, ::1] sums
    cdef double by = factor, tail_by = factor, by_this
    cdef int64_t n = scales.shape[0], outer, inner, c, i, j, at
    for sums, outer, inner in parts:
        at = 0
        for i in range(outer):
            for c in range(n):
                for j in range(inner):
                    totals[0, c] += sums[0, at]
                    totals[1, c] += sums[1, at]
                    at += 1
    if isnan(factor):
        by, tail_by = 1 / sqrt(count * quant_max), 1 / sqrt(tail_count * quant_max)
    for c in range(n):
        by_this = tail_by if (c + 1) % per_row == 0 else by
        gradients[0, c] = <float> (totals[0, c] * by_this)
        gradients[1, c] = <float> (totals[1, c] * by_this * -<double> scales[c])
