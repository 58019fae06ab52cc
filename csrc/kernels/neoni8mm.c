/* NEON with i8mm: USDOT adds four u8 x s8 products to an int32 lane without saturation, so codes and queries are used
 * as they are. */
#include "shared.h"
#include "tile.h"

#include <arm_neon.h>

#define TILE_CODES 4

/* The last 1..15 dimensions: 16 bytes that end with the code, against the query's values for the tail and zeros for
 * what was done before. A code shorter than 16 bytes goes through a copy. */
static inline uint8x16_t load_code_tail_(const uint8_t *code, size_t dim) {
    uint8_t bytes[16] = {0};
    if (dim >= 16)
        return vld1q_u8(code + dim - 16);
    memcpy(bytes, code, dim);
    return vld1q_u8(bytes);
}

static inline int8x16_t load_query_tail_(const int8_t *query, size_t dim, size_t tail) {
    int8_t values[16] = {0};
    if (dim < 16)
        return vld1q_s8(query);
    memcpy(values + 16 - tail, query + dim - tail, tail);
    return vld1q_s8(values);
}

MP_KERNEL(neoni8mm)
static int32_t mp_dot_u8s8_neoni8mm(const uint8_t *code, const int8_t *query, size_t dim) {
    int32x4_t even_i32x4 = vdupq_n_s32(0), odd_i32x4 = even_i32x4;
    size_t i = 0;
    for (; i + 32 <= dim; i += 32) {
        even_i32x4 = vusdotq_s32(even_i32x4, vld1q_u8(code + i), vld1q_s8(query + i));
        odd_i32x4 = vusdotq_s32(odd_i32x4, vld1q_u8(code + i + 16), vld1q_s8(query + i + 16));
    }
    if (i + 16 <= dim) {
        even_i32x4 = vusdotq_s32(even_i32x4, vld1q_u8(code + i), vld1q_s8(query + i));
        i += 16;
    }
    if (i < dim)
        odd_i32x4 = vusdotq_s32(odd_i32x4, load_code_tail_(code, dim), load_query_tail_(query, dim, dim - i));
    return vaddvq_s32(vaddq_s32(even_i32x4, odd_i32x4));
}

MP_KERNEL(neoni8mm)
static void mp_dot4_u8s8_neoni8mm(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]) {
    int32x4_t sums_i32x4[4];
    for (int c = 0; c < 4; c++)
        sums_i32x4[c] = vdupq_n_s32(0);
    size_t i = 0;
    for (; i + 16 <= dim; i += 16) {
        const int8x16_t query_s8x16 = vld1q_s8(query + i);
        for (int c = 0; c < 4; c++)
            sums_i32x4[c] = vusdotq_s32(sums_i32x4[c], vld1q_u8(codes[c] + i), query_s8x16);
    }
    if (i < dim) {
        const int8x16_t query_s8x16 = load_query_tail_(query, dim, dim - i);
        for (int c = 0; c < 4; c++)
            sums_i32x4[c] = vusdotq_s32(sums_i32x4[c], load_code_tail_(codes[c], dim), query_s8x16);
    }
    for (int c = 0; c < 4; c++)
        dots[c] = vaddvq_s32(sums_i32x4[c]);
}

MP_KERNEL(neoni8mm)
static void mp_run_u8s8_neoni8mm(const uint8_t *codes, size_t stride, size_t n, const int8_t *query, size_t dim,
                                 int32_t *dots) {
    mp_run_by_four(mp_dot4_u8s8_neoni8mm, mp_dot_u8s8_neoni8mm, codes, stride, n, query, dim, dots);
}

MP_INLINE void add_lanes_(int32x4_t *sums_i32x4, const uint8_t *const *codes, size_t at, const int8_t *lanes) {
    uint8x16_t codes_u8x16[TILE_CODES];
    MP_UNROLL
    for (int item = 0; item < TILE_CODES; item++)
        codes_u8x16[item] = vreinterpretq_u8_s32(vdupq_n_s32(mp_load4(codes[item] + at)));
    MP_UNROLL
    for (int part = 0; part < 4; part++) {
        const int8x16_t lanes_s8x16 = vld1q_s8(lanes + 16 * part);
        MP_UNROLL
        for (int item = 0; item < TILE_CODES; item++)
            sums_i32x4[4 * item + part] = vusdotq_s32(sums_i32x4[4 * item + part], codes_u8x16[item], lanes_s8x16);
    }
}

/* 4 codes x 16 queries take 16 of the 32 registers. */
MP_INLINE void multiply_group_(const struct mp_tile *tile, size_t first, const int8_t *lanes, int32_t *dots) {
    const uint8_t *codes[TILE_CODES];
    int32x4_t sums_i32x4[4 * TILE_CODES];
    mp_block_codes(tile, first, TILE_CODES, codes);
    MP_UNROLL
    for (int i = 0; i < 4 * TILE_CODES; i++)
        sums_i32x4[i] = vdupq_n_s32(0);
    for (size_t i = 0; i < tile->dim; i += 4)
        add_lanes_(sums_i32x4, codes, i, lanes + i * MP_LANES);
    MP_UNROLL
    for (int i = 0; i < 4 * TILE_CODES; i++)
        vst1q_s32(dots + (first + (size_t)i / 4) * MP_STRIP_QUERIES + 4 * (i % 4), sums_i32x4[i]);
}

MP_KERNEL(neoni8mm)
static void mp_tile_u8s8_neoni8mm(const struct mp_tile *tile, int32_t *dots) {
    for (size_t g = 0; g < tile->n_groups; g++) {
        for (size_t first = 0; first < tile->n_items; first += TILE_CODES)
            multiply_group_(tile, first, tile->lanes + g * mp_group_bytes(tile->dim), dots + g * MP_LANES);
    }
}

const struct mp_kernels mp_kernels_neoni8mm = {
    .level = "neoni8mm",
    .dot = mp_dot_u8s8_neoni8mm,
    .dot4 = mp_dot4_u8s8_neoni8mm,
    .run = mp_run_u8s8_neoni8mm,
    .tile = mp_tile_u8s8_neoni8mm,
    .near = mp_near_neondot,
    .make_up = mp_make_up_neondot,
    .u4 = &mp_kernels_neondot_u4,
};
