// Convolution as a matrix product, one factor of which is never written down ("implicit GEMM": S. Chetlur et al.,
// "cuDNN: Efficient Primitives for Deep Learning" (2014), section 3). Read im2col in windows.cu first.
//
//     y = cols * w      cols (N*OH*OW, KH*KW*C): a row for each output pixel, its window; w (KH*KW*C, C_OUT)
//
// cols is KH*KW times as large as x, and is written to memory only to be read again. But cols[m, k] stands in x, and a
// row number m and a column number k are enough to say where. So here the numbers go from x into the product.
//
// How is a product computed fast? One thread could compute one number of the result:
//
//     for (k = 0; k < K; k++) sum += left[m, k] * right[n, k];
//
// That loads two numbers for one multiply-add. In the time that memory takes to bring one number, a GPU does dozens of
// multiply-adds. So each number must be used dozens of times once it was loaded, which takes two steps:
//
// 1. Tiles in shared memory. A block of threads computes SIDE x SIDE numbers of the result. For this it needs SIDE rows
//    of each factor. It takes DEPTH columns of them at a time: a strip of each factor, which its threads fetch together
//    into shared memory, that all of them see. Then each of these numbers is used SIDE times.
//
//              k ->                                        2 * SIDE * DEPTH loads from memory
//         +----+----+----+                 +--------+      for SIDE * SIDE * DEPTH multiply-adds: 1 for 32
//    left |    |strip    |   right (rows,  |        |
//         |    |    |    |   as columns    | result | SIDE
//         +----+----+----+   of the        |        |
//          DEPTH             result)       +--------+
//
// 2. Registers. Shared memory brings one number in the time of four multiply-adds, so it would be the next to wait for.
//    But a thread computes not one, but OWN x OWN numbers. For each k it takes OWN numbers of either strip into
//    registers, and multiplies each with each: 2 * OWN loads for OWN * OWN multiply-adds. And what several of the 32
//    threads that run together ask for is brought once: they need 8 + 64 numbers for their 512 multiply-adds, 1 for 7.
//
// The two maps of the backward pass are products of the same kind, each with one factor that stands in x or dy:
//
//     dx[pixel, c]       = sum over (kh, kw, o) of  dy[the window that has its tap (kh, kw) here, o] * w[kh, kw, c, o]
//     dw[(kh, kw, c), o] = sum over the output pixels of  cols[pixel, (kh, kw, c)] * dy[pixel, o]
//
// So `product` is written once, for any two matrices of which it is known how to get an element.

#define SIDE 64
#define DEPTH 16
#define OWN 4
#define THREADS 256                       // (SIDE / OWN) * (SIDE / OWN): a block
#define FETCHED (SIDE * DEPTH / THREADS)  // by each thread, of each strip

#define GEOMETRY int H, int W, int C, int OH, int OW, int KH, int KW, int SH, int SW, int DH, int DW, int TOP, int LEFT

// ---- matrices ----
//
// What an element's place costs to find, divisions above all, is split: row(i) knows about the row, column(k) about the
// column, and at() brings both together. Threads keep their rows; columns change. Beyond the matrix all elements are 0.
// NEIGHBOURS: whether the numbers of a row, rather than those of a column, lie side by side in memory.

struct Spot {  // a pixel of a row, or a tap of a column: how far down and to the right, and where in memory
    int h, w;
    Index at;
};
#define NOWHERE (1 << 29)  // so far away that no window has a tap there

// cols (PIXELS, KH*KW*C) of x (N, H, W, C), one row for each output pixel.
struct Cols {
    const Real* __restrict__ x;
    Index PIXELS;
    int H, W, C, OH, OW, KH, KW, SH, SW, DH, DW, TOP, LEFT;
    typedef Spot Row;
    typedef Spot Column;
    static const bool NEIGHBOURS = true;

    __device__ Spot row(Index m) const {
        int ow = m % OW, oh = m / OW % OH;
        return {m < PIXELS ? oh * SH - TOP : -NOWHERE, ow * SW - LEFT, m / OW / OH * H * W * C};
    }
    __device__ Spot column(Index k) const {
        int tap = k / C;
        return {tap < KH * KW ? tap / KW * DH : -NOWHERE, tap % KW * DW, k % C};
    }
    __device__ Real at(Spot row, Spot column) const {
        int h = row.h + column.h, w = row.w + column.w;
        bool inside = 0 <= h && h < H && 0 <= w && w < W;
        return inside ? x[row.at + (Index)(h * W + w) * C + column.at] : Real(0);
    }
};

