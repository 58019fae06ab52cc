/* The growing graph's memory: made, grown, lent to searches. */
#include "mp/hnsw.h"

#include "mp/memory.h"

#include "hnsw_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* splitmix64's finaliser: neighbouring ids get unrelated bits. */
static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static uint32_t draw_level(const struct mp_hnsw *hnsw, size_t id) {
    const uint64_t bits = mix(mix(hnsw->settings.seed + 0x9E3779B97F4A7C15u) + id);
    const double uniform = ((double)(bits >> 11) + 1) / 9007199254740992.0; /* 2^53: in (0, 1] */
    return (uint32_t)(-log(uniform) / log((double)hnsw->settings.max_links));
}

void mp_hnsw_free_storage(struct mp_hnsw_storage *storage, const struct mp_hnsw *hnsw) {
    if (!storage)
        return;
    mp_block_free(storage->records, storage->capacity * hnsw->stride);
    mp_block_free(storage->residuals, storage->capacity * hnsw->settings.dim);
    mp_block_free(storage->originals, storage->capacity * hnsw->settings.dim * sizeof(float));
    free(storage->residual_norms);
    free(storage->apart);
    free(storage->upper_start);
    free(storage->upper);
    free(storage->marks);
    free(storage);
}

/* What every node has room in. */
static bool reserve_nodes(const struct mp_hnsw *hnsw, struct mp_hnsw_storage *storage) {
    const struct mp_hnsw_settings *settings = &hnsw->settings;
    const size_t capacity = storage->capacity, at_least_one = capacity ? capacity : 1;
    const bool is_apart = hnsw->self_stride != hnsw->stride, has_residuals = settings->range > 0;
    storage->records = capacity ? mp_block_alloc(capacity * hnsw->stride) : NULL;
    storage->residuals = capacity && has_residuals ? mp_block_alloc(capacity * settings->dim) : NULL;
    storage->originals =
        capacity && settings->keeps_originals ? mp_block_alloc(capacity * settings->dim * sizeof(float)) : NULL;
    storage->apart = is_apart ? malloc(at_least_one * sizeof(float)) : NULL;
    if (has_residuals && settings->metric == MP_METRIC_L2)
        storage->residual_norms = malloc(at_least_one * sizeof(float));
    storage->upper_start = malloc((capacity + 1) * sizeof(uint32_t));
    storage->marks = calloc(at_least_one, 1);
    storage->selves = is_apart || !capacity ? storage->apart : storage->records + hnsw->links_at - sizeof(float);
    return (!capacity || storage->records) && (!capacity || !has_residuals || storage->residuals) &&
           (!capacity || !settings->keeps_originals || storage->originals) && (!is_apart || storage->apart) &&
           storage->upper_start && storage->marks &&
           (!has_residuals || settings->metric != MP_METRIC_L2 || storage->residual_norms);
}

struct mp_hnsw_storage *mp_hnsw_make_storage(const struct mp_hnsw *hnsw, size_t capacity, const uint32_t *starts,
                                             size_t n_levels) {
    const size_t most = SIZE_MAX / 2 / (hnsw->stride + hnsw->settings.dim * (1 + sizeof(float)));
    struct mp_hnsw_storage *storage = calloc(1, sizeof *storage);
    if (!storage || capacity > most) {
        free(storage);
        return NULL;
    }
    storage->capacity = capacity;
    storage->users = 1;
    if (!reserve_nodes(hnsw, storage)) {
        mp_hnsw_free_storage(storage, hnsw);
        return NULL;
    }
    storage->upper_start[0] = 0; /* fits 32 bits: at most 2^31 nodes with less than one level above 0 on average */
    for (size_t i = 0; i < capacity; i++)
        storage->upper_start[i + 1] = i < n_levels ? starts[i + 1] : storage->upper_start[i] + draw_level(hnsw, i);
    storage->n_upper = storage->upper_start[capacity] * hnsw->settings.max_links;
    storage->upper = malloc(storage->n_upper ? storage->n_upper * sizeof(int32_t) : 1);
    if (!storage->upper) {
        mp_hnsw_free_storage(storage, hnsw);
        return NULL;
    }
    memset(storage->upper, 0xFF, storage->n_upper * sizeof(int32_t)); /* -1: no links */
    return storage;
}

