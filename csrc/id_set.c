#include "mp/id_set.h"

#include <stdlib.h>

bool mp_id_set_open(struct mp_id_set *set, const int64_t *ids, size_t n) {
    if (n > SIZE_MAX / 4 / sizeof(int64_t))
        return false;
    set->n_bits = 1;
    while ((size_t)1 << set->n_bits < 2 * n)
        set->n_bits++;
    const size_t size = (size_t)1 << set->n_bits, mask = size - 1;
    set->slots = malloc(size * sizeof *set->slots);
    if (!set->slots)
        return false;
    set->filler = ids[0];
    for (size_t i = 0; i < size; i++)
        set->slots[i] = set->filler;
    for (size_t i = 0; i < n; i++) {
        size_t at = mp_id_set_home(set, ids[i]);
        while (set->slots[at] != ids[i] && set->slots[at] != set->filler)
            at = (at + 1) & mask;
        set->slots[at] = ids[i];
    }
    return true;
}

void mp_id_set_close(struct mp_id_set *set) {
    free(set->slots);
    set->slots = NULL;
}
