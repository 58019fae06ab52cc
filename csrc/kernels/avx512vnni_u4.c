/* AVX-512 VNNI, packed 4-bit codes: each half of the bytes meets its own plane of the query. */
#include "mp/kernels.h"

#include <immintrin.h>

static inline __mmask64 tail_mask_(size_t bytes) {
    return ~0ULL >> (64 - bytes); /* bytes is in 1..63 */
}

static inline __m512i low_(__m512i code_u4x128) {
    return _mm512_and_si512(code_u4x128, _mm512_set1_epi8(15));
}

static inline __m512i high_(__m512i code_u4x128) {
    return _mm512_and_si512(_mm512_srli_epi16(code_u4x128, 4), _mm512_set1_epi8(15));
}

static inline __m512i add_products_(__m512i sum_i32x16, __m512i code_u4x128, __m512i even_s8x64, __m512i odd_s8x64) {
    return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum_i32x16, low_(code_u4x128), even_s8x64), high_(code_u4x128),
                               odd_s8x64);
}

MP_KERNEL(avx512vnni)
static int32_t mp_dot_u4s8_avx512vnni(const uint8_t *code, const int8_t *query, size_t dim) {
    const size_t size = (dim + 1) / 2;
    const int8_t *odd = query + mp_plane_bytes(dim);
    /* A chain for each plane: one alone would wait for the latency of each vpdpbusd. */
    __m512i even_i32x16 = _mm512_setzero_si512(), odd_i32x16 = even_i32x16;
    size_t i = 0;
    for (; i + 64 <= size; i += 64) {
        const __m512i code_u4x128 = _mm512_loadu_si512(code + i);
        even_i32x16 = _mm512_dpbusd_epi32(even_i32x16, low_(code_u4x128), _mm512_load_si512(query + i));
        odd_i32x16 = _mm512_dpbusd_epi32(odd_i32x16, high_(code_u4x128), _mm512_load_si512(odd + i));
    }
    if (i < size) {
        const __m512i code_u4x128 = _mm512_maskz_loadu_epi8(tail_mask_(size - i), code + i);
        even_i32x16 = _mm512_dpbusd_epi32(even_i32x16, low_(code_u4x128), _mm512_load_si512(query + i));
        odd_i32x16 = _mm512_dpbusd_epi32(odd_i32x16, high_(code_u4x128), _mm512_load_si512(odd + i));
    }
    return _mm512_reduce_add_epi32(_mm512_add_epi32(even_i32x16, odd_i32x16));
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

MP_KERNEL(avx512vnni)
static void mp_dot4_u4s8_avx512vnni(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]) {
    const size_t size = (dim + 1) / 2;
    const int8_t *odd = query + mp_plane_bytes(dim);
    __m512i sums_i32x16[4];
    for (int c = 0; c < 4; c++)
        sums_i32x16[c] = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + 64 <= size; i += 64) {
        const __m512i even_s8x64 = _mm512_load_si512(query + i), odd_s8x64 = _mm512_load_si512(odd + i);
        for (int c = 0; c < 4; c++)
            sums_i32x16[c] = add_products_(sums_i32x16[c], _mm512_loadu_si512(codes[c] + i), even_s8x64, odd_s8x64);
    }
    if (i < size) {
        const __mmask64 mask = tail_mask_(size - i);
        const __m512i even_s8x64 = _mm512_load_si512(query + i), odd_s8x64 = _mm512_load_si512(odd + i);
        for (int c = 0; c < 4; c++) {
            const __m512i code_u4x128 = _mm512_maskz_loadu_epi8(mask, codes[c] + i);
            sums_i32x16[c] = add_products_(sums_i32x16[c], code_u4x128, even_s8x64, odd_s8x64);
        }
    }
    _mm_storeu_si128((__m128i *)(void *)dots, reduce4_(sums_i32x16[0], sums_i32x16[1], sums_i32x16[2], sums_i32x16[3]));
}

const struct mp_kernels mp_kernels_avx512vnni_u4 = {
    .level = "avx512vnni",
    .dot = mp_dot_u4s8_avx512vnni,
    .dot4 = mp_dot4_u4s8_avx512vnni,
};
