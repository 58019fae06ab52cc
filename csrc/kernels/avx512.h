/* What the AVX-512 kernels have in common; for their files only, which have the flags. */
#ifndef MP_KERNELS_AVX512_H
#define MP_KERNELS_AVX512_H

#include "tile.h"

#include <immintrin.h>

static inline __mmask64 tail_mask_(size_t bytes) {
    return ~0ULL >> (64 - bytes); /* bytes is in 1..63 */
}

static inline __m256i fold_half_(__m512i sum_i32x16) {
    return _mm256_add_epi32(_mm512_castsi512_si256(sum_i32x16), _mm512_extracti64x4_epi64(sum_i32x16, 1));
}

/* The sums of four accumulators, in order: two levels of pairwise additions serve all four at once. */
static inline __m128i reduce4_(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m256i ab_i32x8 = _mm256_hadd_epi32(fold_half_(a), fold_half_(b));
    const __m256i cd_i32x8 = _mm256_hadd_epi32(fold_half_(c), fold_half_(d));
    const __m256i abcd_i32x8 = _mm256_hadd_epi32(ab_i32x8, cd_i32x8);
    return _mm_add_epi32(_mm256_castsi256_si128(abcd_i32x8), _mm256_extracti128_si256(abcd_i32x8, 1));
}

/* The sums of 16 accumulators, in order: a transposition whose rows are added up as soon as they meet. */
MP_INLINE __m512i reduce16_(const __m512i rows_i32x16[16]) {
    __m512i pairs_i32x16[8], fours_i32x16[4], halves_i32x16[2];
    MP_UNROLL
    for (int i = 0; i < 8; i++)
        pairs_i32x16[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(rows_i32x16[2 * i], rows_i32x16[2 * i + 1]),
                                           _mm512_unpackhi_epi32(rows_i32x16[2 * i], rows_i32x16[2 * i + 1]));
    MP_UNROLL
    for (int i = 0; i < 4; i++)
        fours_i32x16[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(pairs_i32x16[2 * i], pairs_i32x16[2 * i + 1]),
                                           _mm512_unpackhi_epi64(pairs_i32x16[2 * i], pairs_i32x16[2 * i + 1]));
    /* Every 128 bits hold four rows' sums over a quarter of the dimensions: the quarters come together. */
    MP_UNROLL
    for (int i = 0; i < 2; i++)
        halves_i32x16[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(fours_i32x16[2 * i], fours_i32x16[2 * i + 1], 0x88),
                                            _mm512_shuffle_i32x4(fours_i32x16[2 * i], fours_i32x16[2 * i + 1], 0xDD));
    return _mm512_add_epi32(_mm512_shuffle_i32x4(halves_i32x16[0], halves_i32x16[1], 0x88),
                            _mm512_shuffle_i32x4(halves_i32x16[0], halves_i32x16[1], 0xDD));
}

#endif
