/* Insertion: hnswlib's algorithm over codes. See hnsw.h for the formulas and what threads may do. */
#include "mp/hnsw.h"

#include "mp/threads.h"

#include "graph_walk.h"
#include "hnsw_internal.h"

#define VECTORS_PER_CHUNK 8

struct inserter {
    struct mp_hnsw *hnsw;
    struct mp_hnsw_storage *storage;
    struct mp_graph graph;
    struct mp_scratch *scratch;
    struct mp_query query;
    struct walk walk;
    int8_t *pair_query; /* v of hnsw.h, in the order that the kernels want, padded with zeros */
    uint64_t *pool;     /* ef_construction + 1 */
    uint64_t *around;   /* 2 max_links0 + 1: candidates for a list */
    uint32_t *chosen;   /* max_links0 */
    float *rests;       /* MP_FED_ROWS * dim */
    uint32_t *plan;     /* max_links a level: what the new node links to */
};

static inline float self_of(const struct inserter *in, size_t id) {
    return load_float(in->storage->selves + id * in->hnsw->self_stride);
}

/* Links of the graph are read through const pointers everywhere else; here they are written. */
static inline struct links list_of(const struct inserter *in, size_t id, size_t level) {
    return links_of(&in->graph, id, level);
}

static inline void store_link(struct links links, size_t i, int32_t id) {
    __atomic_store_n((int32_t *)links.ids + i, id, __ATOMIC_RELEASE);
}

static inline size_t count_links(struct links links) {
    size_t count = 0;
    while (count < links.max && load_link(links, count) >= 0)
        count++;
    return count;
}

/* What is the same for every distance to one code, beside its v. */
struct pair_side {
    float self;
    int32_t shift; /* h sum(v) */
};

static void weigh_bytes(const uint8_t *restrict code, const int16_t *restrict weights, size_t dim, int8_t *restrict v) {
    for (size_t i = 0; i < dim; i++) {
        /* |weight * (code - 128)| <= 256 * 128, and 128 more still fits 16 bits: 8 dimensions an instruction. */
        const int16_t product = (int16_t)(weights[i] * (int16_t)(code[i] - 128));
        v[i] = (int8_t)((int16_t)(product + 128) >> 8);
    }
}

static void weigh_nibbles(const uint8_t *restrict code, const int16_t *restrict weights, size_t dim,
                          int8_t *restrict planes) {
    const size_t odd = mp_plane_bytes(dim);
    for (size_t i = 0; i < dim; i++) {
        const int32_t product = weights[i] * ((code[i / 2] >> (i % 2 * 4) & 15) - 8);
        planes[i % 2 * odd + i / 2] = (int8_t)((product + 8) >> 4);
    }
}

static struct pair_side begin_pairs(const struct inserter *in, size_t id) {
    const struct mp_hnsw *hnsw = in->hnsw;
    const size_t dim = hnsw->settings.dim;
    (hnsw->settings.bits == 4 ? weigh_nibbles : weigh_bytes)(mp_item_code(&in->graph.items, id), hnsw->pairs.weights,
                                                             dim, in->pair_query);
    const int32_t sum = hnsw->kernels->dot(hnsw->pairs.ones, in->pair_query, dim);
    return (struct pair_side){self_of(in, id), hnsw->pairs.half * sum};
}

/* Distances of four codes to the one of begin_pairs(). */
static inline void pair_distances(const struct inserter *in, const uint32_t ids[4], struct pair_side side,
                                  float distances[4]) {
    const struct mp_hnsw *hnsw = in->hnsw;
    const uint8_t *codes[4];
    int32_t dots[4];
    for (int i = 0; i < 4; i++)
        codes[i] = mp_item_code(&in->graph.items, ids[i]);
    hnsw->kernels->dot4(codes, in->pair_query, hnsw->settings.dim, dots);
    for (int i = 0; i < 4; i++)
        distances[i] = self_of(in, ids[i]) + side.self + hnsw->pairs.factor * (float)(dots[i] - side.shift);
}

/* True if one of the chosen is nearer to the candidate than the node that chooses. */
static bool is_covered(const struct inserter *in, uint32_t candidate, float distance, const uint32_t *chosen,
                       size_t n_chosen) {
    if (n_chosen == 0)
        return false;
    const struct pair_side side = begin_pairs(in, candidate);
    for (size_t i = 0; i < n_chosen; i += 4) {
        uint32_t ids[4];
        float distances[4];
        for (size_t j = 0; j < 4; j++)
            ids[j] = chosen[i + j < n_chosen ? i + j : i];
        pair_distances(in, ids, side, distances);
        if (distances[0] < distance || distances[1] < distance || distances[2] < distance || distances[3] < distance)
            return true;
    }
    return false;
}

