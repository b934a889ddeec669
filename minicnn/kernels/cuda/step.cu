// The optimizer's step for all parameters of a model in one launch.
//
// A model has dozens of parameters, most of them small. A launch takes some microseconds however little it does, so one
// for each formula and parameter would cost more than the arithmetic. Here the parameters come as a table:
//
//     table (PARAMETERS, 6)    of each parameter: the addresses of p, g, slot 0, slot 1; how many numbers it has; and
//                              the number of its first block. A block does CHUNK numbers of one parameter.

//
// Parameters may lie anywhere and have any size, so there are no Packs here. There need not be: a thread fetches the four
// numbers p, g and two slots at once, which are as many bytes on their way as one Pack (see common.cu).

#define CHUNK 1024

// Which numbers of which parameter this block does.
struct Part {
    Real *p, *g, *a, *b;
    u64 begin, end;
};

static __device__ Part my_part(const u64* __restrict__ table, int PARAMETERS) {
    int k = 0;
    while (k + 1 < PARAMETERS && table[(k + 1) * 6 + 5] <= blockIdx.x) k++;
    Part part = {(Real*)table[k * 6], (Real*)table[k * 6 + 1], (Real*)table[k * 6 + 2], (Real*)table[k * 6 + 3], 0, 0};
    part.begin = (blockIdx.x - table[k * 6 + 5]) * CHUNK;
    part.end = part.begin + CHUNK < table[k * 6 + 4] ? part.begin + CHUNK : table[k * 6 + 4];
    return part;
}

// One thread: some numbers of one parameter, by the rule of `minicnn.optimizers.SGD`. decay = weight decay * lr, here
// and below.
extern "C" __global__ void sgd(
    const u64* __restrict__ table, int PARAMETERS, Real lr, Real decay, Real momentum, int nesterov
) {
    Part part = my_part(table, PARAMETERS);
    for (u64 i = part.begin + threadIdx.x; i < part.end; i += blockDim.x) {
        Real p = part.p[i], step = -lr * part.g[i];
        p -= p * decay;
        if (momentum != 0) {
            Real m = part.a[i] * momentum + step;
            part.a[i] = m;
            step = nesterov ? momentum * m + step : m;
        }
        part.p[i] = p + step;
    }
}

// One thread: some numbers of one parameter, by the rule of `minicnn.optimizers.Adam`. alpha = the rate with both
// corrections for the moments' start at 0. Reads p, g, m, v and writes p, m, v once: 28 bytes a number in float32.
extern "C" __global__ void adam(
    const u64* __restrict__ table, int PARAMETERS, Real alpha, Real decay, Real beta_1, Real beta_2, Real epsilon
) {
    Part part = my_part(table, PARAMETERS);
    for (u64 i = part.begin + threadIdx.x; i < part.end; i += blockDim.x) {
        Real p = part.p[i], g = part.g[i], m = part.a[i], v = part.b[i];
        p -= p * decay;
        m = m * beta_1 + g;  // sums, of which alpha and epsilon make means
        v = v * beta_2 + g * g;
        part.a[i] = m;
        part.b[i] = v;
        part.p[i] = p - m / (sqrt(v) + epsilon) * alpha;
    }
}

// One thread: some numbers of one parameter, by the rule of `minicnn.optimizers.RMSprop`. keep = 1 - rho.
extern "C" __global__ void rmsprop(
    const u64* __restrict__ table, int PARAMETERS, Real lr, Real decay, Real keep, Real momentum, Real epsilon
) {
    Part part = my_part(table, PARAMETERS);
    for (u64 i = part.begin + threadIdx.x; i < part.end; i += blockDim.x) {
        Real p = part.p[i], g = part.g[i], v = part.a[i];
        v += (g * g - v) * keep;
        part.a[i] = v;
        Real step = lr * g / sqrt(v + epsilon);
        if (momentum != 0) {
            step += part.b[i] * momentum;
            part.b[i] = step;
        }
        part.p[i] = p - p * decay - step;
    }
}

// One thread: some numbers of one parameter, by the rule of `minicnn.optimizers.Adagrad`.
extern "C" __global__ void adagrad(
    const u64* __restrict__ table, int PARAMETERS, Real lr, Real decay, Real epsilon
) {
    Part part = my_part(table, PARAMETERS);
    for (u64 i = part.begin + threadIdx.x; i < part.end; i += blockDim.x) {
        Real p = part.p[i], g = part.g[i], sum = part.a[i] + g * g;
        part.a[i] = sum;
        part.p[i] = p - p * decay - lr * g / sqrt(sum + epsilon);
    }
}

// One thread: some numbers of one parameter, by the rule of `minicnn.optimizers.Lion`.
extern "C" __global__ void lion(
    const u64* __restrict__ table, int PARAMETERS, Real lr, Real decay,
    Real beta_1, Real keep_1, Real beta_2, Real keep_2
) {
    Part part = my_part(table, PARAMETERS);
    for (u64 i = part.begin + threadIdx.x; i < part.end; i += blockDim.x) {
        Real p = part.p[i], g = part.g[i], m = part.a[i];
        Real way = beta_1 * m + keep_1 * g;  // keep_1 = 1 - beta_1
        Real sign = way > 0 ? Real(1) : way < 0 ? Real(-1) : way;  // 0, or "not a number", which must not be lost
        part.a[i] = beta_2 * m + keep_2 * g;
        part.p[i] = p - p * decay - lr * sign;
    }
}
