/* Kernels that stand in the tables of more than one level. */
#ifndef MP_KERNELS_SHARED_H
#define MP_KERNELS_SHARED_H

#include "mp/kernels.h"

#include <string.h>

static inline float mp_widened(uint16_t upper_half) {
    const uint32_t bits = (uint32_t)upper_half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* mp_make_up_fn in plain C, from `from` on: for levels without their own, and for what is left over. */
static inline void mp_make_up_plainly(const float *errors, size_t n, const uint16_t *row, size_t from, size_t count,
                                      float *rests, size_t stride) {
    for (size_t r = 0; r < n; r++) {
        float *restrict rest = rests + r * stride;
        for (size_t j = from; j < count; j++)
            rest[j] -= errors[r] * mp_widened(row[j]);
    }
}

/* mp_run_fn for levels that have not shown to gain from reading the codes in order. */
static inline void mp_run_by_four(mp_dot4_fn dot4, mp_dot_fn dot, const uint8_t *codes, size_t stride, size_t n,
                                  const int8_t *query, size_t dim, int32_t *dots) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        const uint8_t *code = codes + i * stride;
        const uint8_t *four[4] = {code, code + stride, code + 2 * stride, code + 3 * stride};
        dot4(four, query, dim, dots + i);
    }
    for (; i < n; i++)
        dots[i] = dot(codes + i * stride, query, dim);
}

#if defined(MP_X86)
void mp_make_up_avx2(const float *errors, size_t n, const uint16_t *row, size_t count, float *rests, size_t stride);
void mp_near_avx2(const int32_t *dots, size_t n_items, size_t n_groups, const float *norms,
                  const struct mp_strip_keys *keys, uint64_t near[MP_TILE_ITEMS]);
int32_t mp_dot_u8s8_avx512vnni(const uint8_t *code, const int8_t *query, size_t dim);
void mp_dot4_u8s8_avx512vnni(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]);
void mp_run_u8s8_avx512vnni(const uint8_t *codes, size_t stride, size_t n, const int8_t *query, size_t dim,
                            int32_t *dots);
void mp_make_up_avx512vnni(const float *errors, size_t n, const uint16_t *row, size_t count, float *rests,
                           size_t stride);
void mp_near_avx512vnni(const int32_t *dots, size_t n_items, size_t n_groups, const float *norms,
                        const struct mp_strip_keys *keys, uint64_t near[MP_TILE_ITEMS]);
#elif defined(MP_ARM64)
void mp_make_up_neondot(const float *errors, size_t n, const uint16_t *row, size_t count, float *rests, size_t stride);
void mp_near_neondot(const int32_t *dots, size_t n_items, size_t n_groups, const float *norms,
                     const struct mp_strip_keys *keys, uint64_t near[MP_TILE_ITEMS]);
#endif

#endif
