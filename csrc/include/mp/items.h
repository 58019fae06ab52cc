/* Codes as a metric space: what a traversal compares by, and what a search returns.
 *
 *   l2   |q - x^|^2 = |q|^2 - 2 <q, x^> + |x^|^2     ascending; never below 0
 *   ip   <q, x^>                                     descending
 *   cosine   <q, x^> / |q|, items encoded at length 1    descending; 0 for a query of length 0
 *
 * Traversals order items by a key, smaller is nearer, from the 8-bit query alone:
 *   l2   key = norm + weight * dot(c, high), weight = -2 * 256 * unit     (|q|^2 and the bias don't change the order)
 *   ip, cosine   key = -dot(c, high)
 * dot is exact in int32 and becomes a float here, exactly while |dot| <= 2^24 (d <= 514) and rounded above.
 * Rescoring computes the distance itself from the 16-bit query, in double, and from both levels of the items if they
 * have residuals (residual.h), which the keys don't see. Items that keep the vectors x themselves are rescored by those
 * and the query as it is: |q - x|^2, <q, x> or <q, x> / |q| in double.
 */
#ifndef MP_ITEMS_H
#define MP_ITEMS_H

#include "mp/kernels.h"
#include "mp/quantize.h"
#include "mp/topk.h"

/* Ids share a 32-bit word with one flag bit in the graph's pool. */
#define MP_MAX_ITEMS 0x7FFFFFFF

enum mp_metric { MP_METRIC_L2, MP_METRIC_IP, MP_METRIC_COSINE };

/* The second level. `norms` are those of both levels together, NULL but for MP_METRIC_L2. */
struct mp_residuals {
    const uint8_t *codes; /* NULL without a second level; n x dim */
    const float *norms;
    float range;
};

/* Everything is borrowed from the caller. Norms are NULL but for MP_METRIC_L2, which alone needs them. */
struct mp_items {
    const uint8_t *codes;
    const uint8_t *norms; /* floats, at a byte stride of their own */
    size_t code_stride;   /* bytes from one code to the next */
    size_t norm_stride;
    const float *scale, *offset;
    size_t n, dim;
    size_t bits; /* 8, or 4: two dimensions a byte */
    enum mp_metric metric;
    const struct mp_kernels *kernels;      /* for these codes */
    const struct mp_kernels *byte_kernels; /* for bytes: tiles, planes, residuals */
    struct mp_residuals residuals;
    const float *originals; /* NULL, or x: n x dim; then there are no residuals */
};

static inline size_t mp_code_bytes(const struct mp_items *items) {
    return items->bits == 4 ? (items->dim + 1) / 2 : items->dim;
}

static inline const uint8_t *mp_item_code(const struct mp_items *items, size_t id) {
    return items->codes + id * items->code_stride;
}

static inline float mp_item_norm(const struct mp_items *items, size_t id) {
    float norm;
    memcpy(&norm, items->norms + id * items->norm_stride, sizeof norm);
    return norm;
}

/* All lines, not the first alone: a code of 384 bytes has six, and the hardware doesn't guess them. */
static inline void mp_prefetch(const uint8_t *code, size_t size) {
    for (size_t i = 0; i < size; i += MP_ALIGN)
        __builtin_prefetch(code + i);
    __builtin_prefetch(code + size - 1); /* another line where codes are not aligned */
}

static inline void mp_prefetch_item(const struct mp_items *items, size_t id) {
    mp_prefetch(mp_item_code(items, id), mp_code_bytes(items));
    if (items->norms)
        __builtin_prefetch(items->norms + id * items->norm_stride);
}

/* Folds a query and puts it in the order that the items' kernels want. `query` is placed, see scratch.h. */
void mp_fold_for(const struct mp_items *items, const float *vector, struct mp_query *query);

/* The factor of dot in the key. */
static inline float mp_key_weight(const struct mp_items *items, const struct mp_query *query) {
    return items->metric == MP_METRIC_L2 ? (float)(-512 * query->unit) : -1.0f;
}

static inline float mp_key(const struct mp_items *items, float weight, size_t id, int32_t dot) {
    const float product = weight * (float)dot;
    return items->norms ? mp_item_norm(items, id) + product : product;
}

/* The key whose value is the distance (l2) or minus the similarity (ip), from product = <q, x^>. */
float mp_exact_key(const struct mp_items *items, const struct mp_query *query, size_t id, double product);

/* The same by the vector itself, of items with originals. */
float mp_original_key(const struct mp_items *items, const struct mp_query *query, size_t id);

/* How many candidates by key are worth rescoring to find the best k of n. */
size_t mp_n_rescored(const struct mp_items *items, size_t k, size_t n);

/* Replaces the keys of `ranks` by the distance (l2) or minus the similarity (ip) of the 16-bit query, or of the query
 * itself for items with originals. */
void mp_exact_ranks(const struct mp_items *items, const struct mp_query *query, uint64_t *ranks, size_t count);

/* Turns `count` candidates (any order; only the ids of `ranks` are read, all are overwritten) into the k results. */
void mp_rescore(const struct mp_items *items, const struct mp_query *query, uint64_t *ranks, size_t count, size_t k,
                float *distances, int64_t *ids);

#endif