// What the windows give back: (PIXELS, KH*KW*C_OUT), one row for each input pixel. In column (kh, kw, o) stands dy of
// the window that has its tap (kh, kw) there; 0 if none has.
struct Backs {
    const Real* __restrict__ dy;
    Index PIXELS;
    int C_OUT;
    int H, W, C, OH, OW, KH, KW, SH, SW, DH, DW, TOP, LEFT;
    typedef Spot Row;
    typedef Spot Column;
    static const bool NEIGHBOURS = true;

    __device__ Spot row(Index m) const {
        int w = m % W, h = m / W % H;
        return {m < PIXELS ? h + TOP : -NOWHERE, w + LEFT, m / W / H * OH * OW * C_OUT};
    }
    __device__ Spot column(Index k) const {
        int tap = k / C_OUT;
        return {tap < KH * KW ? tap / KW * DH : NOWHERE, tap % KW * DW, k % C_OUT};
    }
    __device__ Real at(Spot row, Spot column) const {
        int h = row.h - column.h, w = row.w - column.w;  // oh * SH and ow * SW, if there is such a window
        int oh = SH == 1 ? h : h / SH, ow = SW == 1 ? w : w / SW;
        bool inside = 0 <= h && oh * SH == h && oh < OH && 0 <= w && ow * SW == w && ow < OW;
        return inside ? dy[row.at + (Index)(oh * OW + ow) * C_OUT + column.at] : Real(0);
    }
};

// w (KH, KW, C, C_OUT) as (C, KH*KW*C_OUT).
struct Weights {
    const Real* __restrict__ w;
    int TAPS, C, C_OUT;
    typedef int Row;
    typedef int Column;
    static const bool NEIGHBOURS = true;

    __device__ int row(Index c) const { return c < C ? (int)c * C_OUT : -1; }
    __device__ int column(Index k) const { return k < TAPS * C_OUT ? (int)k / C_OUT * C * C_OUT + (int)k % C_OUT : -1; }
    __device__ Real at(int row, int column) const { return row < 0 || column < 0 ? Real(0) : w[row + column]; }
};

// A matrix (ROWS, COLUMNS) as it lies in memory.
struct Table {
    const Real* __restrict__ a;
    Index ROWS;
    int COLUMNS;
    typedef Index Row;
    typedef Index Column;
    static const bool NEIGHBOURS = true;

    __device__ Index row(Index i) const { return i < ROWS ? i * COLUMNS : -1; }
    __device__ Index column(Index k) const { return k < COLUMNS ? k : -1; }
    __device__ Real at(Index row, Index column) const { return row < 0 || column < 0 ? Real(0) : a[row + column]; }
};

template <class Matrix> struct Transposed {
    Matrix matrix;
    typedef typename Matrix::Column Row;
    typedef typename Matrix::Row Column;
    static const bool NEIGHBOURS = !Matrix::NEIGHBOURS;

    __device__ Row row(Index i) const { return matrix.column(i); }
    __device__ Column column(Index k) const { return matrix.row(k); }
    __device__ Real at(Row row, Column column) const { return matrix.at(column, row); }
};

// ---- the product ----

// Indexed by column, then by row. The rows are 4 longer than they need be: numbers that are SIDE apart would lie in the
// same bank of shared memory, and could only be written one after another.
struct alignas(16) Strip {  // so that four numbers can be read at once
    Real of[DEPTH][SIDE + 4];
};

// Number i of what this thread fetches, as a place in the strip. Neighbouring threads fetch neighbours in memory.
template <class Matrix> static __device__ int my_row(int i) {
    return Matrix::NEIGHBOURS ? threadIdx.x / DEPTH + i * (THREADS / DEPTH) : threadIdx.x % SIDE;
}
template <class Matrix> static __device__ int my_column(int i) {
    return Matrix::NEIGHBOURS ? threadIdx.x % DEPTH : threadIdx.x / SIDE + i * (THREADS / SIDE);
}

// DEPTH columns from `first` on.
template <class Matrix>
static __device__ void fetch(
    Strip& strip, const Matrix& matrix, const typename Matrix::Row (&rows)[FETCHED], Index first
) {
    typename Matrix::Column column;
    for (int i = 0; i < FETCHED; i++) {
        int k = my_column<Matrix>(i);
        if (i == 0 || !Matrix::NEIGHBOURS) column = matrix.column(first + k);
        strip.of[k][my_row<Matrix>(i)] = matrix.at(rows[i], column);
    }
}

struct Sums {  // of one thread: rows and columns of the result from these on
    Real of[OWN][OWN];
    Index row;
    int column;
};

