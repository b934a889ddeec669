"""The forward pass alone: what evaluation and prediction leave out of a training step.

    - What the plan leaves out and makes one (plan.py).
    - Nobody will read the contexts again: a result may take the place of the numbers that it was made of, where no
      other layer reads them and the framework itself has made them.
    - The samples do not depend on each other: a large batch goes through in pieces that stay in the cache, up to the
      first dense layer. Its parameters are many, and reading them is its work: they meet a group of pieces at once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minicnn.backend import Array, quiet, xp_of
from minicnn.layers.context import Context
from minicnn.layers.core import Dense
from minicnn.layers.walk import Node, Observer, forward, last_readers, observed
from minicnn.metrics.base import sums
from minicnn.objective import part, prepare_targets, sample_losses, weights_of_batch
from minicnn.training.plan import prediction_nodes
from minicnn.training.shards import Workers, split

# What the largest activation of a piece may take. Smaller pieces would stay in a nearer cache, but every layer has work
# to do that does not depend on their size.
PIECE_BYTES = 1 << 23
# And of a group of pieces, that meets the dense layers together.
GROUP_BYTES = 1 << 26


class Plan:
    """How a model computes in evaluation mode: made, or found still to be right, once for a call of predict;
    before each batch where a callback, or a generator of the user's own, runs between them.

    So weights that these change count from the next batch on. A batch during which another thread changes weights may
    see both the old ones and the new ones; the next call, or the next batch behind such code, sees the new ones alone
    (but a change that was taken back before that is not noticed).

    front, rest: the nodes up to the first dense layer that everything goes through, and those from it on.
    sample_bytes: what the largest activation of a sample takes; 0 where a batch stays in one piece.
    """

    def __init__(self, model: Any):
        self.model = model
        self.front, self.rest = cut_at_dense(prediction_nodes(model))
        largest = max(map(math.prod, model.node_shapes))
        self.sample_bytes = largest * model.dtype.itemsize if model.device == "cpu" else 0

    @quiet
    def evaluate(
        self, x: Array, y: Array, workers: Workers, sample_weight: Array | None = None
    ) -> tuple[Any, list[Any]]:
        """Judge one batch: the sums of the samples' losses and of each metric's values."""
        model, loss = self.model, self.model.loss
        weights = weights_of_batch(loss, y, sample_weight, model.shapes[-1], workers.totals)
        samples_of_batch = workers.place(len(x))[1]

        def judge(y_pred: Array, ctx: Context, samples: slice) -> tuple[Any, ...]:
            y_true = prepare_targets(loss, y[samples], y_pred)
            losses = sample_losses(loss, y_true, y_pred, ctx, samples_of_batch, part(weights, samples))
            return losses.sum(dtype=np.float64), *sums(model.metrics, y_true, y_pred, part(sample_weight, samples))

        if loss.whole_batch:
            parts = [judge(self.predict(x, workers), Context(), slice(0, len(x)))]
        else:
            parts = self._each_piece(x, workers, lambda *piece: observed(None).loss(lambda: judge(*piece)))
        total, *values = workers.totals(*(sum(column) for column in zip(*parts, strict=True)))
        return total + samples_of_batch * model.penalty(), values

    @quiet
    def predict(self, x: Array, workers: Workers) -> Array:
        """The predictions for one batch."""
        parts = self._each_piece(x, workers, lambda y_pred, ctx, samples: y_pred)
        return parts[0] if len(parts) == 1 else xp_of(parts[0]).concatenate(parts)

    def _each_piece(self, x: Array, workers: Workers, use: Callable[[Array, Context, slice], Any]) -> list[Any]:
        """[use(output, the last layer's context, samples), …] for the pieces of the batch x."""
        shards = split(len(x), workers.shards)

        def one_group(group: slice) -> list[Any]:
            some = pieces(group, self.sample_bytes, PIECE_BYTES) if self.front else [group]
            outputs = [infer(self.front, self.model.as_input(x[piece])) for piece in some]
            if self.rest:
                features = [y for y, _ in outputs]
                joined = features[0] if len(features) == 1 else xp_of(features[0]).concatenate(features)
                outputs, some = [infer(self.rest, joined)], [group]
            return [use(y, ctx, piece) for (y, ctx), piece in zip(outputs, some, strict=True)]

        def one_shard(k: int, _: Any) -> list[Any]:
            groups = pieces(shards[k], self.sample_bytes, GROUP_BYTES)
            return [result for group in groups for result in one_group(group)]

        return [result for results in workers.run(one_shard, len(shards)) for result in results]


def pieces(samples: slice, sample_bytes: int, most: int) -> list[slice]:
    """`samples` in pieces whose largest activation takes `most` bytes; sample_bytes: that of one, 0 for one piece."""
    step = max(1, most // sample_bytes if sample_bytes else samples.stop - samples.start)
    return [slice(start, min(start + step, samples.stop)) for start in range(samples.start, samples.stop, step)]


def cut_at_dense(nodes: list[Node]) -> tuple[list[Node], list[Node]]:
    """The nodes before the first dense layer that reads the only value which is read from there on; and the rest."""
    last, reach = last_readers(nodes), -1  # reach: the last reader of any value before the one at the cut
    for cut, node in enumerate(nodes):
        if type(node.layer) is Dense and node.inputs == (cut - 1,) and reach < cut:
            rest = [later._replace(inputs=tuple(j - cut for j in later.inputs)) for later in nodes[cut:]]
            return nodes[:cut], rest
        reach = max(reach, last.get(cut - 1, -1))
    return nodes, []


class _InPlace(Observer):
    """Lets a result take the place of its input where the framework has made that, and nobody else reads it."""

    def __init__(self, nodes: Sequence[Node]):
        super().__init__()
        self.readers = Counter(j for node in nodes for j in node.inputs)
        self.ours: dict[int, bool] = {-1: False}

    def forward(self, i: int, node: Node, x: Any, ctx: Context) -> Array:
        ctx.overwrite = all(self.ours[j] and self.readers[j] == 1 for j in node.inputs)
        y = super().forward(i, node, x, ctx)
        # Flatten, for one, only looks at x in another way. A layer of the user's own may have kept what it gives.
        new = not any(xp_of(y).may_share_memory(part, y) for part in (x if node.layer.merges else [x]))
        self.ours[i] = (new or ctx.overwrite) and type(node.layer).__module__.startswith("minicnn.")
        return y


def infer(nodes: Sequence[Node], x: Array) -> tuple[Array, Context]:
    """The output of a plan's nodes for x, which is left as it is; and the last layer's context."""
    contexts = [Context(need_backward=False) for _ in nodes] or [Context(need_backward=False)]
    return forward(nodes, contexts, x, _InPlace(nodes)), contexts[-1]
