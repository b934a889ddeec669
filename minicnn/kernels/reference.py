"""Every kernel once more, in plain loops: read this file first.

Nothing here is fast. Each function computes one number at a time, in the order in which one would explain it
on a blackboard. The other files of this folder compute the same numbers in bulk, under the same names and
with the same arguments, and the tests compare the two. `python -m minicnn course` cuts its exercises out of this
file: what a learner writes is a body of these functions.

How to read a backward pass: let L be the loss, a single number. `dy` holds the gradient of L with respect to each
output, and we want `dx`, the gradient of L with respect to each input. An input that touches several outputs changes L
through each of them, and the effects add up. So every forward line of the form

    y[i] += x[j] * w[k]            the output i uses the input j and the weight k

turns into two backward lines in the same loops, each with `+=`:

    dx[j] += dy[i] * w[k]          what j does to L through i
    dw[k] += dy[i] * x[j]          what k does to L through i

Shapes (channels last):
    x   (N, H, W, C)       N images of H x W pixels with C channels
    w   (KH, KW, C, F)     F filters, each a window of KH x KW pixels with C channels
    b   (F,)               one bias a filter
    y   (N, OH, OW, F)     one number for each position of the window and each filter
    dy, dx, dw, db         shaped as y, x, w, b

Sums are kept in float64; results have the dtype of the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn.backend import Array
from minicnn.kernels.warp import inside_naive

AllReduce = Callable[[Array], Array]


# --- Windows: where they lie, and the border that they may reach into ---------------------------------------


def pair(v: Any) -> tuple[int, int]:
    """A number meant for both directions, or one number each: 2 -> (2, 2), (2, 3) -> (2, 3)."""
    return (v, v) if isinstance(v, int) else (v[0], v[1])


def resolve_padding(size, kernel, stride, dilation, padding) -> tuple[tuple[int, int], tuple[int, int]]:
    """How many cells to add: ((top, bottom), (left, right)).

    "valid": none; the window stays inside the image.
    "same":  as many as it takes for ceil(size / stride) window positions, half of them on each side. If the
             number is odd, the extra cell goes to the bottom and to the right, as in Keras. An example with
             a window of 3 and a stride of 2; its 3 positions start at 0, 2, 4 and reach over 7 cells:

                 size 5: 2 cells are missing -> (1, 1)
                 size 6: 1 cell is missing   -> (0, 1)

    p or (ph, pw): the same number on both sides.   ((top, bottom), (left, right)): as written.
    """
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        axes = zip(pair(size), pair(kernel), pair(stride), pair(dilation), strict=True)
        rows, columns = (same_padding(*axis) for axis in axes)
        return rows, columns
    vertical, horizontal = pair(padding)
    return pair(vertical), pair(horizontal)


def same_padding(length: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Cells to add before and after an axis of `length` cells, so that ceil(length / stride) windows fit.

    The window has `kernel` cells, which lie `dilation` apart, and moves by `stride`. The last window starts at
    (windows - 1) * stride and must end inside: what is missing there is added, half of it on each side, the odd
    cell after. Never less than 0.
    """
    windows = math.ceil(length / stride)
    last_start = (windows - 1) * stride
    reach = last_start + (kernel - 1) * dilation + 1
    missing = max(reach - length, 0)
    return missing // 2, missing - missing // 2


def output_size(size, kernel, stride, dilation, pads) -> tuple[int, int]:
    """(OH, OW): how many windows fit in each direction, see output_length."""
    axes = zip(pair(size), pair(kernel), pair(stride), pair(dilation), pads, strict=True)
    rows, columns = (output_length(length, k, s, d, lo, hi) for length, k, s, d, (lo, hi) in axes)
    return rows, columns


def output_length(length: int, kernel: int, stride: int, dilation: int, lo: int, hi: int) -> int:
    """How many windows fit on an axis of `length` cells, with `lo` cells of padding before it and `hi` after it.

    The window has `kernel` cells, which lie `dilation` apart (1: side by side). The first window starts at the
    first cell of the padding, each further one `stride` cells later, and the last one still ends inside. On 6 cells
    and one of padding (-), a window of 3 with a stride of 2 fits 3 times:

        0 1 2 3 4 5 -
        [   ]
            [   ]
                [   ]
    """
    start, count = 0, 0
    while start + (kernel - 1) * dilation < lo + length + hi:
        start, count = start + stride, count + 1
    return count


def pad(x: Array, pads, value: float = 0.0) -> Array:
    """A copy of the images x with a border of `value` around each, in float64."""
    (top, bottom), (left, right) = pads
    N, H, W, C = x.shape
    padded = np.full((N, top + H + bottom, left + W + right, C), value, dtype=np.float64)
    padded[:, top : top + H, left : left + W, :] = x
    return padded


def crop(padded: Array, pads, dtype) -> Array:
    """The inverse of `pad`: drop the border. What a gradient has gathered there belongs to no pixel."""
    (top, bottom), (left, right) = pads
    rows, columns = padded.shape[1] - bottom, padded.shape[2] - right
    return padded[:, top:rows, left:columns, :].astype(dtype, order="C")


# --- Convolution --------------------------------------------------------------------------------------------


def conv2d_forward(
    x: Array, w: Array, b: Array | None = None, stride=1, padding="valid", dilation=1
) -> Array:
    """Slide each filter over the image; at each position, multiply cell by cell and add up.

    x (N, H, W, C): N images of H x W pixels with C channels. w (KH, KW, C, F): F filters, each a window of KH x KW
    cells with C channels. b (F,): what each filter's sums start with; None: with 0. Returns y (N, OH, OW, F), of x's
    dtype. stride and dilation: a number, or one for each direction (see pair).

    Output pixel (oh, ow) looks at the input pixels (oh*stride + kh*dilation, ow*stride + kw*dilation).
    (As everywhere in deep learning the filter is not flipped: strictly speaking, a cross-correlation.)
    """
    (sh, sw), (dil_h, dil_w) = pair(stride), pair(dilation)
    (N, H, W, _), (KH, KW, C, F) = x.shape, w.shape
    pads = resolve_padding((H, W), (KH, KW), stride, dilation, padding)
    OH, OW = output_size((H, W), (KH, KW), stride, dilation, pads)
    x_padded = pad(x, pads)

    y = np.zeros((N, OH, OW, F), dtype=x.dtype)
    for n, oh, ow, f in np.ndindex(N, OH, OW, F):
        total = 0.0 if b is None else float(b[f])
        for kh, kw, c in np.ndindex(KH, KW, C):
            total += x_padded[n, oh * sh + kh * dil_h, ow * sw + kw * dil_w, c] * w[kh, kw, c, f]
        y[n, oh, ow, f] = total
    return y


