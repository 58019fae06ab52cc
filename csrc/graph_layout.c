/* Checks FAISS' graphs, which are read where they lie. */
#include "mp/graph.h"

#include <inttypes.h>

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
    graph->n_complete = graph->items.n;
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
