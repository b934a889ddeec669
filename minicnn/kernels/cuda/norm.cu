// Batch normalisation over the rows of x (ROWS, C), where each channel is a column; and the sums of columns.
//
// All kernels here are launched in blocks of 32 x 8 threads. A thread stays in one column, c = 32 * blockIdx.x +
// threadIdx.x, and goes down its rows in steps: the 32 threads of a line read 32 neighbouring numbers, and what depends
// on the channel alone is computed once. The columns are so long that many blocks (blockIdx.y) share them.
//
// A sum over a column has two steps in one launch. Each block leaves the sum of its own rows in `partial`; the last block
// to be done adds those up. Every sum has a fixed order: the same input gives the same bits.

#define LINES 8
#define FOR_EACH_ROW(r) \
    _Pragma("unroll 4") for (Index r = blockIdx.y * LINES + threadIdx.y; r < ROWS; r += (Index)LINES * gridDim.y)

// Whether all other blocks of these columns have left their parts, which can be read then. arrivals: for each blockIdx.x
// how many blocks are done; 0 before and after. __threadfence: what a thread wrote before it, others see before what it
// writes after it. Threads of other blocks read `partial`, so it is volatile: never taken from a cache of their own.
static __device__ bool comes_last(u32* arrivals) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();  // all threads of the block have written
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        last = atomicAdd(&arrivals[blockIdx.x], 1) == gridDim.y - 1;
        if (last) arrivals[blockIdx.x] = 0;
        __threadfence();
    }
    __syncthreads();
    return last;
}

// The sum over the block's lines of each column, for its first line.
static __device__ double over_lines(double value) {
    __shared__ double part[LINES][32];
    part[threadIdx.y][threadIdx.x] = value;
    __syncthreads();  // all threads of the block have written
    double sum = 0;
    if (threadIdx.y == 0) for (int k = 0; k < LINES; k++) sum += part[k][threadIdx.x];
    __syncthreads();  // all parts have been read
    return sum;
}

// Sum number k of several: this block's part of it goes to partial (sums, gridDim.y, C).
static __device__ void leave(volatile double* partial, int k, double value, int C) {
    int c = blockIdx.x * 32 + threadIdx.x;
    double sum = over_lines(value);
    if (threadIdx.y == 0 && c < C) partial[(k * gridDim.y + blockIdx.y) * C + c] = sum;
}

// And the sum of all blocks' parts, for the first line of the last block.
static __device__ double collect(volatile double* partial, int k, int C) {
    int c = blockIdx.x * 32 + threadIdx.x;
    double sum = 0;
    if (c < C) for (int b = threadIdx.y; b < gridDim.y; b += LINES) sum += partial[(k * gridDim.y + b) * C + c];
    return over_lines(sum);
}

// Count, mean and sum of squared distances from the mean of two sets become those of their union. No large numbers are
// subtracted from each other, unlike in E[x^2] - E[x]^2. T. Chan, G. Golub, R. LeVeque (1983).
template <class T> static __device__ void merge(T& n, T& mean, T& squares, T n_b, T mean_b, T squares_b) {
    if (n_b == 0) return;
    T total = n + n_b, delta = mean_b - mean;
    mean += delta * (n_b / total);
    squares += squares_b + delta * delta * (n * n_b / total);
    n = total;
}

// The same for the block's lines, of each column: the first line has their union then.
static __device__ void merge_lines(double& n, double& mean, double& squares) {
    __shared__ double part[3][LINES][32];
    int line = threadIdx.y, x = threadIdx.x;
    part[0][line][x] = n;
    part[1][line][x] = mean;
    part[2][line][x] = squares;
    __syncthreads();  // all threads of the block have written
    if (line == 0)
        for (int k = 1; k < LINES; k++) merge(n, mean, squares, part[0][k][x], part[1][k][x], part[2][k][x]);
    __syncthreads();  // all parts have been read
}

