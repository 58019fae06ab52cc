/* An HNSW graph over codes that grows: hnswlib's algorithm and parameters, on records of our own.
 *
 * One record a node, code_stride bytes apart and 64-byte aligned, as in graph.h with one float more:
 *   code (padded to 4 bytes) | norm (float, l2 only) | self (float) | max_links0 link ids (int32, -1 behind)
 * `self` lies apart where it would cost each record another line. So does the second level, if there is one, and so do
 * the vectors, if they are kept: insertion looks at the codes alone.
 *
 * Distances of a new vector to stored codes use its 8-bit query, as searches do. The heuristic that picks links needs
 * distances between stored codes. With h = 128 (8 bits) or 8 (4 bits), m = o + h s (the middle of the range),
 * u_x = s (c_x - h), f = 1 (8 bits) or 1/16 (4 bits):
 *
 *   l2   |x^ - y^|^2 = self_x + self_y - 2 <u_x, u_y>      self_x = |u_x|^2
 *   ip   -<x^, y^>   = self_x + self_y -   <u_x, u_y>      self_x = -<m, u_x> - |m|^2 / 2
 *
 *   <u_x, u_y> ~ f max(s)^2 (dot(c_x, v_y) - h sum(v_y))
 *   v_yi = round(w_i (c_yi - h) / (256 f)), int8           w_i = round(256 s_i^2 / max(s)^2)
 *
 * exact for one step in all dimensions. v_y is a few instructions per 8 dimensions of y's code, where folding the
 * decoded vector would take 0.9 us; self is computed once, on insertion. Cosine is ip of vectors of length 1.
 *
 * Level of a node: floor(-ln(U) / ln(max_links)), U a hash of seed and id, but for nodes that mp_hnsw_fill() brought.
 * So levels depend on neither threads nor order, and the space for links of upper levels is known in advance: it never
 * moves.
 *
 * Threads: any number of insertions and searches at once. Searches take no lock but for a moment at their begin;
 * insertions lock one of a few hundred stripes while they change one list. A change of capacity waits for insertions,
 * and searches that are under way finish on the old memory.
 */
#ifndef MP_HNSW_H
#define MP_HNSW_H

#include "mp/graph.h"

#define MP_HNSW_MAX_LINKS 10000 /* hnswlib's bound */

struct mp_hnsw;

struct mp_hnsw_settings {
    size_t dim, capacity;
    size_t bits;                 /* 8 or 4 */
    float range;                 /* of the second level, see residual.h; 0: there is none */
    bool keeps_originals;        /* beside the codes, to rescore by; then there is no second level */
    const float *scale, *offset; /* copied */
    const uint16_t *feedback;    /* borrowed, see feedback.h; NULL: values are rounded one by one */
    enum mp_metric metric;
    const struct mp_kernels *kernels;  /* for bytes */
    size_t max_links, ef_construction; /* M; level 0 has 2 M */
    uint64_t seed;
};

struct mp_status mp_hnsw_create(struct mp_hnsw **hnsw, const struct mp_hnsw_settings *settings);
void mp_hnsw_free(struct mp_hnsw *hnsw); /* nobody else may use it any more; NULL is allowed */

size_t mp_hnsw_count(struct mp_hnsw *hnsw);
size_t mp_hnsw_capacity(struct mp_hnsw *hnsw);
/* Refused below the number of nodes; the graph is as before then. */
struct mp_status mp_hnsw_resize(struct mp_hnsw *hnsw, size_t capacity);

/* Adds n finite vectors and writes their ids: those of deleted nodes first if `replace_deleted`, then the ones behind
 * the last. Adds none if there is no room for all. */
struct mp_status mp_hnsw_add(struct mp_hnsw *hnsw, const float *vectors, size_t n, bool replace_deleted,
                             int num_threads, int64_t *ids);
/* Gives n existing nodes other vectors, all or none; deleted ones are deleted no more. While it is replaced a node is
 * deleted; a search that began before may still see it, with the old vector or the new one. */
struct mp_status mp_hnsw_replace(struct mp_hnsw *hnsw, const float *vectors, size_t n, int num_threads, int64_t *ids);

/* hnswlib's layout of a graph: level0 rows of 1 + 2 max_links (count in the low 16 bits, deletion mark in bit 16;
 * links), and in link_lists, for each node in order, element_levels[i] blocks of 1 + max_links (count, links). */
struct mp_hnsw_arrays {
    const uint8_t *codes, *residuals; /* residuals NULL without a second level */
    const float *originals;           /* NULL unless they are kept */
    const uint32_t *level0;
    const int32_t *element_levels;
    const uint32_t *link_lists;
    size_t n, n_link_lists; /* number of nodes, length of link_lists */
    int64_t entry_point, max_level;
};

/* Puts n nodes into an empty graph. Everything that walks rely on is checked, so that a damaged file can't make them
 * read elsewhere; if it is refused, the graph stays empty. */
struct mp_status mp_hnsw_fill(struct mp_hnsw *hnsw, const struct mp_hnsw_arrays *arrays);

/* Holds insertions up until the graph is thawed by the same thread, so that several calls see one state. */
void mp_hnsw_freeze(struct mp_hnsw *hnsw);
void mp_hnsw_thaw(struct mp_hnsw *hnsw);
/* Writes a frozen graph to arrays of the layout above. */
struct mp_hnsw_copy {
    uint8_t *codes, *residuals;
    float *originals;
    uint32_t *level0, *link_lists;
    int32_t *element_levels;
};
size_t mp_hnsw_link_lists_size(struct mp_hnsw *hnsw);
void mp_hnsw_copy_out(struct mp_hnsw *hnsw, const struct mp_hnsw_copy *copy);

/* As mp_graph_search(). Nodes whose insertion is under way may be among the results or not. `filter` is NULL or has no
 * marks: those of the graph are added. While nodes are added, searches with a filter walk, however few pass it. */
struct mp_status mp_hnsw_search(struct mp_hnsw *hnsw, const float *queries, size_t n_queries, size_t k, size_t ef,
                                const struct mp_filter *filter, int num_threads, float *distances, int64_t *ids);

/* Deleted nodes stay in the graph and are walked through, but are no results. All n ids or none are marked or unmarked;
 * refused for ids that don't exist, come twice, or are in that state. */
struct mp_status mp_hnsw_mark(struct mp_hnsw *hnsw, const int64_t *ids, size_t n, bool is_deleted);
size_t mp_hnsw_n_deleted(struct mp_hnsw *hnsw);
/* Writes 1 for each of `count` nodes that is deleted, else 0. */
void mp_hnsw_deleted(struct mp_hnsw *hnsw, uint8_t *deleted, size_t count);

/* The graph as it is now, for readers of single nodes: its memory stays until it is given back. Ids are not checked. */
struct mp_hnsw_view {
    struct mp_graph graph;
    struct mp_hnsw_storage *storage;
};
void mp_hnsw_borrow(struct mp_hnsw *hnsw, struct mp_hnsw_view *view);
void mp_hnsw_return(struct mp_hnsw *hnsw, struct mp_hnsw_view *view);
size_t mp_hnsw_level(const struct mp_hnsw_view *view, size_t id);
/* Writes up to max_links0 (level 0) or max_links ids and returns how many. */
size_t mp_hnsw_links(const struct mp_hnsw_view *view, size_t id, size_t level, int32_t *links);

/* Bytes of records and of everything else that grows with the capacity, but for the vectors that are kept. */
void mp_hnsw_nbytes(struct mp_hnsw *hnsw, size_t *codes, size_t *graph);

#endif
