/* Large blocks that a search jumps around in: page aligned, zeroed, on huge pages where the system has them, because
 * otherwise nearly every hop misses the TLB too. */
#ifndef MP_MEMORY_H
#define MP_MEMORY_H

#include <stddef.h>

/* NULL if there is no memory; size must not be 0. */
void *mp_block_alloc(size_t size);
void mp_block_free(void *block, size_t size);

/* Puts memory that somebody else allocated on huge pages, where the system can do so at once (Linux 6.1). Its contents
 * and addresses stay. The pages at both ends hold other memory of the process too, which only gains by it. */
void mp_advise_huge(const void *data, size_t size);

#endif
