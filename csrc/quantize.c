#include "mp/quantize.h"

#include "mp/kernels.h"

#include <math.h>
#include <string.h>

void mp_encode(const float *vectors, size_t n, size_t dim, const float *scale, const float *offset, uint8_t *codes) {
    for (size_t row = 0; row < n; row++) {
        const float *vector = vectors + row * dim;
        uint8_t *code = codes + row * dim;
        for (size_t i = 0; i < dim; i++) {
            /* Dividing, not multiplying by 1 / scale: the quotient must be the correctly rounded one. Clamping first
             * changes nothing, because the bounds are integers, and keeps the conversion in range. */
            float step = scale[i] > 0 ? (vector[i] - offset[i]) / scale[i] : 0;
            step = step > 0 ? step : 0;
            step = step < 255 ? step : 255;
            code[i] = (uint8_t)lrintf(step);
        }
    }
}

void mp_decode(const uint8_t *codes, size_t n, size_t dim, const float *scale, const float *offset, float *vectors) {
    for (size_t row = 0; row < n; row++) {
        for (size_t i = 0; i < dim; i++)
            vectors[row * dim + i] = offset[i] + scale[i] * (float)codes[row * dim + i];
    }
}

void mp_squared_norms(const uint8_t *codes, size_t n, size_t dim, const float *scale, const float *offset,
                      float *norms) {
    for (size_t row = 0; row < n; row++) {
        const uint8_t *code = codes + row * dim;
        double sums[4] = {0}; /* four chains: one alone waits for the latency of each addition */
        for (size_t i = 0; i < dim; i++) {
            const double x = (double)offset[i] + (double)scale[i] * code[i];
            sums[i % 4] += x * x;
        }
        norms[row] = (float)(sums[0] + sums[1] + (sums[2] + sums[3]));
    }
}

/* Largest |q_i * s_i|, and the two sums over the query. */
static double query_sums(const float *vector, size_t dim, const float *scale, const float *offset,
                         struct mp_query *query) {
    double largest[4] = {0}, bias[4] = {0}, sqnorm[4] = {0};
    for (size_t i = 0; i < dim; i++) {
        const double q = vector[i];
        const double weight = fabs(scale ? q * scale[i] : q);
        largest[i % 4] = weight > largest[i % 4] ? weight : largest[i % 4];
        bias[i % 4] += offset ? q * offset[i] : 0;
        sqnorm[i % 4] += q * q;
    }
    query->bias = bias[0] + bias[1] + (bias[2] + bias[3]);
    query->sqnorm = sqnorm[0] + sqnorm[1] + (sqnorm[2] + sqnorm[3]);
    return fmax(fmax(largest[0], largest[1]), fmax(largest[2], largest[3]));
}

void mp_fold_query(const float *vector, size_t dim, const float *scale, const float *offset, struct mp_query *query) {
    const double largest = query_sums(vector, dim, scale, offset, query);
    const double inverse = largest > 0 ? MP_QUERY_RANGE / largest : 0;
    query->unit = largest / MP_QUERY_RANGE;
    for (size_t i = 0; i < dim; i++) {
        const int folded = (int)lrint((double)vector[i] * (scale ? scale[i] : 1) * inverse);
        /* The high part is rounded, not cut, so that it is the best 8-bit query too; adding before the shift keeps
         * the shifted value positive, where C defines the shift. */
        const int high = ((folded + 128 + 65536) >> 8) - 256;
        query->high[i] = (int8_t)high;
        query->low[i] = (int8_t)(folded - 256 * high);
    }
    const size_t padding = mp_round_up(dim, MP_ALIGN) - dim;
    memset(query->high + dim, 0, padding);
    memset(query->low + dim, 0, padding);
}
