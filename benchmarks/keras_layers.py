"""What Keras' tests do with layers, done with minicnn's: a part of keras_adapter.py.

`run_layer_test` is Keras' check of a layer, as far as minicnn has what it looks at: the configuration, the number of
arrays, the shape and the numbers of the output, one step of training; and, beside what Keras checks, the gradient.
Masks, symbolic dtypes, mixed precision and the number of random generators are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minicnn
from minicnn.gradcheck import check_layer
from minicnn.layers import Input, Layer
from minicnn.losses import Loss

WEIGHTS = (
    "kernel", "bias", "depthwise_kernel", "pointwise_kernel", "gamma", "beta", "moving_mean", "moving_variance", "alpha"
)  # fmt: skip
GRADIENT = 1000  # larger outputs are not checked for their gradient


class _Sum(Loss):
    """The sum of all outputs: the loss of Keras' own training check."""

    def values(self, y_true: Any, y_pred: Any, ctx: Any = None) -> Any:
        return y_pred.reshape(len(y_pred), -1).sum(axis=1)

    def gradient(self, y_true: Any, y_pred: Any, ctx: Any = None, batch_size: int | None = None) -> Any:
        return np.full_like(y_pred, 1 / (batch_size or len(y_pred)))


def run_layer_test(
    test: Any,
    layer_cls: Any,
    init_kwargs: dict[str, Any],
    input_shape: Any = None,
    input_dtype: Any = None,
    input_sparse: bool = False,
    input_ragged: bool = False,
    input_data: Any = None,
    call_kwargs: dict[str, Any] | None = None,
    expected_output_shape: Any = None,
    expected_output: Any = None,
    expected_num_trainable_weights: int | None = None,
    expected_num_non_trainable_weights: int | None = None,
    expected_num_losses: int | None = None,
    run_training_check: bool = True,
    **left_out: Any,
) -> None:
    from keras_adapter import used

    for what, is_used in (("sparse arrays", input_sparse), ("ragged arrays", input_ragged)):
        if is_used:
            raise used(what)
    if isinstance(input_shape or input_data, dict):
        raise used("layers of named inputs")

    def made() -> Any:
        return layer_cls(**init_kwargs)

    test.run_class_serialization_test(made())
    if input_data is None and input_shape is None:
        return
    rng = np.random.default_rng(0)
    several = isinstance(input_data if input_shape is None else input_shape[0], (list, tuple))
    if input_data is None:
        drawn = [3 * rng.random(shape) for shape in (input_shape if several else [input_shape])]
        dtypes = input_dtype if isinstance(input_dtype, (list, tuple)) else [input_dtype or "float32"] * len(drawn)
        arrays = [x.astype(dtype) for x, dtype in zip(drawn, dtypes, strict=True)]
    else:
        arrays = [np.asarray(x) for x in (input_data if several else [input_data])]

    def asked(layer: Any, values: Any, **call: Any) -> Any:
        return layer(values if several else values[0], **call)

    def counted(layer: Any) -> None:
        assert layer.built
        for expected, weights in (
            (expected_num_trainable_weights, layer.trainable_weights),
            (expected_num_non_trainable_weights, layer.non_trainable_weights),
        ):
            assert expected is None or len(weights) == expected, f"{len(weights)} arrays instead of {expected}"

    def shaped(shape: Any) -> None:
        if expected_output_shape is not None:
            alike = [e in (None, n) for e, n in zip(expected_output_shape, shape, strict=True)][1:]
            assert all(alike), f"{shape} instead of {expected_output_shape}"

    # built by itself; called on symbolic values; called on arrays
    built = made()
    built.build([x.shape for x in arrays] if several else arrays[0].shape)
    counted(built)
    layer = made()
    inputs = [Input(x.shape[1:]) for x in arrays]
    shaped(asked(layer, inputs).shape)
    counted(layer)
    layer = made()
    output = asked(layer, arrays, **(call_kwargs or {}))
    counted(layer)
    shaped(output.shape)
    if expected_output is not None:
        test.assertAllClose(expected_output, output)
    if expected_num_losses is not None:
        assert len([r for r in layer.regularizers.values() if r is not None]) == expected_num_losses
    if run_training_check and not several:
        layer = made()
        symbol = Input(arrays[0].shape[1:])
        model = minicnn.Model(symbol, layer(symbol))
        model.compile("sgd", _Sum())
        model.fit(arrays[0].astype("f4"), output, batch_size=len(output), verbose=0)
    if output.size <= GRADIENT:
        values = [rng.standard_normal(x.shape) for x in arrays]
        for training in (False, True):
            check_layer(made(), values if several else values[0], training).assert_ok()


# ---- Keras' methods of layers that minicnn calls otherwise -----------------------------------------------------------


def _sample(shape: Any) -> Any:
    """A shape of Keras without the batch axis; of a list of shapes each."""
    from keras_adapter import used

    if shape and isinstance(shape[0], (list, tuple)):
        return [_sample(one) for one in shape]
    if None in shape[1:]:
        raise used("sizes that are not known")
    return tuple(shape[1:])


def _build(build: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, input_shape: Any, *rng: Any) -> Any:
        if rng:
            return build(self, input_shape, *rng)
        shape = _sample(input_shape)
        self.check_built(shape)
        self.output_shape(shape)
        return self.build_once(shape, np.random.default_rng(0))

    return call


def _symbolic(x: Any) -> Any:
    """Keras' symbolic values as minicnn's, and its variables as arrays."""
    if isinstance(x, (list, tuple)):
        return type(x)(_symbolic(one) for one in x)
    if type(x).__name__ == "KerasTensor":
        return Input(_sample(x.shape))
    return np.asarray(x.value) if type(x).__name__ == "Variable" else x


def _call(call: Callable[..., Any]) -> Callable[..., Any]:
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        from keras_adapter import used

        x, *args = [kwargs.pop("inputs")] if "inputs" in kwargs else args  # type: ignore[assignment]
        if kwargs.pop("mask", None) is not None:
            raise used("masks")
        return call(self, _symbolic(x), *args, **kwargs)

    return called


class _Variable(np.ndarray):
    """An array that can be assigned to, as Keras' variables."""

    def assign(self, value: Any) -> None:
        self[...] = value

    def numpy(self) -> np.ndarray:
        return np.array(self)


def _variable(array: property) -> property:
    def get(self: Any) -> Any:
        found = array.fget(self)  # type: ignore[misc]
        return found.view(_Variable) if isinstance(found, np.ndarray) else found

    return property(get)


def adapt_layers() -> None:
    kinds, waiting = {Layer}, [Layer]
    while waiting:
        new = [kind for kind in waiting.pop().__subclasses__() if kind.__module__.startswith("minicnn.")]
        kinds.update(new)
        waiting += new
    for kind in kinds:
        if "build" in vars(kind):
            setattr(kind, "build", _build(kind.build))  # noqa: B010
        for name in WEIGHTS:
            if isinstance(vars(kind).get(name), property):
                setattr(kind, name, _variable(vars(kind)[name]))
    made: Any = Layer
    made.__call__ = _call(made.__call__)
