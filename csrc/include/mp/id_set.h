/* A set of ids of any value, for one look-up each: open addressing, at most half full. */
#ifndef MP_ID_SET_H
#define MP_ID_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mp_id_set {
    int64_t *slots;
    int64_t filler; /* a member; what lies in every slot that no other member has */
    int n_bits;     /* there are 1 << n_bits slots */
};

/* Makes a set of n ids, 1 at least; some may come twice. False if there is no memory. */
bool mp_id_set_open(struct mp_id_set *set, const int64_t *ids, size_t n);
void mp_id_set_close(struct mp_id_set *set);

static inline size_t mp_id_set_home(const struct mp_id_set *set, int64_t id) {
    return (size_t)((uint64_t)id * 0x9E3779B97F4A7C15u >> (64 - set->n_bits));
}

static inline bool mp_id_set_has(const struct mp_id_set *set, int64_t id) {
    const size_t mask = ((size_t)1 << set->n_bits) - 1;
    for (size_t at = mp_id_set_home(set, id);; at = (at + 1) & mask) {
        if (set->slots[at] == id)
            return true;
        if (set->slots[at] == set->filler)
            return false;
    }
}

#endif
