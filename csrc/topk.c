#include "mp/topk.h"

#include <math.h>

static void insertion_sort(uint64_t *ranks, size_t count) {
    for (size_t i = 1; i < count; i++) {
        const uint64_t rank = ranks[i];
        size_t j = i;
        for (; j > 0 && ranks[j - 1] > rank; j--)
            ranks[j] = ranks[j - 1];
        ranks[j] = rank;
    }
}

static void sift_down(uint64_t *ranks, size_t root, size_t count) {
    const uint64_t rank = ranks[root];
    for (size_t child; (child = 2 * root + 1) < count; root = child) {
        child += child + 1 < count && ranks[child + 1] > ranks[child];
        if (ranks[child] <= rank)
            break;
        ranks[root] = ranks[child];
    }
    ranks[root] = rank;
}

static void heap_sort(uint64_t *ranks, size_t count) {
    for (size_t i = count / 2; i-- > 0;)
        sift_down(ranks, i, count);
    for (size_t i = count; i-- > 1;) {
        const uint64_t last = ranks[i];
        ranks[i] = ranks[0];
        ranks[0] = last;
        sift_down(ranks, 0, i);
    }
}

static uint64_t median3(uint64_t a, uint64_t b, uint64_t c) {
    const uint64_t low = a < b ? a : b, high = a < b ? b : a;
    return c < low ? low : c > high ? high : c;
}

/* Hoare's partition: returns a split such that everything before it is <= everything from it on; 0 < split < count. */
static size_t partition(uint64_t *ranks, size_t count) {
    const uint64_t pivot = median3(ranks[0], ranks[(count - 1) / 2], ranks[count - 2]);
    size_t i = 0, j = count - 1;
    for (;; i++, j--) {
        while (ranks[i] < pivot)
            i++;
        while (ranks[j] > pivot)
            j--;
        if (i >= j)
            return i > 0 ? i : 1;
        const uint64_t swapped = ranks[i];
        ranks[i] = ranks[j];
        ranks[j] = swapped;
    }
}

static void quick_sort(uint64_t *ranks, size_t count, int rounds) {
    while (count > 24) {
        if (rounds-- == 0) { /* bad pivots: keep the bound of n log n */
            heap_sort(ranks, count);
            return;
        }
        const size_t split = partition(ranks, count);
        quick_sort(ranks + split, count - split, rounds);
        count = split;
    }
    insertion_sort(ranks, count);
}

void mp_sort_ranks(uint64_t *ranks, size_t count) {
    quick_sort(ranks, count, 64);
}

/* Moves the `keep` smallest to the front, in any order. */
static void select_smallest(uint64_t *ranks, size_t count, size_t keep) {
    int rounds = 64;
    while (count > 24 && keep > 0 && keep < count) {
        if (rounds-- == 0) {
            heap_sort(ranks, count);
            return;
        }
        const size_t split = partition(ranks, count);
        if (keep < split) {
            count = split;
        } else {
            ranks += split;
            count -= split;
            keep -= split;
        }
    }
    insertion_sort(ranks, count);
}

void mp_topk_begin(struct mp_topk *topk, uint64_t *ranks, size_t keep) {
    *topk = (struct mp_topk){ranks, 0, keep, mp_topk_capacity(keep), UINT64_MAX, INFINITY};
}

void mp_topk_cut(struct mp_topk *topk) {
    if (topk->size <= topk->keep)
        return;
    select_smallest(topk->ranks, topk->size, topk->keep);
    topk->size = topk->keep;
    uint64_t worst = 0;
    for (size_t i = 0; i < topk->keep; i++)
        worst = topk->ranks[i] > worst ? topk->ranks[i] : worst;
    topk->worst = worst;
    topk->worst_key = mp_rank_key(worst);
}

size_t mp_topk_finish(struct mp_topk *topk) {
    mp_topk_cut(topk);
    mp_sort_ranks(topk->ranks, topk->size);
    return topk->size;
}
