#include "mp/scan.h"

#define BLOCK 256               /* codes scored before their keys are looked at */
#define MAX_BATCH 1024          /* queries that share the building of panels */
#define BATCH_BYTES (64u << 20) /* of top-k buffers; fewer queries share panels when k is large */

static size_t panel_bytes(size_t dim) {
    return mp_round_up(dim, 4) * MP_PANEL_ITEMS;
}

bool mp_scan_begin(const struct mp_items *items, const float *vectors, size_t n, size_t keep,
                   struct mp_scratch *scratch, struct mp_scan_batch *batch) {
    const size_t dim = items->dim, capacity = mp_topk_capacity(keep);
    const size_t each = sizeof *batch->queries + sizeof *batch->topks + sizeof *batch->targets;
    if (!mp_reserve(&scratch->query, n * mp_query_bytes(dim)) ||
        !mp_reserve(&scratch->ranks, n * capacity * sizeof(uint64_t)) || !mp_reserve(&scratch->heap, n * each) ||
        !mp_reserve(&scratch->panel, panel_bytes(dim) + MP_GATHERED * mp_code_bytes(items)))
        return false;
    batch->queries = scratch->heap.data;
    batch->topks = (struct mp_topk *)(void *)(batch->queries + n);
    batch->targets = (struct mp_scan_target *)(void *)(batch->topks + n);
    batch->panel = scratch->panel.data;
    batch->gathered = batch->panel + panel_bytes(dim);
    for (size_t q = 0; q < n; q++) {
        struct mp_query *query = &batch->queries[q];
        mp_place_query(query, scratch->query.data, q, dim);
        mp_fold_for(items, vectors + q * dim, query);
        mp_topk_begin(&batch->topks[q], (uint64_t *)scratch->ranks.data + q * capacity, keep);
        batch->targets[q] = (struct mp_scan_target){query, &batch->topks[q], mp_key_weight(items, query), 0, NULL};
    }
    return true;
}

/* Whether the item of this id may be pushed; then `id` becomes its name. */
static bool pass(struct mp_scan_gate *gate, uint32_t *id) {
    const uint32_t at = *id - gate->first_id;
    if (gate->names)
        *id = gate->names[at];
    if (!gate->filter || gate->given_up)
        return !gate->given_up;
    const int answer = mp_filter_accepts(gate->filter, gate->ids ? gate->ids[at] : (int64_t)*id);
    gate->given_up = answer < 0;
    return answer > 0;
}

/* Pushes `count` items from first_id on, whose keys are given. */
static void push_keys(const struct mp_scan_target *target, const float *keys, uint32_t first_id, size_t count) {
    struct mp_topk *topk = target->topk;
    for (size_t i = 0; i < count; i++) {
        uint32_t id = first_id + (uint32_t)i;
        if (keys[i] <= topk->worst_key && (!target->gate || pass(target->gate, &id)))
            mp_topk_push(topk, mp_rank(keys[i], id));
    }
}

/* The norms of a block side by side, for as many queries as read them; NULL if the metric has none. */
static const float *load_norms(const struct mp_items *items, size_t first, size_t count, float *norms) {
    for (size_t i = 0; items->norms && i < count; i++)
        norms[i] = mp_item_norm(items, first + i);
    return items->norms ? norms : NULL;
}

static void fill_keys(const struct mp_scan_target *target, const float *norms, size_t count, const int32_t *dots,
                      float *keys) {
    const float weight = target->weight, constant = target->constant;
    for (size_t i = 0; i < count; i++)
        keys[i] = constant + weight * (float)dots[i];
    for (size_t i = 0; norms && i < count; i++)
        keys[i] += norms[i];
}

void mp_scan(const struct mp_items *items, uint32_t first_id, const struct mp_scan_target *target) {
    const int8_t *high = target->query->high;
    int32_t dots[BLOCK];
    float keys[BLOCK], norms[BLOCK];
    for (size_t first = 0; first < items->n; first += BLOCK) {
        const size_t count = items->n - first < BLOCK ? items->n - first : BLOCK;
        size_t i = 0;
        for (; i + 4 <= count; i += 4) {
            const uint8_t *code = mp_item_code(items, first + i);
            const size_t stride = items->code_stride;
            const uint8_t *codes[4] = {code, code + stride, code + 2 * stride, code + 3 * stride};
            items->kernels->dot4(codes, high, items->dim, dots + i);
        }
        for (; i < count; i++)
            dots[i] = items->kernels->dot(mp_item_code(items, first + i), high, items->dim);
        fill_keys(target, load_norms(items, first, count, norms), count, dots, keys);
        push_keys(target, keys, first_id + (uint32_t)first, count);
    }
}

/* Four dimensions of a packed code, a byte each: halves spread first to every other byte, then to every byte. */
static inline void unpack4(const uint8_t *code, size_t size, uint8_t lane[4]) {
    const uint32_t pair = code[0] | (uint32_t)(size > 1 ? code[1] : 0) << 8;
    const uint32_t bytes = (pair | pair << 8) & 0x00FF00FF;
    const uint32_t halves = (bytes | bytes << 4) & 0x0F0F0F0F;
    for (size_t j = 0; j < 4; j++)
        lane[j] = (uint8_t)(halves >> 8 * j);
}

