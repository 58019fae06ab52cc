/* Range search: all items nearer than a radius, found by their 16-bit distance, which is the one that searches return.
 *
 * A first pass by the 8-bit query leaves out what cannot be inside. With P the product of the 16-bit query (items.h),
 *
 *   P = bias + unit * (256 * dot(c, high) + dot(c, low)),   dot(c, low) <= most * sum_i max(low_i, 0) = reach
 *
 * because 0 <= c_i <= most (255, or 15 for 4-bit codes). reach is one integer a query, and the margin of the first pass
 * is unit * reach: the key of P' = bias + unit * (256 * dot(c, high) + reach) is not above the item's own key. This
 * holds for the computed numbers and not for the exact ones alone, so that no slack for rounding is needed: P and P'
 * are the same sequence of operations from integers that are exact in double; unit is not negative, every operation in
 * the sequence is monotone in what comes from the integer, and rounding to nearest is monotone. An item is left out if
 * the key of P' is not below the radius; its own key then isn't either.
 *
 * Items that keep their vectors are scored by these, all of them: what a code lost is not bounded.
 *
 * A second level adds range / 255 * (unit * dot(r, 256 * high + low) - 127.5 * step_sum), bounded in the same way by
 * 255 * sum_i max(256 * high_i + low_i, 0); a centroid adds <q, m_l>, a constant of the list.
 */
#ifndef MP_RANGE_H
#define MP_RANGE_H

#include "mp/ivf.h"

/* What to look for. Borrowed from the caller. */
struct mp_range {
    const float *queries;
    size_t n_queries;
    /* l2: results have a distance below it; ip, cosine: a similarity above it. */
    float radius;
    const struct mp_filter *filter; /* NULL: all pass; a callable is asked for items inside the radius only */
    int num_threads;
};

/* The results of one query, owned by the caller: zeroed before a search, closed after it, failed or not. */
struct mp_range_hits {
    float *distances;
    int64_t *ids;
    size_t count, capacity;
};

/* The lists that queries visit, n_probe a query; -1 names none. A query ends after `max_empty` lists in a row without
 * a result; 0: never. */
struct mp_range_visits {
    const int64_t *assignment;
    size_t n_probe, max_empty;
};

/* Scores all items for every query. Results come in ascending order of ids. */
struct mp_status mp_range_flat(const struct mp_items *items, struct mp_scratch_pool *scratches,
                               const struct mp_range *range, struct mp_range_hits *hits);

/* Scores the lists that a query visits. Results come in the order of its visits and, of a list, of its items. */
struct mp_status mp_range_lists(const struct mp_ivf *ivf, struct mp_scratch_pool *scratches,
                                const struct mp_range *range, const struct mp_range_visits *visits,
                                struct mp_range_hits *hits);

void mp_range_close(struct mp_range_hits *hits, size_t n_queries);

#endif
