"""What ImageDataGenerator.fit learns from images, a block at a time: means, standard deviations, the whitening matrix.

ZCA whitening. Let X (n, d) hold n images as rows of d numbers, less the mean of their channel, and let C = Xᵀ X / n.
Its eigenvectors U are patterns that vary independently, its eigenvalues λ how much. Dividing by the standard deviation
√λ along each pattern, and turning back, gives images whose pixels are not correlated and that still look like
themselves:

    W = U diag(1 / (√λ + ε/√n)) Uᵀ          x_white = x W

The last Uᵀ is what makes it ZCA (zero-phase component analysis) and not PCA: of all whitenings it changes the images
least. A. Bell, T. Sejnowski, "The independent components of natural scenes are edge filters" (1997). ε as Keras 3 adds
it, to the singular values √(nλ) of X.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minicnn.errors import InputError

Blocks = Callable[[], Iterable[np.ndarray]]  # the same blocks (n, H, W, C) of floats at every call


def channel_means(blocks: Blocks) -> np.ndarray:
    """The mean of each channel over all images and pixels: (1, 1, C) float32."""
    total, count = np.zeros(()), 0
    for x in blocks():
        total = total + x.sum(axis=(0, 1, 2), dtype=np.float64)
        count += x[..., 0].size
    return (total / count).astype(np.float32)[None, None]


def channel_deviations(blocks: Blocks, mean: np.ndarray) -> np.ndarray:
    """The standard deviation of each channel: (1, 1, C) float32."""
    total, count = np.zeros(()), 0
    for x in blocks():
        total = total + np.square(x - mean).sum(axis=(0, 1, 2), dtype=np.float64)
        count += x[..., 0].size
    return np.sqrt(total / count).astype(np.float32)[None, None]


def zca_matrix(blocks: Blocks, mean: np.ndarray, epsilon: float) -> np.ndarray:
    """The whitening matrix (d, d) float32 for images of d numbers.

    Memory: some matrices of d × d float64 (75 MB for 32×32×3) and one block, however many images there are. float64,
    because the smallest eigenvalues of photographs are a millionth of the largest, and they are what is divided by.
    """
    covariance, n = np.zeros((1, 1)), 0
    for x in blocks():
        flat = (x.astype(np.float64) - mean).reshape(len(x), -1)
        covariance = covariance + flat.T @ flat if n == 0 else np.add(covariance, flat.T @ flat, out=covariance)
        n += len(x)
    covariance /= n
    variance, patterns = np.linalg.eigh(covariance)
    # Fewer images than numbers leave directions in which nothing varies; what eigh finds there is rounding.
    varies = variance > variance[-1] * len(variance) * np.finfo(np.float64).eps
    scale = np.zeros_like(variance)
    scale[varies] = 1 / (np.sqrt(variance[varies]) + epsilon / np.sqrt(n))
    np.multiply(patterns, np.sqrt(scale), out=patterns)
    return (patterns @ patterns.T).astype(np.float32)


def patch_whitening(images: Any, size: int = 2, epsilon: float = 5e-4) -> np.ndarray:
    """The kernel (size, size, C, 2 * size * size * C) of a first convolution that whitens: the patterns of small
    patches, each scaled to variance 1, and each with both signs.

    images: (N, H, W, C), as the network takes them. Let P (n, d) hold all their patches of size × size pixels as rows,
    d = size * size * C, and let Pᵀ P / n = U diag(λ) Uᵀ. The kernel is U / √(λ + ε) and its negative: its outputs are
    not correlated and equally large, so every later step of the optimizer goes as far in each direction. With both
    signs a ReLU or GELU behind it loses nothing. It is found once, from some thousand images, and not learned.

    float32; the strongest pattern first. Raises InputError. K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single
    GPU", section 3.2 (2024), after T. Page, "How to train your ResNet" (2019).
    """
    x = np.asarray(images)
    whole = hasattr(size, "__index__") and not isinstance(size, bool) and size >= 1
    if x.ndim != 4 or x.dtype.kind not in "buif" or x.size == 0 or not whole or min(x.shape[1:3]) < size:
        raise InputError(
            "patch_whitening", "these images have no such patches.", "images (N, H, W, C), not smaller than a patch.",
            f"shape {x.shape}, {x.dtype}, and size={size!r}.", "for example patch_whitening(x_train[:5000], size=2).",
        )  # fmt: skip
    if not epsilon >= 0:
        raise InputError("patch_whitening", "epsilon does not fit.", "0 or more.", f"{epsilon!r}.", "try 5e-4.")
    x = x.astype(np.float64)
    patches = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))  # (N, h, w, C, size, size)
    p = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size * size * x.shape[-1])
    variance, patterns = np.linalg.eigh(p.T @ p / len(p))
    kernel = (patterns / np.sqrt(np.maximum(variance, 0) + epsilon))[:, ::-1]
    return np.concatenate([kernel, -kernel], axis=1).reshape(size, size, x.shape[-1], -1).astype(np.float32)
