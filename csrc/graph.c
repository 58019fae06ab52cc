#include "mp/graph.h"

#include "mp/threads.h"

#include <stdatomic.h>

#define LOOKAHEAD 4 /* neighbours whose codes are on their way while four are scored */
#define QUERIES_PER_CHUNK 4

struct links {
    const int32_t *ids; /* up to the first negative one */
    size_t max;
};

static inline struct links links_at_0(const struct mp_graph *graph, size_t node) {
    if (graph->offsets)
        return (struct links){graph->neighbors + graph->offsets[node], graph->max_links0};
    const uint8_t *ids = graph->links0 + node * graph->items.code_stride;
    return (struct links){(const int32_t *)(const void *)ids, graph->max_links0};
}

static struct links links_above_0(const struct mp_graph *graph, size_t node, size_t level) {
    if (!graph->offsets) {
        const size_t block = graph->upper_start[node] + level - 1;
        return (struct links){graph->upper + block * graph->max_links, graph->max_links};
    }
    /* A damaged link may lead to a node that has no such level; its range ends where the next node's begins. */
    const size_t begin = graph->offsets[node] + (size_t)graph->cum[level];
    const size_t wanted = (size_t)(graph->cum[level + 1] - graph->cum[level]);
    const size_t end = graph->offsets[node + 1];
    const size_t left = begin < end ? end - begin : 0;
    return (struct links){graph->neighbors + begin, wanted < left ? wanted : left};
}

/* The pool: candidates in ascending order of rank. Here a rank's low word is id << 1 | expanded, which sorts alike. A
 * sorted array costs a short memmove per insertion, and both ends that a search looks at are at hand; two heaps cost
 * two sifts and the branches that go with them. */
struct pool {
    uint64_t *ranks;
    size_t size, capacity;
    size_t next; /* everything before is expanded */
};

static inline void pool_insert(struct pool *pool, uint64_t rank) {
    if (pool->size == pool->capacity) {
        if (rank >= pool->ranks[pool->size - 1])
            return;
        pool->size--;
    }
    size_t at = 0;
    for (size_t left = pool->size; left > 0;) {
        /* A mask, not a branch or what a compiler may turn into one: each step is a coin toss. */
        const size_t half = (left + 1) / 2;
        at += half & -(size_t)(pool->ranks[at + half - 1] < rank);
        left -= half;
    }
    memmove(pool->ranks + at + 1, pool->ranks + at, (pool->size - at) * sizeof(uint64_t));
    pool->ranks[at] = rank;
    pool->size++;
    pool->next = at < pool->next ? at : pool->next;
}

/* Marks the nearest unexpanded candidate as expanded; false if there is none. */
static inline bool pool_take(struct pool *pool, uint32_t *node) {
    while (pool->next < pool->size) {
        const uint64_t rank = pool->ranks[pool->next];
        pool->ranks[pool->next++] = rank | 1;
        if (!(rank & 1)) {
            *node = (uint32_t)rank >> 1;
            return true;
        }
    }
    return false;
}

struct walk {
    const struct mp_graph *graph;
    const struct mp_query *query;
    float weight;
    uint16_t *visited, epoch;
    uint32_t *fresh; /* room for max_links0 + 3 */
};

/* The links of a node that this search has not seen, padded to a multiple of four with copies of the last. */
static inline size_t collect_fresh(const struct walk *walk, struct links links) {
    size_t count = 0;
    for (size_t i = 0; i < links.max && links.ids[i] >= 0; i++) {
        const uint32_t id = (uint32_t)links.ids[i];
        walk->fresh[count] = id; /* without a branch: which links are new is a coin toss */
        count += walk->visited[id] != walk->epoch;
        walk->visited[id] = walk->epoch;
    }
    for (size_t i = count; count > 0 && i < count + 3; i++)
        walk->fresh[i] = walk->fresh[count - 1];
    return count;
}

static inline void score4(const struct walk *walk, const uint32_t ids[4], float keys[4]) {
    const struct mp_items *items = &walk->graph->items;
    const uint8_t *codes[4];
    int32_t dots[4];
    for (int i = 0; i < 4; i++)
        codes[i] = mp_item_code(items, ids[i]);
    items->kernels->dot4(codes, walk->query->high, items->dim, dots);
    for (int i = 0; i < 4; i++)
        keys[i] = mp_key(items, walk->weight, ids[i], dots[i]);
}

static void expand(const struct walk *walk, struct pool *pool, uint32_t node) {
    const struct mp_items *items = &walk->graph->items;
    const size_t count = collect_fresh(walk, links_at_0(walk->graph, node));
    for (size_t i = 0; i < count && i < LOOKAHEAD + 4; i++)
        mp_prefetch_item(items, walk->fresh[i]);
    for (size_t i = 0; i < count; i += 4) {
        float keys[4];
        for (size_t j = i + LOOKAHEAD + 4; j < count && j < i + LOOKAHEAD + 8; j++)
            mp_prefetch_item(items, walk->fresh[j]);
        score4(walk, walk->fresh + i, keys);
        for (size_t j = 0; j < 4 && i + j < count; j++)
            pool_insert(pool, (uint64_t)mp_order_of(keys[j]) << 32 | walk->fresh[i + j] << 1);
    }
}

static size_t search_level_0(const struct walk *walk, struct pool *pool, uint32_t entry, float entry_key) {
    uint32_t node;
    walk->visited[entry] = walk->epoch;
    pool_insert(pool, (uint64_t)mp_order_of(entry_key) << 32 | entry << 1);
    while (pool_take(pool, &node))
        expand(walk, pool, node);
    return pool->size;
}

/* Moves to the nearest neighbour as long as that gets nearer. */
static uint32_t descend(const struct walk *walk, uint32_t node, size_t level, float *key) {
    for (uint32_t from = UINT32_MAX; from != node;) {
        const struct links links = links_above_0(walk->graph, node, level);
        from = node;
        for (size_t i = 0; i < links.max && links.ids[i] >= 0; i += 4) {
            uint32_t ids[4];
            float keys[4];
            size_t count = 0;
            for (; count < 4 && i + count < links.max && links.ids[i + count] >= 0; count++)
                ids[count] = (uint32_t)links.ids[i + count];
            for (size_t j = count; j < 4; j++)
                ids[j] = ids[0];
            score4(walk, ids, keys);
            for (size_t j = 0; j < count; j++) {
                if (keys[j] < *key) {
                    *key = keys[j];
                    node = ids[j];
                }
            }
        }
    }
    return node;
}

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
        const int32_t dot = items->kernels->dot(mp_item_code(items, node), query->high, items->dim);
        float key = mp_key(items, walk->weight, node, dot);
        for (size_t level = search->graph->max_level; level > 0; level--)
            node = descend(walk, node, level, &key);
        count = search_level_0(walk, &pool, node, key);
    }
    const size_t rescored = mp_n_rescored(search->k, count);
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
