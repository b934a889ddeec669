"""Which pixel belongs to what? A small U-Net gives each pixel of a drawn scene its class. No download, about a minute.

Run it with: python examples/segment.py [--images 1500] [--epochs 8] [--output DIR] [--device gpu]

O. Ronneberger, P. Fischer, T. Brox, "U-Net" (2015): down, where pixels are put together until a network sees what is
there, and up again to where it is; at each size, what the way down saw is laid beside what comes up (Concatenate).
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from minicnn.errors import InputError
from minicnn.layers import (
    Activation,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Input,
    MaxPooling2D,
    UpSampling2D,
)
from minicnn.metrics import MeanIoU
from minicnn.models import Model
from minicnn.optimizers import Adam
from minicnn.utils import set_random_seed

CLASSES = ["background", "disc", "square", "triangle"]
COLOURS = np.array([[245, 245, 245], [46, 107, 184], [217, 120, 40], [60, 140, 90]], np.uint8)  # of the masks
SIDE = 32


def scene(rng):
    """(image (32, 32, 3) from 0 to 1, mask (32, 32) of class numbers): three shapes, any of which may hide another.

    Colours say nothing: each shape has one of its own, the background another, and noise lies over all.
    """
    image, mask = np.ones((SIDE, SIDE, 3)) * rng.random(3), np.zeros((SIDE, SIDE), int)
    row, column = np.mgrid[:SIDE, :SIDE]
    for _ in range(3):
        kind, size = rng.integers(1, 4), rng.uniform(5, 9)
        v, u = row - rng.uniform(6, SIDE - 6), column - rng.uniform(6, SIDE - 6)
        if kind == 1:
            inside = u**2 + v**2 < size**2
        elif kind == 2:
            inside = np.maximum(abs(u), abs(v)) < 0.9 * size
        else:
            inside = (v < 0.8 * size) & (v > 2.2 * abs(u) - size)
        image[inside], mask[inside] = rng.random(3), kind
    return (image + rng.normal(0, 0.04, image.shape)).clip(0, 1), mask


def scenes(count, seed):
    rng = np.random.default_rng(seed)
    images, masks = zip(*(scene(rng) for _ in range(count)), strict=True)
    return np.stack(images).astype("float32"), np.stack(masks)


def unet(width=8):
    """(32, 32, 3) -> (32, 32, 4): for each pixel the probabilities of the four classes."""

    def two_convolutions(x, filters):
        for _ in range(2):
            x = Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = Activation("relu")(BatchNormalization(momentum=0.9)(x))
        return x

    x = Input((SIDE, SIDE, 3))
    large = two_convolutions(x, width)  # 32 x 32
    middle = two_convolutions(MaxPooling2D(2)(large), 2 * width)  # 16 x 16
    small = two_convolutions(MaxPooling2D(2)(middle), 4 * width)  # 8 x 8: here a pixel sees most of the scene
    y = two_convolutions(Concatenate()([UpSampling2D(2)(small), middle]), 2 * width)
    y = two_convolutions(Concatenate()([UpSampling2D(2)(y), large]), width)
    return Model(x, Conv2D(len(CLASSES), 1, activation="softmax")(y), name="unet")  # the softmax of each pixel


def masks_figure(images, masks, guesses):
    """Scene, truth, what the network says, and where it is wrong, side by side."""
    figure = Figure(figsize=(8, 1.95 * len(images) + 0.8), layout="constrained")
    axes = figure.subplots(len(images), 4, squeeze=False)
    for row, image, mask, guess in zip(axes, images, masks, guesses, strict=True):
        wrong = np.where((mask != guess)[..., None], np.uint8([190, 30, 45]), np.uint8(245))
        for ax, picture in zip(row, (image, COLOURS[mask], COLOURS[guess], wrong), strict=True):
            ax.imshow(picture)
            ax.set(xticks=[], yticks=[])
        row[3].set_xlabel(f"{np.mean(mask == guess):.1%} right", fontsize=9)
    for ax, title in zip(axes[0], ("scene", "truth", "U-Net", "wrong pixels"), strict=True):
        ax.set_title(title, fontsize=11, loc="left")
    figure.suptitle(f"The class of each pixel: {', '.join(CLASSES[1:])} or background", fontsize=12, x=0.01, ha="left")
    return figure


def main(args):
    args.output.mkdir(parents=True, exist_ok=True)
    set_random_seed(0)
    (x, y), (x_test, y_test) = scenes(args.images, 1), scenes(200, 2)
    model = unet()
    model.class_names = CLASSES
    overlap = MeanIoU(len(CLASSES), sparse_y_pred=False)
    model.compile(Adam(0.005), "sparse_categorical_crossentropy", metrics=["accuracy", overlap])
    model.summary()
    model.fit(x, y, batch_size=16, epochs=args.epochs, validation_data=(x_test, y_test), device=args.device)
    _, accuracy, iou = model.evaluate(x_test, y_test, verbose=0)

    guesses = model.predict(x_test, verbose=0).argmax(axis=-1)
    order = np.argsort((guesses == y_test).mean(axis=(1, 2)))
    shown = [0, 1, 2, order[0]]  # three of them, and the one that it does worst
    masks_figure(x_test[shown], y_test[shown], guesses[shown]).savefig(args.output / "masks.png", dpi=110)
    model.save(args.output / "model.zip")
    print(f"\nOf the test pixels {accuracy:.1%} are right; calling all of them background would be right in "
          f"{np.mean(y_test == 0):.1%}.")  # fmt: skip
    print(f"Overlap of each class with what was taken for it, over both together (mean IoU): {iou:.2f}.")
    for name in ("masks.png", "model.zip"):
        print(f"Written: {args.output / name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1500, help="scenes to learn from")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("output/segment"), help="folder for what is written")
    parser.add_argument("--device", choices=["cpu", "gpu", "auto"], default="cpu", help="auto: gpu where there is one")
    try:
        main(parser.parse_args())
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
