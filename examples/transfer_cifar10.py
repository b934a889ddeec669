"""Transfer learning: what a network has learned from many images helps it to learn something else from a few.

A small network in VGG's manner learns the first five classes of CIFAR-10, airplane to deer, from 10,000 photos. The
other five, dog to truck, it must then tell apart after 10, 30 or 100 photos of each. Three ways:
  frozen        its convolutions stay as they are; a new top learns from their features, which are computed only once
  fine-tuned    the last block of convolutions learns on, too, in small steps
  from scratch  the same network begins anew, with nothing but the few photos

--weights imagenet: VGG16 with the published weights (56 MB, once; needs h5py) takes the place of the first network, and
learns all ten classes. --weights PATH: the same from a file. --weights none: no VGG16. Without the flag, VGG16 where it
can be had. The whole takes some minutes on two cores; --quick, on drawn clothes without a download, seconds.
"""

import argparse

import numpy as np
from journal import Journal, add_flags, backup, data_md5, say_everything

import minicnn
from minicnn.applications.vgg16 import VGG16, preprocess_input
from minicnn.callbacks import History
from minicnn.inspect import prediction_grid
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
from minicnn.optimizers import SGD, Adam
from minicnn.preprocessing.image import ImageInput

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--weights", metavar="imagenet|none|PATH", help="where the knowledge comes from")
parser.add_argument("--dataset", default="cifar10", choices=["cifar10", "toy_color"], help="toy_color is drawn")
parser.add_argument("--images", default="10,30,100", help="how many of each new class, one or more numbers")
parser.add_argument("--epochs", type=int, default=4, help="of the first training")
parser.add_argument("--limit", type=int, default=10000, help="how many images the first training may have")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--quick", action="store_true", help="try the whole script within seconds")
add_flags(parser, "output/transfer")

EPOCHS = {"frozen": 100, "fine_tuned": 10, "from_scratch": 30}  # over the few images


def convolutions(shape):
    """Blocks of 3 x 3 convolutions, each halving the image. Few images mean few steps: running means follow quickly."""
    model = minicnn.Sequential([Input(shape)], name="convolutions")
    for block, (filters, count) in enumerate(((16, 1), (32, 2), (64, 2)), 1):
        for i in range(1, count + 1):
            model.add(Conv2D(filters, 3, padding="same", activation="relu", name=f"block{block}_conv{i}"))
            model.add(BatchNormalization(momentum=0.9, name=f"block{block}_norm{i}"))
        model.add(MaxPooling2D(2, name=f"block{block}_pool"))
    return model


def with_top(base, classes, activation="sigmoid"):
    """The network as a whole: the convolutions, and a top that decides by their features."""
    top = minicnn.Sequential(
        [
            Input(base.shapes[-1]),
            Flatten(),
            Dense(256, activation=activation),
            Dropout(0.5),
            Dense(classes, activation="softmax"),
        ],
        name="top",
    )
    return minicnn.Sequential([base, top])


def compiled(model, optimizer):
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def first_training(args, journal, x, y):
    """Convolutions that have learned to tell the classes y, and the history of it."""
    model = compiled(with_top(convolutions(x.shape[1:]), int(y.max()) + 1, "relu"), Adam(1e-3)).to(args.device)
    history = model.fit(x, y, batch_size=64, epochs=args.epochs, callbacks=[journal, backup(args)])
    return model.layers[0].to(args.device), history


def pretrained(args):
    """VGG16 with the weights that were asked for, or None where none were, or where they cannot be had."""
    if args.weights == "none" or args.quick:
        return None
    try:
        return VGG16(include_top=False, weights=args.weights or "imagenet", input_shape=(32, 32, 3)).to(args.device)
    except minicnn.errors.InputError as error:
        if args.weights:
            raise
        print(f"No VGG16 ({error.problem}) A network of our own takes its place.")
        return None


def frozen(base, x, y, x_test, y_test, classes, epochs):
    """A new top for features that never change. Returns the whole network and its accuracy."""
    base.trainable = False
    model = with_top(base, classes)
    top = compiled(model.layers[1], SGD(1e-4 if base.name == "vgg16" else 1e-2, momentum=0.9)).to(base.device)
    top.fit(base.predict(x, verbose=0), y, epochs=epochs, verbose=0)
    return model, top.evaluate(base.predict(x_test, verbose=0), y_test, verbose=0)[1]


def fine_tuned(model, x, y, x_test, y_test, epochs):
    """The last block of the convolutions learns on with the top. Leaves the convolutions as they were."""
    base = model.layers[0]
    before, last = base.get_weights(), base.layers[-1].name.split("_")[0]
    for layer in base.layers:
        layer.trainable = layer.name.startswith(last)
    compiled(model, Adam(1e-5 if base.name == "vgg16" else 1e-4)).to(base.device)
    model.fit(x, y, epochs=epochs, verbose=0)
    accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
    base.set_weights(before)
    return accuracy


