/* AVX-512 VNNI: vpdpbusd adds four u8 x s8 products to an int32 lane without saturation, so codes and queries are used
 * as they are. Zero-masked loads make tails exact without touching a byte behind the code. */
#include "avx512.h"
#include "shared.h"

MP_KERNEL(avx512vnni)
int32_t mp_dot_u8s8_avx512vnni(const uint8_t *code, const int8_t *query, size_t dim) {
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

MP_KERNEL(avx512vnni)
void mp_dot4_u8s8_avx512vnni(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]) {
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

/* The products of one code, not yet added up. */
MP_INLINE __m512i multiply_row_(const uint8_t *code, const int8_t *query, size_t whole, __mmask64 tail) {
    __m512i sum_i32x16 = _mm512_setzero_si512();
    for (size_t i = 0; i < whole; i += 64)
        sum_i32x16 = _mm512_dpbusd_epi32(sum_i32x16, _mm512_loadu_si512(code + i), _mm512_load_si512(query + i));
    if (tail) {
        const __m512i code_u8x64 = _mm512_maskz_loadu_epi8(tail, code + whole);
        sum_i32x16 = _mm512_dpbusd_epi32(sum_i32x16, code_u8x64, _mm512_load_si512(query + whole));
    }
    return sum_i32x16;
}

MP_KERNEL(avx512vnni)
void mp_run_u8s8_avx512vnni(const uint8_t *codes, size_t stride, size_t n, const int8_t *query, size_t dim,
                            int32_t *dots) {
    const size_t whole = dim / 64 * 64;
    const __mmask64 tail = dim > whole ? tail_mask_(dim - whole) : 0;
    for (; n >= 16; n -= 16, codes += 16 * stride, dots += 16) {
        __m512i rows_i32x16[16];
        MP_UNROLL
        for (int row = 0; row < 16; row++)
            rows_i32x16[row] = multiply_row_(codes + (size_t)row * stride, query, whole, tail);
        _mm512_storeu_si512(dots, reduce16_(rows_i32x16));
    }
    for (size_t row = 0; row < n; row++)
        dots[row] = _mm512_reduce_add_epi32(multiply_row_(codes + row * stride, query, whole, tail));
}

MP_INLINE void add_products_(mp_i32x16 *sums_i32x16, const uint8_t *const *codes, size_t at, const int8_t *lanes,
                             size_t group_bytes, const int n_items, const int n_groups) {
    __m512i lanes_s8x64[MP_STRIP_GROUPS];
    MP_UNROLL
    for (int g = 0; g < n_groups; g++)
        lanes_s8x64[g] = _mm512_load_si512(lanes + (size_t)g * group_bytes);
    MP_UNROLL
    for (int item = 0; item < n_items; item++) {
        const __m512i code_u8x64 = _mm512_set1_epi32(mp_load4(codes[item] + at));
        mp_i32x16 *row_i32x16 = sums_i32x16 + item * n_groups;
        MP_UNROLL
        for (int g = 0; g < n_groups; g++)
            row_i32x16[g] = (mp_i32x16)_mm512_dpbusd_epi32((__m512i)row_i32x16[g], code_u8x64, lanes_s8x64[g]);
    }
}

/* Constant sizes, so that the accumulators are registers. */
MP_INLINE void multiply_block_(const struct mp_tile *tile, size_t first, int32_t *dots, const int n_items,
                               const int n_groups) {
    const size_t group_bytes = mp_group_bytes(tile->dim);
    const uint8_t *codes[8];
    mp_i32x16 sums_i32x16[16];
    mp_block_codes(tile, first, n_items, codes);
    MP_UNROLL
    for (int i = 0; i < n_items * n_groups; i++)
        sums_i32x16[i] = (mp_i32x16){0};
    for (size_t i = 0; i < tile->dim; i += 4)
        add_products_(sums_i32x16, codes, i, tile->lanes + i * MP_LANES, group_bytes, n_items, n_groups);
    MP_UNROLL
    for (int item = 0; item < n_items; item++) {
        MP_UNROLL
        for (int g = 0; g < n_groups; g++)
            _mm512_storeu_si512(dots + (first + (size_t)item) * MP_STRIP_QUERIES + MP_LANES * g,
                                (__m512i)sums_i32x16[item * n_groups + g]);
    }
}

/* 8 accumulators at least hide the latency; more codes than these at once would need more loads than products. */
MP_KERNEL(avx512vnni)
static void mp_tile_u8s8_avx512vnni(const struct mp_tile *tile, int32_t *dots) {
    const size_t step = tile->n_groups > 2 ? 4 : 8;
    for (size_t first = 0; first < tile->n_items; first += step) {
        switch (tile->n_groups) {
        case 4:
            multiply_block_(tile, first, dots, 4, 4);
            break;
        case 3:
            multiply_block_(tile, first, dots, 4, 3);
            break;
        case 2:
            multiply_block_(tile, first, dots, 8, 2);
            break;
        default:
            multiply_block_(tile, first, dots, 8, 1);
        }
    }
}

MP_KERNEL(avx512vnni)
void mp_near_avx512vnni(const int32_t *dots, size_t n_items, size_t n_groups, const float *norms,
                        const struct mp_strip_keys *keys, uint64_t near[MP_TILE_ITEMS]) {
    for (size_t item = 0; item < n_items; item++) {
        const __m512 norm_f32x16 = _mm512_set1_ps(norms[item]);
        uint64_t bits = 0;
        for (size_t q = 0; q < n_groups * MP_LANES; q += 16) {
            const __m512 dots_f32x16 = _mm512_cvtepi32_ps(_mm512_loadu_si512(dots + item * MP_STRIP_QUERIES + q));
            const __m512 products_f32x16 = _mm512_mul_ps(_mm512_loadu_ps(keys->weights + q), dots_f32x16);
            const __m512 sums_f32x16 = _mm512_add_ps(_mm512_loadu_ps(keys->constants + q), products_f32x16);
            const __m512 keys_f32x16 = _mm512_add_ps(norm_f32x16, sums_f32x16);
            const __mmask16 mask = _mm512_cmp_ps_mask(keys_f32x16, _mm512_loadu_ps(keys->worst + q), _CMP_LE_OQ);
            bits |= (uint64_t)mask << q;
        }
        near[item] = bits;
    }
}

MP_KERNEL(avx512vnni)
void mp_make_up_avx512vnni(const float *errors, size_t n, const uint16_t *row, size_t count, float *rests,
                           size_t stride) {
    for (size_t j = 0; j < count; j += 16) {
        const __mmask16 mask = count - j < 16 ? (__mmask16)((1u << (count - j)) - 1) : (__mmask16)0xFFFF;
        const __m256i halves_u16x16 = _mm256_maskz_loadu_epi16(mask, row + j);
        const __m512 row_f32x16 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves_u16x16), 16));
        for (size_t r = 0; r < n; r++) {
            float *rest = rests + r * stride + j;
            const __m512 loss_f32x16 = _mm512_mul_ps(_mm512_set1_ps(errors[r]), row_f32x16);
            _mm512_mask_storeu_ps(rest, mask, _mm512_sub_ps(_mm512_maskz_loadu_ps(mask, rest), loss_f32x16));
        }
    }
}

const struct mp_kernels mp_kernels_avx512vnni = {
    .level = "avx512vnni",
    .dot = mp_dot_u8s8_avx512vnni,
    .dot4 = mp_dot4_u8s8_avx512vnni,
    .run = mp_run_u8s8_avx512vnni,
    .tile = mp_tile_u8s8_avx512vnni,
    .near = mp_near_avx512vnni,
    .make_up = mp_make_up_avx512vnni,
    .u4 = &mp_kernels_avx512vnni_u4,
};
