"""Figures of the inside: the numbers that they draw against hand computations, and that drawing changes nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from minicnn import inspect
from minicnn.errors import InputError
from minicnn.inspect import figures
from minicnn.inspect.figures import grad_cam_map, logit_gradient, occlusion_map, top_activations
from minicnn.inspect.figures.drawing import positive_map, scale_for, signed_map
from minicnn.inspect.figures.maps import _Field
from minicnn.kernels import reference
from minicnn.layers import (
    Activation,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
    ZeroPadding2D,
)
from minicnn.layers.walk import chain, forward, new_contexts
from minicnn.models import Model, Sequential
from minicnn.utils import set_random_seed

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["ant", "bee", "cat"]


def small_model(last="softmax", shape=(8, 8, 1), double=False):
    """A net with every kind of layer that an explanation passes through."""
    set_random_seed(3)
    model = Sequential([
        Input(shape),
        Conv2D(4, 3, padding="same", activation="relu"),
        MaxPooling2D(2),
        BatchNormalization(),
        Conv2D(5, 3, padding="same", activation="tanh"),
        Dropout(0.5),
        Flatten(),
        Dense(3),
        Activation(last),
    ])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(5)
    for layer in model.flat_layers:
        for arrays in (layer.params, layer.state):
            for name, array in arrays.items():
                noise = rng.normal(0, 0.2, array.shape)
                arrays[name] = (array + np.abs(noise)).astype(np.float64 if double else np.float32)
    return model


def some_images(n=6, shape=(8, 8, 1), seed=0):
    return np.random.default_rng(seed).random((n, *shape)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    model = small_model()
    model.class_names = NAMES
    return model


@pytest.fixture(scope="module")
def trace(model):
    return model.trace(some_images(), np.array([0, 1, 2, 0, 1, 2]))


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def said(figure):
    return " ".join(" ".join(texts(figure)).split())


def logits_of(model, x):
    """The numbers before the last activation."""
    layers = model.flat_layers[:-1]
    return forward(chain(layers), new_contexts(chain(layers)), model.as_input(x))


# ---- colours ---------------------------------------------------------------------------------------------------------


def test_zero_is_white_and_the_limits_are_symmetric():
    assert signed_map()(0.5) == positive_map()(0.0) == (1, 1, 1, 1)
    scale = scale_for(np.array([-1.0, 0.5, np.nan, np.inf]))
    assert (scale["vmin"], scale["vmax"]) == (-1, 1)
    assert scale_for(np.array([0.0, 2.0]))["vmin"] == 0
    below, above = np.array(signed_map()(0.2)), np.array(signed_map()(0.8))
    assert below[0] > below[2]  # orange
    assert above[2] > above[0]  # blue


# ---- confusion matrix, misclassified ---------------------------------------------------------------------------------


def test_confusion_matrix_counts_and_names_the_worst_pairs(tmp_path):
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    guesses = np.array([0, 1, 1, 2, 1, 1, 2, 1, 2])
    figure = inspect.confusion_matrix(labels, np.eye(3)[guesses], NAMES, worst=2, save=tmp_path / "c.png")
    ax = figure.axes[0]
    cells = {tuple(map(int, text.get_position()[::-1])): int(text.get_text()) for text in ax.texts}
    assert cells == {(0, 0): 1, (0, 1): 2, (0, 2): 1, (1, 1): 2, (2, 1): 1, (2, 2): 2}
    title = ax.get_title(loc="left")
    assert "5 of 9 right (55.6 %)" in title
    assert "ant taken for bee, 2 of 4" in title
    assert "cat for bee, 1 of 3" in title  # the larger share of its row before ant for cat, 1 of 4
    frames = [patch.get_xy() for patch in ax.patches]
    assert frames == [(0.5, -0.5), (0.5, 1.5)]
    same = inspect.confusion_matrix(labels, guesses, NAMES)
    assert len(same.axes[0].texts) == 6


def test_confusion_matrix_without_mistakes_and_into_given_axes():
    ax = Figure().add_subplot()
    assert inspect.confusion_matrix([0, 1], [0, 1], ax=ax) is ax.figure
    assert "No mistakes" in ax.get_title(loc="left")


def test_misclassified_shows_the_most_confident_mistakes_first():
    p = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.2, 0.8, 0], [0.3, 0.3, 0.4]])
    figure = inspect.misclassified(some_images(4), p, [0, 1, 2, 1], NAMES, count=2)
    titles = [ax.get_title(loc="left") for ax in figure.axes[::2]]
    assert titles == ["✗ bee 80 % (cat)", "✗ ant 60 % (bee)"]
    assert "3 of 4 images wrong (75.0 %)" in said(figure)
    assert "no mistakes" in said(inspect.misclassified(some_images(1), p[:1], [0], NAMES))


# ---- filters and maps ------------------------------------------------------------------------------------------------


def mosaic(figure):
    """The tiles as drawn: of the axes with the largest image."""
    images = [ax.images[0] for ax in figure.axes if ax.images]
    return max(images, key=lambda image: image.get_array().size).get_array()


def test_filters_draw_every_weight_and_frame_the_faint(model, trace, tmp_path):
    w = model.get_layer("conv2d_1").params["w"]
    drawn = mosaic(inspect.filters(model, save=tmp_path / "f.png"))
    for k in range(4):
        np.testing.assert_array_equal(drawn[:3, 3 * k : 3 * k + 3], w[:, :, 0, k])
    second = mosaic(inspect.filters(trace, "conv2d_2"))
    expected = trace["conv2d_2"].params["w"]
    for c, k in np.ndindex(4, 5):
        np.testing.assert_array_equal(second[3 * c : 3 * c + 3, 3 * k : 3 * k + 3], expected[:, :, c, k])


def test_a_faint_filter_is_framed():
    model = small_model()
    model.get_layer("conv2d_1").params["w"][..., 2] *= 1e-3
    ax = inspect.filters(model).axes[0]
    assert [patch.get_xy() for patch in ax.patches] == [(5.5, -0.5)]
    assert "filter 2 is nearly 0" in ax.get_title(loc="left")


def test_feature_maps_on_a_common_scale_with_dead_ones_framed(tmp_path):
    model = small_model()
    layer = model.get_layer("conv2d_1")
    layer.params["b"][1] = -100
    figure = inspect.feature_maps(model.trace(some_images()), sample=2, save=tmp_path / "m.png")
    y = model.trace(some_images())["conv2d_1"].y[2]
    drawn = mosaic(figure)
    for k in range(4):
        np.testing.assert_array_equal(drawn[:8, 8 * k : 8 * k + 8], y[:, :, k])
    assert "map 1 is dead: 0 for all 6 traced images" in said(figure)
    maps = next(ax for ax in figure.axes if ax.patches)
    assert [patch.get_xy() for patch in maps.patches] == [(7.5, -0.5)]
    assert maps.images[0].get_clim() == (0, y.max())


def test_gradient_maps_draw_the_traced_gradients(trace, tmp_path):
    figure = inspect.gradient_maps(trace, sample=1, save=tmp_path / "g.png")
    panels = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    np.testing.assert_array_equal(panels[1], trace.layers[0].dx[1, ..., 0])
    np.testing.assert_allclose(panels[2], np.sqrt((trace["conv2d_1"].dy[1] ** 2).mean(-1)), rtol=1e-5)
    drawn = mosaic(inspect.gradient_maps(trace, "conv2d_2", sample=1))
    np.testing.assert_array_equal(drawn[:4, :4], trace["conv2d_2"].dy[1, :, :, 0])


def test_gradient_maps_of_colours_take_the_strongest_channel():
    values = np.array([[[1.0, -3.0, 2.0]]])
    assert figures.maps.strongest(values) == [[-3.0]]


# ---- most-activating patches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_top_activations_against_brute_force(model, batch_size):
    x = some_images(11)
    values, which, places = top_activations(model, x, "conv2d_2", count=3, batch_size=batch_size)
    layers = model.flat_layers[: list(model.layers_by_key).index("conv2d_2") + 1]
    for k in range(5):
        best = []
        for i in range(11):
            y = forward(chain(layers), new_contexts(chain(layers)), x[i : i + 1])[0, :, :, k]
            place = max(np.ndindex(y.shape), key=lambda p, y=y: y[p])
            best.append((float(y[place]), i, place))
        best.sort(key=lambda item: -item[0])
        np.testing.assert_allclose(values[k], [value for value, _, _ in best[:3]], rtol=1e-5)
        assert which[k].tolist() == [i for _, i, _ in best[:3]]
        assert [tuple(place) for place in places[k].tolist()] == [place for _, _, place in best[:3]]


def test_equal_activations_count_the_earlier_image():
    model = small_model()
    _, which, places = top_activations(model, np.zeros((5, 8, 8, 1), np.float32), "conv2d_1", count=2, batch_size=2)
    assert which.tolist() == [[0, 1]] * 4
    assert places.tolist() == [[[0, 0], [0, 0]]] * 4


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (3, 3)])
def test_a_patch_is_exactly_what_the_output_depends_on(model, place):
    index = list(model.layers_by_key).index("conv2d_2")
    field = _Field.of(model, index)
    layers = model.flat_layers[: index + 1]
    sees = np.zeros((8, 8), dtype=bool)
    for seed in range(4):
        x = some_images(1, seed=seed)
        before = forward(chain(layers), new_contexts(chain(layers)), x)[0][place]
        for pixel in np.ndindex(8, 8):
            changed = x.copy()
            changed[0][pixel] += 5
            after = forward(chain(layers), new_contexts(chain(layers)), changed)[0][place]
            sees[pixel] |= bool((after != before).any())
    rows, columns = field.slices(np.array(place))
    expected = np.zeros((8, 8), dtype=bool)
    expected[max(0, rows[0]) : rows[1], max(0, columns[0]) : columns[1]] = True
    np.testing.assert_array_equal(sees, expected)


def test_top_patches_draw_those_places(model, tmp_path):
    x = some_images(10)
    figure = inspect.top_patches(model, x, "conv2d_2", channels=[4, 0], count=2, labels=np.arange(10) % 3,
                                 class_names=NAMES, save=tmp_path / "p.png")  # fmt: skip
    values, which, places = top_activations(model, x, "conv2d_2", count=2)
    assert len(figure.axes) == 4
    field = _Field.of(model, list(model.layers_by_key).index("conv2d_2"))
    for ax, (k, j) in zip(figure.axes, [(4, 0), (4, 1), (0, 0), (0, 1)], strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), x[which[k, j], ..., 0])
        (top, bottom), (left, right) = field.slices(places[k, j])
        assert ax.get_xlim() == (left - 0.5, right - 0.5)
        assert ax.get_ylim() == (bottom - 0.5, top - 0.5)


# ---- why: saliency, Grad-CAM, occlusion ------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0, 2])
def test_saliency_is_the_numeric_derivative_of_the_logit(target):
    model = small_model(double=True)
    image = some_images(1)[0].astype(np.float64)
    gradient = logit_gradient(model, image, target)
    assert gradient.shape == (8, 8, 1)
    step = 1e-6
    for pixel in [(0, 0), (2, 5), (4, 4), (7, 3)]:
        moved = np.repeat(image[None], 2, axis=0)
        moved[0][pixel] += step
        moved[1][pixel] -= step
        above, below = logits_of(model, moved)[:, target]
        numeric = (above - below) / (2 * step)
        assert np.abs(numeric).max() > 1e-4
        np.testing.assert_allclose(gradient[pixel], [numeric], rtol=1e-5)


def test_the_gradient_is_that_of_the_logit_where_the_probability_is_flat():
    model = small_model()
    model.get_layer("dense_1").params["b"][0] = 200  # softmax: 1, 0, 0 exactly
    image = some_images(1)[0]
    assert model.predict(image[None], verbose=0)[0].tolist() == [1, 0, 0]
    assert np.abs(logit_gradient(model, image)).max() > 1e-4
    assert logit_gradient(model, image).dtype == np.float32


def test_one_sigmoid_output_has_two_classes():
    set_random_seed(0)
    model = Sequential([Input((4, 4, 1)), Conv2D(2, 2), Flatten(), Dense(1, activation="sigmoid")])
    image = some_images(1, (4, 4, 1))[0]
    one, other = logit_gradient(model, image, 1), logit_gradient(model, image, 0)
    assert np.abs(one).max() > 0
    np.testing.assert_array_equal(one, -other)
    with pytest.raises(InputError, match="from 0 to 1"):
        logit_gradient(model, image, 2)


@pytest.mark.parametrize("last", ["softmax", "linear"])
def test_grad_cam_against_a_computation_by_hand(last):
    set_random_seed(1)
    model = Sequential([
        Input((5, 5, 1)), Conv2D(2, 2, activation="relu"), GlobalAveragePooling2D(), Dense(3, activation=last),
    ])  # fmt: skip
    image = some_images(1, (5, 5, 1))[0]
    w, v = model.get_layer("conv2d_1").params["w"], model.get_layer("dense_1").params["w"]
    w[...] = np.array([[[[1, -1]], [[0, 2]]], [[[1, 0]], [[-1, 1]]]])
    v[...] = np.array([[0.5, -1, 1], [1, 2, -3]])
    for target in range(3):
        expected = np.zeros((4, 4))
        for y, x in np.ndindex(4, 4):
            for k in range(2):
                a = max(0.0, sum(image[y + i, x + j, 0] * w[i, j, 0, k] for i in range(2) for j in range(2)))
                expected[y, x] += a * v[k, target] / 16  # the mean over 16 places has this derivative at each of them
        cam, layer = grad_cam_map(model, image, target)
        assert layer == "conv2d_1"
        np.testing.assert_allclose(cam, np.maximum(expected, 0), rtol=1e-5, atol=1e-7)


def test_grad_cam_takes_the_last_layer_with_places_also_inside_an_inner_model():
    inner = Sequential([Input((8, 8, 1)), Conv2D(2, 3), Conv2D(2, 3)], name="inner")
    model = Sequential([inner, Flatten(), Dense(3, activation="softmax")])
    cam, layer = grad_cam_map(model, some_images(1)[0])
    assert layer == "inner/conv2d_2"
    assert cam.shape == (4, 4)
    assert grad_cam_map(model, some_images(1)[0], layer="inner/conv2d_1")[0].shape == (6, 6)


def test_no_positive_evidence_is_said_in_words(tmp_path):
    model = Sequential([Input((6, 6, 1)), Conv2D(2, 3, activation="relu"), Flatten(), Dense(2, activation="softmax")])
    model.get_layer("conv2d_1").params["w"][...] = 1
    model.get_layer("dense_1").params["w"][...] = -1
    figure = inspect.grad_cam(model, some_images(1, (6, 6, 1))[0], save=tmp_path / "g.png")
    assert "no positive evidence" in texts(figure)
    assert not any("nan" in text.lower() for text in texts(figure))


def test_grad_cam_shows_the_coarse_grid(model):
    image = some_images(1)[0]
    figure = inspect.grad_cam(model, image, target=1)
    cam, _ = grad_cam_map(model, image, 1)
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), cam)
    assert len(figure.axes[1].texts) == cam.size
    assert said(figure).count("bee") == 1


@pytest.mark.parametrize(("patch", "stride", "fill"), [(2, 2, 0.0), (3, 2, 0.5), (5, 1, 0.0)])
def test_occlusion_against_a_loop(model, patch, stride, fill):
    image = some_images(1)[0]
    total, seen = np.zeros((8, 8)), np.zeros((8, 8))
    starts = sorted({*range(0, 9 - patch, stride), 8 - patch})
    whole = logits_of(model, image[None])[0, 1]
    for y in starts:
        for x in starts:
            covered = image.copy()
            covered[y : y + patch, x : x + patch] = fill
            total[y : y + patch, x : x + patch] += whole - logits_of(model, covered[None])[0, 1]
            seen[y : y + patch, x : x + patch] += 1
    assert seen.min() > 0
    drawn = occlusion_map(model, image, 1, patch, stride, fill, batch_size=5)
    np.testing.assert_allclose(drawn, total / seen, atol=1e-5)
    assert np.abs(drawn).max() > 1e-3


def test_occlusion_holds_one_batch_at_a_time(monkeypatch):
    model, sizes = small_model(), []
    as_input = model.as_input
    monkeypatch.setattr(model, "as_input", lambda x: sizes.append(len(x)) or as_input(x))
    occlusion_map(model, some_images(1)[0], patch=2, stride=1, batch_size=10)
    assert max(sizes) == 10
    assert sum(sizes) == 1 + 49


def test_occlusion_draws_the_square_that_costs_most(model):
    image = some_images(1)[0]
    figure = inspect.occlusion(model, image, target=0, patch=3, stride=1)
    square = figure.axes[2].patches[0]
    x, y = (round(v + 0.5) for v in square.get_xy())

    def fall(y, x):
        covered = image.copy()
        covered[y : y + 3, x : x + 3] = 0
        return float(logits_of(model, image[None])[0, 0] - logits_of(model, covered[None])[0, 0])

    assert fall(y, x) == pytest.approx(max(fall(*place) for place in np.ndindex(6, 6)), rel=1e-4)
    assert f"lowers the logit by {fall(y, x):.2g}" in said(figure)


def test_explaining_changes_nothing_about_the_model(model):
    def state():
        arrays = [a.tobytes() for layer in model.flat_layers for a in (*layer.params.values(), *layer.state.values())]
        return arrays, repr(model.rng.bit_generator.state), model.optimizer.iterations, repr(model.optimizer.state)

    before, image, pixels = state(), some_images(1)[0], some_images(1)[0].tobytes()
    inspect.saliency(model, image)
    inspect.grad_cam(model, image)
    inspect.occlusion(model, image, patch=3)
    inspect.top_patches(model, some_images(3), channels=[0])
    inspect.filters(model)
    inspect.architecture(model)
    assert state() == before
    assert image.tobytes() == pixels


# ---- one step --------------------------------------------------------------------------------------------------------


def test_gradient_flow_and_update_ratios_draw_the_traced_numbers(trace, tmp_path):
    ax = inspect.gradient_flow(trace, save=tmp_path / "f.png").axes[0]
    lines = {line.get_label(): line for line in ax.lines}
    kernels = lines["dL/dw, the kernels' gradients"].get_ydata()
    expected = [np.sqrt(np.mean(trace[key].grads["w"] ** 2)) for key in ("conv2d_1", "conv2d_2", "dense_1")]
    np.testing.assert_allclose(kernels, expected, rtol=1e-5)
    figure = inspect.update_ratios(trace)
    drawn = np.concatenate([line.get_ydata() for line in figure.axes[0].lines if "step" in str(line.get_label())])
    expected = [np.linalg.norm(r.updated[name] - r.params[name]) / np.linalg.norm(r.params[name])
                for r in trace.layers for name in ("w", "gamma") if name in r.params]  # fmt: skip
    np.testing.assert_allclose(sorted(drawn), sorted(expected), rtol=1e-4)


def test_too_large_a_step_and_a_gradient_that_does_not_arrive_are_named():
    from minicnn.optimizers import SGD

    model = small_model()
    model.get_layer("conv2d_2").params["w"][...] = 0
    model.compile(SGD(1000.0), "sparse_categorical_crossentropy")
    t = model.trace(some_images(), np.array([0, 1, 2, 0, 1, 2]))
    assert "No gradient reaches conv2d_1" in said(inspect.gradient_flow(t))
    assert "too far: lower the learning rate" in said(inspect.update_ratios(t))
    model.compile(SGD(0.001), "sparse_categorical_crossentropy")
    t = model.trace(some_images(), np.array([0, 1, 2, 0, 1, 2]))
    assert "conv2d_1 does not move" in said(inspect.update_ratios(t))


def test_activation_histograms_of_initialisations(tmp_path):
    traces = {}
    for name, scale in (("small", 0.01), ("good", 0.3)):
        set_random_seed(0)
        model = Sequential([Input((10,)), *[Dense(20, activation="tanh") for _ in range(4)], Dense(2, "softmax")])
        for layer in model.flat_layers:
            if layer.params:
                layer.params["w"][...] = np.random.default_rng(0).normal(0, scale, layer.params["w"].shape)
        traces[name] = model.trace(np.random.default_rng(1).normal(size=(50, 10)))
    figure = inspect.activation_histograms(traces, save=tmp_path / "h.png")
    assert len(figure.axes) == 8  # softmax is left out
    words = said(figure)
    assert "small: the signal dies out" in words
    assert "good: the signal is kept" in words
    one = inspect.activation_histograms(traces["good"]).axes[0]
    bars = sum(patch.get_height() for patch in one.patches)
    assert bars > 1


# ---- im2col, architecture --------------------------------------------------------------------------------------------


def test_im2col_figure_draws_the_numbers_of_the_kernels():
    x, w = np.array([[1.0, 2, 0], [0, -1, 3], [2.5, 1, 1]]), np.array([[1.0, 0], [-1, 0.5]])
    figure = inspect.im2col_figure(x, w, padding="same", row=4)
    y = reference.conv2d_forward(x[None, ..., None], w[:, :, None, None], None, 1, "same")[0, ..., 0]
    cols = reference.im2col(x[None, ..., None], (2, 2), 1, "same")
    written = [f"{v:.3g}".replace("-", "−") for v in (*np.pad(x, ((0, 1), (0, 1))).ravel(), *w.ravel(), *cols.ravel(),
               *w.ravel(), *y.ravel(), *y.ravel())]  # fmt: skip
    cells = [text.get_text() for text in figure.axes[0].texts]
    cells = [text for text in cells if text.replace("−", "").replace(".", "").isdigit()]
    assert sorted(cells) == sorted(written)
    assert "−1·1 + 3·0 + 1·(−1) + 1·0.5 = −1.5" in said(figure)
    assert float(y[1, 1]) == -1.5


def cells_of(figure) -> list[float]:
    """The numbers that stand in the cells of a figure's tables."""
    texts = [text.get_text().replace("−", "-") for text in figure.axes[0].texts]
    return sorted(float(text) for text in texts if re.fullmatch(r"-?[\d.]+", text))


