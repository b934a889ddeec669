"""Layers that a plan (minicnn/training/plan.py) runs as one. Kernel: `minicnn/kernels/chain.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minicnn import activations
from minicnn.backend import Array, blank
from minicnn.kernels import conv2d_forward
from minicnn.kernels.chain import Links, Norm, chain_backward, chain_forward, convolution
from minicnn.kernels.conv_choice import Algorithm, algorithm_for
from minicnn.kernels.geometry import Windows
from minicnn.kernels.norm import (
    batchnorm_scale_and_shift,
    gradient_terms,
    parameter_gradients,
    put_input_gradient,
    put_scaled,
    repeated,
    sums_of_batch,
)
from minicnn.layers.base import Layer
from minicnn.layers.context import Context
from minicnn.layers.conv import Conv2D
from minicnn.layers.core import Dropout, SpatialDropout2D
from minicnn.layers.normalization import BatchNormalization
from minicnn.layers.pooling import MaxPooling2D

# A map of biases that takes more than this would be read from memory for each image: then x is normalised instead.
MAP_BYTES = 1 << 20


SMALL = 1 << 15  # bytes of an array up to which its bytes are compared, which has no cost of its own


class Part(NamedTuple):
    """One chain of kernels/chain.py: the places of its layers among those of the fused layer; None: it has none.

    norm: the batch norm before the convolution. norm_relu, relu: whether ReLU follows the batch norm, the convolution.
    """

    conv: int
    norm: int | None = None
    norm_relu: bool = False
    pool: int | None = None
    relu: bool = False
    drop: int | None = None


class Fused(Layer):
    """One or more chains in a row, and a batch norm behind them or not (`last`: its place), in training.

    What the layers would write into their own contexts for others is written there: gradients and new running means.
    ctx.contexts: those of the layers.
    """

    def __init__(self, layers: Sequence[Any], parts: Sequence[Part], last: int | None):
        super().__init__(name=layers[0].name)
        self.layers, self.parts, self.last = layers, parts, last

    @property
    def saves(self) -> list[int]:
        """The places of the layers whose output is the y of a chain."""
        starts = [part.conv if part.norm is None else part.norm for part in self.parts]
        return [place - 1 for place in (*starts[1:], len(self.layers) if self.last is None else self.last)]

    def context(self, own: list[Context]) -> Context:
        """That of this layer, from those of its layers."""
        first = own[0]
        ctx = Context(True, True, first.need_dx, first.step, first.seed, first.first, first.all_reduce)
        ctx.contexts = own
        return ctx

    def forward(self, x: Array, ctx: Context) -> Array:
        moments, ctx.saved = None, []
        norms = [*(part.norm for part in self.parts[1:]), self.last]  # behind each of the chains
        for part, behind in zip(self.parts, norms, strict=True):
            conv: Conv2D = self.layers[part.conv]
            norm = None if part.norm is None else self._norm(part.norm, x, ctx, moments, part.norm_relu)
            links = self._links(part, ctx)
            w, b = conv.params["w"], conv.params.get("b")
            y, winner, moments = chain_forward(x, convolution(x, w, b, links), links, norm, moments=behind is not None)
            ctx.saved.append((part, x, y, winner, links, norm))
            x = y
        if self.last is None:
            return x
        norm = self._norm(self.last, x, ctx, moments)
        return put_scaled(x, norm.scale, norm.shift, blank(x))

    def backward(self, dy: Array, ctx: Context) -> Array | None:
        of_norm = None
        if self.last is not None:
            norm: BatchNormalization = self.layers[self.last]
            own = ctx.contexts[self.last]
            sums = parameter_gradients(dy, own.x, own.mean, own.var, norm.epsilon)
            of_norm = self._terms(self.last, sums, ctx)
        while ctx.saved:
            part, x, y, winner, links, norm_before = ctx.saved.pop()
            conv, need_dx = self.layers[part.conv], ctx.contexts[part.conv].need_dx
            dx, dw, db, sums = chain_backward(
                dy, x, y, winner, conv.params["w"], links, norm_before, of_norm, need_dx
            )
            ctx.contexts[part.conv].grads = {"w": dw, "b": db} if conv.use_bias else {"w": dw}
            of_norm = None if part.norm is None or sums is None else self._terms(part.norm, sums, ctx)
            dy = dx
        if of_norm is None or not ctx.need_dx:
            return dy if ctx.need_dx else None
        return put_input_gradient(dy, x, of_norm, dy)

    def _norm(self, place: int, x: Array, ctx: Context, moments: Any, relu: bool = False) -> Norm:
        norm: BatchNormalization = self.layers[place]
        own = ctx.contexts[place]
        norm.measure(x, own, moments)
        scale, shift = batchnorm_scale_and_shift(*norm.gamma_beta(), own.mean, own.var, norm.epsilon)
        return Norm(repeated(scale, x), repeated(shift, x), relu, own.mean, own.var, norm.epsilon)

    def _terms(self, place: int, sums: tuple[Array, Array], ctx: Context) -> list[Array]:
        """What the chain before this batch norm makes its dy of. sums: dgamma and dbeta of this shard."""
        norm, own = self.layers[place], ctx.contexts[place]
        norm.keep_gradients(*sums, own)
        both, rows = sums_of_batch(*sums, own.x.size // own.x.shape[-1], ctx.all_reduce)
        terms = gradient_terms(norm.gamma_beta()[0], own.mean, own.var, both, norm.epsilon, rows)
        return [repeated(v, own.x) for v in terms]

    def _links(self, part: Part, ctx: Context) -> Links:
        conv: Conv2D = self.layers[part.conv]
        pool: MaxPooling2D | None = None if part.pool is None else self.layers[part.pool]
        links = Links(conv.geometry(), conv.algorithm, None if pool is None else pool.geometry(), part.relu)
        drop: Dropout | SpatialDropout2D | None = None if part.drop is None else self.layers[part.drop]
        if drop is None or drop.rate == 0:
            return links
        own = ctx.contexts[part.drop]
        factor = conv.params["w"].dtype.type(1 / (1 - float(drop.rate)))
        return links._replace(factor=factor, mask=lambda y, start: drop.mask(y, own, start))


class Source:
    """An array of a layer that a plan relies on. numbers: what was in it, where something was computed from that."""

    def __init__(self, arrays: dict[str, Array], name: str):
        self.arrays, self.name, self.array = arrays, name, arrays[name]
        self.numbers: Any = None

    def watch(self) -> None:
        """From now on its numbers count: those of the first time, since something was made of them."""
        if self.numbers is not None:
            return
        self.numbers = self.array.tobytes() if self.array.nbytes <= SMALL else self.array.copy()

    def same(self) -> bool:
        """Whether the layer still has this array, and in it these numbers. NaN is never the same."""
        array = self.array
        if self.name not in self.arrays or self.arrays[self.name] is not array:
            return False
        if isinstance(self.numbers, bytes):
            return array.tobytes() == self.numbers
        return self.numbers is None or np.array_equal(array, self.numbers)


class Sources(list[Source]):
    """Those of a layer: all its arrays."""

    def __init__(self, layer: Layer):
        super().__init__(Source(arrays, name) for arrays in (layer.params, layer.state) for name in arrays)
        self.layer = layer

    def watch(self) -> None:
        for source in self:
            source.watch()

    def same(self) -> bool:
        """Whether the layer has these arrays still, and no other, such as a bias that it had not."""
        return len(self) == len(self.layer.params) + len(self.layer.state) and all(map(Source.same, self))


class Predicted(Layer):
    """The same chains in evaluation mode, where the batch norms' numbers are known: made once, until a weight changes.

    A batch norm before a convolution becomes a part of it: conv(x * scale + shift, w) = conv(x, w * scale) plus what
    `shift` alone gives, which is another number at the border, where zeros stand beside it: a map of biases.
    sources: the arrays of the layers, by layer.
    """

    def __init__(self, layers: Sequence[Any], parts: Sequence[Part], last: int | None):
        super().__init__(name=layers[0].name)
        self.layers, self.parts, self.last = layers, parts, last
        self.sources = [Sources(layer) for layer in layers]
        self.made: dict[int, tuple[Links, Norm | None, Array, Array | None]] = {}
        self.convs: dict[tuple[int, Algorithm], Any] = {}

    def holds(self) -> bool:
        """Whether what was made of the layers' arrays is still right."""
        return all(map(Sources.same, self.sources))

    def forward(self, x: Array, ctx: Context) -> Array:
        for k, part in enumerate(self.parts):
            links, norm, w, b = self._made(k, x)
            windows = Windows.of(x.shape, w.shape[:2], *links.geometry)
            algorithm = algorithm_for(links.algorithm, x, w.shape[3], windows, kept=True)
            conv = self.convs.get((k, algorithm))
            if conv is None:
                if algorithm.kernel is not None:
                    self.sources[part.conv].watch()
                conv = self.convs[k, algorithm] = algorithm.in_pieces(w, b, windows, keep=True)
            x = chain_forward(x, conv, links, norm, winners=False, moments=False)[0]
            layer = self.layers[part.conv]
            if not part.relu and layer.activation is not activations.linear:
                x = layer.activate(x, ctx, overwrite=True)
        if self.last is not None:
            norm = self._norm(self.last, x)
            put_scaled(x, norm.scale, norm.shift, x)
        return x

    def _made(self, k: int, x: Array) -> tuple[Links, Norm | None, Array, Array | None]:
        """(links, norm, w, b) of the chain number k, whose input is x."""
        if k not in self.made:
            part = self.parts[k]
            conv: Conv2D = self.layers[part.conv]
            pool: MaxPooling2D | None = None if part.pool is None else self.layers[part.pool]
            w, b = conv.params["w"], conv.params.get("b")
            links = Links(conv.geometry(), conv.algorithm, None if pool is None else pool.geometry(), part.relu)
            norm = None
            if part.norm is not None:
                self.sources[part.norm].watch()
                norm = self._norm(part.norm, x, part.norm_relu)
            if norm is not None and not norm.relu:
                self.sources[part.conv].watch()
                image = np.broadcast_to(norm.shift.reshape(-1, x.shape[3])[:1], (1, *x.shape[1:]))
                biases = conv2d_forward(np.ascontiguousarray(image), w, b, *links.geometry, conv.algorithm)[0]
                if biases.nbytes <= MAP_BYTES:
                    w, b, norm = w * norm.scale[: x.shape[3], None], biases, None
            self.made[k] = links, norm, w, b
        return self.made[k]

    def _norm(self, place: int, x: Array, relu: bool = False) -> Norm:
        norm: BatchNormalization = self.layers[place]
        scale, shift = norm.scale_and_shift()
        return Norm(repeated(scale, x), repeated(shift, x), relu, shift, shift, 0.0)
