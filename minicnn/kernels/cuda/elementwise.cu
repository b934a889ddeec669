// One number in, one number out: ReLU, bias and ReLU in one pass, GELU, and dropout.
//
// Such kernels cost what their memory traffic costs: each array that is read or written once more makes them slower.

static __device__ Real relu(Real x) {
    return x > 0 || x != x ? x : Real(0);  // "not a number" must not be lost
}

// One thread: one Pack. y may be x: no `__restrict__`.
extern "C" __global__ void relu_forward(Pack* y, const Pack* x, Index count) {
    FOR_EACH(i, count) {
        Pack v = x[i];
        IN_PACK(k) v.at[k] = relu(v.at[k]);
        y[i] = v;
    }
}

// One thread: one Pack. dx = dy where y > 0.
extern "C" __global__ void relu_backward(
    Pack* __restrict__ dx, const Pack* __restrict__ dy, const Pack* __restrict__ y, Index count
) {
    FOR_EACH(i, count) {
        Pack v = y[i], gradient = dy[i];
        IN_PACK(k) v.at[k] = v.at[k] > 0 ? gradient.at[k] : Real(0);
        dx[i] = v;
    }
}

// One thread: one Pack of z (rows, C), in place: z becomes max(z + b, 0). Apart, the two would read and write z twice.
extern "C" __global__ void bias_relu(Pack* __restrict__ z, const Pack* __restrict__ b, Index count, int C) {
    FOR_EACH(i, count) {  // C, too, counts Packs
        Pack v = z[i], bias = b[i % C];
        IN_PACK(k) v.at[k] = relu(v.at[k] + bias.at[k]);
        z[i] = v;
    }
}

// One thread: one Pack of y = x * Phi(x) and of its slope, Phi(x) + x * Phi'(x); either may be left out (null).
// Phi is the normal distribution function; with `approximate` (1 + tanh u) / 2, of which the derivative is
// (1 - tanh u * tanh u) / 2 * u'.
extern "C" __global__ void gelu(
    Pack* __restrict__ y, Pack* __restrict__ slope, const Pack* __restrict__ x, Index count, int approximate
) {
    const Real HALF = 0.5, ROOT = 0.79788456080286535588, CUBE = 0.044715;  // ROOT: the square root of 2 / pi
    FOR_EACH(i, count) {
        Pack value = x[i], derivative;
        IN_PACK(k) {
            Real v = value.at[k], phi, density;
            if (approximate) {
                phi = HALF * (1 + tanh(ROOT * (v + CUBE * v * v * v)));
                density = 2 * phi * (1 - phi) * ROOT * (1 + 3 * CUBE * v * v);
            } else {
                phi = HALF * erfc(-v * Real(0.70710678118654752440));  // the square root of 1 / 2
                density = HALF * ROOT * exp(-HALF * v * v);
            }
            value.at[k] = v * phi;
            derivative.at[k] = phi + v * density;
        }
        if (y) y[i] = value;
        if (slope) slope[i] = derivative;
    }
}

// ---- dropout ----
//
// The mask is never stored: the backward pass draws the same random numbers again. They are those of the CPU, NumPy's
// PCG64 (M. O'Neill, "PCG" (2014)), so that a CPU run and a GPU run drop the same numbers. A state of 128 bits becomes
// the next one by state = state * MULTIPLIER + increment, and each is scrambled into one word of 64 random bits. Many
// such steps together are again a multiplication and an addition, so a thread can begin anywhere in the sequence.

struct u128 {
    u64 high, low;
};

static __device__ u128 multiply(u128 a, u128 b) {  // modulo 2^128
    u128 product;
    product.low = a.low * b.low;
    product.high = __umul64hi(a.low, b.low) + a.high * b.low + a.low * b.high;
    return product;
}

static __device__ u128 add(u128 a, u128 b) {
    u128 sum;
    sum.low = a.low + b.low;
    sum.high = a.high + b.high + (sum.low < a.low);
    return sum;
}

// x -> x * factor + offset, `steps` times, as one such map: the square of a map is the map done twice, and the binary
// digits of `steps` say which squares to combine. F. Brown, "Random Number Generation with Arbitrary Strides" (1994).
struct Jump {
    u128 factor, offset;
};

