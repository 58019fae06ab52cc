/* Large blocks that a search jumps around in: page aligned, zeroed, on huge pages where the system has them, because
 * otherwise nearly every hop misses the TLB too. */
#ifndef MP_MEMORY_H
#define MP_MEMORY_H

#include <stddef.h>

/* NULL if there is no memory; size must not be 0. */
void *mp_block_alloc(size_t size);
void mp_block_free(void *block, size_t size);

#endif
