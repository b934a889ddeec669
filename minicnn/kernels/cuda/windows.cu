// Windows over images: im2col, col2im, max pooling.
//
//     x (N, H, W, C)      images, channels last
//     cols (N*OH*OW, KH*KW*C)   one row for each window; columns in the order kh, kw, c
//     y, dy, winner (N, OH, OW, C)   one number for each window and channel
//
// The window of output pixel (oh, ow) begins at row oh*SH - TOP, column ow*SW - LEFT; its taps are DH rows, DW columns
// apart. What lies outside of the image is padding. C counts Packs, and "channel" below is a Pack of channels.

#define GEOMETRY int H, int W, int C, int OH, int OW, int KH, int KW, int SH, int SW, int DH, int DW, int TOP, int LEFT

static __device__ void add(Pack& sum, Pack x) {
    IN_PACK(k) sum.at[k] += x.at[k];
}

// The places of the maxima of a Pack.
struct alignas(WIDTH * sizeof(Winner)) Winners {
    Winner at[WIDTH];
};

// One thread: one channel of one output pixel. It copies that channel of its whole window. Its neighbours in the block
// do the next channels of the same pixel, so that together they write runs of C numbers.
extern "C" __global__ void im2col(Pack* __restrict__ cols, const Pack* __restrict__ x, Index count, GEOMETRY) {
    FOR_EACH(i, count) {  // count = N*OH*OW*C
        int c = i % C;
        Index row = i / C;
        int ow = row % OW, oh = row / OW % OH;
        Index image = row / OW / OH * H;  // the image's first row, all images being one tall stack of rows
        Index to = row * KH * KW * C + c;
        for (int kh = 0; kh < KH; kh++) {
            int h = oh * SH - TOP + kh * DH;
            for (int kw = 0; kw < KW; kw++, to += C) {
                int w = ow * SW - LEFT + kw * DW;
                bool inside = 0 <= h && h < H && 0 <= w && w < W;
                cols[to] = inside ? x[((image + h) * W + w) * C + c] : Pack();
            }
        }
    }
}

// One thread: one channel of one input pixel. It *gathers*: of every tap it asks whether a window has its tap there,
// and adds what that window says. To scatter instead (one thread a window) would need atomic additions, whose order,
// and so whose rounding, changes from run to run.
extern "C" __global__ void col2im(Pack* __restrict__ dx, const Pack* __restrict__ cols, Index count, GEOMETRY) {
    FOR_EACH(i, count) {  // count = N*H*W*C
        int c = i % C;
        Index pixel = i / C;
        int w = pixel % W, h = pixel / W % H;
        Index image = pixel / W / H * OH;
        Pack sum = Pack();
        for (int kh = 0; kh < KH; kh++) {
            int from_h = h + TOP - kh * DH;  // = oh * SH, if this tap of some window lies here
            if (from_h < 0 || from_h % SH != 0 || from_h / SH >= OH) continue;
            for (int kw = 0; kw < KW; kw++) {
                int from_w = w + LEFT - kw * DW;
                if (from_w < 0 || from_w % SW != 0 || from_w / SW >= OW) continue;
                Index row = (image + from_h / SH) * OW + from_w / SW;
                add(sum, cols[((row * KH + kh) * KW + kw) * C + c]);
            }
        }
        dx[i] = sum;
    }
}

// One thread: one channel of one window. `>` lets the first of equal maxima win. Padding is -infinity: it never wins.
extern "C" __global__ void maxpool_forward(
    Pack* __restrict__ y, Winners* __restrict__ winner, const Pack* __restrict__ x, Index count, GEOMETRY, Real infinity
) {
    FOR_EACH(i, count) {  // count = N*OH*OW*C
        int c = i % C;
        Index row = i / C;
        int ow = row % OW, oh = row / OW % OH;
        Index image = row / OW / OH * H;
        Pack best;
        Winners where = Winners();
        IN_PACK(k) best.at[k] = -infinity;
        for (int kh = 0; kh < KH; kh++) {
            int h = oh * SH - TOP + kh * DH;
            if (h < 0 || h >= H) continue;
            for (int kw = 0; kw < KW; kw++) {
                int w = ow * SW - LEFT + kw * DW;
                if (w < 0 || w >= W) continue;
                Pack value = x[((image + h) * W + w) * C + c];
                IN_PACK(k) {
                    Real v = value.at[k];
                    if (v > best.at[k]) where.at[k] = kh * KW + kw;
                    if (v > best.at[k] || v != v) best.at[k] = v;  // "not a number" is no maximum, but must not be lost
                }
            }
        }
        y[i] = best;
        if (winner) winner[i] = where;
    }
}

// One thread: one channel of one input pixel. It gathers dy from the windows that it won.
extern "C" __global__ void maxpool_backward(
    Pack* __restrict__ dx, const Pack* __restrict__ dy, const Winners* __restrict__ winner, Index count, GEOMETRY
) {
    FOR_EACH(i, count) {  // count = N*H*W*C
        int c = i % C;
        Index pixel = i / C;
        int w = pixel % W, h = pixel / W % H;
        Index image = pixel / W / H * OH;
        Pack sum = Pack();
        for (int kh = 0; kh < KH; kh++) {
            int from_h = h + TOP - kh * DH;
            if (from_h < 0 || from_h % SH != 0 || from_h / SH >= OH) continue;
            for (int kw = 0; kw < KW; kw++) {
                int from_w = w + LEFT - kw * DW;
                if (from_w < 0 || from_w % SW != 0 || from_w / SW >= OW) continue;
                Index window = ((image + from_h / SH) * OW + from_w / SW) * C + c;
                Pack gradient = dy[window];
                Winners place = winner[window];
                IN_PACK(k) if (place.at[k] == kh * KW + kw) sum.at[k] += gradient.at[k];
            }
        }
        dx[i] = sum;
    }
}

// The same where windows do not overlap. One thread: one channel of one window. It writes dx for all of the window's
// pixels, which takes a few divisions instead of some for each of them. What lies between the windows stays as it was.
extern "C" __global__ void maxpool_backward_apart(
    Pack* __restrict__ dx, const Pack* __restrict__ dy, const Winners* __restrict__ winner, Index count, GEOMETRY
) {
    FOR_EACH(i, count) {  // count = N*OH*OW*C
        int c = i % C;
        Index row = i / C;
        int ow = row % OW, oh = row / OW % OH;
        Index image = row / OW / OH * H;
        Pack gradient = dy[i];
        Winners place = winner[i];
        for (int kh = 0; kh < KH; kh++) {
            int h = oh * SH - TOP + kh;
            if (h < 0 || h >= H) continue;
            for (int kw = 0; kw < KW; kw++) {
                int w = ow * SW - LEFT + kw;
                if (w < 0 || w >= W) continue;
                Pack v;
                IN_PACK(k) v.at[k] = place.at[k] == kh * KW + kw ? gradient.at[k] : Real(0);
                dx[((image + h) * W + w) * C + c] = v;
            }
        }
    }
}
