#include "mp/scratch.h"

#include "mp/kernels.h"

#include <stdlib.h>
#include <string.h>

bool mp_reserve(struct mp_buffer *buffer, size_t bytes) {
    if (bytes <= buffer->size)
        return true;
    if (bytes > SIZE_MAX - MP_ALIGN)
        return false;
    const size_t size = mp_round_up(bytes, MP_ALIGN);
    void *data = aligned_alloc(MP_ALIGN, size);
    if (!data)
        return false;
    free(buffer->data);
    *buffer = (struct mp_buffer){data, size};
    return true;
}

static void scratch_free(struct mp_scratch *scratch) {
    free(scratch->query.data);
    free(scratch->ranks.data);
    free(scratch->ids.data);
    free(scratch->heap.data);
    free(scratch->second.data);
    free(scratch->strips.data);
    free(scratch->visited.data);
    free(scratch);
}

void mp_scratch_pool_init(struct mp_scratch_pool *pool) {
    pthread_mutex_init(&pool->lock, NULL); /* default attributes: cannot fail on the systems that we support */
    pool->free = NULL;
}

void mp_scratch_pool_destroy(struct mp_scratch_pool *pool) {
    for (struct mp_scratch *scratch = pool->free, *next; scratch; scratch = next) {
        next = scratch->next;
        scratch_free(scratch);
    }
    pthread_mutex_destroy(&pool->lock);
}

struct mp_scratch *mp_scratch_take(struct mp_scratch_pool *pool) {
    pthread_mutex_lock(&pool->lock);
    struct mp_scratch *scratch = pool->free;
    if (scratch)
        pool->free = scratch->next;
    pthread_mutex_unlock(&pool->lock);
    return scratch ? scratch : calloc(1, sizeof *scratch);
}

void mp_scratch_give(struct mp_scratch_pool *pool, struct mp_scratch *scratch) {
    pthread_mutex_lock(&pool->lock);
    scratch->next = pool->free;
    pool->free = scratch;
    pthread_mutex_unlock(&pool->lock);
}

size_t mp_query_bytes(size_t dim) {
    return 4 * mp_round_up(dim, 2 * MP_ALIGN); /* two parts, each in two orders, of two planes at most */
}

void mp_place_query(struct mp_query *query, void *slots, size_t slot, size_t dim) {
    const size_t size = mp_round_up(dim, 2 * MP_ALIGN);
    query->high = (int8_t *)slots + slot * mp_query_bytes(dim);
    query->low = query->high + size;
    query->natural_high = query->low + size;
    query->natural_low = query->natural_high + size;
}

bool mp_visited_begin(struct mp_scratch *scratch, size_t n) {
    const size_t had = scratch->visited.size;
    if (!mp_reserve(&scratch->visited, n * sizeof(uint16_t)))
        return false;
    if (scratch->visited.size != had || scratch->epoch == UINT16_MAX) {
        memset(scratch->visited.data, 0, scratch->visited.size);
        scratch->epoch = 0;
    }
    scratch->epoch++;
    return true;
}
