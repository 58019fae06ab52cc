#include "mp/ivf.h"

#include "mp/scan.h"
#include "mp/threads.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#define LIST_BEGIN 4096 /* bytes of a list that are on their way while the one before is scanned */

struct search {
    const struct mp_ivf *ivf;
    struct mp_scratch_pool *scratches;
    const float *queries;
    const int64_t *assignment;
    size_t n_probe, k, keep;
    const struct mp_filter *filter;
    float *distances;
    int64_t *ids;
    atomic_bool no_memory, given_up;
};

/* |m_l + r^|^2 by the formula of a quantizer whose offset is m_l + o; those that `before` has are copied. */
static struct mp_status fill_norms(struct mp_ivf *ivf, const struct mp_ivf *before) {
    const size_t dim = ivf->items.dim;
    float *offset = malloc(dim * sizeof *offset);
    if (!offset)
        return mp_no_memory();
    for (size_t l = 0; l < ivf->n_lists; l++) {
        struct mp_items *list = &ivf->lists[l];
        float *norms = ivf->norms + ivf->first[l];
        const size_t known = before ? before->lists[l].n : 0;
        list->norms = (const uint8_t *)norms;
        list->norm_stride = sizeof(float);
        if (known > 0)
            memcpy(norms, before->norms + before->first[l], known * sizeof *norms);
        if (known == list->n)
            continue;
        for (size_t i = 0; i < dim; i++)
            offset[i] = ivf->items.offset[i] + (ivf->centroids ? ivf->centroids[l * dim + i] : 0);
        (list->bits == 4 ? mp_squared_norms4 : mp_squared_norms)(mp_item_code(list, known), list->n - known, dim,
                                                                 list->scale, offset, norms + known);
    }
    free(offset);
    return mp_ok();
}

static struct mp_status take_lists(struct mp_ivf *ivf, const struct mp_ivf_list *lists) {
    size_t n = 0;
    for (size_t l = 0; l < ivf->n_lists; l++) {
        ivf->lists[l] = ivf->items;
        ivf->lists[l].codes = lists[l].codes;
        ivf->lists[l].code_stride = mp_code_bytes(&ivf->items);
        ivf->lists[l].n = lists[l].size;
        ivf->ids[l] = lists[l].ids;
        ivf->first[l] = (uint32_t)n;
        if (lists[l].size > MP_MAX_ITEMS - n)
            return mp_invalid("`codes` must hold at most 2147483647 rows together: split the index");
        n += lists[l].size;
    }
    ivf->first[ivf->n_lists] = (uint32_t)n;
    ivf->items.n = n;
    return mp_ok();
}

static struct mp_status check_before(const struct mp_ivf *ivf, const struct mp_ivf_list *lists,
                                     const struct mp_ivf *before) {
    const struct mp_items *items = &ivf->items, *others = &before->items;
    if (before->n_lists != ivf->n_lists || others->dim != items->dim || others->bits != items->bits ||
        others->metric != items->metric)
        return mp_invalid("`before` must have as many lists, dimensions and bits, and the same metric: leave it out");
    for (size_t l = 0; l < ivf->n_lists; l++) {
        if (before->lists[l].n > lists[l].size)
            return mp_invalid("`before` must have no list that is longer than here, got %zu for %zu at list %zu: leave "
                              "it out",
                              before->lists[l].n, lists[l].size, l);
    }
    return mp_ok();
}

