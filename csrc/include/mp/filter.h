/* Which ids may be results of a search.
 *
 * All conditions hold together; what is NULL holds always. Ids are positions (flat, graph, forest) or whatever an
 * index calls its items (inverted lists).
 */
#ifndef MP_FILTER_H
#define MP_FILTER_H

#include "mp/id_set.h"

#include <stdbool.h>

struct mp_filter {
    int64_t first, last;  /* ids outside are refused; none passes if last < first */
    const uint8_t *bytes; /* for `first` and those behind it: not 0 where the id may be a result */
    const uint8_t *bits;  /* the same, eight ids a byte, from the lowest bit on */
    const struct mp_id_set *set;
    const uint8_t *marks; /* for id 0 and those behind it: not 0 where it is hidden; other threads may change them */
    /* 1: may be a result, 0: may not, -1: the search is to be given up. Called from several threads. */
    int (*accepts)(void *context, int64_t id);
    void *context;
};

static inline int mp_filter_accepts(const struct mp_filter *filter, int64_t id) {
    if (id < filter->first || id > filter->last)
        return 0;
    const uint64_t at = (uint64_t)id - (uint64_t)filter->first;
    if (filter->marks && __atomic_load_n(filter->marks + id, __ATOMIC_ACQUIRE))
        return 0;
    if (filter->bytes && !filter->bytes[at])
        return 0;
    if (filter->bits && !(filter->bits[at / 8] >> at % 8 & 1))
        return 0;
    if (filter->set && !mp_id_set_has(filter->set, id))
        return 0;
    return filter->accepts ? filter->accepts(filter->context, id) : 1;
}

/* Whether nothing but the range decides. */
static inline bool mp_filter_is_range(const struct mp_filter *filter) {
    return !filter->bytes && !filter->bits && !filter->set && !filter->marks && !filter->accepts;
}

/* For filters without `accepts`: bit i is 1 if item i passes. The items are at most 64; item i is ids[i] or, without
 * ids, first_id + i. */
uint64_t mp_filter_mask(const struct mp_filter *filter, const int64_t *ids, int64_t first_id, size_t count);

/* How many of the ids 0 to n - 1 pass, or some number above `most` if more do. SIZE_MAX with `accepts`, which would
 * have to be asked. */
size_t mp_filter_count(const struct mp_filter *filter, size_t n, size_t most);

#endif
