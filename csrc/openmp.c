#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include "mp/openmp.h"

#include "mp/threads.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdbool.h>

/* What compilers call for `#pragma omp parallel`; the OpenMP libraries of GCC, LLVM and Intel all have it. */
typedef void (*parallel_fn)(void (*body)(void *), void *context, unsigned n_threads, unsigned flags);
typedef int (*number_fn)(void);

struct openmp {
    parallel_fn parallel;
    number_fn thread, n_threads;
};

struct call {
    struct openmp with;
    mp_part_fn body;
    void *context;
    size_t n_parts;
};

/* Searching every loaded library takes 30 us a name, as long as a small product; so what is found is kept. The library
 * may come after this module, so what is not found is searched for again. */
static bool find(struct openmp *found) {
    static _Atomic(void *) kept[3];
    static const char *const names[3] = {"GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads"};
    void *symbols[3];
    for (int i = 0; i < 3; i++) {
        symbols[i] = atomic_load_explicit(&kept[i], memory_order_relaxed);
        if (!symbols[i] && !(symbols[i] = dlsym(RTLD_DEFAULT, names[i])))
            return false;
        atomic_store_explicit(&kept[i], symbols[i], memory_order_relaxed);
    }
    /* A cast from an object to a function is what POSIX defines dlsym by, and ISO C does not. */
    *(void **)&found->parallel = symbols[0];
    *(void **)&found->thread = symbols[1];
    *(void **)&found->n_threads = symbols[2];
    return true;
}

/* The library may give fewer threads than were asked for. */
static void run_in_team(void *context) {
    const struct call *call = context;
    call->body(call->context, (size_t)call->with.thread(), (size_t)call->with.n_threads());
}

static void run_range(void *context, size_t begin, size_t end) {
    const struct call *call = context;
    for (size_t part = begin; part < end; part++)
        call->body(call->context, part, call->n_parts);
}

void mp_openmp_run(size_t n_threads, mp_part_fn body, void *context) {
    struct call call = {.body = body, .context = context, .n_parts = n_threads};
    if (n_threads <= 1)
        body(context, 0, 1);
    else if (find(&call.with))
        call.with.parallel(run_in_team, &call, (unsigned)n_threads, 0);
    else
        mp_parallel_for(n_threads, 1, n_threads, run_range, &call);
}
