/* Tile registers in software, for machines without them: amx.c compiled behind this header. Ends the program where the
 * processor would fault. */
#ifndef AMX_EMULATION_H
#define AMX_EMULATION_H

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static struct {
    int rows, row_bytes;
    uint8_t bytes[16][64];
} emulated_tiles[8];

static inline void fault_unless(int right) {
    if (!right)
        abort();
}

/* Rows and bytes of a register that is configured; none is after a release. */
static inline void check_tile(int tile) {
    fault_unless(tile >= 0 && tile < 8 && emulated_tiles[tile].rows > 0 && emulated_tiles[tile].row_bytes > 0);
}

static inline void zero_tile(int tile) {
    check_tile(tile);
    memset(emulated_tiles[tile].bytes, 0, sizeof emulated_tiles[tile].bytes);
}

static inline void release_tiles(void) {
    memset(emulated_tiles, 0, sizeof emulated_tiles);
}

/* Byte 0: palette, 1: first row, from 16 on: bytes of a row, 2 bytes each, from 48 on: rows. The rest is zero. */
static inline void configure_tiles(const void *memory) {
    const uint8_t *config = memory;
    release_tiles();
    fault_unless(config[0] == 1 && config[1] == 0);
    for (int i = 2; i < 16; i++)
        fault_unless(config[i] == 0 && (i < 8 || config[48 + i] == 0));
    for (int tile = 0; tile < 8; tile++) {
        uint16_t row_bytes;
        memcpy(&row_bytes, config + 16 + 2 * tile, 2);
        fault_unless(row_bytes <= 64 && config[48 + tile] <= 16 && !row_bytes == !config[48 + tile]);
        emulated_tiles[tile].row_bytes = row_bytes;
        emulated_tiles[tile].rows = config[48 + tile];
    }
}

static inline void load_tile(int tile, const void *memory, size_t stride) {
    zero_tile(tile);
    for (int row = 0; row < emulated_tiles[tile].rows; row++)
        memcpy(emulated_tiles[tile].bytes[row], (const uint8_t *)memory + (size_t)row * stride,
               (size_t)emulated_tiles[tile].row_bytes);
}

static inline void store_tile(int tile, void *memory, size_t stride) {
    check_tile(tile);
    for (int row = 0; row < emulated_tiles[tile].rows; row++)
        memcpy((uint8_t *)memory + (size_t)row * stride, emulated_tiles[tile].bytes[row],
               (size_t)emulated_tiles[tile].row_bytes);
}

/* sums[m][n] += sum over k, j of u8 codes[m][4k + j] * s8 lanes[k][4n + j]. */
static inline void multiply_tiles(int sums, int codes, int lanes) {
    check_tile(sums);
    check_tile(codes);
    check_tile(lanes);
    fault_unless(sums != codes && codes != lanes && lanes != sums);
    fault_unless(emulated_tiles[codes].rows == emulated_tiles[sums].rows);
    fault_unless(emulated_tiles[lanes].row_bytes == emulated_tiles[sums].row_bytes);
    fault_unless(emulated_tiles[codes].row_bytes == 4 * emulated_tiles[lanes].rows);
    for (int m = 0; m < emulated_tiles[sums].rows; m++) {
        for (int n = 0; n < emulated_tiles[sums].row_bytes / 4; n++) {
            int32_t sum;
            memcpy(&sum, emulated_tiles[sums].bytes[m] + 4 * n, 4);
            for (int i = 0; i < emulated_tiles[codes].row_bytes; i++)
                sum += emulated_tiles[codes].bytes[m][i] * (int8_t)emulated_tiles[lanes].bytes[i / 4][4 * n + i % 4];
            memcpy(emulated_tiles[sums].bytes[m] + 4 * n, &sum, 4);
        }
    }
}

#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#undef _tile_zero
#define _tile_loadconfig configure_tiles
#define _tile_release release_tiles
#define _tile_loadd load_tile
#define _tile_stored store_tile
#define _tile_dpbusd multiply_tiles
#define _tile_zero zero_tile

#endif
