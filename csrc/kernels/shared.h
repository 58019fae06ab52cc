/* Kernels that stand in the tables of more than one level. */
#ifndef MP_KERNELS_SHARED_H
#define MP_KERNELS_SHARED_H

#include "mp/kernels.h"

#if defined(MP_X86)
void mp_near_avx2(const int32_t *dots, size_t n_items, size_t n_groups, const float *norms,
                  const struct mp_strip_keys *keys, uint64_t near[MP_TILE_ITEMS]);
int32_t mp_dot_u8s8_avx512vnni(const uint8_t *code, const int8_t *query, size_t dim);
void mp_dot4_u8s8_avx512vnni(const uint8_t *const codes[4], const int8_t *query, size_t dim, int32_t dots[4]);
void mp_near_avx512vnni(const int32_t *dots, size_t n_items, size_t n_groups, const float *norms,
                        const struct mp_strip_keys *keys, uint64_t near[MP_TILE_ITEMS]);
#elif defined(MP_ARM64)
void mp_near_neondot(const int32_t *dots, size_t n_items, size_t n_groups, const float *norms,
                     const struct mp_strip_keys *keys, uint64_t near[MP_TILE_ITEMS]);
#endif

#endif
