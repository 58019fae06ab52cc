/* Runs of which only some items may be results. */
#include "mp/scan.h"

#define CHUNK 512   /* items whose passing is looked at together */
#define LISTED 2048 /* positions brought together from chunks in which few pass */
#define LOOKAHEAD 8 /* items whose codes are on their way */

/* From which share of a chunk on, in eighths, all of it is scored and the filter asked for what is near. Where the
 * codes come from memory, one here and there costs three times as much as one in a row (116 k x 384, busy memory: 70
 * and 25 ns); strips hide that, and copying costs a tenth of what they do. */
#define DENSE_EIGHTHS 3
#define DENSE_EIGHTHS_OF_STRIPS 7

void mp_scan_list(const struct mp_items *items, uint32_t first_id, const uint32_t *positions, size_t count,
                  const struct mp_scan_target *target) {
    for (size_t i = 0; i < count && i < LOOKAHEAD; i++)
        mp_prefetch_item(items, positions[i]);
    for (size_t i = 0; i < count; i += 4) {
        const size_t n = count - i < 4 ? count - i : 4;
        const uint8_t *codes[4];
        int32_t dots[4];
        for (size_t j = i + LOOKAHEAD; j < i + LOOKAHEAD + 4 && j < count; j++)
            mp_prefetch_item(items, positions[j]);
        for (size_t j = 0; j < 4; j++)
            codes[j] = mp_item_code(items, positions[i + (j < n ? j : 0)]);
        items->kernels->dot4(codes, target->query->high, items->dim, dots);
        for (size_t j = 0; j < n; j++) {
            const uint32_t at = positions[i + j];
            float key = target->constant + target->weight * (float)dots[j];
            if (items->norms)
                key += mp_item_norm(items, at);
            mp_topk_push(target->topk, mp_rank(key, first_id + at));
        }
    }
}

/* What the functions below have in common: a run, and what it is scored for. */
struct filtered {
    const struct mp_items *items;
    const struct mp_filter *filter;
    uint32_t first_id;
    const int64_t *ids;
    struct mp_scan_target *targets;
    size_t n_targets;
    const struct mp_scan_batch *batch;
    struct mp_scan_gate gate; /* of all targets */
    uint32_t names[MP_GATHERED];
    float norms[MP_GATHERED];
};

/* Copies the codes side by side and scores them as a run. */
static void scan_gathered(struct filtered *run, const uint32_t *positions, size_t count) {
    const size_t size = mp_code_bytes(run->items);
    struct mp_items gathered = *run->items;
    gathered.codes = run->batch->gathered;
    gathered.code_stride = size;
    gathered.norms = run->items->norms ? (const uint8_t *)run->norms : NULL;
    gathered.norm_stride = sizeof *run->norms;
    run->gate = (struct mp_scan_gate){.names = run->names};
    for (size_t i = 0; i < count; i += gathered.n) {
        gathered.n = count - i < MP_GATHERED ? count - i : MP_GATHERED;
        for (size_t j = 0; j < gathered.n; j++) {
            const uint32_t at = positions[i + j];
            if (i + j + LOOKAHEAD < count)
                mp_prefetch_item(run->items, positions[i + j + LOOKAHEAD]);
            memcpy(run->batch->gathered + j * size, mp_item_code(run->items, at), size);
            run->norms[j] = run->items->norms ? mp_item_norm(run->items, at) : 0;
            run->names[j] = run->first_id + at;
        }
        mp_scan_many(&gathered, 0, run->targets, run->n_targets, run->batch->strips);
    }
}

static void scan_positions(struct filtered *run, const uint32_t *positions, size_t count) {
    if (run->n_targets >= MP_MIN_STRIP_QUERIES) {
        scan_gathered(run, positions, count);
    } else {
        for (size_t q = 0; q < run->n_targets; q++)
            mp_scan_list(run->items, run->first_id, positions, count, &run->targets[q]);
    }
}

