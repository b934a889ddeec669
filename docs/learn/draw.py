"""Draws every picture of the chapters: python docs/learn/draw.py [--output DIR]. A test compares them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import minicnn
from minicnn import inspect, layers, optimizers
from minicnn.datasets import toy
from minicnn.inspect.figures.drawing import (
    FAINT,
    RIGHT,
    TEXT,
    WRONG,
    clean,
    footnote,
    headline,
    new_figure,
    number,
    saved,
    title,
)
from minicnn.kernels import batchnorm_backward, im2col

ORANGE = "#c2510c"


def one_pixel(path):
    inspect.convolution_figure("y", at=(1, 2), save=path)


def padding(path):
    inspect.padding_figure((5, 6, 7, 8), kernel=3, stride=2, save=path)


def receptive_field(path):
    model = minicnn.Sequential([layers.Input((28, 28, 1)), *two_blocks()])
    inspect.receptive_field_figure(model, save=path)


def windows(path):
    inspect.im2col_figure(save=path)


def memory(path):
    """The bytes of a layer's input beside those of its windows, for the convolutions of the CIFAR-10 network."""
    shapes = {"32×32×3": (32, 32, 3), "32×32×32": (32, 32, 32), "16×16×64": (16, 16, 64), "8×8×64": (8, 8, 64)}
    inputs = np.array([4 * np.prod(shape) for shape in shapes.values()]) / 1024
    cols = np.array([im2col(np.zeros((1, *s), "float32"), 3, 1, "same").nbytes for s in shapes.values()]) / 1024
    figure = new_figure(8, 3.6)
    ax = figure.add_subplot()
    at = np.arange(len(shapes))
    for offset, values, colour, name in ((-0.2, inputs, FAINT, "the input"), (0.2, cols, RIGHT, "its windows in rows")):
        ax.barh(at + offset, values, 0.38, color=colour, label=name)
        for y, value in zip(at + offset, values, strict=True):
            ax.text(value + 10, y, f"{value:,.0f} KB", va="center", fontsize=9, color=TEXT)
    ax.set_yticks(at, [f"input {name}" for name in shapes])
    ax.invert_yaxis()
    ax.set(xlim=(0, cols.max() * 1.15), xlabel="kilobytes for one image, float32")
    clean(ax)
    ax.legend(fontsize=9, edgecolor="none")
    headline(figure, "im2col of a 3×3 kernel takes nine times the memory of its input")
    saved(figure, path)


def weight_gradient(path):
    inspect.convolution_figure("dw", at=(0, 2), save=path)


def turned_kernel(path):
    inspect.convolution_figure("dx", at=(2, 1), save=path)


def divide_by_n(path):
    """The size of a gradient by batch size: of the mean of the losses, and of their sum."""
    (x, y), _ = toy.load_data(n_train=512, n_test=0)
    model = compiled([layers.Input((28, 28)), layers.Flatten(), layers.Dense(10, activation="softmax")], "sgd")
    sizes = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    mean = np.array([np.linalg.norm(model.trace(x[:n] / 255, y[:n])["dense_1"].grads["w"]) for n in sizes])
    figure = new_figure(7.5, 3.8)
    ax = figure.add_subplot()
    ax.loglog(sizes, mean * sizes, "s--", color=WRONG, label="of the sum of the losses")
    ax.loglog(sizes, mean, "o-", color=RIGHT, linewidth=2, label="of their mean")
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.minorticks_off()
    ax.set(xlabel="images in the batch", ylabel="length of dw")
    clean(ax)
    ax.legend(fontsize=9, edgecolor="none")
    headline(figure, "The gradient of the mean does not grow with the batch; that of the sum does")
    saved(figure, path)


def adam(path):
    """Three optimizers on a long valley, loss = (a² + 50 b²) / 2, from the same place, 40 steps each."""
    curvature = np.array([1.0, 50.0])
    rules = {
        "SGD, learning rate 0.035": (optimizers.SGD(0.035), FAINT),
        "with momentum 0.9, 0.01": (optimizers.SGD(0.01, momentum=0.9), ORANGE),
        "Adam, 0.3": (optimizers.Adam(0.3), RIGHT),
    }
    figure = new_figure(8, 4)
    ax = figure.add_subplot()
    a, b = np.meshgrid(np.linspace(-9.5, 3, 200), np.linspace(-2.2, 2.2, 200))
    ax.contour(a, b, (a**2 + 50 * b**2) / 2, levels=[0.5, 2, 8, 20, 40, 80, 120], colors="#d5dae1", linewidths=0.8)
    for name, (rule, colour) in rules.items():
        p = np.array([-8.0, 1.5])
        points, key = [p.copy()], ("valley", "p")
        for _ in range(40):
            rule.apply({key: p}, {key: [curvature * p]})
            points.append(p.copy())
        ax.plot(*np.array(points).T, "o-", color=colour, markersize=3.5, linewidth=1.4, label=name)
    ax.plot(0, 0, "+", color=WRONG, markersize=14, markeredgewidth=2, label="the lowest point")
    ax.set(xlabel="a weight with a small gradient", ylabel="one with a large gradient")
    clean(ax)
    ax.grid(visible=False)
    ax.legend(fontsize=9, edgecolor="none", loc="lower right")
    headline(figure, "Adam's steps are about equally long in both directions, whatever the gradient's size")
    saved(figure, path)


