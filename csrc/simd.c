#include "mp/simd.h"

#include <stdbool.h>
#include <string.h>

#if defined(MP_X86)
#include <cpuid.h>
#if defined(MP_AMX)
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18
#endif

/* A CPU may have registers that the operating system does not save on a context switch; XCR0 tells which it does. */
static unsigned long long saved_state(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (unsigned long long)high << 32 | low;
}

static bool has_state(unsigned long long wanted) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return false;
    return (saved_state() & wanted) == wanted;
}

static bool has_avx2(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return false;
    return (b & bit_AVX2) && has_state(0x6); /* XMM, YMM */
}

#if defined(MP_AVXVNNI)
static bool has_avxvnni(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d))
        return false;
    return (a & 1u << 4) && has_avx2(); /* without AVX2 the kernels' other instructions are missing */
}
#endif

static bool has_avx512vnni(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return false;
    const unsigned wanted = bit_AVX512F | bit_AVX512BW | bit_AVX512VL;
    return (b & wanted) == wanted && (c & bit_AVX512VNNI) && has_state(0xE6); /* XMM, YMM, opmask, ZMM low and high */
}

#if defined(MP_AMX)
/* Linux gives a process tile registers when it asks for them; all threads have them then, and asking again is free. */
static bool has_amx(void) {
    unsigned a, b, c, d;
    if (!has_avx512vnni() || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return false;
    const unsigned wanted = 1u << 24 | 1u << 25;           /* AMX-TILE, AMX-INT8 */
    return (d & wanted) == wanted && has_state(0x600E6) && /* and TILECFG, TILEDATA */
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#endif
#elif defined(MP_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

static bool has_neondot(void) {
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
}

static bool has_neoni8mm(void) {
    return getauxval(AT_HWCAP2) & HWCAP2_I8MM;
}
#endif

size_t mp_simd_available(const struct mp_kernels *levels[MP_MAX_LEVELS]) {
    size_t count = 0;
    levels[count++] = &mp_kernels_serial;
#if defined(MP_X86)
    if (has_avx2())
        levels[count++] = &mp_kernels_avx2;
#if defined(MP_AVXVNNI)
    if (has_avxvnni())
        levels[count++] = &mp_kernels_avxvnni;
#endif
    if (has_avx512vnni())
        levels[count++] = &mp_kernels_avx512vnni;
#if defined(MP_AMX)
    if (has_amx())
        levels[count++] = &mp_kernels_amx;
#endif
#elif defined(MP_ARM64) && defined(__linux__)
    if (has_neondot())
        levels[count++] = &mp_kernels_neondot;
    if (has_neoni8mm())
        levels[count++] = &mp_kernels_neoni8mm;
#endif
    return count;
}

const struct mp_kernels *mp_simd_find(const char *level) {
    const struct mp_kernels *levels[MP_MAX_LEVELS];
    const size_t count = mp_simd_available(levels);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(levels[i]->level, level) == 0)
            return levels[i];
    }
    return NULL;
}