/* Scores `count` items from `begin` on and asks the filter for those that are near enough. */
static void scan_through(struct filtered *run, size_t begin, size_t count, const struct mp_filter *filter) {
    struct mp_items part = *run->items;
    part.codes += begin * part.code_stride;
    part.norms = part.norms ? part.norms + begin * part.norm_stride : NULL;
    part.n = count;
    const uint32_t first_id = run->first_id + (uint32_t)begin;
    run->gate =
        (struct mp_scan_gate){.filter = filter, .ids = run->ids ? run->ids + begin : NULL, .first_id = first_id};
    mp_scan_many(&part, first_id, run->targets, run->n_targets, run->batch->strips);
}

/* Which of `count` items from `begin` on pass; returns how many. */
static size_t judge(const struct filtered *run, size_t begin, size_t count, uint64_t masks[CHUNK / 64]) {
    size_t passing = 0;
    for (size_t i = 0; i < count; i += 64) {
        const size_t n = count - i < 64 ? count - i : 64;
        const int64_t first_id = (int64_t)run->first_id + (int64_t)(begin + i);
        masks[i / 64] = mp_filter_mask(run->filter, run->ids ? run->ids + begin + i : NULL, first_id, n);
        passing += (size_t)__builtin_popcountll(masks[i / 64]);
    }
    return passing;
}

static size_t list_mask(uint64_t mask, size_t first, uint32_t *positions) {
    size_t count = 0;
    for (; mask; mask &= mask - 1)
        positions[count++] = (uint32_t)(first + (size_t)__builtin_ctzll(mask));
    return count;
}

static void scan_judged(struct filtered *run, size_t begin, size_t end) {
    const size_t dense = run->n_targets < MP_MIN_STRIP_QUERIES ? DENSE_EIGHTHS : DENSE_EIGHTHS_OF_STRIPS;
    uint32_t positions[LISTED];
    uint64_t masks[CHUNK / 64];
    size_t listed = 0;
    for (; begin < end; begin += CHUNK) {
        const size_t count = end - begin < CHUNK ? end - begin : CHUNK;
        const size_t passing = judge(run, begin, count, masks);
        if (8 * passing > dense * count) {
            scan_through(run, begin, count, run->filter);
            continue;
        }
        for (size_t i = 0; passing > 0 && i < count; i += 64)
            listed += list_mask(masks[i / 64], begin + i, positions + listed);
        if (listed > LISTED - CHUNK) {
            scan_positions(run, positions, listed);
            listed = 0;
        }
    }
    if (listed > 0)
        scan_positions(run, positions, listed);
}

bool mp_scan_filtered(const struct mp_items *items, uint32_t first_id, const struct mp_filter *filter,
                      const int64_t *ids, struct mp_scan_target *targets, size_t n_targets,
                      const struct mp_scan_batch *batch) {
    struct filtered run = {.items = items, .filter = filter, .first_id = first_id, .ids = ids, .targets = targets};
    size_t begin = 0, end = items->n;
    run.n_targets = n_targets;
    run.batch = batch;
    if (!ids && filter->first > (int64_t)first_id)
        begin = (size_t)(filter->first - (int64_t)first_id);
    if (!ids && filter->last < (int64_t)(first_id + end))
        end = filter->last < (int64_t)first_id ? 0 : (size_t)(filter->last - (int64_t)first_id + 1);
    for (size_t q = 0; q < n_targets; q++)
        targets[q].gate = &run.gate;
    if (begin < end && !ids && mp_filter_is_range(filter))
        scan_through(&run, begin, end - begin, NULL);
    else if (begin < end && filter->accepts)
        scan_through(&run, begin, end - begin, filter);
    else
        scan_judged(&run, begin, end);
    for (size_t q = 0; q < n_targets; q++)
        targets[q].gate = NULL;
    return !run.gate.given_up;
}
