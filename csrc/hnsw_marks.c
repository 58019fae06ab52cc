/* Deletion marks. */
#include "mp/hnsw.h"

#include "hnsw_internal.h"

#include <inttypes.h>

static void set_mark(uint8_t *mark, uint8_t value) {
    __atomic_store_n(mark, value, __ATOMIC_RELEASE); /* searches look at it meanwhile */
}

/* Sets marks from the first id on until one can't be; returns how many it set, and says why it stopped. */
static size_t set_marks(const struct mp_hnsw_storage *storage, size_t count, const int64_t *ids, size_t n,
                        bool is_deleted, struct mp_status *status) {
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (size_t)ids[i] >= count) {
            *status = mp_invalid("`ids` must be below %zu, the number of nodes, got %" PRId64
                                 " at position %zu: pass what add() returned",
                                 count, ids[i], i);
            return i;
        }
        if (storage->marks[ids[i]] == is_deleted) {
            *status =
                mp_invalid("`ids` must be nodes that are %s, got %" PRId64 " at position %zu, which is %s: "
                           "pass each once",
                           is_deleted ? "not deleted" : "deleted", ids[i], i, is_deleted ? "deleted already" : "not");
            return i;
        }
        set_mark(storage->marks + ids[i], is_deleted);
    }
    return n;
}

struct mp_status mp_hnsw_mark(struct mp_hnsw *hnsw, const int64_t *ids, size_t n, bool is_deleted) {
    struct mp_status status = mp_ok();
    pthread_mutex_lock(&hnsw->lock);
    const struct mp_hnsw_storage *storage = hnsw->storage;
    if (is_deleted)
        atomic_fetch_add(&hnsw->n_deleted, n); /* before the marks: a search that sees none needs none */
    const size_t done = set_marks(storage, atomic_load(&hnsw->count), ids, n, is_deleted, &status);
    if (done < n) {
        for (size_t i = 0; i < done; i++)
            set_mark(storage->marks + ids[i], !is_deleted);
    }
    if (is_deleted == (done < n))
        atomic_fetch_sub(&hnsw->n_deleted, n);
    pthread_mutex_unlock(&hnsw->lock);
    return status;
}

size_t mp_hnsw_n_deleted(struct mp_hnsw *hnsw) {
    return atomic_load(&hnsw->n_deleted);
}

void mp_hnsw_deleted(struct mp_hnsw *hnsw, uint8_t *deleted, size_t count) {
    pthread_mutex_lock(&hnsw->lock);
    for (size_t i = 0; i < count; i++)
        deleted[i] = hnsw->storage->marks[i] != 0;
    pthread_mutex_unlock(&hnsw->lock);
}