struct mp_status mp_hnsw_create(struct mp_hnsw **created, const struct mp_hnsw_settings *settings) {
    struct mp_hnsw *hnsw = calloc(1, sizeof *hnsw);
    *created = NULL;
    if (!hnsw)
        return mp_no_memory();
    hnsw->settings = *settings;
    mp_scratch_pool_init(&hnsw->scratches);
    pthread_mutex_init(&hnsw->lock, NULL);
    pthread_mutex_init(&hnsw->entry_lock, NULL);
    pthread_rwlock_init(&hnsw->growth, NULL);
    for (size_t i = 0; i < N_STRIPES; i++)
        pthread_mutex_init(&hnsw->stripes[i], NULL);
    if (!mp_hnsw_lay_out(hnsw) || !(hnsw->storage = mp_hnsw_make_storage(hnsw, settings->capacity, NULL, 0))) {
        mp_hnsw_free(hnsw);
        return mp_no_memory();
    }
    *created = hnsw;
    return mp_ok();
}

void mp_hnsw_free(struct mp_hnsw *hnsw) {
    if (!hnsw)
        return;
    mp_hnsw_free_storage(hnsw->storage, hnsw);
    free((void *)hnsw->settings.scale);
    free((void *)hnsw->settings.offset);
    free(hnsw->pairs.weights);
    free(hnsw->pairs.slope);
    free(hnsw->pairs.ones);
    mp_scratch_pool_destroy(&hnsw->scratches);
    pthread_mutex_destroy(&hnsw->lock);
    pthread_mutex_destroy(&hnsw->entry_lock);
    pthread_rwlock_destroy(&hnsw->growth);
    for (size_t i = 0; i < N_STRIPES; i++)
        pthread_mutex_destroy(&hnsw->stripes[i]);
    free(hnsw);
}

void mp_hnsw_borrow(struct mp_hnsw *hnsw, struct mp_hnsw_view *view) {
    pthread_mutex_lock(&hnsw->lock);
    struct mp_hnsw_storage *storage = hnsw->storage;
    storage->users++;
    /* The entry is read before the lock is left: one that comes later may not lie in this memory. */
    *view = (struct mp_hnsw_view){mp_hnsw_graph(hnsw, storage), storage};
    pthread_mutex_unlock(&hnsw->lock);
}

static void release(struct mp_hnsw *hnsw, struct mp_hnsw_storage *storage) {
    pthread_mutex_lock(&hnsw->lock);
    const bool last = --storage->users == 0;
    pthread_mutex_unlock(&hnsw->lock);
    if (last)
        mp_hnsw_free_storage(storage, hnsw);
}

void mp_hnsw_return(struct mp_hnsw *hnsw, struct mp_hnsw_view *view) {
    release(hnsw, view->storage);
    view->storage = NULL;
}

struct mp_graph mp_hnsw_graph(struct mp_hnsw *hnsw, const struct mp_hnsw_storage *storage) {
    const struct mp_hnsw_settings *settings = &hnsw->settings;
    const uint64_t entry = atomic_load_explicit(&hnsw->entry, memory_order_acquire);
    struct mp_graph graph = {.max_links0 = hnsw->max_links0, .max_links = settings->max_links};
    graph.items = (struct mp_items){.codes = storage->records,
                                    .code_stride = hnsw->stride,
                                    .norm_stride = hnsw->stride,
                                    .scale = settings->scale,
                                    .offset = settings->offset,
                                    .dim = settings->dim,
                                    .bits = settings->bits,
                                    .metric = settings->metric,
                                    .kernels = hnsw->kernels,
                                    .byte_kernels = settings->kernels};
    /* The capacity, because nodes that come while a search runs have to fit its visited table. */
    graph.items.n = entry ? storage->capacity : 0;
    graph.items.norms = settings->metric == MP_METRIC_L2 ? storage->records + hnsw->norm_at : NULL;
    graph.items.residuals = (struct mp_residuals){storage->residuals, storage->residual_norms, settings->range};
    graph.items.originals = storage->originals;
    graph.links0 = storage->records + hnsw->links_at;
    graph.upper_start = storage->upper_start;
    graph.upper = storage->upper;
    graph.entry_point = entry ? (uint32_t)entry : 0;
    graph.max_level = entry ? (size_t)(entry >> 32) - 1 : 0;
    return graph;
}

size_t mp_hnsw_count(struct mp_hnsw *hnsw) {
    return atomic_load(&hnsw->count);
}

size_t mp_hnsw_capacity(struct mp_hnsw *hnsw) {
    pthread_mutex_lock(&hnsw->lock);
    const size_t capacity = hnsw->storage->capacity;
    pthread_mutex_unlock(&hnsw->lock);
    return capacity;
}

void mp_hnsw_nbytes(struct mp_hnsw *hnsw, size_t *codes, size_t *graph) {
    pthread_mutex_lock(&hnsw->lock);
    const struct mp_hnsw_storage *storage = hnsw->storage;
    const size_t links = hnsw->max_links0 * sizeof(int32_t);
    size_t code = hnsw->stride - links + (storage->apart ? sizeof(float) : 0);
    if (hnsw->settings.range > 0)
        code += hnsw->settings.dim + (storage->residual_norms ? sizeof(float) : 0);
    *codes = storage->capacity * code;
    *graph = storage->capacity * (links + 1) + storage->n_upper * sizeof(int32_t) +
             (storage->capacity + 1) * sizeof(uint32_t);
    pthread_mutex_unlock(&hnsw->lock);
}

