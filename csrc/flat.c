#include "mp/flat.h"

#include "mp/threads.h"

#include <stdatomic.h>

#define BLOCK 256               /* codes scored before their keys are looked at */
#define MIN_BATCH 12            /* queries from which building panels pays */
#define MAX_BATCH 1024          /* queries that share the building of panels */
#define BATCH_BYTES (64u << 20) /* of top-k buffers; fewer queries share panels when k is large */

struct search {
    const struct mp_flat *flat;
    const float *queries;
    size_t k, keep;
    float *distances;
    int64_t *ids;
    atomic_bool no_memory;
};

/* Pushes the items first .. first + count, whose keys are given. */
static void push_keys(struct mp_topk *topk, const float *keys, size_t first, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (keys[i] <= topk->worst_key)
            mp_topk_push(topk, mp_rank(keys[i], (uint32_t)(first + i)));
    }
}

/* The norms of a block side by side, for as many queries as read them; NULL if the metric has none. */
static const float *load_norms(const struct mp_items *items, size_t first, size_t count, float *norms) {
    for (size_t i = 0; items->norms && i < count; i++)
        norms[i] = mp_item_norm(items, first + i);
    return items->norms ? norms : NULL;
}

static void fill_keys(float weight, const float *norms, size_t count, const int32_t *dots, float *keys) {
    for (size_t i = 0; i < count; i++)
        keys[i] = weight * (float)dots[i];
    for (size_t i = 0; norms && i < count; i++)
        keys[i] += norms[i];
}

static void scan(const struct mp_items *items, const struct mp_query *query, struct mp_topk *topk) {
    const float weight = mp_key_weight(items, query);
    int32_t dots[BLOCK];
    float keys[BLOCK], norms[BLOCK];
    for (size_t first = 0; first < items->n; first += BLOCK) {
        const size_t count = items->n - first < BLOCK ? items->n - first : BLOCK;
        size_t i = 0;
        for (; i + 4 <= count; i += 4) {
            const uint8_t *code = mp_item_code(items, first + i);
            const size_t stride = items->code_stride;
            const uint8_t *codes[4] = {code, code + stride, code + 2 * stride, code + 3 * stride};
            items->kernels->dot4(codes, query->high, items->dim, dots + i);
        }
        for (; i < count; i++)
            dots[i] = items->kernels->dot(mp_item_code(items, first + i), query->high, items->dim);
        fill_keys(weight, load_norms(items, first, count, norms), count, dots, keys);
        push_keys(topk, keys, first, count);
    }
}

static void finish(const struct search *search, const struct mp_query *query, struct mp_topk *topk, size_t row) {
    const size_t count = mp_topk_finish(topk);
    mp_rescore(search->flat->items, query, topk->ranks, count, search->k, search->distances + row * search->k,
               search->ids + row * search->k);
}

static bool search_single(struct search *search, struct mp_scratch *scratch, size_t row) {
    const struct mp_items *items = search->flat->items;
    struct mp_query query;
    struct mp_topk topk;
    if (!mp_reserve(&scratch->query, mp_query_bytes(items->dim)) ||
        !mp_reserve(&scratch->ranks, mp_topk_capacity(search->keep) * sizeof(uint64_t)))
        return false;
    mp_place_query(&query, scratch->query.data, 0, items->dim);
    mp_fold_for(items, search->queries + row * items->dim, &query);
    mp_topk_begin(&topk, scratch->ranks.data, search->keep);
    scan(items, &query, &topk);
    finish(search, &query, &topk, row);
    return true;
}

/* Four dimensions of a packed code, a byte each: halves spread first to every other byte, then to every byte. */
static inline void unpack4(const uint8_t *code, size_t size, uint8_t lane[4]) {
    const uint32_t pair = code[0] | (uint32_t)(size > 1 ? code[1] : 0) << 8;
    const uint32_t bytes = (pair | pair << 8) & 0x00FF00FF;
    const uint32_t halves = (bytes | bytes << 4) & 0x0F0F0F0F;
    for (size_t j = 0; j < 4; j++)
        lane[j] = (uint8_t)(halves >> 8 * j);
}

static void build_packed_panel(const struct mp_items *items, size_t first, size_t count, uint8_t *panel) {
    const size_t size = mp_code_bytes(items);
    for (size_t item = 0; item < count; item++) {
        const uint8_t *code = mp_item_code(items, first + item);
        uint8_t *lane = panel + 4 * item;
        for (size_t i = 0; i < size; i += 2)
            unpack4(code + i, size - i, lane + 2 * i * MP_PANEL_ITEMS);
    }
}

/* Interleaves up to MP_PANEL_ITEMS codes, see kernels.h. */
static void build_panel(const struct mp_items *items, size_t first, size_t count, uint8_t *panel) {
    const size_t whole = items->dim / 4 * 4, tail = items->dim - whole;
    if (count < MP_PANEL_ITEMS) /* the last panel: lanes without an item are scored too, and dropped */
        memset(panel, 0, mp_round_up(items->dim, 4) * MP_PANEL_ITEMS);
    if (items->bits == 4) {
        build_packed_panel(items, first, count, panel);
        return;
    }
    for (size_t item = 0; item < count; item++) {
        const uint8_t *code = mp_item_code(items, first + item);
        uint8_t *lane = panel + 4 * item;
        for (size_t i = 0; i < whole; i += 4)
            memcpy(lane + i * MP_PANEL_ITEMS, code + i, 4);
        if (tail) {
            memset(lane + whole * MP_PANEL_ITEMS, 0, 4);
            memcpy(lane + whole * MP_PANEL_ITEMS, code + whole, tail);
        }
    }
}

