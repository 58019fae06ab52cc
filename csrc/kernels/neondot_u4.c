/* NEON with dotprod, packed 4-bit codes: 0..15 is an int8 as well, so SDOT needs no shift of the codes, and i8mm's
 * USDOT would do no more. */
#include "shared.h"

#include <arm_neon.h>
#include <string.h>

/* The last 1..15 bytes: 16 bytes that end with the code, against the query's values for the tail and zeros for what was
 * done before. A code shorter than 16 bytes goes through a copy. */
static inline uint8x16_t load_code_tail_(const uint8_t *code, size_t size) {
    uint8_t bytes[16] = {0};
    if (size >= 16)
        return vld1q_u8(code + size - 16);
    memcpy(bytes, code, size);
    return vld1q_u8(bytes);
}

static inline int8x16_t load_plane_tail_(const int8_t *plane, size_t size, size_t tail) {
    int8_t values[16] = {0};
    if (size < 16)
        return vld1q_s8(plane);
    memcpy(values + 16 - tail, plane + size - tail, tail);
    return vld1q_s8(values);
}

static inline int32x4_t add_products_(int32x4_t sum_i32x4, uint8x16_t code_u4x32, int8x16_t even_s8x16,
                                      int8x16_t odd_s8x16) {
    const uint8x16_t low_u8x16 = vandq_u8(code_u4x32, vdupq_n_u8(15)), high_u8x16 = vshrq_n_u8(code_u4x32, 4);
    const int32x4_t even_i32x4 = vdotq_s32(sum_i32x4, vreinterpretq_s8_u8(low_u8x16), even_s8x16);
    return vdotq_s32(even_i32x4, vreinterpretq_s8_u8(high_u8x16), odd_s8x16);
}

MP_KERNEL(neondot)
static int32_t mp_dot_u4s8_neondot(const uint8_t *code, const int8_t *query, size_t dim) {
    const size_t size = (dim + 1) / 2;
    const int8_t *odd = query + mp_plane_bytes(dim);
    int32x4_t sum_i32x4 = vdupq_n_s32(0);
    size_t i = 0;
    for (; i + 16 <= size; i += 16)
        sum_i32x4 = add_products_(sum_i32x4, vld1q_u8(code + i), vld1q_s8(query + i), vld1q_s8(odd + i));
    if (i < size)
        sum_i32x4 = add_products_(sum_i32x4, load_code_tail_(code, size), load_plane_tail_(query, size, size - i),
                                  load_plane_tail_(odd, size, size - i));
    return vaddvq_s32(sum_i32x4);
}

MP_KERNEL(neondot)
static void mp_dot4_u4s8_neondot(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]) {
    const size_t size = (dim + 1) / 2;
    const int8_t *odd = query + mp_plane_bytes(dim);
    int32x4_t sums_i32x4[4];
    for (int c = 0; c < 4; c++)
        sums_i32x4[c] = vdupq_n_s32(0);
    size_t i = 0;
    for (; i + 16 <= size; i += 16) {
        const int8x16_t even_s8x16 = vld1q_s8(query + i), odd_s8x16 = vld1q_s8(odd + i);
        for (int c = 0; c < 4; c++)
            sums_i32x4[c] = add_products_(sums_i32x4[c], vld1q_u8(codes[c] + i), even_s8x16, odd_s8x16);
    }
    if (i < size) {
        const int8x16_t even_s8x16 = load_plane_tail_(query, size, size - i);
        const int8x16_t odd_s8x16 = load_plane_tail_(odd, size, size - i);
        for (int c = 0; c < 4; c++)
            sums_i32x4[c] = add_products_(sums_i32x4[c], load_code_tail_(codes[c], size), even_s8x16, odd_s8x16);
    }
    for (int c = 0; c < 4; c++)
        dots[c] = vaddvq_s32(sums_i32x4[c]);
}

MP_KERNEL(neondot)
static void mp_run_u4s8_neondot(const uint8_t *codes, size_t stride, size_t n, const int8_t *query, size_t dim,
                                int32_t *dots) {
    mp_run_by_four(mp_dot4_u4s8_neondot, mp_dot_u4s8_neondot, codes, stride, n, query, dim, dots);
}

const struct mp_kernels mp_kernels_neondot_u4 = {
    .level = "neondot",
    .dot = mp_dot_u4s8_neondot,
    .dot4 = mp_dot4_u4s8_neondot,
    .run = mp_run_u4s8_neondot,
};
