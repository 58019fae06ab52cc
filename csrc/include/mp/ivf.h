/* Search in inverted lists, read where they lie (FAISS' IndexIVF: codes and ids of a list are contiguous).
 *
 * An item of list l decodes to x^ = m_l + r^ with r^_i = o_i + s_i * c_i; m_l is the list's centroid where codes are
 * those of residuals (by_residual), else 0. The query is folded once for all lists, because
 *
 *   <q, x^> = <q, m_l> + <q, r^>
 *
 * has the centroid only in a term that is one number a query and list:
 *   l2   key = norm + (-2 <q, m_l> + weight * dot(c, high)),  norm = |m_l + r^|^2
 *   ip   key = -<q, m_l> - 256 * unit * dot(c, high)
 * (ip without centroids keeps the key of items.h.) Rescoring adds <q, m_l> to the product of the 16-bit query, in
 * double.
 *
 * Which lists a query visits is the caller's choice: FAISS' coarse quantizer may be any index. A batch goes through the
 * lists one by one, each for all of its queries that visit it, so that codes are read once for many of them. Among
 * equal distances the item that stands first in the lists wins.
 */
#ifndef MP_IVF_H
#define MP_IVF_H

#include "mp/filter.h"
#include "mp/items.h"
#include "mp/scratch.h"
#include "mp/status.h"

/* Borrowed from the caller. */
struct mp_ivf_list {
    const uint8_t *codes;
    const int64_t *ids;
    size_t size;
};

struct mp_ivf {
    struct mp_items items;  /* codes and norms unset; n is the number of all items; the rest holds for every list */
    const float *centroids; /* n_lists x dim, or NULL: codes are not those of residuals */
    size_t n_lists;
    /* owned, made by mp_ivf_open() */
    struct mp_items *lists;
    const int64_t **ids;
    uint32_t *first; /* n_lists + 1: position of each list's first item in the sequence of all */
    float *norms;    /* of all items in that sequence, l2 only */
};

/* Makes what is owned from `ivf`'s other members (n apart) and the lists; on failure nothing is left to close. `before`
 * (NULL: none) is an open one of the same quantizer and centroids whose lists these begin with, so that only what came
 * behind is computed. */
struct mp_status mp_ivf_open(struct mp_ivf *ivf, const struct mp_ivf_list *lists, const struct mp_ivf *before);
void mp_ivf_close(struct mp_ivf *ivf);

/* Bytes that are owned beside the caller's memory. */
size_t mp_ivf_bytes(const struct mp_ivf *ivf);

/* Searches the lists that `assignment` names, n_probe a query; -1 names none. A list named twice in a row is scored
 * twice. `filter` (NULL: none) judges the ids of the lists. Writes n_queries x k distances and ids; empty slots as in
 * mp_flat_search(). */
struct mp_status mp_ivf_search(const struct mp_ivf *ivf, struct mp_scratch_pool *scratches, const float *queries,
                               size_t n_queries, const int64_t *assignment, size_t n_probe, size_t k,
                               const struct mp_filter *filter, int num_threads, float *distances, int64_t *ids);

#endif
