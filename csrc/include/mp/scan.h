/* Scoring runs of contiguous codes by the 8-bit query: what exhaustive search and inverted lists are made of.
 *
 *   key = norm + (constant + weight * dot(c, high))       without norms: constant + weight * dot(c, high)
 *
 * constant stands for what one query has in common with all codes of a run; 0 leaves the keys of items.h unchanged.
 */
#ifndef MP_SCAN_H
#define MP_SCAN_H

#include "mp/filter.h"
#include "mp/items.h"
#include "mp/scratch.h"
#include "mp/topk.h"

#include <stdbool.h>

/* What stands between a run and the results, asked for items that are near enough only. `first_id` is that of the run.
 */
struct mp_scan_gate {
    const struct mp_filter *filter; /* NULL: all pass */
    const int64_t *ids;             /* of the run's items, for the filter; NULL: the ids that they are pushed under */
    const uint32_t *names;          /* what the run's items are pushed under; NULL: first_id, first_id + 1, ... */
    uint32_t first_id;
    bool given_up; /* the filter said so; nothing passes any more */
};

/* A query that a run is scored for. */
struct mp_scan_target {
    const struct mp_query *query;
    struct mp_topk *topk;
    float weight, constant;
    struct mp_scan_gate *gate; /* NULL: everything that is near enough is pushed */
};

/* Whether the item of this id may be pushed; then `id` becomes its name. */
bool mp_scan_pass(struct mp_scan_gate *gate, uint32_t *id);

static inline float mp_scan_key(const struct mp_scan_target *target, float norm, int32_t dot) {
    return norm + (target->constant + target->weight * (float)dot);
}

static inline void mp_scan_push(const struct mp_scan_target *target, float key, uint32_t id) {
    if (key <= target->topk->worst_key && (!target->gate || mp_scan_pass(target->gate, &id)))
        mp_topk_push(target->topk, mp_rank(key, id));
}

#define MP_GATHERED 128 /* codes that are brought together at a time */

/* Queries that are searched together, in the memory of a scratch. */
struct mp_scan_batch {
    struct mp_query *queries;
    struct mp_topk *topks;
    struct mp_scan_target *targets; /* set for keys of items.h, without gates */
    int8_t *strips;                 /* mp_strips_bytes(), MP_ALIGN aligned */
    uint8_t *gathered;              /* room for MP_GATHERED codes */
};

/* Folds n vectors and makes them ready to keep the `keep` nearest each. False if there is no memory. */
bool mp_scan_begin(const struct mp_items *items, const float *vectors, size_t n, size_t keep,
                   struct mp_scratch *scratch, struct mp_scan_batch *batch);

/* Pushes all of `items` under the ids first_id, first_id + 1, ... */
void mp_scan(const struct mp_items *items, uint32_t first_id, const struct mp_scan_target *target);

/* Queries from which interleaving them pays. */
#define MP_MIN_STRIP_QUERIES 6

/* Working memory for so many targets: their interleaved queries and a block of codes. */
size_t mp_strips_bytes(const struct mp_items *items, size_t n_targets);

/* Interleaves the queries of targets; whatever is scored for these targets in this order then takes `strips`. */
void mp_fill_strips(const struct mp_items *items, const struct mp_scan_target *targets, size_t n_targets,
                    int8_t *strips);

/* mp_scan() for many targets; each code is read from memory once. */
void mp_scan_many(const struct mp_items *items, uint32_t first_id, const struct mp_scan_target *targets,
                  size_t n_targets, int8_t *strips);

/* mp_scan_many() for those of the items that pass `filter`; the strips of `batch` are filled. The filter judges `ids`,
 * or without them the ids that are pushed. Blocks in which nothing passes are not read. False if the filter gives up.
 */
bool mp_scan_filtered(const struct mp_items *items, uint32_t first_id, const struct mp_filter *filter,
                      const int64_t *ids, struct mp_scan_target *targets, size_t n_targets,
                      const struct mp_scan_batch *batch);

/* Pushes items here and there: those at `positions` of `items`, in any order, under first_id + position. */
void mp_scan_list(const struct mp_items *items, uint32_t first_id, const uint32_t *positions, size_t count,
                  const struct mp_scan_target *target);

/* Queries that one thread should take at once: its whole share, so that codes are read once, within a bound on the
 * memory of their top-k buffers. */
size_t mp_batch_size(size_t n_queries, size_t n_threads, size_t keep);

#endif
