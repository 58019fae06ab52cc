/* Exhaustive search. One query streams the codes once; a batch reads each block of codes once for many queries. Threads
 * share the queries or, where these are few and the codes many, the codes. With a filter (NULL: none) the results are
 * those of searching what passes it. */
#ifndef MP_FLAT_H
#define MP_FLAT_H

#include "mp/filter.h"
#include "mp/items.h"
#include "mp/scratch.h"
#include "mp/status.h"

struct mp_flat {
    const struct mp_items *items;
    struct mp_scratch_pool *scratches;
};

/* Writes n_queries x k distances and ids; slots that can't be filled hold -1 and +inf (l2) or -inf (ip). */
struct mp_status mp_flat_search(const struct mp_flat *flat, const float *queries, size_t n_queries, size_t k,
                                const struct mp_filter *filter, int num_threads, float *distances, int64_t *ids);

#endif
