/* AVX2: both sides are widened to 16 bit and multiplied with vpmaddwd, which is exact. vpmaddubsw would do twice the
 * work per instruction but saturates: 2 * 255 * 127 does not fit 16 bit. */
#include "shared.h"
#include "vex.h"

#define TILE_CODES 2
#define WIDE_DIMS 2048 /* of a query that is widened for a run: 4 KB of the first-level cache beside the codes */

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

/* 16 values of a query from `at` on: as they come, or widened before. */
typedef __m256i (*load_values_fn_)(const void *query, size_t at);

MP_INLINE __m256i load_narrow_(const void *query, size_t at) {
    return load_query_((const int8_t *)query + at);
}

MP_INLINE __m256i load_wide_(const void *query, size_t at) {
    return _mm256_loadu_si256((const __m256i *)(const void *)((const int16_t *)query + at));
}

/* The products of one code, not yet added up. */
MP_INLINE __m256i multiply_by_(load_values_fn_ load, const uint8_t *code, const void *query, size_t dim) {
    __m256i even_i32x8 = _mm256_setzero_si256(), odd_i32x8 = even_i32x8;
    size_t i = 0;
    for (; i + 32 <= dim; i += 32) {
        even_i32x8 = add_products_(even_i32x8, load_code_(code + i), load(query, i));
        odd_i32x8 = add_products_(odd_i32x8, load_code_(code + i + 16), load(query, i + 16));
    }
    if (i + 16 <= dim) {
        even_i32x8 = add_products_(even_i32x8, load_code_(code + i), load(query, i));
        i += 16;
    }
    if (i < dim)
        odd_i32x8 = add_products_(odd_i32x8, load_code_tail_(code, dim, dim - i), load(query, dim < 16 ? 0 : dim - 16));
    return _mm256_add_epi32(even_i32x8, odd_i32x8);
}

MP_INLINE __m256i multiply_row_(const uint8_t *code, const void *query, size_t dim) {
    return multiply_by_(load_narrow_, code, query, dim);
}

MP_INLINE __m256i multiply_wide_row_(const uint8_t *code, const void *query, size_t dim) {
    return multiply_by_(load_wide_, code, query, dim);
}

MP_KERNEL(avx2)
static int32_t mp_dot_u8s8_avx2(const uint8_t *code, const int8_t *query, size_t dim) {
    return dot_of_row_(multiply_row_, code, query, dim);
}

/* 32 dimensions of four codes, even and odd ones apart: a mask and a shift widen 32 bytes where they lie, as two loads
 * that widen would with shuffles, of which a processor does half as many at a time. */
MP_INLINE void add_parted_(mp_i32x8 sums_i32x8[4], const uint8_t *const codes[4], size_t at, const int8_t *query) {
    const __m256i query_s8x32 = _mm256_loadu_si256((const __m256i *)(const void *)(query + at));
    const __m256i even_i16x16 = _mm256_srai_epi16(_mm256_slli_epi16(query_s8x32, 8), 8);
    const __m256i odd_i16x16 = _mm256_srai_epi16(query_s8x32, 8);
    MP_UNROLL
    for (int c = 0; c < 4; c++) {
        const __m256i code_u8x32 = _mm256_loadu_si256((const __m256i *)(const void *)(codes[c] + at));
        const __m256i low_u16x16 = _mm256_and_si256(code_u8x32, _mm256_set1_epi16(255));
        const __m256i high_u16x16 = _mm256_srli_epi16(code_u8x32, 8);
        sums_i32x8[c] +=
            (mp_i32x8)_mm256_madd_epi16(low_u16x16, even_i16x16) + (mp_i32x8)_mm256_madd_epi16(high_u16x16, odd_i16x16);
    }
}

MP_KERNEL(avx2)
static void mp_dot4_u8s8_avx2(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]) {
    mp_i32x8 sums_i32x8[4] = {{0}, {0}, {0}, {0}};
    size_t i = 0;
    for (; i + 32 <= dim; i += 32)
        add_parted_(sums_i32x8, codes, i, query);
    for (; i + 16 <= dim; i += 16) {
        const __m256i query_i16x16 = load_query_(query + i);
        for (int c = 0; c < 4; c++)
            sums_i32x8[c] += (mp_i32x8)_mm256_madd_epi16(load_code_(codes[c] + i), query_i16x16);
    }
    if (i < dim) {
        const __m256i query_i16x16 = load_query_tail_(query, dim);
        for (int c = 0; c < 4; c++)
            sums_i32x8[c] += (mp_i32x8)_mm256_madd_epi16(load_code_tail_(codes[c], dim, dim - i), query_i16x16);
    }
    const __m128i sums_i32x4 =
        reduce4_((__m256i)sums_i32x8[0], (__m256i)sums_i32x8[1], (__m256i)sums_i32x8[2], (__m256i)sums_i32x8[3]);
    _mm_storeu_si128((__m128i *)(void *)dots, sums_i32x4);
}

MP_KERNEL(avx2)
static void mp_run_u8s8_avx2(const uint8_t *codes, size_t stride, size_t n, const int8_t *query, size_t dim,
                             int32_t *dots) {
    if (dim > WIDE_DIMS) {
        run_of_rows_(multiply_row_, codes, stride, n, query, dim, dots);
        return;
    }
    /* Widened once: for each code anew it would take as long as all the rest. */
    int16_t wide[WIDE_DIMS];
    for (size_t i = 0; i < dim; i += 16)
        _mm256_storeu_si256((__m256i *)(void *)(wide + i), load_query_(query + i));
    run_of_rows_(multiply_wide_row_, codes, stride, n, wide, dim, dots);
}

