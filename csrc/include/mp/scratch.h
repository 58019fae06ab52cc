/* Working memory of one search, kept between calls so that a query allocates nothing.
 *
 * A searcher owns a pool; each thread of each call takes one scratch and gives it back, so any number of callers may
 * search one object at once and the pool grows to the largest number that ever did.
 */
#ifndef MP_SCRATCH_H
#define MP_SCRATCH_H

#include "mp/quantize.h"

#include <pthread.h>
#include <stdbool.h>

struct mp_buffer {
    void *data; /* MP_ALIGN aligned */
    size_t size;
};

/* Makes room for `bytes`; what the buffer held is lost when it grows. False if there is no memory. */
bool mp_reserve(struct mp_buffer *buffer, size_t bytes);

struct mp_scratch {
    struct mp_scratch *next;
    struct mp_buffer query;   /* folded queries, see mp_place_query() */
    struct mp_buffer ranks;   /* uint64: pool or top-k */
    struct mp_buffer ids;     /* uint32: candidates of a step */
    struct mp_buffer heap;    /* the forest's queue, the flat batch's queries */
    struct mp_buffer second;  /* the forest's neutral quantizer, the growing graph's second query */
    struct mp_buffer strips;  /* interleaved queries of a batch */
    struct mp_buffer visited; /* uint16 per item: the epoch of its last visit */
    uint16_t epoch;
};

struct mp_scratch_pool {
    pthread_mutex_t lock;
    struct mp_scratch *free;
};

void mp_scratch_pool_init(struct mp_scratch_pool *pool);
void mp_scratch_pool_destroy(struct mp_scratch_pool *pool);
/* NULL if there is no memory. */
struct mp_scratch *mp_scratch_take(struct mp_scratch_pool *pool);
void mp_scratch_give(struct mp_scratch_pool *pool, struct mp_scratch *scratch);

/* Points a query at slot `slot` of a buffer that has room for mp_query_bytes(dim) a slot. */
size_t mp_query_bytes(size_t dim);
void mp_place_query(struct mp_query *query, void *slots, size_t slot, size_t dim);

/* Starts a new search over n items: none is visited. Clearing happens once in 65535 searches, not in each. */
bool mp_visited_begin(struct mp_scratch *scratch, size_t n);

#endif