void mp_hnsw_exchange(struct mp_hnsw *hnsw, struct mp_hnsw_storage *storage) {
    struct mp_hnsw_storage *old = hnsw->storage;
    pthread_mutex_lock(&hnsw->lock);
    const size_t least = old->capacity < storage->capacity ? old->capacity : storage->capacity;
    memcpy(storage->marks, old->marks, least); /* behind the lock: they may change at any time */
    hnsw->storage = storage;
    pthread_mutex_unlock(&hnsw->lock);
    release(hnsw, old);
}

/* All but the marks. Levels of nodes are the same in both, so their upper links lie at the same places. */
static void copy_nodes(const struct mp_hnsw *hnsw, struct mp_hnsw_storage *to, const struct mp_hnsw_storage *from,
                       size_t count) {
    if (count == 0)
        return;
    memcpy(to->records, from->records, count * hnsw->stride);
    memcpy(to->upper, from->upper, from->upper_start[count] * hnsw->settings.max_links * sizeof(int32_t));
    if (from->apart)
        memcpy(to->apart, from->apart, count * sizeof(float));
    if (from->residuals)
        memcpy(to->residuals, from->residuals, count * hnsw->settings.dim);
    if (from->residual_norms)
        memcpy(to->residual_norms, from->residual_norms, count * sizeof(float));
    if (from->originals)
        memcpy(to->originals, from->originals, count * hnsw->settings.dim * sizeof(float));
}

struct mp_status mp_hnsw_resize(struct mp_hnsw *hnsw, size_t capacity) {
    struct mp_status status = mp_ok();
    mp_hnsw_freeze(hnsw);
    const size_t count = atomic_load(&hnsw->count);
    struct mp_hnsw_storage *grown = NULL;
    if (capacity < count)
        status = mp_invalid("`capacity` must be at least %zu, the number of nodes, got %zu: a graph can't lose nodes",
                            count, capacity);
    else if (!(grown = mp_hnsw_make_storage(hnsw, capacity, hnsw->storage->upper_start, count)))
        status = mp_no_memory();
    if (status.code == MP_OK) {
        copy_nodes(hnsw, grown, hnsw->storage, count);
        mp_hnsw_exchange(hnsw, grown);
    }
    mp_hnsw_thaw(hnsw);
    return status;
}

void mp_hnsw_freeze(struct mp_hnsw *hnsw) {
    pthread_rwlock_wrlock(&hnsw->growth);
}

void mp_hnsw_thaw(struct mp_hnsw *hnsw) {
    pthread_rwlock_unlock(&hnsw->growth);
}

size_t mp_hnsw_level(const struct mp_hnsw_view *view, size_t id) {
    return view->graph.upper_start[id + 1] - view->graph.upper_start[id];
}

/* All nodes if the first `count` of them are complete, 0 while some are being added: an unfinished one can't be told
 * from others without the links that lead to it. */
static size_t count_complete(struct mp_hnsw *hnsw, size_t count) {
    pthread_mutex_lock(&hnsw->lock);
    if (hnsw->n_complete < count && pthread_rwlock_trywrlock(&hnsw->growth) == 0) { /* nobody adds */
        hnsw->n_complete = atomic_load(&hnsw->count);
        pthread_rwlock_unlock(&hnsw->growth);
    }
    const size_t complete = hnsw->n_complete;
    pthread_mutex_unlock(&hnsw->lock);
    return complete < count ? 0 : complete;
}

struct mp_status mp_hnsw_search(struct mp_hnsw *hnsw, const float *queries, size_t n_queries, size_t k, size_t ef,
                                const struct mp_filter *filter, int num_threads, float *distances, int64_t *ids) {
    struct mp_hnsw_view view;
    const size_t count = atomic_load(&hnsw->count);
    struct mp_filter with_marks = filter ? *filter : (struct mp_filter){.last = (int64_t)count - 1};
    mp_hnsw_borrow(hnsw, &view);
    if (atomic_load(&hnsw->n_deleted) > 0) {
        with_marks.marks = view.storage->marks;
        filter = &with_marks;
    }
    if (filter)
        view.graph.n_complete = count_complete(hnsw, count);
    const struct mp_status status =
        mp_graph_search(&view.graph, &hnsw->scratches, queries, n_queries, k, ef, filter, num_threads, distances, ids);
    mp_hnsw_return(hnsw, &view);
    return status;
}
