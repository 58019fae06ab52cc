/* Scoring runs of contiguous codes by the 8-bit query: what exhaustive search and inverted lists are made of.
 *
 *   key = norm + (constant + weight * dot(c, high))       without norms: constant + weight * dot(c, high)
 *
 * constant stands for what one query has in common with all codes of a run; 0 leaves the keys of items.h unchanged.
 */
#ifndef MP_SCAN_H
#define MP_SCAN_H

#include "mp/items.h"
#include "mp/scratch.h"
#include "mp/topk.h"

#include <stdbool.h>

/* A query that a run is scored for. */
struct mp_scan_target {
    const struct mp_query *query;
    struct mp_topk *topk;
    float weight, constant;
};

/* Queries that are searched together, in the memory of a scratch. */
struct mp_scan_batch {
    struct mp_query *queries;
    struct mp_topk *topks;
    struct mp_scan_target *targets; /* set for keys of items.h */
    uint8_t *panel;
};

/* Folds n vectors and makes them ready to keep the `keep` nearest each. False if there is no memory. */
bool mp_scan_begin(const struct mp_items *items, const float *vectors, size_t n, size_t keep,
                   struct mp_scratch *scratch, struct mp_scan_batch *batch);

/* Pushes all of `items` under the ids first_id, first_id + 1, ... */
void mp_scan(const struct mp_items *items, uint32_t first_id, const struct mp_scan_target *target);

/* The same for many targets; where they are enough, each code is read once. `panel` is that of their batch. */
void mp_scan_many(const struct mp_items *items, uint32_t first_id, const struct mp_scan_target *targets,
                  size_t n_targets, uint8_t *panel);

/* Queries that one thread should take at once: its whole share, so that codes are read once, within a bound on the
 * memory of their top-k buffers. */
size_t mp_batch_size(size_t n_queries, size_t n_threads, size_t keep);

#endif
