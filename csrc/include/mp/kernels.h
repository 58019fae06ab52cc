/* The inner products that everything else is made of.
 *
 *   dot(c, v) = sum_i c_i * v_i        c_i in 0..255 (u8) or 0..15 (u4), v_i in -128..127 (int8)
 *
 * Accumulator: int32, exact. |dot| <= dim * 255 * 128, below 2^31 for dim <= MP_MAX_DIM; no step saturates, so every
 * level returns the same integer. dim = 0 gives 0.
 *
 * A u4 code holds two dimensions a byte, the even one in the low half (FAISS' QT_4bit); the last high half of an odd
 * dimension may hold anything. Its query comes in planes, so that a load of it meets one half of a load of code bytes:
 * the even dimensions, and at mp_plane_bytes(dim) the odd ones.
 *
 * Memory: a kernel reads exactly `dim` bytes of a u8 code and (dim + 1) / 2 of a u4 code (codes may end where somebody
 * else's mapping ends). Queries are ours: 64-byte aligned, each plane padded with zeros to a multiple of MP_ALIGN
 * bytes, and may be read up to there.
 *
 * Kernels take pointers and lengths; they do not allocate and cannot fail.
 */
#ifndef MP_KERNELS_H
#define MP_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define MP_ALIGN 64
#define MP_MAX_DIM 65536

/* The batch kernel multiplies a tile of codes with a strip of queries. A lane is a query: MP_LANES queries make a
 * group, in which four dimensions of each lie side by side, lanes[i * MP_LANES + 4 * lane + j] = query[lane][i + j] i =
 * 0, 4, 8, ..; j in 0..3 so that four bytes of a code, broadcast, meet all of them and nothing is to be added up across
 * lanes. A group takes mp_group_bytes(dim), zeros behind dim; up to MP_STRIP_GROUPS groups one behind the other are a
 * strip. The codes are copies in rows of mp_round_up(dim, MP_ALIGN) bytes, which may be read up to there. Both are
 * MP_ALIGN aligned. */
#define MP_LANES 16
#define MP_STRIP_GROUPS 4
#define MP_STRIP_QUERIES (MP_STRIP_GROUPS * MP_LANES)
#define MP_TILE_ITEMS 48 /* a multiple of the codes that any level takes at once */

/* Kernels above the base ABI lie in a section of their own, so that a look at the module's other sections proves that
 * nothing else needs more than the base ABI. */
#if defined(__ELF__)
#define MP_KERNEL(level) __attribute__((section("mp_text_" #level)))
#else
#define MP_KERNEL(level)
#endif

typedef int32_t (*mp_dot_fn)(const uint8_t *code, const int8_t *query, size_t dim);
typedef void (*mp_dot4_fn)(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]);
/* The products of n codes that lie `stride` bytes apart, read in the order of their addresses: the hardware foresees
 * that, where it does not foresee the same line of four codes after the other. */
typedef void (*mp_run_fn)(const uint8_t *codes, size_t stride, size_t n, const int8_t *query, size_t dim,
                          int32_t *dots);

struct mp_tile {
    const uint8_t *codes;
    size_t n_items; /* 1..MP_TILE_ITEMS */
    const int8_t *lanes;
    size_t n_groups; /* 1..MP_STRIP_GROUPS */
    size_t dim;
};

/* dots[item * MP_STRIP_QUERIES + query] for all items and the queries of all groups. `dots` has room
 * for MP_TILE_ITEMS rows; what is not asked for may hold anything afterwards. */
typedef void (*mp_tile_u8s8_fn)(const struct mp_tile *tile, int32_t *dots);

/* How each query of a strip makes keys (scan.h) of products, and the largest key that it has a use for. */
struct mp_strip_keys {
    float weights[MP_STRIP_QUERIES];
    float constants[MP_STRIP_QUERIES];
    float worst[MP_STRIP_QUERIES];
};

/* near[item], bit q: whether norms[item] + (constants[q] + weights[q] * dot) <= worst[q], each step rounded to float;
 * not if a NaN comes in. Bits behind the last group are 0. */
typedef void (*mp_near_fn)(const int32_t *dots, size_t n_items, size_t n_groups, const float *norms,
                           const struct mp_strip_keys *keys, uint64_t near[MP_TILE_ITEMS]);

/* What encoding with feedback does all the time (feedback.h): rests[r * stride + j] -= errors[r] * row[j] for n rows r
 * and count columns j, the row in bfloat16; product and difference are each rounded to float. n is 1..MP_FED_ROWS. */
#define MP_FED_ROWS 4
typedef void (*mp_make_up_fn)(const float *errors, size_t n, const uint16_t *row, size_t count, float *rests,
                              size_t stride);

struct mp_kernels {
    const char *level;
    mp_dot_fn dot;
    mp_dot4_fn dot4;
    mp_run_fn run;
    mp_tile_u8s8_fn tile; /* this and what follows are NULL in tables of u4 kernels: strips meet bytes */
    mp_near_fn near;
    mp_make_up_fn make_up;
    const struct mp_kernels *u4; /* those of this level; NULL in themselves */
};

extern const struct mp_kernels mp_kernels_serial;
#if defined(MP_X86)
extern const struct mp_kernels mp_kernels_avx2, mp_kernels_avx2_u4;
#if defined(MP_AVXVNNI) /* the compiler knows it */
extern const struct mp_kernels mp_kernels_avxvnni, mp_kernels_avxvnni_u4;
#endif
extern const struct mp_kernels mp_kernels_avx512vnni, mp_kernels_avx512vnni_u4;
#if defined(MP_AMX)
extern const struct mp_kernels mp_kernels_amx;
#endif
#elif defined(MP_ARM64)
extern const struct mp_kernels mp_kernels_neondot, mp_kernels_neondot_u4;
extern const struct mp_kernels mp_kernels_neoni8mm;
#endif

static inline size_t mp_round_up(size_t value, size_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

static inline size_t mp_group_bytes(size_t dim) {
    return mp_round_up(dim, MP_ALIGN) * MP_LANES;
}

static inline size_t mp_plane_bytes(size_t dim) {
    return mp_round_up((dim + 1) / 2, MP_ALIGN);
}

#endif
