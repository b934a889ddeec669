// Batch normalisation over the rows of x (ROWS, C), where each channel is a column; and the sums of columns.
//
// All kernels here are launched in blocks of 256 threads, which share COLUMNS columns. A thread stays with one Pack of
// columns, and goes down its rows in steps: neighbouring threads read neighbouring numbers, and what depends on the
// channel alone is computed once. The columns are so long that many blocks (blockIdx.y) share them. C counts Packs.
//
// A sum over a column has two steps in one launch. Each block leaves the sums of its own rows in `partial`; the last block
// to be done adds those up. Every sum has a fixed order: the same input gives the same bits.

#define THREADS 256
#define COLUMNS 32
#define PACKS (COLUMNS / WIDTH)   // of a row of the block's columns
#define LINES (THREADS / PACKS)   // rows that the block reads at once
#define MY_PACK (blockIdx.x * PACKS + threadIdx.x % PACKS)
#define MY_LINE (threadIdx.x / PACKS)

// For the sums of all blocks a thread has one column, which it shares with the PARTS - 1 others.
#define PARTS (THREADS / COLUMNS)
#define MY_PLACE (threadIdx.x % COLUMNS)
#define MY_COLUMN (blockIdx.x * COLUMNS + MY_PLACE)
#define MY_PART (threadIdx.x / COLUMNS)

// A thread takes its rows by four: r, r + STEP, r + 2 * STEP and r + 3 * STEP. It asks for all four Packs before it needs
// the first, so that four times as many bytes are on their way. (`#pragma unroll` alone would not do that: whether there
// is a next row would be asked after each.)
#define STEP ((Index)LINES * gridDim.y)
#define FOR_EACH_FOUR_ROWS(r) for (Index r = blockIdx.y * LINES + MY_LINE; r < ROWS; r += 4 * STEP)
#define IN_FOUR(i) _Pragma("unroll") for (int i = 0; i < 4; i++)

struct Four {
    Pack row[4];
};

static __device__ Four four_rows(const Pack* x, Index r, int c, Index ROWS, int C) {  // zeros where there is no row
    Four four;
    IN_FOUR(i) four.row[i] = r + i * STEP < ROWS ? x[(r + i * STEP) * C + c] : Pack();
    return four;
}

static __device__ void store_rows(Pack* y, const Four& four, Index r, int c, Index ROWS, int C) {
    IN_FOUR(i) if (r + i * STEP < ROWS) y[(r + i * STEP) * C + c] = four.row[i];
}

// Whether all other blocks of these columns have left their parts, which can be read then. arrivals: for each blockIdx.x
// how many blocks are done; 0 before and after. __threadfence: what a thread wrote before it, others see before what it
// writes after it. Threads of other blocks read `partial`, so it is volatile: never taken from a cache of their own.
static __device__ bool comes_last(u32* arrivals) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();  // all threads of the block have written
    if (threadIdx.x == 0) {
        last = atomicAdd(&arrivals[blockIdx.x], 1) == gridDim.y - 1;
        if (last) arrivals[blockIdx.x] = 0;
        __threadfence();
    }
    __syncthreads();
    return last;
}

// The sum of each column over the first `lines` lines of part: in each round half of them take over the other half's.
static __device__ double over_lines(double (*part)[COLUMNS], int lines) {
    for (int half = lines / 2; half > 0; half /= 2) {
        __syncthreads();  // all threads of the block have written
        for (int k = MY_PART; k < half; k += PARTS) part[k][MY_PLACE] += part[k + half][MY_PLACE];
    }
    __syncthreads();
    double sum = part[0][MY_PLACE];
    __syncthreads();  // all sums have been read
    return sum;
}

// Sum number k of several: this block's part of it goes to partial (sums, gridDim.y, C * WIDTH). own: the thread's.
static __device__ void leave(volatile double* partial, int k, Pack own, int C) {
    __shared__ double part[LINES][COLUMNS];
    IN_PACK(j) part[MY_LINE][threadIdx.x % PACKS * WIDTH + j] = own.at[j];
    double sum = over_lines(part, LINES);
    if (MY_PART == 0 && MY_COLUMN < C * WIDTH) partial[(k * gridDim.y + blockIdx.y) * C * WIDTH + MY_COLUMN] = sum;
}