struct mp_status mp_ivf_open(struct mp_ivf *ivf, const struct mp_ivf_list *lists, const struct mp_ivf *before) {
    const struct mp_status checked = before ? check_before(ivf, lists, before) : mp_ok();
    if (checked.code != MP_OK)
        return checked;
    ivf->norms = NULL;
    ivf->lists = malloc((ivf->n_lists + 1) * sizeof *ivf->lists); /* one more: malloc(0) may be NULL */
    ivf->ids = malloc((ivf->n_lists + 1) * sizeof *ivf->ids);
    ivf->first = malloc((ivf->n_lists + 1) * sizeof *ivf->first);
    struct mp_status status = ivf->lists && ivf->ids && ivf->first ? take_lists(ivf, lists) : mp_no_memory();
    if (status.code == MP_OK && ivf->items.metric == MP_METRIC_L2) {
        ivf->norms = malloc((ivf->items.n + 1) * sizeof *ivf->norms);
        status = ivf->norms ? fill_norms(ivf, before) : mp_no_memory();
    }
    if (status.code != MP_OK)
        mp_ivf_close(ivf);
    return status;
}

void mp_ivf_close(struct mp_ivf *ivf) {
    free(ivf->lists);
    free(ivf->ids);
    free(ivf->first);
    free(ivf->norms);
    ivf->lists = NULL;
    ivf->ids = NULL;
    ivf->first = NULL;
    ivf->norms = NULL;
}

size_t mp_ivf_bytes(const struct mp_ivf *ivf) {
    const size_t each = sizeof *ivf->lists + sizeof *ivf->ids + sizeof *ivf->first;
    return ivf->n_lists * each + (ivf->norms ? ivf->items.n * sizeof *ivf->norms : 0);
}

/* <q, m_l>, 0 without centroids; four running sums in double, as norms are added up. */
static double centroid_product(const struct search *search, size_t row, size_t list) {
    const size_t dim = search->ivf->items.dim;
    if (!search->ivf->centroids)
        return 0;
    const float *query = search->queries + row * dim, *centroid = search->ivf->centroids + list * dim;
    double sums[4] = {0};
    size_t i = 0;
    for (; i + 4 <= dim; i += 4) {
        for (size_t j = 0; j < 4; j++)
            sums[j] += (double)query[i + j] * centroid[i + j];
    }
    for (size_t j = 0; i < dim; i++, j++)
        sums[j] += (double)query[i] * centroid[i];
    return sums[0] + sums[1] + (sums[2] + sums[3]);
}

/* What `target`, made for keys of items.h, is for the items of a list whose centroid's product is given. */
static struct mp_scan_target in_list(const struct search *search, const struct mp_scan_target *target, double product) {
    struct mp_scan_target here = *target;
    if (!search->ivf->centroids)
        return here;
    const bool l2 = search->ivf->items.metric == MP_METRIC_L2;
    here.constant = (float)(l2 ? -2 * product : -product);
    if (!l2)
        here.weight = (float)(-256 * target->query->unit);
    return here;
}

