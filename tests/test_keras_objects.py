"""Numbers of Keras 3.15, recorded by tests/fixtures/make_keras_objects.py."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from keras_object_cases import (
    ACTIVATED,
    ACTIVATIONS,
    CONSTRAINED,
    CONSTRAINTS,
    LOSSES,
    METRICS,
    OPTIMIZERS,
    PARAMETERS,
    SCHEDULE_STEPS,
    SCHEDULES,
    SLOPES,
    STEPS,
    gradients,
)

from minicnn import activations, constraints, losses, metrics, optimizers, schedules
from minicnn.layers import Activation, Context
from minicnn.objective import loss_gradient, prepare_targets, sample_losses, weights_of_batch

KERAS = np.load(Path(__file__).parent / "fixtures" / "keras_objects.npz")


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    """The value of a call, the value and the gradient of a training step, in one piece and in shards."""
    case = LOSSES[name]
    value, gradient = KERAS[f"losses/{name}/value"], KERAS[f"losses/{name}/gradient"]
    loss = getattr(losses, case.name)(**case.arguments)
    y_pred = case.y_pred.astype(np.float64)
    np.testing.assert_allclose(loss(case.y_true, y_pred, case.sample_weight), value, rtol=2e-5, atol=1e-6)
    if loss.reduction == "none":
        return
    n, weights = len(y_pred), weights_of_batch(loss, case.y_true, case.sample_weight, y_pred.shape[1:])
    for parts in ([slice(0, n)], [slice(0, 1), slice(1, n)]):
        if loss.whole_batch and len(parts) > 1:
            continue
        total, dys = 0.0, []
        for part in parts:
            y, w = prepare_targets(loss, case.y_true[part], y_pred[part]), None if weights is None else weights[part]
            total += sample_losses(loss, y, y_pred[part], None, n, w).sum()
            dys.append(loss_gradient(loss, y, y_pred[part], None, n, w))
        assert total / n == pytest.approx(float(value), rel=2e-5, abs=1e-6)
        np.testing.assert_allclose(np.concatenate(dys), gradient, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    case = OPTIMIZERS[name]
    optimizer = getattr(optimizers, case.name)(**case.arguments)
    params = {("layer", {"kernel": "w", "bias": "b"}[key]): p.copy() for key, p in PARAMETERS.items()}

    def now():
        return np.concatenate([p.ravel() for p in params.values()])

    for step in range(STEPS):
        optimizer.apply(params, {key: [g.copy()] for key, g in zip(params, gradients(step), strict=True)})
        np.testing.assert_allclose(now(), KERAS[f"optimizers/{name}/{step}"], rtol=1e-5, atol=2e-5, err_msg=f"{step}")
    optimizer.finalize(params)
    np.testing.assert_allclose(now(), KERAS[f"optimizers/{name}/end"], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    kind, arguments = SCHEDULES[name]
    schedule = getattr(schedules, kind)(**arguments)
    rates = [schedule(step) for step in SCHEDULE_STEPS]
    np.testing.assert_allclose(rates, KERAS[f"schedules/{name}"], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    kind, arguments = ACTIVATIONS[name]
    function = getattr(activations, kind).variant(**arguments)
    layer, ctx = Activation(function), Context(training=True)
    x = ACTIVATED.astype(np.float64)
    np.testing.assert_allclose(layer.forward(x, ctx), KERAS[f"activations/{name}/y"], rtol=1e-5, atol=2e-6)
    dx = layer.backward(SLOPES.astype(np.float64), ctx)
    np.testing.assert_allclose(dx, KERAS[f"activations/{name}/dx"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(getattr(activations, kind)(x, **arguments), function.forward(x))
    assert pickle.loads(pickle.dumps(function)).forward(x).shape == x.shape


@pytest.mark.parametrize("name", METRICS)
def test_metrics(name):
    """Counted in two batches, and in one."""
    case = METRICS[name]
    metric = getattr(metrics, case.name)(**case.arguments)
    n = len(case.y_pred)
    for part in (slice(0, n // 2), slice(n // 2, n)):
        weight = None if case.sample_weight is None else case.sample_weight[part]
        metric.update_state(case.y_true[part], case.y_pred[part], weight)
    np.testing.assert_allclose(metric.result(), KERAS[f"metrics/{name}"], rtol=1e-5, atol=1e-6)
    once = type(metric).from_config(metric.get_config())
    assert once.result() == 0
    np.testing.assert_allclose(once(case.y_true, case.y_pred, case.sample_weight), metric.result(), rtol=1e-12)
    once.reset_state()
    assert once.result() == 0


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints(name):
    kind, arguments = CONSTRAINTS[name]
    found = getattr(constraints, kind)(**arguments)(CONSTRAINED)
    np.testing.assert_allclose(found, KERAS[f"constraints/{name}"], rtol=1e-5, atol=1e-6)