// One thread: the moments of some rows of a column, four rows at a time, whose loads do not wait for each other. Of all
// numbers the column's first one of these is taken off: the mean of small numbers keeps more digits. partial
// (3, gridDim.y, C): count, mean, squares.
//
// The results are mean (C,) and variance (C,); or, where they are to be added up with those of other shards, exact
// (2, C). moved, (C,) each: the running means that follow after `moving`. What is not asked for is null.
extern "C" __global__ void moments(
    Real* __restrict__ mean, Real* __restrict__ var, double* __restrict__ exact,
    Real* __restrict__ moved_mean, Real* __restrict__ moved_var,
    const Real* __restrict__ moving_mean, const Real* __restrict__ moving_var, Real momentum, Real share,
    volatile double* partial, u32* arrivals, const Real* __restrict__ x, Index ROWS, int C
) {
    int c = blockIdx.x * 32 + threadIdx.x, line = threadIdx.y, BLOCKS = gridDim.y;
    Real count = 0, center = 0, spread = 0, first = 0;
    Index r = blockIdx.y * LINES + line, step = (Index)LINES * BLOCKS;
    if (c < C && r < ROWS) {
        first = x[r * C + c];
        for (; r + 3 * step < ROWS; r += 4 * step) {
            Real d[4];
            for (int k = 0; k < 4; k++) d[k] = x[(r + k * step) * C + c] - first;
            Real m = (d[0] + d[1] + d[2] + d[3]) / 4, s = 0;
            for (int k = 0; k < 4; k++) s += (d[k] - m) * (d[k] - m);
            merge(count, center, spread, Real(4), m, s);
        }
        for (; r < ROWS; r += step) merge(count, center, spread, Real(1), x[r * C + c] - first, Real(0));
    }
    double n = count, m = (double)center + first, squares = spread;
    merge_lines(n, m, squares);
    if (line == 0 && c < C) {
        partial[(0 * BLOCKS + blockIdx.y) * C + c] = n;
        partial[(1 * BLOCKS + blockIdx.y) * C + c] = m;
        partial[(2 * BLOCKS + blockIdx.y) * C + c] = squares;
    }
    if (!comes_last(arrivals)) return;
    n = m = squares = 0;
    if (c < C) for (int k = line; k < BLOCKS; k += LINES) {
        double n_k = partial[k * C + c], m_k = partial[(BLOCKS + k) * C + c];
        merge(n, m, squares, n_k, m_k, (double)partial[(2 * BLOCKS + k) * C + c]);
    }
    merge_lines(n, m, squares);
    if (line > 0 || c >= C) return;
    if (exact) {
        exact[c] = m;
        exact[C + c] = squares / n;
        return;
    }
    mean[c] = m;
    var[c] = squares / n;
    if (moved_mean) {
        moved_mean[c] = momentum * moving_mean[c] + share * mean[c];  // share = 1 - momentum
        moved_var[c] = momentum * moving_var[c] + share * var[c];
    }
}

// One thread: some rows of a column of y = gamma * (x - mean) / sqrt(var + eps) + beta. y may be x: no `__restrict__`.
extern "C" __global__ void batchnorm_forward(
    Real* y, const Real* x, const Real* __restrict__ gamma, const Real* __restrict__ beta,
    const Real* __restrict__ mean, const Real* __restrict__ var, Real eps, Index ROWS, int C
) {
    int c = blockIdx.x * 32 + threadIdx.x;
    if (c >= C) return;
    Real scale = gamma[c] / sqrt(var[c] + eps), shift = beta[c] - mean[c] * scale;
    FOR_EACH_ROW(r) y[r * C + c] = x[r * C + c] * scale + shift;
}

// One thread: some rows of a column of dgamma = sum of dy * x_hat and of dbeta = sum of dy. partial (2, gridDim.y, C).
extern "C" __global__ void gradients(
    Real* __restrict__ dgamma, Real* __restrict__ dbeta, volatile double* partial, u32* arrivals,
    const Real* __restrict__ dy, const Real* __restrict__ x, const Real* __restrict__ mean,
    const Real* __restrict__ var, double eps, Index ROWS, int C
) {
    int c = blockIdx.x * 32 + threadIdx.x;
    Real with_x = 0, alone = 0;
    if (c < C) {
        Real m = mean[c];
        FOR_EACH_ROW(r) {
            with_x += dy[r * C + c] * (x[r * C + c] - m);
            alone += dy[r * C + c];
        }
    }
    leave(partial, 0, with_x, C);
    leave(partial, 1, alone, C);
    if (!comes_last(arrivals)) return;
    double all_with_x = collect(partial, 0, C), all = collect(partial, 1, C);
    if (threadIdx.y > 0 || c >= C) return;
    dgamma[c] = all_with_x / sqrt(var[c] + eps);
    dbeta[c] = all;
}

