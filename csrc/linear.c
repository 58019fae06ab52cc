#include "mp/linear.h"

#include "mp/memory.h"
#include "mp/openmp.h"
#include "mp/threads.h"

#include <string.h>

/* Below so many multiply-adds, waking a thread costs more than it saves. */
#define LEAST_SHARE 65536

struct product {
    const struct mp_linear_kernel *kernel;
    const float *states;
    size_t n_rows, n_in;
    const float *panels;
    size_t n_out;
    const float *bias;
    float *out;
};

struct range {
    size_t begin, end;
};

static size_t ceil_div(size_t value, size_t by) {
    return (value + by - 1) / by;
}

static size_t least(size_t one, size_t other) {
    return one < other ? one : other;
}

/* Share `index` of `count` even shares of [0, n). */
static struct range share_of(size_t n, size_t index, size_t count) {
    return (struct range){n * index / count, n * (index + 1) / count};
}

size_t mp_linear_available(const struct mp_linear_kernel *levels[MP_LINEAR_MAX_LEVELS]) {
    size_t count = 0;
    levels[count++] = &mp_linear_serial;
#if defined(MP_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        levels[count++] = &mp_linear_avx2;
    if (__builtin_cpu_supports("avx512f"))
        levels[count++] = &mp_linear_avx512;
#endif
    return count;
}

const struct mp_linear_kernel *mp_linear_find(size_t columns) {
    const struct mp_linear_kernel *levels[MP_LINEAR_MAX_LEVELS];
    const size_t count = mp_linear_available(levels);
    for (size_t i = 0; i < count; i++) {
        if (levels[i]->columns == columns)
            return levels[i];
    }
    return NULL;
}

void mp_linear_pack(const float *weight, size_t n_out, size_t n_in, size_t columns, float *panels) {
    const float *all = panels;
    for (size_t first = 0; first < n_out; first += columns, panels += n_in * columns) {
        const size_t used = least(columns, n_out - first);
        for (size_t i = 0; i < n_in; i++) {
            for (size_t column = 0; column < columns; column++)
                panels[i * columns + column] = column < used ? weight[(first + column) * n_in + i] : 0.0F;
        }
    }
    mp_advise_huge(all, (size_t)(panels - all) * sizeof *panels);
}

void mp_linear_unpack(const float *panels, size_t n_out, size_t n_in, size_t columns, float *weight) {
    for (size_t row = 0; row < n_out; row++) {
        const float *panel = panels + row / columns * columns * n_in + row % columns;
        for (size_t i = 0; i < n_in; i++)
            weight[row * n_in + i] = panel[i * columns];
    }
}

/* A tile of the last panel, of which only some columns exist: computed beside, and copied. */
static void multiply_edge(const struct product *product, struct mp_linear_tile tile, size_t first) {
    const size_t columns = product->kernel->columns, used = product->n_out - first;
    float bias[MP_LINEAR_MAX_TILE] = {0}, beside[MP_LINEAR_MAX_TILE] = {0};
    float *out = tile.out;
    if (tile.bias)
        memcpy(bias, tile.bias, used * sizeof *bias);
    tile.bias = bias;
    tile.out = beside;
    tile.out_stride = columns;
    for (size_t row = 0; row < tile.n_rows && tile.adds; row++)
        memcpy(beside + row * columns, out + row * product->n_out, used * sizeof *out);
    product->kernel->multiply(&tile);
    for (size_t row = 0; row < tile.n_rows; row++)
        memcpy(out + row * product->n_out, beside + row * columns, used * sizeof *out);
}

/* Some rows with the inputs `depth` of one panel, in full tiles as far as they go: a row takes less time in them, and
 * 6, 6 and 3 rows less than 5, 5 and 5. Meanwhile the panel behind it is fetched, each tile its share: the first tile
 * would otherwise wait for all of it, and memory for the tiles after that. */
static void multiply_panel(const struct product *product, struct range rows, struct range depth, size_t panel) {
    const size_t columns = product->kernel->columns, n_in = product->n_in;
    const size_t n_tiles = ceil_div(rows.end - rows.begin, product->kernel->rows);
    const float *begin = product->panels + (panel * n_in + depth.begin) * columns;
    const float *behind = (panel + 1) * columns < product->n_out ? begin + n_in * columns : begin;
    const size_t size = depth.end - depth.begin, step = ceil_div(columns, n_tiles);
    for (size_t index = 0; index < n_tiles; index++) {
        const size_t row = rows.begin + index * product->kernel->rows, first = panel * columns;
        const struct mp_linear_tile tile = {
            .states = product->states + row * n_in + depth.begin,
            .states_stride = n_in,
            .n_rows = least(product->kernel->rows, rows.end - row),
            .panel = begin,
            .depth = size,
            .out = product->out + row * product->n_out + first,
            .out_stride = product->n_out,
            .bias = product->bias ? product->bias + first : NULL,
            .adds = depth.begin > 0,
            .ahead = behind + index * step * size,
            .ahead_step = step,
        };
        if (first + columns > product->n_out)
            multiply_edge(product, tile, first);
        else
            product->kernel->multiply(&tile);
    }
}

static void multiply_share(const struct product *product, struct range rows, struct range panels) {
    const size_t n_depths =
        product->n_in > 0 ? ceil_div(product->n_in, MP_LINEAR_DEPTH) : 1; /* there still is a bias */
    const size_t at_once = MP_LINEAR_ROWS / product->kernel->rows * product->kernel->rows;
    for (size_t first = rows.begin; first < rows.end; first += at_once) {
        const struct range some = {first, least(first + at_once, rows.end)};
        for (size_t depth = 0; depth < n_depths; depth++) {
            for (size_t panel = panels.begin; panel < panels.end; panel++)
                multiply_panel(product, some, share_of(product->n_in, depth, n_depths), panel);
        }
    }
}

/* Threads share the panels, or the rows, or both: whatever gives the busiest of them least to do. */
static void multiply_part(void *context, size_t part, size_t n_parts) {
    const struct product *product = context;
    const size_t n_panels = ceil_div(product->n_out, product->kernel->columns);
    const size_t n_tiles = ceil_div(product->n_rows, product->kernel->rows);
    size_t by_rows = 1, busiest = (size_t)-1;
    for (size_t rows = 1; rows <= n_parts; rows++) {
        const size_t load = ceil_div(n_tiles, rows) * ceil_div(n_panels, n_parts / rows);
        if (load < busiest) {
            busiest = load;
            by_rows = rows;
        }
    }
    const size_t by_panels = n_parts / by_rows;
    if (part >= by_rows * by_panels)
        return;
    const struct range tiles = share_of(n_tiles, part / by_panels, by_rows);
    const struct range rows = {tiles.begin * product->kernel->rows,
                               least(tiles.end * product->kernel->rows, product->n_rows)};
    multiply_share(product, rows, share_of(n_panels, part % by_panels, by_panels));
}

void mp_linear_multiply(const struct mp_linear_kernel *kernel, const float *states, size_t n_rows, size_t n_in,
                        const float *panels, size_t n_out, const float *bias, float *out, int num_threads) {
    struct product product = {kernel, states, n_rows, n_in, panels, n_out, bias, out};
    const size_t n_threads = mp_n_threads_for(num_threads, n_rows * n_in * n_out / LEAST_SHARE);
    mp_openmp_run(n_threads, multiply_part, &product);
}