def batch_norm(path):
    """One channel with eight numbers: the three parts of dx, and their sum."""
    rng = np.random.default_rng(2)
    x = rng.normal(0, 1, (8, 1))
    dy = 0.5 + 0.6 * x + rng.normal(0, 0.5, (8, 1))
    mean, var, one = x.mean(axis=0), x.var(axis=0), np.ones(1)
    dx, _, _ = batchnorm_backward(dy, x, one, mean, var, 1e-3)
    std = np.sqrt(var + 1e-3)
    x_hat = (x - mean) / std
    parts = [dy / std, np.broadcast_to(-dy.mean(axis=0) / std, dy.shape), -x_hat * (dy * x_hat).mean(axis=0) / std]
    np.testing.assert_allclose(sum(parts), dx, atol=1e-12)
    names, colours = ("directly", "through the mean", "through the variance"), (RIGHT, FAINT, ORANGE)
    figure = new_figure(8.5, 3.8)
    ax = figure.add_subplot()
    for k, (part, name, colour) in enumerate(zip(parts, names, colours, strict=True)):
        ax.bar(np.arange(8) + 0.2 * k - 0.3, part[:, 0], 0.2, color=colour, label=name)
    ax.bar(np.arange(8) + 0.3, dx[:, 0], 0.2, color=TEXT, label="dx, their sum")
    ax.axhline(0, color=TEXT, linewidth=0.8)
    ax.set(xlabel="the eight numbers of a channel", xticks=range(8))
    clean(ax)
    ax.legend(fontsize=9, edgecolor="none", ncol=4, loc="upper center")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.3 * (high - low))
    headline(figure, "Each number reaches the loss in three ways: directly, through the mean and through the variance")
    total, along = (number(abs(float(v)), 2) if abs(v) > 1e-9 else "0" for v in (dx.sum(), (dx * x_hat).sum()))
    footnote(figure, f"The sum of dx is {total}. The sum of dx·x̂ is nearly so: {along} (ε under the root is the rest).")
    saved(figure, path)


def training_gap(path):
    """Four losses of every epoch: the one that fit reports, with and without dropout at its end, and validation."""
    minicnn.utils.set_random_seed(0)
    (x, y), (x_val, y_val) = toy.load_data(n_train=2000, n_test=500)
    x, x_val = x[..., None] / np.float32(255), x_val[..., None] / np.float32(255)
    blocks = [*two_blocks(), layers.Flatten(), layers.Dropout(0.3), layers.Dense(10, activation="softmax")]
    model = compiled([layers.Input((28, 28, 1)), *blocks], "adam")
    reported, dropped, whole, validation = [], [], [], []
    for _ in range(5):
        history = model.fit(x, y, verbose=0).history
        reported.append(history["loss"][0])
        dropped.append(np.mean([model.trace(x[i : i + 250], y[i : i + 250]).loss for i in range(0, len(x), 250)]))
        whole.append(model.evaluate(x, y, verbose=0))
        validation.append(model.evaluate(x_val, y_val, verbose=0))
    figure = new_figure(8, 4.2)
    ax = figure.add_subplot()
    epochs = range(1, 6)
    ax.plot(epochs, reported, "o--", color=FAINT, label="training, as fit reports it: mean over the epoch")
    ax.plot(epochs, dropped, "s-", color=ORANGE, label="training images at the end of the epoch, with dropout")
    ax.plot(epochs, whole, "o-", color=TEXT, label="training images at the end of the epoch, without dropout")
    ax.plot(epochs, validation, "o-", color=RIGHT, linewidth=2.2, label="validation images")
    ax.fill_between(epochs, dropped, reported, color=FAINT, alpha=0.25, linewidth=0)
    ax.fill_between(epochs, whole, dropped, color=ORANGE, alpha=0.25, linewidth=0)
    ax.set(xlabel="epoch", ylabel="loss", xticks=list(epochs), ylim=(0, None))
    clean(ax)
    ax.legend(fontsize=9, edgecolor="none")
    headline(figure, "Why training looks worse than validation: the model moved on (grey), and dropout (orange)")
    saved(figure, path)


def vanishing(path):
    """The gradients of six dense layers: after sigmoid they shrink layer by layer, after ReLU they arrive."""
    (x, y), _ = toy.load_data(n_train=200, n_test=0)
    figure = new_figure(11, 4.4)
    for k, activation in enumerate(("sigmoid", "relu")):
        hidden = [layers.Dense(32, activation, kernel_initializer="he_normal") for _ in range(6)]
        model = compiled([layers.Input((28, 28)), layers.Flatten(), *hidden, layers.Dense(10, "softmax")], "sgd")
        ax = figure.add_subplot(1, 2, k + 1)
        inspect.gradient_flow(model.trace(x / 255, y), ax)
        title(ax, f"{activation}: {ax.get_title(loc='left')}".replace("\n", " "), 10, 5)
    low, high = (f(ax.get_ylim()[i] for ax in figure.axes) for i, f in enumerate((min, max)))
    for ax in figure.axes:
        ax.set_ylim(low, high)
    saved(figure, path)


