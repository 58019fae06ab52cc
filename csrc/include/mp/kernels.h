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

/* A panel holds the codes of MP_PANEL_ITEMS items for the batch kernel, four dimensions of each item side by side:
 * panel[(g * MP_PANEL_ITEMS + item) * 4 + j] = code[item][4 * g + j], dimensions padded with zeros to a multiple of 4.
 */
#define MP_PANEL_ITEMS 32
#define MP_PANEL_QUERIES 8

/* Kernels above the base ABI lie in a section of their own, so that a look at the module's other sections proves that
 * nothing else needs more than the base ABI. */
#if defined(__ELF__)
#define MP_KERNEL(level) __attribute__((section("mp_text_" #level)))
#else
#define MP_KERNEL(level)
#endif

typedef int32_t (*mp_dot_fn)(const uint8_t *code, const int8_t *query, size_t dim);
typedef void (*mp_dot4_fn)(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]);
/* All products of one panel with MP_PANEL_QUERIES queries: dots[q * MP_PANEL_ITEMS + item]. */
typedef void (*mp_panel_u8s8_fn)(const uint8_t *panel, const int8_t *const queries[MP_PANEL_QUERIES], size_t dim,
                                 int32_t *dots);

struct mp_kernels {
    const char *level;
    mp_dot_fn dot;
    mp_dot4_fn dot4;
    mp_panel_u8s8_fn panel;      /* NULL in tables of u4 kernels: panels hold bytes */
    const struct mp_kernels *u4; /* those of this level; NULL in themselves */
};

extern const struct mp_kernels mp_kernels_serial;
#if defined(MP_X86)
extern const struct mp_kernels mp_kernels_avx2, mp_kernels_avx2_u4;
#if defined(MP_AVXVNNI) /* the compiler knows it */
extern const struct mp_kernels mp_kernels_avxvnni, mp_kernels_avxvnni_u4;
#endif
extern const struct mp_kernels mp_kernels_avx512vnni, mp_kernels_avx512vnni_u4;
#elif defined(MP_ARM64)
extern const struct mp_kernels mp_kernels_neondot, mp_kernels_neondot_u4;
extern const struct mp_kernels mp_kernels_neoni8mm;
#endif

static inline size_t mp_round_up(size_t value, size_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

static inline size_t mp_plane_bytes(size_t dim) {
    return mp_round_up((dim + 1) / 2, MP_ALIGN);
}

#endif
