/* What a node's record holds, and what distances between records need. See hnsw.h for the formulas. */
#include "mp/hnsw.h"

#include "mp/feedback.h"
#include "mp/residual.h"

#include "hnsw_internal.h"

#include <math.h>
#include <stdlib.h>

static void place(struct mp_hnsw *hnsw) {
    const struct mp_hnsw_settings *settings = &hnsw->settings;
    hnsw->max_links0 = 2 * settings->max_links;
    hnsw->code_bytes = settings->bits == 4 ? (settings->dim + 1) / 2 : settings->dim;
    hnsw->norm_at = mp_round_up(hnsw->code_bytes, 4);
    const size_t self_at = hnsw->norm_at + (settings->metric == MP_METRIC_L2 ? sizeof(float) : 0);
    const size_t links_size = hnsw->max_links0 * sizeof(int32_t);
    const size_t without = mp_round_up(self_at + links_size, MP_ALIGN);
    const bool fits = self_at + sizeof(float) + links_size <= without;
    hnsw->links_at = self_at + (fits ? sizeof(float) : 0);
    hnsw->stride = without;
    hnsw->self_stride = fits ? without : sizeof(float);
}

bool mp_hnsw_lay_out(struct mp_hnsw *hnsw) {
    struct mp_hnsw_settings *settings = &hnsw->settings;
    const size_t dim = settings->dim, padded = mp_round_up(dim, MP_ALIGN);
    struct pair_metric *pairs = &hnsw->pairs;
    float *scale = malloc(dim * sizeof(float)), *offset = malloc(dim * sizeof(float));
    if (scale)
        memcpy(scale, settings->scale, dim * sizeof(float));
    if (offset)
        memcpy(offset, settings->offset, dim * sizeof(float));
    settings->scale = scale; /* freed with the graph from here on, whatever fails */
    settings->offset = offset;
    place(hnsw);
    hnsw->kernels = settings->bits == 4 ? settings->kernels->u4 : settings->kernels;
    pairs->weights = calloc(padded, sizeof(int16_t));
    pairs->slope = malloc(dim * sizeof(double));
    pairs->ones = malloc(padded);
    if (!scale || !offset || !pairs->weights || !pairs->slope || !pairs->ones)
        return false;
    const bool is_l2 = settings->metric == MP_METRIC_L2;
    pairs->half = settings->bits == 4 ? 8 : 128;
    double largest = 0, sqnorm = 0;
    for (size_t i = 0; i < dim; i++)
        largest = scale[i] > largest ? scale[i] : largest;
    for (size_t i = 0; i < dim; i++) {
        const double middle = (double)offset[i] + (double)pairs->half * scale[i];
        const double ratio = largest > 0 ? scale[i] / largest : 0;
        pairs->weights[i] = (int16_t)lrint(256 * ratio * ratio);
        pairs->slope[i] = is_l2 ? (double)scale[i] * scale[i] : middle * scale[i];
        sqnorm += middle * middle;
    }
    pairs->factor = (float)((is_l2 ? -2 : -1) * largest * largest / (settings->bits == 4 ? 16 : 1));
    pairs->half_sqnorm = is_l2 ? 0 : sqnorm / 2;
    memset(pairs->ones, settings->bits == 4 ? 0x11 : 1, padded);
    return true;
}

static struct mp_level level_of(const struct mp_hnsw *hnsw, const uint8_t *code) {
    const struct mp_hnsw_settings *settings = &hnsw->settings;
    return (struct mp_level){code, settings->scale, settings->offset, 1, settings->dim, settings->bits};
}

/* Norms and `self`, once codes and residuals are there. */
static void complete(const struct mp_hnsw *hnsw, struct mp_hnsw_storage *storage, size_t id) {
    const struct mp_hnsw_settings *settings = &hnsw->settings;
    const struct pair_metric *pairs = &hnsw->pairs;
    uint8_t *record = storage->records + id * hnsw->stride;
    const bool is_l2 = settings->metric == MP_METRIC_L2, is_packed = settings->bits == 4;
    if (is_l2)
        (is_packed ? mp_squared_norms4 : mp_squared_norms)(record, 1, settings->dim, settings->scale, settings->offset,
                                                           (float *)(void *)(record + hnsw->norm_at));
    if (storage->residual_norms) {
        const struct mp_level level = level_of(hnsw, record);
        mp_residual_norms(&level, storage->residuals + id * settings->dim, settings->range,
                          storage->residual_norms + id);
    }
    double sums[4] = {0};
    for (size_t i = 0; i < settings->dim; i++) {
        const int32_t code = is_packed ? record[i / 2] >> (i % 2 * 4) & 15 : record[i];
        const double step = code - pairs->half;
        sums[i % 4] += is_l2 ? pairs->slope[i] * step * step : -pairs->slope[i] * step;
    }
    const float self = (float)(sums[0] + sums[1] + (sums[2] + sums[3]) - pairs->half_sqnorm);
    memcpy(storage->selves + id * hnsw->self_stride, &self, sizeof self);
}

void mp_hnsw_write(const struct mp_hnsw *hnsw, struct mp_hnsw_storage *storage, size_t id, const float *vector,
                   float *rests) {
    const struct mp_hnsw_settings *settings = &hnsw->settings;
    uint8_t *record = storage->records + id * hnsw->stride;
    const struct mp_feedback feedback = {settings->feedback, settings->scale, settings->offset,
                                         settings->dim,      settings->bits,  settings->kernels};
    if (feedback.factors)
        mp_encode_with_feedback(&feedback, vector, 1, rests, record);
    else
        (settings->bits == 4 ? mp_encode4 : mp_encode)(vector, 1, settings->dim, settings->scale, settings->offset,
                                                       record);
    if (storage->residuals) {
        const struct mp_level level = level_of(hnsw, record);
        mp_encode_residuals(&level, vector, settings->range, storage->residuals + id * settings->dim);
    }
    if (storage->originals)
        memcpy(storage->originals + id * settings->dim, vector, settings->dim * sizeof(float));
    complete(hnsw, storage, id);
}

void mp_hnsw_write_codes(const struct mp_hnsw *hnsw, struct mp_hnsw_storage *storage, size_t id,
                         const struct mp_hnsw_arrays *arrays) {
    const size_t dim = hnsw->settings.dim;
    memcpy(storage->records + id * hnsw->stride, arrays->codes + id * hnsw->code_bytes, hnsw->code_bytes);
    if (storage->residuals)
        memcpy(storage->residuals + id * dim, arrays->residuals + id * dim, dim);
    if (storage->originals)
        memcpy(storage->originals + id * dim, arrays->originals + id * dim, dim * sizeof(float));
    complete(hnsw, storage, id);
}
