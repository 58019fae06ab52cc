#include "mp/items.h"

#include <math.h>

void mp_fold_for(const struct mp_items *items, const float *vector, struct mp_query *query) {
    struct mp_query natural = *query;
    if (items->bits == 4) {
        natural.high = query->natural_high;
        natural.low = query->natural_low;
    }
    mp_fold_query(vector, items->dim, items->scale, items->offset, &natural);
    query->unit = natural.unit;
    query->bias = natural.bias;
    query->sqnorm = natural.sqnorm;
    query->natural_high = natural.high;
    query->natural_low = natural.low;
    if (items->bits == 4) {
        mp_split_planes(natural.high, items->dim, query->high);
        mp_split_planes(natural.low, items->dim, query->low);
    }
}

size_t mp_n_rescored(size_t k, size_t n) {
    if (k >= n)
        return n;
    const size_t wanted = k > 16 ? 2 * k : k + 16;
    return wanted < n ? wanted : n;
}

/* The key whose value is the distance (l2) or minus the similarity (ip). */
static float exact_key(const struct mp_items *items, const struct mp_query *query, size_t id, int64_t dot) {
    const double product = query->bias + query->unit * (double)dot;
    if (items->metric == MP_METRIC_IP)
        return (float)-product;
    const double distance = query->sqnorm - 2 * product + (double)mp_item_norm(items, id);
    return distance > 0 ? (float)distance : 0; /* rounding may take a distance of zero below it */
}

static void rescore4(const struct mp_items *items, const struct mp_query *query, uint64_t *ranks, size_t count) {
    const uint8_t *codes[4];
    int32_t high[4], low[4];
    for (size_t i = 0; i < 4; i++)
        codes[i] = mp_item_code(items, mp_rank_id(ranks[i < count ? i : 0]));
    items->kernels->dot4(codes, query->high, items->dim, high);
    items->kernels->dot4(codes, query->low, items->dim, low);
    for (size_t i = 0; i < count; i++) {
        const uint32_t id = mp_rank_id(ranks[i]);
        ranks[i] = mp_rank(exact_key(items, query, id, 256 * (int64_t)high[i] + low[i]), id);
    }
}

void mp_exact_ranks(const struct mp_items *items, const struct mp_query *query, uint64_t *ranks, size_t count) {
    for (size_t i = 0; i < count; i += 4)
        rescore4(items, query, ranks + i, count - i < 4 ? count - i : 4);
}

void mp_rescore(const struct mp_items *items, const struct mp_query *query, uint64_t *ranks, size_t count, size_t k,
                float *distances, int64_t *ids) {
    const float sign = items->metric == MP_METRIC_IP ? -1.0f : 1.0f;
    mp_exact_ranks(items, query, ranks, count);
    mp_sort_ranks(ranks, count);
    for (size_t i = 0; i < k; i++) {
        distances[i] = i < count ? sign * mp_rank_key(ranks[i]) + 0.0f : sign * INFINITY;
        ids[i] = i < count ? (int64_t)mp_rank_id(ranks[i]) : -1;
    }
}