// One thread: some rows of a column of dx = gamma / std * (dy - mean of dy - x_hat * mean of dy * x_hat), the means
// being dbeta / n and dgamma / n over the n rows of the whole batch.
extern "C" __global__ void batchnorm_backward(
    Real* __restrict__ dx, const Real* __restrict__ dy, const Real* __restrict__ x, const Real* __restrict__ gamma,
    const Real* __restrict__ mean, const Real* __restrict__ var, const Real* __restrict__ dgamma,
    const Real* __restrict__ dbeta, Real eps, Real n, Index ROWS, int C
) {
    int c = blockIdx.x * 32 + threadIdx.x;
    if (c >= C) return;
    Real inverse = 1 / sqrt(var[c] + eps);
    Real a = gamma[c] * inverse, mean_dy = dbeta[c] / n, b = inverse * (dgamma[c] / n), m = mean[c];
    FOR_EACH_ROW(r) dx[r * C + c] = a * (dy[r * C + c] - mean_dy - (x[r * C + c] - m) * b);
}

// One thread: some rows of a column's sum. partial (1, gridDim.y, C).
extern "C" __global__ void column_sums(
    Real* __restrict__ sums, volatile double* partial, u32* arrivals, const Real* __restrict__ x, Index ROWS, int C
) {
    int c = blockIdx.x * 32 + threadIdx.x;
    Real own = 0;
    if (c < C) FOR_EACH_ROW(r) own += x[r * C + c];
    leave(partial, 0, own, C);
    if (!comes_last(arrivals)) return;
    double all = collect(partial, 0, C);
    if (threadIdx.y == 0 && c < C) sums[c] = all;
}

// One thread: some rows of a column of dz = dy * scale where y > 0, and of its sum db. Apart, the two would pass over dz
// twice. Where dropout followed ReLU, y > 0 says what both have left, and `scale` is dropout's factor.
extern "C" __global__ void relu_backward_sums(
    Real* __restrict__ dz, Real* __restrict__ db, volatile double* partial, u32* arrivals,
    const Real* __restrict__ dy, const Real* __restrict__ y, Real scale, Index ROWS, int C
) {
    int c = blockIdx.x * 32 + threadIdx.x;
    Real own = 0;
    if (c < C) FOR_EACH_ROW(r) {
        Real value = y[r * C + c] > 0 ? dy[r * C + c] * scale : Real(0);
        dz[r * C + c] = value;
        own += value;
    }
    leave(partial, 0, own, C);
    if (!comes_last(arrivals)) return;
    double all = collect(partial, 0, C);
    if (threadIdx.y == 0 && c < C) db[c] = all;
}

// One thread: some rows of a column's sum of squares, whose root is the column's length. partial (1, gridDim.y, C).
extern "C" __global__ void column_lengths(
    Real* __restrict__ lengths, volatile double* partial, u32* arrivals, const Real* __restrict__ x, Index ROWS, int C
) {
    int c = blockIdx.x * 32 + threadIdx.x;
    Real own = 0;
    if (c < C) FOR_EACH_ROW(r) own += x[r * C + c] * x[r * C + c];
    leave(partial, 0, own, C);
    if (!comes_last(arrivals)) return;
    double all = collect(partial, 0, C);
    if (threadIdx.y == 0 && c < C) lengths[c] = sqrt(all);
}

// One thread: some rows of a column, shortened to the length `most` if it is longer. epsilon: guards a division by 0.
extern "C" __global__ void shortened(
    Real* __restrict__ y, const Real* __restrict__ x, const Real* __restrict__ lengths, Real most, Real epsilon,
    Index ROWS, int C
) {
    int c = blockIdx.x * 32 + threadIdx.x;
    if (c >= C) return;
    Real factor = (lengths[c] < most ? lengths[c] : most) / (epsilon + lengths[c]);
    FOR_EACH_ROW(r) y[r * C + c] = x[r * C + c] * factor;
}
