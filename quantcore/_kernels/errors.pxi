# errors.pxi: the error sums of an array and its reconstruction, and of an array and what its affine codes give, which
# exists one tile at a time: run by run if runs share a scale, row by row if each column has its own. Each chunk of
# ERROR_CHUNK elements has a row of sums.
from quantcore._kernels.errors cimport N_SUMS, ErrorLanes, add_pairs, clear_lanes, fold_lanes
from quantcore._kernels.fake_quant cimport fake_quantize_row, fake_quantize_run
from quantcore._kernels.floats cimport FLOAT32, FLOAT64, TILE, first_from, load_tile, size_of, widen_tile
from quantcore._kernels.scales cimport PART, prefetch_run
from quantcore._kernels.table cimport ERROR_CHUNK, AffineCoding, GroupLayout


cdef void add_part(
    const uint8_t* x, int x_dtype, const uint8_t* y, int y_dtype, int64_t n, double threshold, ErrorLanes* lanes
) noexcept nogil:
    """At most PART pairs: as float32, or as float64 if either of them is."""
    cdef float staged_x[PART]
    cdef float staged_y[PART]
    cdef double wide_x[PART]
    cdef double wide_y[PART]
    if x_dtype == FLOAT64 or y_dtype == FLOAT64:
        if x_dtype != FLOAT64:
            widen_tile(x, x_dtype, n, staged_x, wide_x)
            x = <const uint8_t*> wide_x
        if y_dtype != FLOAT64:
            widen_tile(y, y_dtype, n, staged_y, wide_y)
            y = <const uint8_t*> wide_y
        add_pairs[double](<const double*> x, <const double*> y, n, threshold, lanes)
        return
    if x_dtype != FLOAT32:
        load_tile(x, x_dtype, n, staged_x)
        x = <const uint8_t*> staged_x
    if y_dtype != FLOAT32:
        load_tile(y, y_dtype, n, staged_y)
        y = <const uint8_t*> staged_y
    add_pairs[float](<const float*> x, <const float*> y, n, threshold, lanes)


cdef void pairs_errors(
    const uint8_t* x, int x_dtype, const uint8_t* y, int y_dtype, int64_t n, double threshold, double* sums
) noexcept nogil:
    cdef ErrorLanes lanes
    cdef int64_t start = 0, stop, count, x_size = size_of(x_dtype), y_size = size_of(y_dtype)
    while start < n:
        stop = min(start + <int64_t> ERROR_CHUNK, n)
        clear_lanes(&lanes)
        while start < stop:
            count = min(<int64_t> PART, stop - start)
            add_part(x + start * x_size, x_dtype, y + start * y_size, y_dtype, count, threshold, &lanes)
            start += count
        fold_lanes(&lanes, sums)
        sums += N_SUMS


cdef inline void round_trip_columns(
    const float* x, int64_t at, int64_t n, const AffineCoding* coding, float* y
) noexcept nogil:
    cdef int64_t done = 0, part, column = at % coding.width
    while done < n:
        part = min(n - done, coding.width - column)
        fake_quantize_row(
            x + done, part, coding.inverses + column, coding.scales + column, coding.lows + column,
            coding.highs + column, y + done,
        )
        done += part
        column = 0


cdef inline void round_trip_groups(
    const float* x, int64_t at, int64_t n, const AffineCoding* coding, float* y
) noexcept nogil:
    # Counters instead of quotients, as in walk_groups.
    cdef const GroupLayout* layout = &coding.layout
    cdef int64_t done = 0, part, offset = at % layout.cols, place = offset % layout.size
    cdef int64_t group = at // layout.cols * layout.per_row + offset // layout.size
    cdef int64_t i = group // layout.sharing % coding.n_scales
    cdef int64_t sharing = layout.sharing - group % layout.sharing
    while done < n:
        part = min(n - done, min(layout.size - place, layout.cols - offset))
        fake_quantize_run(
            x + done, part, coding.inverses[i], coding.scales[i], coding.lows[i], coding.highs[i], y + done
        )
        done += part
        place = 0
        offset += part
        if offset == layout.cols:
            offset = 0
        sharing -= 1
        if sharing == 0:
            sharing = layout.sharing
            i = i + 1 if i + 1 < coding.n_scales else 0


cdef int64_t affine_errors(
    const uint8_t* values, int dtype, int64_t first, int64_t n, const AffineCoding* coding, double threshold,
    double* sums,
) noexcept nogil:
    """Returns whether a float64 is beyond float32 (0), or -1; NaN and inf show in the sums."""
    cdef float staged[TILE]
    cdef float y[TILE]
    cdef const float* x
    cdef ErrorLanes lanes
    cdef int64_t at = first, stop, count, bad = -1, done, part, itemsize = size_of(dtype)
    while at < first + n:
        stop = min(at + <int64_t> ERROR_CHUNK, first + n)
        clear_lanes(&lanes)
        while at < stop:
            count = min(<int64_t> TILE, stop - at)
            if dtype == FLOAT32:
                x = <const float*> values + at
            else:
                load_tile(values + at * itemsize, dtype, count, staged)
                x = staged
            if coding.width:
                round_trip_columns(x, at, count, coding, y)
            else:
                round_trip_groups(x, at, count, coding, y)
            if dtype == FLOAT64:
                x = NULL  # its own values are compared, not their float32
                if first_from(staged, count, INFINITE) >= 0:
                    bad = 0
            done = 0
            while done < count:
                part = min(<int64_t> PART, count - done)
                prefetch_run(values + (at + TILE + done) * itemsize, part * itemsize)
                if x == NULL:
                    add_part(
                        values + (at + done) * itemsize, dtype, <const uint8_t*> (y + done), FLOAT32, part, threshold,
                        &lanes,
                    )
                else:
                    add_pairs[float](x + done, <const float*> (y + done), part, threshold, &lanes)
                done += part
            at += count
        fold_lanes(&lanes, sums)
        sums += N_SUMS
    return bad
