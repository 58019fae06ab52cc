/* For every machine: registers of the base ABI, 16 of them on x86-64. */
#define LEVEL_FLOATS 4
#define LEVEL_ROWS 6
#include "linear_tile.h"

static void multiply_serial(const struct mp_linear_tile *tile) {
    multiply_tile_(tile);
}

const struct mp_linear_kernel mp_linear_serial = {"serial", LEVEL_COLUMNS, LEVEL_ROWS, multiply_serial};
