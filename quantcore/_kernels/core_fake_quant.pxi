# core_fake_quant.pxi: fake quantization and its gradients, for _core.pyx.
from quantcore._kernels.table cimport FakeQuantJob, GroupLayout


cdef FakeQuantJob job_of(int work, tuple values, tuple grads, tuple out, const float[:, ::1] parameters):
    cdef const uint8_t[::1] values_raw = values[0]
    cdef const uint8_t[::1] grads_raw = grads[0]
    cdef uint8_t[::1] out_raw = out[0]
    cdef FakeQuantJob job
    job.work = work
    job.in_columns = False
    job.values, job.dtype = &values_raw[0], values[1]
    job.grads, job.grad_dtype = NULL, grads[1]
    if grads_raw is not None:
        job.grads = &grads_raw[0]
    job.out, job.out_dtype = &out_raw[0], out[1]
    job.scales, job.inverses = &parameters[0, 0], &parameters[1, 0]
    job.zero_points, job.lows, job.highs = &parameters[2, 0], &parameters[3, 0], &parameters[4, 0]
    job.scale_sums = job.outside_sums = NULL
    return job


def fake_quantize_groups(
    int work, tuple values, tuple grads, tuple out, const float[:, ::1] parameters, double[:, :, ::1] sums,
    tuple layout, Chunks chunks, int64_t most,
):
    """Fake quantization or a gradient of it (`work`), a scale for each group; `chunks` hand out groups.

    `values`, `grads` and `out`: raw bytes and their element type; `grads` may have none. `parameters`: rows of scales,
    inverses, zero points, lowest and highest codes less the zero points. `sums`, of LSQ alone, shape (2, 1, number of
    groups): of the scales' terms, and of the gradient out of range.
    """
    cdef GroupLayout groups = layout_of(layout)
    cdef FakeQuantJob job
    cdef int64_t start
    if chunks.total == 0:
        return
    job = job_of(work, values, grads, out, parameters)
    if sums is not None:
        job.scale_sums, job.outside_sums = &sums[0, 0, 0], &sums[1, 0, 0]
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            chunks.report(
                0, TABLE.fake_quant_groups(&job, &groups, parameters.shape[1], start, chunks.count(start))
            )
            start = chunks.take(&most)


def fake_quantize_columns(
    int work, tuple values, tuple grads, tuple out, const float[:, ::1] parameters, double[:, :, ::1] sums,
    Chunks chunks, int64_t most,
):
    """As fake_quantize_groups, a scale for each column of a row; `chunks` hand out rows.

    `sums` of LSQ have the shape (2, number of chunks, width).
    """
    cdef FakeQuantJob job
    cdef int64_t start, i, width = parameters.shape[1]
    if chunks.total == 0 or width == 0:
        return
    job = job_of(work, values, grads, out, parameters)
    job.in_columns = True
    with nogil:
        start = chunks.take(&most)
        while start >= 0:
            if sums is not None:
                i = start // chunks.size
                job.scale_sums, job.outside_sums = &sums[0, i, 0], &sums[1, i, 0]
            chunks.report(0, TABLE.fake_quant_columns(&job, width, start, chunks.count(start)))
            start = chunks.take(&most)
