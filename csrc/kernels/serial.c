/* The reference that every other level must equal. CMake switches auto-vectorisation off for this file, so that
 * measuring against "serial" means what it says. */
#include "mp/kernels.h"

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

static void mp_panel_u8s8_serial(const uint8_t *panel, const int8_t *const queries[MP_PANEL_QUERIES], size_t dim,
                                 int32_t *dots) {
    for (size_t q = 0; q < MP_PANEL_QUERIES; q++) {
        for (size_t item = 0; item < MP_PANEL_ITEMS; item++) {
            int32_t dot = 0;
            for (size_t i = 0; i < dim; i += 4) {
                const uint8_t *group = panel + (i * MP_PANEL_ITEMS + item * 4);
                const int8_t *query = queries[q] + i;
                dot += group[0] * query[0] + group[1] * query[1] + group[2] * query[2] + group[3] * query[3];
            }
            dots[q * MP_PANEL_ITEMS + item] = dot;
        }
    }
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

static const struct mp_kernels kernels_u4 = {
    .level = "serial",
    .dot = mp_dot_u4s8_serial,
    .dot4 = mp_dot4_u4s8_serial,
};

const struct mp_kernels mp_kernels_serial = {
    .level = "serial",
    .dot = mp_dot_u8s8_serial,
    .dot4 = mp_dot4_u8s8_serial,
    .panel = mp_panel_u8s8_serial,
    .u4 = &kernels_u4,
};
