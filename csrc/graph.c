#include "mp/graph.h"

#include "mp/threads.h"

#include "graph_walk.h"

#include <stdatomic.h>

#define QUERIES_PER_CHUNK 4

struct search {
    const struct mp_graph *graph;
    struct mp_scratch_pool *scratches;
    const float *queries;
    size_t k, ef;
    float *distances;
    int64_t *ids;
    atomic_bool no_memory;
};

static void search_row(const struct search *search, struct walk *walk, struct mp_query *query, uint64_t *ranks,
                       size_t row) {
    const struct mp_items *items = &search->graph->items;
    struct pool pool = {.ranks = ranks, .capacity = search->ef};
    mp_fold_for(items, search->queries + row * items->dim, query);
    walk->weight = mp_key_weight(items, query);
    size_t count = 0;
    if (items->n > 0) {
        uint32_t node = (uint32_t)search->graph->entry_point;
        float key = key_of(walk, node);
        for (size_t level = search->graph->max_level; level > 0; level--)
            node = descend(walk, node, level, &key);
        search_level(walk, &pool, 0, node, key);
        count = pool.size;
    }
    const size_t rescored = mp_n_rescored(items, search->k, count);
    for (size_t i = 0; i < rescored; i++)
        ranks[i] = (uint32_t)ranks[i] >> 1;
    mp_rescore(items, query, ranks, rescored, search->k, search->distances + row * search->k,
               search->ids + row * search->k);
}

static bool search_rows(const struct search *search, struct mp_scratch *scratch, size_t begin, size_t end) {
    const struct mp_items *items = &search->graph->items;
    if (!mp_reserve(&scratch->query, mp_query_bytes(items->dim)) ||
        !mp_reserve(&scratch->ranks, (search->ef + 1) * sizeof(uint64_t)) ||
        !mp_reserve(&scratch->ids, (search->graph->max_links0 + 4) * sizeof(uint32_t)))
        return false;
    struct mp_query query;
    mp_place_query(&query, scratch->query.data, 0, items->dim);
    for (size_t row = begin; row < end; row++) {
        if (!mp_visited_begin(scratch, items->n))
            return false;
        struct walk walk = {.graph = search->graph,
                            .query = &query,
                            .visited = scratch->visited.data,
                            .epoch = scratch->epoch,
                            .fresh = scratch->ids.data};
        search_row(search, &walk, &query, scratch->ranks.data, row);
    }
    return true;
}

static void search_chunk(void *context, size_t begin, size_t end) {
    struct search *search = context;
    struct mp_scratch *scratch = mp_scratch_take(search->scratches);
    if (!scratch || !search_rows(search, scratch, begin, end))
        atomic_store(&search->no_memory, true);
    if (scratch)
        mp_scratch_give(search->scratches, scratch);
}

struct mp_status mp_graph_search(const struct mp_graph *graph, struct mp_scratch_pool *scratches, const float *queries,
                                 size_t n_queries, size_t k, size_t ef, int num_threads, float *distances,
                                 int64_t *ids) {
    struct search search = {.graph = graph, .scratches = scratches, .queries = queries, .k = k};
    search.distances = distances;
    search.ids = ids;
    search.ef = ef > k ? ef : k;
    search.ef = search.ef < graph->items.n ? search.ef : graph->items.n; /* more can't be found */
    atomic_init(&search.no_memory, false);
    mp_parallel_for(n_queries, QUERIES_PER_CHUNK, mp_n_threads(num_threads, n_queries), search_chunk, &search);
    return atomic_load(&search.no_memory) ? mp_no_memory() : mp_ok();
}
