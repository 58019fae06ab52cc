/* Takes foreign graphs over: checks them, and packs hnswlib's into records. */
#include "mp/graph.h"

#include "mp/memory.h"

#include <inttypes.h>
#include <stdlib.h>

#define REMEDY "the graph is damaged or belongs to other vectors, build or load it again"

static struct mp_status check_entry(struct mp_graph *graph, int64_t entry_point, int64_t max_level) {
    const int64_t n = (int64_t)graph->items.n;
    if (n == 0)
        return mp_ok(); /* nothing is ever entered */
    if (entry_point < 0 || entry_point >= n)
        return mp_invalid("`entry_point` must be 0 to %" PRId64 ", got %" PRId64 ": " REMEDY, n - 1, entry_point);
    if (max_level < 0)
        return mp_invalid("`max_level` must be at least 0, got %" PRId64 ": " REMEDY, max_level);
    graph->entry_point = (size_t)entry_point;
    graph->max_level = (size_t)max_level;
    return mp_ok();
}

static struct mp_status check_cum(const int32_t *cum, size_t n_cum, int64_t max_level) {
    if (n_cum < 2 || cum[0] != 0)
        return mp_invalid("`cum_neighbors` must start with 0 and have an entry per level after it, got length %zu",
                          n_cum);
    for (size_t i = 1; i < n_cum; i++) {
        if (cum[i] < cum[i - 1])
            return mp_invalid("`cum_neighbors` must not decrease, got %" PRId32 " after %" PRId32 ": " REMEDY, cum[i],
                              cum[i - 1]);
    }
    if (max_level > (int64_t)n_cum - 2)
        return mp_invalid("`max_level` must be at most %zu, the levels of `cum_neighbors`, got %" PRId64 ": " REMEDY,
                          n_cum - 2, max_level);
    return mp_ok();
}

static struct mp_status check_offsets(const uint64_t *offsets, size_t n, size_t n_neighbors, uint64_t level_0) {
    for (size_t i = 0; i < n; i++) {
        if (offsets[i + 1] < offsets[i] || offsets[i + 1] - offsets[i] < level_0)
            return mp_invalid("`offsets` must grow by at least %" PRIu64 ", the links of level 0, got %" PRIu64
                              " after %" PRIu64 " at node %zu: " REMEDY,
                              level_0, offsets[i + 1], offsets[i], i);
    }
    if (offsets[n] > n_neighbors)
        return mp_invalid("`offsets` must end within `neighbors` of length %zu, got %" PRIu64 ": " REMEDY, n_neighbors,
                          offsets[n]);
    return mp_ok();
}

struct mp_status mp_graph_link(struct mp_graph *graph, const uint64_t *offsets, size_t n_offsets,
                               const int32_t *neighbors, size_t n_neighbors, const int32_t *cum, size_t n_cum,
                               int64_t entry_point, int64_t max_level) {
    const size_t n = graph->items.n;
    struct mp_status status = check_entry(graph, entry_point, max_level);
    if (status.code == MP_OK)
        status = check_cum(cum, n_cum, max_level);
    if (status.code == MP_OK && n_offsets != n + 1)
        status = mp_invalid("`offsets` must have length %zu, one more than there are codes, got %zu: " REMEDY, n + 1,
                            n_offsets);
    if (status.code == MP_OK)
        status = check_offsets(offsets, n, n_neighbors, (uint64_t)cum[1]);
    if (status.code != MP_OK)
        return status;
    int32_t largest = -1;
    for (size_t i = 0; i < n_neighbors; i++)
        largest = neighbors[i] > largest ? neighbors[i] : largest;
    if (largest >= (int64_t)n)
        return mp_invalid("`neighbors` must be below %zu, the number of codes, got %" PRId32 ": " REMEDY, n, largest);
    graph->offsets = offsets;
    graph->neighbors = neighbors;
    graph->cum = cum;
    graph->max_links0 = (size_t)cum[1];
    return mp_ok();
}

/* Copies `count` links and ends them with -1; reports the first that is not a node with at least `level` levels. */
static struct mp_status copy_links(const struct mp_hnsw_arrays *arrays, size_t n, const uint32_t *block, size_t max,
                                   int32_t level, size_t node, int32_t *links) {
    const size_t count = block[0] & 0xFFFF;
    if (count > max)
        return mp_invalid("a node must have at most %zu links, got %zu at node %zu, level %" PRId32 ": " REMEDY, max,
                          count, node, level);
    for (size_t i = 0; i < max; i++) {
        links[i] = i < count ? (int32_t)block[1 + i] : -1;
        if (i < count && (block[1 + i] >= n || arrays->element_levels[block[1 + i]] < level))
            return mp_invalid("a link must lead to a node of its level, got %" PRIu32 " at node %zu, level %" PRId32
                              " of %zu nodes: " REMEDY,
                              block[1 + i], node, level, n);
    }
    return mp_ok();
}

