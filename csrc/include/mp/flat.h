/* Exhaustive search. One query streams the codes once; a batch reads each block of codes once for many queries. */
#ifndef MP_FLAT_H
#define MP_FLAT_H

#include "mp/items.h"
#include "mp/scratch.h"
#include "mp/status.h"

struct mp_flat {
    const struct mp_items *items;
    struct mp_scratch_pool *scratches;
};

/* Writes n_queries x k distances and ids; slots that can't be filled hold -1 and +inf (l2) or -inf (ip). */
struct mp_status mp_flat_search(const struct mp_flat *flat, const float *queries, size_t n_queries, size_t k,
                                int num_threads, float *distances, int64_t *ids);

#endif
