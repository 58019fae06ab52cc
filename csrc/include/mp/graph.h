/* HNSW search, one traversal for two layouts.
 *
 * Linked: FAISS' arrays, read where they lie. Links of node i at level l are
 *   neighbors[offsets[i] + cum[l] .. offsets[i] + cum[l + 1]), up to the first negative id.
 * Packed: our own records, one a node, code_stride bytes apart and 64-byte aligned:
 *   code (padded to 4 bytes) | norm (float, l2 only) | max_links0 link ids (int32, -1 behind the last)
 * so that a hop touches neighbouring cache lines. Links of upper levels lie apart; few nodes have them.
 *
 * Levels above 0 are descended greedily; level 0 keeps the ef nearest in a sorted pool and expands the nearest that
 * is not expanded yet, until none is left. Both use the 8-bit query; the best of the pool are rescored with 16 bits,
 * or by the vectors. Where ef is near k the pool keeps up to as many more, which are rescored but not expanded.
 */
#ifndef MP_GRAPH_H
#define MP_GRAPH_H

#include "mp/filter.h"
#include "mp/items.h"
#include "mp/scratch.h"
#include "mp/status.h"

struct mp_graph {
    struct mp_items items;
    size_t max_links0;
    size_t entry_point;
    size_t max_level;
    size_t n_complete; /* nodes that may be scored before a link leads to them; 0 where some are being written */
    /* linked, else NULL */
    const uint64_t *offsets;
    const int32_t *neighbors;
    const int32_t *cum;
    /* packed, else NULL */
    const uint8_t *links0;       /* of record 0 */
    const uint32_t *upper_start; /* per node: its first block in `upper`; meaningless for nodes of level 0 only */
    const int32_t *upper;        /* blocks of max_links ids, levels 1, 2, ... of a node in order */
    size_t max_links;
};

/* Checks everything that the traversal relies on in one pass, so that a damaged file can't make it read elsewhere:
 * what is accepted is searched without further checks. `items` are set; entry_point and max_level are the caller's. */
struct mp_status mp_graph_link(struct mp_graph *graph, const uint64_t *offsets, size_t n_offsets,
                               const int32_t *neighbors, size_t n_neighbors, const int32_t *cum, size_t n_cum,
                               int64_t entry_point, int64_t max_level);

/* Writes n_queries x k distances and ids; ef below k is raised to k. Empty slots as in mp_flat_search(). With a filter
 * (NULL: none) the walk ends when ef nodes that pass it are found and none that is nearer can be reached; where so few
 * are known to pass that a walk would take longer, all of those are scored instead, as mp_flat_search() does. */
struct mp_status mp_graph_search(const struct mp_graph *graph, struct mp_scratch_pool *scratches, const float *queries,
                                 size_t n_queries, size_t k, size_t ef, const struct mp_filter *filter, int num_threads,
                                 float *distances, int64_t *ids);

#endif
