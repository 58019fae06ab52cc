/* Which kernels this machine can run. A level is a set of CPU features that the operating system has enabled too. */
#ifndef MP_SIMD_H
#define MP_SIMD_H

#include "mp/kernels.h"

#define MP_MAX_LEVELS 8

/* Fills `levels` with the kernels that run here, slowest first, and returns how many (at least 1: serial). */
size_t mp_simd_available(const struct mp_kernels *levels[MP_MAX_LEVELS]);

/* The kernels of a level by name, or NULL if the name is unknown or this machine does not run it. */
const struct mp_kernels *mp_simd_find(const char *level);

#endif
