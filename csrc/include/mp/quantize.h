/* Between float vectors and codes.
 *
 *   encode   c_i = clamp(round((x_i - o_i) / s_i), 0, 255), 0 where s_i = 0; ties round to even; NaN gives 0
 *   decode   x^_i = o_i + s_i * c_i
 *   norm     |x^|^2, summed in double, stored as float
 *   fold     w_i = q_i * s_i ~ unit * (256 * high_i + low_i), so that
 *            <q, x^> = bias + sum_i w_i c_i ~ bias + unit * (256 * dot(c, high) + dot(c, low)),  bias = sum_i q_i o_i
 *
 * The 4-bit functions (`4` in their names) are the same with codes of 0..15, packed as kernels.h says; the unused half
 * of an odd dimension's last byte is 0.
 *
 * unit = max|w| / MP_QUERY_RANGE; high_i in -127..127, low_i in -128..127. high alone with 256 * unit is the 8-bit
 * query, rounded to nearest too. A zero query has unit 0 and zeros. Scales are finite and not negative.
 */
#ifndef MP_QUANTIZE_H
#define MP_QUANTIZE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* 256 * 127 + 127: the largest value whose rounded high part still fits -127..127. */
#define MP_QUERY_RANGE 32639

/* Nearest integer, ties to even, for |x| < 2^22: the addition leaves no bits for the fraction, and the integer is read
 * from the low bits of the sum. Unlike lrintf it vectorises. */
static inline int32_t mp_round_to_int(float x) {
    const float shifted = x + 12582912.0f; /* 1.5 * 2^23 */
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return bits - 0x4B400000;
}

/* The code of a value; `most` is the largest. */
static inline uint8_t mp_code_of(float value, float scale, float offset, float most) {
    /* Dividing, not multiplying by 1 / scale: the quotient must be the correctly rounded one. Clamping first changes
     * nothing, because the bounds are integers, and keeps the conversion in range. A scale of 0 is masked out at the
     * end: a branch here would keep loops from being vectorised. */
    float step = (value - offset) / scale;
    step = step > 0 ? step : 0;
    step = step < most ? step : most;
    return (uint8_t)(mp_round_to_int(step) & -(scale > 0));
}

struct mp_query {
    const float *vector; /* the caller's */
    /* In the order that the kernels of the items want, MP_ALIGN aligned, zero behind each plane. */
    int8_t *high, *low;
    /* In the order of the dimensions; for 8-bit items the same memory. */
    int8_t *natural_high, *natural_low;
    double unit;
    double bias;
    double sqnorm;   /* |q|^2 */
    double step_sum; /* sum_i q_i s_i, for items with residuals */
    double factor;   /* of <q, x> for items with originals: 1 / |q| for cosine, else 1 */
};

void mp_encode(const float *vectors, size_t n, size_t dim, const float *scale, const float *offset, uint8_t *codes);
void mp_decode(const uint8_t *codes, size_t n, size_t dim, const float *scale, const float *offset, float *vectors);
void mp_squared_norms(const uint8_t *codes, size_t n, size_t dim, const float *scale, const float *offset,
                      float *norms);
void mp_encode4(const float *vectors, size_t n, size_t dim, const float *scale, const float *offset, uint8_t *codes);
void mp_decode4(const uint8_t *codes, size_t n, size_t dim, const float *scale, const float *offset, float *vectors);
void mp_squared_norms4(const uint8_t *codes, size_t n, size_t dim, const float *scale, const float *offset,
                       float *norms);
/* `high` and `low` of `query` point to buffers of the caller, of mp_round_up(dim, MP_ALIGN) bytes; they get the order
 * of the dimensions. */
void mp_fold_query(const float *vector, size_t dim, const float *scale, const float *offset, struct mp_query *query);
/* sum_i a_i b_i in double, in four lanes, i % 4. */
double mp_dot_product(const float *a, const float *b, size_t dim);
/* sum_i (a_i - b_i)^2, in the same way. */
double mp_squared_distance(const float *a, const float *b, size_t dim);
/* Sorts folded values into the planes that u4 kernels want. `planes` has 2 * mp_plane_bytes(dim) bytes. */
void mp_split_planes(const int8_t *values, size_t dim, int8_t *planes);

#endif
