/* The second level: what the codes leave over, coded with 8 bits of its own.
 *
 *   residual   r_i = clamp(round((x_i - x^_i) / t_i + 127.5), 0, 255),  t_i = s_i * range / 255
 *   x^^_i      = x^_i + t_i * (r_i - 127.5)
 *
 * `range` is how many steps s_i the residual covers: 1 is what rounding leaves, more keeps what clipping cut off too.
 * Because t is proportional to s, the query that was folded for the codes serves both levels:
 *
 *   <q, x^^> = <q, x^> + range / 255 * (unit * dot(r, 256 * high + low) - 127.5 * sum_i q_i s_i)
 *
 * Residuals are bytes in the order of the dimensions whatever the width of the codes. Searches read them only to
 * rescore.
 */
#ifndef MP_RESIDUAL_H
#define MP_RESIDUAL_H

#include <stddef.h>
#include <stdint.h>

/* A set of codes with its quantizer; `bits` is 8 or 4. */
struct mp_level {
    const uint8_t *codes;
    const float *scale, *offset;
    size_t n, dim, bits;
};

/* 0 where the step is 0. */
void mp_encode_residuals(const struct mp_level *level, const float *vectors, float range, uint8_t *residuals);
/* |x^^|^2, summed in double, stored as float. */
void mp_residual_norms(const struct mp_level *level, const uint8_t *residuals, float range, float *norms);
/* x^^ */
void mp_decode_residuals(const struct mp_level *level, const uint8_t *residuals, float range, float *vectors);

#endif
