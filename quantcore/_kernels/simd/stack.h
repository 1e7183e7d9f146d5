// stack.h: kernels keep tiles and histograms on the stack, up to STACK_FRAMES bytes in all their frames together; a
// thread may have far less (threading.stack_size). Work that would not fit runs in a thread with a stack of its own.
#ifndef QUANTCORE_STACK_H
#define QUANTCORE_STACK_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#include <windows.h>
#undef near // of 16-bit pointers; here it is a name
#undef far
#else
#include <pthread.h>
#include <signal.h>
#endif

enum {
    QUANTCORE_STACK_FRAMES = 192 << 10,  // the most that all frames of a kernel may take; sanitizers add to them
    QUANTCORE_STACK_NEEDED = 256 << 10,
    QUANTCORE_STACK_GIVEN = 1 << 20,
};

typedef void (*quantcore_work)(void *argument);

// The lowest and highest address of this thread's stack; both 0 if the system does not tell.
static inline void quantcore_find_stack(uintptr_t *lowest, uintptr_t *highest) {
    *lowest = *highest = 0;
#if defined(_WIN32)
    ULONG_PTR low, high;
    GetCurrentThreadStackLimits(&low, &high);
    *lowest = low;
    *highest = high;
#elif defined(__APPLE__)
    pthread_t self = pthread_self();
    *highest = (uintptr_t) pthread_get_stackaddr_np(self);
    *lowest = *highest - pthread_get_stacksize_np(self);
#elif defined(__linux__)
    pthread_attr_t attributes;
    void *start;
    size_t size;
    if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
        if (pthread_attr_getstack(&attributes, &start, &size) == 0) {
            *lowest = (uintptr_t) start;
            *highest = *lowest + size;
        }
        pthread_attr_destroy(&attributes);
    }
#endif
}

// Bytes left on this thread's stack; 0 if it runs on a stack that is not the thread's own.
static inline size_t quantcore_stack_left(void) {
    static _Thread_local uintptr_t lowest, highest;
    uintptr_t here = (uintptr_t) __builtin_frame_address(0);
    if (highest == 0)
        quantcore_find_stack(&lowest, &highest);
    return lowest <= here && here <= highest ? here - lowest : 0;
}

typedef struct {
    quantcore_work work;
    void *argument;
} QuantcoreCall;

#if defined(_WIN32)
static DWORD WINAPI quantcore_make_call(void *call) {
    ((QuantcoreCall *) call)->work(((QuantcoreCall *) call)->argument);
    return 0;
}
#else
static void *quantcore_make_call(void *call) {
    ((QuantcoreCall *) call)->work(((QuantcoreCall *) call)->argument);
    return NULL;
}
#endif

// Run `work`, which must not need the interpreter; returns 0, or an error number if no thread could be had for it.
static inline int quantcore_run_with_stack(quantcore_work work, void *argument) {
    QuantcoreCall call = {work, argument};
#if defined(_WIN32)
    HANDLE thread;
    if (quantcore_stack_left() >= QUANTCORE_STACK_NEEDED) {
        work(argument);
        return 0;
    }
    thread = CreateThread(
        NULL, QUANTCORE_STACK_GIVEN, quantcore_make_call, &call, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL
    );
    if (thread == NULL)
        return (int) GetLastError();
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
    return 0;
#else
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    int status;
    if (quantcore_stack_left() >= QUANTCORE_STACK_NEEDED) {
        work(argument);
        return 0;
    }
    if ((status = pthread_attr_init(&attributes)) != 0)
        return status;
    status = pthread_attr_setstacksize(&attributes, QUANTCORE_STACK_GIVEN);
    if (status == 0) {
        sigfillset(&all);  // signals are for the interpreter's own threads
        pthread_sigmask(SIG_SETMASK, &all, &before);
        status = pthread_create(&thread, &attributes, quantcore_make_call, &call);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    pthread_attr_destroy(&attributes);
    return status ? status : pthread_join(thread, NULL);
#endif
}

#endif
