#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include "mp/memory.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE ((size_t)2 << 20)  /* of x86-64; elsewhere it is an alignment like any other */
#define WORTHWHILE ((size_t)1 << 16) /* smaller arrays miss the TLB seldom */

#if !defined(MAP_ANONYMOUS)
#define MAP_ANONYMOUS MAP_ANON
#endif

static void *map(size_t size) {
    void *block = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return block == MAP_FAILED ? NULL : block;
}

void *mp_block_alloc(size_t size) {
    if (size < HUGE_PAGE || size > SIZE_MAX - HUGE_PAGE)
        return map(size);
    /* A huge page starts at a multiple of its size: map more and give both ends back. */
    uint8_t *wide = map(size + HUGE_PAGE);
    if (!wide)
        return NULL;
    const size_t before = (HUGE_PAGE - (uintptr_t)wide % HUGE_PAGE) % HUGE_PAGE;
    uint8_t *block = wide + before;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t end = (size + page - 1) / page * page;
    if (before)
        munmap(wide, before);
    if (HUGE_PAGE - before > end - size)
        munmap(block + end, size + HUGE_PAGE - before - end);
#if defined(MADV_HUGEPAGE)
    madvise(block, size, MADV_HUGEPAGE); /* advice: the search is right without it */
#endif
    return block;
}

void mp_advise_huge(const void *data, size_t size) {
#if defined(__linux__)
#if !defined(MADV_COLLAPSE)
#define MADV_COLLAPSE 25
#endif
    if (size < WORTHWHILE)
        return;
    const uintptr_t begin = (uintptr_t)data / HUGE_PAGE * HUGE_PAGE, end = (uintptr_t)data + size;
    /* One by one: a page that has a hole fails, and only that one should. */
    for (uintptr_t page = begin; page < end; page += HUGE_PAGE)
        madvise((void *)page, HUGE_PAGE, MADV_COLLAPSE);
#else
    (void)data;
    (void)size;
#endif
}

void mp_block_free(void *block, size_t size) {
    if (block)
        munmap(block, size);
}
