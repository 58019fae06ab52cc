#include "mp/graph.h"

#include "mp/flat.h"
#include "mp/threads.h"

#include "graph_walk.h"

#include <math.h>
#include <stdatomic.h>

#define QUERIES_PER_CHUNK 4

/* Scoring all m of n nodes that pass takes a time proportional to m, a walk to ef of them one proportional to ef n / m:
 * they meet at m^2 = FEW ef n. Measured on 116 k embeddings of 384 dimensions (M = 16, ef 16 to 256): FEW is 16 to 48
 * for single queries and 250 for batches, whose scoring shares strips. One number for both, because what is found must
 * not depend on the batch, and a generous one, because scoring all is exact. */
#define FEW 64

struct search {
    const struct mp_graph *graph;
    struct mp_scratch_pool *scratches;
    const float *queries;
    size_t k, ef, keep;
    const struct mp_filter *filter;
    float *distances;
    int64_t *ids;
    atomic_bool no_memory, given_up;
};

/* A heap with the smallest rank on top: with a filter, the nodes to expand are not those to return, and how many they
 * will be is not known. */
struct heap {
    uint64_t *ranks;
    size_t size;
};

static void heap_push(struct heap *heap, uint64_t rank) {
    size_t at = heap->size++;
    for (size_t parent; at > 0 && heap->ranks[parent = (at - 1) / 2] > rank; at = parent)
        heap->ranks[at] = heap->ranks[parent];
    heap->ranks[at] = rank;
}

static uint64_t heap_pop(struct heap *heap) {
    const uint64_t top = heap->ranks[0], last = heap->ranks[--heap->size];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < heap->size; at = child) {
        child += child + 1 < heap->size && heap->ranks[child + 1] < heap->ranks[child];
        if (heap->ranks[child] >= last)
            break;
        heap->ranks[at] = heap->ranks[child];
    }
    heap->ranks[at] = last;
    return top;
}

/* Puts a node on the way, and into the results if the filter lets it. False if the filter gives the search up. */
static inline bool meet(const struct mp_filter *filter, struct heap *heap, struct pool *results, uint64_t rank) {
    if (results->size == results->capacity && rank >= results->ranks[results->size - 1])
        return true;
    if (results->size < results->breadth || rank < results->ranks[results->breadth - 1])
        heap_push(heap, rank);
    const int accepts = mp_filter_accepts(filter, (uint32_t)rank >> 1);
    if (accepts > 0)
        pool_insert(results, rank);
    return accepts >= 0;
}

/* search_level() of level 0 for a search with a filter. */
static bool search_filtered(const struct walk *walk, const struct mp_filter *filter, struct heap *heap,
                            struct pool *results, uint32_t entry, float entry_key) {
    walk->visited[entry] = walk->epoch;
    bool goes_on = meet(filter, heap, results, (uint64_t)mp_order_of(entry_key) << 32 | entry << 1);
    while (goes_on && heap->size > 0) {
        const uint64_t nearest = heap_pop(heap);
        if (results->size >= results->breadth && nearest > results->ranks[results->breadth - 1])
            break;
        const size_t count = collect_fresh(walk, links_at_0(walk->graph, (uint32_t)nearest >> 1));
        for (size_t i = 0; i < count; i++)
            mp_prefetch_item(&walk->graph->items, walk->fresh[i]);
        for (size_t i = 0; i < count && goes_on; i += 4) {
            float keys[4];
            score4(walk, walk->fresh + i, keys);
            for (size_t j = 0; j < 4 && i + j < count && goes_on; j++)
                goes_on = meet(filter, heap, results, (uint64_t)mp_order_of(keys[j]) << 32 | walk->fresh[i + j] << 1);
        }
    }
    return goes_on;
}

