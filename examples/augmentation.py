"""What ImageDataGenerator does to images, in four pictures: every change at random, what comes from outside the image,
standardisation, and whitening. No download, some seconds.

--data: toy (drawn by code), cifar10, or an image file of yours. --side: whitening compares every pixel with every other
one, so it is shown on images of 16x16 pixels; 32 takes a minute or two.
"""

import argparse
from ast import literal_eval
from pathlib import Path

import numpy as np
from journal import say_everything
from matplotlib.figure import Figure

import minicnn
from minicnn.preprocessing.image import ImageDataGenerator, img_to_array, load_img

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", default="toy", help="toy, cifar10, or the path of an image")
parser.add_argument("--side", type=int, default=16, help="side of the whitened images, in pixels")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--output", type=Path, default=Path("output/augmentation"), help="folder for the pictures")

CHANGES = {
    "rotation_range=40": "turned by up to 40°",
    "width_shift_range=0.25": "to the side, up to a quarter",
    "height_shift_range=0.25": "up and down, up to a quarter",
    "shear_range=30": "slanted by up to 30°",
    "zoom_range=0.4": "0.6 to 1.4 of each side is seen",
    "horizontal_flip=True": "half of them mirrored, by chance",
    "vertical_flip=True": "half of them upside down, by chance",
    "channel_shift_range=80": "all colours + or - up to 80",
    "brightness_range=(0.4, 1.6)": "times 0.4 to 1.6",
}


def load(data, rng):
    """(an image to change, many small images to learn statistics from), both (…, H, W, 3), 0 to 255."""
    if data in ("toy", "cifar10"):
        (x, _), _, _ = minicnn.datasets.load({"toy": "toy_color"}.get(data, data))
        return x[5 if data == "toy" else 1], x[:4000]
    photo = load_img(data)
    if max(photo.size) > 4 * min(photo.size) or len(set(photo.resize((32, 32)).getdata())) < 2:
        raise minicnn.errors.InputError(
            data, "there is little to see on this picture.", "more than one colour, and sides of at most 1 to 4.",
            f"{photo.size[0]}x{photo.size[1]} pixels.", "take another one.",
        )  # fmt: skip
    scale = 160 / min(photo.size)  # Pillow has (width, height), arrays have (height, width)
    size = (round(photo.size[1] * scale), round(photo.size[0] * scale))
    photo = img_to_array(load_img(data, target_size=size, interpolation="bilinear"))
    corners = rng.integers([[size[0] - 31], [size[1] - 31]], size=(2, 4000)).T
    return photo, np.stack([photo[i : i + 32, j : j + 32] for i, j in corners])  # pieces of it


def show(ax, image, text="", below=""):
    """An image from 0 to 255, what stands above it, and below."""
    ax.imshow(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    ax.set(xticks=[], yticks=[])
    ax.set_title(text, fontsize=10, loc="left", family="monospace" if "=" in text else None)
    ax.set_xlabel(below, fontsize=9)


def sheet(rows, columns, width, height, title):
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=13, x=0.01, ha="left")
    return figure, figure.subplots(rows, columns, squeeze=False)


def changes(image, seed):
    """Each change alone, then all at once: the image before, and six times after."""
    shown, rows = 6, len(CHANGES) + 1
    title = "One image, changed at random. A model that sees these learns what does not matter."
    height = rows * (0.3 + 1.25 * image.shape[0] / image.shape[1])
    figure, axes = sheet(rows, shown + 1, 10, height, title)
    arguments = {name: literal_eval(value) for name, value in (text.split("=") for text in CHANGES)}
    everything = {**arguments, "vertical_flip": False, "channel_shift_range": 40, "rotation_range": 20}
    cases = [(text, {text.split("=")[0]: arguments[text.split("=")[0]]}) for text in CHANGES]
    for row, (text, chosen) in zip(axes, [*cases, ("all but upside down", everything)], strict=True):
        generator = ImageDataGenerator(**chosen)
        after = next(generator.flow(np.stack([image] * shown), batch_size=shown, seed=seed))
        show(row[0], image, text)
        for ax, changed in zip(row[1:], after, strict=True):
            show(ax, changed)
        row[2].set_title(CHANGES.get(text, "together, some of them milder"), fontsize=10, loc="left", color="0.4")
        for spine in row[0].spines.values():
            spine.set(linewidth=2.5, color="tab:blue")
    return figure