static struct mp_status check_levels(const struct mp_graph *graph, const struct mp_hnsw_arrays *arrays,
                                     size_t *n_blocks) {
    const size_t n = graph->items.n;
    const size_t most = arrays->n_link_lists / (1 + arrays->max_links);
    *n_blocks = 0;
    for (size_t i = 0; i < n; i++) {
        const int32_t levels = arrays->element_levels[i];
        if (levels < 0 || (size_t)levels > most)
            return mp_invalid("`element_levels` must be 0 to %zu, got %" PRId32 " at node %zu: " REMEDY, most, levels,
                              i);
        *n_blocks += (size_t)levels;
    }
    if (*n_blocks * (1 + arrays->max_links) != arrays->n_link_lists || *n_blocks > UINT32_MAX)
        return mp_invalid("`link_lists` must have length %zu, as `element_levels` says, got %zu: " REMEDY,
                          *n_blocks * (1 + arrays->max_links), arrays->n_link_lists);
    if (n > 0 && arrays->element_levels[graph->entry_point] < (int64_t)graph->max_level)
        return mp_invalid("`entry_point` must have level %zu, got %" PRId32 ": " REMEDY, graph->max_level,
                          arrays->element_levels[graph->entry_point]);
    return mp_ok();
}

static struct mp_status pack_upper(struct mp_packed *packed, const struct mp_hnsw_arrays *arrays, size_t n) {
    const uint32_t *block = arrays->link_lists;
    int32_t *links = packed->upper;
    uint32_t start = 0;
    for (size_t i = 0; i < n; i++) {
        packed->upper_start[i] = start;
        for (int32_t level = 1; level <= arrays->element_levels[i]; level++, start++) {
            const struct mp_status status = copy_links(arrays, n, block, arrays->max_links, level, i, links);
            if (status.code != MP_OK)
                return status;
            block += 1 + arrays->max_links;
            links += arrays->max_links;
        }
    }
    return mp_ok();
}

static struct mp_status pack_records(struct mp_graph *graph, struct mp_packed *packed,
                                     const struct mp_hnsw_arrays *arrays) {
    struct mp_items *items = &graph->items;
    const size_t norm_at = mp_round_up(mp_code_bytes(items), 4);
    const size_t links_at = norm_at + (items->norms ? sizeof(float) : 0);
    const size_t stride = packed->records_size / (items->n ? items->n : 1);
    for (size_t i = 0; i < items->n; i++) {
        uint8_t *record = (uint8_t *)packed->records + i * stride;
        memcpy(record, mp_item_code(items, i), mp_code_bytes(items));
        if (items->norms)
            memcpy(record + norm_at, items->norms + i * items->norm_stride, sizeof(float));
        const uint32_t *block = arrays->level0 + i * (1 + arrays->max_links0);
        const struct mp_status status =
            copy_links(arrays, items->n, block, arrays->max_links0, 0, i, (int32_t *)(void *)(record + links_at));
        if (status.code != MP_OK)
            return status;
    }
    const uint8_t *records = packed->records;
    items->codes = records;
    items->code_stride = stride;
    if (items->norms) {
        items->norms = records + norm_at;
        items->norm_stride = stride;
    }
    graph->links0 = records + links_at;
    graph->upper_start = packed->upper_start;
    graph->upper = packed->upper;
    graph->max_links0 = arrays->max_links0;
    graph->max_links = arrays->max_links;
    return mp_ok();
}

struct mp_status mp_graph_pack(struct mp_graph *graph, struct mp_packed *packed, const struct mp_hnsw_arrays *arrays) {
    const struct mp_items *items = &graph->items;
    const size_t n = items->n;
    size_t n_blocks;
    *packed = (struct mp_packed){0};
    struct mp_status status = check_entry(graph, arrays->entry_point, arrays->max_level);
    if (status.code == MP_OK)
        status = check_levels(graph, arrays, &n_blocks);
    if (status.code != MP_OK || n == 0)
        return status;
    const size_t content =
        mp_round_up(mp_code_bytes(items), 4) + (items->norms ? sizeof(float) : 0) + 4 * arrays->max_links0;
    packed->records_size = n * mp_round_up(content, MP_ALIGN);
    packed->records = mp_block_alloc(packed->records_size);
    packed->upper_start = malloc(n * sizeof(uint32_t));
    packed->n_upper = n_blocks * arrays->max_links;
    packed->upper = malloc(packed->n_upper ? packed->n_upper * sizeof(int32_t) : 1);
    if (!packed->records || !packed->upper_start || !packed->upper)
        status = mp_no_memory();
    if (status.code == MP_OK)
        status = pack_upper(packed, arrays, n);
    if (status.code == MP_OK)
        status = pack_records(graph, packed, arrays);
    if (status.code != MP_OK)
        mp_packed_free(packed);
    return status;
}

void mp_packed_free(struct mp_packed *packed) {
    mp_block_free(packed->records, packed->records_size);
    free(packed->upper_start);
    free(packed->upper);
    *packed = (struct mp_packed){0};
}
