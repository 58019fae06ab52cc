/* Fork and join in the threads of the OpenMP library that the process has loaded already (torch's), which wait for work
 * without being started anew, and which a second set of threads would compete with for the cores. */
#ifndef MP_OPENMP_H
#define MP_OPENMP_H

#include <stddef.h>

/* Does part `part` of `n_parts`; called from several threads at once. */
typedef void (*mp_part_fn)(void *context, size_t part, size_t n_parts);

/* Calls `body` for all parts, at most one for each of `n_threads` threads. Where no OpenMP library is loaded, threads
 * are started for the call. */
void mp_openmp_run(size_t n_threads, mp_part_fn body, void *context);

#endif
