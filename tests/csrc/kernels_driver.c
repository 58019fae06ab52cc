/* Compares every level that runs here with serial: one code, four codes and runs at the end of a page behind which
 * nothing may be read, and tiles. Prints the levels that it compared. For machines on which the Python tests don't run.
 */
#include "mp/simd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint32_t state = 1;

static uint8_t next_byte(int extreme) {
    state = state * 1664525u + 1013904223u;
    return extreme ? (state >> 31 ? 255 : 128) : (uint8_t)(state >> 24);
}

#define RUN 21 /* codes: sixteen, four and one */

static uint8_t *page_end(size_t room, size_t page) {
    uint8_t *memory = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + room, page, PROT_NONE) != 0)
        exit(2);
    return memory + room;
}

static void fail(const struct mp_kernels *kernels, const char *what, size_t dim) {
    printf("%s: %s differs from serial at dimension %zu\n", kernels->level, what, dim);
    exit(1);
}

static void compare_dots(const struct mp_kernels *serial, const struct mp_kernels *kernels, uint8_t *end,
                         const int8_t *query, size_t dim) {
    const size_t bytes = serial->tile ? dim : (dim + 1) / 2; /* u4 tables have no tiles */
    const uint8_t *codes[4];
    int32_t wanted[4], got[4];
    for (size_t c = 0; c < 4; c++)
        codes[c] = end - (c + 1) * bytes;
    serial->dot4(codes, query, dim, wanted);
    kernels->dot4(codes, query, dim, got);
    if (memcmp(wanted, got, sizeof wanted) != 0)
        fail(kernels, serial->tile ? "dot4" : "dot4 of u4", dim);
    for (size_t c = 0; c < 4; c++) {
        if (kernels->dot(codes[c], query, dim) != wanted[c])
            fail(kernels, serial->tile ? "dot" : "dot of u4", dim);
    }
}

static void compare_runs(const struct mp_kernels *serial, const struct mp_kernels *kernels, uint8_t *end,
                         const int8_t *query, size_t dim) {
    const size_t bytes = serial->tile ? dim : (dim + 1) / 2;
    int32_t wanted[RUN], got[RUN];
    for (size_t n = 1; n <= RUN; n += 4) {
        serial->run(end - n * bytes, bytes, n, query, dim, wanted);
        kernels->run(end - n * bytes, bytes, n, query, dim, got);
        if (memcmp(wanted, got, n * sizeof *got) != 0)
            fail(kernels, serial->tile ? "run" : "run of u4", dim);
    }
}

/* Products of `n_items` codes with `n_groups` groups, and which of them are near. */
static void compare_tile(const struct mp_kernels *kernels, const struct mp_tile *tile, const float *norms,
                         const struct mp_strip_keys *keys) {
    static int32_t wanted[MP_TILE_ITEMS * MP_STRIP_QUERIES], got[MP_TILE_ITEMS * MP_STRIP_QUERIES];
    uint64_t wanted_near[MP_TILE_ITEMS], near[MP_TILE_ITEMS];
    mp_kernels_serial.tile(tile, wanted);
    kernels->tile(tile, got);
    for (size_t item = 0; item < tile->n_items; item++) {
        const size_t at = item * MP_STRIP_QUERIES;
        if (memcmp(wanted + at, got + at, tile->n_groups * MP_LANES * sizeof *got) != 0)
            fail(kernels, "tile", tile->dim);
    }
    mp_kernels_serial.near(wanted, tile->n_items, tile->n_groups, norms, keys, wanted_near);
    kernels->near(wanted, tile->n_items, tile->n_groups, norms, keys, near);
    if (memcmp(wanted_near, near, tile->n_items * sizeof *near) != 0)
        fail(kernels, "near", tile->dim);
}

/* Keys of which some are near and some are not, some by a rounding and some not numbers. */
static void fill_keys(float *norms, struct mp_strip_keys *keys, size_t dim) {
    static const float odd[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN};
    for (size_t i = 0; i < MP_TILE_ITEMS; i++)
        norms[i] = i < 5 ? odd[i] : next_byte(0) / 3.0f;
    for (size_t q = 0; q < MP_STRIP_QUERIES; q++) {
        keys->weights[q] = q == 7 ? NAN : -1.0f / (float)(1 + next_byte(0));
        keys->constants[q] = q < 5 ? odd[q] : next_byte(0) / 7.0f;
        keys->worst[q] = q > 58 ? odd[63 - q] : (float)dim * (next_byte(0) - 128.0f) / 16;
    }
}

