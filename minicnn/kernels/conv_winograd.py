"""Winograd's convolution: fewer multiplications for kernels of 3×3 and stride 1.

The outputs are cut into tiles of m×m. A tile y needs a tile d of the input with a×a pixels, a = m + 2. Three fixed
matrices turn the convolution of one tile with one kernel g into a product element by element:

    y = At [ (G g Gt) * (Bt d B) ] A        t for transposed; *: element by element

so of 9 multiplications an output pixel a²/m² are left: 4 with m = 2, 2.25 with m = 4. With channels, the product
becomes a sum over c: one matrix product for each of the a² places in the tile.

    u (a, a, C_in, C_out) from w      v (a, a, T, C_in) from x, T tiles      y from v @ u (a, a, T, C_out)

All of it is linear in x and in w. So the backward pass needs no new idea: the same steps in reverse, each
matrix transposed.

    z = A dy At      du = sum over tiles of vᵀ z      dw = Gt du G
                     dv = z uᵀ                        d = B dv Bt, added up where the tiles of x overlap

A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), section 4. The fractions of m = 4 cost a
digit of float32: a relative error near 1e-5 where im2col has 1e-6. The plain formula: conv_im2col.py.
x (N, H, W, C_in), w (3, 3, C_in, C_out), y and dy (N, OH, OW, C_out).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from minicnn.backend import Array, matmul, scratch, xp_of
from minicnn.kernels.geometry import Windows
from minicnn.kernels.im2col import Tile

# From the paper, sections 4.1 and 4.3: tile -> (At, G, Bt).
MATRICES = {
    2: (
        [[1, 1, 1, 0], [0, 1, -1, -1]],
        [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    ),
    4: (
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ],
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
    ),
}

# What the transformed tiles v may take: small enough to stay in the cache until the matrix products read them.
V_BYTES = 1 << 20

# OpenBLAS multiplies matrices as they stand when that takes at most so many multiplications. Larger ones it first
# copies into another order, and for 6 rows that takes longer than the multiplications: so longer rows are cut.
SMALL_PRODUCT, COLUMNS = 10**6, 1 << 13

LIMITS = "a kernel of 3×3, stride 1 and dilation 1."


def can(windows: Windows) -> bool:
    """Whether these windows are of the kind that this method computes."""
    return windows.kernel == (3, 3) and windows.stride == windows.dilation == (1, 1)


def tile_size(windows: Windows) -> int:
    """m, 2 or 4: whichever needs fewer multiplications for these outputs. Small images waste a tile of 4."""
    return min((2, 4), key=lambda m: tile_count(windows, m) * (m + 2) ** 2)


def tile_count(windows: Windows, m: int | None = None) -> int:
    """How many tiles of m×m cover the outputs of one image."""
    m = m or tile_size(windows)
    return -(-windows.out[0] // m) * -(-windows.out[1] // m)


def forward(x: Array, w: Array, b: Array | None, windows: Windows, m: int | None = None) -> Array:
    """y (N, OH, OW, C_out), computed in tiles of m×m, m = 2 or 4; None: as tile_size says."""
    y = xp_of(x).empty((len(x), *windows.out, w.shape[3]), x.dtype)
    return Kernel(w, b, windows, m).forward(x, y)


def backward(
    dy: Array, x: Array, w: Array, windows: Windows, need_dx: bool, m: int | None = None
) -> tuple[Array | None, Array]:
    """(dx, dw), dx None unless `need_dx`."""
    kernel, dx = Kernel(w, None, windows, m), xp_of(x).empty(x.shape, x.dtype) if need_dx else None
    kernel.backward(dy, x, dx)
    return dx, kernel.gradient()


class Kernel:
    """A convolution whose w is transformed once, for any number of batches. u is in scratch memory unless `keep`.

    b: (C_out,), one bias for each channel, or (OH, OW, C_out), a map of them. step: how many images at a time fit into
    the cache. With a winner, 2×2 max pooling follows, where `can_pool`: in the layout of the tiles, each of the four
    numbers of a window stands in a long run beside those of all other windows.
    """

    def __init__(self, w: Array, b: Array | None, windows: Windows, m: int | None = None, keep: bool = False):
        self.w, self.b, self.windows, self.m = w, b, windows, m or tile_size(windows)
        self.at, self.g, self.bt = _matrices(xp_of(w), str(w.device), self.m, w.dtype)
        self.u = _two_sided(self.g, w, "u")
        if keep:
            self.u = self.u.copy()
        self.bias_map = None
        if b is not None and b.ndim == 3:
            self.bias_map = _take_tiles(b[None], tile_count(windows, self.m), self.m)[:, :, None].copy()
        # Each piece reads all of u, and adds to all of du: where they are large, larger pieces make fewer passes.
        self.v_bytes = max(V_BYTES, self.u.nbytes // 2)
        image = (self.m + 2) ** 2 * tile_count(windows, self.m) * w.shape[2] * w.itemsize
        self.step = max(1, self.v_bytes // image)
        self.du: Array | None = None

    def can_pool(self, pool: Windows) -> bool:
        """Whether these windows over the outputs cut every tile into whole windows of 2×2."""
        even = pool.image == (2 * pool.out[0], 2 * pool.out[1]) == pool.padded
        return even and pool.kernel == pool.stride == (2, 2) and pool.dilation == (1, 1)

    def forward(self, x: Array, y: Array, pool: bool = False, winner: Array | None = None) -> Array:
        """Write y (N, OH, OW, C_out), and return it; with `pool` the maxima, and to `winner` where they were found."""
        bands = self.bias_map is None
        for (images, rows), v in _input_tiles(x, self.windows, self.m, self.v_bytes, bands):
            products = scratch(xp_of(x), "products", (*v.shape[:3], y.shape[3]), v.dtype)
            matmul(v, self.u, out=products)
            if self.b is not None and self.bias_map is None:
                products[1, 1] += self.b  # the second column of At is all ones: it hands this place to every output
            tiles = _two_sided(self.at, products, "tiles")
            if self.bias_map is not None:
                tiles.reshape(self.m, self.m, -1, *self.bias_map.shape[3:])[...] += self.bias_map
            if pool:
                rows = slice(rows.start // 2, rows.stop // 2)
                tiles, won = _pooled(tiles, winner is not None)
                if winner is not None:
                    _put_tiles(won, winner[images, rows])
            _put_tiles(tiles, y[images, rows])
        return y

    def backward(self, dy: Array, x: Array, dx: Array | None, winner: Array | None = None) -> None:
        """Write dx, where it is asked for, and add to du. winner: dy is the gradient behind the pooling."""
        xp, m = xp_of(x), self.m
        if self.du is None:
            self.du, self.ut = xp.zeros(self.u.shape, x.dtype), xp.ascontiguousarray(self.u.swapaxes(2, 3))
        for (images, _), v in _input_tiles(x, self.windows, m, self.v_bytes, bands=False):
            if winner is None:
                tiles = _take_tiles(dy[images], v.shape[2], m)
            else:
                tiles = _unpooled(dy[images], winner[images], v.shape[2], m)
            z = _two_sided(self.at.T, tiles, "dy tiles")
            self.du += matmul(v.swapaxes(2, 3), z, out=scratch(xp, "products", self.du.shape, x.dtype))
            if dx is not None:
                dv = matmul(z, self.ut, out=scratch(xp, "tiles", v.shape, v.dtype))
                _add_tiles(_two_sided(self.bt.T, dv, "tiles"), dx[images], self.windows, m)

    def gradient(self) -> Array:
        """dw, of all that went through `backward`."""
        return xp_of(self.u).array(_two_sided(self.g.T, self.du, "dw"))


def _pooled(tiles: Array, winners: bool) -> tuple[Array, Array]:
    """(maxima, winners) of the 2×2 windows, (m/2, m/2, T, C) both; the first of equal maxima wins, as in pool.py."""
    left, right = tiles[:, 0::2], tiles[:, 1::2]
    pairs = np.maximum(left, right, out=scratch(np, "pairs", left.shape, tiles.dtype))
    top, bottom = pairs[0::2], pairs[1::2]
    won = np.empty(0, np.uint8)
    if winners:
        of_pair, down = (right > left).view(np.uint8), (bottom > top).view(np.uint8)
        won = of_pair[0::2] ^ ((of_pair[0::2] ^ of_pair[1::2]) & down)  # that of the pair which won
        won += down << 1
    return np.maximum(top, bottom, out=scratch(np, "maxima", top.shape, tiles.dtype)), won


def _unpooled(dy: Array, winner: Array, count: int, m: int) -> Array:
    """(m, m, T, C): dy (N, OH/2, OW/2, C) at the winner of each window, 0 at the others; T = count."""
    small, won = _take_tiles(dy, count, m // 2), _take_tiles(winner, count, m // 2)
    tiles = scratch(np, "unpooled", (m, m, count, dy.shape[3]), dy.dtype)
    for k in range(4):
        share = tiles[k // 2 :: 2, k % 2 :: 2]
        np.copyto(share, won == k)
        share *= small
    return tiles


@lru_cache
def _matrices(xp: object, device: str, m: int, dtype: np.dtype) -> tuple[Array, Array, Array]:
    """(At, G, Bt). device: which of several GPUs the arrays are on."""
    at, g, bt = (xp.asarray(matrix, dtype) for matrix in MATRICES[m])  # type: ignore[attr-defined]
    return at, g, bt


def _two_sided(matrix: Array, tiles: Array, name: str) -> Array:
    """matrix @ tile @ matrix.T for each tile: (k, k, …) from matrix (k, a) and tiles (a, a, …).

    In the scratch memory `name`, which may be that of `tiles`: the fewer buffers, the more of them stay in the cache.
    """
    xp, (k, a), rest = xp_of(tiles), matrix.shape, tiles.shape[2:]
    columns = tiles.size // (a * a)
    half = scratch(xp, "half", (k, a, columns), tiles.dtype)
    _from_left(matrix, tiles.reshape(a, a * columns), half.reshape(k, a * columns))
    whole = scratch(xp, name, (k, k, columns), tiles.dtype)
    _from_left(matrix, half, whole)
    return whole.reshape(k, k, *rest)


def _from_left(matrix: Array, x: Array, y: Array) -> None:
    """y = matrix @ x, with y (…, k, n) from matrix (k, a) and x (…, a, n): a few rows of great length."""
    n = x.shape[-1]
    whole = n - n % COLUMNS
    if xp_of(x) is not np or n * matrix.size <= SMALL_PRODUCT:
        matmul(matrix, x, out=y)
        return
    blocks = (n // COLUMNS, COLUMNS)
    matmul(
        matrix, x[..., :whole].reshape(*x.shape[:-1], *blocks).swapaxes(-3, -2),
        out=y[..., :whole].reshape(*y.shape[:-1], *blocks).swapaxes(-3, -2),
    )
    if whole < n:
        matmul(matrix, x[..., whole:], out=y[..., whole:])


def _input_tiles(
    x: Array, windows: Windows, m: int, v_bytes: int, bands: bool = True
) -> Iterator[tuple[Tile, Array]]:
    """(place, v) in pieces: v (a, a, T, C) holds the transformed input tiles of y[place], in scratch memory.

    A piece is a few whole images, or, with `bands`, a band of rows of a large one.
    """
    xp, (n, h, w, c), a = xp_of(x), x.shape, m + 2
    (top, _), (left, _) = windows.pads
    rows, columns = (-(-size // m) for size in windows.out)  # tiles in an image
    fit = max(1, v_bytes // (a * a * columns * c * x.itemsize)) if xp is np else n * rows  # rows of tiles in a piece
    step, band = max(1, min(n, fit // rows)), min(rows, fit) if bands else rows
    bt = _matrices(xp, str(x.device), m, x.dtype)[2]
    # With zeros around the image, and where the last tiles reach beyond the outputs.
    padded = scratch(xp, "padded", (step, m * rows + 2, m * columns + 2, c), x.dtype)
    padded.fill(0)
    sn, sh, sw, sc = padded.strides
    shape, strides = (a, a, step, rows, columns, c), (sh, sw, sn, m * sh, m * sw, sc)
    view = xp.lib.stride_tricks.as_strided(padded, shape, strides)
    for first in range(0, n, step):
        count = min(step, n - first)
        padded[:count, top : top + h, left : left + w] = x[first : first + count]
        for row in range(0, rows, band):
            piece = view[:, :, :count, row : row + band]
            tiles = scratch(xp, "tiles", piece.shape, x.dtype)
            xp.copyto(tiles, piece)
            place = slice(first, first + count), slice(row * m, (row + band) * m)
            yield place, _two_sided(bt, tiles.reshape(a, a, -1, c), "tiles")


def _put_tiles(tiles: Array, y: Array) -> None:
    """Write tiles (m, m, T, C) to their places in y (N, OH, OW, C)."""
    xp, m, (n, oh, ow, c) = xp_of(y), len(tiles), y.shape
    rows, columns = -(-oh // m), -(-ow // m)
    tiles = tiles.reshape(m, m, n, rows, columns, c).transpose(2, 3, 0, 4, 1, 5)
    whole = y if (rows * m, columns * m) == (oh, ow) else scratch(xp, "whole", (n, rows * m, columns * m, c), y.dtype)
    places = whole.reshape(n, rows, m, columns, m, c)
    xp.copyto(places, tiles)
    if whole is not y:
        y[...] = whole[:, :oh, :ow]


def _add_tiles(tiles: Array, dx: Array, windows: Windows, m: int) -> None:
    """The reverse of cutting x into tiles: write dx (N, H, W, C) as the sum of the tiles (a, a, T, C) at their places.

    A tile of a = m + 2 shares its last two rows and columns with the first two of its neighbours.
    """
    xp, (n, h, w, c) = xp_of(dx), dx.shape
    (top, _), (left, _) = windows.pads
    rows, columns = (-(-size // m) for size in windows.out)
    tiles = tiles.reshape(m + 2, m + 2, n, rows, columns, c)
    tiles[:2, :, :, 1:] += tiles[m:, :, :, :-1]  # to the tile below
    tiles[:, :2, :, :, 1:] += tiles[:, m:, :, :, :-1]  # to the tile on the right
    # Now m×m of each tile are left, and the last two rows and columns of those at the edge.
    tiles = tiles.transpose(2, 3, 0, 4, 1, 5)
    canvas = scratch(xp, "canvas", (n, rows + 1, m, columns + 1, m, c), dx.dtype)
    canvas[:, :rows, :, :columns] = tiles[:, :, :m, :, :m]
    canvas[:, rows, :2, :columns] = tiles[:, -1, m:, :, :m]
    canvas[:, :rows, :, columns, :2] = tiles[:, :, :m, -1, m:]
    canvas[:, rows, :2, columns, :2] = tiles[:, -1, m:, -1, m:]
    padded = canvas.reshape(n, (rows + 1) * m, (columns + 1) * m, c)
    dx[...] = padded[:, top : top + h, left : left + w]


def _take_tiles(dy: Array, count: int, m: int) -> Array:
    """The reverse of _put_tiles: (m, m, T, C) from dy (N, OH, OW, C), T = count, zeros beyond the outputs."""
    xp, (n, oh, ow, c) = xp_of(dy), dy.shape
    rows, columns = -(-oh // m), -(-ow // m)
    whole = dy
    if (rows * m, columns * m) != (oh, ow):
        whole = scratch(xp, "whole", (n, rows * m, columns * m, c), dy.dtype)
        whole.fill(0)
        whole[:, :oh, :ow] = dy
    tiles = scratch(xp, "dy tiles", (m, m, n, rows, columns, c), dy.dtype)
    xp.copyto(tiles, whole.reshape(n, rows, m, columns, m, c).transpose(2, 4, 0, 1, 3, 5))
    return tiles.reshape(m, m, count, c)
