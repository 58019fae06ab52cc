/* NEON with i8mm: USDOT adds four u8 x s8 products to an int32 lane without saturation, so codes and queries are used
 * as they are. */
#include "mp/kernels.h"

#include <arm_neon.h>
#include <string.h>

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

/* A lane is an item: four bytes of four items meet four query bytes. 16 accumulators of the 32 registers. */
MP_KERNEL(neoni8mm)
static void mp_panel_u8s8_neoni8mm(const uint8_t *panel, const int8_t *const queries[MP_PANEL_QUERIES], size_t dim,
                                   int32_t *dots) {
    for (size_t q = 0; q < MP_PANEL_QUERIES; q += 2) {
        int32x4_t sums_i32x4[2][8];
        for (int c = 0; c < 8; c++)
            sums_i32x4[0][c] = sums_i32x4[1][c] = vdupq_n_s32(0);
        for (size_t i = 0; i < dim; i += 4) {
            int32_t bytes0, bytes1;
            memcpy(&bytes0, queries[q] + i, 4);
            memcpy(&bytes1, queries[q + 1] + i, 4);
            const int8x16_t query0_s8x16 = vreinterpretq_s8_s32(vdupq_n_s32(bytes0));
            const int8x16_t query1_s8x16 = vreinterpretq_s8_s32(vdupq_n_s32(bytes1));
            for (int c = 0; c < 8; c++) {
                const uint8x16_t code_u8x16 = vld1q_u8(panel + i * MP_PANEL_ITEMS + 16 * (size_t)c);
                sums_i32x4[0][c] = vusdotq_s32(sums_i32x4[0][c], code_u8x16, query0_s8x16);
                sums_i32x4[1][c] = vusdotq_s32(sums_i32x4[1][c], code_u8x16, query1_s8x16);
            }
        }
        for (int c = 0; c < 8; c++) {
            vst1q_s32(dots + q * MP_PANEL_ITEMS + 4 * c, sums_i32x4[0][c]);
            vst1q_s32(dots + (q + 1) * MP_PANEL_ITEMS + 4 * c, sums_i32x4[1][c]);
        }
    }
}

const struct mp_kernels mp_kernels_neoni8mm = {
    .level = "neoni8mm",
    .dot = mp_dot_u8s8_neoni8mm,
    .dot4 = mp_dot4_u8s8_neoni8mm,
    .panel = mp_panel_u8s8_neoni8mm,
    .u4 = &mp_kernels_neondot_u4,
};
