/* hnswlib's layout of a graph: read in, with every check that walks rely on, and written out. */
#include "mp/hnsw.h"

#include "graph_walk.h"
#include "hnsw_internal.h"

#include <inttypes.h>
#include <stdlib.h>

#define REMEDY "the graph is damaged or belongs to other vectors, build or load it again"
#define MARK 0x10000u /* in the first word of a row of level 0 */

static struct mp_status check_entry(const struct mp_hnsw_arrays *arrays) {
    const int64_t n = (int64_t)arrays->n;
    if (n == 0)
        return mp_ok(); /* nothing is ever entered */
    if (arrays->entry_point < 0 || arrays->entry_point >= n)
        return mp_invalid("`entry_point` must be 0 to %" PRId64 ", got %" PRId64 ": " REMEDY, n - 1,
                          arrays->entry_point);
    if (arrays->max_level < 0)
        return mp_invalid("`max_level` must be at least 0, got %" PRId64 ": " REMEDY, arrays->max_level);
    if (arrays->element_levels[arrays->entry_point] < arrays->max_level)
        return mp_invalid("`entry_point` must have level %" PRId64 ", got %" PRId32 ": " REMEDY, arrays->max_level,
                          arrays->element_levels[arrays->entry_point]);
    return mp_ok();
}

/* Writes the n + 1 sums of levels: where each node's blocks of links begin. */
static struct mp_status sum_levels(const struct mp_hnsw_arrays *arrays, size_t max_links, uint32_t *starts) {
    uint64_t sum = 0;
    starts[0] = 0;
    for (size_t i = 0; i < arrays->n; i++) {
        const int32_t levels = arrays->element_levels[i];
        if (levels < 0 || levels >= MOST_LEVELS)
            return mp_invalid("`element_levels` must be 0 to %d, got %" PRId32 " at node %zu: " REMEDY, MOST_LEVELS - 1,
                              levels, i);
        sum += (uint64_t)levels;
        starts[i + 1] = (uint32_t)sum;
    }
    if (sum * (1 + max_links) != arrays->n_link_lists || sum > UINT32_MAX)
        return mp_invalid("`link_lists` must have length %" PRIu64 ", as `element_levels` says, got %zu: " REMEDY,
                          sum * (1 + max_links), arrays->n_link_lists);
    return mp_ok();
}

/* Copies a block of links and ends them with -1; refuses one that is not a node of at least this level. */
static struct mp_status take_links(const struct mp_hnsw_arrays *arrays, const uint32_t *block, size_t max,
                                   int32_t level, size_t node, int32_t *links) {
    const size_t count = block[0] & (MARK - 1);
    if (count > max)
        return mp_invalid("a node must have at most %zu links, got %zu at node %zu, level %" PRId32 ": " REMEDY, max,
                          count, node, level);
    for (size_t i = 0; i < max; i++) {
        links[i] = i < count ? (int32_t)block[1 + i] : -1;
        if (i < count && (block[1 + i] >= arrays->n || arrays->element_levels[block[1 + i]] < level))
            return mp_invalid("a link must lead to a node of its level, got %" PRIu32 " at node %zu, level %" PRId32
                              " of %zu nodes: " REMEDY,
                              block[1 + i], node, level, arrays->n);
    }
    return mp_ok();
}

static struct mp_status take_nodes(const struct mp_hnsw *hnsw, struct mp_hnsw_storage *storage,
                                   const struct mp_hnsw_arrays *arrays) {
    const size_t max_links = hnsw->settings.max_links;
    const uint32_t *block = arrays->link_lists;
    int32_t *upper = storage->upper;
    for (size_t i = 0; i < arrays->n; i++) {
        int32_t *links0 = (int32_t *)(void *)(storage->records + i * hnsw->stride + hnsw->links_at);
        struct mp_status status =
            take_links(arrays, arrays->level0 + i * (1 + hnsw->max_links0), hnsw->max_links0, 0, i, links0);
        for (int32_t level = 1; level <= arrays->element_levels[i] && status.code == MP_OK; level++) {
            status = take_links(arrays, block, max_links, level, i, upper);
            block += 1 + max_links;
            upper += max_links;
        }
        if (status.code != MP_OK)
            return status;
        mp_hnsw_write_codes(hnsw, storage, i, arrays);
    }
    return mp_ok();
}

