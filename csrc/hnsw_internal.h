/* What the files of the growing graph share. */
#ifndef MP_HNSW_INTERNAL_H
#define MP_HNSW_INTERNAL_H

#include "mp/hnsw.h"

#include <pthread.h>
#include <stdatomic.h>

#define N_STRIPES 512  /* far more than threads, so that two rarely meet at one */
#define MOST_LEVELS 64 /* of any node: -ln(2^-53) / ln(2) is 53 */

/* The memory of one capacity. Freed when neither the graph nor a search uses it any more. */
struct mp_hnsw_storage {
    uint8_t *records;
    uint8_t *apart;        /* `self` of each node, where it is not in the records; else NULL */
    uint8_t *selves;       /* of node 0, self_stride bytes apart */
    uint8_t *residuals;    /* dim a node; NULL without a second level */
    float *residual_norms; /* l2 only */
    float *originals;      /* dim a node; NULL unless they are kept */
    size_t capacity;
    uint32_t *upper_start; /* capacity + 1: node i has levels upper_start[i + 1] - upper_start[i] above 0 */
    int32_t *upper;
    size_t n_upper;
    uint8_t *marks; /* per node: 0, or 1 if it is deleted, 2 more while it is replaced; see `lock` */
    size_t users;   /* behind `lock` of the graph */
};

/* Distances between stored codes, see hnsw.h. */
struct pair_metric {
    int16_t *weights;   /* w, dim padded to MP_ALIGN */
    uint8_t *ones;      /* a code of ones, which sums a query up */
    double *slope;      /* s_i^2 (l2) or m_i s_i (ip): `self` is made of them */
    double half_sqnorm; /* |m|^2 / 2 (ip) or 0 */
    int32_t half;       /* h */
    float factor;       /* of <v, c>: -2 f max(s)^2 (l2) or -f max(s)^2 (ip) */
};

struct mp_hnsw {
    struct mp_hnsw_settings settings;
    struct pair_metric pairs;
    size_t max_links0;
    const struct mp_kernels *kernels;     /* for the codes */
    size_t code_bytes, norm_at, links_at; /* within a record */
    size_t stride, self_stride;
    pthread_mutex_t lock;       /* `storage`, its users, the reservation of ids */
    pthread_rwlock_t growth;    /* insertions share it, a change of capacity has it alone */
    pthread_mutex_t entry_lock; /* held by an insertion that makes the graph higher */
    pthread_mutex_t stripes[N_STRIPES];
    struct mp_hnsw_storage *storage;
    size_t n_complete; /* nodes below it are, behind `lock`; may lag behind `count` */
    atomic_size_t count, n_deleted;
    _Atomic uint64_t entry; /* level + 1 above the id; 0 while the graph is empty */
    struct mp_scratch_pool scratches;
};

/* The graph as the walk reads it, with the entry of this moment. */
struct mp_graph mp_hnsw_graph(struct mp_hnsw *hnsw, const struct mp_hnsw_storage *storage);

/* Memory without nodes. The first `n_levels` nodes have levels starts[i + 1] - starts[i], the others those of their
 * hash. NULL if there is no memory. */
struct mp_hnsw_storage *mp_hnsw_make_storage(const struct mp_hnsw *hnsw, size_t capacity, const uint32_t *starts,
                                             size_t n_levels);
void mp_hnsw_free_storage(struct mp_hnsw_storage *storage, const struct mp_hnsw *hnsw);
/* Puts another storage in the place of the graph's, which goes when the last search has finished. `growth` is held. */
void mp_hnsw_exchange(struct mp_hnsw *hnsw, struct mp_hnsw_storage *storage);

/* Offsets within records, and what pair distances need; false if there is no memory. */
bool mp_hnsw_lay_out(struct mp_hnsw *hnsw);
/* Writes code, residual, norms and `self` of a node; its links stay. `rests` is working memory, see
 * feedback.h. */
void mp_hnsw_write(const struct mp_hnsw *hnsw, struct mp_hnsw_storage *storage, size_t id, const float *vector,
                   float *rests);
/* The same for node `id` of `arrays`. */
void mp_hnsw_write_codes(const struct mp_hnsw *hnsw, struct mp_hnsw_storage *storage, size_t id,
                         const struct mp_hnsw_arrays *arrays);

/* Which ids an addition gets: behind the last; deleted ones first; those that it names. */
enum claim { CLAIM_NEW, CLAIM_DELETED, CLAIM_GIVEN };
struct mp_status mp_hnsw_claim(struct mp_hnsw *hnsw, enum claim claim, int64_t *ids, size_t n);
bool mp_hnsw_is_claimed(const struct mp_hnsw_storage *storage, size_t id);
void mp_hnsw_release(struct mp_hnsw *hnsw, size_t id); /* the node is complete: it may be a result */

static inline float load_float(const uint8_t *at) {
    float value;
    memcpy(&value, at, sizeof value);
    return value;
}

#endif