static bool any_near(const float *keys, float worst_key) {
    int near = 0;
    for (size_t i = 0; i < MP_PANEL_ITEMS; i++)
        near |= keys[i] <= worst_key;
    return near;
}

/* A panel of `count` items from `first` on. */
struct panel {
    const uint8_t *codes;
    const float *norms;
    size_t first, count;
};

/* Scores one panel for MP_PANEL_QUERIES queries, of which the first `n_queries` are wanted. */
static void score_panel(const struct mp_items *items, const struct panel *panel, const struct mp_query *queries,
                        struct mp_topk *topks, size_t n_queries) {
    int32_t dots[MP_PANEL_QUERIES * MP_PANEL_ITEMS];
    float keys[MP_PANEL_ITEMS];
    const int8_t *highs[MP_PANEL_QUERIES];
    for (size_t q = 0; q < MP_PANEL_QUERIES; q++)
        highs[q] = queries[q < n_queries ? q : 0].natural_high;
    items->byte_kernels->panel(panel->codes, highs, items->dim, dots);
    for (size_t q = 0; q < n_queries; q++) {
        /* All keys of the panel, those behind the last item included: a fixed length makes vector code. */
        fill_keys(mp_key_weight(items, &queries[q]), panel->norms, MP_PANEL_ITEMS, dots + q * MP_PANEL_ITEMS, keys);
        if (any_near(keys, topks[q].worst_key))
            push_keys(&topks[q], keys, panel->first, panel->count);
    }
}

static bool reserve_batch(const struct search *search, struct mp_scratch *scratch, size_t batch) {
    const size_t dim = search->flat->items->dim;
    return mp_reserve(&scratch->query, batch * mp_query_bytes(dim)) &&
           mp_reserve(&scratch->ranks, batch * mp_topk_capacity(search->keep) * sizeof(uint64_t)) &&
           mp_reserve(&scratch->heap, batch * (sizeof(struct mp_query) + sizeof(struct mp_topk))) &&
           mp_reserve(&scratch->panel, mp_round_up(dim, 4) * MP_PANEL_ITEMS);
}

static bool search_batch(struct search *search, struct mp_scratch *scratch, size_t begin, size_t batch) {
    const struct mp_items *items = search->flat->items;
    if (!reserve_batch(search, scratch, batch))
        return false;
    struct mp_query *queries = scratch->heap.data;
    struct mp_topk *topks = (struct mp_topk *)(void *)(queries + batch);
    uint64_t *ranks = scratch->ranks.data;
    for (size_t q = 0; q < batch; q++) {
        mp_place_query(&queries[q], scratch->query.data, q, items->dim);
        mp_fold_for(items, search->queries + (begin + q) * items->dim, &queries[q]);
        mp_topk_begin(&topks[q], ranks + q * mp_topk_capacity(search->keep), search->keep);
    }
    float norms[MP_PANEL_ITEMS] = {0};
    for (size_t first = 0; first < items->n; first += MP_PANEL_ITEMS) {
        const size_t count = items->n - first < MP_PANEL_ITEMS ? items->n - first : MP_PANEL_ITEMS;
        const struct panel panel = {scratch->panel.data, load_norms(items, first, count, norms), first, count};
        build_panel(items, first, count, scratch->panel.data);
        for (size_t q = 0; q < batch; q += MP_PANEL_QUERIES)
            score_panel(items, &panel, queries + q, topks + q,
                        batch - q < MP_PANEL_QUERIES ? batch - q : MP_PANEL_QUERIES);
    }
    for (size_t q = 0; q < batch; q++)
        finish(search, &queries[q], &topks[q], begin + q);
    return true;
}

static void search_range(void *context, size_t begin, size_t end) {
    struct search *search = context;
    struct mp_scratch_pool *pool = search->flat->scratches;
    struct mp_scratch *scratch = mp_scratch_take(pool);
    bool done = scratch != NULL;
    if (done && end - begin >= MIN_BATCH) {
        done = search_batch(search, scratch, begin, end - begin);
    } else {
        for (size_t row = begin; done && row < end; row++)
            done = search_single(search, scratch, row);
    }
    if (!done)
        atomic_store(&search->no_memory, true);
    if (scratch)
        mp_scratch_give(pool, scratch);
}

/* Queries a chunk: all that a thread gets, so that panels are built once, within the bounds on memory. */
static size_t batch_size(size_t n_queries, size_t n_threads, size_t keep) {
    const size_t share = (n_queries + n_threads - 1) / n_threads;
    const size_t room = BATCH_BYTES / (mp_topk_capacity(keep) * sizeof(uint64_t));
    const size_t most = room < MAX_BATCH ? room : MAX_BATCH;
    const size_t size = share < most ? share : most;
    return size > 0 ? size : 1;
}

struct mp_status mp_flat_search(const struct mp_flat *flat, const float *queries, size_t n_queries, size_t k,
                                int num_threads, float *distances, int64_t *ids) {
    const size_t n_threads = mp_n_threads(num_threads, n_queries);
    struct search search = {.flat = flat, .queries = queries, .k = k, .distances = distances, .ids = ids};
    search.keep = mp_n_rescored(flat->items, k, flat->items->n);
    atomic_init(&search.no_memory, false);
    mp_parallel_for(n_queries, batch_size(n_queries, n_threads, search.keep), n_threads, search_range, &search);
    return atomic_load(&search.no_memory) ? mp_no_memory() : mp_ok();
}
