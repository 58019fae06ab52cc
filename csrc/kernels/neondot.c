/* NEON with dotprod: SDOT multiplies s8 by s8, so a code is used as c - 128, and what that takes away is added back:
 *
 *   sum c_i v_i = sum (c_i - 128) v_i + 128 * sum v_i
 *
 * Both sums stay within 2^30 for MP_MAX_DIM dimensions; sum v_i is an SDOT by ones. */
#include "mp/kernels.h"

#include <arm_neon.h>
#include <string.h>

static inline int8x16_t shifted_(uint8x16_t code_u8x16) {
    return vreinterpretq_s8_u8(veorq_u8(code_u8x16, vdupq_n_u8(128))); /* c - 128, as an int8 */
}

/* The last 1..15 dimensions: 16 bytes that end with the code, against the query's values for the tail and zeros for
 * what was done before. A code shorter than 16 bytes goes through a copy. */
static inline int8x16_t load_code_tail_(const uint8_t *code, size_t dim) {
    uint8_t bytes[16] = {0};
    if (dim >= 16)
        return shifted_(vld1q_u8(code + dim - 16));
    memcpy(bytes, code, dim);
    return shifted_(vld1q_u8(bytes));
}

static inline int8x16_t load_query_tail_(const int8_t *query, size_t dim, size_t tail) {
    int8_t values[16] = {0};
    if (dim < 16)
        return vld1q_s8(query);
    memcpy(values + 16 - tail, query + dim - tail, tail);
    return vld1q_s8(values);
}

MP_KERNEL(neondot)
static int32_t mp_dot_u8s8_neondot(const uint8_t *code, const int8_t *query, size_t dim) {
    int32x4_t sum_i32x4 = vdupq_n_s32(0), values_i32x4 = sum_i32x4;
    const int8x16_t ones_s8x16 = vdupq_n_s8(1);
    size_t i = 0;
    for (; i + 16 <= dim; i += 16) {
        const int8x16_t query_s8x16 = vld1q_s8(query + i);
        sum_i32x4 = vdotq_s32(sum_i32x4, shifted_(vld1q_u8(code + i)), query_s8x16);
        values_i32x4 = vdotq_s32(values_i32x4, ones_s8x16, query_s8x16);
    }
    if (i < dim) {
        const int8x16_t query_s8x16 = load_query_tail_(query, dim, dim - i);
        sum_i32x4 = vdotq_s32(sum_i32x4, load_code_tail_(code, dim), query_s8x16);
        values_i32x4 = vdotq_s32(values_i32x4, ones_s8x16, query_s8x16);
    }
    return vaddvq_s32(sum_i32x4) + 128 * vaddvq_s32(values_i32x4);
}

MP_KERNEL(neondot)
static void mp_dot4_u8s8_neondot(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]) {
    int32x4_t sums_i32x4[4], values_i32x4 = vdupq_n_s32(0);
    const int8x16_t ones_s8x16 = vdupq_n_s8(1);
    for (int c = 0; c < 4; c++)
        sums_i32x4[c] = vdupq_n_s32(0);
    size_t i = 0;
    for (; i + 16 <= dim; i += 16) {
        const int8x16_t query_s8x16 = vld1q_s8(query + i);
        values_i32x4 = vdotq_s32(values_i32x4, ones_s8x16, query_s8x16);
        for (int c = 0; c < 4; c++)
            sums_i32x4[c] = vdotq_s32(sums_i32x4[c], shifted_(vld1q_u8(codes[c] + i)), query_s8x16);
    }
    if (i < dim) {
        const int8x16_t query_s8x16 = load_query_tail_(query, dim, dim - i);
        values_i32x4 = vdotq_s32(values_i32x4, ones_s8x16, query_s8x16);
        for (int c = 0; c < 4; c++)
            sums_i32x4[c] = vdotq_s32(sums_i32x4[c], load_code_tail_(codes[c], dim), query_s8x16);
    }
    for (int c = 0; c < 4; c++)
        dots[c] = vaddvq_s32(sums_i32x4[c]) + 128 * vaddvq_s32(values_i32x4);
}

/* A lane is an item: four bytes of four items meet four query bytes. All lanes of `values` hold the query's sum. */
MP_KERNEL(neondot)
static void mp_panel_u8s8_neondot(const uint8_t *panel, const int8_t *const queries[MP_PANEL_QUERIES], size_t dim,
                                  int32_t *dots) {
    const int8x16_t ones_s8x16 = vdupq_n_s8(1);
    for (size_t q = 0; q < MP_PANEL_QUERIES; q++) {
        int32x4_t sums_i32x4[8], values_i32x4 = vdupq_n_s32(0);
        for (int c = 0; c < 8; c++)
            sums_i32x4[c] = vdupq_n_s32(0);
        for (size_t i = 0; i < dim; i += 4) {
            int32_t bytes;
            memcpy(&bytes, queries[q] + i, 4);
            const int8x16_t query_s8x16 = vreinterpretq_s8_s32(vdupq_n_s32(bytes));
            values_i32x4 = vdotq_s32(values_i32x4, ones_s8x16, query_s8x16);
            for (int c = 0; c < 8; c++) {
                const uint8x16_t code_u8x16 = vld1q_u8(panel + i * MP_PANEL_ITEMS + 16 * (size_t)c);
                sums_i32x4[c] = vdotq_s32(sums_i32x4[c], shifted_(code_u8x16), query_s8x16);
            }
        }
        for (int c = 0; c < 8; c++)
            vst1q_s32(dots + q * MP_PANEL_ITEMS + 4 * c, vaddq_s32(sums_i32x4[c], vshlq_n_s32(values_i32x4, 7)));
    }
}

const struct mp_kernels mp_kernels_neondot = {
    .level = "neondot",
    .dot = mp_dot_u8s8_neondot,
    .dot4 = mp_dot4_u8s8_neondot,
    .panel = mp_panel_u8s8_neondot,
    .u4 = &mp_kernels_neondot_u4,
};
