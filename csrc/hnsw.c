/* The growing graph's memory: made, grown, lent to searches. The algorithm is in hnsw_insert.c. */
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

static void storage_free(struct mp_hnsw_storage *storage, size_t stride) {
    if (!storage)
        return;
    mp_block_free(storage->records, storage->capacity * stride);
    free(storage->upper_start);
    free(storage->upper);
    free(storage->marks);
    free(storage);
}

static struct mp_hnsw_storage *storage_create(const struct mp_hnsw *hnsw, size_t capacity) {
    struct mp_hnsw_storage *storage = calloc(1, sizeof *storage);
    if (!storage || capacity > SIZE_MAX / 2 / hnsw->stride) {
        free(storage);
        return NULL;
    }
    storage->capacity = capacity;
    storage->records = capacity ? mp_block_alloc(capacity * hnsw->stride) : NULL;
    storage->upper_start = malloc((capacity + 1) * sizeof(uint32_t));
    storage->marks = calloc(capacity ? capacity : 1, 1);
    if ((capacity && !storage->records) || !storage->upper_start || !storage->marks) {
        storage_free(storage, hnsw->stride);
        return NULL;
    }
    storage->upper_start[0] = 0; /* fits 32 bits: at most 2^31 nodes with less than one level above 0 on average */
    for (size_t i = 0; i < capacity; i++)
        storage->upper_start[i + 1] = storage->upper_start[i] + draw_level(hnsw, i);
    storage->n_upper = storage->upper_start[capacity] * hnsw->settings.max_links;
    storage->upper = malloc(storage->n_upper ? storage->n_upper * sizeof(int32_t) : 1);
    if (!storage->upper) {
        storage_free(storage, hnsw->stride);
        return NULL;
    }
    memset(storage->upper, 0xFF, storage->n_upper * sizeof(int32_t)); /* -1: no links */
    return storage;
}

static bool create_pairs(struct mp_hnsw *hnsw) {
    struct mp_hnsw_settings *settings = &hnsw->settings;
    const size_t dim = settings->dim, padded = mp_round_up(dim, MP_ALIGN);
    struct pair_metric *pairs = &hnsw->pairs;
    float *scale = malloc(dim * sizeof(float)), *offset = malloc(dim * sizeof(float));
    if (scale)
        memcpy(scale, settings->scale, dim * sizeof(float));
    if (offset)
        memcpy(offset, settings->offset, dim * sizeof(float));
    settings->scale = scale; /* freed with the graph from here on, whatever fails */
    settings->offset = offset;
    pairs->weights = calloc(padded, sizeof(int16_t));
    pairs->slope = malloc(dim * sizeof(double));
    pairs->ones = malloc(padded);
    if (!scale || !offset || !pairs->weights || !pairs->slope || !pairs->ones)
        return false;
    const bool is_l2 = settings->metric == MP_METRIC_L2;
    double largest = 0, sqnorm = 0;
    for (size_t i = 0; i < dim; i++)
        largest = scale[i] > largest ? scale[i] : largest;
    for (size_t i = 0; i < dim; i++) {
        const double middle = (double)offset[i] + 128.0 * scale[i], ratio = largest > 0 ? scale[i] / largest : 0;
        pairs->weights[i] = (int16_t)lrint(256 * ratio * ratio);
        pairs->slope[i] = is_l2 ? (double)scale[i] * scale[i] : middle * scale[i];
        sqnorm += middle * middle;
    }
    pairs->factor = (float)((is_l2 ? -2 : -1) * largest * largest);
    pairs->half_sqnorm = is_l2 ? 0 : sqnorm / 2;
    memset(pairs->ones, 1, padded);
    return true;
}

