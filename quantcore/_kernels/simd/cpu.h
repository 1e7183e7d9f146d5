/* cpu.h: which x86-64 level this CPU and this operating system support together: 1 to 4, or 0 on another architecture.
 * The levels are those of the x86-64 psABI. A level counts only if the system saves its registers (XGETBV). */
#ifndef QUANTCORE_CPU_H
#define QUANTCORE_CPU_H

#if defined(__x86_64__)
#include <cpuid.h>

static int quantcore_has(unsigned int value, unsigned int bits) { return (value & bits) == bits; }

static int quantcore_x86_64_level(void) {
    unsigned int eax, ebx, ecx, edx, ext_ecx = 0, leaf7_ebx = 0, xcr0 = 0, high;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return 1;
    unsigned int leaf1_ecx = ecx;
    if (__get_cpuid(0x80000001u, &eax, &ebx, &ecx, &edx)) ext_ecx = ecx;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) leaf7_ebx = ebx;
    /* SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT; LAHF */
    if (!quantcore_has(leaf1_ecx, 1u << 0 | 1u << 9 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 23)) return 1;
    if (!quantcore_has(ext_ecx, 1u << 0)) return 1;
    /* FMA, MOVBE, OSXSAVE, AVX, F16C; LZCNT; BMI1, AVX2, BMI2 */
    if (!quantcore_has(leaf1_ecx, 1u << 12 | 1u << 22 | 1u << 27 | 1u << 28 | 1u << 29)) return 2;
    if (!quantcore_has(ext_ecx, 1u << 5)) return 2;
    if (!quantcore_has(leaf7_ebx, 1u << 3 | 1u << 5 | 1u << 8)) return 2;
    __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    if (!quantcore_has(xcr0, 0x06)) return 2;
    /* AVX512F, DQ, CD, BW, VL; opmask and ZMM state */
    if (!quantcore_has(leaf7_ebx, 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31)) return 3;
    if (!quantcore_has(xcr0, 0xe6)) return 3;
    return 4;
}
#else
static int quantcore_x86_64_level(void) { return 0; }
#endif
#endif
