/* Bounded selection of the smallest ranks.
 *
 * A rank is one uint64: an order-preserving image of a float key above an id. Comparing ranks compares keys and breaks
 * ties by the lower id, so any scan order, level and thread count gives the same answer.
 */
#ifndef MP_TOPK_H
#define MP_TOPK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t mp_order_of(float key) {
    uint32_t bits;
    key += 0.0f; /* -0 and +0 are one key */
    memcpy(&bits, &key, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static inline float mp_key_of(uint32_t order) {
    const uint32_t bits = order & 0x80000000u ? order & 0x7FFFFFFFu : ~order;
    float key;
    memcpy(&key, &bits, sizeof key);
    return key;
}

static inline uint64_t mp_rank(float key, uint32_t id) {
    return (uint64_t)mp_order_of(key) << 32 | id;
}

static inline uint32_t mp_rank_id(uint64_t rank) {
    return (uint32_t)rank;
}

static inline float mp_rank_key(uint64_t rank) {
    return mp_key_of((uint32_t)(rank >> 32));
}

/* Keeps the `keep` smallest ranks pushed. The buffer is larger than `keep` and is cut back by selection when it is
 * full: O(1) amortised for any k up to n, where a heap would pay log k. */
struct mp_topk {
    uint64_t *ranks;
    size_t size, keep, capacity;
    uint64_t worst;  /* ranks from here on can't enter */
    float worst_key; /* its key, for a quick look at many keys */
};

static inline size_t mp_topk_capacity(size_t keep) {
    return 2 * keep + 32;
}

void mp_topk_begin(struct mp_topk *topk, uint64_t *ranks, size_t keep);
void mp_topk_cut(struct mp_topk *topk);
/* Sorts what is left, at most `keep`, and returns how many. */
size_t mp_topk_finish(struct mp_topk *topk);

static inline void mp_topk_push(struct mp_topk *topk, uint64_t rank) {
    if (rank >= topk->worst)
        return;
    topk->ranks[topk->size++] = rank;
    if (topk->size == topk->capacity)
        mp_topk_cut(topk);
}

void mp_sort_ranks(uint64_t *ranks, size_t count);

#endif