static bool search_row(const struct search *search, struct walk *walk, struct mp_query *query,
                       struct mp_scratch *scratch, size_t row) {
    uint64_t *ranks = scratch->ranks.data;
    const struct mp_items *items = &search->graph->items;
    struct pool pool = {.ranks = ranks, .capacity = search->keep, .breadth = search->ef};
    mp_fold_for(items, search->queries + row * items->dim, query);
    walk->weight = mp_key_weight(items, query);
    size_t count = 0;
    if (items->n > 0) {
        uint32_t node = (uint32_t)search->graph->entry_point;
        float key = key_of(walk, node);
        for (size_t level = search->graph->max_level; level > 0; level--)
            node = descend(walk, node, level, &key);
        struct heap heap = {.ranks = scratch->heap.data};
        if (!search->filter)
            search_level(walk, &pool, 0, node, key);
        else if (!search_filtered(walk, search->filter, &heap, &pool, node, key))
            return false;
        count = pool.size;
    }
    const size_t rescored = mp_n_rescored(items, search->k, count);
    for (size_t i = 0; i < rescored; i++)
        ranks[i] = (uint32_t)ranks[i] >> 1;
    mp_rescore(items, query, ranks, rescored, search->k, search->distances + row * search->k,
               search->ids + row * search->k);
    return true;
}

static bool search_rows(struct search *search, struct mp_scratch *scratch, size_t begin, size_t end) {
    const struct mp_items *items = &search->graph->items;
    if (!mp_reserve(&scratch->query, mp_query_bytes(items->dim)) ||
        !mp_reserve(&scratch->ranks, (search->keep + 1) * sizeof(uint64_t)) ||
        !mp_reserve(&scratch->ids, (search->graph->max_links0 + 4) * sizeof(uint32_t)) ||
        (search->filter && !mp_reserve(&scratch->heap, items->n * sizeof(uint64_t)))) /* each node enters once */
        return false;
    struct mp_query query;
    mp_place_query(&query, scratch->query.data, 0, items->dim);
    for (size_t row = begin; row < end && !atomic_load_explicit(&search->given_up, memory_order_relaxed); row++) {
        if (!mp_visited_begin(scratch, items->n))
            return false;
        struct walk walk = {.graph = search->graph,
                            .query = &query,
                            .visited = scratch->visited.data,
                            .epoch = scratch->epoch,
                            .fresh = scratch->ids.data};
        if (!search_row(search, &walk, &query, scratch, row))
            atomic_store(&search->given_up, true);
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

/* Whether scoring all that pass is faster than a walk. Where all nodes pass, the filter changes nothing. */
static bool few_pass(const struct mp_filter *filter, size_t n, size_t ef) {
    const size_t few = (size_t)sqrt(FEW * (double)n * (double)ef);
    const size_t passing = filter && n > 0 ? mp_filter_count(filter, n, few) : SIZE_MAX;
    return passing <= few && passing < n;
}

struct mp_status mp_graph_search(const struct mp_graph *graph, struct mp_scratch_pool *scratches, const float *queries,
                                 size_t n_queries, size_t k, size_t ef, const struct mp_filter *filter, int num_threads,
                                 float *distances, int64_t *ids) {
    struct search search = {.graph = graph, .scratches = scratches, .queries = queries, .k = k, .filter = filter};
    search.distances = distances;
    search.ids = ids;
    search.ef = ef > k ? ef : k;
    search.ef = search.ef < graph->items.n ? search.ef : graph->items.n; /* more can't be found */
    /* What ranks last by the 8-bit query of a walk whose ef is near k may be among the best: some more are kept. */
    const size_t worth = mp_n_rescored(&graph->items, k, graph->items.n), most = 2 * search.ef;
    search.keep = worth < search.ef ? search.ef : worth < most ? worth : most;
    if (few_pass(filter, graph->n_complete, search.ef)) {
        const struct mp_flat flat = {&graph->items, scratches};
        return mp_flat_search(&flat, queries, n_queries, k, filter, num_threads, distances, ids);
    }
    atomic_init(&search.no_memory, false);
    atomic_init(&search.given_up, false);
    mp_parallel_for(n_queries, QUERIES_PER_CHUNK, mp_n_threads(num_threads, n_queries), search_chunk, &search);
    return mp_search_status(atomic_load(&search.no_memory), atomic_load(&search.given_up));
}