/* The last code of a tile is the last before a page that may not be read. */
static void compare_tiles(const struct mp_kernels *kernels, size_t dim, int extreme, size_t page) {
    const size_t row_bytes = mp_round_up(dim, MP_ALIGN), code_bytes = MP_TILE_ITEMS * row_bytes;
    const size_t lane_bytes = MP_STRIP_GROUPS * mp_group_bytes(dim);
    const size_t room = mp_round_up(code_bytes, page);
    uint8_t *end = page_end(room, page);
    int8_t *lanes = aligned_alloc(MP_ALIGN, lane_bytes);
    float norms[MP_TILE_ITEMS];
    struct mp_strip_keys keys;
    for (size_t i = 0; i < code_bytes; i++) /* what is behind a code counts for nothing */
        end[-(ptrdiff_t)i - 1] = next_byte(extreme);
    for (size_t i = 0; i < lane_bytes; i++) {
        const size_t at = i % mp_group_bytes(dim), dimension = at / (4 * MP_LANES) * 4 + at % 4;
        lanes[i] = dimension >= dim ? 0 : (int8_t)(extreme ? (at / 4 % 2 ? 127 : -128) : next_byte(0));
    }
    fill_keys(norms, &keys, dim);
    const size_t counts[] = {1, 7, 16, 47, MP_TILE_ITEMS};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const uint8_t *codes = end - counts[i] * row_bytes;
        struct mp_tile tile = {codes, counts[i], lanes, 1 + (dim + i) % MP_STRIP_GROUPS, dim};
        compare_tile(kernels, &tile, norms, &keys);
    }
    free(lanes);
    munmap(end - room, room + page);
}

static void compare(const struct mp_kernels *kernels, size_t dim, int extreme, size_t page) {
    const size_t query_bytes = mp_round_up(dim, MP_ALIGN);
    const size_t room = mp_round_up(RUN * dim, page);
    uint8_t *end = page_end(room, page);
    int8_t *query = aligned_alloc(MP_ALIGN, query_bytes);
    int8_t *planes = aligned_alloc(MP_ALIGN, 2 * mp_plane_bytes(dim));
    memset(query, 0, query_bytes);
    for (size_t i = 0; i < dim; i++)
        query[i] = (int8_t)(extreme ? -128 : next_byte(0));
    for (size_t i = 1; i <= RUN * dim; i++)
        end[-(ptrdiff_t)i] = next_byte(extreme);
    compare_dots(&mp_kernels_serial, kernels, end, query, dim);
    compare_runs(&mp_kernels_serial, kernels, end, query, dim);
    for (size_t i = 0; i < 2 * mp_plane_bytes(dim); i++) /* zero behind each plane */
        planes[i] = i % mp_plane_bytes(dim) < dim / 2 ? query[i] : 0;
    compare_dots(mp_kernels_serial.u4, kernels->u4, end, planes, dim);
    compare_runs(mp_kernels_serial.u4, kernels->u4, end, planes, dim);
    compare_tiles(kernels, dim, extreme, page);
    free(planes);
    free(query);
    munmap(end - room, room + page);
}

int main(void) {
    const struct mp_kernels *levels[MP_MAX_LEVELS];
#if defined(MP_DRIVER_LEVEL) /* this one, whatever the processor says */
    const size_t count = 1;
    levels[0] = &MP_DRIVER_LEVEL;
#else
    const size_t count = mp_simd_available(levels);
#endif
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t large[] = {384, 385, 768, 1536, MP_MAX_DIM};
    for (size_t level = 0; level < count; level++) {
        for (int extreme = 0; extreme < 2; extreme++) {
            for (size_t dim = 1; dim <= 200; dim++)
                compare(levels[level], dim, extreme, page);
            for (size_t i = 0; i < sizeof large / sizeof *large; i++)
                compare(levels[level], large[i], extreme, page);
        }
        printf("%s\n", levels[level]->level);
    }
    return 0;
}
