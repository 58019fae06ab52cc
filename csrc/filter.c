#include "mp/filter.h"

#include <string.h>

#define BLOCK 4096 /* ids between two looks at whether the count is above its bound */

static uint64_t mask_of_bytes(const uint8_t *bytes) {
    uint64_t mask = 0, eight;
    for (size_t i = 0; i < 64; i += 8) {
        memcpy(&eight, bytes + i, sizeof eight);
        if (!eight)
            continue;
        for (size_t j = i; j < i + 8; j++)
            mask |= (uint64_t)(bytes[j] != 0) << j;
    }
    return mask;
}

static uint64_t mask_of_bits(const uint8_t *bits) {
    uint64_t mask = 0;
    for (size_t i = 0; i < 8; i++)
        mask |= (uint64_t)bits[i] << 8 * i;
    return mask;
}

uint64_t mp_filter_mask(const struct mp_filter *filter, const int64_t *ids, int64_t first_id, size_t count) {
    const uint64_t at = (uint64_t)first_id - (uint64_t)filter->first;
    uint64_t mask = 0;
    if (!ids && !filter->marks && !filter->set && count == 64 && first_id >= filter->first &&
        first_id + 63 <= filter->last && at % 8 == 0) {
        mask = filter->bytes ? mask_of_bytes(filter->bytes + at) : UINT64_MAX;
        return filter->bits ? mask & mask_of_bits(filter->bits + at / 8) : mask;
    }
    for (size_t i = 0; i < count; i++)
        mask |= (uint64_t)mp_filter_accepts(filter, ids ? ids[i] : first_id + (int64_t)i) << i;
    return mask;
}

static size_t count_block(const struct mp_filter *filter, int64_t first_id, size_t count) {
    size_t passing = 0;
    if (filter->bytes && !filter->bits && !filter->set && !filter->marks) {
        const uint8_t *bytes = filter->bytes + (first_id - filter->first);
        for (size_t i = 0; i < count; i++)
            passing += bytes[i] != 0;
        return passing;
    }
    for (size_t i = 0; i < count; i += 64)
        passing += (size_t)__builtin_popcountll(
            mp_filter_mask(filter, NULL, first_id + (int64_t)i, count - i < 64 ? count - i : 64));
    return passing;
}

size_t mp_filter_count(const struct mp_filter *filter, size_t n, size_t most) {
    const int64_t begin = filter->first > 0 ? filter->first : 0;
    const int64_t end = filter->last < (int64_t)n ? filter->last + 1 : (int64_t)n;
    if (filter->accepts)
        return SIZE_MAX;
    if (begin >= end)
        return 0;
    if (mp_filter_is_range(filter))
        return (size_t)(end - begin);
    size_t passing = 0;
    for (int64_t id = begin; id < end && passing <= most; id += BLOCK)
        passing += count_block(filter, id, end - id < BLOCK ? (size_t)(end - id) : BLOCK);
    return passing;
}
