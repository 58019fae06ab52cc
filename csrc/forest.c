#include "mp/forest.h"

#include "mp/flat.h"
#include "mp/scan.h"
#include "mp/threads.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#define QUERIES_PER_CHUNK 4
#define REMEDY "the forest is damaged or belongs to other vectors, build or load it again"

static struct mp_status enter(const struct mp_forest *forest, int32_t node, const char *name, uint8_t *entered) {
    if (node >= 0 ? (size_t)node >= forest->n_planes : (size_t)(-1 - (int64_t)node) >= forest->n_leaves)
        return mp_invalid("`%s` must name one of %zu planes or %zu leaves, got %" PRId32 ": " REMEDY, name,
                          forest->n_planes, forest->n_leaves, node);
    if (node >= 0 && entered[node]++)
        return mp_invalid("`%s` must enter a plane from one place only, got plane %" PRId32 " again: " REMEDY, name,
                          node);
    return mp_ok();
}

static struct mp_status check_planes(const struct mp_forest *forest) {
    struct mp_status status = mp_ok();
    uint8_t *entered = calloc(forest->n_planes + 1, 1);
    if (!entered)
        return mp_no_memory();
    for (size_t i = 0; i < forest->n_roots && status.code == MP_OK; i++)
        status = enter(forest, forest->roots[i], "roots", entered);
    for (size_t i = 0; i < 2 * forest->n_planes && status.code == MP_OK; i++)
        status = enter(forest, forest->children[i], "children", entered);
    free(entered);
    return status;
}

static struct mp_status check_items(struct mp_forest *forest) {
    const size_t n = forest->items.n;
    size_t n_distinct = 0;
    uint8_t *met = calloc(n + 1, 1);
    if (!met)
        return mp_no_memory();
    for (size_t i = 0; i < forest->n_leaf_items; i++) {
        const int32_t item = forest->leaf_items[i];
        if (item < 0 || (size_t)item >= n) {
            free(met);
            return mp_invalid("`leaf_items` must be 0 to %" PRId64 ", got %" PRId32 ": " REMEDY, (int64_t)n - 1, item);
        }
        n_distinct += !met[item];
        met[item] = 1;
    }
    free(met);
    forest->has_all = n_distinct == n;
    return mp_ok();
}

struct mp_status mp_forest_check(struct mp_forest *forest) {
    const uint32_t *offsets = forest->leaf_offsets;
    forest->largest_leaf = 0;
    for (size_t i = 0; i < forest->n_leaves; i++) {
        if (offsets[i + 1] < offsets[i])
            return mp_invalid("`leaf_offsets` must not decrease, got %" PRIu32 " after %" PRIu32 ": " REMEDY,
                              offsets[i + 1], offsets[i]);
        const size_t size = offsets[i + 1] - offsets[i];
        forest->largest_leaf = size > forest->largest_leaf ? size : forest->largest_leaf;
    }
    if (offsets[forest->n_leaves] > forest->n_leaf_items)
        return mp_invalid("`leaf_offsets` must end within `leaf_items` of length %zu, got %" PRIu32 ": " REMEDY,
                          forest->n_leaf_items, offsets[forest->n_leaves]);
    const struct mp_status status = check_items(forest);
    return status.code == MP_OK ? check_planes(forest) : status;
}

/* A binary heap of ranks: the key is minus the priority, so that the smallest rank is the most promising node. */
struct queue {
    uint64_t *ranks;
    size_t size;
};

static void queue_push(struct queue *queue, float priority, int32_t node) {
    const uint64_t rank = mp_rank(-priority, (uint32_t)node);
    size_t at = queue->size++;
    for (; at > 0 && queue->ranks[(at - 1) / 2] > rank; at = (at - 1) / 2)
        queue->ranks[at] = queue->ranks[(at - 1) / 2];
    queue->ranks[at] = rank;
}

static uint64_t queue_pop(struct queue *queue) {
    const uint64_t first = queue->ranks[0], last = queue->ranks[--queue->size];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < queue->size; at = child) {
        child += child + 1 < queue->size && queue->ranks[child + 1] < queue->ranks[child];
        if (queue->ranks[child] >= last)
            break;
        queue->ranks[at] = queue->ranks[child];
    }
    queue->ranks[at] = last;
    return first;
}

struct walk {
    const struct mp_forest *forest;
    const struct mp_filter *filter;
    struct mp_query query, plane_query;
    double plane_zero; /* 128 * sum of the folded values of plane_query */
    struct queue queue;
    uint16_t *visited, epoch;
    uint32_t *found;
    size_t n_found;
    bool given_up; /* by the filter */
};

