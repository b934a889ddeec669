"""What a plan (minicnn/training/plan.py) runs as one on a GPU, where each kernel that is started costs microseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicnn.backend import Array
from minicnn.kernels import conv2d_forward, cuda, dense_forward, maxpool2d_backward, maxpool2d_forward
from minicnn.kernels.conv import conv2d_gradients
from minicnn.kernels.dense import dense_gradients
from minicnn.layers.base import Layer
from minicnn.layers.context import Context
from minicnn.layers.conv import Conv2D
from minicnn.layers.core import Dense, Dropout
from minicnn.layers.fused import Fused
from minicnn.layers.pooling import MaxPooling2D


class GpuChain(Fused):
    """A convolution or dense layer, then max pooling or not, ReLU, and dropout or not, in training.

        z = pool(x * w)      y = mask * max(z + b, 0) / (1 - rate)      dz = dy / (1 - rate) where y > 0, else 0

    Pooling comes before the bias and ReLU, which let the largest number be the largest. What follows it is one kernel
    in each direction (elementwise.cu, norm.cu): dz and its sum, which is db, need no mask but the sign of y.
    pool, drop: the places of these layers, None where there is none. Reference implementation: the layers, one by one.
    """

    def __init__(self, layers: Sequence[Any], pool: int | None, drop: int | None):
        Layer.__init__(self, name=layers[0].name)
        self.layers, self.pool, self.drop = layers, pool, drop

    def forward(self, x: Array, ctx: Context) -> Array:
        first: Conv2D | Dense = self.layers[0]
        ctx.x, w = x, first.params["w"]
        if isinstance(first, Dense):
            z = dense_forward(x, w)
        else:
            z = conv2d_forward(x, w, None, *first.geometry(), algorithm=first.algorithm)
        if self.pool is not None:
            pool: MaxPooling2D = self.layers[self.pool]
            ctx.shape = z.shape
            z, ctx.winner = maxpool2d_forward(z, *pool.geometry())
        rate, mask = self._rate(), None
        if self.drop is not None and rate > 0:
            mask = self.layers[self.drop].mask(z, ctx.contexts[self.drop])
        ctx.y = cuda.bias_relu_dropout(z, first.params.get("b"), mask, rate)
        return ctx.y

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        first: Conv2D | Dense = self.layers[0]
        dz, db = cuda.relu_backward_sums(dy, ctx.y, 1 / (1 - self._rate()))
        if self.pool is not None:
            pool: MaxPooling2D = self.layers[self.pool]
            dz = maxpool2d_backward(dz, ctx.winner, ctx.shape, *pool.geometry())
        w, need_dx = first.params["w"], ctx.contexts[0].need_dx
        if isinstance(first, Dense):
            dx, dw = dense_gradients(dz, ctx.x, w, need_dx)
        else:
            dx, dw = conv2d_gradients(dz, ctx.x, w, *first.geometry(), need_dx, first.algorithm)
        first.graded(ctx.contexts[0], db, w=dw)
        return dx

    def _rate(self) -> float:
        drop: Dropout | None = None if self.drop is None else self.layers[self.drop]
        return 0.0 if drop is None else float(drop.rate)
