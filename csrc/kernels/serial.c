/* The reference that every other level must equal. CMake switches auto-vectorisation off for this file, so that
 * measuring against "serial" means what it says. */
#include "shared.h"

static int32_t mp_dot_u8s8_serial(const uint8_t *code, const int8_t *query, size_t dim) {
    int32_t dot = 0;
    for (size_t i = 0; i < dim; i++)
        dot += code[i] * query[i];
    return dot;
}

static void mp_dot4_u8s8_serial(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]) {
    int32_t dot0 = 0, dot1 = 0, dot2 = 0, dot3 = 0;
    for (size_t i = 0; i < dim; i++) {
        dot0 += codes[0][i] * query[i];
        dot1 += codes[1][i] * query[i];
        dot2 += codes[2][i] * query[i];
        dot3 += codes[3][i] * query[i];
    }
    dots[0] = dot0, dots[1] = dot1, dots[2] = dot2, dots[3] = dot3;
}

static void mp_run_u8s8_serial(const uint8_t *codes, size_t stride, size_t n, const int8_t *query, size_t dim,
                               int32_t *dots) {
    mp_run_by_four(mp_dot4_u8s8_serial, mp_dot_u8s8_serial, codes, stride, n, query, dim, dots);
}

static void mp_tile_u8s8_serial(const struct mp_tile *tile, int32_t *dots) {
    for (size_t item = 0; item < tile->n_items; item++) {
        const uint8_t *code = tile->codes + item * mp_round_up(tile->dim, MP_ALIGN);
        for (size_t q = 0; q < tile->n_groups * MP_LANES; q++) {
            const int8_t *lane = tile->lanes + q / MP_LANES * mp_group_bytes(tile->dim) + q % MP_LANES * 4;
            int32_t dot = 0;
            for (size_t i = 0; i < tile->dim; i++)
                dot += code[i] * lane[i / 4 * 4 * MP_LANES + i % 4];
            dots[item * MP_STRIP_QUERIES + q] = dot;
        }
    }
}

static void mp_near_serial(const int32_t *dots, size_t n_items, size_t n_groups, const float *norms,
                           const struct mp_strip_keys *keys, uint64_t near[MP_TILE_ITEMS]) {
    for (size_t item = 0; item < n_items; item++) {
        uint64_t bits = 0;
        for (size_t q = 0; q < n_groups * MP_LANES; q++) {
            const float product = keys->weights[q] * (float)dots[item * MP_STRIP_QUERIES + q];
            const float key = norms[item] + (keys->constants[q] + product);
            bits |= (uint64_t)(key <= keys->worst[q]) << q;
        }
        near[item] = bits;
    }
}

static void mp_make_up_serial(const float *errors, size_t n, const uint16_t *row, size_t count, float *rests,
                              size_t stride) {
    mp_make_up_plainly(errors, n, row, 0, count, rests, stride);
}

static int32_t mp_dot_u4s8_serial(const uint8_t *code, const int8_t *query, size_t dim) {
    const int8_t *odd = query + mp_plane_bytes(dim);
    int32_t dot = 0;
    for (size_t i = 0; i < (dim + 1) / 2; i++)
        dot += (code[i] & 15) * query[i] + (code[i] >> 4) * odd[i];
    return dot;
}

static void mp_dot4_u4s8_serial(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]) {
    for (int c = 0; c < 4; c++)
        dots[c] = mp_dot_u4s8_serial(codes[c], query, dim);
}

static void mp_run_u4s8_serial(const uint8_t *codes, size_t stride, size_t n, const int8_t *query, size_t dim,
                               int32_t *dots) {
    mp_run_by_four(mp_dot4_u4s8_serial, mp_dot_u4s8_serial, codes, stride, n, query, dim, dots);
}

static const struct mp_kernels kernels_u4 = {
    .level = "serial",
    .dot = mp_dot_u4s8_serial,
    .dot4 = mp_dot4_u4s8_serial,
    .run = mp_run_u4s8_serial,
};

const struct mp_kernels mp_kernels_serial = {
    .level = "serial",
    .dot = mp_dot_u8s8_serial,
    .dot4 = mp_dot4_u8s8_serial,
    .run = mp_run_u8s8_serial,
    .tile = mp_tile_u8s8_serial,
    .near = mp_near_serial,
    .make_up = mp_make_up_serial,
    .u4 = &kernels_u4,
};
