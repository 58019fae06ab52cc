/* Rounding with feedback: what a dimension loses is made up for by later ones, as far as the data let these stand for
 * it, so that little is lost of <q, x> for queries like the data, rather than of x itself.
 *
 *   w = x;  for i = 0, 1, ..:   c_i = code of w_i (quantize.h),   w_j -= (w_i - x^_i) f_ij  for all j > i
 *
 *   f_ij = U_ij / U_ii,  U upper triangular with U^T U = H^-1,  H = E[q q^T], damped
 *
 * This is the nearest-plane method for the lattice of codes under the norm e^T H e; as a way of rounding weights it is
 * known as GPTQ (arXiv 2210.17323). Products and differences are rounded to float one by one: the same codes on every
 * machine, for vectors alone or together.
 *
 * f comes as rows of dim - 1, dim - 2, .. values, one behind the other, in bfloat16 (the upper half of a float).
 */
#ifndef MP_FEEDBACK_H
#define MP_FEEDBACK_H

#include "mp/kernels.h"

/* dim (dim - 1) / 2: the values of f. */
static inline size_t mp_feedback_size(size_t dim) {
    return dim > 0 ? dim * (dim - 1) / 2 : 0;
}

/* Codes of n vectors in `bits` (8, or 4: packed), by kernels for bytes. `rests` is working memory of MP_FED_ROWS * dim
 * floats. */
struct mp_feedback {
    const uint16_t *factors; /* f */
    const float *scale, *offset;
    size_t dim, bits;
    const struct mp_kernels *kernels;
};
void mp_encode_with_feedback(const struct mp_feedback *feedback, const float *vectors, size_t n, float *rests,
                             uint8_t *codes);

#endif
