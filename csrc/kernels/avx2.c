/* AVX2: both sides are widened to 16 bit and multiplied with vpmaddwd, which is exact. vpmaddubsw would do twice the
 * work per instruction but saturates: 2 * 255 * 127 does not fit 16 bit. */
#include "mp/kernels.h"

#include <immintrin.h>
#include <string.h>

/* Loaded at offset `bytes`, its last `bytes` lanes are set: keeps the end of a load that overlaps what was done. */
static const uint8_t keep_last_[32] = {0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,
                                       255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};

static inline __m256i load_code_(const uint8_t *code) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)code));
}

static inline __m256i load_query_(const int8_t *query) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)query));
}

/* The last 1..15 dimensions, from 16 bytes that end with the code and are zero before the tail. A code shorter than 16
 * bytes has no such load and goes through a copy. `query` gets the matching 16 values. */
static inline __m256i load_code_tail_(const uint8_t *code, size_t dim, size_t tail) {
    if (dim < 16) {
        uint8_t bytes[16] = {0};
        memcpy(bytes, code, dim);
        return load_code_(bytes);
    }
    const __m128i code_u8x16 = _mm_loadu_si128((const __m128i *)(const void *)(code + dim - 16));
    const __m128i keep_u8x16 = _mm_loadu_si128((const __m128i *)(const void *)(keep_last_ + tail));
    return _mm256_cvtepu8_epi16(_mm_and_si128(code_u8x16, keep_u8x16));
}

static inline __m256i load_query_tail_(const int8_t *query, size_t dim) {
    return load_query_(dim < 16 ? query : query + dim - 16);
}

static inline __m256i add_products_(__m256i sum_i32x8, __m256i code_i16x16, __m256i query_i16x16) {
    return _mm256_add_epi32(sum_i32x8, _mm256_madd_epi16(code_i16x16, query_i16x16));
}

/* The sums of four accumulators, in order. */
static inline __m128i reduce4_(__m256i a, __m256i b, __m256i c, __m256i d) {
    const __m256i abcd_i32x8 = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    return _mm_add_epi32(_mm256_castsi256_si128(abcd_i32x8), _mm256_extracti128_si256(abcd_i32x8, 1));
}

MP_KERNEL(avx2)
static int32_t mp_dot_u8s8_avx2(const uint8_t *code, const int8_t *query, size_t dim) {
    __m256i even_i32x8 = _mm256_setzero_si256(), odd_i32x8 = even_i32x8;
    size_t i = 0;
    for (; i + 32 <= dim; i += 32) {
        even_i32x8 = add_products_(even_i32x8, load_code_(code + i), load_query_(query + i));
        odd_i32x8 = add_products_(odd_i32x8, load_code_(code + i + 16), load_query_(query + i + 16));
    }
    if (i + 16 <= dim) {
        even_i32x8 = add_products_(even_i32x8, load_code_(code + i), load_query_(query + i));
        i += 16;
    }
    if (i < dim)
        odd_i32x8 = add_products_(odd_i32x8, load_code_tail_(code, dim, dim - i), load_query_tail_(query, dim));
    const __m256i sum_i32x8 = _mm256_add_epi32(even_i32x8, odd_i32x8);
    return _mm_cvtsi128_si32(reduce4_(sum_i32x8, sum_i32x8, sum_i32x8, sum_i32x8));
}

MP_KERNEL(avx2)
static void mp_dot4_u8s8_avx2(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]) {
    __m256i sums_i32x8[4];
    for (int c = 0; c < 4; c++)
        sums_i32x8[c] = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 16 <= dim; i += 16) {
        const __m256i query_i16x16 = load_query_(query + i); /* widened once for four codes */
        for (int c = 0; c < 4; c++)
            sums_i32x8[c] = add_products_(sums_i32x8[c], load_code_(codes[c] + i), query_i16x16);
    }
    if (i < dim) {
        const __m256i query_i16x16 = load_query_tail_(query, dim);
        for (int c = 0; c < 4; c++)
            sums_i32x8[c] = add_products_(sums_i32x8[c], load_code_tail_(codes[c], dim, dim - i), query_i16x16);
    }
    _mm_storeu_si128((__m128i *)(void *)dots, reduce4_(sums_i32x8[0], sums_i32x8[1], sums_i32x8[2], sums_i32x8[3]));
}

/* Four items of a panel for one query: each item's four dimensions become two int32 lanes, paired up at the end. */
static inline void panel4_(const uint8_t *panel, const int8_t *query, size_t dim, __m256i sums_i32x8[4]) {
    for (size_t i = 0; i < dim; i += 4) {
        int32_t bytes;
        memcpy(&bytes, query + i, 4);
        const __m256i query_i16x16 = _mm256_cvtepi8_epi16(_mm_set1_epi32(bytes));
        for (int c = 0; c < 4; c++)
            sums_i32x8[c] = add_products_(sums_i32x8[c], load_code_(panel + i * MP_PANEL_ITEMS + 16 * c), query_i16x16);
    }
}

MP_KERNEL(avx2)
static void mp_panel_u8s8_avx2(const uint8_t *panel, const int8_t *const queries[MP_PANEL_QUERIES], size_t dim,
                               int32_t *dots) {
    for (size_t q = 0; q < MP_PANEL_QUERIES; q++) {
        for (size_t item = 0; item < MP_PANEL_ITEMS; item += 16) {
            __m256i sums_i32x8[4];
            for (int c = 0; c < 4; c++)
                sums_i32x8[c] = _mm256_setzero_si256();
            panel4_(panel + 4 * item, queries[q], dim, sums_i32x8);
            for (int c = 0; c < 4; c += 2) {
                /* hadd pairs within 128-bit halves; the permutation restores the order of the items */
                const __m256i pairs_i32x8 = _mm256_hadd_epi32(sums_i32x8[c], sums_i32x8[c + 1]);
                const __m256i dots_i32x8 = _mm256_permute4x64_epi64(pairs_i32x8, 0xD8);
                _mm256_storeu_si256((__m256i *)(void *)(dots + q * MP_PANEL_ITEMS + item + 4 * c), dots_i32x8);
            }
        }
    }
}

const struct mp_kernels mp_kernels_avx2 = {
    .level = "avx2",
    .dot = mp_dot_u8s8_avx2,
    .dot4 = mp_dot4_u8s8_avx2,
    .panel = mp_panel_u8s8_avx2,
    .u4 = &mp_kernels_avx2_u4,
};
