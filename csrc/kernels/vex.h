/* What the kernels with 256-bit registers have in common; for their files only, which have the flags. */
#ifndef MP_KERNELS_VEX_H
#define MP_KERNELS_VEX_H

#include "tile.h"

#include <immintrin.h>

/* The sums of four accumulators, in order. */
static inline __m128i reduce4_(__m256i a, __m256i b, __m256i c, __m256i d) {
    const __m256i abcd_i32x8 = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    return _mm_add_epi32(_mm256_castsi256_si128(abcd_i32x8), _mm256_extracti128_si256(abcd_i32x8, 1));
}

/* A kernel's products of one code, not yet added up; what it wants of a query is between it and its callers. */
typedef __m256i (*mp_row_fn_)(const uint8_t *code, const void *query, size_t dim);

MP_INLINE int32_t dot_of_row_(mp_row_fn_ multiply_row, const uint8_t *code, const void *query, size_t dim) {
    const __m256i sum_i32x8 = multiply_row(code, query, dim);
    return _mm_cvtsi128_si32(reduce4_(sum_i32x8, sum_i32x8, sum_i32x8, sum_i32x8));
}

MP_INLINE void run_of_rows_(mp_row_fn_ multiply_row, const uint8_t *codes, size_t stride, size_t n, const void *query,
                            size_t dim, int32_t *dots) {
    for (; n >= 4; n -= 4, codes += 4 * stride, dots += 4) {
        const __m256i first_i32x8 = multiply_row(codes, query, dim);
        const __m256i second_i32x8 = multiply_row(codes + stride, query, dim);
        const __m256i third_i32x8 = multiply_row(codes + 2 * stride, query, dim);
        const __m256i fourth_i32x8 = multiply_row(codes + 3 * stride, query, dim);
        _mm_storeu_si128((__m128i *)(void *)dots, reduce4_(first_i32x8, second_i32x8, third_i32x8, fourth_i32x8));
    }
    for (size_t row = 0; row < n; row++)
        dots[row] = dot_of_row_(multiply_row, codes + row * stride, query, dim);
}

#endif