/* The list of a position: the last one that begins there or before and isn't empty. */
static size_t list_of(const struct mp_ivf *ivf, uint32_t position) {
    size_t low = 0, high = ivf->n_lists;
    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (ivf->first[middle] <= position)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* `products` are those of the lists that the row visits, in the order of its assignment. */
static void rescore(const struct search *search, const struct mp_query *query, uint64_t *ranks, size_t count,
                    size_t row, const double *products) {
    const struct mp_kernels *kernels = search->ivf->items.kernels;
    const int64_t *assignment = search->assignment + row * search->n_probe;
    for (size_t i = 0; i < count; i++) {
        const uint32_t position = mp_rank_id(ranks[i]);
        const size_t l = list_of(search->ivf, position);
        const struct mp_items *list = &search->ivf->lists[l];
        const size_t at = position - search->ivf->first[l];
        const uint8_t *code = mp_item_code(list, at);
        const int64_t dot =
            256 * (int64_t)kernels->dot(code, query->high, list->dim) + kernels->dot(code, query->low, list->dim);
        double product = query->bias + query->unit * (double)dot;
        for (size_t visit = 0; search->ivf->centroids && visit < search->n_probe; visit++) {
            if (assignment[visit] == (int64_t)l)
                product = products[visit] + (query->bias + query->unit * (double)dot);
        }
        ranks[i] = mp_rank(mp_exact_key(list, query, at, product), position);
    }
    mp_sort_ranks(ranks, count);
}

static void finish(const struct search *search, const struct mp_scan_target *target, size_t row,
                   const double *products) {
    const struct mp_ivf *ivf = search->ivf;
    const size_t count = mp_topk_finish(target->topk);
    const float sign = ivf->items.metric == MP_METRIC_L2 ? 1.0f : -1.0f;
    float *distances = search->distances + row * search->k;
    int64_t *ids = search->ids + row * search->k;
    rescore(search, target->query, target->topk->ranks, count, row, products);
    for (size_t i = 0; i < search->k; i++) {
        distances[i] = sign * INFINITY;
        ids[i] = -1;
        if (i < count) {
            const uint32_t position = mp_rank_id(target->topk->ranks[i]);
            const size_t list = list_of(ivf, position);
            distances[i] = sign * mp_rank_key(target->topk->ranks[i]) + 0.0f;
            ids[i] = ivf->ids[list][position - ivf->first[list]];
        }
    }
}

/* Sorts the visits of a batch by list: starts[l] .. starts[l + 1] of `visits` are those of list l, as positions in the
 * batch's part of the assignment. */
static void group_by_list(const struct search *search, size_t begin, size_t count, size_t *starts, uint32_t *visits) {
    const size_t n_lists = search->ivf->n_lists, n_visits = count * search->n_probe;
    const int64_t *assignment = search->assignment + begin * search->n_probe;
    memset(starts, 0, (n_lists + 2) * sizeof *starts);
    for (size_t i = 0; i < n_visits; i++) {
        if (assignment[i] >= 0)
            starts[assignment[i] + 2]++;
    }
    for (size_t l = 2; l < n_lists + 2; l++)
        starts[l] += starts[l - 1];
    for (size_t i = 0; i < n_visits; i++) {
        if (assignment[i] >= 0)
            visits[starts[assignment[i] + 1]++] = (uint32_t)i;
    }
}

/* What a batch needs beside what every scan does. */
struct visiting {
    size_t *starts;
    double *products; /* <q, m_l> of each visit */
    struct mp_scan_target *targets;
    uint32_t *visits;
};

static bool visiting_begin(const struct search *search, struct mp_scratch *scratch, size_t count,
                           struct visiting *visiting) {
    const size_t n_starts = search->ivf->n_lists + 2, n_visits = count * search->n_probe;
    const size_t each = sizeof *visiting->products + sizeof *visiting->visits;
    if (!mp_reserve(&scratch->ids,
                    n_starts * sizeof *visiting->starts + count * sizeof *visiting->targets + n_visits * each))
        return false;
    visiting->starts = scratch->ids.data;
    visiting->products = (double *)(void *)(visiting->starts + n_starts);
    visiting->targets = (struct mp_scan_target *)(void *)(visiting->products + n_visits);
    visiting->visits = (uint32_t *)(void *)(visiting->targets + count);
    return true;
}

/* The first list from `l` on that any row visits; n_lists if there is none. */
static size_t next_visited(const struct visiting *visiting, size_t l, size_t n_lists) {
    while (l < n_lists && visiting->starts[l] == visiting->starts[l + 1])
        l++;
    return l;
}

/* The hardware foresees a list once it is being read, but not where it begins. */
static void prefetch_begin(const struct mp_items *list) {
    const size_t bytes = list->n * list->code_stride;
    if (bytes > 0)
        mp_prefetch(list->codes, bytes < LIST_BEGIN ? bytes : LIST_BEGIN);
}

/* False if the filter gives up. */
static bool visit_list(const struct search *search, const struct visiting *visiting, const struct mp_scan_batch *batch,
                       size_t begin, size_t count, size_t l) {
    const struct mp_ivf *ivf = search->ivf;
    size_t at = visiting->starts[l];
    while (at < visiting->starts[l + 1]) {
        size_t n = 0;
        /* A row may name a list more than once, but there are never more targets than room. */
        for (; at < visiting->starts[l + 1] && n < count; at++, n++) {
            const size_t visit = visiting->visits[at], row = visit / search->n_probe;
            visiting->products[visit] = centroid_product(search, begin + row, l);
            visiting->targets[n] = in_list(search, &batch->targets[row], visiting->products[visit]);
        }
        mp_fill_strips(&ivf->lists[l], visiting->targets, n, batch->strips);
        if (!search->filter)
            mp_scan_many(&ivf->lists[l], ivf->first[l], visiting->targets, n, batch->strips);
        else if (!mp_scan_filtered(&ivf->lists[l], ivf->first[l], search->filter, ivf->ids[l], visiting->targets, n,
                                   batch))
            return false;
    }
    return true;
}

static bool search_rows(struct search *search, struct mp_scratch *scratch, size_t begin, size_t count) {
    const struct mp_ivf *ivf = search->ivf;
    struct mp_scan_batch batch;
    struct visiting visiting;
    if (!mp_scan_begin(&ivf->items, search->queries + begin * ivf->items.dim, count, search->keep, scratch, &batch) ||
        !visiting_begin(search, scratch, count, &visiting))
        return false;
    group_by_list(search, begin, count, visiting.starts, visiting.visits);
    for (size_t l = next_visited(&visiting, 0, ivf->n_lists), next; l < ivf->n_lists; l = next) {
        next = next_visited(&visiting, l + 1, ivf->n_lists);
        if (next < ivf->n_lists)
            prefetch_begin(&ivf->lists[next]);
        if (!visit_list(search, &visiting, &batch, begin, count, l)) {
            atomic_store(&search->given_up, true);
            return true;
        }
    }
    for (size_t q = 0; q < count; q++)
        finish(search, &batch.targets[q], begin + q, visiting.products + q * search->n_probe);
    return true;
}

static void search_range(void *context, size_t begin, size_t end) {
    struct search *search = context;
    if (atomic_load(&search->given_up))
        return;
    struct mp_scratch *scratch = mp_scratch_take(search->scratches);
    if (!scratch || !search_rows(search, scratch, begin, end - begin))
        atomic_store(&search->no_memory, true);
    if (scratch)
        mp_scratch_give(search->scratches, scratch);
}

static struct mp_status check_assignment(const struct mp_ivf *ivf, const int64_t *assignment, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (assignment[i] < -1 || assignment[i] >= (int64_t)ivf->n_lists)
            return mp_invalid("`assignment` must name lists below %zu, or -1 for none, got %lld: pass what the coarse "
                              "quantizer found",
                              ivf->n_lists, (long long)assignment[i]);
    }
    return mp_ok();
}

struct mp_status mp_ivf_search(const struct mp_ivf *ivf, struct mp_scratch_pool *scratches, const float *queries,
                               size_t n_queries, const int64_t *assignment, size_t n_probe, size_t k,
                               const struct mp_filter *filter, int num_threads, float *distances, int64_t *ids) {
    const struct mp_status status = check_assignment(ivf, assignment, n_queries * n_probe);
    if (status.code != MP_OK)
        return status;
    const size_t n_threads = mp_n_threads(num_threads, n_queries);
    struct search search = {.ivf = ivf,
                            .scratches = scratches,
                            .queries = queries,
                            .assignment = assignment,
                            .n_probe = n_probe,
                            .k = k,
                            .filter = filter,
                            .distances = distances,
                            .ids = ids};
    search.keep = mp_n_rescored(&ivf->items, k, ivf->items.n);
    atomic_init(&search.no_memory, false);
    atomic_init(&search.given_up, false);
    mp_parallel_for(n_queries, mp_batch_size(n_queries, n_threads, search.keep), n_threads, search_range, &search);
    return mp_search_status(atomic_load(&search.no_memory), atomic_load(&search.given_up));
}
