/* AVX-VNNI: the 256-bit form of vpdpbusd, four u8 x s8 products added to an int32 lane without saturation, on machines
 * without AVX-512 (VEX encoded, so nothing here needs its registers or masks). */
#include "shared.h"
#include "vex.h"

#define TILE_CODES 6

/* Loaded at offset `bytes`, its last `bytes` lanes are set: keeps the end of a load that overlaps what was done. */
static const uint8_t keep_last_[64] = {
    [32] = 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
    255,        255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
};

static inline __m256i load_code_(const uint8_t *code) {
    return _mm256_loadu_si256((const __m256i *)(const void *)code);
}

static inline __m256i load_query_(const int8_t *query) {
    return _mm256_loadu_si256((const __m256i *)(const void *)query);
}

/* The last 1..31 dimensions, from 32 bytes that end with the code and are zero before the tail. A code shorter than 32
 * bytes has no such load and goes through a copy. `query` gets the matching 32 values. */
static inline __m256i load_code_tail_(const uint8_t *code, size_t dim, size_t tail) {
    if (dim < 32) {
        uint8_t bytes[32] = {0};
        memcpy(bytes, code, dim);
        return load_code_(bytes);
    }
    return _mm256_and_si256(load_code_(code + dim - 32), load_code_(keep_last_ + tail));
}

static inline __m256i load_query_tail_(const int8_t *query, size_t dim) {
    return load_query_(dim < 32 ? query : query + dim - 32);
}

/* The products of one code, not yet added up. */
MP_INLINE __m256i multiply_row_(const uint8_t *code, const void *values, size_t dim) {
    const int8_t *query = values;
    __m256i even_i32x8 = _mm256_setzero_si256(), odd_i32x8 = even_i32x8;
    size_t i = 0;
    for (; i + 64 <= dim; i += 64) {
        even_i32x8 = _mm256_dpbusd_avx_epi32(even_i32x8, load_code_(code + i), load_query_(query + i));
        odd_i32x8 = _mm256_dpbusd_avx_epi32(odd_i32x8, load_code_(code + i + 32), load_query_(query + i + 32));
    }
    if (i + 32 <= dim) {
        even_i32x8 = _mm256_dpbusd_avx_epi32(even_i32x8, load_code_(code + i), load_query_(query + i));
        i += 32;
    }
    if (i < dim)
        odd_i32x8 =
            _mm256_dpbusd_avx_epi32(odd_i32x8, load_code_tail_(code, dim, dim - i), load_query_tail_(query, dim));
    return _mm256_add_epi32(even_i32x8, odd_i32x8);
}

MP_KERNEL(avxvnni)
static int32_t mp_dot_u8s8_avxvnni(const uint8_t *code, const int8_t *query, size_t dim) {
    return dot_of_row_(multiply_row_, code, query, dim);
}

MP_KERNEL(avxvnni)
static void mp_dot4_u8s8_avxvnni(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]) {
    __m256i sums_i32x8[4];
    for (int c = 0; c < 4; c++)
        sums_i32x8[c] = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 32 <= dim; i += 32) {
        const __m256i query_s8x32 = load_query_(query + i);
        for (int c = 0; c < 4; c++)
            sums_i32x8[c] = _mm256_dpbusd_avx_epi32(sums_i32x8[c], load_code_(codes[c] + i), query_s8x32);
    }
    if (i < dim) {
        const __m256i query_s8x32 = load_query_tail_(query, dim);
        for (int c = 0; c < 4; c++) {
            const __m256i code_u8x32 = load_code_tail_(codes[c], dim, dim - i);
            sums_i32x8[c] = _mm256_dpbusd_avx_epi32(sums_i32x8[c], code_u8x32, query_s8x32);
        }
    }
    _mm_storeu_si128((__m128i *)(void *)dots, reduce4_(sums_i32x8[0], sums_i32x8[1], sums_i32x8[2], sums_i32x8[3]));
}

MP_KERNEL(avxvnni)
static void mp_run_u8s8_avxvnni(const uint8_t *codes, size_t stride, size_t n, const int8_t *query, size_t dim,
                                int32_t *dots) {
    run_of_rows_(multiply_row_, codes, stride, n, query, dim, dots);
}

MP_INLINE void add_lanes_(mp_i32x8 *sums_i32x8, const uint8_t *const *codes, size_t at, const int8_t *lanes) {
    const __m256i low_s8x32 = load_query_(lanes), high_s8x32 = load_query_(lanes + 32);
    MP_UNROLL
    for (int item = 0; item < TILE_CODES; item++) {
        const __m256i code_u8x32 = _mm256_set1_epi32(mp_load4(codes[item] + at));
        mp_i32x8 *row_i32x8 = sums_i32x8 + 2 * item;
        row_i32x8[0] = (mp_i32x8)_mm256_dpbusd_avx_epi32((__m256i)row_i32x8[0], code_u8x32, low_s8x32);
        row_i32x8[1] = (mp_i32x8)_mm256_dpbusd_avx_epi32((__m256i)row_i32x8[1], code_u8x32, high_s8x32);
    }
}

/* 6 codes x 16 queries take 12 of the 16 registers. */
MP_INLINE void multiply_group_(const struct mp_tile *tile, size_t first, const int8_t *lanes, int32_t *dots) {
    const uint8_t *codes[TILE_CODES];
    mp_i32x8 sums_i32x8[2 * TILE_CODES];
    mp_block_codes(tile, first, TILE_CODES, codes);
    MP_UNROLL
    for (int i = 0; i < 2 * TILE_CODES; i++)
        sums_i32x8[i] = (mp_i32x8){0};
    for (size_t i = 0; i < tile->dim; i += 4)
        add_lanes_(sums_i32x8, codes, i, lanes + i * MP_LANES);
    MP_UNROLL
    for (int i = 0; i < 2 * TILE_CODES; i++) {
        int32_t *out = dots + (first + (size_t)i / 2) * MP_STRIP_QUERIES + 8 * (i % 2);
        _mm256_storeu_si256((__m256i *)(void *)out, (__m256i)sums_i32x8[i]);
    }
}

MP_KERNEL(avxvnni)
static void mp_tile_u8s8_avxvnni(const struct mp_tile *tile, int32_t *dots) {
    for (size_t g = 0; g < tile->n_groups; g++) {
        for (size_t first = 0; first < tile->n_items; first += TILE_CODES)
            multiply_group_(tile, first, tile->lanes + g * mp_group_bytes(tile->dim), dots + g * MP_LANES);
    }
}

const struct mp_kernels mp_kernels_avxvnni = {
    .level = "avxvnni",
    .dot = mp_dot_u8s8_avxvnni,
    .dot4 = mp_dot4_u8s8_avxvnni,
    .run = mp_run_u8s8_avxvnni,
    .tile = mp_tile_u8s8_avxvnni,
    .near = mp_near_avx2,
    .make_up = mp_make_up_avx2,
    .u4 = &mp_kernels_avxvnni_u4,
};
