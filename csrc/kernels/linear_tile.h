/* The tile of linear.h, for every level: the including file says LEVEL_FLOATS (of a register) and LEVEL_ROWS. Sums of
 * all rows times two registers stay in registers, which is what these numbers are chosen by. */
#ifndef MP_KERNELS_LINEAR_TILE_H
#define MP_KERNELS_LINEAR_TILE_H

#include "mp/linear.h"

#include "tile.h"

#define LEVEL_COLUMNS (2 * LEVEL_FLOATS)

typedef float floats_ __attribute__((vector_size(LEVEL_FLOATS * sizeof(float)), aligned(sizeof(float)), may_alias));

MP_INLINE void multiply_rows_(const struct mp_linear_tile *tile, const size_t n_rows) {
    floats_ left[LEVEL_ROWS], right[LEVEL_ROWS];
    MP_UNROLL
    for (size_t row = 0; row < n_rows; row++) {
        const float *from = tile->adds ? tile->out + row * tile->out_stride : tile->bias;
        left[row] = from ? *(const floats_ *)from : (floats_){0};
        right[row] = from ? *(const floats_ *)(from + LEVEL_FLOATS) : (floats_){0};
    }
    const float *panel = tile->panel, *ahead = tile->ahead, *states = tile->states;
    const size_t stride = tile->states_stride;
    for (size_t i = 0; i < tile->depth; i++, panel += LEVEL_COLUMNS, ahead += tile->ahead_step) {
        const floats_ left_weight = *(const floats_ *)panel, right_weight = *(const floats_ *)(panel + LEVEL_FLOATS);
        __builtin_prefetch(ahead, 0, 2);
        MP_UNROLL
        for (size_t row = 0; row < n_rows; row++) {
            /* Minus zero leaves every number what it is, so that this is a broadcast. */
            const floats_ state = states[row * stride + i] - (floats_){0};
            left[row] += state * left_weight;
            right[row] += state * right_weight;
        }
    }
    MP_UNROLL
    for (size_t row = 0; row < n_rows; row++) {
        float *to = tile->out + row * tile->out_stride;
        *(floats_ *)to = left[row];
        *(floats_ *)(to + LEVEL_FLOATS) = right[row];
    }
}

/* Every number of rows has its own code, in which the sums have their registers. */
#define ROWS_(count)                                                                                                   \
    case count:                                                                                                        \
        multiply_rows_(tile, count);                                                                                   \
        return;

MP_INLINE void multiply_tile_(const struct mp_linear_tile *tile) {
    switch (tile->n_rows) {
        ROWS_(1)
        ROWS_(2)
        ROWS_(3)
        ROWS_(4)
        ROWS_(5)
        ROWS_(6)
#if LEVEL_ROWS > 6
        ROWS_(7)
        ROWS_(8)
        ROWS_(9)
        ROWS_(10)
        ROWS_(11)
        ROWS_(12)
        ROWS_(13)
        ROWS_(14)
#endif
    default:
        return;
    }
}

#endif