// And the sum of all blocks' parts, of the thread's column.
static __device__ double collect(volatile double* partial, int k, int C) {
    __shared__ double part[PARTS][COLUMNS];
    double sum = 0;
    if (MY_COLUMN < C * WIDTH) {
        _Pragma("unroll 4") for (int b = MY_PART; b < gridDim.y; b += PARTS)
            sum += partial[(k * gridDim.y + b) * C * WIDTH + MY_COLUMN];
    }
    part[MY_PART][MY_PLACE] = sum;
    return over_lines(part, PARTS);
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

struct Moments {
    double n, mean, squares;
};

// What over_lines does for sums.
static __device__ Moments merge_lines(Moments (*part)[COLUMNS]) {
    for (int half = LINES / 2; half > 0; half /= 2) {
        __syncthreads();  // all threads of the block have written
        for (int k = MY_PART; k < half; k += PARTS) {
            Moments &a = part[k][MY_PLACE], b = part[k + half][MY_PLACE];
            merge(a.n, a.mean, a.squares, b.n, b.mean, b.squares);
        }
    }
    __syncthreads();
    return part[0][MY_PLACE];
}

// And for all blocks' parts: of the thread's column. Here all counts are known, so no division is needed for each part:
// the mean of all is the parts' mean, weighted by their counts, and each part's distance from it comes to its squares.
static __device__ Moments collect_moments(volatile double* partial, Index ROWS, int ALL) {
    __shared__ double part[PARTS][COLUMNS];
    int BLOCKS = gridDim.y, column = MY_COLUMN;
    bool inside = column < ALL;
    double first = inside ? partial[BLOCKS * ALL + column] : 0, sum = 0, squares = 0;
    if (inside) {
        _Pragma("unroll 4") for (int k = MY_PART; k < BLOCKS; k += PARTS)
            sum += partial[k * ALL + column] * (partial[(BLOCKS + k) * ALL + column] - first);
    }
    part[MY_PART][MY_PLACE] = sum;
    double mean = first + over_lines(part, PARTS) / ROWS;
    if (inside) {
        _Pragma("unroll 4") for (int k = MY_PART; k < BLOCKS; k += PARTS) {
            double distance = partial[(BLOCKS + k) * ALL + column] - mean;
            squares += partial[(2 * BLOCKS + k) * ALL + column] + partial[k * ALL + column] * distance * distance;
        }
    }
    part[MY_PART][MY_PLACE] = squares;
    Moments all = {(double)ROWS, mean, over_lines(part, PARTS)};
    return all;
}

// One thread: the moments of some rows of a Pack of columns, four rows at a time. Of all numbers the column's first one
// of these is taken off: the mean of small numbers keeps more digits. partial (3, gridDim.y, C * WIDTH): count, mean,
// squares.
//
// The results are mean (C,) and variance (C,); or, where they are to be added up with those of other shards, exact
// (2, C). moved, (C,) each: the running means that follow after `moving`. What is not asked for is null.
extern "C" __global__ void moments(
    Real* __restrict__ mean, Real* __restrict__ var, double* __restrict__ exact,
    Real* __restrict__ moved_mean, Real* __restrict__ moved_var,
    const Real* __restrict__ moving_mean, const Real* __restrict__ moving_var,
    volatile double* partial, u32* arrivals, const Pack* __restrict__ x, Real momentum, Real share, Index ROWS, int C
) {
    __shared__ Moments part[LINES][COLUMNS];
    int c = MY_PACK, BLOCKS = gridDim.y, ALL = C * WIDTH;
    Real count = 0;
    Pack center = Pack(), spread = Pack(), first = Pack();
    Index r = blockIdx.y * LINES + MY_LINE, step = (Index)LINES * BLOCKS;
    if (c < C && r < ROWS) {
        first = x[r * C + c];
        for (; r + 3 * step < ROWS; r += 4 * step, count += 4) {
            Pack v[4];
            for (int k = 0; k < 4; k++) v[k] = x[(r + k * step) * C + c];
            IN_PACK(j) {
                Real d[4], n = count, s = 0;
                for (int k = 0; k < 4; k++) d[k] = v[k].at[j] - first.at[j];
                Real m = (d[0] + d[1] + d[2] + d[3]) / 4;
                for (int k = 0; k < 4; k++) s += (d[k] - m) * (d[k] - m);
                merge(n, center.at[j], spread.at[j], Real(4), m, s);
            }
        }
        for (; r < ROWS; r += step, count += 1) {
            Pack v = x[r * C + c];
            IN_PACK(j) {
                Real n = count;
                merge(n, center.at[j], spread.at[j], Real(1), v.at[j] - first.at[j], Real(0));
            }
        }
    }
    IN_PACK(j) {
        Moments own = {count, (double)center.at[j] + first.at[j], spread.at[j]};
        part[MY_LINE][threadIdx.x % PACKS * WIDTH + j] = own;
    }
    Moments of_block = merge_lines(part);
    int column = MY_COLUMN;
    if (MY_PART == 0 && column < ALL) {
        partial[(0 * BLOCKS + blockIdx.y) * ALL + column] = of_block.n;
        partial[(1 * BLOCKS + blockIdx.y) * ALL + column] = of_block.mean;
        partial[(2 * BLOCKS + blockIdx.y) * ALL + column] = of_block.squares;
    }
    if (!comes_last(arrivals)) return;
    Moments all = collect_moments(partial, ROWS, ALL);
    if (MY_PART > 0 || column >= ALL) return;
    if (exact) {
        exact[column] = all.mean;
        exact[ALL + column] = all.squares / all.n;
        return;
    }
    mean[column] = all.mean;
    var[column] = all.squares / all.n;
    if (moved_mean) {
        moved_mean[column] = momentum * moving_mean[column] + share * mean[column];  // share = 1 - momentum
        moved_var[column] = momentum * moving_var[column] + share * var[column];
    }
}

// One thread: some rows of a Pack of columns of y = gamma * (x - mean) / sqrt(var + eps) + beta. y may be x: no
// `__restrict__`.
extern "C" __global__ void batchnorm_forward(
    Pack* y, const Pack* x, const Pack* __restrict__ gamma, const Pack* __restrict__ beta,
    const Pack* __restrict__ mean, const Pack* __restrict__ var, Real eps, Index ROWS, int C
) {
    int c = MY_PACK;
    if (c >= C) return;
    Pack scale = gamma[c], shift = beta[c], m = mean[c], v = var[c];
    IN_PACK(j) {
        scale.at[j] /= sqrt(v.at[j] + eps);
        shift.at[j] -= m.at[j] * scale.at[j];
    }
    FOR_EACH_FOUR_ROWS(r) {
        Four four = four_rows(x, r, c, ROWS, C);
        IN_FOUR(i) IN_PACK(j) four.row[i].at[j] = four.row[i].at[j] * scale.at[j] + shift.at[j];
        store_rows(y, four, r, c, ROWS, C);
    }
}

// One thread: some rows of a Pack of columns of dgamma = sum of dy * x_hat and of dbeta = sum of dy. partial
// (2, gridDim.y, C * WIDTH).
extern "C" __global__ void gradients(
    Real* __restrict__ dgamma, Real* __restrict__ dbeta, volatile double* partial, u32* arrivals,
    const Pack* __restrict__ dy, const Pack* __restrict__ x, const Pack* __restrict__ mean,
    const Real* __restrict__ var, double eps, Index ROWS, int C
) {
    int c = MY_PACK;
    Pack with_x = Pack(), alone = Pack();
    if (c < C) {
        Pack m = mean[c];
        FOR_EACH_FOUR_ROWS(r) {
            Four gradient = four_rows(dy, r, c, ROWS, C), value = four_rows(x, r, c, ROWS, C);
            IN_FOUR(i) IN_PACK(j) {
                with_x.at[j] += gradient.row[i].at[j] * (value.row[i].at[j] - m.at[j]);
                alone.at[j] += gradient.row[i].at[j];
            }
        }
    }
    leave(partial, 0, with_x, C);
    leave(partial, 1, alone, C);
    if (!comes_last(arrivals)) return;
    double all_with_x = collect(partial, 0, C), all = collect(partial, 1, C);
    int column = MY_COLUMN;
    if (MY_PART > 0 || column >= C * WIDTH) return;
    dgamma[column] = all_with_x / sqrt(var[column] + eps);
    dbeta[column] = all;
}

// One thread: some rows of a Pack of columns of dx = gamma / std * (dy - mean of dy - x_hat * mean of dy * x_hat), the
// means being dbeta / n and dgamma / n over the n rows of the whole batch.
extern "C" __global__ void batchnorm_backward(
    Pack* __restrict__ dx, const Pack* __restrict__ dy, const Pack* __restrict__ x, const Pack* __restrict__ gamma,
    const Pack* __restrict__ mean, const Pack* __restrict__ var, const Pack* __restrict__ dgamma,
    const Pack* __restrict__ dbeta, Real eps, Real n, Index ROWS, int C
) {
    int c = MY_PACK;
    if (c >= C) return;
    Pack a = gamma[c], b = dgamma[c], mean_dy = dbeta[c], m = mean[c], v = var[c];
    IN_PACK(j) {
        Real inverse = 1 / sqrt(v.at[j] + eps);
        a.at[j] *= inverse;
        b.at[j] = inverse * (b.at[j] / n);
        mean_dy.at[j] /= n;
    }
    FOR_EACH_FOUR_ROWS(r) {
        Four gradient = four_rows(dy, r, c, ROWS, C), value = four_rows(x, r, c, ROWS, C);
        IN_FOUR(i) IN_PACK(j) {
            Real way = gradient.row[i].at[j] - mean_dy.at[j] - (value.row[i].at[j] - m.at[j]) * b.at[j];
            gradient.row[i].at[j] = a.at[j] * way;
        }
        store_rows(dx, gradient, r, c, ROWS, C);
    }
}

// The sum of `own` over all threads that have this column, for one of them, of which it says `true`: the one that comes
// last has all sums.
static __device__ bool summed(double& sum, volatile double* partial, u32* arrivals, Pack own, int C) {
    leave(partial, 0, own, C);
    if (!comes_last(arrivals)) return false;
    sum = collect(partial, 0, C);
    return MY_PART == 0 && MY_COLUMN < C * WIDTH;
}

// One thread: some rows of a Pack of columns' sums. partial (1, gridDim.y, C * WIDTH).
extern "C" __global__ void column_sums(
    Real* __restrict__ sums, volatile double* partial, u32* arrivals, const Pack* __restrict__ x, Index ROWS, int C
) {
    int c = MY_PACK;
    Pack own = Pack();
    if (c < C) FOR_EACH_FOUR_ROWS(r) {
        Four v = four_rows(x, r, c, ROWS, C);
        IN_FOUR(i) IN_PACK(j) own.at[j] += v.row[i].at[j];
    }
    double all;
    if (summed(all, partial, arrivals, own, C)) sums[MY_COLUMN] = all;
}

// One thread: some rows of a Pack of columns of dz = dy * scale where y > 0, and of its sums db. Apart, the two would
// pass over dz twice. Where dropout followed ReLU, y > 0 says what both have left, and `scale` is dropout's factor.
extern "C" __global__ void relu_backward_sums(
    Pack* __restrict__ dz, Real* __restrict__ db, volatile double* partial, u32* arrivals,
    const Pack* __restrict__ dy, const Pack* __restrict__ y, Real scale, Index ROWS, int C
) {
    int c = MY_PACK;
    Pack own = Pack();
    if (c < C) FOR_EACH_FOUR_ROWS(r) {
        Four v = four_rows(y, r, c, ROWS, C), gradient = four_rows(dy, r, c, ROWS, C);
        IN_FOUR(i) IN_PACK(j) {
            v.row[i].at[j] = v.row[i].at[j] > 0 ? gradient.row[i].at[j] * scale : Real(0);
            own.at[j] += v.row[i].at[j];
        }
        store_rows(dz, v, r, c, ROWS, C);
    }
    double all;
    if (summed(all, partial, arrivals, own, C)) db[MY_COLUMN] = all;
}

// One thread: some rows of a Pack of columns' sums of squares, whose roots are the columns' lengths. partial
// (1, gridDim.y, C * WIDTH).
extern "C" __global__ void column_lengths(
    Real* __restrict__ lengths, volatile double* partial, u32* arrivals, const Pack* __restrict__ x, Index ROWS, int C
) {
    int c = MY_PACK;
    Pack own = Pack();
    if (c < C) FOR_EACH_FOUR_ROWS(r) {
        Four v = four_rows(x, r, c, ROWS, C);
        IN_FOUR(i) IN_PACK(j) own.at[j] += v.row[i].at[j] * v.row[i].at[j];
    }
    double all;
    if (summed(all, partial, arrivals, own, C)) lengths[MY_COLUMN] = sqrt(all);
}

// One thread: some rows of a Pack of columns, each shortened to the length `most` if it is longer. epsilon: guards a
// division by 0. y may be x: no `__restrict__`.
extern "C" __global__ void shortened(
    Pack* y, const Pack* x, const Pack* __restrict__ lengths, Real most, Real epsilon, Index ROWS, int C
) {
    int c = MY_PACK;
    if (c >= C) return;
    Pack factor = lengths[c];
    IN_PACK(j) factor.at[j] = (factor.at[j] < most ? factor.at[j] : most) / (epsilon + factor.at[j]);
    FOR_EACH_FOUR_ROWS(r) {
        Four v = four_rows(x, r, c, ROWS, C);
        IN_FOUR(i) IN_PACK(j) v.row[i].at[j] *= factor.at[j];
        store_rows(y, v, r, c, ROWS, C);
    }
}