def from_scratch(x, y, x_test, y_test, classes, epochs, device):
    model = compiled(with_top(convolutions(x.shape[1:]), classes, "relu"), Adam(1e-3)).to(device)
    model.fit(x, y, epochs=epochs, verbose=0)
    return model.evaluate(x_test, y_test, verbose=0)[1]


def picture(counts, results, source, path):
    """Accuracy by the number of images, a line for each way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    ax = figure.subplots()
    for way, colour in zip(EPOCHS, ("#1f5fbf", "#08306b", "#c2510c"), strict=True):
        ax.plot(counts, [r[way] for r in results], "o-", color=colour, label=way.replace("_", " "))
    ax.set(xscale="log", xlabel="images of each class", ylabel="test accuracy", title=f"Few images, after {source}")
    ax.set_xticks(counts, [str(count) for count in counts], minor=False)
    ax.minorticks_off()
    ax.grid(axis="y", color="#e6e9ed")
    ax.legend(frameon=False)
    figure.savefig(path, dpi=120)


def compare(base, scale, x, y, by_class, counts, tests, classes, quick):
    """Learn from each number of images in each of the three ways. Returns their accuracies and the last frozen model.

    by_class: for each class the numbers of its images in x, y. tests: the test images and their classes.
    """
    epochs = {way: max(1, n // 10) if quick else n for way, n in EPOCHS.items()}
    x_test, truth = tests
    features_of, plain = scale(x_test), x_test / np.float32(255)
    results, model = [], None
    for count in counts:
        few = np.concatenate([images[:count] for images in by_class])
        images, labels = scale(x[few]), y[few]
        model, alone = frozen(base, images, labels, features_of, truth, classes, epochs["frozen"])
        top = model.layers[1].get_weights()
        tuned = fine_tuned(model, images, labels, features_of, truth, epochs["fine_tuned"])
        model.layers[1].set_weights(top)
        images = x[few] / np.float32(255)
        anew = from_scratch(images, labels, plain, truth, classes, epochs["from_scratch"], base.device)
        results.append(dict(zip(EPOCHS, (round(value, 4) for value in (alone, tuned, anew)), strict=True)))
        print(f"{count:4} images of each class: frozen {alone:.4f}, fine-tuned {tuned:.4f}, from scratch {anew:.4f}")
    base.trainable = False
    return results, model


def main(args):
    if args.quick:
        args.dataset, args.images, args.epochs, args.limit = "toy_color", "4,8", 1, min(args.limit, 400)
    counts = [int(count) for count in args.images.split(",") if count.isdecimal() and int(count) > 0]
    if not counts or args.limit < 1:
        parser.error("--images takes numbers such as 10,30,100, and --limit one above 0")
    say_everything()
    minicnn.set_num_threads(args.threads)
    minicnn.utils.set_random_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    (x, y), (x_test, y_test), names = minicnn.datasets.load(args.dataset)
    y, y_test = y.ravel().astype(int), y_test.ravel().astype(int)

    # Where the knowledge comes from: ImageNet, or half of the classes. The others are new to the network.
    base, scale, new, history = pretrained(args), preprocess_input, 0, History()
    settings = {"dataset": args.dataset, "md5": data_md5(x, y, x_test, y_test), "seed": args.seed}
    if base is None:
        scale, new = lambda x: np.divide(x, 255, dtype=np.float32), len(names) // 2
        known = np.flatnonzero(y < new)[: args.limit]
        print(f"First training: {', '.join(names[:new])}, {len(known):,} images")
        journal = Journal({**settings, "source": "five other classes", "source_images": len(known)})
        base, history = first_training(args, journal, scale(x[known]), y[known])
    else:
        journal = Journal({**settings, "source": "ImageNet"})
    base.summary()

    # What is new: a few images of each class to learn from, and all test images of these classes to be judged by.
    order = np.random.default_rng(args.seed).permutation(len(x))
    by_class = [order[y[order] == k] for k in range(new, len(names))]
    judged = np.flatnonzero(y_test >= new)[: 100 if args.quick else None]
    pictures, truth, new_names = x_test[judged], y_test[judged] - new, list(names[new:])
    results, model = compare(base, scale, x, y - new, by_class, counts, (pictures, truth), len(new_names), args.quick)

    model.class_names = new_names
    if new:  # VGG16's way with pixels is not a factor alone: its user calls preprocess_input
        model.image_input = ImageInput(*x.shape[1:3]).learn(x, aspect=x.shape[2] / x.shape[1])
    model.save(args.output / "model.zip")
    if args.record:
        journal.record(args.record, history, new_classes=new_names, test_images=len(truth), images_per_class=counts,
                       **{way: [r[way] for r in results] for way in EPOCHS})  # fmt: skip
    picture(counts, results, journal.settings["source"], args.output / "accuracy_by_images.png")
    p = model.predict(scale(pictures), verbose=0)
    prediction_grid(pictures[:12], p[:12], truth[:12], new_names, columns=3, save=args.output / "predictions.png")
    print(f"Pictures and the last model with frozen convolutions are in {args.output}")


if __name__ == "__main__":
    try:
        main(parser.parse_args())
    except minicnn.errors.InputError as error:
        raise SystemExit(f"error: {error}") from None