/* hnswlib's heuristic: from the nearest on, a candidate is taken unless one taken before covers it. `ranks` ascend. */
static size_t choose_links(const struct inserter *in, const uint64_t *ranks, size_t count, size_t max,
                           uint32_t *chosen) {
    size_t n_chosen = 0;
    for (size_t i = 0; i < count && n_chosen < max; i++) {
        const uint32_t candidate = mp_rank_id(ranks[i]);
        if (count < max || !is_covered(in, candidate, mp_rank_key(ranks[i]), chosen, n_chosen))
            chosen[n_chosen++] = candidate;
    }
    return n_chosen;
}

/* The heuristic over `count` candidates in the fresh ids, none twice: what `node` links to from now on. Its list is
 * locked. */
static void choose_anew(const struct inserter *in, struct links list, uint32_t node, size_t count) {
    const struct mp_items *items = &in->graph.items;
    uint32_t *ids = in->walk.fresh;
    for (size_t i = count; i % 4; i++)
        ids[i] = ids[0];
    for (size_t i = 0; i < count && i < LOOKAHEAD + 4; i++)
        mp_prefetch_item(items, ids[i]);
    const struct pair_side side = begin_pairs(in, node);
    for (size_t i = 0; i < count; i += 4) {
        float distances[4];
        for (size_t j = i + LOOKAHEAD + 4; j < count && j < i + LOOKAHEAD + 8; j++)
            mp_prefetch_item(items, ids[j]);
        pair_distances(in, ids + i, side, distances);
        for (size_t j = i; j < i + 4 && j < count; j++)
            in->around[j] = mp_rank(distances[j - i], ids[j]);
    }
    mp_sort_ranks(in->around, count);
    const size_t n_chosen = choose_links(in, in->around, count, list.max, in->chosen);
    for (size_t i = 0; i < list.max; i++)
        store_link(list, i, i < n_chosen ? (int32_t)in->chosen[i] : -1);
}

/* Makes the links of a locked list the fresh ids, but for one node. */
static size_t take_links(const struct inserter *in, struct links list, uint32_t without) {
    size_t count = 0;
    int32_t id;
    for (size_t i = 0; i < list.max && (id = load_link(list, i)) >= 0; i++) {
        in->walk.fresh[count] = (uint32_t)id;
        count += (uint32_t)id != without;
    }
    return count;
}

/* Appends those of a list that is not locked: while others write to it, it may show an id twice, and it may have some
 * that are there already. Distances would not tell, since codes may change between two of them. */
static size_t append_links(const struct inserter *in, struct links list, size_t count, uint32_t without) {
    uint32_t *ids = in->walk.fresh;
    int32_t id;
    for (size_t i = 0; i < list.max && (id = load_link(list, i)) >= 0; i++) {
        bool is_there = (uint32_t)id == without;
        for (size_t j = 0; j < count; j++)
            is_there |= ids[j] == (uint32_t)id;
        ids[count] = (uint32_t)id;
        count += !is_there;
    }
    return count;
}

/* Links `node` back to the newcomer, which is complete by now. */
static void connect(const struct inserter *in, uint32_t node, size_t level, uint32_t newcomer) {
    const struct links list = list_of(in, node, level);
    pthread_mutex_t *stripe = &in->hnsw->stripes[node % N_STRIPES];
    pthread_mutex_lock(stripe);
    const size_t count = count_links(list);
    bool is_linked = false;
    for (size_t i = 0; i < count; i++)
        is_linked |= load_link(list, i) == (int32_t)newcomer;
    if (!is_linked && count < list.max)
        store_link(list, count, (int32_t)newcomer);
    else if (!is_linked) {
        in->walk.fresh[take_links(in, list, newcomer)] = newcomer;
        choose_anew(in, list, node, count + 1);
    }
    pthread_mutex_unlock(stripe);
}

/* Before a node moves elsewhere: those that it is linked with both ways link to its other neighbours instead. Links
 * that lead to it one way stay, and are long ones from then on. */
static void detach(const struct inserter *in, uint32_t id, size_t level) {
    const struct links own = list_of(in, id, level);
    int32_t node;
    for (size_t i = 0; i < own.max && (node = load_link(own, i)) >= 0; i++) {
        const struct links list = list_of(in, (uint32_t)node, level);
        pthread_mutex_t *stripe = &in->hnsw->stripes[(uint32_t)node % N_STRIPES];
        pthread_mutex_lock(stripe);
        const size_t others = take_links(in, list, id);
        if (others < count_links(list))
            choose_anew(in, list, (uint32_t)node, append_links(in, own, others, (uint32_t)node));
        pthread_mutex_unlock(stripe);
    }
}

/* Turns the pool of the 8-bit query into candidates in order of the distance to the 16-bit query: choosing links
 * compares distances that differ by little, and the walk has just brought these codes into the cache. */
