#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include "mp/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#define MAX_THREADS 256
#define QUERIES_PER_THREAD 4 /* fewer than this and starting the thread costs more than it saves */

struct job {
    atomic_size_t next;
    size_t n, chunk;
    mp_range_fn body;
    void *context;
};

size_t mp_n_cores(void) {
#if defined(__linux__)
    cpu_set_t allowed; /* containers and taskset give less than the machine has */
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0)
        return (size_t)CPU_COUNT(&allowed);
#endif
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (size_t)online : 1;
}

size_t mp_n_threads(int num_threads, size_t n) {
    return mp_n_threads_for(num_threads, n / QUERIES_PER_THREAD);
}

size_t mp_n_threads_for(int num_threads, size_t n_shares) {
    if (num_threads == 1 || n_shares < 2)
        return 1;
    const size_t wanted = num_threads > 0 ? (size_t)num_threads : mp_n_cores();
    const size_t threads = wanted < n_shares ? wanted : n_shares;
    return threads < MAX_THREADS ? threads : MAX_THREADS;
}

static void *work(void *argument) {
    struct job *job = argument;
    size_t begin;
    while ((begin = atomic_fetch_add(&job->next, job->chunk)) < job->n) {
        const size_t left = job->n - begin;
        job->body(job->context, begin, begin + (left < job->chunk ? left : job->chunk));
    }
    return NULL;
}

void mp_parallel_for(size_t n, size_t chunk, size_t n_threads, mp_range_fn body, void *context) {
    struct job job = {.n = n, .chunk = chunk, .body = body, .context = context};
    pthread_t threads[MAX_THREADS];
    size_t started = 0;
    atomic_init(&job.next, 0);
    while (started + 1 < n_threads && started < MAX_THREADS && !pthread_create(&threads[started], NULL, work, &job))
        started++;
    work(&job);
    for (size_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
}
