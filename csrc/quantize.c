#include "mp/quantize.h"

#include "mp/kernels.h"

#include <math.h>
#include <string.h>

#define PACKED 64 /* values at a time between bytes and packed codes */

static inline void encode_values(const float *vector, size_t count, const float *scale, const float *offset, float most,
                                 uint8_t *code) {
    for (size_t i = 0; i < count; i++)
        code[i] = mp_code_of(vector[i], scale[i], offset[i], most);
}

void mp_encode(const float *vectors, size_t n, size_t dim, const float *scale, const float *offset, uint8_t *codes) {
    for (size_t row = 0; row < n; row++)
        encode_values(vectors + row * dim, dim, scale, offset, 255, codes + row * dim);
}

void mp_encode4(const float *vectors, size_t n, size_t dim, const float *scale, const float *offset, uint8_t *codes) {
    const size_t size = (dim + 1) / 2;
    for (size_t row = 0; row < n; row++) {
        for (size_t i = 0; i < dim; i += PACKED) {
            uint8_t values[PACKED] = {0};
            const size_t count = dim - i < PACKED ? dim - i : PACKED;
            encode_values(vectors + row * dim + i, count, scale + i, offset + i, 15, values);
            for (size_t j = 0; j < (count + 1) / 2; j++)
                codes[row * size + i / 2 + j] = (uint8_t)(values[2 * j] | values[2 * j + 1] << 4);
        }
    }
}

void mp_decode(const uint8_t *codes, size_t n, size_t dim, const float *scale, const float *offset, float *vectors) {
    for (size_t row = 0; row < n; row++) {
        for (size_t i = 0; i < dim; i++)
            vectors[row * dim + i] = offset[i] + scale[i] * (float)codes[row * dim + i];
    }
}

static inline uint8_t unpacked(const uint8_t *code, size_t i) {
    return code[i / 2] >> (i % 2 * 4) & 15;
}

void mp_decode4(const uint8_t *codes, size_t n, size_t dim, const float *scale, const float *offset, float *vectors) {
    for (size_t row = 0; row < n; row++) {
        const uint8_t *code = codes + row * ((dim + 1) / 2);
        for (size_t i = 0; i < dim; i++)
            vectors[row * dim + i] = offset[i] + scale[i] * (float)unpacked(code, i);
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

void mp_squared_norms4(const uint8_t *codes, size_t n, size_t dim, const float *scale, const float *offset,
                       float *norms) {
    for (size_t row = 0; row < n; row++) {
        const uint8_t *code = codes + row * ((dim + 1) / 2);
        double sums[4] = {0};
        for (size_t i = 0; i < dim; i++) {
            const double x = (double)offset[i] + (double)scale[i] * unpacked(code, i);
            sums[i % 4] += x * x;
        }
        norms[row] = (float)(sums[0] + sums[1] + (sums[2] + sums[3]));
    }
}

/* Folding runs once a query, before anything else can. The sums run in four lanes, i % 4: a fixed order, without one
 * long chain of additions. Each has a loop of its own, which compilers turn into vector code of the base ABI. */
#define LANES 4

static double add_lanes(const double lanes[LANES]) {
    return lanes[0] + lanes[1] + (lanes[2] + lanes[3]);
}

double mp_dot_product(const float *a, const float *b, size_t dim) {
    double sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= dim; i += LANES) {
        for (size_t lane = 0; lane < LANES; lane++)
            sums[lane] += (double)a[i + lane] * (double)b[i + lane];
    }
    for (size_t lane = 0; i < dim; i++, lane++)
        sums[lane] += (double)a[i] * (double)b[i];
    return add_lanes(sums);
}

double mp_squared_distance(const float *a, const float *b, size_t dim) {
    double sums[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= dim; i += LANES) {
        for (size_t lane = 0; lane < LANES; lane++) {
            const double difference = (double)a[i + lane] - (double)b[i + lane];
            sums[lane] += difference * difference;
        }
    }
    for (size_t lane = 0; i < dim; i++, lane++) {
        const double difference = (double)a[i] - (double)b[i];
        sums[lane] += difference * difference;
    }
    return add_lanes(sums);
}

/* max |a_i * b_i|. */
static double largest_product(const float *a, const float *b, size_t dim) {
    double largest0 = 0, largest1 = 0;
    size_t i = 0;
    for (; i + 2 <= dim; i += 2) {
        const double product0 = fabs((double)a[i] * (double)b[i]), product1 = fabs((double)a[i + 1] * (double)b[i + 1]);
        largest0 = product0 > largest0 ? product0 : largest0;
        largest1 = product1 > largest1 ? product1 : largest1;
    }
    if (i < dim)
        largest0 = fmax(largest0, fabs((double)a[i] * (double)b[i]));
    return fmax(largest0, largest1);
}

void mp_fold_query(const float *vector, size_t dim, const float *scale, const float *offset, struct mp_query *query) {
    const double largest = largest_product(vector, scale, dim);
    const double inverse = largest > 0 ? MP_QUERY_RANGE / largest : 0;
    int8_t *restrict high = query->high, *restrict low = query->low;
    query->bias = mp_dot_product(vector, offset, dim);
    query->sqnorm = mp_dot_product(vector, vector, dim);
    query->unit = largest / MP_QUERY_RANGE;
    for (size_t i = 0; i < dim; i++) {
        /* In double up to here: a float product of extreme queries would overflow or vanish. */
        const int32_t folded = mp_round_to_int((float)((double)vector[i] * (double)scale[i] * inverse));
        /* The high part is rounded, not cut, so that it is the best 8-bit query too; adding before the shift keeps
         * the shifted value positive, where C defines the shift. */
        const int32_t rounded = ((folded + 128 + 65536) >> 8) - 256;
        high[i] = (int8_t)rounded;
        low[i] = (int8_t)(folded - 256 * rounded);
    }
    const size_t padding = mp_round_up(dim, MP_ALIGN) - dim;
    memset(high + dim, 0, padding);
    memset(low + dim, 0, padding);
}

void mp_split_planes(const int8_t *values, size_t dim, int8_t *planes) {
    int8_t *restrict even = planes, *restrict odd = planes + mp_plane_bytes(dim);
    const size_t n_even = (dim + 1) / 2, n_odd = dim / 2;
    for (size_t i = 0; i < n_odd; i++) {
        even[i] = values[2 * i];
        odd[i] = values[2 * i + 1];
    }
    if (n_even > n_odd)
        even[n_odd] = values[dim - 1];
    memset(even + n_even, 0, mp_plane_bytes(dim) - n_even);
    memset(odd + n_odd, 0, mp_plane_bytes(dim) - n_odd);
}
