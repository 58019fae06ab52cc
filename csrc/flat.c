#include "mp/flat.h"

#include "mp/scan.h"
#include "mp/threads.h"

#include <pthread.h>
#include <stdatomic.h>

/* What a thread is started for where queries are few: bytes of codes, counted once for each query. Scanning them takes
 * 70 us or more, starting a thread 20 to 40. */
#define PART_BYTES ((size_t)4 << 20)
#define PART_UNIT 512 /* items: parts begin where filters can be read a word at a time */

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

/* Scores `part`, whose first item has the id first_id, for all targets of a batch. */
static void scan(struct search *search, const struct mp_items *part, uint32_t first_id, size_t n_targets,
                 const struct mp_scan_batch *batch) {
    mp_fill_strips(part, batch->targets, n_targets, batch->strips);
    if (!search->filter)
        mp_scan_many(part, first_id, batch->targets, n_targets, batch->strips);
    else if (!mp_scan_filtered(part, first_id, search->filter, NULL, batch->targets, n_targets, batch))
        atomic_store(&search->given_up, true);
}

static bool search_rows(struct search *search, struct mp_scratch *scratch, size_t begin, size_t count) {
    const struct mp_items *items = search->flat->items;
    struct mp_scan_batch batch;
    if (!mp_scan_begin(items, search->queries + begin * items->dim, count, search->keep, scratch, &batch))
        return false;
    scan(search, items, 0, count, &batch);
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

/* A search of few queries, whose items are split over threads. */
struct split {
    struct search *search;
    size_t n_queries;
    pthread_mutex_t lock;
    struct mp_topk *topks; /* of all parts together, behind `lock` */
};

static bool search_part(struct split *split, struct mp_scratch *scratch, size_t begin, size_t count) {
    struct search *search = split->search;
    struct mp_items part = *search->flat->items;
    struct mp_scan_batch batch;
    if (!mp_scan_begin(&part, search->queries, split->n_queries, search->keep, scratch, &batch))
        return false;
    part.codes += begin * part.code_stride;
    part.norms = part.norms ? part.norms + begin * part.norm_stride : NULL;
    part.n = count;
    scan(search, &part, (uint32_t)begin, split->n_queries, &batch);
    pthread_mutex_lock(&split->lock);
    for (size_t q = 0; q < split->n_queries; q++) {
        mp_topk_cut(&batch.topks[q]);
        for (size_t i = 0; i < batch.topks[q].size; i++)
            mp_topk_push(&split->topks[q], batch.topks[q].ranks[i]);
    }
    pthread_mutex_unlock(&split->lock);
    return true;
}

static void search_parts(void *context, size_t begin, size_t end) {
    struct split *split = context;
    struct mp_scratch_pool *pool = split->search->flat->scratches;
    struct mp_scratch *scratch = mp_scratch_take(pool);
    if (!scratch || !search_part(split, scratch, begin, end - begin))
        atomic_store(&split->search->no_memory, true);
    if (scratch)
        mp_scratch_give(pool, scratch);
}

/* The best of all are among the best of each part, so the results are those of one scan. */
static bool search_split(struct search *search, struct mp_scratch *scratch, size_t n_queries, size_t n_threads) {
    const struct mp_items *items = search->flat->items;
    const size_t share = mp_round_up((items->n + n_threads - 1) / n_threads, PART_UNIT);
    struct split split = {.search = search, .n_queries = n_queries};
    struct mp_scan_batch batch;
    if (!mp_scan_begin(items, search->queries, n_queries, search->keep, scratch, &batch))
        return false;
    split.topks = batch.topks;
    pthread_mutex_init(&split.lock, NULL);
    mp_parallel_for(items->n, share, n_threads, search_parts, &split);
    pthread_mutex_destroy(&split.lock);
    for (size_t q = 0; q < n_queries; q++)
        finish(search, &batch.queries[q], &batch.topks[q], q);
    return true;
}

/* Threads that the items are worth being split over. None beside the caller where a callable has to be asked, or where
 * top-k buffers for all queries, which every thread has, would be large. */
static size_t n_splits(const struct search *search, size_t n_queries, int num_threads) {
    const struct mp_items *items = search->flat->items;
    const size_t each = mp_code_bytes(items) * n_queries;
    if (num_threads == 1 || items->n * each < 2 * PART_BYTES || (search->filter && search->filter->accepts) ||
        mp_batch_size(n_queries, 1, search->keep) < n_queries)
        return 1;
    const size_t n = search->filter ? mp_filter_count(search->filter, items->n, items->n) : items->n;
    return mp_n_threads_for(num_threads, n * each / PART_BYTES);
}

struct mp_status mp_flat_search(const struct mp_flat *flat, const float *queries, size_t n_queries, size_t k,
                                const struct mp_filter *filter, int num_threads, float *distances, int64_t *ids) {
    struct search search = {.flat = flat, .queries = queries, .k = k, .filter = filter};
    search.distances = distances;
    search.ids = ids;
    search.keep = mp_n_rescored(flat->items, k, flat->items->n);
    atomic_init(&search.no_memory, false);
    atomic_init(&search.given_up, false);
    const size_t n_threads = mp_n_threads(num_threads, n_queries);
    const size_t n_parts = n_queries > 0 && n_threads == 1 ? n_splits(&search, n_queries, num_threads) : 1;
    if (n_parts > 1) {
        struct mp_scratch *scratch = mp_scratch_take(flat->scratches);
        if (!scratch || !search_split(&search, scratch, n_queries, n_parts))
            atomic_store(&search.no_memory, true);
        if (scratch)
            mp_scratch_give(flat->scratches, scratch);
    } else {
        mp_parallel_for(n_queries, mp_batch_size(n_queries, n_threads, search.keep), n_threads, search_range, &search);
    }
    return mp_search_status(atomic_load(&search.no_memory), atomic_load(&search.given_up));
}
