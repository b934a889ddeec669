"""One training step, readable from top to bottom.

    the batch is cut into shards, one a thread
    each shard:   x -> layer -> layer -> … -> y_pred -> loss      forward: every layer writes into its context
                  dx <- layer <- layer <- … <- dy                 backward: and reads there what it wrote
    the shards' gradients are summed, and the optimizer moves the parameters

Where several processes train together, x is the run of the batch that this one has (minicnn/ranks.py), and `workers`
sums over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minicnn import constraints
from minicnn.backend import Array, quiet, xp_of
from minicnn.kernels.norm import AllReduce
from minicnn.layers.context import Context
from minicnn.layers.walk import PLAIN, Node, Observer, apply_state, backward, forward, new_contexts, observed
from minicnn.metrics.base import sums
from minicnn.objective import loss_gradient, part, prepare_targets, sample_losses, weights_of_batch
from minicnn.training.plan import plan_of_step
from minicnn.training.shards import Workers, in_order, split

Contexts = list[Context]  # of one shard, one for each node
Share = tuple[Contexts, Any, list[Any]]  # what one shard gives: contexts, sum of the losses, sums of metrics


def train_step(
    model: Any, x: Array, y: Array, workers: Workers, sample_weight: Array | None = None
) -> tuple[Any, list[Any]]:
    """Learn from one batch. Returns the sum of the samples' losses and of each metric's values, before the update.

    sample_weight: how much each sample counts in the loss; (N,), or one for each position of the output.
    On the GPU the sums are arrays without axes, which nobody waits for: the next step is sent off while this one runs.
    """
    step, seed = model.optimizer.iterations, model.new_seed()
    shards, loss, metrics = gradients(model, x, y, workers, step, seed, sample_weight)
    penalty = update(model, shards, workers)
    return with_penalty(loss, penalty, workers.place(len(x))[1]), metrics


def with_penalty(loss: Any, penalty: Any, samples: int) -> Any:
    """The sum of the samples' losses with the penalty, which each of them has.

    Where there is no regularizer, penalty is the number 0, and nothing is added: on a GPU that would be a kernel.
    """
    return loss if type(penalty) is int else loss + penalty * samples


@quiet
def gradients(
    model: Any, x: Array, y: Array, workers: Workers, step: Any, seed: Any, sample_weight: Array | None = None,
    observer: Observer | None = None,
) -> tuple[list[Contexts], Any, list[Any]]:  # fmt: skip
    """Forward and backward pass. (the contexts of each shard, with the gradients; sum of the losses; sums of metrics)

    step: how many steps came before. seed: of this step's random layers. observer: looks at every layer.
    """
    first, batch_size = workers.place(len(x))  # of the whole batch
    shards = split(len(x), 1 if model.loss.whole_batch else workers.shards)
    weights = weights_of_batch(model.loss, y, sample_weight, model.shapes[-1], workers.totals)
    # Numbers are added up in the order in which they lie in memory: that of a copy for another process, too.
    x, y, weights, sample_weight = (a if a is None else xp_of(a).ascontiguousarray(a)
                                    for a in (x, y, weights, sample_weight))  # fmt: skip
    batch = Batch(x, y, weights, sample_weight, first, batch_size, step, seed)
    shares = None
    if workers.processes is not None and observed(observer) is PLAIN:
        shares = workers.processes.gradients(batch, shards)
    if shares is None:
        shares = workers.run(lambda k, add_up: shard_gradients(model, batch, shards[k], add_up, observer), len(shards))
    contexts, losses, metrics = zip(*shares, strict=True)
    loss, *totals = workers.totals(in_order(losses), *map(in_order, zip(*metrics, strict=True)))
    return list(contexts), loss, totals


class Batch(NamedTuple):
    """What a step needs beside the model.

    weights: how much each sample counts in the loss. sample_weight: as the user gave them, for metrics. first: the
    number of its first sample in the whole batch, of batch_size samples, where other ranks have the rest. step: how
    many steps came before. seed: of this step's random layers.
    """

    x: Array
    y: Array
    weights: Array | None
    sample_weight: Array | None
    first: int
    batch_size: int
    step: Any
    seed: Any

    def arrays(self) -> dict[str, Array]:
        """Those that are there, by name."""
        return {name: array for name, array in zip(self._fields[:4], self[:4], strict=True) if array is not None}

    def numbers(self) -> list[int]:
        """The others."""
        return [int(number) for number in self[4:]]

    @classmethod
    def of(cls, arrays: dict[str, Array], numbers: Sequence[int]) -> Batch:
        """The batch that these were of."""
        return cls._make([*(arrays.get(name) for name in cls._fields[:4]), *numbers])


def shard_gradients(
    model: Any, batch: Batch, samples: slice, all_reduce: AllReduce | None, observer: Observer | None = None
) -> Share:
    """Forward and backward pass of these samples of the batch. (their contexts, sum of the losses, sums of metrics)

    all_reduce: sums an array over all shards of the batch; None where this is the only one.
    """
    nodes, see = model.nodes, observed(observer)
    plan = plan_of_step(model, see)
    place = batch.first + samples.start
    contexts = new_contexts(nodes, True, True, batch.step, batch.seed, place, all_reduce)
    planned = plan.contexts(contexts)
    y_pred = forward(plan.nodes, planned, model.as_input(batch.x[samples]), observer)
    weights = part(batch.weights, samples), part(batch.sample_weight, samples)
    losses, metrics, dy = see.loss(
        lambda: judge(model, batch.y[samples], y_pred, contexts[-1], batch.batch_size, *weights)
    )
    backward(plan.nodes, planned, dy, observer)
    return contexts, losses.sum(dtype=np.float64), metrics


def judge(
    model: Any, y: Array, y_pred: Array, ctx: Context, batch_size: int, weights: Array | None,
    sample_weight: Array | None,
) -> tuple[Array, list[Any], Array]:  # fmt: skip
    """(losses of the samples, metrics, dy): dy is the gradient of the mean over the batch with respect to y_pred.

    ctx: of the last layer, where a softmax or sigmoid has left its logits. weights: how much each sample counts in
    the loss; sample_weight: as the user gave them, for metrics.
    """
    y_true = prepare_targets(model.loss, y, y_pred)
    losses = sample_losses(model.loss, y_true, y_pred, ctx, batch_size, weights)
    metrics = sums(model.metrics, y_true, y_pred, sample_weight)
    return losses, metrics, loss_gradient(model.loss, y_true, y_pred, ctx, batch_size, weights)


@quiet
def update(model: Any, shards: Sequence[Contexts], workers: Workers, observer: Observer | None = None) -> Any:
    """Move the parameters by the gradients in all shards' contexts. The regularizers' penalty before the step."""
    nodes = model.nodes
    apply_state(nodes, shards[0])  # the same in every shard: statistics are those of the whole batch
    params, grads = collected(nodes, shards)
    grads = workers.gradients(grads)
    penalty = regularize(nodes, grads)
    observed(observer).update(grads, lambda: model.optimizer.apply(params, grads, workers))
    constrain(nodes)
    return penalty


def collected(
    nodes: Sequence[Node], shards: Sequence[Contexts]
) -> tuple[dict[tuple[str, str], Array], dict[tuple[str, str], list[Array]]]:
    """(parameters, gradients of each shard) of what learns, by (layer's key, parameter's name).

    A layer that is used twice has the sum of both gradients.
    """
    params: dict[tuple[str, str], Array] = {}
    grads: dict[tuple[str, str], list[Array]] = {}
    for i, node in enumerate(nodes):
        layer, key = node.layer, node.key
        for name, p in layer.params.items() if layer.trainable else ():
            parts = [contexts[i].grads[name] for contexts in shards]
            if (key, name) in params:
                grads[key, name] = [a + b for a, b in zip(grads[key, name], parts, strict=True)]
            else:
                params[key, name], grads[key, name] = p, parts
    return params, grads


def regularize(nodes: Sequence[Node], grads: dict[tuple[str, str], list[Array]]) -> Any:
    """Add the regularizers' gradients, once for each parameter that learns. Returns their penalty."""
    penalty: Any = 0
    for key, layer in {node.key: node.layer for node in nodes}.items():
        for name, regularizer in layer.regularizers.items():
            if regularizer is not None and (key, name) in grads:
                penalty = penalty + regularizer.penalty(layer.params[name])
                grads[key, name][0] += regularizer.gradient(layer.params[name])
    return penalty


def learned(model: Any) -> dict[tuple[str, str], Array]:
    """The parameters that learn, by (layer's key, parameter's name)."""
    return {
        (key, name): p for key, layer in model.layers_by_key.items() if layer.trainable
        for name, p in layer.params.items()
    }  # fmt: skip


def constrain(nodes: Sequence[Node]) -> None:
    """Bring the parameters that learn back to what their constraints allow."""
    for layer in {id(node.layer): node.layer for node in nodes}.values():
        for name, constraint in layer.constraints.items():
            if constraint is not None and name in layer.params and layer.trainable:
                constraints.constrain(layer.params[name], constraint)
