// Enough of CUDA to run our kernels on a CPU, one thread after the other, and to notice what a GPU would pass over.
//
// A block's threads are fibers: each runs until it ends or comes to __syncthreads(), then the next one. Arrays are
// Checked: an index outside of them ends the launch with an error. The text of a kernel stays as it is, except that
// __init__.py writes `Checked<T> x` where it says `T* x`.
// Only C's small headers: this is compiled for every source and every type, in every run of the tests.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __shared__ static  // one block runs at a time

struct Dim { unsigned x, y, z; };
static Dim threadIdx, blockIdx, blockDim, gridDim;
static unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned __int128)a * b >> 64;
}

static void __threadfence() {}  // one thread runs at a time
static unsigned atomicAdd(unsigned* place, unsigned value) { return (*place += value) - value; }

struct Broken {};
static char error[200];

template <class T> struct Checked {
    T* p; long long size;
    T& operator[](long long i) const {
        if (0 <= i && i < size) return p[i];
        snprintf(error, sizeof error, "index %lld of an array of %lld (block %u, %u, thread %u, %u)",
                 i, size, blockIdx.x, blockIdx.y, threadIdx.x, threadIdx.y);
        throw Broken();
    }
    explicit operator bool() const { return p; }
};

// ---- a kernel's arguments: an array of addresses, as cuLaunchKernel takes them; of arrays (address, bytes) ----

template <class T> struct Argument {
    static T read(void* at) { return *(T*)at; }
    static constexpr int size = sizeof(T);
};
template <class T> struct Argument<Checked<T>> {
    static Checked<T> read(void* at) { return {*(T**)at, ((long long*)at)[1] / (long long)sizeof(T)}; }
    static constexpr int size = -(int)sizeof(T);  // negative: an array
};
template <int... I> struct Numbers {};
template <int N, int... I> static auto numbers() {  // Numbers<0, 1, …, N - 1>
    if constexpr (N == 0) return Numbers<I...>(); else return numbers<N - 1, N - 1, I...>();
}
template <class... A, int... I> static void call(void (*kernel)(A...), void** at, Numbers<I...>) {
    kernel(Argument<A>::read(at[I])...);
}
template <class... A> static int sizes_of(void (*)(A...), int* sizes) {
    ((*sizes++ = Argument<A>::size), ...);
    return sizeof...(A);
}

// ---- threads ----

struct Fiber { ucontext_t context; Dim index; bool done; };
enum { STACK = 1 << 16, MAX_THREADS = 1024 };
static Fiber fibers[MAX_THREADS];
static char stacks[MAX_THREADS][STACK];
static ucontext_t scheduler;
static Fiber* running;
static void (*body)(void*);
static void* body_data;

static void __syncthreads() { swapcontext(&running->context, &scheduler); }

static void fiber() {
    try { body(body_data); } catch (Broken) {}
    running->done = true;
}

static void run_block(unsigned n, bool backwards) {
    for (unsigned i = 0; i < n; i++) {
        Fiber& f = fibers[i];
        f.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        f.done = false;
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = stacks[i];
        f.context.uc_stack.ss_size = STACK;
        f.context.uc_link = &scheduler;
        makecontext(&f.context, fiber, 0);
    }
    for (unsigned done = 0; done < n;) {
        done = 0;
        for (unsigned k = 0; k < n; k++) {
            running = &fibers[backwards ? n - 1 - k : k];
            threadIdx = running->index;
            swapcontext(&scheduler, &running->context);
            if (error[0]) return;
            done += running->done;
        }
        if (0 < done && done < n) {
            snprintf(error, sizeof error, "some threads end while others wait at __syncthreads()");
            return;
        }
    }
}

template <class Thread> static void run(Thread thread, const unsigned* g, bool synchronised, bool backwards) {
    gridDim = {g[0], g[1], g[2]};
    blockDim = {g[3], g[4], g[5]};
    error[0] = 0;
    body = [](void* data) { (*(Thread*)data)(); };
    body_data = &thread;
    unsigned blocks = g[0] * g[1] * g[2], n = g[3] * g[4] * g[5];
    for (unsigned k = 0; k < blocks && !error[0]; k++) {
        unsigned b = backwards ? blocks - 1 - k : k;
        blockIdx = {b % g[0], b / g[0] % g[1], b / g[0] / g[1]};
        if (synchronised) { run_block(n, backwards); continue; }
        try {  // nobody waits for anybody: no fibers needed
            for (unsigned j = 0; j < n; j++) {
                unsigned i = backwards ? n - 1 - j : j;
                threadIdx = {i % g[3], i / g[3] % g[4], i / g[3] / g[4]};
                thread();
            }
        } catch (Broken) {}
    }
}

template <class... A> static const char* launch(
    void (*kernel)(A...), void** at, const unsigned* grid_and_block, bool synchronised, bool backwards
) {
    run([&] { call(kernel, at, numbers<sizeof...(A)>()); }, grid_and_block, synchronised, backwards);
    return error;
}
