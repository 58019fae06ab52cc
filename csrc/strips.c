/* Batches: each block of codes meets one strip of queries after the other (kernels.h) while it is in the cache. */
#include "mp/scan.h"

#include <math.h>

#define MAX_BLOCK 240            /* codes, whole tiles */
#define BLOCK_BYTES (128u << 10) /* of codes, unless it is one tile */

static size_t block_items(size_t dim) {
    const size_t fit = BLOCK_BYTES / mp_round_up(dim, MP_ALIGN) / MP_TILE_ITEMS * MP_TILE_ITEMS;
    if (fit < MP_TILE_ITEMS)
        return MP_TILE_ITEMS;
    return fit < MAX_BLOCK ? fit : MAX_BLOCK;
}

static size_t lanes_bytes(size_t n_queries, size_t dim) {
    return mp_round_up(n_queries, MP_LANES) / MP_LANES * mp_group_bytes(dim);
}

size_t mp_strips_bytes(const struct mp_items *items, size_t n_targets) {
    return lanes_bytes(n_targets, items->dim) + block_items(items->dim) * mp_round_up(items->dim, MP_ALIGN);
}

/* How many of the targets go into strips: whole groups, and a last one where it costs less than scoring each code for
 * each of them. */
static size_t n_in_strips(size_t n_targets) {
    const size_t rest = n_targets % MP_LANES;
    return rest < MP_MIN_STRIP_QUERIES ? n_targets - rest : n_targets;
}

void mp_fill_strips(const struct mp_items *items, const struct mp_scan_target *targets, size_t n_targets,
                    int8_t *strips) {
    const size_t size = mp_round_up(items->dim, MP_ALIGN), n = n_in_strips(n_targets);
    for (size_t first = 0; first < n; first += MP_LANES, strips += mp_group_bytes(items->dim)) {
        const size_t count = n - first < MP_LANES ? n - first : MP_LANES;
        if (count < MP_LANES)
            memset(strips, 0, mp_group_bytes(items->dim));
        for (size_t q = 0; q < count; q++) {
            const int8_t *query = targets[first + q].query->natural_high;
            for (size_t i = 0; i < size; i += 4)
                memcpy(strips + i * MP_LANES + 4 * q, query + i, 4);
        }
    }
}

/* Copies of codes, a byte for each dimension, and their norms, zeros if the metric has none. Reading codes in order,
 * which the hardware foresees, takes less time than a kernel would wait for them. */
struct block {
    uint8_t *codes;
    size_t n;
    uint32_t first_id;
    float norms[MAX_BLOCK];
};

static void unpack(const uint8_t *restrict code, size_t size, uint8_t *restrict row) {
    for (size_t i = 0; i < size; i++) {
        row[2 * i] = code[i] & 15;
        row[2 * i + 1] = code[i] >> 4;
    }
}

static void block_begin(struct block *block, const struct mp_items *items, uint32_t first_id, uint8_t *codes) {
    const size_t size = mp_code_bytes(items), stride = mp_round_up(items->dim, MP_ALIGN);
    *block = (struct block){codes, items->n, first_id, {0}};
    for (size_t i = 0; items->norms && i < items->n; i++)
        block->norms[i] = mp_item_norm(items, i);
    for (size_t i = 0; i < items->n; i++, codes += stride) {
        if (items->bits == 4)
            unpack(mp_item_code(items, i), size, codes);
        else
            memcpy(codes, mp_item_code(items, i), size);
        memset(codes + items->dim, 0, stride - items->dim);
    }
}

static void strip_keys(const struct mp_scan_target *targets, size_t n_targets, struct mp_strip_keys *keys) {
    for (size_t q = 0; q < MP_STRIP_QUERIES; q++) {
        const bool wanted = q < n_targets;
        keys->weights[q] = wanted ? targets[q].weight : 0;
        keys->constants[q] = wanted ? targets[q].constant : 0;
        keys->worst[q] = wanted ? targets[q].topk->worst_key : -INFINITY;
    }
}

/* Pushes one item for the queries that it is near to. */
static void push_near(const struct mp_scan_target *targets, uint64_t near, const int32_t *dots, float norm, uint32_t id,
                      struct mp_strip_keys *keys) {
    for (; near; near &= near - 1) {
        const int q = __builtin_ctzll(near);
        mp_scan_push(&targets[q], mp_scan_key(&targets[q], norm, dots[q]), id);
        keys->worst[q] = targets[q].topk->worst_key;
    }
}

/* Scores a block for at most MP_STRIP_QUERIES targets. */
static void score_strip(const struct mp_kernels *kernels, const struct block *block, size_t dim,
                        const struct mp_scan_target *targets, size_t n_targets, const int8_t *lanes) {
    int32_t dots[MP_TILE_ITEMS * MP_STRIP_QUERIES];
    uint64_t near[MP_TILE_ITEMS];
    struct mp_strip_keys keys;
    struct mp_tile tile = {.lanes = lanes, .n_groups = (n_targets + MP_LANES - 1) / MP_LANES, .dim = dim};
    strip_keys(targets, n_targets, &keys);
    for (size_t first = 0; first < block->n; first += MP_TILE_ITEMS) {
        tile.codes = block->codes + first * mp_round_up(dim, MP_ALIGN);
        tile.n_items = block->n - first < MP_TILE_ITEMS ? block->n - first : MP_TILE_ITEMS;
        kernels->tile(&tile, dots);
        kernels->near(dots, tile.n_items, tile.n_groups, block->norms + first, &keys, near);
        for (size_t i = 0; i < tile.n_items; i++)
            push_near(targets, near[i], dots + i * MP_STRIP_QUERIES, block->norms[first + i],
                      block->first_id + (uint32_t)(first + i), &keys);
    }
}

static void score_strips(const struct mp_items *part, uint32_t first_id, const struct mp_scan_target *targets,
                         size_t n_targets, int8_t *lanes) {
    struct block block;
    block_begin(&block, part, first_id, (uint8_t *)lanes + lanes_bytes(n_targets, part->dim));
    for (size_t q = 0; q < n_targets; q += MP_STRIP_QUERIES, lanes += MP_STRIP_GROUPS * mp_group_bytes(part->dim))
        score_strip(part->byte_kernels, &block, part->dim, targets + q,
                    n_targets - q < MP_STRIP_QUERIES ? n_targets - q : MP_STRIP_QUERIES, lanes);
}

void mp_scan_many(const struct mp_items *items, uint32_t first_id, const struct mp_scan_target *targets,
                  size_t n_targets, int8_t *strips) {
    const size_t n_strips = n_in_strips(n_targets), step = block_items(items->dim);
    struct mp_items part = *items;
    for (size_t first = 0; first < items->n; first += step) {
        const uint32_t part_id = first_id + (uint32_t)first;
        part.n = items->n - first < step ? items->n - first : step;
        part.codes = mp_item_code(items, first);
        part.norms = items->norms ? items->norms + first * items->norm_stride : NULL;
        if (n_strips > 0)
            score_strips(&part, part_id, targets, n_strips, strips);
        for (size_t q = n_strips; q < n_targets; q++)
            mp_scan(&part, part_id, &targets[q]);
    }
}