static float plane_margin(const struct walk *walk, size_t plane) {
    const struct mp_forest *forest = walk->forest;
    const size_t dim = forest->items.dim;
    const uint8_t *code = forest->plane_codes + plane * dim;
    const int32_t high = forest->items.byte_kernels->dot(code, walk->plane_query.high, dim);
    const int32_t low = forest->items.byte_kernels->dot(code, walk->plane_query.low, dim);
    const double product = walk->plane_query.unit * (256.0 * high + low - walk->plane_zero);
    return (float)(forest->plane_bias[plane] + forest->plane_scale[plane] * product);
}

static inline void add(struct walk *walk, uint32_t id) {
    walk->found[walk->n_found] = id;
    walk->n_found += walk->visited[id] != walk->epoch;
    walk->visited[id] = walk->epoch;
}

/* Returns how many items of a leaf pass the filter, those found before included. */
static size_t add_passing(struct walk *walk, const int32_t *leaf, size_t count) {
    size_t passing = 0;
    for (size_t i = 0; i < count && !walk->given_up; i++) {
        const int accepts = mp_filter_accepts(walk->filter, leaf[i]);
        walk->given_up = accepts < 0;
        if (accepts <= 0)
            continue;
        add(walk, (uint32_t)leaf[i]);
        passing++;
    }
    return passing;
}

static size_t add_leaf(struct walk *walk, size_t leaf) {
    const uint32_t begin = walk->forest->leaf_offsets[leaf], end = walk->forest->leaf_offsets[leaf + 1];
    if (walk->filter)
        return add_passing(walk, walk->forest->leaf_items + begin, end - begin);
    for (uint32_t i = begin; i < end; i++)
        add(walk, (uint32_t)walk->forest->leaf_items[i]);
    return end - begin;
}

/* Fills `found` with distinct items that pass, at least search_k of them if duplicates are counted. */
static void collect(struct walk *walk, size_t search_k) {
    const struct mp_forest *forest = walk->forest;
    for (size_t i = 0; i < forest->n_roots; i++)
        queue_push(&walk->queue, INFINITY, forest->roots[i]);
    for (size_t seen = 0; seen < search_k && walk->queue.size > 0 && !walk->given_up;) {
        const uint64_t rank = queue_pop(&walk->queue);
        const int32_t node = (int32_t)mp_rank_id(rank);
        if (node < 0) {
            seen += add_leaf(walk, (size_t)(-1 - (int64_t)node));
            continue;
        }
        const float priority = -mp_rank_key(rank), margin = plane_margin(walk, (size_t)node);
        queue_push(&walk->queue, fminf(priority, -margin), forest->children[2 * (size_t)node]);
        queue_push(&walk->queue, fminf(priority, margin), forest->children[2 * (size_t)node + 1]);
    }
}

struct search {
    const struct mp_forest *forest;
    struct mp_scratch_pool *scratches;
    const float *queries;
    size_t k, search_k;
    const struct mp_filter *filter;
    float *distances;
    int64_t *ids;
    atomic_bool no_memory, given_up;
};

/* `ones` and `zeros` make the fold one of the query itself. */
static void fold_plane_query(struct walk *walk, const float *vector, size_t dim, const float *ones,
                             const float *zeros) {
    int64_t sum = 0;
    mp_fold_query(vector, dim, ones, zeros, &walk->plane_query);
    for (size_t i = 0; i < dim; i++)
        sum += 256 * walk->plane_query.high[i] + walk->plane_query.low[i];
    walk->plane_zero = 128 * (double)sum;
}

static bool search_row(struct search *search, struct mp_scratch *scratch, size_t row) {
    const struct mp_forest *forest = search->forest;
    const struct mp_items *items = &forest->items;
    const float *vector = search->queries + row * items->dim;
    const size_t keep = mp_n_rescored(items, search->k, items->n);
    struct walk walk = {.forest = forest, .filter = search->filter};
    struct mp_topk topk;
    if (!mp_visited_begin(scratch, items->n))
        return false;
    walk.visited = scratch->visited.data;
    walk.epoch = scratch->epoch;
    walk.found = scratch->ids.data;
    walk.queue.ranks = scratch->heap.data;
    mp_place_query(&walk.query, scratch->query.data, 0, items->dim);
    mp_place_query(&walk.plane_query, scratch->query.data, 1, items->dim);
    mp_fold_for(items, vector, &walk.query);
    const float *ones = scratch->second.data;
    fold_plane_query(&walk, vector, items->dim, ones, ones + items->dim);
    mp_topk_begin(&topk, scratch->ranks.data, keep);
    collect(&walk, search->search_k);
    if (walk.given_up) {
        atomic_store(&search->given_up, true);
        return true;
    }
    const struct mp_scan_target target = {&walk.query, &topk, mp_key_weight(items, &walk.query), 0, NULL};
    mp_scan_list(items, 0, walk.found, walk.n_found, &target);
    mp_rescore(items, &walk.query, topk.ranks, mp_topk_finish(&topk), search->k, search->distances + row * search->k,
               search->ids + row * search->k);
    return true;
}

