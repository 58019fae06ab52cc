/* AVX2, packed 4-bit codes: vpmaddubsw is exact here, 2 * 15 * 128 fits 16 bit, and so do two of them added. */
#include "vex.h"

#include <string.h>

/* Loaded at offset `bytes`, its last `bytes` lanes are set: keeps the end of a load that overlaps what was done. */
static const uint8_t keep_last_[64] = {
    [32] = 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
    255,        255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
};

static inline __m256i load_(const void *bytes) {
    return _mm256_loadu_si256((const __m256i *)bytes);
}

/* The last 1..31 bytes, from 32 bytes that end with the code and are zero before the tail. */
static inline __m256i load_code_tail_(const uint8_t *code, size_t size, size_t tail) {
    if (size < 32) {
        uint8_t bytes[32] = {0};
        memcpy(bytes, code, size);
        return load_(bytes);
    }
    return _mm256_and_si256(load_(code + size - 32), load_(keep_last_ + tail));
}

static inline __m256i add_products_(__m256i sum_i32x8, __m256i code_u4x64, __m256i even_s8x32, __m256i odd_s8x32) {
    const __m256i nibble_u8x32 = _mm256_set1_epi8(15);
    const __m256i low_u8x32 = _mm256_and_si256(code_u4x64, nibble_u8x32);
    const __m256i high_u8x32 = _mm256_and_si256(_mm256_srli_epi16(code_u4x64, 4), nibble_u8x32);
    const __m256i pairs_i16x16 =
        _mm256_add_epi16(_mm256_maddubs_epi16(low_u8x32, even_s8x32), _mm256_maddubs_epi16(high_u8x32, odd_s8x32));
    return _mm256_add_epi32(sum_i32x8, _mm256_madd_epi16(pairs_i16x16, _mm256_set1_epi16(1)));
}

/* The products of one code, not yet added up. */
MP_INLINE __m256i multiply_row_(const uint8_t *code, const void *planes, size_t dim) {
    const size_t size = (dim + 1) / 2;
    const int8_t *query = planes, *odd = query + mp_plane_bytes(dim);
    __m256i sum_i32x8 = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 32 <= size; i += 32)
        sum_i32x8 = add_products_(sum_i32x8, load_(code + i), load_(query + i), load_(odd + i));
    if (i < size) {
        const size_t from = size < 32 ? 0 : size - 32;
        sum_i32x8 =
            add_products_(sum_i32x8, load_code_tail_(code, size, size - i), load_(query + from), load_(odd + from));
    }
    return sum_i32x8;
}

MP_KERNEL(avx2)
static int32_t mp_dot_u4s8_avx2(const uint8_t *code, const int8_t *query, size_t dim) {
    return dot_of_row_(multiply_row_, code, query, dim);
}

MP_KERNEL(avx2)
static void mp_dot4_u4s8_avx2(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]) {
    const size_t size = (dim + 1) / 2;
    const int8_t *odd = query + mp_plane_bytes(dim);
    __m256i sums_i32x8[4];
    for (int c = 0; c < 4; c++)
        sums_i32x8[c] = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 32 <= size; i += 32) {
        const __m256i even_s8x32 = load_(query + i), odd_s8x32 = load_(odd + i);
        for (int c = 0; c < 4; c++)
            sums_i32x8[c] = add_products_(sums_i32x8[c], load_(codes[c] + i), even_s8x32, odd_s8x32);
    }
    if (i < size) {
        const size_t from = size < 32 ? 0 : size - 32;
        const __m256i even_s8x32 = load_(query + from), odd_s8x32 = load_(odd + from);
        for (int c = 0; c < 4; c++) {
            const __m256i code_u4x64 = load_code_tail_(codes[c], size, size - i);
            sums_i32x8[c] = add_products_(sums_i32x8[c], code_u4x64, even_s8x32, odd_s8x32);
        }
    }
    _mm_storeu_si128((__m128i *)(void *)dots, reduce4_(sums_i32x8[0], sums_i32x8[1], sums_i32x8[2], sums_i32x8[3]));
}

MP_KERNEL(avx2)
static void mp_run_u4s8_avx2(const uint8_t *codes, size_t stride, size_t n, const int8_t *query, size_t dim,
                             int32_t *dots) {
    run_of_rows_(multiply_row_, codes, stride, n, query, dim, dots);
}

const struct mp_kernels mp_kernels_avx2_u4 = {
    .level = "avx2",
    .dot = mp_dot_u4s8_avx2,
    .dot4 = mp_dot4_u4s8_avx2,
    .run = mp_run_u4s8_avx2,
};
