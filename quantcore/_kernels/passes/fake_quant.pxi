# fake_quant.pxi: fake quantization and its gradients over an array's groups or rows (walks.pxd): each piece is
# converted to float32 if necessary, processed, and converted back.
from libc.stdint cimport int64_t, uint32_t

from quantcore._kernels.common.bits cimport INFINITE
from quantcore._kernels.passes.fake_quant cimport (
    backward_row,
    backward_run,
    fake_quantize_row,
    fake_quantize_run,
    lsq_row,
    lsq_run,
)
from quantcore._kernels.common.floats cimport TILE, keep, loaded, place
from quantcore._kernels.table cimport BACKWARD, FAKE_QUANTIZE, CodingRows, FakeQuantJob, GroupLayout
from quantcore._kernels.common.walks cimport walk_columns, walk_groups


cdef bint piece_fake_quantize(
    const void* job, int64_t at, int64_t n, int64_t i, int64_t slot, int64_t ahead
) noexcept nogil:
    cdef float x_tile[TILE]
    cdef float y_tile[TILE]
    cdef const FakeQuantJob* p = <const FakeQuantJob*> job
    cdef const CodingRows* rows = &p.rows
    cdef const float* x = loaded(p.values, p.dtype, at, n, x_tile)
    cdef float* y = place(p.out, p.out_dtype, at, y_tile)
    cdef uint32_t largest
    if p.in_columns:
        largest = fake_quantize_row(
            x, n, False, NULL, rows.inverses + i, rows.scales + i, rows.lows + i, rows.highs + i, y
        )
    else:
        largest = fake_quantize_run(
            x, n, False, 0, rows.inverses[i], rows.scales[i], rows.lows[i], rows.highs[i], y
        )
    keep(y, n, p.out, p.out_dtype, at)
    return largest < <uint32_t> INFINITE


cdef bint piece_backward(const void* job, int64_t at, int64_t n, int64_t i, int64_t slot, int64_t ahead) noexcept nogil:
    cdef float x_tile[TILE]
    cdef float grad_tile[TILE]
    cdef float dx_tile[TILE]
    cdef const FakeQuantJob* p = <const FakeQuantJob*> job
    cdef const CodingRows* rows = &p.rows
    cdef const float* x = loaded(p.values, p.dtype, at, n, x_tile)
    cdef const float* grad = loaded(p.grads, p.grad_dtype, at, n, grad_tile)
    cdef float* dx = place(p.out, p.out_dtype, at, dx_tile)
    cdef uint32_t largest
    if p.in_columns:
        largest = backward_row(x, grad, n, rows.inverses + i, rows.lows + i, rows.highs + i, dx)
    else:
        largest = backward_run(x, grad, n, rows.inverses[i], rows.lows[i], rows.highs[i], dx)
    keep(dx, n, p.out, p.out_dtype, at)
    return largest < <uint32_t> INFINITE


cdef bint piece_lsq(const void* job, int64_t at, int64_t n, int64_t i, int64_t slot, int64_t ahead) noexcept nogil:
    cdef float x_tile[TILE]
    cdef float grad_tile[TILE]
    cdef float dx_tile[TILE]
    cdef const FakeQuantJob* p = <const FakeQuantJob*> job
    cdef const CodingRows* rows = &p.rows
    cdef const float* x = loaded(p.values, p.dtype, at, n, x_tile)
    cdef const float* grad = loaded(p.grads, p.grad_dtype, at, n, grad_tile)
    cdef float* dx = place(p.out, p.out_dtype, at, dx_tile)
    cdef uint32_t largest
    if p.in_columns:
        largest = lsq_row(
            x, grad, n, rows.inverses + i, rows.scales + i, rows.zero_points + i, rows.lows + i, rows.highs + i, dx,
            p.scale_sums + slot, p.outside_sums + slot,
        )
    else:
        largest = lsq_run(
            x, grad, n, rows.inverses[i], rows.scales[i], rows.zero_points[i], rows.lows[i], rows.highs[i], dx,
            p.scale_sums + slot, p.outside_sums + slot,
        )
    keep(dx, n, p.out, p.out_dtype, at)
    return largest < <uint32_t> INFINITE


cdef int64_t fake_quant_groups(
    const FakeQuantJob* job, const GroupLayout* layout, int64_t first, int64_t n
) noexcept nogil:
    if job.work == FAKE_QUANTIZE:
        return walk_groups(job, layout, job.rows.n_scales, first, n, piece_fake_quantize)
    if job.work == BACKWARD:
        return walk_groups(job, layout, job.rows.n_scales, first, n, piece_backward)
    return walk_groups(job, layout, job.rows.n_scales, first, n, piece_lsq)


cdef int64_t fake_quant_columns(
    const FakeQuantJob* job, int64_t width, int64_t first_row, int64_t n_rows
) noexcept nogil:
    if job.work == FAKE_QUANTIZE:
        return walk_columns(job, width, first_row, n_rows, piece_fake_quantize)
    if job.work == BACKWARD:
        return walk_columns(job, width, first_row, n_rows, piece_backward)
    return walk_columns(job, width, first_row, n_rows, piece_lsq)
