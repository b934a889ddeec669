"""One training step, readable from top to bottom.

    the batch is cut into shards, one a thread
    each shard:   x -> layer -> layer -> … -> y_pred -> loss          every layer writes on its page (Context)
                  dx <- layer <- layer <- … <- dy                     and reads it on the way back
    the shards' gradients are summed, and the optimizer moves the parameters
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minicnn.backend import Array, xp_of
from minicnn.layers.base import Context, Layer
from minicnn.objective import loss_gradient, part, prepare_targets, sample_losses, weights_of_batch
from minicnn.recording import plainly
from minicnn.training.finite import Guard, quiet
from minicnn.training.inference import GROUP_BYTES, PIECE_BYTES, cut_at_dense, infer, largest_activation, pieces, plan
from minicnn.training.profiling import stage, watched
from minicnn.training.shards import Workers, split

Pages = list[Context]


def forward(layers: Sequence[Layer], pages: Pages, x: Array) -> Array:
    """The prediction for x. Every layer writes on its own page."""
    for layer, ctx in zip(watched(layers), pages, strict=True):
        x = layer.forward(x, ctx)
    return x


def backward(layers: Sequence[Layer], pages: Pages, dy: Array | None, stop: int = 0) -> Array | None:
    """The derivative by the input of layers[stop], from dy, that by the output. Gradients appear on the pages."""
    for layer, ctx in zip(reversed(watched(layers[stop:])), reversed(pages[stop:]), strict=True):
        dy = layer.backward(dy, ctx)
    return dy


def new_pages(
    layers: Sequence[Layer],
    training: bool = False,
    need_backward: bool = False,
    step: int = 0,
    seed: int = 0,
    first: int = 0,
    all_reduce: Any = None,
) -> Pages:
    """An empty page for each layer. A layer needs dx only if a layer before it learns something."""
    lowest = first_learning(layers)
    return [
        Context(
            training=training,
            need_backward=need_backward,
            need_dx=i > lowest,
            step=step,
            seed=seed + i,
            first=first,
            all_reduce=all_reduce,
        )
        for i in range(len(layers))
    ]


def first_learning(layers: Sequence[Layer]) -> int:
    """The index of the first layer with parameters that are trained; len(layers) if there is none."""
    return next((i for i, layer in enumerate(layers) if layer.params and layer.trainable), len(layers))


@quiet
def train_step(
    model: Any, x: Array, y: Array, workers: Workers, guard: Guard | None = None,
    step_and_seed: tuple[Any, Any] | None = None,
) -> tuple[Any, list[Any]]:  # fmt: skip
    """Learn from one batch. Returns the sum of the samples' losses and of each metric's values, before the update.

    guard: looks for NaN and infinity, and raises or leaves the update out where it finds them.
    On the GPU the sums are arrays without axes, which nobody waits for: the next step is sent off while this one runs.
    step_and_seed: in place of the optimizer's count of steps and a fresh seed (minicnn/training/graph.py).
    """
    layers, loss, n = model.flat_layers, model.loss, len(x)
    if guard is not None and guard.thorough:
        layers = guard.layers()
    shards = split(n, 1 if loss.whole_batch else workers.shards)
    weights = weights_of_batch(loss, y, None, model.shapes[-1])
    lowest = first_learning(layers)
    step, seed = step_and_seed or (model.optimizer.iterations, model.new_seed())

    def learn(layers: Sequence[Any], shard: slice, all_reduce: Any) -> tuple[Pages, Any, list[Any]]:
        pages = new_pages(layers, True, True, step, seed, shard.start, all_reduce)
        y_pred = forward(layers, pages, model.as_input(x[shard]))
        with stage("loss and metrics"):
            y_true = prepare_targets(loss, y[shard], y_pred)
            losses = sample_losses(loss, y_true, y_pred, pages[-1], n, part(weights, shard))
            metrics = [metric.sum(y_true, y_pred) for metric in model.metrics]
            dy = loss_gradient(loss, y_true, y_pred, pages[-1], n, part(weights, shard))
        if guard is not None:
            guard.look_at_loss(losses, dy, y_pred)
        backward(layers, pages, dy, stop=lowest)
        return pages, losses.sum(dtype=np.float64), metrics

    results = workers.run(lambda k, all_reduce: learn(layers, shards[k], all_reduce), len(shards))
    all_pages = [pages for pages, _, _ in results]
    total = sum(losses for _, losses, _ in results)
    with stage("optimizer"):
        if guard is None:
            penalty = update(model, all_pages, workers)
        else:
            penalty = guard.update(
                x, total, all_pages, lambda: update(model, all_pages, workers),
                again=lambda layers: learn(layers, slice(0, n), None),
            )  # fmt: skip
    return total + penalty * n, [sum(values) for values in zip(*(metrics for _, _, metrics in results), strict=True)]


def update(model: Any, all_pages: list[Pages], workers: Workers) -> Any:
    """Move the parameters by the gradients on all shards' pages. Returns the regularizers' penalty before the step."""
    params: dict[tuple[str, str], Array] = {}
    grads: dict[tuple[str, str], list[Array]] = {}
    penalty: Any = 0.0
    for i, (key, layer) in enumerate(zip(model.layer_keys, model.flat_layers, strict=True)):
        for name, new in all_pages[0][i].state.items():
            layer.state[name][...] = new  # the same on every page: statistics are those of the whole batch
        if not layer.trainable:
            continue
        for name, p in layer.params.items():
            params[key, name] = p
            grads[key, name] = [pages[i].grads[name] for pages in all_pages]
            regularizer = layer.regularizers.get(name)
            if regularizer is not None:
                penalty = penalty + regularizer.penalty(p)
                grads[key, name][0] += regularizer.gradient(p)
    plainly(model.optimizer.apply, params, grads, workers)
    for layer in model.flat_layers:
        for name, constraint in layer.constraints.items():
            if constraint is not None and name in layer.params and layer.trainable:
                p = layer.params[name]
                new = constraint(p)
                if new is not p:
                    p[...] = new
    return penalty


@quiet
def evaluate_step(model: Any, x: Array, y: Array, workers: Workers) -> tuple[Any, list[Any]]:
    """Judge one batch: the sums of the samples' losses and of each metric's values. Changes nothing."""
    loss = model.loss
    weights = weights_of_batch(loss, y, None, model.shapes[-1])

    def judge(y_pred: Array, ctx: Context, samples: slice) -> tuple[Any, ...]:
        with stage("loss and metrics"):
            y_true = prepare_targets(loss, y[samples], y_pred)
            losses = sample_losses(loss, y_true, y_pred, ctx, len(x), part(weights, samples))
            return losses.sum(dtype=np.float64), *(metric.sum(y_true, y_pred) for metric in model.metrics)

    if loss.whole_batch:
        results = [judge(predict_step(model, x, workers), Context(), slice(0, len(x)))]
    else:
        results = _infer(model, x, workers, judge)
    total, *values = (sum(column) for column in zip(*results, strict=True))
    return total + len(x) * model.penalty(), values


@quiet
def predict_step(model: Any, x: Array, workers: Workers) -> Array:
    """The predictions for one batch."""
    parts = _infer(model, x, workers, lambda y_pred, ctx, samples: y_pred)
    return parts[0] if len(parts) == 1 else xp_of(parts[0]).concatenate(parts)


def _infer(model: Any, x: Array, workers: Workers, use: Callable[[Array, Context, slice], Any]) -> list[Any]:
    """[use(output, last page, samples), …] for the pieces of the batch x, in evaluation mode."""
    front, rest = cut_at_dense(plan(model.flat_layers))
    shards = split(len(x), workers.shards)
    sample_bytes = largest_activation(model) * model.dtype.itemsize if model.device == "cpu" else 0

    def one_group(group: slice) -> list[Any]:
        some = pieces(group, sample_bytes, PIECE_BYTES) if front else [group]
        outputs = [infer(front, model.as_input(x[piece])) for piece in some]
        if rest:
            features = [y for y, _ in outputs]
            joined = features[0] if len(features) == 1 else xp_of(features[0]).concatenate(features)
            outputs, some = [infer(rest, joined)], [group]
        return [use(y, ctx, piece) for (y, ctx), piece in zip(outputs, some, strict=True)]

    def one_shard(k: int, _: Any) -> list[Any]:
        return [result for group in pieces(shards[k], sample_bytes, GROUP_BYTES) for result in one_group(group)]

    return [result for results in workers.run(one_shard, len(shards)) for result in results]
