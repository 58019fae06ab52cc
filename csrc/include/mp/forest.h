/* Annoy's search over a forest of split planes, with codes for the planes and for the items.
 *
 *   margin(q) = plane_bias + plane_scale * sum_i (plane_code_i - 128) * q_i
 *
 * Planes and leaves are visited in the order of the worst margin on the way to them: the priority of a child is
 * min(parent, margin) on side 1 and min(parent, -margin) on side 0, roots have +inf. Walking ends when the leaves
 * visited hold search_k items, duplicates included as in Annoy. q is folded to 16 bits with a step of its own, because
 * planes are not coded with the items' steps; sum (code - 128) * v = dot(code, v) - 128 * sum(v) needs no other kernel.
 */
#ifndef MP_FOREST_H
#define MP_FOREST_H

#include "mp/filter.h"
#include "mp/items.h"
#include "mp/scratch.h"
#include "mp/status.h"

/* Borrowed from the caller. A value of `children` or `roots` is a plane if >= 0, else leaf -1 - value. */
struct mp_forest {
    struct mp_items items;
    const uint8_t *plane_codes;
    const float *plane_scale, *plane_bias;
    const int32_t *children;      /* two a plane */
    const uint32_t *leaf_offsets; /* n_leaves + 1 */
    const int32_t *leaf_items;
    const int32_t *roots;
    size_t n_planes, n_leaves, n_leaf_items, n_roots;
    /* set by mp_forest_check() */
    size_t largest_leaf;
    bool has_all; /* every item is in some leaf */
};

/* One pass over everything that the walk relies on. A plane may be entered from one place only, which rules cycles
 * out: a cycle that can be reached from a root has a plane entered from the cycle and from outside. */
struct mp_status mp_forest_check(struct mp_forest *forest);

/* Writes n_queries x k distances and ids; empty slots as in mp_flat_search(). With a filter (NULL: none) search_k
 * counts the items that pass it; where so few are known to pass that a walk would take longer, all of those are scored.
 */
struct mp_status mp_forest_search(const struct mp_forest *forest, struct mp_scratch_pool *scratches,
                                  const float *queries, size_t n_queries, size_t k, size_t search_k,
                                  const struct mp_filter *filter, int num_threads, float *distances, int64_t *ids);

#endif