def conv2d_backward(
    dy: Array, x: Array, w: Array, stride=1, padding="valid", dilation=1, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """The same loops as forward; each product now hands dy to both of its factors.

    A pixel lies under many windows and a weight is used at every position: hence `+=`.
    Returns (dx, dw, db); dx is None when nobody needs it (the first layer's input is data).
    """
    (sh, sw), (dil_h, dil_w) = pair(stride), pair(dilation)
    (_, H, W, _), (KH, KW, C, F) = x.shape, w.shape
    pads = resolve_padding((H, W), (KH, KW), stride, dilation, padding)
    x_padded = pad(x, pads)

    dx_padded = np.zeros(x_padded.shape)
    dw = np.zeros(w.shape)
    db = np.zeros(F)
    for n, oh, ow, f in np.ndindex(dy.shape):
        g = float(dy[n, oh, ow, f])
        db[f] += g
        for kh, kw, c in np.ndindex(KH, KW, C):
            row, column = oh * sh + kh * dil_h, ow * sw + kw * dil_w
            dx_padded[n, row, column, c] += g * w[kh, kw, c, f]
            dw[kh, kw, c, f] += g * x_padded[n, row, column, c]
    dx = crop(dx_padded, pads, x.dtype) if need_dx else None
    return dx, dw.astype(w.dtype), db.astype(w.dtype)


# --- Convolutions that do not mix all channels --------------------------------------------------------------


def grouped_conv2d_forward(
    x: Array, w: Array, b: Array | None = None, groups: int = 1, stride=1, padding="valid", dilation=1
) -> Array:
    """The channels of x and the filters are shared out over groups; a filter sees the channels of its own group only.

    x (N, H, W, C). w (KH, KW, C / groups, F). b (F,) or None. Returns y (N, OH, OW, F), of x's dtype.
    """
    (sh, sw), (dil_h, dil_w) = pair(stride), pair(dilation)
    (N, H, W, _), (KH, KW, C, F) = x.shape, w.shape
    pads = resolve_padding((H, W), (KH, KW), stride, dilation, padding)
    OH, OW = output_size((H, W), (KH, KW), stride, dilation, pads)
    x_padded = pad(x, pads)

    y = np.zeros((N, OH, OW, F), dtype=x.dtype)
    for n, oh, ow, f in np.ndindex(N, OH, OW, F):
        group = f // (F // groups)
        total = 0.0 if b is None else float(b[f])
        for kh, kw, c in np.ndindex(KH, KW, C):
            total += x_padded[n, oh * sh + kh * dil_h, ow * sw + kw * dil_w, group * C + c] * w[kh, kw, c, f]
        y[n, oh, ow, f] = total
    return y


def grouped_conv2d_backward(
    dy: Array, x: Array, w: Array, groups: int = 1, stride=1, padding="valid", dilation=1, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """The same loops; each product hands dy to both of its factors. Returns (dx, dw, db), dx None unless need_dx."""
    (sh, sw), (dil_h, dil_w) = pair(stride), pair(dilation)
    (_, H, W, _), (KH, KW, C, F) = x.shape, w.shape
    pads = resolve_padding((H, W), (KH, KW), stride, dilation, padding)
    x_padded = pad(x, pads)

    dx_padded, dw, db = np.zeros(x_padded.shape), np.zeros(w.shape), np.zeros(F)
    for n, oh, ow, f in np.ndindex(dy.shape):
        group, g = f // (F // groups), float(dy[n, oh, ow, f])
        db[f] += g
        for kh, kw, c in np.ndindex(KH, KW, C):
            row, column = oh * sh + kh * dil_h, ow * sw + kw * dil_w
            dx_padded[n, row, column, group * C + c] += g * w[kh, kw, c, f]
            dw[kh, kw, c, f] += g * x_padded[n, row, column, group * C + c]
    dx = crop(dx_padded, pads, x.dtype) if need_dx else None
    return dx, dw.astype(w.dtype), db.astype(w.dtype)


def depthwise_conv2d_forward(
    x: Array, w: Array, b: Array | None = None, stride=1, padding="valid", dilation=1
) -> Array:
    """Each channel of x has M kernels of its own: M channels of y are made of it, and of nothing else.

    x (N, H, W, C). w (KH, KW, C, M). b (C*M,) or None. Returns y (N, OH, OW, C*M), of x's dtype: channel c*M + m is
    what kernel m makes of channel c. It is a grouped convolution with a group for each channel.
    """
    KH, KW, C, M = w.shape
    return grouped_conv2d_forward(x, w.reshape(KH, KW, 1, C * M), b, C, stride, padding, dilation)


def depthwise_conv2d_backward(
    dy: Array, x: Array, w: Array, stride=1, padding="valid", dilation=1, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """Returns (dx, dw, db), dx None unless need_dx: those of the grouped convolution."""
    KH, KW, C, M = w.shape
    grouped = w.reshape(KH, KW, 1, C * M)
    dx, dw, db = grouped_conv2d_backward(dy, x, grouped, C, stride, padding, dilation, need_dx)
    return dx, dw.reshape(w.shape), db


# --- Transposed convolution: the other way round ------------------------------------------------------------


def conv2d_transpose_forward(
    x: Array, w: Array, b: Array | None = None, stride=1, padding="valid", dilation=1, output_padding=None
) -> Array:
    """Every pixel stamps each kernel, times its number, into a larger image; where stamps overlap, they are added up.

    x (N, H, W, C). w (KH, KW, F, C): for each channel of x a window of KH x KW cells with F channels. b (F,) or None.
    Returns y (N, OH, OW, F), of x's dtype; output_padding: see transposed_size. The pixel (h, w) stamps the output
    pixels (h*stride + kh*dilation, w*stride + kw*dilation): those at which a convolution of y with the same window
    would look for its output (h, w). So these are the loops of conv2d_backward, in which dy is spread over dx.
    """
    (sh, sw), (dil_h, dil_w) = pair(stride), pair(dilation)
    (N, H, W, _), (KH, KW, F, _) = x.shape, w.shape
    OH, OW = transposed_size((H, W), (KH, KW), stride, dilation, padding, output_padding)
    pads = resolve_padding((OH, OW), (KH, KW), stride, dilation, padding)

    y_padded = pad(np.zeros((N, OH, OW, F)), pads)
    for n, row, column, c in np.ndindex(x.shape):
        for kh, kw, f in np.ndindex(KH, KW, F):
            down, right = row * sh + kh * dil_h, column * sw + kw * dil_w
            y_padded[n, down, right, f] += float(x[n, row, column, c]) * w[kh, kw, f, c]
    y = crop(y_padded, pads, np.float64)
    return (y if b is None else y + b).astype(x.dtype)


def conv2d_transpose_backward(
    dy: Array, x: Array, w: Array, stride=1, padding="valid", dilation=1, output_padding=None, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """The same loops; each product hands dy to both of its factors. Returns (dx, dw, db), dx None unless need_dx.

    dx[n, h, w] collects dy from where the pixel was stamped: it is a convolution of dy.
    """
    (sh, sw), (dil_h, dil_w) = pair(stride), pair(dilation)
    (KH, KW, F, _) = w.shape
    pads = resolve_padding(dy.shape[1:3], (KH, KW), stride, dilation, padding)
    dy_padded = pad(dy, pads)

    dx, dw = np.zeros(x.shape), np.zeros(w.shape)
    for n, row, column, c in np.ndindex(x.shape):
        for kh, kw, f in np.ndindex(KH, KW, F):
            g = dy_padded[n, row * sh + kh * dil_h, column * sw + kw * dil_w, f]
            dx[n, row, column, c] += g * w[kh, kw, f, c]
            dw[kh, kw, f, c] += g * x[n, row, column, c]
    db = np.zeros(F)
    for n, row, column, f in np.ndindex(dy.shape):
        db[f] += dy[n, row, column, f]
    return dx.astype(x.dtype) if need_dx else None, dw.astype(w.dtype), db.astype(w.dtype)


def transposed_size(size, kernel, stride, dilation, padding, output_padding) -> tuple[int, int]:
    """(OH, OW) of a transposed convolution of images of `size` (H, W): see transposed_length."""
    extras = (None, None) if output_padding is None else pair(output_padding)
    axes = zip(pair(size), pair(kernel), pair(stride), pair(dilation), extras, strict=True)
    rows, columns = (transposed_length(length, k, s, d, padding, extra) for length, k, s, d, extra in axes)
    return rows, columns


def transposed_length(length: int, kernel: int, stride: int, dilation: int, padding: str, extra: int | None) -> int:
    """How long the axis becomes into which `length` cells stamp a window of `kernel` cells.

    With padding "valid" the stamps are whole: the last one begins at (length - 1) * stride. With "same" the axis is
    `stride` times as long, and what the stamps reach beyond it is cut off. `extra` cells (output_padding) are added at
    the end; None: as many as make a stride of each cell. An example with 2 cells, a window of 3 and a stride of 2:

        0 1 2 . .      valid: 5        0 1 2 . |       same: 4
        . . 0 1 2                      . . 0 1 | 2
    """
    reach = (kernel - 1) * dilation + 1
    if padding == "same":
        return length * stride if extra is None else (length - 1) * stride + reach % 2 + extra
    return (length - 1) * stride + (max(reach, stride) if extra is None else reach + extra)


# --- im2col: convolution as one matrix product --------------------------------------------------------------


def im2col(x: Array, kernel_size, stride=1, padding="valid", dilation=1) -> Array:
    """Write what each window sees as one row of a table: (N*OH*OW, KH*KW*C), of x's dtype.

    x (N, H, W, C); kernel_size (KH, KW), the size of the window. The padding is 0.
    Row (n, oh, ow) is an output pixel; column (kh, kw, c) is a cell of the window. Then
    conv2d(x, w) is `im2col(x) @ w.reshape(KH*KW*C, F)`.
    """
    (KH, KW), (sh, sw), (dil_h, dil_w) = pair(kernel_size), pair(stride), pair(dilation)
    N, H, W, C = x.shape
    pads = resolve_padding((H, W), kernel_size, stride, dilation, padding)
    OH, OW = output_size((H, W), kernel_size, stride, dilation, pads)
    x_padded = pad(x, pads)

    cols = np.empty((N * OH * OW, KH * KW * C), dtype=x.dtype)
    for row, (n, oh, ow) in enumerate(np.ndindex(N, OH, OW)):
        for column, (kh, kw, c) in enumerate(np.ndindex(KH, KW, C)):
            cols[row, column] = x_padded[n, oh * sh + kh * dil_h, ow * sw + kw * dil_w, c]
    return cols


def col2im(cols: Array, input_shape, kernel_size, stride=1, padding="valid", dilation=1) -> Array:
    """Carry each entry of the table back to the pixel it was copied from, and add: the adjoint of im2col.

    cols (N*OH*OW, KH*KW*C): row (n, oh, ow), column (kh, kw, c), as im2col writes them. Returns (N, H, W, C) =
    input_shape, of cols' dtype. What was copied from the padding belongs to no pixel.

    Where windows overlap, a pixel was copied several times, and gets the sum of its copies.
    """
    (KH, KW), (sh, sw), (dil_h, dil_w) = pair(kernel_size), pair(stride), pair(dilation)
    N, H, W, C = input_shape
    pads = resolve_padding((H, W), kernel_size, stride, dilation, padding)
    OH, OW = output_size((H, W), kernel_size, stride, dilation, pads)

    x_padded = pad(np.zeros(input_shape), pads)
    for row, (n, oh, ow) in enumerate(np.ndindex(N, OH, OW)):
        for column, (kh, kw, c) in enumerate(np.ndindex(KH, KW, C)):
            x_padded[n, oh * sh + kh * dil_h, ow * sw + kw * dil_w, c] += cols[row, column]
    return crop(x_padded, pads, cols.dtype)


# Convolution once more, with the windows in rows. What is left is the arithmetic of matrices, as in a dense layer:
#
#     y = cols @ matrix + b        dmatrix = cols.T @ dy        dcols = dy @ matrix.T
#
# with cols (N*OH*OW, KH*KW*C), matrix (KH*KW*C, F), and y and dy as (N*OH*OW, F).


def conv2d_product(x: Array, w: Array, b: Array | None = None, stride=1, padding="valid", dilation=1) -> Array:
    """The same y (N, OH, OW, F) as conv2d_forward, by one matrix product: cols @ matrix + b.

    cols = im2col(x, ...) has one row for each output pixel. The filters w (KH, KW, C, F) become a matrix with one
    row for each cell of the window and one column for each filter. b (F,) may be None.
    """
    (N, H, W, _), (KH, KW, _, F) = x.shape, w.shape
    pads = resolve_padding((H, W), (KH, KW), stride, dilation, padding)
    OH, OW = output_size((H, W), (KH, KW), stride, dilation, pads)
    cols = im2col(x, (KH, KW), stride, padding, dilation)
    rows = cols @ w.reshape(-1, F)
    if b is not None:
        rows = rows + b
    return rows.reshape(N, OH, OW, F)


def conv2d_dw(dy: Array, x: Array, w: Array, stride=1, padding="valid", dilation=1) -> Array:
    """dw (KH, KW, C, F): the gradient with respect to the filters, by one matrix product, cols.T @ dy.

    dy (N, OH, OW, F), x (N, H, W, C). Each weight meets one column of cols = im2col(x, ...): its gradient is the sum,
    over all output pixels, of what it was multiplied by times dy. w itself is needed for its shape only.
    """
    KH, KW, _, F = w.shape
    cols = im2col(x, (KH, KW), stride, padding, dilation)
    dmatrix = cols.T @ dy.reshape(-1, F)
    return dmatrix.reshape(w.shape)


def conv2d_dx(dy: Array, input_shape, w: Array, stride=1, padding="valid", dilation=1) -> Array:
    """dx (N, H, W, C) = input_shape: the gradient with respect to the images, by col2im of dy @ matrix.T.

    dy (N, OH, OW, F), w (KH, KW, C, F). Row by row, each output pixel says what it wants of the cells in its window;
    col2im carries that back to the pixels, and adds it up where windows overlap.
    """
    KH, KW, _, F = w.shape
    dcols = dy.reshape(-1, F) @ w.reshape(-1, F).T
    return col2im(dcols, input_shape, (KH, KW), stride, padding, dilation)


def conv2d_dx_turned(dy: Array, input_shape, w: Array, padding="valid") -> Array:
    """The same dx for stride 1, as a convolution of dy with the filters turned by 180 degrees.

        y[i] = sum over k of x[i + k - before] * w[k]        so x[j] meets w[k] in the output i = j - k + before:
        dx[j] = sum over k of dy[j - k + before] * w[k]      and k now counts backwards.

    Turn the filters in height and width, and exchange their channels: what was C in is C out. A border of
    KH - 1 - top cells above dy (and so on, on all four sides) makes the result as large as x: (N, H, W, C).
    """
    KH, KW = w.shape[:2]
    (top, bottom), (left, right) = resolve_padding(input_shape[1:3], (KH, KW), 1, 1, padding)
    turned = w[::-1, ::-1].transpose(0, 1, 3, 2)
    border = (KH - 1 - top, KH - 1 - bottom), (KW - 1 - left, KW - 1 - right)
    return conv2d_product(dy, turned, None, 1, border)


def winograd_f23(d: Array, g: Array) -> Array:
    """Winograd's F(2, 3): two outputs of a filter with three weights, by 4 multiplications of data instead of 6.

        y0 = d0 g0 + d1 g1 + d2 g2
        y1 = d1 g0 + d2 g1 + d3 g2

    d (4, ...): four neighbouring inputs; g (3, ...): the weights; result (2, ...). d[0], g[0] and so on may be numbers
    or arrays (of all images and channels). The four products, a factor of data and a factor of weights each:

        (d0 - d2) g0      (d1 + d2) (g0 + g1 + g2) / 2      (d2 - d1) (g0 - g1 + g2) / 2      (d1 - d3) g2

    The factors of weights, with their halves, are computed once for a whole image. Both outputs are sums and
    differences of the products: write these out in d and g to see which. (Lavin and Gray, 2016, section 4.1.)
    """
    m1 = (d[0] - d[2]) * g[0]
    m2 = (d[1] + d[2]) * ((g[0] + g[1] + g[2]) / 2)
    m3 = (d[2] - d[1]) * ((g[0] - g[1] + g[2]) / 2)
    m4 = (d[1] - d[3]) * g[2]
    return np.stack([m1 + m2 + m3, m2 - m3 - m4])


# --- Pooling ------------------------------------------------------------------------------------------------


def maxpool2d_forward(
    x: Array, pool_size, stride=None, padding="valid", winners: bool = True
) -> tuple[Array, Array | None]:
    """Each window hands on its largest value, and we note which cell it was (channel by channel).

    x (N, H, W, C); pool_size: the window's size, a number or (KH, KW); stride None: the same. Returns y and winner,
    both (N, OH, OW, C): y of x's dtype, winner whole numbers.
    The border is filled with -inf, so that it never wins, not even over negative pixels. Among equals the
    first one wins, row by row. The winner is noted as kh*KW + kw, counted inside the window.
    """
    (KH, KW), (sh, sw) = pair(pool_size), pair(pool_size if stride is None else stride)
    N, H, W, C = x.shape
    pads = resolve_padding((H, W), (KH, KW), (sh, sw), 1, padding)
    OH, OW = output_size((H, W), (KH, KW), (sh, sw), 1, pads)
    x_padded = pad(x, pads, value=-np.inf)

    y = np.zeros((N, OH, OW, C), dtype=x.dtype)
    winner = np.zeros((N, OH, OW, C), dtype=np.int64)
    for n, oh, ow, c in np.ndindex(N, OH, OW, C):
        best = -np.inf
        for kh, kw in np.ndindex(KH, KW):
            value = x_padded[n, oh * sh + kh, ow * sw + kw, c]
            if value > best:
                best = value
                winner[n, oh, ow, c] = kh * KW + kw
        y[n, oh, ow, c] = best
    return y, winner if winners else None


def maxpool2d_backward(
    dy: Array, winner: Array, input_shape, pool_size, stride=None, padding="valid"
) -> Array:
    """The whole gradient of an output goes to its winner: moving any other pixel a little changes nothing.

    dy and winner (N, OH, OW, C); returns dx (N, H, W, C) = input_shape, of dy's dtype. winner: kh*KW + kw of the cell.
    A pixel may win in several overlapping windows: hence `+=`.
    """
    (KH, KW), (sh, sw) = pair(pool_size), pair(pool_size if stride is None else stride)
    pads = resolve_padding(input_shape[1:3], (KH, KW), (sh, sw), 1, padding)

    dx_padded = pad(np.zeros(input_shape), pads)
    for n, oh, ow, c in np.ndindex(dy.shape):
        kh, kw = divmod(int(winner[n, oh, ow, c]), KW)
        dx_padded[n, oh * sh + kh, ow * sw + kw, c] += dy[n, oh, ow, c]
    return crop(dx_padded, pads, dy.dtype)


def avgpool2d_forward(x: Array, pool_size, stride=None, padding="valid") -> Array:
    """Each window hands on the mean of its pixels. Cells of the border are no pixels and are not counted."""
    (KH, KW), (sh, sw) = pair(pool_size), pair(pool_size if stride is None else stride)
    N, H, W, C = x.shape
    pads = resolve_padding((H, W), (KH, KW), (sh, sw), 1, padding)
    OH, OW = output_size((H, W), (KH, KW), (sh, sw), 1, pads)
    x_padded = pad(x, pads)
    is_pixel = pad(np.ones(x.shape), pads)

    y = np.zeros((N, OH, OW, C), dtype=x.dtype)
    for n, oh, ow, c in np.ndindex(N, OH, OW, C):
        total = count = 0.0
        for kh, kw in np.ndindex(KH, KW):
            total += x_padded[n, oh * sh + kh, ow * sw + kw, c]
            count += is_pixel[n, oh * sh + kh, ow * sw + kw, c]
        y[n, oh, ow, c] = total / count
    return y


def avgpool2d_backward(dy: Array, input_shape, pool_size, stride=None, padding="valid") -> Array:
    """Each of the window's `count` pixels had the weight 1 / count, and gets that share of the gradient."""
    (KH, KW), (sh, sw) = pair(pool_size), pair(pool_size if stride is None else stride)
    pads = resolve_padding(input_shape[1:3], (KH, KW), (sh, sw), 1, padding)
    is_pixel = pad(np.ones(input_shape), pads)

    dx_padded = np.zeros(is_pixel.shape)
    for n, oh, ow, c in np.ndindex(dy.shape):
        count = 0.0
        for kh, kw in np.ndindex(KH, KW):
            count += is_pixel[n, oh * sh + kh, ow * sw + kw, c]
        for kh, kw in np.ndindex(KH, KW):
            dx_padded[n, oh * sh + kh, ow * sw + kw, c] += dy[n, oh, ow, c] / count
    return crop(dx_padded, pads, dy.dtype)


def global_avgpool2d_forward(x: Array) -> Array:
    """The mean of each channel over the whole image: (N, H, W, C) -> (N, C)."""
    N, H, W, C = x.shape
    y = np.zeros((N, C), dtype=x.dtype)
    for n, c in np.ndindex(N, C):
        total = 0.0
        for h, v in np.ndindex(H, W):
            total += float(x[n, h, v, c])
        y[n, c] = total / (H * W)
    return y


def global_avgpool2d_backward(dy: Array, input_shape) -> Array:
    """Every pixel had the weight 1 / (H*W)."""
    N, H, W, C = input_shape
    dx = np.zeros(input_shape, dtype=dy.dtype)
    for n, h, v, c in np.ndindex(N, H, W, C):
        dx[n, h, v, c] = dy[n, c] / (H * W)
    return dx


# --- Dense --------------------------------------------------------------------------------------------------


def dense_forward(x: Array, w: Array, b: Array | None = None) -> Array:
    """Each output is a weighted sum of all inputs: y[n, o] = b[o] + sum over i of x[n, i] * w[i, o].

    x (..., in), w (in, out), b (out,) or None, y (..., out): all axes but the last only count samples.
    """
    inputs, outputs = w.shape
    y = np.zeros((*x.shape[:-1], outputs), dtype=x.dtype)
    for n in np.ndindex(x.shape[:-1]):
        for o in range(outputs):
            total = 0.0 if b is None else float(b[o])
            for i in range(inputs):
                total += float(x[(*n, i)]) * float(w[i, o])
            y[(*n, o)] = total
    return y


def dense_backward(dy: Array, x: Array, w: Array, need_dx: bool = True) -> tuple[Array | None, Array, Array]:
    """The product x[n, i] * w[i, o] hands dy[n, o] to both of its factors; samples add up in dw and db.

    dy (..., out), x (..., in), w (in, out). Returns (dx, dw, db): the shapes of x, w and b (out,).
    need_dx False: nobody asks for dx, and it may be None.
    """
    dx, dw, db = np.zeros(x.shape), np.zeros(w.shape), np.zeros(w.shape[1])
    for n in np.ndindex(x.shape[:-1]):
        for o in range(w.shape[1]):
            g = float(dy[(*n, o)])
            db[o] += g
            for i in range(w.shape[0]):
                dx[(*n, i)] += g * w[i, o]
                dw[i, o] += g * x[(*n, i)]
    return dx.astype(x.dtype) if need_dx else None, dw.astype(w.dtype), db.astype(w.dtype)


# --- Batch normalisation (Ioffe and Szegedy, 2015, algorithm 1) ---------------------------------------------
#
# The batch is a table: one column a channel, one row for each pixel of each image, (N*H*W, C).
# `all_reduce` adds up an array over the shards of a batch; None means that x is the whole batch.


def batchnorm_moments(x: Array, all_reduce: AllReduce | None = None) -> tuple[Array, Array, int]:
    """Mean and variance of each channel over the whole batch, and the number of rows that went into them.

    x (N, C) or (N, H, W, C). Returns (mean (C,), variance (C,), count), the first two of x's dtype.

    First the mean, then the mean square distance from it (divided by the count, not by count - 1).
    """
    add_up = all_reduce or (lambda partial: partial)
    C = x.shape[-1]
    table = x.reshape(-1, C)

    total = np.zeros(C)
    for r, c in np.ndindex(table.shape):
        total[c] += table[r, c]
    count = int(add_up(np.array([float(len(table))]))[0])
    mean = add_up(total) / count

    squares = np.zeros(C)
    for r, c in np.ndindex(table.shape):
        squares[c] += (table[r, c] - mean[c]) ** 2
    var = add_up(squares) / count
    return mean.astype(x.dtype), var.astype(x.dtype), count


def batchnorm_statistics(
    x: Array, moving_mean: Array, moving_variance: Array, momentum: float, all_reduce: AllReduce | None = None
) -> tuple[Array, Array, Array, Array]:
    """Mean and variance of the batch, and the running means after it: a little of the new, the rest of the old.

    All of shape (C,).
    """
    mean, var, _ = batchnorm_moments(x, all_reduce)
    new_mean, new_variance = np.zeros(mean.shape, mean.dtype), np.zeros(var.shape, var.dtype)
    for c in range(x.shape[-1]):
        new_mean[c] = momentum * moving_mean[c] + (1 - momentum) * mean[c]
        new_variance[c] = momentum * moving_variance[c] + (1 - momentum) * var[c]
    return mean, var, new_mean, new_variance


def batchnorm_forward(x: Array, gamma: Array, beta: Array, mean: Array, var: Array, eps: float) -> Array:
    """Bring each channel to mean 0 and variance 1, then let it learn its own: gamma * x_hat + beta.

    x (N, C) or (N, H, W, C); gamma, beta, mean, var (C,). y has x's shape and dtype. x_hat = (x - mean) / std, and
    std = sqrt(var + eps): eps, a small number, keeps it from being 0.
    """
    y = np.zeros(x.shape, dtype=x.dtype)
    for index in np.ndindex(x.shape):
        c = index[-1]
        x_hat = (float(x[index]) - float(mean[c])) / math.sqrt(float(var[c]) + eps)
        y[index] = float(gamma[c]) * x_hat + float(beta[c])
    return y


def batchnorm_backward(
    dy: Array,
    x: Array,
    gamma: Array,
    mean: Array,
    var: Array,
    eps: float,
    all_reduce: AllReduce | None = None,
    need_dx: bool = True,
) -> tuple[Array | None, Array, Array]:
    """The chain rule through three paths: x reaches y directly, through the mean, and through the variance.

    dy and x (N, C) or (N, H, W, C); gamma, mean, var (C,). Returns (dx, dgamma, dbeta): the shapes of x, gamma, beta.

        x_hat = (x - mean) / std         std = sqrt(var + eps)
        y     = gamma * x_hat + beta

    With m rows, each x contributes 1/m to its channel's mean and 2 (x - mean) / m to its variance.
    dgamma and dbeta are sums over this shard only, like every layer's gradients; dmean and dvar belong to
    the whole batch.
    """
    add_up = all_reduce or (lambda partial: partial)
    C = x.shape[-1]
    table, dtable = x.reshape(-1, C).astype(np.float64), dy.reshape(-1, C).astype(np.float64)
    m = int(add_up(np.array([float(len(table))]))[0])
    std = np.array([math.sqrt(float(var[c]) + eps) for c in range(C)])

    dgamma, dbeta, dmean, dvar = np.zeros(C), np.zeros(C), np.zeros(C), np.zeros(C)
    for r, c in np.ndindex(table.shape):
        distance = table[r, c] - mean[c]
        dgamma[c] += dtable[r, c] * distance / std[c]
        dbeta[c] += dtable[r, c]
        dx_hat = dtable[r, c] * gamma[c]
        dvar[c] += dx_hat * distance * (-1 / 2) / std[c] ** 3  # d(1/std)/dvar = -1/2 std^-3
        dmean[c] += dx_hat * (-1 / std[c])
    dmean, dvar = add_up(dmean), add_up(dvar)
    # The mean moves the variance too, by the sum of -2 (x - mean) / m. But distances from the mean sum to 0.

    dx = np.zeros(table.shape)
    for r, c in np.ndindex(table.shape):
        direct = dtable[r, c] * gamma[c] / std[c]
        through_mean = dmean[c] / m
        through_variance = dvar[c] * 2 * (table[r, c] - mean[c]) / m
        dx[r, c] = direct + through_mean + through_variance
    result = dx.reshape(x.shape).astype(x.dtype) if need_dx else None
    return result, dgamma.astype(gamma.dtype), dbeta.astype(gamma.dtype)


def batchnorm_eval_backward(
    dy: Array, x: Array, gamma: Array, mean: Array, var: Array, eps: float, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """With a fixed mean and variance only the direct path is left."""
    C = x.shape[-1]
    dx, dgamma, dbeta = np.zeros(x.shape), np.zeros(C), np.zeros(C)
    for index in np.ndindex(x.shape):
        c = index[-1]
        g, std = float(dy[index]), math.sqrt(float(var[c]) + eps)
        dx[index] = g * float(gamma[c]) / std
        dgamma[c] += g * (float(x[index]) - float(mean[c])) / std
        dbeta[c] += g
    return dx.astype(x.dtype) if need_dx else None, dgamma.astype(gamma.dtype), dbeta.astype(gamma.dtype)


# --- Dropout (Srivastava et al., 2014), inverted ------------------------------------------------------------


def dropout_forward(x: Array, mask: Array, rate: float) -> Array:
    """Keep x where the mask says so, else 0. What is kept grows by 1 / (1 - rate), so that the mean stays.

    x of any shape, mask boolean of the same shape (True: keep), rate the share that is dropped.
    The growth happens here, in training; nothing at all is left to do at test time.
    """
    y = np.zeros(x.shape, dtype=x.dtype)
    for index in np.ndindex(x.shape):
        if mask[index]:
            y[index] = float(x[index]) / (1 - rate)
    return y


def dropout_backward(dy: Array, mask: Array, rate: float) -> Array:
    """What was kept had the slope 1 / (1 - rate); what was dropped has the slope 0. dx has dy's shape and dtype."""
    dx = np.zeros(dy.shape, dtype=dy.dtype)
    for index in np.ndindex(dy.shape):
        if mask[index]:
            dx[index] = float(dy[index]) / (1 - rate)
    return dx


# --- Noise --------------------------------------------------------------------------------------------------


def gaussian_noise(x: Array, seed: int, first: int = 0) -> Array:
    """A standard normal number for each of x (N, …), of which the first sample is number `first` of the batch.

    Each is made of a counter alone, so that it does not matter who draws first. Whole numbers have 64 bits: what goes
    beyond is cut off.
    """
    bits64, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mixed(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & bits64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & bits64
        return z ^ (z >> 31)

    noise, start = np.zeros(x.size), mixed((seed + 1) * golden & bits64)
    for k in range(x.size):
        counter = first * math.prod(x.shape[1:]) + k
        bits = mixed((counter * golden + start) & bits64)
        u, v = ((bits >> 32) + 0.5) / 2**32, (bits & 0xFFFFFFFF) / 2**32
        noise[k] = math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v)
    return noise.reshape(x.shape).astype(x.dtype)


# --- Activations: one number in, one number out -------------------------------------------------------------


def _each(f: Callable[..., float], *arrays: Array) -> Array:
    """f of the first elements, f of the second elements, and so on."""
    result = np.zeros(arrays[0].shape, dtype=arrays[0].dtype)
    for index in np.ndindex(result.shape):
        result[index] = f(*(float(a[index]) for a in arrays))
    return result


def relu_forward(x: Array) -> Array:
    """Negative numbers become 0, all others stay: y = max(x, 0). Any shape."""
    y = np.zeros(x.shape, dtype=x.dtype)
    for index in np.ndindex(x.shape):
        if x[index] > 0:
            y[index] = x[index]
    return y


def bias_relu(z: Array, b: Array) -> Array:
    """Add each channel's bias, then negative numbers become 0."""
    y = np.empty_like(z)
    for place in np.ndindex(z.shape):
        y[place] = max(z[place] + b[place[-1]], 0.0)
    return y


def relu_backward(dy: Array, y: Array) -> Array:
    """The slope is 1 where the output y is positive, else 0 (at the kink, too): dx = dy * slope. Any shape."""
    dx = np.zeros(dy.shape, dtype=dy.dtype)
    for index in np.ndindex(dy.shape):
        if y[index] > 0:
            dx[index] = dy[index]
    return dx


def leaky_relu_forward(x: Array, negative_slope: float) -> Array:
    """Negative numbers shrink instead of vanishing."""
    return _each(lambda v: v if v > 0 else negative_slope * v, x)


def leaky_relu_backward(dy: Array, y: Array, negative_slope: float) -> Array:
    """The slope is 1 where the output is positive, else negative_slope."""
    return _each(lambda g, out: g if out > 0 else negative_slope * g, dy, y)


def elu_forward(x: Array, alpha: float = 1.0) -> Array:
    """alpha * (e^x - 1) for negative x: a smooth bend down to -alpha (Clevert et al., 2016)."""
    return _each(lambda v: v if v > 0 else alpha * math.expm1(v), x)


def elu_backward(dy: Array, y: Array, alpha: float = 1.0) -> Array:
    """The slope alpha * e^x is y + alpha."""
    return _each(lambda g, out: g if out > 0 else g * (out + alpha), dy, y)


def sigmoid_forward(x: Array) -> Array:
    """1 / (1 + e^-x), written for each sign so that e^... never overflows."""

    def sigmoid(v: float) -> float:
        return 1 / (1 + math.exp(-v)) if v >= 0 else math.exp(v) / (1 + math.exp(v))

    return _each(sigmoid, x)


def sigmoid_backward(dy: Array, y: Array) -> Array:
    """The slope is y * (1 - y)."""
    return _each(lambda g, out: g * out * (1 - out), dy, y)


def tanh_forward(x: Array) -> Array:
    """The hyperbolic tangent."""
    return _each(math.tanh, x)


def tanh_backward(dy: Array, y: Array) -> Array:
    """The slope is 1 - y^2."""
    return _each(lambda g, out: g * (1 - out * out), dy, y)


def silu_forward(x: Array) -> Array:
    """x / (1 + e^-x): nearly 0 for very negative x, nearly x for large ones, with a dip below 0 between."""
    return x * sigmoid_forward(x)


def silu_backward(dy: Array, x: Array) -> Array:
    """The slope, by the rule for products, is s + x * s * (1 - s), s being the sigmoid."""
    return _each(lambda g, v, s: g * (s + v * s * (1 - s)), dy, x, sigmoid_forward(x))


def mish_forward(x: Array) -> Array:
    """x * tanh(softplus(x))."""
    return _each(lambda v, p: v * math.tanh(p), x, softplus_forward(x))


def mish_backward(dy: Array, x: Array) -> Array:
    """By the rules for products and chains: tanh(p) + x * (1 - tanh(p)^2) * sigmoid(x), p being softplus(x)."""

    def slope(g: float, v: float, p: float, s: float) -> float:
        return g * (math.tanh(p) + v * (1 - math.tanh(p) ** 2) * s)

    return _each(slope, dy, x, softplus_forward(x), sigmoid_forward(x))


def softplus_forward(x: Array) -> Array:
    """log(1 + e^x), a ReLU without a kink; written so that e^... never overflows."""
    return _each(lambda v: max(v, 0.0) + math.log1p(math.exp(-abs(v))), x)


def softplus_backward(dy: Array, y: Array) -> Array:
    """The slope is the sigmoid of x, which is 1 - e^-y."""
    return _each(lambda g, out: g * -math.expm1(-out), dy, y)


def softsign_forward(x: Array) -> Array:
    """x / (1 + |x|): between -1 and 1, as tanh, but slower to get there."""
    return _each(lambda v: v / (1 + abs(v)), x)


def softsign_backward(dy: Array, y: Array) -> Array:
    """The slope 1 / (1 + |x|)^2 is (1 - |y|)^2."""
    return _each(lambda g, out: g * (1 - abs(out)) ** 2, dy, y)


def selu_forward(x: Array) -> Array:
    """ELU with fixed alpha and scale."""
    return _each(lambda v: 1.0507009873554805 * (v if v > 0 else 1.6732632423543772 * math.expm1(v)), x)


def selu_backward(dy: Array, y: Array) -> Array:
    """The slope scale * alpha * e^x is y + scale * alpha."""
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    return _each(lambda g, out: g * (scale if out > 0 else out + scale * alpha), dy, y)


def relu6_forward(x: Array) -> Array:
    """Between 0 and 6 as it is; cut off there."""
    return _each(lambda v: min(max(v, 0.0), 6.0), x)


def relu6_backward(dy: Array, y: Array) -> Array:
    """The slope is 1 between 0 and 6, else 0."""
    return _each(lambda g, out: g if 0 < out < 6 else 0.0, dy, y)


def hard_sigmoid_forward(x: Array) -> Array:
    """Three straight lines for a sigmoid: 0 up to -3, x / 6 + 1/2, 1 from 3 on."""
    return _each(lambda v: min(max(v / 6 + 0.5, 0.0), 1.0), x)


def hard_sigmoid_backward(dy: Array, y: Array) -> Array:
    """The slope is 1/6 between, else 0."""
    return _each(lambda g, out: g / 6 if 0 < out < 1 else 0.0, dy, y)


def exponential_forward(x: Array) -> Array:
    """e^x."""
    return _each(math.exp, x)


def exponential_backward(dy: Array, y: Array) -> Array:
    """The slope of e^x is e^x itself."""
    return _each(lambda g, out: g * out, dy, y)


def prelu_forward(x: Array, alpha: Array) -> Array:
    """Each place of a sample has a slope for numbers below 0; places that share one have 1 in alpha's shape there."""
    y = np.zeros(x.shape, dtype=x.dtype)
    for place in np.ndindex(x.shape):
        own = tuple(i if n > 1 else 0 for i, n in zip(place[1:], alpha.shape, strict=True))
        y[place] = x[place] if x[place] > 0 else alpha[own] * x[place]
    return y


def prelu_backward(dy: Array, x: Array, alpha: Array) -> tuple[Array, Array]:
    """dx = dy * slope; each slope gathers dy * x from all places below 0 that use it."""
    dx, dalpha = np.zeros(x.shape, dtype=x.dtype), np.zeros(alpha.shape, dtype=np.float64)
    for place in np.ndindex(x.shape):
        own = tuple(i if n > 1 else 0 for i, n in zip(place[1:], alpha.shape, strict=True))
        if x[place] > 0:
            dx[place] = dy[place]
        else:
            dx[place] = dy[place] * alpha[own]
            dalpha[own] += float(dy[place]) * float(x[place])
    return dx, dalpha.astype(alpha.dtype)


def log_softmax_backward(dy: Array, y: Array) -> Array:
    """dx_j = dy_j - p_j * (sum of dy), p = e^y."""
    dx = np.zeros(dy.shape, dtype=dy.dtype)
    for row in np.ndindex(dy.shape[:-1]):
        total = sum(float(g) for g in dy[row])
        for j in range(dy.shape[-1]):
            dx[row][j] = dy[row][j] - math.exp(y[row][j]) * total
    return dx


def gelu_forward(x: Array, approximate: bool = False) -> Array:
    """x times the probability that a standard normal number is smaller than x (Hendrycks and Gimpel, 2016).

    approximate: their formula with tanh in place of the error function.
    """

    def gelu(v: float) -> float:
        if approximate:
            return 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
        return 0.5 * v * (1 + math.erf(v / math.sqrt(2)))

    return _each(gelu, x)


def gelu_backward(dy: Array, x: Array, approximate: bool = False) -> Array:
    """Product rule: the probability, plus x times its slope, the bell curve."""

    return dy * gelu_with_slope(x, approximate)[1]


def gelu_with_slope(x: Array, approximate: bool = False) -> tuple[Array, Array]:
    """gelu_forward, and by what gelu_backward multiplies dy."""

    def slope(v: float) -> float:
        if approximate:
            t = math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))
            dt = (1 - t * t) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * v**2)
            return 0.5 * (1 + t) + 0.5 * v * dt
        bell = math.exp(-v * v / 2) / math.sqrt(2 * math.pi)
        return 0.5 * (1 + math.erf(v / math.sqrt(2))) + v * bell

    return gelu_forward(x, approximate), _each(slope, x)


# --- Softmax and cross-entropy ------------------------------------------------------------------------------


def softmax_forward(x: Array) -> Array:
    """e^x, divided by the sum of the row: positive numbers that add up to 1, along the last axis.

    x (..., K): rows of K numbers; y has x's shape and dtype.
    Subtracting the row's largest value first changes nothing but keeps e^x from overflowing.
    """
    y = np.zeros(x.shape, dtype=x.dtype)
    for n in np.ndindex(x.shape[:-1]):
        row = [float(v) for v in x[n]]
        powers = [math.exp(v - max(row)) for v in row]
        for k, power in enumerate(powers):
            y[(*n, k)] = power / sum(powers)
    return y


def softmax_backward(dy: Array, y: Array) -> Array:
    """Every output depends on every input of its row: the slopes form a full K x K matrix, the Jacobian.

    dy and y (..., K), y what softmax_forward gave; returns dx, of y's shape and dtype. With i an output, j an input:

    dy_i / dx_j  =  y_i * (1 - y_j) if i = j (raising an input raises its own output),
                    y_i * (0 - y_j) if not   (and lowers all others, for they sum to 1).
    """
    K = y.shape[-1]
    dx = np.zeros(y.shape, dtype=y.dtype)
    for n in np.ndindex(y.shape[:-1]):
        out = [float(v) for v in y[n]]
        jacobian = [[out[i] * ((i == j) - out[j]) for j in range(K)] for i in range(K)]
        for j in range(K):
            dx[(*n, j)] = sum(float(dy[(*n, i)]) * jacobian[i][j] for i in range(K))
    return dx


def log_softmax(x: Array) -> Array:
    """log(softmax(x)) = x - log(sum of e^x), without taking the log of a number that may have become 0."""
    y = np.zeros(x.shape, dtype=x.dtype)
    for n in np.ndindex(x.shape[:-1]):
        row = [float(v) for v in x[n]]
        largest = max(row)
        log_sum = largest + math.log(sum(math.exp(v - largest) for v in row))
        for k, v in enumerate(row):
            y[(*n, k)] = v - log_sum
    return y


def as_probabilities(target: Array, shape: tuple[int, int]) -> Array:
    """The label 2 of 4 classes is the distribution [0, 0, 1, 0]; distributions are taken as they are."""
    if target.ndim == 2:
        return target
    table = np.zeros(shape)
    for n, label in enumerate(target):
        table[n, label] = 1.0
    return table


def softmax_cross_entropy_forward(logits: Array, target: Array) -> Array:
    """How surprised the prediction is by the truth: -sum over k of target_k * log(softmax(logits)_k).

    logits (N, K); target (N, K) probabilities or (N,) integer labels; result (N,), one loss a sample, of logits' dtype.
    """
    log_p = log_softmax(logits.astype(np.float64))
    t = as_probabilities(target, logits.shape)
    loss = np.zeros(len(logits), dtype=logits.dtype)
    for n in range(len(logits)):
        loss[n] = -sum(float(t[n, k]) * log_p[n, k] for k in range(logits.shape[1]))
    return loss


def softmax_cross_entropy_backward(
    logits: Array, target: Array, batch_size: int | None = None, p: Array | None = None
) -> Array:
    """Prediction minus truth, divided by the batch size: the gradient of the mean loss.

    logits (N, K), target as in the forward pass; returns dlogits (N, K), of their dtype. p: the softmax, t: the truth.

        d log p_k / d logit_j = (k = j) - p_j,     so    -sum over k of t_k * ((k = j) - p_j)  =  p_j * sum of t - t_j,

    and the t_k of a distribution add up to 1. batch_size: the samples in the whole batch, if logits is only a shard of
    it. p: the softmax of the logits, if it is known already.
    """
    p = softmax_forward(logits.astype(np.float64)) if p is None else p
    t = as_probabilities(target, logits.shape)
    dlogits = np.zeros(logits.shape, dtype=logits.dtype)
    for n, k in np.ndindex(logits.shape):
        dlogits[n, k] = (p[n, k] * float(t[n].sum()) - float(t[n, k])) / (batch_size or len(logits))
    return dlogits


# --- Optimizers: one step for one array of parameters ---------------------------------------------------------


def sgd_step(p: Array, g: Array, lr: float) -> Array:
    """Stochastic gradient descent: the new parameters, a small step down the gradient. p and g have one shape."""
    return p - lr * g


def momentum_step(p: Array, g: Array, m: Array, lr: float, momentum: float) -> tuple[Array, Array]:
    """With momentum: (new p, new m). m is the step itself: a part of the last one, and a step down the gradient.

    The new m is momentum times m, less lr times g; then m is added to p. Where gradients agree for a while, the steps
    grow; where they change their sign, they cancel.
    """
    m = momentum * m - lr * g
    return p + m, m


def adam_step(
    p: Array, g: Array, m: Array, v: Array, t: int, lr: float, beta_1: float, beta_2: float, epsilon: float
) -> tuple[Array, Array, Array]:
    """Adam: (new p, new m, new v) in the step t = 1, 2, ... (Kingma and Ba, 2015, the form at the end of section 2).

        m  <-  beta_1 m + (1 - beta_1) g            the running mean of the gradient
        v  <-  beta_2 v + (1 - beta_2) g²           the running mean of its square, number by number
        p  <-  p - alpha m / (sqrt(v) + epsilon)    alpha = lr sqrt(1 - beta_2^t) / (1 - beta_1^t)

    m and v start at 0 and are too small at first. alpha makes up for that; m and v themselves stay as they are.
    """
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g * g
    alpha = lr * math.sqrt(1 - beta_2**t) / (1 - beta_1**t)
    return p - alpha * m / (np.sqrt(v) + epsilon), m, v


# --- Where branches meet --------------------------------------------------------------------------------------


def _at(x: Array, index: tuple[int, ...]) -> tuple[int, ...]:
    """The place of x that is used at `index` of the result: an axis of length 1 is repeated."""
    return tuple(0 if n == 1 else i for i, n in zip(index, x.shape, strict=True))


def _merged(f: Callable[..., float], xs) -> Array:
    """f of the numbers of all xs at the same place, for each place."""
    y = np.zeros(np.broadcast_shapes(*(x.shape for x in xs)))
    for index in np.ndindex(y.shape):
        y[index] = f([float(x[_at(x, index)]) for x in xs])
    return y.astype(xs[0].dtype)


def _spread(dy: Array, shapes, slope: Callable[..., float]) -> list[Array]:
    """dx_k += dy * slope(k, index), for each place of the result and each x_k that it was made of."""
    dxs = [np.zeros(shape) for shape in shapes]
    for index in np.ndindex(dy.shape):
        for k, dx in enumerate(dxs):
            dx[_at(dx, index)] += float(dy[index]) * slope(k, index)
    return [dx.astype(dy.dtype) for dx in dxs]


def add_forward(xs) -> Array:
    """y = x_0 + x_1 + ..."""
    return _merged(sum, xs)


def add_backward(dy: Array, shapes) -> list[Array]:
    """Each x_k stands in the sum once: its slope is 1."""
    return _spread(dy, shapes, lambda k, index: 1.0)


def subtract_forward(xs) -> Array:
    """y = x_0 - x_1"""
    return _merged(lambda v: v[0] - v[1], xs)


def subtract_backward(dy: Array, shapes) -> list[Array]:
    """The slopes are 1 and -1."""
    return _spread(dy, shapes, lambda k, index: 1.0 if k == 0 else -1.0)


def multiply_forward(xs) -> Array:
    """y = x_0 * x_1 * ..."""
    return _merged(math.prod, xs)


def multiply_backward(dy: Array, xs) -> list[Array]:
    """The slope of x_k is the product of all others."""

    def others(k: int, index: tuple[int, ...]) -> float:
        return math.prod(float(x[_at(x, index)]) for j, x in enumerate(xs) if j != k)

    return _spread(dy, [x.shape for x in xs], others)


def average_forward(xs) -> Array:
    """y = (x_0 + x_1 + ...) / number"""
    return _merged(lambda v: sum(v) / len(v), xs)


def average_backward(dy: Array, shapes) -> list[Array]:
    """Each slope is 1 / number."""
    return _spread(dy, shapes, lambda k, index: 1 / len(shapes))


def maximum_forward(xs) -> tuple[Array, Array]:
    """y = the largest x_k, and its k; of equal ones the first."""
    return _merged(max, xs), _merged(lambda v: v.index(max(v)), xs).astype(np.min_scalar_type(-len(xs)))


def maximum_backward(dy: Array, winner: Array, shapes) -> list[Array]:
    """Only the largest one moves y: its slope is 1, that of the others 0."""
    return _spread(dy, shapes, lambda k, index: float(winner[index] == k))


def concatenate_forward(xs, axis: int = -1) -> Array:
    """The xs one behind the other along the axis."""
    shape = list(xs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in xs)
    y, start = np.zeros(shape, xs[0].dtype), 0
    for x in xs:
        for index in np.ndindex(x.shape):
            place = list(index)
            place[axis] += start
            y[tuple(place)] = x[index]
        start += x.shape[axis]
    return y


def concatenate_backward(dy: Array, shapes, axis: int = -1) -> list[Array]:
    """The same places, read instead of written."""
    dxs, start = [], 0
    for shape in shapes:
        dx = np.zeros(shape, dy.dtype)
        for index in np.ndindex(dx.shape):
            place = list(index)
            place[axis] += start
            dx[index] = dy[tuple(place)]
        dxs.append(dx)
        start += shape[axis]
    return dxs


def zero_padding2d_forward(x: Array, pads) -> Array:
    """Zeros around each image."""
    return pad(x, pads)


def zero_padding2d_backward(dy: Array, pads) -> Array:
    """The inner part of dy."""
    return crop(dy, pads, dy.dtype)


# --- Rescaling ----------------------------------------------------------------------------------------------


def rescaling_forward(x: Array, scale, offset) -> Array:
    """y = x * scale + offset; both are numbers, or lists of one for each channel."""
    scales, offsets = np.broadcast_to(scale, x.shape[-1:]), np.broadcast_to(offset, x.shape[-1:])
    y = np.zeros(x.shape, dtype=x.dtype)
    for index in np.ndindex(x.shape):
        y[index] = float(x[index]) * scales[index[-1]] + offsets[index[-1]]
    return y


def rescaling_backward(dy: Array, scale) -> Array:
    """Every number was multiplied by the scale of its channel: so is its gradient."""
    scales = np.broadcast_to(scale, dy.shape[-1:])
    dx = np.zeros(dy.shape, dtype=dy.dtype)
    for index in np.ndindex(dy.shape):
        dx[index] = float(dy[index]) * scales[index[-1]]
    return dx


# --- Larger images ------------------------------------------------------------------------------------------


def upsampling2d_forward(x: Array, size, interpolation: str = "nearest") -> Array:
    """Every pixel becomes a block of size (sh, sw): y (N, H·sh, W·sw, C) from x (N, H, W, C).

    "nearest": the new pixel has the number of the old one in which it lies. "bilinear": it is a weighted mean of the
    old pixels around it, see `between`.
    """
    (n, h, w, c), (sh, sw) = x.shape, size
    y = np.zeros((n, h * sh, w * sw, c), dtype=np.float64)
    for b, i, j, k in np.ndindex(y.shape):
        for row, share in between(i, sh, h, interpolation):
            for column, other in between(j, sw, w, interpolation):
                y[b, i, j, k] += float(x[b, row, column, k]) * share * other
    return y.astype(x.dtype)


def upsampling2d_backward(dy: Array, size, interpolation: str = "nearest") -> Array:
    """Each new pixel sends its gradient back to the old ones that it was made of, by the same shares."""
    (n, oh, ow, c), (sh, sw) = dy.shape, size
    h, w = oh // sh, ow // sw
    dx = np.zeros((n, h, w, c), dtype=np.float64)
    for b, i, j, k in np.ndindex(dy.shape):
        for row, share in between(i, sh, h, interpolation):
            for column, other in between(j, sw, w, interpolation):
                dx[b, row, column, k] += float(dy[b, i, j, k]) * share * other
    return dx.astype(dy.dtype)


def between(new: int, scale: int, length: int, interpolation: str) -> list[tuple[int, float]]:
    """Of which old pixels a new one is made along one axis, and of how much of each: [(pixel, share), …].

    Pixels are squares. The centre of the new one lies at (new + 1/2) / scale − 1/2, counted in old pixels from the
    centre of the first one; the two old centres beside it get shares by their nearness. There is nothing beyond the
    border: what would come from there comes from the pixel at the border.
    """
    if interpolation == "nearest":
        return [(new // scale, 1.0)]
    place = (new + 0.5) / scale - 0.5
    left = math.floor(place)
    shares = [(left, 1 - (place - left)), (left + 1, place - left)]
    return [(min(max(pixel, 0), length - 1), share) for pixel, share in shares]


# --- What prepares images -----------------------------------------------------------------------------------


def resize2d_forward(x: Array, size, interpolation: str = "bilinear") -> Array:
    """y (N, OH, OW, C) from x (N, H, W, C): every new pixel is a mean of old ones, see `around`. size: (OH, OW)."""
    (n, h, w, c), (oh, ow) = x.shape, size
    y = np.zeros((n, oh, ow, c), dtype=np.float64)
    for b, i, j, k in np.ndindex(y.shape):
        for row, share in around(i, h, oh, interpolation):
            for column, other in around(j, w, ow, interpolation):
                y[b, i, j, k] += float(x[b, row, column, k]) * share * other
    return y.astype(x.dtype)


def resize2d_backward(dy: Array, size, interpolation: str = "bilinear") -> Array:
    """dx (N, H, W, C): each new pixel sends its gradient back by the same shares. size: that of x, (H, W)."""
    (n, oh, ow, c), (h, w) = dy.shape, size
    dx = np.zeros((n, h, w, c), dtype=np.float64)
    for b, i, j, k in np.ndindex(dy.shape):
        for row, share in around(i, h, oh, interpolation):
            for column, other in around(j, w, ow, interpolation):
                dx[b, row, column, k] += float(dy[b, i, j, k]) * share * other
    return dx.astype(dy.dtype)


def around(new: int, old_length: int, new_length: int, interpolation: str) -> list[tuple[int, float]]:
    """Of which old pixels a new one is made along one axis, and of how much of each: [(pixel, share), …]."""
    place = (new + 0.5) * (old_length / new_length) - 0.5
    if interpolation == "nearest":
        return [(min(math.floor(place + 0.5), old_length - 1), 1.0)]
    left = math.floor(place)
    shares = [(left, 1 - (place - left)), (left + 1, place - left)]
    return [(min(max(pixel, 0), old_length - 1), share) for pixel, share in shares]


def standardize_forward(x: Array, mean: Array, deviation: Array) -> Array:
    """How many deviations each number lies above its mean. mean and deviation spread over x."""
    y = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        y[index] = (float(x[index]) - float(mean[_at(mean, index)])) / float(deviation[_at(deviation, index)])
    return y.astype(x.dtype)


def standardize_backward(dy: Array, deviation: Array) -> Array:
    """A change of x changes y by one part in `deviation`."""
    dx = np.zeros(dy.shape)
    for index in np.ndindex(dy.shape):
        dx[index] = float(dy[index]) / float(deviation[_at(deviation, index)])
    return dx.astype(dy.dtype)


def flip2d(x: Array, flipped: Array) -> Array:
    """Each pixel from the other end of its column where flipped[n, 0], from the other end of its row where [n, 1]."""
    y = np.zeros_like(x)
    _, H, W, _ = x.shape
    for n, i, j, c in np.ndindex(x.shape):
        y[n, i, j, c] = x[n, H - 1 - i if flipped[n, 0] else i, W - 1 - j if flipped[n, 1] else j, c]
    return y


def warp2d_forward(
    x: Array, matrices: Array, fill_mode: str = "reflect", fill_value: float = 0.0, interpolation: str = "bilinear"
) -> Array:
    """y (N, H, W, C): each pixel is looked up in x (N, H, W, C), at (row, column) = matrices[n] @ (i, j, 1)."""
    y = np.zeros(x.shape)
    for n, i, j, c in np.ndindex(x.shape):
        for row, column, share in looked_up(matrices[n], i, j, x.shape[1:3], fill_mode, interpolation):
            inside = 0 <= row < x.shape[1] and 0 <= column < x.shape[2]
            y[n, i, j, c] += share * (float(x[n, row, column, c]) if inside else fill_value)
    return y.astype(x.dtype)


def warp2d_backward(dy: Array, matrices: Array, fill_mode: str = "reflect", interpolation: str = "bilinear") -> Array:
    """dx (N, H, W, C): each pixel that was looked up receives dy times its share."""
    dx = np.zeros(dy.shape)
    for n, i, j, c in np.ndindex(dy.shape):
        for row, column, share in looked_up(matrices[n], i, j, dy.shape[1:3], fill_mode, interpolation):
            if 0 <= row < dy.shape[1] and 0 <= column < dy.shape[2]:
                dx[n, row, column, c] += share * float(dy[n, i, j, c])
    return dx.astype(dy.dtype)


def looked_up(
    matrix: Array, i: int, j: int, size, fill_mode: str, interpolation: str
) -> list[tuple[int, int, float]]:
    """Of which pixels of x the pixel (i, j) of y is made, and of how much of each: [(row, column, share), …]."""
    along = []
    for at, length in zip(matrix @ (i, j, 1), size, strict=True):
        at = float(at)
        if fill_mode == "wrap":
            step = length if at < 0 else -length
            while (at < 0) if step > 0 else (at > length - 1):
                at += step
            at = min(max(at, 0), length - 1)
        elif fill_mode != "constant":
            at = inside_naive(at, length, fill_mode)
        if interpolation == "nearest":
            along.append([(int(at + math.copysign(0.5, at)), 1.0)])
        else:
            first = math.floor(at)
            along.append([(first, 1 - (at - first)), (first + 1, at - first)])
    return [(row, column, f * g) for row, f in along[0] for column, g in along[1]]


# --- The largest number of an image -------------------------------------------------------------------------


def global_maxpool2d_forward(x: Array) -> Array:
    """The largest number of each channel: y (N, C) from x (N, H, W, C)."""
    n, h, w, c = x.shape
    y = np.zeros((n, c), dtype=x.dtype)
    for b in range(n):
        for k in range(c):
            y[b, k] = max(x[b, i, j, k] for i in range(h) for j in range(w))
    return y


def global_maxpool2d_backward(dy: Array, x: Array, y: Array) -> Array:
    """Only the largest pixel had a say in y: it receives dy (N, C). Several that are equally large share it."""
    n, h, w, c = x.shape
    dx = np.zeros(x.shape, dtype=dy.dtype)
    for b in range(n):
        for k in range(c):
            winners = [(i, j) for i in range(h) for j in range(w) if x[b, i, j, k] == y[b, k]]
            for i, j in winners:
                dx[b, i, j, k] = float(dy[b, k]) / len(winners)
    return dx


# --- Group normalisation ------------------------------------------------------------------------------------


def group_of(x: Array, n: int, g: int, groups: int) -> list[tuple[int, ...]]:
    """Where the numbers of group g of sample n lie: at all positions, the channels of the group."""
    size = x.shape[-1] // groups
    return [(n, *at, c) for at in np.ndindex(x.shape[1:-1]) for c in range(g * size, (g + 1) * size)]


def groupnorm_forward(x: Array, gamma: Array, beta: Array, groups: int, eps: float) -> Array:
    """Each group of channels of each sample gets mean 0 and variance 1; then the scale and shift of the channel."""
    y = np.zeros(x.shape, dtype=x.dtype)
    for n in range(len(x)):
        for g in range(groups):
            members = group_of(x, n, g, groups)
            mean = sum(float(x[at]) for at in members) / len(members)
            var = sum((float(x[at]) - mean) ** 2 for at in members) / len(members)
            for at in members:
                y[at] = (float(x[at]) - mean) / math.sqrt(var + eps) * float(gamma[at[-1]]) + float(beta[at[-1]])
    return y


def groupnorm_backward(
    dy: Array, x: Array, gamma: Array, groups: int, eps: float, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """(dx, dgamma, dbeta): x changes its own y, and through the mean and the variance all others of its group."""
    dx, dgamma, dbeta = np.zeros(x.shape), np.zeros(gamma.shape), np.zeros(gamma.shape)
    for n in range(len(x)):
        for g in range(groups):
            members = group_of(x, n, g, groups)
            mean = sum(float(x[at]) for at in members) / len(members)
            var = sum((float(x[at]) - mean) ** 2 for at in members) / len(members)
            x_hat = {at: (float(x[at]) - mean) / math.sqrt(var + eps) for at in members}
            for at in members:
                dgamma[at[-1]] += float(dy[at]) * x_hat[at]
                dbeta[at[-1]] += float(dy[at])
            slope = {at: float(dy[at]) * float(gamma[at[-1]]) for at in members}
            mean_slope = sum(slope.values()) / len(members)
            mean_product = sum(slope[at] * x_hat[at] for at in members) / len(members)
            for at in members:
                dx[at] = (slope[at] - mean_slope - x_hat[at] * mean_product) / math.sqrt(var + eps)
    return dx.astype(x.dtype) if need_dx else None, dgamma.astype(x.dtype), dbeta.astype(x.dtype)
