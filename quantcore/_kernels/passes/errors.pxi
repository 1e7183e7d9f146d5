# errors.pxi: the error sums of an array and its reconstruction, which may be given or computed from affine codes part
# by part: run by run if runs share a scale, row by row if each column has its own. Each chunk of ERROR_CHUNK elements
# has one row of sums.
from quantcore._kernels.passes.errors cimport N_SUMS, ErrorLanes, add_pairs, clear_lanes, fold_lanes
from quantcore._kernels.passes.fake_quant cimport fake_quantize_row, fake_quantize_run
from quantcore._kernels.common.floats cimport FLOAT32, FLOAT64, first_from, loaded, size_of, widen_tile
from quantcore._kernels.common.memory cimport PART, prefetch_run
from quantcore._kernels.table cimport ERROR_CHUNK, AffineCoding, CodingRows, GroupLayout


cdef void add_part(
    const uint8_t* x, int x_dtype, const uint8_t* y, int y_dtype, int64_t n, double threshold, ErrorLanes* lanes
) noexcept nogil:
    """Add at most PART pairs: as float32, or as float64 if either input is float64."""
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
    add_pairs[float](
        loaded(x, x_dtype, 0, n, staged_x), loaded(y, y_dtype, 0, n, staged_y), n, threshold, lanes
    )


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


# The position in the elements: the column, or the row, the group and the offset in it.
cdef struct CodingPlace:
    int64_t column
    int64_t offset
    int64_t within
    int64_t i
    int64_t sharing


cdef inline CodingPlace place_of(const AffineCoding* coding, int64_t at) noexcept nogil:
    cdef CodingPlace place
    cdef const GroupLayout* layout = &coding.layout
    cdef int64_t group
    if coding.width:
        place.column = at % coding.width
        return place
    place.offset = at % layout.cols
    place.within = place.offset % layout.size
    group = at // layout.cols * layout.per_row + place.offset // layout.size
    place.i = group // layout.sharing % coding.rows.n_scales
    place.sharing = layout.sharing - group % layout.sharing
    return place


cdef inline void round_trip_columns(
    const float* x, int64_t n, const AffineCoding* coding, CodingPlace* place, float* y
) noexcept nogil:
    cdef const CodingRows* rows = &coding.rows
    cdef int64_t done = 0, part, column = place.column
    while done < n:
        part = min(n - done, coding.width - column)
        if rows.offsets != NULL:
            fake_quantize_row(
                x + done, part, True, rows.offsets + column, rows.inverses + column, rows.scales + column,
                rows.lows + column, rows.highs + column, y + done,
            )
        else:
            fake_quantize_row(
                x + done, part, False, NULL, rows.inverses + column, rows.scales + column, rows.lows + column,
                rows.highs + column, y + done,
            )
        done += part
        column += part
        if column == coding.width:
            column = 0
    place.column = column


cdef inline void round_trip_groups(
    const float* x, int64_t n, const AffineCoding* coding, CodingPlace* place, float* y
) noexcept nogil:
    # Counters instead of quotients, as in walk_groups.
    cdef const GroupLayout* layout = &coding.layout
    cdef const CodingRows* rows = &coding.rows
    cdef int64_t done = 0, part, i
    while done < n:
        i = place.i
        part = min(n - done, min(layout.size - place.within, layout.cols - place.offset))
        if rows.offsets != NULL:
            fake_quantize_run(
                x + done, part, True, rows.offsets[i], rows.inverses[i], rows.scales[i], rows.lows[i], rows.highs[i],
                y + done,
            )
        else:
            fake_quantize_run(
                x + done, part, False, 0, rows.inverses[i], rows.scales[i], rows.lows[i], rows.highs[i], y + done
            )
        done += part
        place.within += part
        place.offset += part
        if place.offset == layout.cols:
            place.offset = 0
        elif place.within < layout.size:
            continue
        place.within = 0
        place.sharing -= 1
        if place.sharing == 0:
            place.sharing = layout.sharing
            place.i = i + 1 if i + 1 < coding.rows.n_scales else 0


cdef int64_t affine_errors(
    const uint8_t* values, int dtype, int64_t first, int64_t n, const AffineCoding* coding, double threshold,
    double* sums,
) noexcept nogil:
    """Returns 0 if a float64 is beyond float32's range, otherwise -1; NaN and inf show in the sums."""
    cdef float staged[PART]
    cdef float y[PART]
    cdef const float* x
    cdef ErrorLanes lanes
    cdef CodingPlace place = place_of(coding, first)
    cdef int64_t at = first, stop, count, bad = -1, half, itemsize = size_of(dtype)
    cdef const uint8_t* ahead
    while at < first + n:
        stop = min(at + <int64_t> ERROR_CHUNK, first + n)
        clear_lanes(&lanes)
        while at < stop:
            count = min(<int64_t> PART, stop - at)
            # Half of the lines are prefetched in either phase, so that memory is never idle; not a tile ahead, since
            # the parameters of wide rows need room in L1 too.
            ahead = values + (at + 3 * PART) * itemsize
            half = count * itemsize // 2
            prefetch_run(ahead, half)
            x = loaded(values, dtype, at, count, staged)
            if coding.width:
                round_trip_columns(x, count, coding, &place, y)
            else:
                round_trip_groups(x, count, coding, &place, y)
            prefetch_run(ahead + half, half)
            if dtype == FLOAT64:  # its own values are compared, not their float32
                if first_from(staged, count, INFINITE) >= 0:
                    bad = 0
                add_part(
                    values + at * itemsize, dtype, <const uint8_t*> y, FLOAT32, count, threshold, &lanes
                )
            else:
                add_pairs[float](x, <const float*> y, count, threshold, &lanes)
            at += count
        fold_lanes(&lanes, sums)
        sums += N_SUMS
    return bad
