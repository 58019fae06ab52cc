/* The walk over a graph: what searching and inserting have in common. Internal to graph.c and hnsw_*.c.
 *
 * Links are read while other threads write them. A writer stores each id with release order, after the node behind it
 * is complete; a list that is rewritten meanwhile may show ids of before and after, each of them a node that can be
 * walked. A reader fences once behind the loads of a list, not at each: on x86 both cost nothing themselves, but a load
 * with order keeps the compiler from holding what the loop needs in registers.
 */
#ifndef MP_GRAPH_WALK_H
#define MP_GRAPH_WALK_H

#include "mp/graph.h"

#define LOOKAHEAD 4 /* neighbours whose codes are on their way while four are scored */

struct links {
    const int32_t *ids; /* up to the first negative one */
    size_t max;
};

static inline int32_t load_link(struct links links, size_t i) {
    return __atomic_load_n(links.ids + i, __ATOMIC_RELAXED);
}

static inline void links_are_read(void) {
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
}

static inline struct links links_at_0(const struct mp_graph *graph, size_t node) {
    if (graph->offsets)
        return (struct links){graph->neighbors + graph->offsets[node], graph->max_links0};
    const uint8_t *ids = graph->links0 + node * graph->items.code_stride;
    return (struct links){(const int32_t *)(const void *)ids, graph->max_links0};
}

static inline struct links links_above_0(const struct mp_graph *graph, size_t node, size_t level) {
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

static inline struct links links_of(const struct mp_graph *graph, size_t node, size_t level) {
    return level == 0 ? links_at_0(graph, node) : links_above_0(graph, node, level);
}

/* The pool: candidates in ascending order of rank. Here a rank's low word is id << 1 | expanded, which sorts alike. A
 * sorted array costs a short memmove per insertion, and both ends that a search looks at are at hand; two heaps cost
 * two sifts and the branches that go with them. */
struct pool {
    uint64_t *ranks;
    size_t size, capacity;
    size_t breadth; /* how many of the nearest are expanded; the rest, up to `capacity`, may be worth rescoring */
    size_t next;    /* everything before is expanded */
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
    const size_t end = pool->size < pool->breadth ? pool->size : pool->breadth;
    while (pool->next < end) {
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
    for (size_t i = 0; i < links.max; i++) {
        const int32_t link = load_link(links, i);
        if (link < 0)
            break;
        const uint32_t id = (uint32_t)link;
        walk->fresh[count] = id; /* without a branch: which links are new is a coin toss */
        count += walk->visited[id] != walk->epoch;
        walk->visited[id] = walk->epoch;
    }
    links_are_read();
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

/* The links of the candidate that is next unless a nearer one is found now. Of level 0, where nearly all hops are. */
static inline void prefetch_next(const struct walk *walk, const struct pool *pool) {
    size_t at = pool->next;
    while (at < pool->size && pool->ranks[at] & 1)
        at++;
    if (at < pool->size) {
        const struct links links = links_at_0(walk->graph, (uint32_t)pool->ranks[at] >> 1);
        mp_prefetch((const uint8_t *)links.ids, links.max * sizeof *links.ids);
    }
}

static inline void expand(const struct walk *walk, struct pool *pool, struct links links) {
    const struct mp_items *items = &walk->graph->items;
    const size_t count = collect_fresh(walk, links);
    prefetch_next(walk, pool);
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

/* Fills the pool with the nearest nodes of a level that can be found from `entry`. */
static inline void search_level(const struct walk *walk, struct pool *pool, size_t level, uint32_t entry,
                                float entry_key) {
    uint32_t node;
    walk->visited[entry] = walk->epoch;
    pool_insert(pool, (uint64_t)mp_order_of(entry_key) << 32 | entry << 1);
    while (pool_take(pool, &node))
        expand(walk, pool, links_of(walk->graph, node, level));
}

/* Moves to the nearest neighbour as long as that gets nearer. */
static inline uint32_t descend(const struct walk *walk, uint32_t node, size_t level, float *key) {
    for (uint32_t from = UINT32_MAX; from != node;) {
        const struct links links = links_above_0(walk->graph, node, level);
        from = node;
        for (size_t i = 0, count = 4; i < links.max && count == 4; i += 4) {
            uint32_t ids[4];
            float keys[4];
            int32_t link;
            for (count = 0; count < 4 && i + count < links.max && (link = load_link(links, i + count)) >= 0; count++)
                ids[count] = (uint32_t)link;
            if (count == 0)
                break;
            links_are_read();
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

/* The key of one node, for the entry of a walk. */
static inline float key_of(const struct walk *walk, uint32_t node) {
    const struct mp_items *items = &walk->graph->items;
    const int32_t dot = items->kernels->dot(mp_item_code(items, node), walk->query->high, items->dim);
    return mp_key(items, walk->weight, node, dot);
}

#endif