@pytest.mark.parametrize("which", ["y", "dw", "dx"])
@pytest.mark.parametrize(("size", "kernel"), [((5, 4), (3, 2)), ((3, 3), (3, 3)), ((4, 4), (1, 2))])
def test_convolution_figure_draws_the_numbers_of_the_reference(which, size, kernel):
    rng = np.random.default_rng(0)
    out = (size[0] - kernel[0] + 1, size[1] - kernel[1] + 1)
    x, w, dy = (rng.integers(-9, 10, shape).astype(float) for shape in (size, kernel, out))
    dx, dw, _ = reference.conv2d_backward(dy[None, ..., None], x[None, ..., None], w[..., None, None])
    y = reference.conv2d_forward(x[None, ..., None], w[..., None, None])
    result = {"y": y[0, ..., 0], "dw": dw[..., 0, 0], "dx": dx[0, ..., 0]}[which]
    at = (result.shape[0] - 1, 0)
    figure = inspect.convolution_figure(which, at, x, w, dy)
    (i, j), by = at, {"y": w, "dw": dy, "dx": w[::-1, ::-1]}[which]
    read = np.pad(dy, [(k - 1, k - 1) for k in kernel]) if which == "dx" else x
    products = read[i : i + by.shape[0], j : j + by.shape[1]] * by
    assert products.sum() == result[at]
    tables = [read, by, products, result, *([w] if which == "dx" else [])]
    assert cells_of(figure) == sorted(float(v) + 0 for table in tables for v in table.ravel())
    assert f"{which}[{i}, {j}] = " in said(figure) and f"= {result[at]:.3g}.".replace("-", "−") in said(figure)