/* Ones and zeros, written once: all users of a pool search the same forest, and nothing else in it uses `second`. */
static bool reserve_neutral(struct mp_scratch *scratch, size_t dim) {
    if (scratch->second.size)
        return true;
    if (!mp_reserve(&scratch->second, 2 * dim * sizeof(float)))
        return false;
    float *ones = scratch->second.data, *zeros = ones + dim;
    for (size_t i = 0; i < dim; i++)
        ones[i] = 1, zeros[i] = 0;
    return true;
}

static bool reserve(const struct search *search, struct mp_scratch *scratch) {
    const struct mp_forest *forest = search->forest;
    const size_t n = forest->items.n, keep = mp_n_rescored(&forest->items, search->k, n);
    const size_t reached = search->search_k < n ? search->search_k + forest->largest_leaf : n;
    const size_t most = reached < n ? reached : n;
    /* Every plane is entered once and replaces itself by two nodes, so the queue grows by one a plane. One id more than
     * can be found: a duplicate is written before it is dropped. */
    return mp_reserve(&scratch->query, 2 * mp_query_bytes(forest->items.dim)) &&
           reserve_neutral(scratch, forest->items.dim) &&
           mp_reserve(&scratch->ranks, mp_topk_capacity(keep) * sizeof(uint64_t)) &&
           mp_reserve(&scratch->heap, (forest->n_roots + forest->n_planes + 1) * sizeof(uint64_t)) &&
           mp_reserve(&scratch->ids, (most + 1) * sizeof(uint32_t));
}

static void search_chunk(void *context, size_t begin, size_t end) {
    struct search *search = context;
    struct mp_scratch *scratch = mp_scratch_take(search->scratches);
    bool done = scratch && reserve(search, scratch);
    for (size_t row = begin; done && row < end && !atomic_load(&search->given_up); row++)
        done = search_row(search, scratch, row);
    if (!done)
        atomic_store(&search->no_memory, true);
    if (scratch)
        mp_scratch_give(search->scratches, scratch);
}

/* Whether scoring all that pass is faster than a walk, which reaches about search_k n / m items to find search_k of the
 * m that pass, and scores those. Going by an item takes an eighth of the time of scoring one: on 116 k embeddings of
 * 384 dimensions, 10 trees and single queries, the two meet at factors of 0.03 to 0.13. Where all pass,
 * the filter changes nothing. */
static bool few_pass(const struct mp_forest *forest, const struct mp_filter *filter, size_t search_k) {
    const size_t n = forest->items.n;
    const size_t few = search_k < n ? search_k + (size_t)sqrt(0.125 * (double)n * (double)search_k) : n;
    const size_t passing = forest->has_all ? mp_filter_count(filter, n, few) : SIZE_MAX;
    return passing <= few && passing < n;
}

struct mp_status mp_forest_search(const struct mp_forest *forest, struct mp_scratch_pool *scratches,
                                  const float *queries, size_t n_queries, size_t k, size_t search_k,
                                  const struct mp_filter *filter, int num_threads, float *distances, int64_t *ids) {
    if (filter && few_pass(forest, filter, search_k)) {
        const struct mp_flat flat = {&forest->items, scratches};
        return mp_flat_search(&flat, queries, n_queries, k, filter, num_threads, distances, ids);
    }
    struct search search = {.forest = forest, .scratches = scratches, .queries = queries, .k = k};
    search.search_k = search_k;
    search.filter = filter;
    search.distances = distances;
    search.ids = ids;
    atomic_init(&search.no_memory, false);
    atomic_init(&search.given_up, false);
    mp_parallel_for(n_queries, QUERIES_PER_CHUNK, mp_n_threads(num_threads, n_queries), search_chunk, &search);
    return mp_search_status(atomic_load(&search.no_memory), atomic_load(&search.given_up));
}
