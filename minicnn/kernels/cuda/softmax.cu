// Softmax and cross-entropy: one block of THREADS threads for each row of logits (N, K).
//
//     p_k = exp(z_k - max) / sum        loss = -sum of t_k * log p_k        dz_k = (p_k * sum of t - t_k) / batch

#define THREADS 128

static __device__ Real larger(Real a, Real b) {
    return a > b || a != a ? a : b;  // "not a number" must not be lost
}

// All threads of the block bring a value, all receive their sum (or maximum): in each round half of the threads take
// over the other half's values. A tree, always in the same order.
static __device__ Real together(Real value, bool maximum) {
    __shared__ Real values[THREADS];
    values[threadIdx.x] = value;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            Real a = values[threadIdx.x], b = values[threadIdx.x + half];
            values[threadIdx.x] = maximum ? larger(a, b) : a + b;
        }
    }
    __syncthreads();
    Real result = values[0];
    __syncthreads();  // nobody may write the next value before all have read this one
    return result;
}

// A block: one row. Each thread: the columns threadIdx.x, threadIdx.x + THREADS, ...
extern "C" __global__ void softmax_forward(Real* __restrict__ p, const Real* __restrict__ z, Real infinity, int K) {
    Index row = (Index)blockIdx.x * K;
    Real largest = -infinity, sum = 0;
    for (int k = threadIdx.x; k < K; k += THREADS) largest = larger(z[row + k], largest);
    largest = together(largest, true);
    for (int k = threadIdx.x; k < K; k += THREADS) sum += exp(z[row + k] - largest);
    sum = together(sum, false);
    for (int k = threadIdx.x; k < K; k += THREADS) p[row + k] = exp(z[row + k] - largest) / sum;
}

// A block: one row's loss and dz; either may be left out (null). The target is a class number (label), or else a row of
// probabilities (t).
extern "C" __global__ void softmax_cross_entropy(
    Real* __restrict__ loss, Real* __restrict__ dz, const Real* __restrict__ z, const long long* __restrict__ label,
    const Real* __restrict__ t, Real infinity, Real batch, int K
) {
    Index row = (Index)blockIdx.x * K;
    Real largest = -infinity, sum = 0, mass = 0, expected = 0;
    for (int k = threadIdx.x; k < K; k += THREADS) largest = larger(z[row + k], largest);
    largest = together(largest, true);
    for (int k = threadIdx.x; k < K; k += THREADS) {
        Real target = label ? Real(label[blockIdx.x] == k) : t[row + k];
        sum += exp(z[row + k] - largest);
        mass += target;
        if (target != 0) expected += target * (z[row + k] - largest);
    }
    sum = together(sum, false);
    mass = together(mass, false);
    if (dz) {
        for (int k = threadIdx.x; k < K; k += THREADS) {
            Real target = label ? Real(label[blockIdx.x] == k) : t[row + k];
            dz[row + k] = (exp(z[row + k] - largest) / sum * mass - target) / batch;
        }
    }
    if (loss) {  // - sum of t * (z - max - log sum)
        expected = together(expected, false);
        if (threadIdx.x == 0) loss[blockIdx.x] = mass * log(sum) - expected;
    }
}