static size_t rank_candidates(const struct inserter *in, const struct pool *pool, uint32_t without) {
    const struct mp_items *items = &in->graph.items;
    uint64_t *ranks = pool->ranks;
    size_t count = 0;
    for (size_t i = 0; i < pool->size; i++) {
        const uint32_t id = (uint32_t)ranks[i] >> 1;
        ranks[count] = id;
        count += id != without;
    }
    mp_exact_ranks(items, &in->query, ranks, count);
    mp_sort_ranks(ranks, count);
    return count;
}

/* Searches the levels that the node will be in, from the top, and plans its links. Nothing of it can be seen yet. */
static void plan_links(struct inserter *in, uint32_t id, size_t level, uint64_t entry) {
    const size_t max_links = in->hnsw->settings.max_links;
    uint32_t node = (uint32_t)entry;
    float key = key_of(&in->walk, node);
    size_t at = (size_t)(entry >> 32) - 1;
    for (; at > level; at--)
        node = descend(&in->walk, node, at, &key);
    for (size_t above = at + 1; above-- > 0;) {
        const size_t breadth = in->hnsw->settings.ef_construction;
        struct pool pool = {.ranks = in->pool, .capacity = breadth, .breadth = breadth};
        mp_visited_begin(in->scratch, in->graph.items.n); /* has its memory since prepare() */
        in->walk.epoch = in->scratch->epoch;
        search_level(&in->walk, &pool, above, node, key);
        node = (uint32_t)in->pool[0] >> 1;
        key = mp_rank_key(in->pool[0]);
        const size_t count = rank_candidates(in, &pool, id);
        uint32_t *plan = in->plan + above * max_links;
        const size_t planned = choose_links(in, in->pool, count, max_links, plan);
        const struct links list = list_of(in, id, above);
        pthread_mutex_t *stripe = &in->hnsw->stripes[id % N_STRIPES]; /* for a node that moves: others link to it */
        pthread_mutex_lock(stripe);
        for (size_t i = planned; i < max_links; i++)
            plan[i] = UINT32_MAX;
        for (size_t i = 0; i < list.max; i++)
            store_link(list, i, i < max_links ? (int32_t)plan[i] : -1); /* -1 behind the last */
        pthread_mutex_unlock(stripe);
    }
}

static void insert(struct inserter *in, const float *vector, uint32_t id, bool is_new) {
    struct mp_hnsw *hnsw = in->hnsw;
    const size_t level = in->graph.upper_start[id + 1] - in->graph.upper_start[id];
    const size_t max_links = hnsw->settings.max_links;
    for (size_t at = level + 1; !is_new && at-- > 0;)
        detach(in, id, at);
    mp_hnsw_write(hnsw, in->storage, id, vector, in->rests);
    if (is_new) {
        const struct links list = list_of(in, id, 0);
        memset((int32_t *)list.ids, 0xFF, list.max * sizeof(int32_t)); /* -1: none */
    }
    uint64_t entry = atomic_load_explicit(&hnsw->entry, memory_order_acquire);
    const bool may_rise = level + 1 > entry >> 32;
    if (may_rise) { /* rare: one in max_links^level nodes; the next that rises has to see this one */
        pthread_mutex_lock(&hnsw->entry_lock);
        entry = atomic_load_explicit(&hnsw->entry, memory_order_acquire);
    }
    if (entry) {
        const size_t top = (size_t)(entry >> 32) - 1;
        mp_fold_for(&in->graph.items, vector, &in->query);
        in->walk.weight = mp_key_weight(&in->graph.items, &in->query);
        plan_links(in, id, level, entry);
        /* The node's own lists are complete on all levels before the first link leads to it. */
        for (size_t above = (level < top ? level : top) + 1; above-- > 0;) {
            const uint32_t *plan = in->plan + above * max_links;
            for (size_t i = 0; i < max_links && plan[i] != UINT32_MAX; i++)
                connect(in, plan[i], above, id);
        }
    }
    if (may_rise) {
        if (level + 1 > entry >> 32)
            atomic_store_explicit(&hnsw->entry, (uint64_t)(level + 1) << 32 | id, memory_order_release);
        pthread_mutex_unlock(&hnsw->entry_lock);
    }
}

struct addition {
    struct mp_hnsw *hnsw;
    struct mp_hnsw_storage *storage;
    const float *vectors;
    const int64_t *ids;
    struct mp_scratch_pool scratches; /* one for each thread, all with their memory */
};

