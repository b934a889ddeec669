"""docs/keras.md: each line of its table is true. A line without a case fails, a case without a line, too."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn import activations, callbacks, constraints, losses, metrics, regularizers, utils
from minicnn.errors import InputError
from minicnn.gradcheck import check_layer, check_loss
from minicnn.layers import (
    BatchNormalization,
    CenterCrop,
    Context,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GroupNormalization,
    Input,
    Layer,
    LayerNormalization,
    RandomFlip,
    RandomRotation,
    RandomTranslation,
    RandomZoom,
    Resizing,
    Softmax,
)
from minicnn.models import Model, Sequential, load_model
from minicnn.optimizers import SGD, MultiOptimizer, OptimizerMap
from minicnn.preprocessing.image import ImageDataGenerator

PAGE = Path(__file__).parents[1] / "docs" / "keras.md"
RNG = np.random.default_rng(0)
X, Y = RNG.random((12, 4)).astype("f"), np.arange(12) % 3
IMAGES = RNG.random((4, 3, 8, 8)).astype("f")  # channels first


def lines() -> dict[str, list[str]]:
    """The table: first column -> the other ones."""
    page = PAGE.read_text("utf-8").split("## Keras' own tests")[0]
    rows = [re.split(r"(?<!\\) \| ", line.strip("| \n")) for line in page.splitlines() if line.startswith("| ")]
    return {first: rest for first, *rest in rows if first != "Keras"}


def net(optimizer="sgd", loss="sparse_categorical_crossentropy", outputs=3, **options) -> Sequential:
    model = Sequential([Input((4,)), Dense(outputs, activation="softmax")])
    model.compile(optimizer, loss, **options)
    return model


def refused(work, part: str) -> None:
    with pytest.raises(InputError, match=part):
        work()


class Square(Layer):
    def forward(self, x, ctx):
        ctx.x = x
        return x * x

    def backward(self, dy, ctx):
        return 2 * ctx.x * dy


class Fourth(losses.Loss):
    def values(self, y_true, y_pred, ctx=None):
        return ((y_pred - y_true) ** 4).mean(axis=-1)

    def gradient(self, y_true, y_pred, ctx=None, batch_size=None):
        return 4 * (y_pred - y_true) ** 3 / y_pred.shape[-1] / (batch_size or len(y_pred))


class Half(regularizers.Regularizer):
    def penalty(self, w):
        return 0.5 * float((w * w).sum())

    def gradient(self, w):
        return w


def a_layer():
    check_layer(Square(), (4, 3)).assert_ok()
    refused(lambda: net(loss=lambda t, p: abs(t - p)), "no gradient")


def a_loss():
    refused(lambda: net(loss=lambda t, p: (t - p) ** 4), "no gradient")
    check_loss(Fourth(), RNG.random((4, 3)), RNG.random((4, 3))).assert_ok()


def a_regularizer():
    refused(lambda: Dense(3, kernel_regularizer=lambda w: 0.0), "no gradient")
    model = Sequential([Input((4,)), Dense(3, kernel_regularizer=Half())])
    model.compile("sgd", "mse")
    model.fit(X, X[:, :3], verbose=0)


def a_function_as_metric():
    def first(y_true, y_pred):
        return y_pred[:, 0]

    model = net(metrics=[first])
    expected = model.predict(X, verbose=0)[:, 0].mean()  # batches of 8 and 4 count by their samples
    assert model.evaluate(X, Y, batch_size=8, verbose=0)[1] == pytest.approx(expected, rel=1e-5)


def accuracy_of_outputs():
    y, p = np.array([[1, 0, 0], [0, 1, 1]]), np.array([[0.9, 0.8, 0.1], [0.6, 0.7, 0.8]])
    each = metrics.get("accuracy", "binary_crossentropy", (3,))
    assert each(y, p) == pytest.approx(4 / 6)
    assert metrics.CategoricalAccuracy()(y[:1], p[:1]) == 1


def f1():
    refused(lambda: net(loss="categorical_crossentropy", metrics=[metrics.F1Score()]), "several numbers")
    net(loss="categorical_crossentropy", metrics=[metrics.F1Score(average="macro")])


def several_inputs():
    refused(lambda: Model([Input((4,)), Input((4,))], Input((4,))), "one input")
    refused(lambda: net().fit([X, X], Y), "np.concatenate")


def clipping():
    net(SGD(0.1, clipnorm=1.0, clipvalue=0.5)).fit(X, Y, verbose=0)


def channels_first():
    for make in (lambda: Conv2D(2, 3, data_format="channels_first"), lambda: Flatten("channels_first"),
                 lambda: ImageDataGenerator(data_format="channels_first")):  # fmt: skip
        refused(make, r"transpose\(0, 2, 3, 1\)")
    assert Sequential([Input((8, 8, 3)), Conv2D(2, 3)]).predict(IMAGES.transpose(0, 2, 3, 1)).shape == (4, 6, 6, 2)


def one_image():
    image = IMAGES[0].transpose(1, 2, 0)
    for layer in (Resizing(4, 4), CenterCrop(4, 4), RandomFlip(), RandomRotation(0.1), RandomZoom(0.1)):
        refused(lambda layer=layer: layer(image), r"x\[None\] makes \(1, H, W, C\) of a single image")
        assert layer(image[None]).shape[0] == 1


def spaced_strides():
    x = IMAGES.transpose(0, 2, 3, 1)
    layer, all_places = Conv2D(2, 3, strides=2, dilation_rate=2), Conv2D(2, 3, dilation_rate=2)
    assert layer(x).shape == (4, 2, 2, 2) and all_places(x).shape == (4, 4, 4, 2)
    all_places.set_weights(layer.get_weights())
    np.testing.assert_allclose(layer(x), all_places(x)[:, ::2, ::2], rtol=1e-5)


def fixed_noise():
    refused(lambda: Dropout(0.5, noise_shape=(4, 1, 1, 3)), "noise_shape")
    y = Dropout(0.5, noise_shape=(None, 1, 1, None))(np.ones((4, 2, 2, 3)), training=True)
    assert (y == y[:, :1, :1]).all()


def softmax_over_samples():
    refused(lambda: Sequential([Input((3,)), Softmax(axis=0)]), "samples of a batch")
    np.testing.assert_allclose(activations.softmax(X, axis=0).sum(axis=0), 1, rtol=1e-6)


def another_size():
    model = Sequential([Flatten()])
    assert model.predict(X.reshape(12, 2, 2), verbose=0).shape == (12, 4)
    refused(lambda: model.predict(X.reshape(6, 4, 2), verbose=0), "samples do not fit")


def other_norm_axes():
    for layer in (LayerNormalization(axis=1), GroupNormalization(2, axis=1)):
        refused(lambda layer=layer: layer(IMAGES), "leave it out")


def norm_axis():
    refused(lambda: Sequential([Input((8, 8, 3)), BatchNormalization(axis=1)]), "last axis")
    Sequential([Input((8, 8, 3)), BatchNormalization()])


def arrays_as_weights():
    model = net()
    assert isinstance(model.layers[0].kernel, np.ndarray)
    model.layers[0].params["w"][...] = np.ones((4, 3))
    assert model.get_weights()[0].sum() == 12


def output_shape():
    assert net().layers[0].output_shape((4,)) == (3,)


def first_dense():
    assert [layer.name for layer in Sequential([Input((4,)), Dense(3), Dense(2, name="head")]).layers] == [
        "dense_1", "head",
    ]  # fmt: skip


def generators():
    model = net()
    refused(lambda: model.fit(((X, Y) for _ in range(3)), epochs=2), "steps_per_epoch")
    assert model.optimizer.iterations == 0
    model.fit(((X, Y) for _ in range(4)), epochs=2, steps_per_epoch=2, verbose=0)


def schedules():
    model = net(SGD(minicnn.schedules.ExponentialDecay(0.1, 10, 0.5)))
    constant = callbacks.LearningRateScheduler(lambda epoch: 0.1)
    refused(lambda: model.fit(X, Y, verbose=0, callbacks=constant), "schedule")
    assert issubclass(InputError, ValueError)


def monitors():
    model = net()
    refused(lambda: model.fit(X, Y, verbose=0, callbacks=callbacks.EarlyStopping("val_accuracy")), "val_accuracy")


def saved(tmp_path):
    model = Sequential([Input((4,)), Square(), Dense(3)])
    model.save(tmp_path / "model.zip")
    refused(lambda: load_model(tmp_path / "model.zip"), "custom_objects")
    again = load_model(tmp_path / "model.zip", custom_objects={"Square": Square})
    np.testing.assert_array_equal(again.predict(X, verbose=0), model.predict(X, verbose=0))


def averages():
    model, seen = net(SGD(0.5, use_ema=True, ema_momentum=0.5)), []

    def note(epoch, logs):
        seen.append(model.get_weights()[1])

    model.fit(X, Y, epochs=9, verbose=0, callbacks=[
        callbacks.SwapEMAWeights(swap_on_epoch=True), callbacks.LambdaCallback(on_epoch_end=note),
        callbacks.EarlyStopping("loss", patience=0, mode="max"),
    ])  # fmt: skip
    assert len(seen) < 9
    np.testing.assert_array_equal(model.get_weights()[1], seen[-1])


def splitting():
    (x, y), (x_test, y_test) = utils.split_dataset((X, Y), left_size=0.75)
    net().fit(x, y, validation_data=(x_test, y_test), verbose=0)
    assert len(x) == 9


def normalized():
    np.testing.assert_allclose((utils.normalize(X, axis=0) ** 2).sum(axis=0), 1, rtol=1e-5)


def unpacked():
    refused(lambda: utils.get_file(origin="https://a.b/c.zip", file_hash="0" * 64, extract=True), "unpack_archive")


def seeds():
    def drawn():
        utils.set_random_seed(3)
        return Sequential([Input((4,)), Dense(3)]).get_weights()[0]

    np.testing.assert_array_equal(drawn(), drawn())


def turned():
    """sum of dy · y = sum of dx · x, where y is linear in x: dx is the derivative."""
    layer, ctx = RandomRotation((0.1, 0.1)), Context(True, True, True, seed=1)
    x, dy = RNG.random((2, 5, 6, 1)), RNG.random((2, 5, 6, 1))
    y = layer.forward(x, ctx)
    assert (dy * y).sum() == pytest.approx((layer.backward(dy, ctx) * x).sum(), rel=1e-12)


def wrapped():
    """A row of four pixels, shifted by a whole row, is what it was."""
    x = np.arange(4.0).reshape(1, 1, 4, 1)
    for factor in (-1, 1):
        layer = RandomTranslation(0.0, (factor, factor), "wrap")
        np.testing.assert_array_equal(layer.forward(x, Context(True)), x)


def drawn():
    """Samples 4 to 7 are treated alike, whether they come with the ones before them or alone, later."""
    x = RNG.random((8, 6, 6, 1))
    for layer in (RandomFlip(seed=1), RandomRotation(0.2), RandomTranslation(0.2, 0.2), RandomZoom(0.2)):
        whole = layer.forward(x, Context(True, seed=5, step=3))
        later = layer.forward(x[4:], Context(True, seed=5, step=3, first=4))
        np.testing.assert_array_equal(whole[4:], later)


def single_weight():
    loss = losses.MeanSquaredError(reduction="mean_with_sample_weight")
    y, p = RNG.random((3, 2)), RNG.random((3, 2))
    for weight in (2.0, [2.0] * 3):
        assert loss(y, p, sample_weight=weight) == pytest.approx(loss(y, p))
    assert losses.MeanSquaredError()(y, p, sample_weight=2.0) == pytest.approx(2 * losses.MeanSquaredError()(y, p))
    metric = metrics.MeanSquaredError()
    assert metric(y, p, sample_weight=2.0) == pytest.approx(loss(y, p))


def ignored():
    metric = metrics.SparseCategoricalCrossentropy(ignore_class=-1)
    metric.update_state([0, -1], [[0.5, 0.5], [0.9, 0.1]])
    assert metric.result() == pytest.approx(np.log(2), rel=1e-6)  # half of it in Keras


def auc_thresholds():
    assert metrics.AUC().thresholds is None and metrics.AUC(thresholds=[0.5, 0.25]).thresholds == [0.25, 0.5]


def spread_targets():
    refused(lambda: losses.MeanSquaredError()(np.ones((3, 1)), np.zeros((3, 2))), "do not fit")
    assert losses.MeanSquaredError()(np.broadcast_to(np.ones((3, 1)), (3, 2)), np.zeros((3, 2))) == 1


def losses_left_out():
    for name in ("hinge", "poisson", "log_cosh"):
        refused(lambda name=name: net(loss=name), "is not known|no loss|unknown")
    net(loss=Fourth())


def stay_out():
    for name, advice in {"LSTM": "Conv1D", "Embedding": "texts", "Conv3D": "volumes", "Lambda": "a Layer"}.items():
        with pytest.raises(AttributeError, match=f"no layer {name}; .*{advice}"):
            getattr(minicnn.layers, name)
    named = {name for names in minicnn.layers._STAY_OUT.values() for name in names.split()}
    assert not named & set(minicnn.layers.__all__) and not hasattr(minicnn.layers, "Nothing")


def layers_that_compute():
    x = Input((4,))
    assert len(Model(x, Dense(3)(x)).layers) == 1


def not_known_yet():
    model = Sequential([Dense(3)])
    assert model.input_shape is None
    assert not model.built


def steps_of_epochs(steps):
    seen = []
    model = net()
    model.fit(
        np.tile(X, (4, 1))[:40], np.tile(Y, 4)[:40], batch_size=4, epochs=4, steps_per_epoch=steps, verbose=0,
        callbacks=[callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))],
    )  # fmt: skip
    assert seen == 4 * list(range(steps))


def bad_targets():
    y = X[:, :3].copy()
    y[5, 1] = np.inf
    refused(lambda: net(loss="mse").fit(X, y, verbose=0), "not every number is finite")


def last_row(folder):
    model = Sequential([Input((4,)), Dense(3)])
    model.compile("sgd", "mse")
    model.set_weights([np.full((4, 3), 3e38), np.zeros(3)])
    model.fit(X, X[:, :3], verbose=0, callbacks=[callbacks.CSVLogger(folder / "log.csv"), callbacks.TerminateOnNaN()])
    assert "nan" not in (folder / "log.csv").read_text().splitlines()[-1]


def rates_of_several():
    model = net(MultiOptimizer(OptimizerMap(SGD(0.1), {".*/bias": SGD(0.2)})))
    rates = callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    refused(lambda: model.fit(X, Y, verbose=0, callbacks=[rates]), "rate")


def pictures_of_filters(folder):
    model = Sequential([Input((8, 8, 3)), Conv2D(2, 3), Flatten(), Dense(1)])
    model.compile("sgd", "mse")
    model.fit(
        IMAGES.transpose(0, 2, 3, 1), np.zeros((4, 1)), verbose=0,
        callbacks=[callbacks.TensorBoard(folder, histogram_freq=1, write_images=True)],
    )  # fmt: skip
    written = next((folder / "train").iterdir()).read_bytes()
    assert b"conv2d_1/kernel/image/0" in written
    assert b"conv2d_1/kernel/image/1" in written


def half_samples():
    weights = np.array([0.5, 0.5, 0.25, 0.75])
    assert metrics.MeanIoU(2)([0, 0, 1, 1], [0, 1, 0, 1], weights) == pytest.approx((0.5 / 1.25 + 0.75 / 1.5) / 2)


def no_constraint():
    with pytest.raises(NotImplementedError, match="must implement"):
        constraints.Constraint()(X)


def any_ending(folder):
    net().save(folder / "m.png")
    assert load_model(folder / "m.png").count_params() == 15


def no_folder(folder):
    refused(lambda: net().save(folder / "new" / "m.h5"), "folder does not exist")


IN_A_FOLDER = (saved, last_row, pictures_of_filters, any_ending, no_folder)
CASES = {
    "a layer's `call` is differentiated": a_layer,
    "`loss=function`": a_loss,
    "`kernel_regularizer=function`": a_regularizer,
    "a function as metric is averaged over batches": a_function_as_metric,
    '`"accuracy"` with binary cross-entropy takes the largest output': accuracy_of_outputs,
    "`F1Score()` in compile": f1,
    "`metrics.SparseCategoricalCrossentropy(ignore_class=…)` counts ignored positions as 0": ignored,
    "`AUC(thresholds=[-0.5])`": lambda: refused(lambda: metrics.AUC(thresholds=[-0.5]), "from 0 to 1"),
    "`AUC().thresholds` has the two ends": auc_thresholds,
    "losses spread (N, 1) over (N, K)": spread_targets,
    "losses `Hinge`, `Poisson`, `LogCosh`, …": losses_left_out,
    "several inputs or outputs": several_inputs,
    "`clipnorm` with `clipvalue` is refused": clipping,
    "`loss_scale_factor`": lambda: refused(lambda: SGD(loss_scale_factor=2.0), "leave it out"),
    "`jit_compile=True`": lambda: refused(lambda: net(jit_compile=True), "leave it out"),
    "`steps_per_execution=10`": lambda: refused(lambda: net(steps_per_execution=10), "leave it out"),
    '`data_format="channels_first"`': channels_first,
    "`layer.build((None, 28, 28, 1))`": lambda: refused(lambda: Conv2D(2, 3).build((None, 28, 28, 1)), "on a batch"),
    "`Resizing(8, 8)` and its like on one image": one_image,
    "`Conv2D(strides=2, dilation_rate=2)` is refused": spaced_strides,
    "`Dropout(noise_shape=(32, 1, 1, 16))`": fixed_noise,
    "`Softmax(axis=0)` in a network": softmax_over_samples,
    "`BatchNormalization(axis=1)` on images": norm_axis,
    "`LayerNormalization(axis=1)`, `GroupNormalization(axis=1)` on images": other_norm_axes,
    "`layer.kernel` is a variable": arrays_as_weights,
    "`layer.output_shape` of a layer is a tuple": output_shape,
    "the first `Dense` is `dense`": first_dense,
    "a generator for several epochs without steps stops the training": generators,
    "`class_weight` below 0": lambda: refused(lambda: net().fit(X, Y, class_weight={0: -1.0}), "below 0"),
    "a learning rate callback with a schedule: `TypeError`": schedules,
    "an argument of another type: `TypeError`": lambda: refused(lambda: LayerNormalization({"axis": -1}), "axis"),
    "a misspelt argument: `TypeError`": lambda: refused(lambda: Dense(unit=3), "did you mean 'units'"),
    "`Dropout(1.0)`": lambda: refused(lambda: Dropout(1.0), "not including, 1"),
    "`EarlyStopping(monitor=` unknown `)` warns": monitors,
    '`model.save("x.zip")` with code of yours': saved,
    "`get_file` without a checksum": lambda: refused(lambda: utils.get_file(origin="https://a.b/c"), "SHA-256"),
    "`get_file(extract=True)`": unpacked,
    "`split_dataset` gives `tf.data`": splitting,
    "`normalize(x, axis=0)` takes the last axis": normalized,
    '`flow_from_dataframe(class_mode="multi_output")`': lambda: refused(
        lambda: ImageDataGenerator().flow_from_dataframe({"filename": ["a"]}, class_mode="multi_output"), "raw"
    ),
    "`TensorBoard(profile_batch=2)`": lambda: refused(lambda: callbacks.TensorBoard(profile_batch=2), "profile"),
    "`SwapEMAWeights` after early stopping ends with raw weights": averages,
    "`Resizing(3, 3, \"bicubic\")`": lambda: refused(lambda: Resizing(3, 3, "bicubic"), "bilinear"),
    "`Resizing(3, 3, pad_to_aspect_ratio=True)`": lambda: refused(
        lambda: Resizing(3, 3, pad_to_aspect_ratio=True), "ZeroPadding2D"
    ),
    "`RandomRotation` has the gradient of another turn (TensorFlow)": turned,
    "`RandomTranslation(fill_mode=\"wrap\")` stops after one image (TensorFlow)": wrapped,
    "`RandomFlip` and its like draw from a generator": drawn,
    "`mean_with_sample_weight` of a single weight is not the mean": single_weight,
    "`layers.LSTM`, `Embedding`, `Conv3D`, `Lambda`, …": stay_out,
    "a model takes samples of another size later": another_size,
    "`Input((None, None, 3))`": lambda: refused(lambda: Input((None, None, 3)), "whole numbers above 0"),
    "`Model.layers` begins with the layer of the input": layers_that_compute,
    "`model.build((32, 4))`": lambda: refused(lambda: Sequential([Dense(3)]).build((32, 4)), "shape of a batch"),
    "`model.input_shape` before it is known: `AttributeError`": not_known_yet,
    "`summary()` of a model that is not built": lambda: refused(Sequential([Dense(3)]).summary, "not known yet"),
    "`steps_per_epoch=9` of 10 batches: 9, 1, 9, 1 steps": lambda: steps_of_epochs(9),
    "`steps_per_epoch=11` of 10 batches: 10 steps": lambda: steps_of_epochs(11),
    "targets with NaN or infinity are trained on": bad_targets,
    "after `TerminateOnNaN` `CSVLogger` ends with `nan`": last_row,
    "a learning rate callback sets all rates of a `MultiOptimizer`": rates_of_several,
    "`TensorBoard(write_images=True)` draws a kernel": pictures_of_filters,
    "`MeanIoU` cuts weights to whole numbers": half_samples,
    "`SparseCategoricalAccuracy` of targets (2, 1) and outputs (1, 2, 3)": lambda: refused(
        lambda: metrics.SparseCategoricalAccuracy()(np.zeros((2, 1)), np.ones((1, 2, 3))), "not fit together"
    ),
    "`Constraint()(w)` gives `w`": no_constraint,
    '`model.save("m.png")`': any_ending,
    '`model.save("new/m.h5")` makes the folder': no_folder,
    "random numbers are TensorFlow's": seeds,
}


def test_each_line_has_a_case_and_each_case_a_line():
    assert set(lines()) == set(CASES)
    assert all(len(rest) == 3 and all(rest) for rest in lines().values()), "difference, reason, what to write"


@pytest.mark.parametrize("line", CASES)
def test_the_line_is_true(line, tmp_path):
    CASES[line](*([tmp_path] if CASES[line] in IN_A_FOLDER else []))
