#include "mp/feedback.h"

#include "mp/quantize.h"

#include <string.h>

/* A pair of 4-bit codes shares a byte; the even one comes first and clears it. */
static inline void store_code(uint8_t *code, size_t i, size_t bits, uint8_t value) {
    if (bits == 8)
        code[i] = value;
    else
        code[i / 2] = i % 2 == 0 ? value : (uint8_t)(code[i / 2] | value << 4);
}

/* Up to MP_FED_ROWS vectors, so that each factor is read once for all and no step waits for the one before. */
static void encode_rows(const struct mp_feedback *feedback, const float *vectors, size_t n, float *rests,
                        uint8_t *codes) {
    const size_t dim = feedback->dim, size = feedback->bits == 4 ? (dim + 1) / 2 : dim;
    const float most = feedback->bits == 4 ? 15 : 255;
    const uint16_t *row = feedback->factors;
    float errors[MP_FED_ROWS];
    memcpy(rests, vectors, n * dim * sizeof *rests);
    for (size_t i = 0; i < dim; i++) {
        const float scale = feedback->scale[i], offset = feedback->offset[i];
        for (size_t r = 0; r < n; r++) {
            const float value = rests[r * dim + i];
            const uint8_t code = mp_code_of(value, scale, offset, most);
            errors[r] = value - (offset + scale * (float)code);
            store_code(codes + r * size, i, feedback->bits, code);
        }
        feedback->kernels->make_up(errors, n, row, dim - 1 - i, rests + i + 1, dim);
        row += dim - 1 - i;
    }
}

void mp_encode_with_feedback(const struct mp_feedback *feedback, const float *vectors, size_t n, float *rests,
                             uint8_t *codes) {
    const size_t size = feedback->bits == 4 ? (feedback->dim + 1) / 2 : feedback->dim;
    for (size_t begin = 0; begin < n; begin += MP_FED_ROWS)
        encode_rows(feedback, vectors + begin * feedback->dim, n - begin < MP_FED_ROWS ? n - begin : MP_FED_ROWS, rests,
                    codes + begin * size);
}
