// What all kernels share. Before this text, `launch.py` writes the types that the kernels are built for:
//
//     Real    the numbers, float or double
//     WIDTH   how many of them a thread carries at once, 4 or 1
//     Index   int, or long long where an array has more than 2^30 numbers (64-bit divisions are slow)
//     Winner  the place of a maximum in its window: unsigned char, or a longer type for large windows
//
// A kernel is written for one thread; the GPU runs it in thousands. Threads come in blocks of blockDim, blocks in a
// grid of gridDim. `__restrict__` promises that arrays do not overlap.

// WIDTH neighbouring numbers. Most kernels here wait for memory. A load takes some hundred cycles, so the memory is only
// kept busy if many bytes are on their way at any time, some 20,000 for each processor. A processor holds 2048 threads:
// with one float each these are 8,000. But a thread can fetch 16 bytes as fast as 4, if their address is a multiple of
// 16, which `alignas` promises the compiler: four floats are one instruction, LDG.E.128 or STG.E.128.
//
// So kernels take their arrays as Packs, and count in Packs. The launcher builds them with WIDTH 4 where arrays begin at
// a multiple of 16 bytes and their rows have a multiple of four numbers, and with 1 where not: no kernel has a rest.
struct alignas(WIDTH * sizeof(Real)) Pack {
    Real at[WIDTH];
};

#define IN_PACK(k) _Pragma("unroll") for (int k = 0; k < WIDTH; k++)

// Thread k takes the Packs k, k + (number of threads), ...: neighbours in the block read neighbours in memory, which
// the GPU fetches in one go; and a grid of any size does all the work.
#define FOR_EACH(i, count)                                             \
    for (Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x; i < (count); i += (Index)blockDim.x * gridDim.x)

typedef unsigned int u32;
typedef unsigned long long u64;
