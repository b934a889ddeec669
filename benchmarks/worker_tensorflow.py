"""One side of benchmarks/models.py: TensorFlow, with Keras' layers and optimizers. See protocol.py.

variant: words of step (the default): a train step of its own, compiled by tf.function, on batches that lie ready; fit:
the same through Keras' own loop; kept, which models.py minds. Forward: model(x, training=False), compiled by
tf.function.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import tensorflow as tf
import workloads
from keras import layers
from protocol import CHECKED_STEPS, arguments, work
from workloads import Op, Workload


def layer(op: Op) -> keras.Layer:
    """The layer that an Op stands for."""
    if op.kind == "conv":
        return layers.Conv2D(op.width, op.kernel, op.stride, op.padding, activation=op.activation, use_bias=op.bias)
    if op.kind == "dense":
        constraint = None if op.max_norm is None else keras.constraints.MaxNorm(op.max_norm)
        return layers.Dense(op.width, op.activation, op.bias, kernel_constraint=constraint)
    if op.kind == "act":
        return layers.Activation(op.activation)
    if op.kind == "drop":
        return layers.Dropout(op.size)
    if op.kind == "pool":
        return layers.MaxPooling2D(op.width)
    if op.kind == "average":
        return layers.GlobalAveragePooling2D()
    return {"norm": layers.BatchNormalization, "flatten": layers.Flatten}[op.kind]()


class Shortcut(layers.Layer):
    """Every second pixel, and as many channels again, of zeros."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.pad(x[:, ::2, ::2], [[0, 0], [0, 0], [0, 0], [0, x.shape[-1]]])


def after(x: keras.KerasTensor, ops: Iterable[Op]) -> keras.KerasTensor:
    """The value x after these ops."""
    for op in ops:
        if op.kind == "residual":
            x = layers.add([Shortcut()(x) if op.stride > 1 else x, after(x, op.inner)])
        else:
            x = layer(op)(x)
    return x


def build(workload: Workload, dropout: bool) -> keras.Model:
    """The network with the workload's first weights. Training ends with the logits: the loss does the rest at once."""
    x = keras.Input(workload.shape)
    y = after(x, [op for op in workload.ops if dropout or op.kind != "drop"])
    if workload.mode == "forward" and workload.classes is not None:
        y = layers.Softmax()(y)
    model = keras.Model(x, y)
    kernels = workloads.weights(workload)
    for leaf in model.layers:
        if isinstance(leaf, (layers.Conv2D, layers.Dense)):
            leaf.kernel.assign(next(kernels))
    return model


class Side:
    """TensorFlow's side of a workload."""

    def __init__(self, workload: Workload, variant: str, device: str, dropout: bool):
        self.workload, self.through_fit = workload, "fit" in variant
        self.x, self.y = workloads.data(workload)
        self.model = model = build(workload, dropout)
        starts = range(0, len(self.x), workload.batch)
        self.batches = [
            (tf.constant(self.x[i : i + workload.batch]), tf.constant(self.y[i : i + workload.batch])) for i in starts
        ]
        optimizer = keras.optimizers.Adam(1e-3) if workload.optimizer == "adam" else keras.optimizers.SGD(0.01)
        loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if workload.mode == "train":
            model.compile(optimizer, loss_of, metrics=["accuracy"] if self.through_fit else None)
            optimizer.build(model.trainable_variables)

        @tf.function
        def train(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)  # and the constraints
            return loss

        @tf.function
        def forward(x: tf.Tensor) -> tf.Tensor:
            return model(x, training=False)

        self.train, self.forward = train, forward

    def round(self) -> dict[str, float]:
        if self.workload.mode == "forward":
            for x, _ in self.batches:
                y = self.forward(x)
            y.numpy()
        elif self.through_fit:
            self.model.fit(self.x, self.y, batch_size=self.workload.batch, epochs=1, verbose=0)
        else:
            for x, y in self.batches:
                loss = self.train(x, y)
            loss.numpy()
        return {}

    def check(self) -> list[float]:
        if self.workload.mode == "train":
            steps = range(CHECKED_STEPS)
            return [float(self.train(*self.batches[step % len(self.batches)])) for step in steps]
        return self.forward(self.batches[0][0]).numpy().ravel()[:20].tolist()

    def versions(self) -> dict[str, str]:
        return {"tensorflow": tf.__version__, "keras": keras.__version__}


if __name__ == "__main__":
    args = arguments()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    tf.random.set_seed(0)
    work(Side, args)
