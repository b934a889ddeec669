"""Convolution by way of the frequencies: for large kernels.

The Fourier transform F turns a convolution into a product: F(x * g) = F(x) F(g). Our "convolution" does not flip the
kernel; that is a correlation, and there one factor is conjugated:

    y = F⁻¹( F(x) conj F(w) )      dx = F⁻¹( F(dy) F(w) )      dw = F⁻¹( F(x) conj F(dy) )

With channels, each frequency is a matrix product over c, or over the images for dw. The cost does not depend on the
kernel's size. With strides all outputs are computed, and every s-th is kept.
M. Mathieu, M. Henaff, Y. LeCun, "Fast Training of Convolutional Networks through FFTs" (2014).
x (N, H, W, C_in), w (KH, KW, C_in, C_out), y and dy (N, OH, OW, C_out). Here the pixels come first: (H, W, N, C).
"""

from __future__ import annotations

from minicnn.backend import Array, tiles, xp_of
from minicnn.kernels.geometry import Windows


def forward(x: Array, w: Array, b: Array | None, windows: Windows) -> Array:
    """y (N, OH, OW, C_out)."""
    xp = xp_of(x)
    y = xp.empty((len(x), *windows.out, w.shape[3]), x.dtype)
    kernel = _frequencies(_spread(w, windows.dilation), windows).conj()
    for part in tiles(x):
        product = _frequencies(_pixels_first(windows.pad(x[part])), windows) @ kernel
        y[part] = _pixels(product, windows)[_every(windows.stride, windows.out)].transpose(2, 0, 1, 3)
    if b is not None:
        y += b
    return y


def backward(dy: Array, x: Array, w: Array, windows: Windows, need_dx: bool) -> tuple[Array | None, Array]:
    """(dx (N, H, W, C_in), dw (KH, KW, C_in, C_out)), dx None unless `need_dx`."""
    xp = xp_of(x)
    kernel = _frequencies(_spread(w, windows.dilation), windows).swapaxes(2, 3)
    total: Array = 0
    dx = xp.empty(x.shape, x.dtype) if need_dx else None
    for part in tiles(x):
        images = _frequencies(_pixels_first(windows.pad(x[part])), windows)
        gradients = _frequencies(_spread(_pixels_first(dy[part]), windows.stride), windows)
        total = total + images.swapaxes(2, 3) @ gradients.conj()
        if dx is not None:
            dx[part] = _pixels(gradients @ kernel, windows).transpose(2, 0, 1, 3)[windows.inside]
    return dx, xp.ascontiguousarray(_pixels(total, windows)[_every(windows.dilation, windows.kernel)])


def _pixels_first(x: Array) -> Array:
    return x.transpose(1, 2, 0, 3)


def _frequencies(pixels: Array, windows: Windows) -> Array:
    """The Fourier transform over the first two axes, of the padded image's size or a little more."""
    return xp_of(pixels).fft.rfft2(pixels, _size(windows), axes=(0, 1))


def _pixels(frequencies: Array, windows: Windows) -> Array:
    return xp_of(frequencies).fft.irfft2(frequencies, _size(windows), axes=(0, 1))


def _size(windows: Windows) -> tuple[int, int]:
    height, width = windows.padded
    return _fast(height), _fast(width)


def _fast(n: int) -> int:
    """The next size that is made of the factors 2, 3 and 5 only: the transform is quick there."""
    while True:
        rest = n
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return n
        n += 1


def _spread(a: Array, step: tuple[int, int]) -> Array:
    """a with step - 1 zeros between its elements along the first two axes."""
    if step == (1, 1):
        return a
    (sh, sw), (h, w) = step, a.shape[:2]
    spread = xp_of(a).zeros(((h - 1) * sh + 1, (w - 1) * sw + 1, *a.shape[2:]), a.dtype)
    spread[::sh, ::sw] = a
    return spread


def _every(step: tuple[int, int], count: tuple[int, int]) -> tuple[slice, slice]:
    """The first `count` elements along two axes, `step` apart."""
    (sh, sw), (h, w) = step, count
    return slice(0, (h - 1) * sh + 1, sh), slice(0, (w - 1) * sw + 1, sw)
