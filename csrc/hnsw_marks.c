/* Deletion marks, and who gets which ids. */
#include "mp/hnsw.h"

#include "hnsw_internal.h"

#include <inttypes.h>

static void set_mark(uint8_t *mark, uint8_t value) {
    __atomic_store_n(mark, value, __ATOMIC_RELEASE); /* searches look at it meanwhile */
}

#define DELETED 1
#define CLAIMED 2 /* on top, while a node is replaced: nobody else may, and it is no result */

static struct mp_status check_id(const struct mp_hnsw_storage *storage, size_t count, const int64_t *ids, size_t i) {
    if (ids[i] < 0 || (size_t)ids[i] >= count)
        return mp_invalid("`ids` must be below %zu, the number of nodes, got %" PRId64
                          " at position %zu: pass what add() returned",
                          count, ids[i], i);
    if (storage->marks[ids[i]] & CLAIMED)
        return mp_invalid("`ids` must not be under replacement, got %" PRId64 " at position %zu: pass each once, and "
                          "wait for other calls that replace it",
                          ids[i], i);
    return mp_ok();
}

/* Sets marks from the first id on until one can't be; returns how many it set, and says why it stopped. */
static size_t set_marks(const struct mp_hnsw_storage *storage, size_t count, const int64_t *ids, size_t n,
                        bool is_deleted, struct mp_status *status) {
    for (size_t i = 0; i < n; i++) {
        *status = check_id(storage, count, ids, i);
        if (status->code == MP_OK && storage->marks[ids[i]] == is_deleted)
            *status =
                mp_invalid("`ids` must be nodes that are %s, got %" PRId64 " at position %zu, which is %s: "
                           "pass each once",
                           is_deleted ? "not deleted" : "deleted", ids[i], i, is_deleted ? "deleted already" : "not");
        if (status->code != MP_OK)
            return i;
        set_mark(storage->marks + ids[i], is_deleted);
    }
    return n;
}

static struct mp_status claim_given(struct mp_hnsw *hnsw, const int64_t *ids, size_t n) {
    const struct mp_hnsw_storage *storage = hnsw->storage;
    const size_t count = atomic_load(&hnsw->count);
    struct mp_status status = mp_ok();
    size_t done = 0;
    for (; done < n && (status = check_id(storage, count, ids, done)).code == MP_OK; done++) {
        atomic_fetch_add(&hnsw->n_deleted, !storage->marks[ids[done]]);
        set_mark(storage->marks + ids[done], storage->marks[ids[done]] | CLAIMED);
    }
    for (size_t i = 0; status.code != MP_OK && i < done; i++) {
        set_mark(storage->marks + ids[i], storage->marks[ids[i]] & DELETED);
        atomic_fetch_sub(&hnsw->n_deleted, !storage->marks[ids[i]]);
    }
    return status;
}

static struct mp_status claim_room(struct mp_hnsw *hnsw, bool replaces, int64_t *ids, size_t n) {
    const struct mp_hnsw_storage *storage = hnsw->storage;
    const size_t count = atomic_load(&hnsw->count), room = storage->capacity - count;
    size_t reused = 0;
    for (size_t i = 0; replaces && i < count && reused < n; i++) {
        if (storage->marks[i] == DELETED)
            ids[reused++] = (int64_t)i;
    }
    if (n - reused > room)
        return mp_invalid("`vectors` must have at most %zu rows, the room that is left of capacity %zu, got %zu: "
                          "resize first",
                          room + reused, storage->capacity, n);
    for (size_t i = 0; i < reused; i++)
        set_mark(storage->marks + ids[i], DELETED | CLAIMED);
    for (size_t i = reused; i < n; i++)
        ids[i] = (int64_t)(count + i - reused);
    atomic_store(&hnsw->count, count + n - reused);
    return mp_ok();
}

struct mp_status mp_hnsw_claim(struct mp_hnsw *hnsw, enum claim claim, int64_t *ids, size_t n) {
    pthread_mutex_lock(&hnsw->lock);
    const struct mp_status status =
        claim == CLAIM_GIVEN ? claim_given(hnsw, ids, n) : claim_room(hnsw, claim == CLAIM_DELETED, ids, n);
    pthread_mutex_unlock(&hnsw->lock);
    return status;
}

bool mp_hnsw_is_claimed(const struct mp_hnsw_storage *storage, size_t id) {
    return __atomic_load_n(storage->marks + id, __ATOMIC_RELAXED) & CLAIMED;
}

void mp_hnsw_release(struct mp_hnsw *hnsw, size_t id) {
    pthread_mutex_lock(&hnsw->lock);
    set_mark(hnsw->storage->marks + id, 0);
    atomic_fetch_sub(&hnsw->n_deleted, 1);
    pthread_mutex_unlock(&hnsw->lock);
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
