#include "mp/scan.h"

#include <math.h>

#define BLOCK 256               /* codes scored before their keys are looked at */
#define GROUP 16                /* keys that are looked at together */
#define MAX_BATCH 1024          /* queries that share one pass over the codes */
#define BATCH_BYTES (64u << 20) /* of top-k buffers; fewer queries share a pass when k is large */

bool mp_scan_begin(const struct mp_items *items, const float *vectors, size_t n, size_t keep,
                   struct mp_scratch *scratch, struct mp_scan_batch *batch) {
    const size_t dim = items->dim, capacity = mp_topk_capacity(keep);
    const size_t strips_bytes = mp_strips_bytes(items, n);
    const size_t each = sizeof *batch->queries + sizeof *batch->topks + sizeof *batch->targets;
    if (!mp_reserve(&scratch->query, n * mp_query_bytes(dim)) ||
        !mp_reserve(&scratch->ranks, n * capacity * sizeof(uint64_t)) || !mp_reserve(&scratch->heap, n * each) ||
        !mp_reserve(&scratch->strips, strips_bytes + MP_GATHERED * mp_code_bytes(items)))
        return false;
    batch->queries = scratch->heap.data;
    batch->topks = (struct mp_topk *)(void *)(batch->queries + n);
    batch->targets = (struct mp_scan_target *)(void *)(batch->topks + n);
    batch->strips = scratch->strips.data;
    batch->gathered = (uint8_t *)batch->strips + strips_bytes;
    for (size_t q = 0; q < n; q++) {
        struct mp_query *query = &batch->queries[q];
        mp_place_query(query, scratch->query.data, q, dim);
        mp_fold_for(items, vectors + q * dim, query);
        mp_topk_begin(&batch->topks[q], (uint64_t *)scratch->ranks.data + q * capacity, keep);
        batch->targets[q] = (struct mp_scan_target){query, &batch->topks[q], mp_key_weight(items, query), 0, NULL};
    }
    return true;
}

bool mp_scan_pass(struct mp_scan_gate *gate, uint32_t *id) {
    const uint32_t at = *id - gate->first_id;
    if (gate->names)
        *id = gate->names[at];
    if (!gate->filter || gate->given_up)
        return !gate->given_up;
    const int answer = mp_filter_accepts(gate->filter, gate->ids ? gate->ids[at] : (int64_t)*id);
    gate->given_up = answer < 0;
    return answer > 0;
}

/* The least of a group's keys; NaN is never near and counts for nothing. */
static float least_key(const float keys[GROUP]) {
    float least[4] = {INFINITY, INFINITY, INFINITY, INFINITY};
    for (size_t i = 0; i < GROUP; i += 4) {
        for (size_t lane = 0; lane < 4; lane++)
            least[lane] = keys[i + lane] < least[lane] ? keys[i + lane] : least[lane];
    }
    const float first = least[0] < least[1] ? least[0] : least[1], second = least[2] < least[3] ? least[2] : least[3];
    return first < second ? first : second;
}

/* Pushes `count` items from first_id on, whose keys are given, padded with infinity to whole groups. Most groups hold
 * nothing that is near enough. */
static void push_keys(const struct mp_scan_target *target, const float *keys, uint32_t first_id, size_t count) {
    for (size_t first = 0; first < count; first += GROUP) {
        if (least_key(keys + first) > target->topk->worst_key)
            continue;
        for (size_t i = first; i < count && i < first + GROUP; i++)
            mp_scan_push(target, keys[i], first_id + (uint32_t)i);
    }
}

/* The norms of a block side by side, for as many queries as read them; NULL if the metric has none. */
static const float *load_norms(const struct mp_items *items, size_t first, size_t count, float *norms) {
    for (size_t i = 0; items->norms && i < count; i++)
        norms[i] = mp_item_norm(items, first + i);
    return items->norms ? norms : NULL;
}

static void fill_keys(const struct mp_scan_target *target, const float *norms, size_t count, const int32_t *dots,
                      float *keys) {
    const float weight = target->weight, constant = target->constant;
    for (size_t i = 0; i < count; i++)
        keys[i] = constant + weight * (float)dots[i];
    for (size_t i = 0; norms && i < count; i++)
        keys[i] += norms[i];
    for (size_t i = count; i % GROUP > 0; i++)
        keys[i] = INFINITY;
}

void mp_scan(const struct mp_items *items, uint32_t first_id, const struct mp_scan_target *target) {
    const int8_t *high = target->query->high;
    int32_t dots[BLOCK];
    float keys[BLOCK], norms[BLOCK];
    for (size_t first = 0; first < items->n; first += BLOCK) {
        const size_t count = items->n - first < BLOCK ? items->n - first : BLOCK;
        items->kernels->run(mp_item_code(items, first), items->code_stride, count, high, items->dim, dots);
        fill_keys(target, load_norms(items, first, count, norms), count, dots, keys);
        push_keys(target, keys, first_id + (uint32_t)first, count);
    }
}

size_t mp_batch_size(size_t n_queries, size_t n_threads, size_t keep) {
    const size_t share = (n_queries + n_threads - 1) / n_threads;
    const size_t room = BATCH_BYTES / (mp_topk_capacity(keep) * sizeof(uint64_t));
    const size_t most = room < MAX_BATCH ? room : MAX_BATCH;
    const size_t size = share < most ? share : most;
    return size > 0 ? size : 1;
}
