#include "mp/flat.h"

#include "mp/scan.h"
#include "mp/threads.h"

#include <stdatomic.h>

struct search {
    const struct mp_flat *flat;
    const float *queries;
    size_t k, keep;
    const struct mp_filter *filter;
    float *distances;
    int64_t *ids;
    atomic_bool no_memory, given_up;
};

static void finish(const struct search *search, const struct mp_query *query, struct mp_topk *topk, size_t row) {
    const size_t count = mp_topk_finish(topk);
    mp_rescore(search->flat->items, query, topk->ranks, count, search->k, search->distances + row * search->k,
               search->ids + row * search->k);
}

static bool search_rows(struct search *search, struct mp_scratch *scratch, size_t begin, size_t count) {
    const struct mp_items *items = search->flat->items;
    struct mp_scan_batch batch;
    if (!mp_scan_begin(items, search->queries + begin * items->dim, count, search->keep, scratch, &batch))
        return false;
    if (!search->filter)
        mp_scan_many(items, 0, batch.targets, count, batch.panel);
    else if (!mp_scan_filtered(items, 0, search->filter, NULL, batch.targets, count, &batch))
        atomic_store(&search->given_up, true);
    for (size_t q = 0; q < count; q++)
        finish(search, &batch.queries[q], &batch.topks[q], begin + q);
    return true;
}

static void search_range(void *context, size_t begin, size_t end) {
    struct search *search = context;
    if (atomic_load(&search->given_up))
        return;
    struct mp_scratch_pool *pool = search->flat->scratches;
    struct mp_scratch *scratch = mp_scratch_take(pool);
    if (!scratch || !search_rows(search, scratch, begin, end - begin))
        atomic_store(&search->no_memory, true);
    if (scratch)
        mp_scratch_give(pool, scratch);
}

struct mp_status mp_flat_search(const struct mp_flat *flat, const float *queries, size_t n_queries, size_t k,
                                const struct mp_filter *filter, int num_threads, float *distances, int64_t *ids) {
    const size_t n_threads = mp_n_threads(num_threads, n_queries);
    struct search search = {.flat = flat, .queries = queries, .k = k, .filter = filter};
    search.distances = distances;
    search.ids = ids;
    search.keep = mp_n_rescored(flat->items, k, flat->items->n);
    atomic_init(&search.no_memory, false);
    atomic_init(&search.given_up, false);
    mp_parallel_for(n_queries, mp_batch_size(n_queries, n_threads, search.keep), n_threads, search_range, &search);
    return mp_search_status(atomic_load(&search.no_memory), atomic_load(&search.given_up));
}