/* Lanes are queries, each as two int32 that are added up at the end: 16-bit products come in pairs. */
MP_INLINE void add_lanes_(mp_i32x8 *sums_i32x8, const uint8_t *const *codes, size_t at, const int8_t *lanes) {
    __m256i codes_i16x16[TILE_CODES];
    MP_UNROLL
    for (int item = 0; item < TILE_CODES; item++)
        codes_i16x16[item] = _mm256_cvtepu8_epi16(_mm_set1_epi32(mp_load4(codes[item] + at)));
    MP_UNROLL
    for (int part = 0; part < 4; part++) {
        const __m256i lanes_i16x16 = load_query_(lanes + 16 * part);
        MP_UNROLL
        for (int item = 0; item < TILE_CODES; item++) {
            sums_i32x8[4 * item + part] += (mp_i32x8)_mm256_madd_epi16(codes_i16x16[item], lanes_i16x16);
        }
    }
}

/* hadd pairs within 128-bit halves; the permutation restores the order of the queries. */
static inline void store_lanes_(int32_t *dots, mp_i32x8 first_i32x8, mp_i32x8 second_i32x8) {
    const __m256i pairs_i32x8 = _mm256_hadd_epi32((__m256i)first_i32x8, (__m256i)second_i32x8);
    _mm256_storeu_si256((__m256i *)(void *)dots, _mm256_permute4x64_epi64(pairs_i32x8, 0xD8));
}

/* 2 codes x 16 queries take 8 of the 16 registers. */
MP_INLINE void multiply_group_(const struct mp_tile *tile, size_t first, const int8_t *lanes, int32_t *dots) {
    const uint8_t *codes[TILE_CODES];
    mp_i32x8 sums_i32x8[4 * TILE_CODES];
    mp_block_codes(tile, first, TILE_CODES, codes);
    MP_UNROLL
    for (int i = 0; i < 4 * TILE_CODES; i++)
        sums_i32x8[i] = (mp_i32x8){0};
    for (size_t i = 0; i < tile->dim; i += 4)
        add_lanes_(sums_i32x8, codes, i, lanes + i * MP_LANES);
    MP_UNROLL
    for (int item = 0; item < TILE_CODES; item++) {
        int32_t *row = dots + (first + (size_t)item) * MP_STRIP_QUERIES;
        store_lanes_(row, sums_i32x8[4 * item], sums_i32x8[4 * item + 1]);
        store_lanes_(row + 8, sums_i32x8[4 * item + 2], sums_i32x8[4 * item + 3]);
    }
}

MP_KERNEL(avx2)
static void mp_tile_u8s8_avx2(const struct mp_tile *tile, int32_t *dots) {
    for (size_t g = 0; g < tile->n_groups; g++) {
        for (size_t first = 0; first < tile->n_items; first += TILE_CODES)
            multiply_group_(tile, first, tile->lanes + g * mp_group_bytes(tile->dim), dots + g * MP_LANES);
    }
}

MP_KERNEL(avx2)
void mp_near_avx2(const int32_t *dots, size_t n_items, size_t n_groups, const float *norms,
                  const struct mp_strip_keys *keys, uint64_t near[MP_TILE_ITEMS]) {
    for (size_t item = 0; item < n_items; item++) {
        const __m256 norm_f32x8 = _mm256_set1_ps(norms[item]);
        uint64_t bits = 0;
        for (size_t q = 0; q < n_groups * MP_LANES; q += 8) {
            const int32_t *dots8 = dots + item * MP_STRIP_QUERIES + q;
            const __m256 dots_f32x8 = _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(const void *)dots8));
            const __m256 products_f32x8 = _mm256_mul_ps(_mm256_loadu_ps(keys->weights + q), dots_f32x8);
            const __m256 sums_f32x8 = _mm256_add_ps(_mm256_loadu_ps(keys->constants + q), products_f32x8);
            const __m256 keys_f32x8 = _mm256_add_ps(norm_f32x8, sums_f32x8);
            const __m256 near_f32x8 = _mm256_cmp_ps(keys_f32x8, _mm256_loadu_ps(keys->worst + q), _CMP_LE_OQ);
            bits |= (uint64_t)(unsigned)_mm256_movemask_ps(near_f32x8) << q;
        }
        near[item] = bits;
    }
}

MP_KERNEL(avx2)
void mp_make_up_avx2(const float *errors, size_t n, const uint16_t *row, size_t count, float *rests, size_t stride) {
    size_t j = 0;
    for (; j + 8 <= count; j += 8) {
        const __m128i halves_u16x8 = _mm_loadu_si128((const __m128i *)(const void *)(row + j));
        const __m256 row_f32x8 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves_u16x8), 16));
        for (size_t r = 0; r < n; r++) {
            float *rest = rests + r * stride + j;
            const __m256 loss_f32x8 = _mm256_mul_ps(_mm256_set1_ps(errors[r]), row_f32x8);
            _mm256_storeu_ps(rest, _mm256_sub_ps(_mm256_loadu_ps(rest), loss_f32x8));
        }
    }
    mp_make_up_plainly(errors, n, row, j, count, rests, stride);
}

const struct mp_kernels mp_kernels_avx2 = {
    .level = "avx2",
    .dot = mp_dot_u8s8_avx2,
    .dot4 = mp_dot4_u8s8_avx2,
    .run = mp_run_u8s8_avx2,
    .tile = mp_tile_u8s8_avx2,
    .near = mp_near_avx2,
    .make_up = mp_make_up_avx2,
    .u4 = &mp_kernels_avx2_u4,
};
