/* AVX-512: 28 of 32 registers hold sums. */
#define LEVEL_FLOATS 16
#define LEVEL_ROWS 14
#include "linear_tile.h"

MP_KERNEL(linear_avx512) static void multiply_avx512(const struct mp_linear_tile *tile) {
    multiply_tile_(tile);
}

const struct mp_linear_kernel mp_linear_avx512 = {"avx512", LEVEL_COLUMNS, LEVEL_ROWS, multiply_avx512};