struct mp_status mp_hnsw_create(struct mp_hnsw **created, const struct mp_hnsw_settings *settings) {
    struct mp_hnsw *hnsw = calloc(1, sizeof *hnsw);
    *created = NULL;
    if (!hnsw)
        return mp_no_memory();
    hnsw->settings = *settings;
    hnsw->max_links0 = 2 * settings->max_links;
    hnsw->norm_at = mp_round_up(settings->dim, 4);
    hnsw->self_at = hnsw->norm_at + (settings->metric == MP_METRIC_L2 ? sizeof(float) : 0);
    hnsw->links_at = hnsw->self_at + sizeof(float);
    hnsw->stride = mp_round_up(hnsw->links_at + hnsw->max_links0 * sizeof(int32_t), MP_ALIGN);
    mp_scratch_pool_init(&hnsw->scratches);
    pthread_mutex_init(&hnsw->lock, NULL);
    pthread_mutex_init(&hnsw->entry_lock, NULL);
    pthread_rwlock_init(&hnsw->growth, NULL);
    for (size_t i = 0; i < N_STRIPES; i++)
        pthread_mutex_init(&hnsw->stripes[i], NULL);
    if (!create_pairs(hnsw) || !(hnsw->storage = storage_create(hnsw, settings->capacity))) {
        mp_hnsw_free(hnsw);
        return mp_no_memory();
    }
    hnsw->storage->users = 1;
    *created = hnsw;
    return mp_ok();
}

void mp_hnsw_free(struct mp_hnsw *hnsw) {
    if (!hnsw)
        return;
    storage_free(hnsw->storage, hnsw->stride);
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
        storage_free(storage, hnsw->stride);
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
                                    .bits = 8,
                                    .metric = settings->metric,
                                    .kernels = settings->kernels,
                                    .byte_kernels = settings->kernels};
    /* The capacity, because nodes that come while a search runs have to fit its visited table. */
    graph.items.n = entry ? storage->capacity : 0;
    graph.items.norms = settings->metric == MP_METRIC_L2 ? storage->records + hnsw->norm_at : NULL;
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
    const size_t links = storage->capacity * hnsw->max_links0 * sizeof(int32_t);
    *codes = storage->capacity * hnsw->stride - links;
    *graph =
        links + storage->n_upper * sizeof(int32_t) + (storage->capacity + 1) * sizeof(uint32_t) + storage->capacity;
    pthread_mutex_unlock(&hnsw->lock);
}

struct mp_status mp_hnsw_resize(struct mp_hnsw *hnsw, size_t capacity) {
    struct mp_status status = mp_ok();
    pthread_rwlock_wrlock(&hnsw->growth);
    const size_t count = atomic_load(&hnsw->count);
    struct mp_hnsw_storage *old = hnsw->storage, *grown = NULL;
    if (capacity < count)
        status = mp_invalid("`capacity` must be at least %zu, the number of nodes, got %zu: a graph can't lose nodes",
                            count, capacity);
    else if (!(grown = storage_create(hnsw, capacity)))
        status = mp_no_memory();
    if (status.code == MP_OK) {
        /* Levels depend on the id alone, so the upper links of the nodes lie at the same places. */
        const size_t n_upper = old->upper_start[count] * hnsw->settings.max_links;
        if (count > 0)
            memcpy(grown->records, old->records, count * hnsw->stride);
        memcpy(grown->upper, old->upper, n_upper * sizeof(int32_t));
        grown->users = 1;
        pthread_mutex_lock(&hnsw->lock);
        memcpy(grown->marks, old->marks, count);
        hnsw->storage = grown;
        pthread_mutex_unlock(&hnsw->lock);
        release(hnsw, old);
    }
    pthread_rwlock_unlock(&hnsw->growth);
    return status;
}

size_t mp_hnsw_level(const struct mp_hnsw_view *view, size_t id) {
    return view->graph.upper_start[id + 1] - view->graph.upper_start[id];
}

struct mp_status mp_hnsw_search(struct mp_hnsw *hnsw, const float *queries, size_t n_queries, size_t k, size_t ef,
                                const struct mp_filter *filter, int num_threads, float *distances, int64_t *ids) {
    struct mp_hnsw_view view;
    struct mp_filter with_marks = filter ? *filter : (struct mp_filter){.end = SIZE_MAX};
    mp_hnsw_borrow(hnsw, &view);
    if (atomic_load(&hnsw->n_deleted) > 0) {
        with_marks.marks = view.storage->marks;
        filter = &with_marks;
    }
    const struct mp_status status =
        mp_graph_search(&view.graph, &hnsw->scratches, queries, n_queries, k, ef, filter, num_threads, distances, ids);
    mp_hnsw_return(hnsw, &view);
    return status;
}
