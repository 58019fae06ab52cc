/* Fork and join over a range, without a standing pool: nothing survives the call, so forks of the process, other thread
 * libraries and the caller's own threads are never in the way. Starting a thread costs about 20 us. */
#ifndef MP_THREADS_H
#define MP_THREADS_H

#include <stddef.h>

/* Processes [begin, end); called from several threads at once. */
typedef void (*mp_range_fn)(void *context, size_t begin, size_t end);

/* Cores that this process may use, at least 1. */
size_t mp_n_cores(void);

/* Threads worth starting for n queries: num_threads <= 0 means every core, and each thread gets a few queries. */
size_t mp_n_threads(int num_threads, size_t n);

/* The same for work that can be cut into `n_shares` shares, each of them worth a thread. */
size_t mp_n_threads_for(int num_threads, size_t n_shares);

/* Calls `body` on chunks of [0, n) in `n_threads` threads, the caller being one of them. If the system gives fewer
 * threads, those that run do all the work. */
void mp_parallel_for(size_t n, size_t chunk, size_t n_threads, mp_range_fn body, void *context);

#endif