/* Reserves everything that an insertion needs, so that none can fail on the way. */
static bool prepare(struct mp_hnsw *hnsw, struct mp_scratch *scratch) {
    const struct mp_hnsw_settings *settings = &hnsw->settings;
    const size_t padded = mp_round_up(settings->dim, MP_ALIGN);
    return mp_reserve(&scratch->query, mp_query_bytes(settings->dim)) &&
           mp_reserve(&scratch->ranks, (settings->ef_construction + 2 * hnsw->max_links0 + 4) * sizeof(uint64_t)) &&
           mp_reserve(&scratch->ids, (3 * hnsw->max_links0 + 4) * sizeof(uint32_t)) &&
           mp_reserve(&scratch->heap, MOST_LEVELS * settings->max_links * sizeof(uint32_t)) &&
           mp_reserve(&scratch->second, 2 * padded) &&
           mp_reserve(&scratch->strips, MP_FED_ROWS * settings->dim * sizeof(float)) &&
           mp_visited_begin(scratch, hnsw->storage->capacity);
}

static void insert_chunk(void *context, size_t begin, size_t end) {
    struct addition *addition = context;
    struct mp_hnsw *hnsw = addition->hnsw;
    struct mp_scratch *scratch = mp_scratch_take(&addition->scratches);
    struct inserter in = {.hnsw = hnsw, .storage = addition->storage, .scratch = scratch};
    const size_t dim = hnsw->settings.dim;
    in.graph = mp_hnsw_graph(hnsw, addition->storage);
    in.graph.items.n = addition->storage->capacity;
    /* All distances that are compared are those of the codes. */
    in.graph.items.residuals = (struct mp_residuals){0};
    in.graph.items.originals = NULL;
    in.pool = scratch->ranks.data;
    in.around = in.pool + hnsw->settings.ef_construction + 1;
    in.chosen = (uint32_t *)scratch->ids.data + 2 * hnsw->max_links0 + 4;
    in.plan = scratch->heap.data;
    in.pair_query = scratch->second.data;
    in.rests = scratch->strips.data;
    memset(in.pair_query, 0, scratch->second.size);
    mp_place_query(&in.query, scratch->query.data, 0, dim);
    in.walk = (struct walk){
        .graph = &in.graph, .query = &in.query, .visited = scratch->visited.data, .fresh = scratch->ids.data};
    for (size_t row = begin; row < end; row++) {
        const uint32_t id = (uint32_t)addition->ids[row];
        const bool is_new = !mp_hnsw_is_claimed(addition->storage, id);
        insert(&in, addition->vectors + row * dim, id, is_new);
        if (!is_new)
            mp_hnsw_release(hnsw, id);
    }
    mp_scratch_give(&addition->scratches, scratch);
}

static struct mp_status add(struct mp_hnsw *hnsw, const float *vectors, size_t n, enum claim claim, int num_threads,
                            int64_t *ids) {
    struct addition addition = {.hnsw = hnsw, .vectors = vectors, .ids = ids};
    const size_t n_threads = mp_n_threads(num_threads, n);
    struct mp_status status = mp_ok();
    mp_scratch_pool_init(&addition.scratches);
    pthread_rwlock_rdlock(&hnsw->growth);
    addition.storage = hnsw->storage; /* stays while `growth` is held */
    for (size_t i = 0; i < n_threads && status.code == MP_OK; i++) {
        struct mp_scratch *scratch = mp_scratch_take(&hnsw->scratches);
        if (!scratch || !prepare(hnsw, scratch))
            status = mp_no_memory();
        if (scratch)
            mp_scratch_give(&addition.scratches, scratch);
    }
    if (status.code == MP_OK)
        status = mp_hnsw_claim(hnsw, claim, ids, n);
    if (status.code == MP_OK)
        mp_parallel_for(n, VECTORS_PER_CHUNK, n_threads, insert_chunk, &addition);
    pthread_rwlock_unlock(&hnsw->growth);
    while (addition.scratches.free)
        mp_scratch_give(&hnsw->scratches, mp_scratch_take(&addition.scratches));
    mp_scratch_pool_destroy(&addition.scratches);
    return status;
}

struct mp_status mp_hnsw_add(struct mp_hnsw *hnsw, const float *vectors, size_t n, bool replace_deleted,
                             int num_threads, int64_t *ids) {
    return add(hnsw, vectors, n, replace_deleted ? CLAIM_DELETED : CLAIM_NEW, num_threads, ids);
}

struct mp_status mp_hnsw_replace(struct mp_hnsw *hnsw, const float *vectors, size_t n, int num_threads, int64_t *ids) {
    return add(hnsw, vectors, n, CLAIM_GIVEN, num_threads, ids);
}

size_t mp_hnsw_links(const struct mp_hnsw_view *view, size_t id, size_t level, int32_t *links) {
    const struct links list = links_of(&view->graph, id, level);
    size_t count = 0;
    for (int32_t link; count < list.max && (link = load_link(list, count)) >= 0; count++)
        links[count] = link;
    return count;
}
