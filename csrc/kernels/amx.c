/* AMX: a tile register holds 16 rows of 64 bytes, and tdpbusd adds the products of 16 codes with 16 queries, 64
 * dimensions of them, to 16 x 16 int32. A tile's codes and a group's lanes lie just as it wants them. Its registers
 * help nobody who has one query: the rest of the table is AVX-512's. */
#include "shared.h"
#include "tile.h"

#include <immintrin.h>

#define ROWS 16
#define CODES 4 /* registers 0 to 3 are the sums of up to four groups */
#define LANES 5

struct configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* The lanes have a row for four dimensions, everything else one for each code. */
static inline void configure_(size_t n_items) {
    struct configuration configuration = {.palette = 1};
    for (int i = 0; i <= LANES; i++) {
        configuration.row_bytes[i] = 64;
        configuration.rows[i] = i == LANES ? ROWS : (uint8_t)n_items;
    }
    /* GCC's intrinsic doesn't say that it reads more than the first bytes */
    __asm__ volatile("" : : "r"(&configuration) : "memory");
    _tile_loadconfig(&configuration);
}

#define ADD_PRODUCTS_(group, i)                                                                                        \
    do {                                                                                                               \
        _tile_loadd(LANES, tile->lanes + (group) * group_bytes + (i) * MP_LANES, 64);                                  \
        _tile_dpbusd(group, CODES, LANES);                                                                             \
    } while (0)

/* Up to 16 codes from `first` on, for all groups: each load of codes serves four. */
static inline void multiply_rows_(const struct mp_tile *tile, size_t first, int32_t *dots) {
    const size_t row_bytes = mp_round_up(tile->dim, MP_ALIGN), group_bytes = mp_group_bytes(tile->dim);
    const size_t dots_bytes = MP_STRIP_QUERIES * sizeof *dots;
    int32_t *out = dots + first * MP_STRIP_QUERIES;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (size_t i = 0; i < tile->dim; i += 64) {
        _tile_loadd(CODES, tile->codes + first * row_bytes + i, row_bytes);
        ADD_PRODUCTS_(0, i);
        if (tile->n_groups > 1)
            ADD_PRODUCTS_(1, i);
        if (tile->n_groups > 2)
            ADD_PRODUCTS_(2, i);
        if (tile->n_groups > 3)
            ADD_PRODUCTS_(3, i);
    }
    _tile_stored(0, out, dots_bytes);
    _tile_stored(1, out + MP_LANES, dots_bytes);
    _tile_stored(2, out + 2 * MP_LANES, dots_bytes);
    _tile_stored(3, out + 3 * MP_LANES, dots_bytes);
}

/* Released at the end: registers in use would make every context switch save 8 KB. */
MP_KERNEL(amx)
static void mp_tile_u8s8_amx(const struct mp_tile *tile, int32_t *dots) {
    size_t configured = 0;
    for (size_t first = 0; first < tile->n_items; first += ROWS) {
        const size_t n_items = tile->n_items - first < ROWS ? tile->n_items - first : ROWS;
        if (n_items != configured)
            configure_(n_items);
        configured = n_items;
        multiply_rows_(tile, first, dots);
    }
    _tile_release();
}

const struct mp_kernels mp_kernels_amx = {
    .level = "amx",
    .dot = mp_dot_u8s8_avx512vnni,
    .dot4 = mp_dot4_u8s8_avx512vnni,
    .run = mp_run_u8s8_avx512vnni,
    .tile = mp_tile_u8s8_amx,
    .near = mp_near_avx512vnni,
    .make_up = mp_make_up_avx512vnni,
    .u4 = &mp_kernels_avx512vnni_u4,
};
