// Batch normalisation over the rows of x (ROWS, C), where each channel is a column; and the sums of columns.
//
// All kernels here are launched in blocks of 32 x 8 threads. A thread stays in one column, c = 32 * blockIdx.x +
// threadIdx.x, and goes down its rows in steps: the 32 threads of a line read 32 neighbouring numbers, and what depends
// on the channel alone is computed once. The columns are so long that many blocks (blockIdx.y) share them.
//
// A sum over a column takes two kernels: in the first each block leaves the sums of its own rows in `partial`, in the
// second one thread a channel adds those up. Every sum has a fixed order: the same input gives the same bits.

#define LINES 8
#define FOR_EACH_ROW(r) for (Index r = blockIdx.y * LINES + threadIdx.y; r < ROWS; r += (Index)LINES * gridDim.y)

// Count, mean and sum of squared distances from the mean of two sets become those of their union. No large numbers are
// subtracted from each other, unlike in E[x^2] - E[x]^2. T. Chan, G. Golub, R. LeVeque (1983).
template <class T> static __device__ void merge(T& n, T& mean, T& squares, T n_b, T mean_b, T squares_b) {
    if (n_b == 0) return;
    T total = n + n_b, delta = mean_b - mean;
    mean += delta * (n_b / total);
    squares += squares_b + delta * delta * (n * n_b / total);
    n = total;
}

// One thread: the moments of some rows of a column, four rows at a time, whose loads do not wait for each other. Of all
// numbers the column's first one of these is taken off: the mean of small numbers keeps more digits. Then the block's
// first line merges those of the LINES threads. partial (3, gridDim.y, C): count, mean, squares.
extern "C" __global__ void moments_partial(
    double* __restrict__ partial, const Real* __restrict__ x, Index ROWS, int C
) {
    __shared__ double part[3][LINES][32];
    int c = blockIdx.x * 32 + threadIdx.x, line = threadIdx.y;
    Real n = 0, mean = 0, squares = 0, first = 0;
    Index r = blockIdx.y * LINES + line, step = (Index)LINES * gridDim.y;
    if (c < C && r < ROWS) {
        first = x[r * C + c];
        for (; r + 3 * step < ROWS; r += 4 * step) {
            Real d[4];
            for (int k = 0; k < 4; k++) d[k] = x[(r + k * step) * C + c] - first;
            Real m = (d[0] + d[1] + d[2] + d[3]) / 4, s = 0;
            for (int k = 0; k < 4; k++) s += (d[k] - m) * (d[k] - m);
            merge(n, mean, squares, Real(4), m, s);
        }
        for (; r < ROWS; r += step) merge(n, mean, squares, Real(1), x[r * C + c] - first, Real(0));
    }
    part[0][line][threadIdx.x] = n;
    part[1][line][threadIdx.x] = (double)mean + first;
    part[2][line][threadIdx.x] = squares;
    __syncthreads();  // all threads of the block have written
    if (line > 0 || c >= C) return;
    double n_all = 0, mean_all = 0, squares_all = 0;
    for (int k = 0; k < LINES; k++)
        merge(n_all, mean_all, squares_all, part[0][k][threadIdx.x], part[1][k][threadIdx.x], part[2][k][threadIdx.x]);
    partial[(0 * gridDim.y + blockIdx.y) * C + c] = n_all;
    partial[(1 * gridDim.y + blockIdx.y) * C + c] = mean_all;
    partial[(2 * gridDim.y + blockIdx.y) * C + c] = squares_all;
}

// One thread: one channel. It merges the BLOCKS parts to mean (C,) and variance (C,); or, where they are to be added up
// with those of other shards, to exact (2, C). moved, (C,) each: the running means that follow after `moving`. What is
// not asked for is null.
extern "C" __global__ void moments_total(
    Real* __restrict__ mean, Real* __restrict__ var, double* __restrict__ exact,
    Real* __restrict__ moved_mean, Real* __restrict__ moved_var,
    const Real* __restrict__ moving_mean, const Real* __restrict__ moving_var, Real momentum, Real share,
    const double* __restrict__ partial, int BLOCKS, int C
) {
    FOR_EACH(c, C) {
        double n = 0, m = 0, squares = 0;
        for (int k = 0; k < BLOCKS; k++)
            merge(n, m, squares, partial[k * C + c], partial[(BLOCKS + k) * C + c], partial[(2 * BLOCKS + k) * C + c]);
        if (exact) {
            exact[c] = m;
            exact[C + c] = squares / n;
            continue;
        }
        mean[c] = m;
        var[c] = squares / n;
        if (moved_mean) {
            moved_mean[c] = momentum * moving_mean[c] + share * mean[c];  // share = 1 - momentum
            moved_var[c] = momentum * moving_var[c] + share * var[c];
        }
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

// One thread: the sums of dy * (x - mean) and of dy over some rows of a column; then over the block's lines.
// partial (2, gridDim.y, C).
extern "C" __global__ void gradients_partial(
    double* __restrict__ partial, const Real* __restrict__ dy, const Real* __restrict__ x,
    const Real* __restrict__ mean, Index ROWS, int C
) {
    __shared__ double part[2][LINES][32];
    int c = blockIdx.x * 32 + threadIdx.x, line = threadIdx.y;
    Real with_x = 0, alone = 0;
    if (c < C) FOR_EACH_ROW(r) {
        with_x += dy[r * C + c] * (x[r * C + c] - mean[c]);
        alone += dy[r * C + c];
    }
    part[0][line][threadIdx.x] = with_x;
    part[1][line][threadIdx.x] = alone;
    __syncthreads();
    if (line > 0 || c >= C) return;
    for (int which = 0; which < 2; which++) {
        double sum = 0;
        for (int k = 0; k < LINES; k++) sum += part[which][k][threadIdx.x];
        partial[(which * gridDim.y + blockIdx.y) * C + c] = sum;
    }
}

// One thread: one channel of dgamma = sum of dy * x_hat, and of dbeta = sum of dy.
extern "C" __global__ void gradients_total(
    Real* __restrict__ dgamma, Real* __restrict__ dbeta, const double* __restrict__ partial,
    const Real* __restrict__ var, double eps, int BLOCKS, int C
) {
    FOR_EACH(c, C) {
        double with_x = 0, alone = 0;
        for (int k = 0; k < BLOCKS; k++) {
            with_x += partial[k * C + c];
            alone += partial[(BLOCKS + k) * C + c];
        }
        dgamma[c] = with_x / sqrt(var[c] + eps);
        dbeta[c] = alone;
    }
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

// One thread: the sum of some rows of a column; then over the block's lines. partial (gridDim.y, C).
extern "C" __global__ void column_sums_partial(
    double* __restrict__ partial, const Real* __restrict__ x, Index ROWS, int C
) {
    __shared__ double part[LINES][32];
    int c = blockIdx.x * 32 + threadIdx.x, line = threadIdx.y;
    Real sum = 0;
    if (c < C) FOR_EACH_ROW(r) sum += x[r * C + c];
    part[line][threadIdx.x] = sum;
    __syncthreads();
    if (line > 0 || c >= C) return;
    double all = 0;
    for (int k = 0; k < LINES; k++) all += part[k][threadIdx.x];
    partial[blockIdx.y * C + c] = all;
}

// One thread: one column. It adds up the BLOCKS parts.
extern "C" __global__ void column_sums_total(
    Real* __restrict__ sums, const double* __restrict__ partial, int BLOCKS, int C
) {
    FOR_EACH(c, C) {
        double all = 0;
        for (int k = 0; k < BLOCKS; k++) all += partial[k * C + c];
        sums[c] = all;
    }
}
