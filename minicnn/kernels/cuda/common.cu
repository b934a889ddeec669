// What all kernels share. Before this text, `launch.py` writes the types that the kernels are built for:
//
//     Real    the numbers, float or double
//     Pack    what one thread carries at once: one Real, or float4, four neighbouring channels (16 bytes in one load)
//     Index   int, or long long where an array has more than 2^30 numbers (64-bit divisions are slow)
//     Winner  the place of a maximum in its window: unsigned char, or a longer type for large windows
//
// A kernel is written for one thread; the GPU runs it in thousands. Threads come in blocks of blockDim, blocks in a
// grid of gridDim. `__restrict__` promises that arrays do not overlap.

// Thread k takes the numbers k, k + (number of threads), ...: neighbours in the block read neighbours in memory, which
// the GPU fetches in one go; and a grid of any size does all the work.
#define FOR_EACH(i, count)                                             \
    for (Index i = blockIdx.x * (Index)blockDim.x + threadIdx.x; i < (count); i += (Index)blockDim.x * gridDim.x)

typedef unsigned int u32;
typedef unsigned long long u64;
