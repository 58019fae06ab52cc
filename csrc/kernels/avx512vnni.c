/* AVX-512 VNNI: vpdpbusd adds four u8 x s8 products to an int32 lane without saturation, so codes and queries are used
 * as they are. Zero-masked loads make tails exact without touching a byte behind the code. */
#include "mp/kernels.h"

#include <immintrin.h>

static inline __mmask64 tail_mask_(size_t bytes) {
    return ~0ULL >> (64 - bytes); /* bytes is in 1..63 */
}

MP_KERNEL(avx512vnni)
static int32_t mp_dot_u8s8_avx512vnni(const uint8_t *code, const int8_t *query, size_t dim) {
    /* Two chains: one alone would wait for the latency of each vpdpbusd. */
    __m512i even_i32x16 = _mm512_setzero_si512();
    __m512i odd_i32x16 = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + 128 <= dim; i += 128) {
        even_i32x16 = _mm512_dpbusd_epi32(even_i32x16, _mm512_loadu_si512(code + i), _mm512_load_si512(query + i));
        odd_i32x16 =
            _mm512_dpbusd_epi32(odd_i32x16, _mm512_loadu_si512(code + i + 64), _mm512_load_si512(query + i + 64));
    }
    if (i + 64 <= dim) {
        even_i32x16 = _mm512_dpbusd_epi32(even_i32x16, _mm512_loadu_si512(code + i), _mm512_load_si512(query + i));
        i += 64;
    }
    if (i < dim) {
        const __m512i code_u8x64 = _mm512_maskz_loadu_epi8(tail_mask_(dim - i), code + i);
        odd_i32x16 = _mm512_dpbusd_epi32(odd_i32x16, code_u8x64, _mm512_load_si512(query + i));
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
static void mp_dot4_u8s8_avx512vnni(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]) {
    const uint8_t *code0 = codes[0], *code1 = codes[1], *code2 = codes[2], *code3 = codes[3];
    __m512i sum0_i32x16 = _mm512_setzero_si512(), sum1_i32x16 = sum0_i32x16;
    __m512i sum2_i32x16 = sum0_i32x16, sum3_i32x16 = sum0_i32x16;
    size_t i = 0;
    for (; i + 64 <= dim; i += 64) {
        const __m512i query_s8x64 = _mm512_load_si512(query + i);
        sum0_i32x16 = _mm512_dpbusd_epi32(sum0_i32x16, _mm512_loadu_si512(code0 + i), query_s8x64);
        sum1_i32x16 = _mm512_dpbusd_epi32(sum1_i32x16, _mm512_loadu_si512(code1 + i), query_s8x64);
        sum2_i32x16 = _mm512_dpbusd_epi32(sum2_i32x16, _mm512_loadu_si512(code2 + i), query_s8x64);
        sum3_i32x16 = _mm512_dpbusd_epi32(sum3_i32x16, _mm512_loadu_si512(code3 + i), query_s8x64);
    }
    if (i < dim) {
        const __mmask64 mask = tail_mask_(dim - i);
        const __m512i query_s8x64 = _mm512_load_si512(query + i);
        sum0_i32x16 = _mm512_dpbusd_epi32(sum0_i32x16, _mm512_maskz_loadu_epi8(mask, code0 + i), query_s8x64);
        sum1_i32x16 = _mm512_dpbusd_epi32(sum1_i32x16, _mm512_maskz_loadu_epi8(mask, code1 + i), query_s8x64);
        sum2_i32x16 = _mm512_dpbusd_epi32(sum2_i32x16, _mm512_maskz_loadu_epi8(mask, code2 + i), query_s8x64);
        sum3_i32x16 = _mm512_dpbusd_epi32(sum3_i32x16, _mm512_maskz_loadu_epi8(mask, code3 + i), query_s8x64);
    }
    _mm_storeu_si128((__m128i *)dots, reduce4_(sum0_i32x16, sum1_i32x16, sum2_i32x16, sum3_i32x16));
}

/* A lane is an item here: the panel's four bytes of an item meet four query bytes broadcast to all lanes, so there is
 * nothing to add up across lanes at the end. 2 x 8 accumulators hide the latency and fit the 32 registers. */
MP_KERNEL(avx512vnni)
static void mp_panel_u8s8_avx512vnni(const uint8_t *panel, const int8_t *const queries[MP_PANEL_QUERIES], size_t dim,
                                     int32_t *dots) {
    __m512i sums_i32x16[MP_PANEL_QUERIES][2];
    for (int q = 0; q < MP_PANEL_QUERIES; q++)
        sums_i32x16[q][0] = sums_i32x16[q][1] = _mm512_setzero_si512();
    for (size_t i = 0; i < dim; i += 4) {
        const uint8_t *group = panel + i * MP_PANEL_ITEMS;
        const __m512i low_u8x64 = _mm512_load_si512(group);
        const __m512i high_u8x64 = _mm512_load_si512(group + 64);
        for (int q = 0; q < MP_PANEL_QUERIES; q++) {
            const __m512i query_s8x64 = _mm512_set1_epi32(*(const int32_t *)(const void *)(queries[q] + i));
            sums_i32x16[q][0] = _mm512_dpbusd_epi32(sums_i32x16[q][0], low_u8x64, query_s8x64);
            sums_i32x16[q][1] = _mm512_dpbusd_epi32(sums_i32x16[q][1], high_u8x64, query_s8x64);
        }
    }
    for (int q = 0; q < MP_PANEL_QUERIES; q++) {
        _mm512_storeu_si512(dots + q * MP_PANEL_ITEMS, sums_i32x16[q][0]);
        _mm512_storeu_si512(dots + q * MP_PANEL_ITEMS + 16, sums_i32x16[q][1]);
    }
}

const struct mp_kernels mp_kernels_avx512vnni = {
    .level = "avx512vnni",
    .dot = mp_dot_u8s8_avx512vnni,
    .dot4 = mp_dot4_u8s8_avx512vnni,
    .panel = mp_panel_u8s8_avx512vnni,
    .u4 = &mp_kernels_avx512vnni_u4,
};
