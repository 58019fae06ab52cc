/* AVX2 with FMA: 12 of 16 registers hold sums. */
#define LEVEL_FLOATS 8
#define LEVEL_ROWS 6
#include "linear_tile.h"

MP_KERNEL(linear_avx2) static void multiply_avx2(const struct mp_linear_tile *tile) {
    multiply_tile_(tile);
}

const struct mp_linear_kernel mp_linear_avx2 = {"avx2", LEVEL_COLUMNS, LEVEL_ROWS, multiply_avx2};