/* The nodes become visible with the entry, which comes last. */
static void publish(struct mp_hnsw *hnsw, struct mp_hnsw_storage *storage, const struct mp_hnsw_arrays *arrays) {
    const size_t n = arrays->n;
    size_t n_deleted = 0;
    mp_hnsw_exchange(hnsw, storage);
    pthread_mutex_lock(&hnsw->lock);
    for (size_t i = 0; i < n; i++) {
        storage->marks[i] = (arrays->level0[i * (1 + hnsw->max_links0)] & MARK) != 0;
        n_deleted += storage->marks[i];
    }
    atomic_store(&hnsw->n_deleted, n_deleted);
    atomic_store(&hnsw->count, n);
    pthread_mutex_unlock(&hnsw->lock);
    if (n > 0)
        atomic_store(&hnsw->entry, (uint64_t)(arrays->max_level + 1) << 32 | (uint64_t)arrays->entry_point);
}

struct mp_status mp_hnsw_fill(struct mp_hnsw *hnsw, const struct mp_hnsw_arrays *arrays) {
    uint32_t *starts = malloc((arrays->n + 1) * sizeof(uint32_t));
    struct mp_hnsw_storage *storage = NULL;
    mp_hnsw_freeze(hnsw);
    const size_t capacity = hnsw->storage->capacity, count = atomic_load(&hnsw->count);
    struct mp_status status = starts ? mp_ok() : mp_no_memory();
    if (count > 0)
        status = mp_invalid("the graph must be empty to be filled, got one of %zu nodes: make a new one", count);
    else if (arrays->n > capacity)
        status =
            mp_invalid("`codes` must have at most %zu rows, the capacity, got %zu: resize first", capacity, arrays->n);
    if (status.code == MP_OK)
        status = sum_levels(arrays, hnsw->settings.max_links, starts);
    if (status.code == MP_OK)
        status = check_entry(arrays);
    if (status.code == MP_OK && !(storage = mp_hnsw_make_storage(hnsw, capacity, starts, arrays->n)))
        status = mp_no_memory();
    if (status.code == MP_OK)
        status = take_nodes(hnsw, storage, arrays);
    if (status.code == MP_OK)
        publish(hnsw, storage, arrays);
    else
        mp_hnsw_free_storage(storage, hnsw);
    mp_hnsw_thaw(hnsw);
    free(starts);
    return status;
}

size_t mp_hnsw_link_lists_size(struct mp_hnsw *hnsw) {
    const size_t n_blocks = hnsw->storage->upper_start[atomic_load(&hnsw->count)];
    return n_blocks * (1 + hnsw->settings.max_links);
}

/* Writes a block of 1 + max words and returns the one behind it. */
static uint32_t *put_links(struct links links, uint32_t *block) {
    uint32_t count = 0;
    for (int32_t id; count < links.max && (id = load_link(links, count)) >= 0; count++)
        block[1 + count] = (uint32_t)id;
    block[0] = count;
    for (size_t i = count; i < links.max; i++)
        block[1 + i] = 0;
    return block + 1 + links.max;
}

void mp_hnsw_copy_out(struct mp_hnsw *hnsw, const struct mp_hnsw_copy *copy) {
    const struct mp_hnsw_storage *storage = hnsw->storage;
    const struct mp_graph graph = mp_hnsw_graph(hnsw, storage);
    const size_t count = atomic_load(&hnsw->count), dim = hnsw->settings.dim;
    uint32_t *row = copy->level0, *block = copy->link_lists;
    for (size_t i = 0; i < count; i++) {
        const size_t levels = storage->upper_start[i + 1] - storage->upper_start[i];
        uint32_t *next = put_links(links_at_0(&graph, i), row);
        if (__atomic_load_n(storage->marks + i, __ATOMIC_RELAXED))
            row[0] |= MARK;
        row = next;
        for (size_t level = 1; level <= levels; level++)
            block = put_links(links_above_0(&graph, i, level), block);
        copy->element_levels[i] = (int32_t)levels;
        memcpy(copy->codes + i * hnsw->code_bytes, mp_item_code(&graph.items, i), hnsw->code_bytes);
        if (copy->residuals)
            memcpy(copy->residuals + i * dim, storage->residuals + i * dim, dim);
        if (copy->originals)
            memcpy(copy->originals + i * dim, storage->originals + i * dim, dim * sizeof(float));
    }
}