def test_winograd_figure_draws_both_ways_to_the_same_outputs():
    d, g = [1.0, -2, 3, 5], [2.0, 1, -3]
    figure = inspect.winograd_figure(d, g)
    y = np.correlate(d, g, "valid")
    v, u = [1 - 3, -2 + 3, 3 + 2, -2 - 5], [2, 0, -1, -3]
    assert cells_of(figure) == sorted([*d, *g, *v, *u, *np.multiply(v, u), *y])
    assert all(f"y{k} = " in said(figure) and f"= {y[k]:.3g}".replace("-", "−") in said(figure) for k in (0, 1))


def test_padding_figure_counts_as_the_reference_does():
    sizes = (5, 6, 9)
    figure = inspect.padding_figure(sizes, kernel=4, stride=3)
    for size in sizes:
        (low, high), _ = reference.resolve_padding(size, 4, 3, 1, "same")
        out = reference.output_size(size, 4, 3, 1, ((low, high),) * 2)[0]
        assert f"size {size}: {out} windows; zeros added: {low} on the left, {high} on the right" in said(figure)
    assert "under no window" not in said(figure)
    assert "1 cell at the end: under no window" in said(inspect.padding_figure((6,), 3, 2, "valid"))


def test_receptive_field_figure_counts_the_pixels_that_a_gradient_reaches():
    model = Sequential([Input((20, 20, 1)), Conv2D(1, 3, padding="same"), MaxPooling2D(2), Conv2D(1, 3, strides=2)])
    field = _Field.of(model, 2)
    assert field.size == [8, 8]
    figure = inspect.receptive_field_figure(model)
    assert "One output of conv2d_2 sees 8×8 pixels: its receptive field" in said(figure)
    assert "image: 8" in said(figure)
    corner = said(inspect.receptive_field_figure(model, place=0))
    assert "image: 7" in corner and "In the padding: 1 cell more." in corner
    padded = Sequential([Input((20, 20, 1)), ZeroPadding2D(2), Conv2D(1, 3)])
    assert "image: 1" in said(inspect.receptive_field_figure(padded, place=0))
    x = Input((20, 20, 1))
    branches = Model(x, Concatenate()([Conv2D(1, 3, padding="same")(x), Conv2D(1, 5, padding="same")(x)]))
    assert "sees 3×3 pixels" in said(inspect.receptive_field_figure(branches))  # up to the branch, not across it