// Result[m, n] = sum over begin <= k < end of left[m, k] * right[n, k]: of the block's numbers, this thread's.
// The count of k is a multiple of DEPTH, or reaches to where both matrices end.
template <class Left, class Right>
static __device__ Sums product(const Left& left, const Right& right, Index begin, Index end) {
    __shared__ Strip a, b;
    typename Left::Row left_rows[FETCHED];
    typename Right::Row right_rows[FETCHED];
    Index first_row = blockIdx.x * (Index)SIDE, first_column = blockIdx.y * (Index)SIDE;
    for (int i = 0; i < FETCHED; i++) {
        left_rows[i] = left.row(first_row + my_row<Left>(i));
        right_rows[i] = right.row(first_column + my_row<Right>(i));
    }
    int m = threadIdx.x / (SIDE / OWN) * OWN, n = threadIdx.x % (SIDE / OWN) * OWN;
    Sums sums = {{}, first_row + m, (int)first_column + n};
    for (Index k = begin; k < end; k += DEPTH) {
        fetch(a, left, left_rows, k);
        fetch(b, right, right_rows, k);
        __syncthreads();  // all threads of the block have written
        _Pragma("unroll 4") for (int d = 0; d < DEPTH; d++)
            for (int i = 0; i < OWN; i++)
                for (int j = 0; j < OWN; j++) sums.of[i][j] += a.of[d][m + i] * b.of[d][n + j];
        __syncthreads();  // all have read: the strips may be overwritten
    }
    return sums;
}

// What lies inside of the result (ROWS, COLUMNS), which begins at `start`. bias (COLUMNS,) may be null.
static __device__ void write(
    Real* result, Index start, const Sums& sums, Index ROWS, int COLUMNS, const Real* bias
) {
    for (int i = 0; i < OWN; i++)
        for (int j = 0; j < OWN; j++) {
            Index m = sums.row + i;
            int n = sums.column + j;
            if (m < ROWS && n < COLUMNS) result[start + m * COLUMNS + n] = sums.of[i][j] + (bias ? bias[n] : Real(0));
        }
}

// A block: SIDE output pixels, SIDE of their channels. y (PIXELS, C_OUT); b (C_OUT,) may be null.
extern "C" __global__ void conv_forward(
    Real* __restrict__ y, const Real* __restrict__ x, const Real* __restrict__ w, const Real* __restrict__ b,
    Index PIXELS, int C_OUT, GEOMETRY
) {
    Cols cols = {x, PIXELS, H, W, C, OH, OW, KH, KW, SH, SW, DH, DW, TOP, LEFT};
    Transposed<Table> weights = {{w, KH * KW * C, C_OUT}};
    write(y, 0, product(cols, weights, 0, KH * KW * C), PIXELS, C_OUT, b);
}

// A block: SIDE input pixels, SIDE of their channels. dx (PIXELS, C).
extern "C" __global__ void conv_input_gradient(
    Real* __restrict__ dx, const Real* __restrict__ dy, const Real* __restrict__ w, Index PIXELS, int C_OUT, GEOMETRY
) {
    Backs backs = {dy, PIXELS, C_OUT, H, W, C, OH, OW, KH, KW, SH, SW, DH, DW, TOP, LEFT};
    Weights weights = {w, KH * KW, C, C_OUT};
    write(dx, 0, product(backs, weights, 0, KH * KW * C_OUT), PIXELS, C, {});  // no bias
}

// A block: SIDE rows (kh, kw, c) of dw, SIDE of its columns, and of the sum over all PIXELS a SHARE, a multiple of DEPTH:
// dw is small and the sum is long, so one block for each tile of dw would leave most of the GPU idle. partial (gridDim.z,
// KH*KW*C, C_OUT): what is left to do is to add the shares.
extern "C" __global__ void conv_kernel_gradient(
    Real* __restrict__ partial, const Real* __restrict__ x, const Real* __restrict__ dy, Index SHARE, Index PIXELS,
    int C_OUT, GEOMETRY
) {
    Transposed<Cols> cols = {{x, PIXELS, H, W, C, OH, OW, KH, KW, SH, SW, DH, DW, TOP, LEFT}};
    Transposed<Table> gradient = {{dy, PIXELS, C_OUT}};
    Index begin = blockIdx.z * SHARE, end = begin + SHARE < PIXELS ? begin + SHARE : PIXELS;
    Index ROWS = KH * KW * C;
    write(partial, blockIdx.z * ROWS * C_OUT, product(cols, gradient, begin, end), ROWS, C_OUT, {});  // no bias
}