def fill_modes(image):
    """The same turn and zoom; only what is made up outside the image differs."""
    modes = {"nearest": "the edge goes on", "constant": "one number, cval=0", "reflect": "a mirror at the edge",
             "wrap": "the other side follows"}  # fmt: skip
    title = "fill_mode: what stands where the image has nothing"
    figure, axes = sheet(1, len(modes) + 1, 12, 0.8 + 2.4 * image.shape[0] / image.shape[1], title)
    show(axes[0, 0], image, "before")
    for ax, (mode, text) in zip(axes[0, 1:], modes.items(), strict=True):
        generator = ImageDataGenerator(fill_mode=mode)
        show(ax, generator.apply_transform(image, {"theta": 25, "zx": 1.7, "zy": 1.7}), f'"{mode}"', text)
    return figure


def standardised(images):
    """Images before and after, and below each kind the values of all pixels by channel."""
    kinds = {
        "as they are": {},
        "rescale=1/255": {"rescale": 1 / 255},
        "featurewise_std_normalization": {"featurewise_std_normalization": True},
        "samplewise_std_normalization": {"samplewise_std_normalization": True},
    }
    count = 4
    title = "Standardised: the same pictures, in numbers that a model learns from more easily"
    figure, axes = sheet(len(kinds), count + 1, 10.5, 8.5, title)
    for row, (text, arguments) in zip(axes, kinds.items(), strict=True):
        generator = ImageDataGenerator(**arguments)
        generator.fit(images)
        x = generator.standardize(images[:500])
        low, high = np.quantile(x, [0.002, 0.998])
        for ax, picture in zip(row[:-1], x, strict=False):
            show(ax, (picture - low) / (high - low) * 255,
                 below=f"mean {picture.mean():.2f}\ndeviation {picture.std():.2f}")  # fmt: skip
        row[0].set_title(text, fontsize=10, loc="left", family="monospace")
        edges = np.linspace(x.min(), x.max(), 60)
        for channel, colour in zip(np.moveaxis(x, -1, 0), ("tab:red", "tab:green", "tab:blue"), strict=True):
            row[-1].hist(channel.ravel(), edges, histtype="step", color=colour)
        row[-1].set_title("all pixels, by channel", fontsize=10, loc="left")
        row[-1].set(yticks=[])
    return figure


def whitened(images, side):
    """Whitening with three epsilons: how much every pixel tells about its neighbour, before and after."""
    block = images.shape[1] // side
    cut = images[:, : side * block, : side * block]
    small = cut.reshape(len(images), side, block, side, block, 3).mean(axis=(2, 4))
    title = "Whitened: no pixel tells anything about another one; a larger epsilon is milder, and amplifies less noise"
    count, epsilons = 6, (1e-6, 0.05, 0.2)  # in units of √n, see minicnn/preprocessing/statistics.py
    figure, axes = sheet(len(epsilons) + 1, count, 10.5, 8, title)
    for ax, picture in zip(axes[0], small, strict=False):
        show(ax, picture)
    axes[0, 0].set_title(f"before: neighbours' correlation {neighbours(small):.2f}", fontsize=10, loc="left")
    for row, epsilon in zip(axes[1:], epsilons, strict=True):
        epsilon = epsilon if epsilon < 1e-3 else epsilon * np.sqrt(len(small))
        generator = ImageDataGenerator(zca_whitening=True, zca_epsilon=epsilon, rescale=1 / 255)
        generator.fit(small)
        x = generator.standardize(small[:2000])
        for ax, picture in zip(row, x, strict=False):
            show(ax, 127.5 + picture * 127.5 / np.abs(picture).max())
        text = f"zca_epsilon={epsilon:.3g}, correlation {neighbours(x):.2f}"
        row[0].set_title(text, fontsize=10, loc="left", family="monospace")
    return figure


def neighbours(x):
    """The correlation of two pixels that stand side by side, over all images."""
    return round(np.corrcoef(x[:, :, :-1].ravel(), x[:, :, 1:].ravel())[0, 1], 2) + 0.0  # never "-0.00"


def main(args):
    say_everything()
    args.output.mkdir(parents=True, exist_ok=True)
    image, images = load(args.data, np.random.default_rng(args.seed))
    if not 2 <= args.side <= images.shape[1]:
        parser.error(f"--side: a whole number from 2 to {images.shape[1]}, not {args.side}")
    figures = {
        "changes.png": lambda: changes(image, args.seed),
        "fill_modes.png": lambda: fill_modes(image),
        "standardised.png": lambda: standardised(images),
        "whitened.png": lambda: whitened(images, args.side),
    }
    for name, draw in figures.items():
        draw().savefig(args.output / name, dpi=100)
        print(f"Written: {args.output / name}")


if __name__ == "__main__":
    try:
        main(parser.parse_args())
    except (minicnn.errors.InputError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