def test_architecture_names_shapes_and_parameters(model, tmp_path):
    svg = inspect.architecture(model, save=tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes().decode() == svg
    words = [element.text for element in ElementTree.fromstring(svg).iter() if element.text and element.text.strip()]
    for word in ("conv2d_1", "4 × 4 × 5", "40 parameters", "Conv2D: 3×3 window, padding same, relu"):
        assert word in words
    assert "3 classes: ant, bee, cat" in words
    assert f"{model.count_params():,} parameters" in words[1]


def test_hostile_names_stay_text():
    model = Sequential([Input((4,)), Dense(2, name='<script onload="x()">')], name="a&b<c>\x00")
    model.class_names = ["</text><script>x</script>", "]]>\x1b&amp;"]
    root = ElementTree.fromstring(inspect.architecture(model))
    assert {element.tag.split("}")[1] for element in root.iter()} <= {"svg", "title", "rect", "path", "text"}
    words = " ".join(element.text or "" for element in root.iter())
    assert '<script onload="x()">' in words
    assert "</text><script>x</script>" in words


def test_hostile_names_in_figures_are_no_mathematics():
    model = small_model()
    model.class_names = ["$\\frac$", "a $ and $", "_^{"]
    for target in range(3):
        inspect.grad_cam(model, some_images(1)[0], target).canvas.draw()
    inspect.confusion_matrix([0, 1, 2, 0], [1, 1, 2, 2], model.class_names).canvas.draw()


# ---- files, axes, bad input ------------------------------------------------------------------------------------------

MAKERS = {
    "filters": lambda m, t, **o: inspect.filters(m, **o),
    "feature_maps": lambda m, t, **o: inspect.feature_maps(t, **o),
    "gradient_maps": lambda m, t, **o: inspect.gradient_maps(t, "conv2d_1", **o),
    "gradient_flow": lambda m, t, **o: inspect.gradient_flow(t, **o),
    "update_ratios": lambda m, t, **o: inspect.update_ratios(t, **o),
    "confusion_matrix": lambda m, t, **o: inspect.confusion_matrix([0, 1, 1], [0, 1, 0], **o),
}


@pytest.mark.parametrize("name", MAKERS)
def test_drawing_into_given_axes(name, model, trace):
    ax = Figure().subplots(1, 2)[1]
    assert MAKERS[name](model, trace, ax=ax) is ax.figure
    assert ax.get_title(loc="left")
    ax.figure.canvas.draw()


@pytest.mark.parametrize("name", ["saliency", "grad_cam", "occlusion"])
def test_explanations_of_colour_images_and_standardised_ones_are_written(name, tmp_path):
    model = small_model(shape=(8, 8, 3))
    image = some_images(1, (8, 8, 3))[0] * 4 - 2
    getattr(inspect, name)(model, image, save=tmp_path / "x.png")
    assert np.asarray(Image.open(tmp_path / "x.png").convert("L")).std() > 10


MODEL, FLAT = small_model(), Sequential([Input((8, 8, 1)), Flatten(), Dense(3, activation="softmax")])
FLAT.compile("sgd", "sparse_categorical_crossentropy")
X, FORWARD, BOTH = some_images(), MODEL.trace(some_images()), FLAT.trace(some_images(), np.zeros(6, int))


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: inspect.grad_cam(FLAT, X[0], layer="dense_1"), "no maps for Grad-CAM"),
        (lambda: inspect.grad_cam(Sequential([Input((1, 1, 4)), Flatten(), Dense(2)]), X[0, :1, :4].reshape(1, 1, 4)),
         "no maps for Grad-CAM"),
        (lambda: inspect.grad_cam(MODEL, X[0], layer="conv2d_3"), "did you mean 'conv2d_"),
        (lambda: inspect.grad_cam(MODEL, X[0], target=3), "from 0 to 2"),
        (lambda: inspect.saliency(MODEL, X[0], target=-1), "from 0 to 2"),
        (lambda: inspect.saliency(MODEL, X[0], target=1.0), "from 0 to 2"),
        (lambda: inspect.saliency(MODEL, X), r"images\[0\]"),
        (lambda: inspect.saliency(MODEL, X[0] * np.nan), "not every number is finite"),
        (lambda: inspect.saliency("model", X[0]), "no model"),
        (lambda: inspect.saliency(Sequential([Dense(2)]), X[0]), "has not been built"),
        (lambda: inspect.saliency(Sequential([Input((4,)), Dense(2)]), X[0]), "inputs are no images"),
        (lambda: inspect.saliency(Sequential([Input((8, 8, 1)), Conv2D(2, 3)]), X[0]), "end the model with Dense"),
        (lambda: inspect.occlusion(MODEL, X[0], patch=9), "larger than the image"),
        (lambda: inspect.occlusion(MODEL, X[0], stride=0), "1 or more"),
        (lambda: inspect.occlusion(MODEL, X[0], batch_size=0), "1 or more"),
        (lambda: inspect.occlusion(MODEL, X[0], fill=[1, 2, 3]), "one for each channel"),
        (lambda: inspect.filters(FLAT), "use a model with Conv2D"),
        (lambda: inspect.filters(MODEL, "dense_1"), "conv2d_1, conv2d_2"),
        (lambda: inspect.filters(X), "no filters"),
        (lambda: inspect.feature_maps(BOTH, "dense_1"), "no maps for feature maps"),
        (lambda: inspect.feature_maps(FORWARD, "conv2d_9"), "did you mean"),
        (lambda: inspect.feature_maps(FORWARD, sample=6), "from 0 to 5"),
        (lambda: inspect.feature_maps(MODEL), "model.trace"),
        (lambda: inspect.gradient_maps(FORWARD), "pass the labels too"),
        (lambda: inspect.gradient_flow(FORWARD), "pass the labels too"),
        (lambda: inspect.update_ratios(FORWARD), "pass the labels too"),
        (lambda: inspect.activation_histograms({}), "no traces"),
        (lambda: inspect.activation_histograms(3), "no trace"),
        (lambda: inspect.top_patches(MODEL, X, "dense_1"), "no place in the image"),
        (lambda: inspect.top_patches(FLAT, X), "use a model with Conv2D"),
        (lambda: inspect.top_patches(MODEL, X, "conv"), "no such layer"),
        (lambda: inspect.top_patches(MODEL, X, channels=[5]), "from 0 to 4"),
        (lambda: inspect.top_patches(MODEL, X, labels=[0], class_names=NAMES), "each of the 6 images"),
        (lambda: inspect.confusion_matrix([0, 3], [0, 1], NAMES), "3 class names"),
        (lambda: inspect.confusion_matrix([0, 1, 2], [0, 1], NAMES), "do not fit"),
        (lambda: inspect.misclassified(X, np.eye(3), [0, 1, 2], NAMES), "do not fit"),
        (lambda: inspect.im2col_figure(np.zeros((20, 20))), "too many numbers"),
        (lambda: inspect.im2col_figure(np.zeros((4, 4, 3))), "a table of numbers"),
        (lambda: inspect.im2col_figure(np.zeros((2, 2))), "does not fit into it"),
        (lambda: inspect.im2col_figure(row=4), "from 0 to 3"),
        (lambda: inspect.convolution_figure("db"), '"dw" or "dx"'),
        (lambda: inspect.convolution_figure("y", (0, 3)), "from 0 to 2"),
        (lambda: inspect.convolution_figure(image=np.zeros((2, 2))), "does not fit"),
        (lambda: inspect.convolution_figure(image=np.zeros((7, 7))), "at most 6×6"),
        (lambda: inspect.convolution_figure(dy=np.zeros((2, 2))), "fit the output"),
        (lambda: inspect.winograd_figure([1, 2, 3]), "4 numbers"),
        (lambda: inspect.winograd_figure(g=[1, 2]), "3 numbers"),
        (lambda: inspect.padding_figure((2,), 3, padding="valid"), "cannot be drawn"),
        (lambda: inspect.padding_figure((41,)), "cannot be drawn"),
        (lambda: inspect.padding_figure(stride=0), "1 or more"),
        (lambda: inspect.receptive_field_figure(FLAT), "convolutions or poolings first"),
        (lambda: inspect.receptive_field_figure(3), "no model"),
        (lambda: inspect.receptive_field_figure(MODEL, 99), "from 0 to"),
        (lambda: inspect.architecture(Sequential([Dense(2)])), "has not been built"),
        (lambda: inspect.architecture(MODEL, save="a.png"), "ends in .svg"),
        (lambda: inspect.architecture(3), "no model"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_three_parts(call, hint):
    with pytest.raises(InputError, match=hint) as error:
        call()
    for part in ("Expected:", "Received:", "What to do:"):
        assert part in str(error.value)


# ---- the gallery -----------------------------------------------------------------------------------------------------


def test_the_gallery_of_a_saved_model(tmp_path):
    """Also: no picture needs pyplot."""
    set_random_seed(0)
    model = Sequential([
        Input((28, 28, 1)), Conv2D(3, 5, strides=3, activation="relu"), MaxPooling2D(2), Flatten(),
        Dense(10, activation="softmax"),
    ])  # fmt: skip
    model.compile("adam", "categorical_crossentropy")
    model.save(tmp_path / "model.zip")
    code = (
        "import runpy, sys; sys.argv = ['gallery.py', '--model', 'model.zip', '--output', 'out']\n"
        f"sys.path.insert(0, {str(ROOT / 'examples')!r})\n"  # as Python does for a script
        f"runpy.run_path({str(ROOT / 'examples' / 'gallery.py')!r}, run_name='__main__')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, env=env, capture_output=True,
                          encoding="utf-8", timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    listed = [Path(line) for line in done.stdout.splitlines()]
    assert sorted(listed) == sorted(path.relative_to(tmp_path) for path in (tmp_path / "out").iterdir())
    assert len(listed) >= 24
    for path in listed:
        if path.suffix == ".png":
            assert np.asarray(Image.open(tmp_path / path).convert("L"), dtype=float).std() > 10, f"{path} is blank"