def counting(path):
    """Where the quickstart's network has its weights, its multiplications, its numbers: not in the same layers."""
    model = minicnn.Sequential([layers.Input((28, 28, 1)), *two_blocks(), layers.Flatten(), layers.Dense(64, "relu"),
                                layers.Dense(10, "softmax")])  # fmt: skip
    shapes = [(28, 28, 1)]
    for layer in model.layers:
        shapes.append(layer.output_shape(shapes[-1]))
    counts = {
        "parameters": [layer.count_params() for layer in model.layers],
        "multiply-accumulates": [layer.macs(shape) for layer, shape in zip(model.layers, shapes, strict=False)],
        "numbers in the output": [int(np.prod(shape)) for shape in shapes[1:]],
    }
    figure = new_figure(10, 3.4)
    for k, (name, values) in enumerate(counts.items()):
        ax = figure.add_subplot(1, 3, k + 1)
        ax.barh(range(len(values)), values, color=RIGHT)
        for i, value in enumerate(values):
            ax.text(value + 0.02 * max(values), i, f"{value:,}", va="center", fontsize=8.5, color=TEXT)
        ax.set_yticks(range(len(values)), [layer.name for layer in model.layers] if k == 0 else [""] * len(values))
        ax.set(xlim=(0, 1.3 * max(values)), xticks=[])
        ax.invert_yaxis()
        clean(ax)
        ax.grid(visible=False)
        ax.set_title(f"{name}: {sum(values):,}", fontsize=10, color=TEXT, loc="left")
    headline(figure, "The weights are in the dense layer, the work in the convolution, the memory in the first maps")
    saved(figure, path)


def winograd(path):
    inspect.winograd_figure(save=path)


def roofline(path):
    """The layers of the CIFAR-10 network between the two limits of a machine: arithmetic, and memory."""
    names = ("convolution 3→32", "convolution 32→64", "ReLU", "dense, batch 1", "dense, batch 64")
    operations = np.array([2 * 1024 * 27 * 32, 2 * 1024 * 288 * 64, 65536, 2 * 8192 * 256, 2 * 8192 * 256 * 64.0])
    numbers = np.array([1024 * 35, 1024 * 96, 2 * 65536, 8192 * 257 + 256, 8192 * 256 + 64 * 8448.0])
    intensity = operations / (4 * numbers)
    machines = {
        "2 cores, measured (benchmarks/kernels.py)": (231e9, 19.9e9, RIGHT),
        "NVIDIA A100, as published": (19.5e12, 1555e9, ORANGE),
    }
    figure = new_figure(8.5, 4.8)
    ax = figure.add_subplot()
    at = np.geomspace(0.05, 300, 200)
    for name, (peak, bandwidth, colour) in machines.items():
        ax.loglog(at, np.minimum(peak, bandwidth * at) / 1e9, color=colour, linewidth=2, label=name)
        reached = np.minimum(peak, bandwidth * intensity) / 1e9
        ax.plot(intensity, reached, "o", color=colour, markersize=6)
    for name, value, height in zip(names, intensity, (4, 3, 4, 15, 3), strict=True):
        ax.axvline(value, color="#d5dae1", linewidth=0.8, zorder=0)
        ax.text(value * 1.06, height, name, rotation=90, va="bottom", fontsize=8, color=TEXT)
    ax.set(xlabel="operations for each byte that is read or written (log scale)", ylabel="billion operations a second")
    ax.set(xlim=(0.05, 300), ylim=(1, 60000))
    clean(ax)
    ax.legend(fontsize=9, edgecolor="none", loc="upper left")
    headline(figure, "Left of the bend a layer waits for memory, right of it for arithmetic")
    saved(figure, path)


def two_blocks():
    same = {"kernel_size": 3, "padding": "same", "activation": "relu"}
    return [layers.Conv2D(16, **same), layers.MaxPooling2D(2), layers.Conv2D(32, **same), layers.MaxPooling2D(2)]


def compiled(parts, optimizer):
    minicnn.utils.set_random_seed(0)
    model = minicnn.Sequential(parts)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


PICTURES = (
    one_pixel, padding, receptive_field, windows, memory, weight_gradient, turned_kernel, divide_by_n, adam, batch_norm,
    training_gap, vanishing, counting, winograd, roofline,
)  # fmt: skip


def draw(folder: Path) -> list[Path]:
    """All pictures, in 64 colours: a third of the bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for picture in PICTURES:
        path = folder / f"{picture.__name__}.png"
        picture(path)
        with Image.open(path) as image:
            small = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
        small.save(path, optimize=True)
        paths.append(path)
    return paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the pictures of the chapters.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pictures")
    for path in draw(parser.parse_args(sys.argv[1:]).output):
        print(path)
