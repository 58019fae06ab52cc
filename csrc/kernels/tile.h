/* What the batch kernels of all levels have in common. */
#ifndef MP_KERNELS_TILE_H
#define MP_KERNELS_TILE_H

#include "mp/kernels.h"

#include <string.h>

/* For functions whose constant arguments tell how many registers there are, and for the loops over these: what GCC
 * doesn't inline and unroll early it keeps in memory. */
#define MP_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define MP_UNROLL _Pragma("unroll")
#else
#define MP_UNROLL _Pragma("GCC unroll 16")
#endif

/* Accumulators have the type that their sums come in: where types change, GCC keeps each one twice. */
#if defined(MP_X86)
typedef int32_t mp_i32x8 __attribute__((vector_size(32)));
typedef int32_t mp_i32x16 __attribute__((vector_size(64)));
#endif

/* The codes from `first` on; behind the last one of the tile it is repeated. */
MP_INLINE void mp_block_codes(const struct mp_tile *tile, size_t first, const int n_items, const uint8_t **codes) {
    MP_UNROLL
    for (int i = 0; i < n_items; i++) {
        const size_t item = first + (size_t)i < tile->n_items ? first + (size_t)i : tile->n_items - 1;
        codes[i] = tile->codes + item * mp_round_up(tile->dim, MP_ALIGN);
    }
}

static inline int32_t mp_load4(const void *bytes) {
    int32_t value;
    memcpy(&value, bytes, 4);
    return value;
}

#endif
