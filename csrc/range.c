#include "mp/range.h"

#include "mp/threads.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#define GROUP 64                 /* items that a filter is asked for, and products made, at a time */
#define BLOCK_BYTES (128u << 10) /* of codes that meet all queries of a batch while they are in the cache */
#define MAX_BATCH 64

struct search {
    const struct mp_items *items; /* of all lists where there are lists: the quantizer */
    struct mp_scratch_pool *scratches;
    const struct mp_range *range;
    const struct mp_ivf *ivf; /* NULL: flat */
    const struct mp_range_visits *visits;
    struct mp_range_hits *hits;
    float limit; /* the key that results are below */
    atomic_bool no_memory, given_up;
};

/* A query and what bounds its products, see range.h. */
struct ranged {
    struct mp_query query;
    int64_t reach;
    double second_most; /* the most that the second level adds to a product */
};

/* Items that are scored for one query. */
struct run {
    const struct mp_items *items;
    const int64_t *ids; /* NULL: first_id, first_id + 1, ... */
    int64_t first_id;
    double product; /* of the query and what the codes are residuals of, else 0 */
};

static double second_part(const struct mp_items *items, const struct mp_query *query, int64_t dot) {
    return (double)items->residuals.range / 255 * (query->unit * (double)dot - 127.5 * query->step_sum);
}

static void begin_query(const struct mp_items *items, const float *vector, struct ranged *ranged) {
    const struct mp_query *query = &ranged->query;
    int64_t lows = 0, folded = 0;
    mp_fold_for(items, vector, &ranged->query);
    for (size_t i = 0; i < items->dim; i++) {
        const int32_t value = 256 * query->natural_high[i] + query->natural_low[i];
        lows += query->natural_low[i] > 0 ? query->natural_low[i] : 0;
        folded += value > 0 ? value : 0;
    }
    ranged->reach = (items->bits == 4 ? 15 : 255) * lows;
    ranged->second_most = items->residuals.codes ? second_part(items, query, 255 * folded) : 0;
}

static double first_part(const struct mp_query *query, int64_t dot) {
    return query->bias + query->unit * (double)dot;
}

/* The key of the 16-bit query, of the product that has `high` for its 8-bit part. */
static float exact_key(const struct run *run, const struct ranged *ranged, size_t at, int32_t high) {
    const struct mp_items *items = run->items;
    const struct mp_query *query = &ranged->query;
    const uint8_t *code = mp_item_code(items, at);
    double product = first_part(query, 256 * (int64_t)high + items->kernels->dot(code, query->low, items->dim));
    if (items->residuals.codes) {
        const uint8_t *rest = items->residuals.codes + at * items->dim;
        product += second_part(items, query,
                               256 * (int64_t)items->byte_kernels->dot(rest, query->natural_high, items->dim) +
                                   items->byte_kernels->dot(rest, query->natural_low, items->dim));
    }
    return mp_exact_key(items, query, at, run->product + product);
}

/* No key of an item with this 8-bit part is below it. */
static float least_key(const struct run *run, const struct ranged *ranged, size_t at, int32_t high) {
    double product = first_part(&ranged->query, 256 * (int64_t)high + ranged->reach);
    if (run->items->residuals.codes)
        product += ranged->second_most;
    return mp_exact_key(run->items, &ranged->query, at, run->product + product);
}

static bool push(struct mp_range_hits *hits, float distance, int64_t id) {
    if (hits->count == hits->capacity) {
        const size_t capacity = hits->capacity ? 2 * hits->capacity : 16;
        float *distances = realloc(hits->distances, capacity * sizeof *distances);
        hits->distances = distances ? distances : hits->distances;
        int64_t *ids = distances ? realloc(hits->ids, capacity * sizeof *ids) : NULL;
        hits->ids = ids ? ids : hits->ids;
        if (!ids)
            return false;
        hits->capacity = capacity;
    }
    hits->distances[hits->count] = distance;
    hits->ids[hits->count++] = id;
    return true;
}