static __device__ Jump jump(u64 steps, u128 increment) {
    const u128 MULTIPLIER = {0x2360ED051FC65DA4ull, 0x4385DF649FCCF645ull}, ZERO = {0, 0}, ONE = {0, 1};
    Jump all = {ONE, ZERO}, square = {MULTIPLIER, increment};
    for (; steps > 0; steps >>= 1) {
        if (steps & 1) {
            all.factor = multiply(all.factor, square.factor);
            all.offset = add(multiply(all.offset, square.factor), square.offset);
        }
        square.offset = add(multiply(square.offset, square.factor), square.offset);
        square.factor = multiply(square.factor, square.factor);
    }
    return all;
}

static __device__ u64 scramble(u128 state) {  // PCG's "XSL-RR": fold to 64 bits, rotate by the six highest bits
    u64 folded = state.high ^ state.low;
    int by = state.high >> 58;
    return folded >> by | folded << (-by & 63);
}

// The words of one thread: the one of its own number, then those that lie as many words further on as there are threads.
struct Words {
    u128 state;
    Jump next;
};

// state: that of the generator before the first sample's first word.
//
// A CUDA graph repeats a launch with the arguments that it had. There, what is another number at each step lies in
// memory: start (4), the halves of state and increment. It is null where the four arguments say them.
#define HALVES u64 state_high, u64 state_low, u64 increment_high, u64 increment_low

static __device__ Words my_words(const u64* __restrict__ start, HALVES) {
    u128 state = {start ? start[0] : state_high, start ? start[1] : state_low};
    u128 increment = {start ? start[2] : increment_high, start ? start[3] : increment_low};
    Jump first = jump(blockIdx.x * (u64)blockDim.x + threadIdx.x + 1, increment);
    Words words = {add(multiply(state, first.factor), first.offset), jump((u64)blockDim.x * gridDim.x, increment)};
    return words;
}

static __device__ u64 draw(Words& words) {
    u64 bits = scramble(words.state);
    words.state = add(multiply(words.state, words.next.factor), words.next.offset);
    return bits;
}

// One thread: some words of 64 bits, each of which decides about four numbers by 16 bits each. x (N, PER_SAMPLE); each
// sample begins with a fresh word, WORDS to a sample. Numbers whose 16 bits reach `threshold` stay. PER_SAMPLE counts
// Packs: a word is for one Pack of four numbers, or for four of one.
#define PACKS_A_WORD (4 / WIDTH)

extern "C" __global__ void dropout(
    Pack* __restrict__ y, const Pack* __restrict__ x, const u64* __restrict__ start, HALVES, Real scale, u32 threshold,
    Index PER_SAMPLE, Index WORDS, Index count
) {
    Words words = my_words(start, state_high, state_low, increment_high, increment_low);
    FOR_EACH(word, count) {  // count = N * WORDS
        u64 bits = draw(words);
        Index sample = word / WORDS, begin = word % WORDS * PACKS_A_WORD;
        for (Index p = begin; p < begin + PACKS_A_WORD && p < PER_SAMPLE; p++) {
            Pack v = x[sample * PER_SAMPLE + p];
            IN_PACK(k) {
                v.at[k] = (bits & 0xFFFF) >= threshold ? v.at[k] * scale : Real(0);
                bits >>= 16;
            }
            y[sample * PER_SAMPLE + p] = v;
        }
    }
}

// The same for z (..., C) in place, which becomes max(z + b, 0) before: what follows a convolution, in one pass. b, (C,),
// may be null.
extern "C" __global__ void bias_relu_dropout(
    Pack* __restrict__ z, const Pack* __restrict__ b, const u64* __restrict__ start, HALVES, Real scale, u32 threshold,
    int C, Index PER_SAMPLE, Index WORDS, Index count
) {
    Words words = my_words(start, state_high, state_low, increment_high, increment_low);
    FOR_EACH(word, count) {  // count = N * WORDS
        u64 bits = draw(words);
        Index sample = word / WORDS, begin = word % WORDS * PACKS_A_WORD;
        for (Index p = begin; p < begin + PACKS_A_WORD && p < PER_SAMPLE; p++) {
            Pack v = z[sample * PER_SAMPLE + p], bias = b ? b[p % C] : Pack();
            IN_PACK(k) {
                v.at[k] = (bits & 0xFFFF) >= threshold ? relu(v.at[k] + bias.at[k]) * scale : Real(0);
                bits >>= 16;
            }
            z[sample * PER_SAMPLE + p] = v;
        }
    }
}
