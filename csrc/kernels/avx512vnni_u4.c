/* AVX-512 VNNI, packed 4-bit codes: each half of the bytes meets its own plane of the query. */
#include "avx512.h"

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

/* The products of one code, not yet added up. */
MP_INLINE __m512i multiply_row_(const uint8_t *code, const int8_t *query, const int8_t *odd, size_t whole,
                                __mmask64 tail) {
    __m512i sum_i32x16 = _mm512_setzero_si512();
    for (size_t i = 0; i < whole; i += 64)
        sum_i32x16 = add_products_(sum_i32x16, _mm512_loadu_si512(code + i), _mm512_load_si512(query + i),
                                   _mm512_load_si512(odd + i));
    if (tail)
        sum_i32x16 = add_products_(sum_i32x16, _mm512_maskz_loadu_epi8(tail, code + whole),
                                   _mm512_load_si512(query + whole), _mm512_load_si512(odd + whole));
    return sum_i32x16;
}

MP_KERNEL(avx512vnni)
static void mp_run_u4s8_avx512vnni(const uint8_t *codes, size_t stride, size_t n, const int8_t *query, size_t dim,
                                   int32_t *dots) {
    const size_t size = (dim + 1) / 2, whole = size / 64 * 64;
    const __mmask64 tail = size > whole ? tail_mask_(size - whole) : 0;
    const int8_t *odd = query + mp_plane_bytes(dim);
    for (; n >= 16; n -= 16, codes += 16 * stride, dots += 16) {
        __m512i rows_i32x16[16];
        MP_UNROLL
        for (int row = 0; row < 16; row++)
            rows_i32x16[row] = multiply_row_(codes + (size_t)row * stride, query, odd, whole, tail);
        _mm512_storeu_si512(dots, reduce16_(rows_i32x16));
    }
    for (size_t row = 0; row < n; row++)
        dots[row] = _mm512_reduce_add_epi32(multiply_row_(codes + row * stride, query, odd, whole, tail));
}

const struct mp_kernels mp_kernels_avx512vnni_u4 = {
    .level = "avx512vnni",
    .dot = mp_dot_u4s8_avx512vnni,
    .dot4 = mp_dot4_u4s8_avx512vnni,
    .run = mp_run_u4s8_avx512vnni,
};
