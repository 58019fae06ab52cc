/* NEON with dotprod: SDOT multiplies s8 by s8, so a code is used as c - 128, and what that takes away is added back:
 *
 *   sum c_i v_i = sum (c_i - 128) v_i + 128 * sum v_i
 *
 * Both sums stay within 2^30 for MP_MAX_DIM dimensions; sum v_i is an SDOT by ones. */
#include "shared.h"
#include "tile.h"

#include <arm_neon.h>

#define TILE_CODES 4

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

MP_KERNEL(neondot)
static void mp_run_u8s8_neondot(const uint8_t *codes, size_t stride, size_t n, const int8_t *query, size_t dim,
                                int32_t *dots) {
    mp_run_by_four(mp_dot4_u8s8_neondot, mp_dot_u8s8_neondot, codes, stride, n, query, dim, dots);
}

/* 128 times the sum of each query's values, for all codes of a tile. */
static inline void lane_sums_(const int8_t *lanes, size_t dim, int32x4_t sums_i32x4[4]) {
    const int8x16_t ones_s8x16 = vdupq_n_s8(1);
    for (int part = 0; part < 4; part++) {
        int32x4_t values_i32x4 = vdupq_n_s32(0);
        for (size_t i = 0; i < dim; i += 4)
            values_i32x4 = vdotq_s32(values_i32x4, ones_s8x16, vld1q_s8(lanes + i * MP_LANES + 16 * (size_t)part));
        sums_i32x4[part] = vshlq_n_s32(values_i32x4, 7);
    }
}

MP_INLINE void add_lanes_(int32x4_t *sums_i32x4, const uint8_t *const *codes, size_t at, const int8_t *lanes) {
    int8x16_t codes_s8x16[TILE_CODES];
    MP_UNROLL
    for (int item = 0; item < TILE_CODES; item++)
        codes_s8x16[item] = shifted_(vreinterpretq_u8_s32(vdupq_n_s32(mp_load4(codes[item] + at))));
    MP_UNROLL
    for (int part = 0; part < 4; part++) {
        const int8x16_t lanes_s8x16 = vld1q_s8(lanes + 16 * part);
        MP_UNROLL
        for (int item = 0; item < TILE_CODES; item++)
            sums_i32x4[4 * item + part] = vdotq_s32(sums_i32x4[4 * item + part], codes_s8x16[item], lanes_s8x16);
    }
}

/* 4 codes x 16 queries take 16 of the 32 registers. */
MP_INLINE void multiply_group_(const struct mp_tile *tile, size_t first, const int8_t *lanes,
                               const int32x4_t values_i32x4[4], int32_t *dots) {
    const uint8_t *codes[TILE_CODES];
    int32x4_t sums_i32x4[4 * TILE_CODES];
    mp_block_codes(tile, first, TILE_CODES, codes);
    MP_UNROLL
    for (int i = 0; i < 4 * TILE_CODES; i++)
        sums_i32x4[i] = values_i32x4[i % 4];
    for (size_t i = 0; i < tile->dim; i += 4)
        add_lanes_(sums_i32x4, codes, i, lanes + i * MP_LANES);
    MP_UNROLL
    for (int i = 0; i < 4 * TILE_CODES; i++)
        vst1q_s32(dots + (first + (size_t)i / 4) * MP_STRIP_QUERIES + 4 * (i % 4), sums_i32x4[i]);
}

MP_KERNEL(neondot)
static void mp_tile_u8s8_neondot(const struct mp_tile *tile, int32_t *dots) {
    for (size_t g = 0; g < tile->n_groups; g++) {
        const int8_t *lanes = tile->lanes + g * mp_group_bytes(tile->dim);
        int32x4_t values_i32x4[4];
        lane_sums_(lanes, tile->dim, values_i32x4);
        for (size_t first = 0; first < tile->n_items; first += TILE_CODES)
            multiply_group_(tile, first, lanes, values_i32x4, dots + g * MP_LANES);
    }
}

MP_KERNEL(neondot)
void mp_near_neondot(const int32_t *dots, size_t n_items, size_t n_groups, const float *norms,
                     const struct mp_strip_keys *keys, uint64_t near[MP_TILE_ITEMS]) {
    static const uint32_t bit_values[4] = {1, 2, 4, 8};
    const uint32x4_t bits_u32x4 = vld1q_u32(bit_values);
    for (size_t item = 0; item < n_items; item++) {
        const float32x4_t norm_f32x4 = vdupq_n_f32(norms[item]);
        uint64_t bits = 0;
        for (size_t q = 0; q < n_groups * MP_LANES; q += 4) {
            const float32x4_t dots_f32x4 = vcvtq_f32_s32(vld1q_s32(dots + item * MP_STRIP_QUERIES + q));
            const float32x4_t products_f32x4 = vmulq_f32(vld1q_f32(keys->weights + q), dots_f32x4);
            const float32x4_t sums_f32x4 = vaddq_f32(vld1q_f32(keys->constants + q), products_f32x4);
            const float32x4_t keys_f32x4 = vaddq_f32(norm_f32x4, sums_f32x4);
            const uint32x4_t near_u32x4 = vcleq_f32(keys_f32x4, vld1q_f32(keys->worst + q));
            bits |= (uint64_t)vaddvq_u32(vandq_u32(near_u32x4, bits_u32x4)) << q;
        }
        near[item] = bits;
    }
}

MP_KERNEL(neondot)
void mp_make_up_neondot(const float *errors, size_t n, const uint16_t *row, size_t count, float *rests, size_t stride) {
    size_t j = 0;
    for (; j + 4 <= count; j += 4) {
        const float32x4_t row_f32x4 = vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(row + j)), 16));
        for (size_t r = 0; r < n; r++) {
            float *rest = rests + r * stride + j;
            vst1q_f32(rest, vsubq_f32(vld1q_f32(rest), vmulq_n_f32(row_f32x4, errors[r])));
        }
    }
    mp_make_up_plainly(errors, n, row, j, count, rests, stride);
}

const struct mp_kernels mp_kernels_neondot = {
    .level = "neondot",
    .dot = mp_dot_u8s8_neondot,
    .dot4 = mp_dot4_u8s8_neondot,
    .run = mp_run_u8s8_neondot,
    .tile = mp_tile_u8s8_neondot,
    .near = mp_near_neondot,
    .make_up = mp_make_up_neondot,
    .u4 = &mp_kernels_neondot_u4,
};
