/* Linear maps of float32 whose weights are prepacked: out = states @ weight.T + bias.
 *
 *   weight  [n_out, n_in], in rows        panels  [ceil(n_out / columns), n_in, columns]
 *
 * A panel holds the weights of `columns` outputs side by side, zeros behind the last; the number is the level's. A
 * product reads the panels once, from the first byte to the last, for up to MP_LINEAR_ROWS rows of states.
 *
 * Every output is bias + the sum over n_in in order, each step a multiply-add: what it is depends on its row and on
 * the level, not on the other rows or on the number of threads, bit for bit.
 *
 * Memory: all of it is the caller's; panels are best aligned to 64 bytes. Nothing allocates or fails. */
#ifndef MP_LINEAR_H
#define MP_LINEAR_H

#include <stdbool.h>
#include <stddef.h>

/* Rows of states that meet a panel while it is in the caches. With more, their arithmetic takes longer than the panel
 * behind takes to come, and fetching it ahead is in their way; without fetching, 96 and 192 were slower. */
#define MP_LINEAR_ROWS 48
#define MP_LINEAR_DEPTH 768 /* of a panel that is multiplied at once, at most */
#define MP_LINEAR_MAX_LEVELS 3
#define MP_LINEAR_MAX_TILE (14 * 32)

/* Up to `rows` of a level's rows of states with a part of one panel. */
struct mp_linear_tile {
    const float *states; /* rows that are `states_stride` floats apart */
    size_t states_stride, n_rows;
    const float *panel;
    size_t depth; /* inputs that are summed here */
    float *out;   /* rows that are `out_stride` floats apart, `columns` wide */
    size_t out_stride;
    const float *bias;  /* of these columns; NULL: zeros */
    bool adds;          /* to what is in `out`, and not to `bias` */
    const float *ahead; /* what to fetch meanwhile, for later */
    size_t ahead_step;  /* in floats, for each input */
};

struct mp_linear_kernel {
    const char *level;
    size_t columns, rows; /* of a tile */
    void (*multiply)(const struct mp_linear_tile *tile);
};

extern const struct mp_linear_kernel mp_linear_serial;
#if defined(MP_X86)
extern const struct mp_linear_kernel mp_linear_avx2, mp_linear_avx512;
#endif

/* Fills `levels` with the kernels that run here, slowest first, and returns how many (at least 1: serial). */
size_t mp_linear_available(const struct mp_linear_kernel *levels[MP_LINEAR_MAX_LEVELS]);

/* The kernel for panels of so many columns, or NULL if none that runs here has them. */
const struct mp_linear_kernel *mp_linear_find(size_t columns);

/* Writes the panels of `weight`, and asks for huge pages for them. */
void mp_linear_pack(const float *weight, size_t n_out, size_t n_in, size_t columns, float *panels);

/* Writes the weight that the panels were made of. */
void mp_linear_unpack(const float *panels, size_t n_out, size_t n_in, size_t columns, float *weight);

/* out[n_rows, n_out] = states[n_rows, n_in] @ weight.T + bias, in up to `num_threads` threads (<= 0: one a core) of the
 * OpenMP library of this process, so that they are those that the caller's other operations run in. `bias` may be NULL.
 */
void mp_linear_multiply(const struct mp_linear_kernel *kernel, const float *states, size_t n_rows, size_t n_in,
                        const float *panels, size_t n_out, const float *bias, float *out, int num_threads);

#endif