/* Which of the `count` items from `first` on may be results, as far as that can be told without a callable. */
static size_t list_passing(const struct run *run, const struct mp_filter *filter, size_t first, size_t count,
                           size_t positions[GROUP]) {
    uint64_t mask = count == 64 ? UINT64_MAX : ((uint64_t)1 << count) - 1;
    size_t passing = 0;
    if (filter && !filter->accepts)
        mask = mp_filter_mask(filter, run->ids ? run->ids + first : NULL, run->first_id + (int64_t)first, count);
    for (; mask; mask &= mask - 1)
        positions[passing++] = first + (size_t)__builtin_ctzll(mask);
    return passing;
}

static void make_products(const struct mp_items *items, const int8_t *high, const size_t *positions, size_t count,
                          int32_t dots[GROUP]) {
    size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const uint8_t *codes[4];
        for (size_t j = 0; j < 4; j++)
            codes[j] = mp_item_code(items, positions[i + j]);
        items->kernels->dot4(codes, high, items->dim, dots + i);
    }
    for (; i < count; i++)
        dots[i] = items->kernels->dot(mp_item_code(items, positions[i]), high, items->dim);
}

/* Adds an item with this key if it is a result. False if the search has ended, `search` says why. */
static bool take(struct search *search, const struct run *run, size_t at, float key, struct mp_range_hits *hits) {
    const struct mp_filter *filter = search->range->filter;
    const float sign = run->items->metric == MP_METRIC_L2 ? 1.0f : -1.0f;
    if (!(key < search->limit))
        return true;
    const int64_t id = run->ids ? run->ids[at] : run->first_id + (int64_t)at;
    const int accepted = filter && filter->accepts ? mp_filter_accepts(filter, id) : 1;
    if (accepted < 0)
        atomic_store(&search->given_up, true);
    else if (accepted > 0 && !push(hits, sign * key + 0.0f, id))
        atomic_store(&search->no_memory, true);
    else
        return true;
    return false;
}

/* Scores `count` items by their codes, or by their vectors where these are kept. */
static bool scan_group(struct search *search, const struct run *run, const struct ranged *ranged,
                       const size_t *positions, size_t count, struct mp_range_hits *hits) {
    int32_t dots[GROUP];
    if (!run->items->originals)
        make_products(run->items, ranged->query.high, positions, count, dots);
    for (size_t i = 0; i < count; i++) {
        const size_t at = positions[i];
        float key;
        if (run->items->originals)
            key = mp_original_key(run->items, &ranged->query, at);
        else if (least_key(run, ranged, at, dots[i]) < search->limit)
            key = exact_key(run, ranged, at, dots[i]);
        else
            continue;
        if (!take(search, run, at, key, hits))
            return false;
    }
    return true;
}

static bool scan(struct search *search, const struct run *run, const struct ranged *ranged,
                 struct mp_range_hits *hits) {
    size_t positions[GROUP];
    for (size_t first = 0; first < run->items->n; first += GROUP) {
        const size_t count = run->items->n - first < GROUP ? run->items->n - first : GROUP;
        const size_t passing = list_passing(run, search->range->filter, first, count, positions);
        if (!scan_group(search, run, ranged, positions, passing, hits))
            return false;
    }
    return true;
}

/* All items for a batch of queries, block by block. */
static void scan_blocks(struct search *search, const struct ranged *ranged, size_t begin, size_t count) {
    const struct mp_items *items = search->items;
    const size_t step = mp_round_up(BLOCK_BYTES / mp_code_bytes(items) + 1, GROUP);
    for (size_t first = 0; first < items->n; first += step) {
        struct mp_items block = *items;
        block.n = items->n - first < step ? items->n - first : step;
        block.codes = mp_item_code(items, first);
        block.norms = items->norms ? items->norms + first * items->norm_stride : NULL;
        if (items->originals)
            block.originals += first * items->dim;
        if (items->residuals.codes) {
            block.residuals.codes += first * items->dim;
            block.residuals.norms = items->norms ? items->residuals.norms + first : NULL;
        }
        const struct run run = {&block, NULL, (int64_t)first, 0};
        for (size_t q = 0; q < count; q++) {
            if (!scan(search, &run, &ranged[q], &search->hits[begin + q]))
                return;
        }
    }
}

