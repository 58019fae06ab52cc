#include "mp/residual.h"

#include <math.h>

static inline uint8_t code_at(const struct mp_level *level, size_t row, size_t i) {
    if (level->bits == 8)
        return level->codes[row * level->dim + i];
    return level->codes[row * ((level->dim + 1) / 2) + i / 2] >> (i % 2 * 4) & 15;
}

/* In double: the residual is a small difference of near values. */
static inline double decoded(const struct mp_level *level, size_t row, size_t i) {
    return (double)level->offset[i] + (double)level->scale[i] * code_at(level, row, i);
}

static inline double decoded_twice(const struct mp_level *level, size_t row, size_t i, uint8_t residual, float range) {
    return decoded(level, row, i) + (double)level->scale[i] * range / 255 * (residual - 127.5);
}

void mp_encode_residuals(const struct mp_level *level, const float *vectors, float range, uint8_t *residuals) {
    for (size_t row = 0; row < level->n; row++) {
        for (size_t i = 0; i < level->dim; i++) {
            const size_t at = row * level->dim + i;
            const double step = (double)level->scale[i] * range / 255;
            const double steps = ((double)vectors[at] - decoded(level, row, i)) / step + 127.5;
            residuals[at] = (uint8_t)(step > 0 ? rint(fmin(fmax(steps, 0), 255)) : 0);
        }
    }
}

void mp_residual_norms(const struct mp_level *level, const uint8_t *residuals, float range, float *norms) {
    for (size_t row = 0; row < level->n; row++) {
        double sums[4] = {0}; /* four chains: one alone waits for the latency of each addition */
        for (size_t i = 0; i < level->dim; i++) {
            const double x = decoded_twice(level, row, i, residuals[row * level->dim + i], range);
            sums[i % 4] += x * x;
        }
        norms[row] = (float)(sums[0] + sums[1] + (sums[2] + sums[3]));
    }
}

void mp_decode_residuals(const struct mp_level *level, const uint8_t *residuals, float range, float *vectors) {
    for (size_t row = 0; row < level->n; row++) {
        for (size_t i = 0; i < level->dim; i++) {
            const size_t at = row * level->dim + i;
            vectors[at] = (float)decoded_twice(level, row, i, residuals[at], range);
        }
    }
}
