/* Which ids may be results of a search. The walk goes through the others all the same: they are the way to the rest.
 *
 * All conditions hold together; what is NULL holds always.
 */
#ifndef MP_FILTER_H
#define MP_FILTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mp_filter {
    const uint8_t *bytes; /* not 0 where the id may be a result */
    const uint8_t *bits;  /* the same, eight ids a byte, from the lowest bit on */
    size_t begin, end;    /* ids outside are refused; `end` is also the length of `bytes` and `bits` */
    const uint8_t *marks; /* not 0 where the id is hidden; other threads may change them meanwhile */
    /* 1: may be a result, 0: may not, -1: the search is to be given up. Called from several threads. */
    int (*accepts)(void *context, size_t id);
    void *context;
};

static inline int mp_filter_accepts(const struct mp_filter *filter, size_t id) {
    if (filter->marks && __atomic_load_n(filter->marks + id, __ATOMIC_ACQUIRE))
        return 0;
    if (id < filter->begin || id >= filter->end)
        return 0;
    if (filter->bytes && !filter->bytes[id])
        return 0;
    if (filter->bits && !(filter->bits[id / 8] >> id % 8 & 1))
        return 0;
    return filter->accepts ? filter->accepts(filter->context, id) : 1;
}

#endif
