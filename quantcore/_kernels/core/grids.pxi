# grids.pxi: the grids of the IQ1, IQ2 and IQ3 types, for _core.pyx: what decoding and quantizing look up in them,
# made from the one bit a number that tables/grids.h holds. It is made when a kernel first needs it and kept for good.
# Nobody waits for anybody: threads that come at the same time each make their own, and the first one's is taken.
from libc.stdint cimport uint16_t
from libc.stdlib cimport free, malloc, realloc

from quantcore._kernels.table cimport (
    GRID_IQ1,
    GRID_IQ2_S,
    GRID_IQ2_XS,
    GRID_IQ2_XXS,
    GRID_IQ3_S,
    GRID_IQ3_XXS,
    NO_GRID,
    ON_GRID,
    PLACE_SHIFT,
    GridPoints,
    GridSearch,
)

cdef extern from "grids.h":
    const uint64_t QUANTCORE_IQ2_XXS_POINTS[]
    const uint64_t QUANTCORE_IQ2_XS_POINTS[]
    const uint64_t QUANTCORE_IQ2_S_POINTS[]
    const uint64_t QUANTCORE_IQ1_POINTS[]
    const uint64_t QUANTCORE_IQ3_XXS_POINTS[]
    const uint64_t QUANTCORE_IQ3_S_POINTS[]

cdef enum:
    MOST_DIGITS = 8
    MOST_POINTS = 2048

# What distinguishes the grids: `values` is what a digit decodes to, and `n_distances` how many different distances the
# points near a number may have.
ctypedef struct GridFacts:
    const uint64_t* points
    int n_digits
    int base
    int n_distances
    uint8_t values[8]

# The points of a grid, digit by digit and packed.
ctypedef struct GridDigits:
    int n_points
    uint8_t digits[MOST_DIGITS][MOST_POINTS]
    uint16_t packed[MOST_POINTS]


cdef void set_facts(
    GridFacts* facts, const uint64_t* points, bint is_pair_of_fours, int n_distances, int first, int step, int last
) noexcept nogil:
    """Values are equally spaced but for the last one."""
    cdef int i
    facts.points, facts.n_distances = points, n_distances
    facts.n_digits, facts.base = (4, 8) if is_pair_of_fours else (8, 3)
    for i in range(facts.base):
        facts.values[i] = first + step * i
    facts.values[facts.base - 1] = last


cdef void find_facts(int grid, GridFacts* facts) noexcept nogil:
    # IQ1's values -1, 0 and 1 are kept as eighths plus 16, so that an eighth can be added or taken off without a carry.
    if grid == GRID_IQ2_XXS:
        set_facts(facts, QUANTCORE_IQ2_XXS_POINTS, False, 2, 8, 17, 43)
    elif grid == GRID_IQ2_XS:
        set_facts(facts, QUANTCORE_IQ2_XS_POINTS, False, 2, 8, 17, 43)
    elif grid == GRID_IQ2_S:
        set_facts(facts, QUANTCORE_IQ2_S_POINTS, False, 1, 8, 17, 43)
    elif grid == GRID_IQ1:
        set_facts(facts, QUANTCORE_IQ1_POINTS, False, 3, 8, 8, 24)
    elif grid == GRID_IQ3_XXS:
        set_facts(facts, QUANTCORE_IQ3_XXS_POINTS, True, 2, 4, 8, 62)
    else:
        set_facts(facts, QUANTCORE_IQ3_S_POINTS, True, 3, 1, 2, 15)


cdef int numbers_of(const GridFacts* facts) noexcept nogil:
    """How many numbers the digits can make: 3**8 or 8**4."""
    return 6561 if facts.base == 3 else 4096