static void build_packed_panel(const struct mp_items *items, size_t first, size_t count, uint8_t *panel) {
    const size_t size = mp_code_bytes(items);
    for (size_t item = 0; item < count; item++) {
        const uint8_t *code = mp_item_code(items, first + item);
        uint8_t *lane = panel + 4 * item;
        for (size_t i = 0; i < size; i += 2)
            unpack4(code + i, size - i, lane + 2 * i * MP_PANEL_ITEMS);
    }
}

/* Interleaves up to MP_PANEL_ITEMS codes, see kernels.h. */
static void build_panel(const struct mp_items *items, size_t first, size_t count, uint8_t *panel) {
    const size_t whole = items->dim / 4 * 4, tail = items->dim - whole;
    if (count < MP_PANEL_ITEMS) /* the last panel: lanes without an item are scored too, and dropped */
        memset(panel, 0, panel_bytes(items->dim));
    if (items->bits == 4) {
        build_packed_panel(items, first, count, panel);
        return;
    }
    for (size_t item = 0; item < count; item++) {
        const uint8_t *code = mp_item_code(items, first + item);
        uint8_t *lane = panel + 4 * item;
        for (size_t i = 0; i < whole; i += 4)
            memcpy(lane + i * MP_PANEL_ITEMS, code + i, 4);
        if (tail) {
            memset(lane + whole * MP_PANEL_ITEMS, 0, 4);
            memcpy(lane + whole * MP_PANEL_ITEMS, code + whole, tail);
        }
    }
}

static bool any_near(const float *keys, float worst_key) {
    int near = 0;
    for (size_t i = 0; i < MP_PANEL_ITEMS; i++)
        near |= keys[i] <= worst_key;
    return near;
}

/* A panel of `count` items, the first of them under first_id. */
struct panel {
    const uint8_t *codes;
    const float *norms;
    uint32_t first_id;
    size_t count;
};

/* Scores one panel for MP_PANEL_QUERIES targets, of which the first `n_targets` are wanted. */
static void score_panel(const struct mp_items *items, const struct panel *panel, const struct mp_scan_target *targets,
                        size_t n_targets) {
    int32_t dots[MP_PANEL_QUERIES * MP_PANEL_ITEMS];
    float keys[MP_PANEL_ITEMS];
    const int8_t *highs[MP_PANEL_QUERIES];
    for (size_t q = 0; q < MP_PANEL_QUERIES; q++)
        highs[q] = targets[q < n_targets ? q : 0].query->natural_high;
    items->byte_kernels->panel(panel->codes, highs, items->dim, dots);
    for (size_t q = 0; q < n_targets; q++) {
        /* All keys of the panel, those behind the last item included: a fixed length makes vector code. */
        fill_keys(&targets[q], panel->norms, MP_PANEL_ITEMS, dots + q * MP_PANEL_ITEMS, keys);
        if (any_near(keys, targets[q].topk->worst_key))
            push_keys(&targets[q], keys, panel->first_id, panel->count);
    }
}

static void scan_panels(const struct mp_items *items, uint32_t first_id, const struct mp_scan_target *targets,
                        size_t n_targets, uint8_t *codes) {
    float norms[MP_PANEL_ITEMS] = {0};
    for (size_t first = 0; first < items->n; first += MP_PANEL_ITEMS) {
        const size_t count = items->n - first < MP_PANEL_ITEMS ? items->n - first : MP_PANEL_ITEMS;
        const float *block_norms = load_norms(items, first, count, norms);
        const struct panel panel = {codes, block_norms, first_id + (uint32_t)first, count};
        build_panel(items, first, count, codes);
        for (size_t q = 0; q < n_targets; q += MP_PANEL_QUERIES)
            score_panel(items, &panel, targets + q,
                        n_targets - q < MP_PANEL_QUERIES ? n_targets - q : MP_PANEL_QUERIES);
    }
}

void mp_scan_many(const struct mp_items *items, uint32_t first_id, const struct mp_scan_target *targets,
                  size_t n_targets, uint8_t *panel) {
    if (n_targets >= MP_MIN_PANEL_QUERIES) {
        scan_panels(items, first_id, targets, n_targets, panel);
    } else {
        for (size_t q = 0; q < n_targets; q++)
            mp_scan(items, first_id, &targets[q]);
    }
}

size_t mp_batch_size(size_t n_queries, size_t n_threads, size_t keep) {
    const size_t share = (n_queries + n_threads - 1) / n_threads;
    const size_t room = BATCH_BYTES / (mp_topk_capacity(keep) * sizeof(uint64_t));
    const size_t most = room < MAX_BATCH ? room : MAX_BATCH;
    const size_t size = share < most ? share : most;
    return size > 0 ? size : 1;
}