static bool visit_lists(struct search *search, const struct ranged *ranged, size_t row) {
    const struct mp_ivf *ivf = search->ivf;
    const struct mp_range_visits *visits = search->visits;
    const int64_t *assignment = visits->assignment + row * visits->n_probe;
    const float *query = search->range->queries + row * ivf->items.dim;
    struct mp_range_hits *hits = &search->hits[row];
    size_t n_empty = 0;
    for (size_t visit = 0; visit < visits->n_probe; visit++) {
        const size_t before = hits->count;
        if (assignment[visit] >= 0) {
            const size_t l = (size_t)assignment[visit];
            struct run run = {&ivf->lists[l], ivf->ids[l], 0, 0};
            if (ivf->centroids)
                run.product = mp_dot_product(query, ivf->centroids + l * ivf->items.dim, ivf->items.dim);
            if (!scan(search, &run, ranged, hits))
                return false;
        }
        n_empty = hits->count == before ? n_empty + 1 : 0;
        if (visits->max_empty > 0 && n_empty >= visits->max_empty)
            break;
    }
    return true;
}

static bool search_rows(struct search *search, struct mp_scratch *scratch, size_t begin, size_t count) {
    const size_t dim = search->items->dim;
    if (!mp_reserve(&scratch->query, count * mp_query_bytes(dim)) ||
        !mp_reserve(&scratch->heap, count * sizeof(struct ranged)))
        return false;
    struct ranged *ranged = scratch->heap.data;
    for (size_t q = 0; q < count; q++) {
        mp_place_query(&ranged[q].query, scratch->query.data, q, dim);
        begin_query(search->items, search->range->queries + (begin + q) * dim, &ranged[q]);
    }
    if (!search->ivf)
        scan_blocks(search, ranged, begin, count);
    for (size_t q = 0; search->ivf && q < count; q++) {
        if (!visit_lists(search, &ranged[q], begin + q))
            break;
    }
    return true;
}

static void search_batch(void *context, size_t begin, size_t end) {
    struct search *search = context;
    if (atomic_load(&search->given_up) || atomic_load(&search->no_memory))
        return;
    struct mp_scratch *scratch = mp_scratch_take(search->scratches);
    if (!scratch || !search_rows(search, scratch, begin, end - begin))
        atomic_store(&search->no_memory, true);
    if (scratch)
        mp_scratch_give(search->scratches, scratch);
}

static struct mp_status run_search(struct search *search) {
    const struct mp_range *range = search->range;
    const size_t n_threads = mp_n_threads(range->num_threads, range->n_queries);
    const size_t share = (range->n_queries + n_threads - 1) / n_threads;
    search->limit = search->items->metric == MP_METRIC_L2 ? range->radius : -range->radius;
    atomic_init(&search->no_memory, false);
    atomic_init(&search->given_up, false);
    if (range->n_queries > 0)
        mp_parallel_for(range->n_queries, share < MAX_BATCH ? share : MAX_BATCH, n_threads, search_batch, search);
    return mp_search_status(atomic_load(&search->no_memory), atomic_load(&search->given_up));
}

struct mp_status mp_range_flat(const struct mp_items *items, struct mp_scratch_pool *scratches,
                               const struct mp_range *range, struct mp_range_hits *hits) {
    struct search search = {.items = items, .scratches = scratches, .range = range, .hits = hits};
    return run_search(&search);
}

struct mp_status mp_range_lists(const struct mp_ivf *ivf, struct mp_scratch_pool *scratches,
                                const struct mp_range *range, const struct mp_range_visits *visits,
                                struct mp_range_hits *hits) {
    struct search search = {.items = &ivf->items, .scratches = scratches, .range = range, .hits = hits};
    search.ivf = ivf;
    search.visits = visits;
    for (size_t i = 0; i < range->n_queries * visits->n_probe; i++) {
        if (visits->assignment[i] < -1 || visits->assignment[i] >= (int64_t)ivf->n_lists)
            return mp_invalid("`assignment` must name lists below %zu, or -1 for none, got %lld: pass what the coarse "
                              "quantizer found",
                              ivf->n_lists, (long long)visits->assignment[i]);
    }
    return run_search(&search);
}

void mp_range_close(struct mp_range_hits *hits, size_t n_queries) {
    for (size_t q = 0; q < n_queries; q++) {
        free(hits[q].distances);
        free(hits[q].ids);
    }
}