cdef bint is_point(const GridFacts* facts, int number) noexcept nogil:
    return facts.points[number // 64] >> (number % 64) & 1


cdef void list_points(const GridFacts* facts, GridDigits* grid) noexcept nogil:
    cdef int number, rest, i, n = 0
    cdef int width = 2 if facts.base == 3 else 3
    for number in range(numbers_of(facts)):
        if is_point(facts, number):
            rest = number
            grid.packed[n] = 0
            for i in range(facts.n_digits):
                grid.digits[i][n] = rest % facts.base
                grid.packed[n] |= rest % facts.base << width * i
                rest //= facts.base
            n += 1
    grid.n_points = n


cdef GridPoints* made_points(int grid) noexcept nogil:
    """What decoding looks up, in one piece of memory; NULL if there is none."""
    cdef GridFacts facts
    cdef GridDigits* listed = <GridDigits*> malloc(sizeof(GridDigits))
    cdef GridPoints* made = <GridPoints*> malloc(sizeof(GridPoints) + 256 * 8 + MOST_POINTS * MOST_DIGITS)
    cdef uint64_t* signs = <uint64_t*> (made + 1)
    cdef uint8_t* values = <uint8_t*> (signs + 256)
    cdef int i, point, code, parity
    cdef bint is_even = grid != GRID_IQ2_S and grid != GRID_IQ3_S
    if listed == NULL or made == NULL:
        free(listed)
        free(made)
        return NULL
    made.values, made.signs = values, signs
    find_facts(grid, &facts)
    list_points(&facts, listed)
    for point in range(listed.n_points):
        for i in range(facts.n_digits):
            values[point * facts.n_digits + i] = facts.values[listed.digits[i][point]]
    for code in range(256):
        signs[code] = 0
        parity = 0
        for i in range(8):
            signs[code] |= <uint64_t> (255 if code >> i & 1 else 0) << 8 * i
            parity ^= code >> i & 1
        if is_even and parity:
            signs[code] ^= <uint64_t> 255 << 56
    free(listed)
    return made


cdef int list_near(
    const GridDigits* listed, const uint8_t* distances, int n_distances, uint16_t* near
) noexcept nogil:
    """The points at the n_distances smallest distances; returns how many there are."""
    cdef int i, level, n = 0, distance = -1
    cdef uint8_t nearest
    for level in range(n_distances):
        nearest = 255
        for i in range(listed.n_points):
            nearest = min(nearest, distances[i] if <int> distances[i] > distance else <uint8_t> 255)
        if nearest == 255:
            break
        distance = nearest
        for i in range(listed.n_points):
            if distances[i] == nearest:
                near[n] = listed.packed[i]
                n += 1
    return n


cdef GridSearch* made_search(int grid) noexcept nogil:
    """What quantizing looks up; NULL if there is not enough memory.

    Distances are sums of squares over the digits. A number differs from the one before in its last digits as a rule, so
    the sums over the upper digits are kept.
    """
    cdef GridFacts facts
    cdef GridDigits* listed = <GridDigits*> malloc(sizeof(GridDigits))
    cdef GridSearch* made = <GridSearch*> malloc(sizeof(GridSearch) + 6561 * sizeof(uint32_t))
    cdef uint8_t* sums = <uint8_t*> malloc((MOST_DIGITS + 1) * MOST_POINTS)  # row i: over the digits from i on
    cdef uint16_t* near = NULL
    cdef uint16_t* moved
    cdef uint32_t* places = <uint32_t*> (made + 1)
    cdef const uint8_t* upper
    cdef const uint8_t* column
    cdef uint8_t* lower
    cdef int digits[MOST_DIGITS]
    cdef int number, i, j, difference, index = 0, count, used = 0, size = 0
    cdef bint is_complete = listed != NULL and made != NULL and sums != NULL
    if is_complete:
        find_facts(grid, &facts)
        list_points(&facts, listed)
        for i in range(facts.n_digits):
            digits[i] = 0
        for j in range(listed.n_points):
            sums[facts.n_digits * MOST_POINTS + j] = 0
        i = facts.n_digits - 1
        for number in range(numbers_of(&facts)):
            while i >= 0:
                upper, column = sums + (i + 1) * MOST_POINTS, listed.digits[i]
                lower = sums + i * MOST_POINTS
                for j in range(listed.n_points):
                    difference = column[j] - digits[i]
                    lower[j] = <uint8_t> (upper[j] + difference * difference)
                i -= 1
            if used + MOST_POINTS > size:
                size = 2 * size + MOST_POINTS
                moved = <uint16_t*> realloc(near, size * sizeof(uint16_t))
                if moved == NULL:
                    is_complete = False
                    break
                near = moved
            if is_point(&facts, number):
                places[number] = index << PLACE_SHIFT | ON_GRID | 1
                index += 1
            else:
                count = list_near(listed, sums, facts.n_distances, near + used)
                places[number] = used << PLACE_SHIFT | count
                used += count
            i = 0
            while i < facts.n_digits - 1 and digits[i] == facts.base - 1:
                digits[i] = 0
                i += 1
            digits[i] += 1
    free(listed)
    free(sums)
    if not is_complete:
        free(near)
        free(made)
        return NULL
    made.places, made.near = places, near
    return made


cdef int make_grid_points(int grid) except -1:
    """See to it that a format which uses the grid can be decoded."""
    cdef const void** place = <const void**> &GRIDS.points[grid]
    cdef GridPoints* made
    if grid == NO_GRID or quantcore_look(place) != NULL:
        return 0
    with nogil:
        made = made_points(grid)
    if made == NULL:
        raise MemoryError
    if quantcore_publish(place, made) != made:
        free(made)
    return 0


cdef int make_grid_search(int grid) except -1:
    """See to it that a format which uses the grid can be quantized to."""
    cdef const void** place = <const void**> &GRIDS.searches[grid]
    cdef GridSearch* made
    if grid == NO_GRID or quantcore_look(place) != NULL:
        return 0
    with nogil:
        made = made_search(grid)
    if made == NULL:
        raise MemoryError
    if quantcore_publish(place, made) != made:
        free(<void*> made.near)
        free(made)
    return 0
