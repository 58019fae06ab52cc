/* Compares every level that runs here with serial: one code, four codes and panels, at the end of a page behind which
 * nothing may be read. Prints the levels that it compared. For machines on which the Python tests don't run. */
#include "mp/simd.h"

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
    const size_t bytes = serial->panel ? dim : (dim + 1) / 2; /* u4 tables have no panel */
    const uint8_t *codes[4];
    int32_t wanted[4], got[4];
    for (size_t c = 0; c < 4; c++)
        codes[c] = end - (c + 1) * bytes;
    serial->dot4(codes, query, dim, wanted);
    kernels->dot4(codes, query, dim, got);
    if (memcmp(wanted, got, sizeof wanted) != 0)
        fail(kernels, serial->panel ? "dot4" : "dot4 of u4", dim);
    for (size_t c = 0; c < 4; c++) {
        if (kernels->dot(codes[c], query, dim) != wanted[c])
            fail(kernels, serial->panel ? "dot" : "dot of u4", dim);
    }
}

static void compare_panels(const struct mp_kernels *kernels, const uint8_t *panel, const int8_t *queries, size_t dim) {
    static int32_t wanted[MP_PANEL_ITEMS * MP_PANEL_QUERIES], got[MP_PANEL_ITEMS * MP_PANEL_QUERIES];
    const int8_t *rows[MP_PANEL_QUERIES];
    for (size_t q = 0; q < MP_PANEL_QUERIES; q++)
        rows[q] = queries + q * mp_round_up(dim, MP_ALIGN);
    mp_kernels_serial.panel(panel, rows, dim, wanted);
    kernels->panel(panel, rows, dim, got);
    if (memcmp(wanted, got, sizeof wanted) != 0)
        fail(kernels, "panel", dim);
}

static void compare(const struct mp_kernels *kernels, size_t dim, int extreme, size_t page) {
    const size_t query_bytes = mp_round_up(dim, MP_ALIGN), panel_bytes = mp_round_up(dim, 4) * MP_PANEL_ITEMS;
    const size_t room = mp_round_up(4 * dim, page);
    uint8_t *end = page_end(room, page);
    int8_t *queries = aligned_alloc(MP_ALIGN, MP_PANEL_QUERIES * query_bytes);
    uint8_t *panel = aligned_alloc(MP_ALIGN, mp_round_up(panel_bytes, MP_ALIGN));
    int8_t *planes = aligned_alloc(MP_ALIGN, 2 * mp_plane_bytes(dim));
    memset(queries, 0, MP_PANEL_QUERIES * query_bytes);
    for (size_t q = 0; q < MP_PANEL_QUERIES; q++) {
        for (size_t i = 0; i < dim; i++)
            queries[q * query_bytes + i] = (int8_t)(extreme ? (q % 2 ? 127 : -128) : next_byte(0));
    }
    for (size_t i = 1; i <= 4 * dim; i++)
        end[-(ptrdiff_t)i] = next_byte(extreme);
    for (size_t i = 0; i < panel_bytes; i++)
        panel[i] = next_byte(extreme);
    compare_dots(&mp_kernels_serial, kernels, end, queries, dim);
    for (size_t i = 0; i < 2 * mp_plane_bytes(dim); i++) /* zero behind each plane */
        planes[i] = i % mp_plane_bytes(dim) < dim / 2 ? queries[i] : 0;
    compare_dots(mp_kernels_serial.u4, kernels->u4, end, planes, dim);
    compare_panels(kernels, panel, queries, dim);
    free(panel);
    free(planes);
    free(queries);
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
