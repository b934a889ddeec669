"""A convolutional network for CIFAR-10: 50,000 small photos of ten things, from airplane to truck.

25 epochs take about two hours on two cores; a run that was stopped goes on with --resume. The five-minute version:
--limit 10000 --epochs 3. Without a download: --dataset toy_color --limit 2000 --epochs 2

A residual network instead, with its own way to learn: --model resnet20 --epochs 15 --batch-size 128 --augment
"""

import argparse

import numpy as np
from journal import Journal, add_flags, backup, data_md5, say_everything

import minicnn
from minicnn.applications import ResNet20
from minicnn.constraints import MaxNorm
from minicnn.inspect import confusion_matrix, misclassified, prediction_grid, training_curves
from minicnn.layers import Activation, BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
from minicnn.optimizers import SGD
from minicnn.optimizers.schedules import CosineDecay
from minicnn.preprocessing.image import ImageDataGenerator, ImageInput
from minicnn.utils import to_categorical

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="cifar10", choices=["cifar10", "toy_color"], help="toy_color is drawn")
for name, default in {"epochs": 25, "batch-size": 64, "seed": 21, "limit": 10**9}.items():
    parser.add_argument(f"--{name}", type=int, default=default)
parser.add_argument("--model", choices=["plain", "resnet20"], default="plain", help="the network")
parser.add_argument("--augment", action="store_true", help="shift and mirror the training images at random")
add_flags(parser, "output/cifar10")


def network(classes=10):
    """The network: patterns of patterns in four convolutions, then three dense layers that weigh them up.

    Each block ends in Dropout, which hides a fifth of the numbers at random, and BatchNormalization, which brings the
    rest to one scale. Weight vectors of the dense layers may not become longer than 3.
    """
    model = minicnn.Sequential()
    model.add(Input((32, 32, 3)))
    for filters, pool in ((32, False), (64, True), (64, True), (128, False)):
        model.add(Conv2D(filters, 3, padding="same"))
        model.add(Activation("relu"))
        if pool:
            model.add(MaxPooling2D(2))  # the strongest of every 2 x 2 places: three quarters are dropped
        model.add(Dropout(0.2))
        model.add(BatchNormalization())
    model.add(Flatten())
    model.add(Dropout(0.2))
    for units in (256, 128):
        model.add(Dense(units, kernel_constraint=MaxNorm(3)))
        model.add(Activation("relu"))
        model.add(Dropout(0.2))
        model.add(BatchNormalization())
    model.add(Dense(classes))
    model.add(Activation("softmax"))
    return model


def optimizer(args, images):
    """Adam; for the residual network momentum, at a rate that rises for an epoch and then falls along a cosine to 0."""
    if args.model == "plain":
        return "adam"
    steps = -(-images // args.batch_size)  # of an epoch
    rate = CosineDecay(0.01, max(1, (args.epochs - 1) * steps), warmup_target=0.1, warmup_steps=steps)
    return SGD(rate, momentum=0.9, nesterov=True)


def main(args):
    if args.limit < 1:
        parser.error(f"--limit: at least 1 image is needed to train on, not {args.limit}")
    say_everything()
    minicnn.set_num_threads(args.threads)
    minicnn.utils.set_random_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)

    # The data: pixels from 0 to 1, labels as rows such as 0 0 1 0 0 0 0 0 0 0.
    (x_train, y_train), (x_test, y_test), names = minicnn.datasets.load(args.dataset)
    x_train, y_train = x_train[: args.limit], y_train[: args.limit]
    image_input = ImageInput(32, 32).learn(x_train, aspect=1.0)  # what predict.py must know of them
    md5 = data_md5(x_train, y_train, x_test, y_test)
    x_train, x_test = (np.divide(x, 255, dtype=np.float32) for x in (x_train, x_test))
    y_train, y_test = (to_categorical(y, len(names)) for y in (y_train, y_test))

    settings = {"dataset": args.dataset, "train_images": len(x_train), "test_images": len(x_test), "md5": md5,
                "model": args.model, "augment": args.augment, "batch_size": args.batch_size,
                "seed": args.seed}  # fmt: skip
    journal = Journal(settings)
    model = network(len(names)) if args.model == "plain" else ResNet20((32, 32, 3), len(names), weight_decay=5e-4)
    model.class_names, model.image_input = list(names), image_input
    model.compile(optimizer(args, len(x_train)), "categorical_crossentropy", metrics=["accuracy"])
    model.summary()
    x, y, batch_size = x_train, y_train, args.batch_size
    if args.augment:  # every image is seen a little differently in every epoch
        pixels = [-2, -1, 0, 1, 2]  # whole ones: a shift by a fraction mixes neighbours, and blurs so small an image
        varied = ImageDataGenerator(width_shift_range=pixels, height_shift_range=pixels, horizontal_flip=True)
        x, y, batch_size = varied.flow(x_train, y_train, batch_size, seed=args.seed), None, None
    history = model.to(args.device).fit(
        x, y, batch_size, args.epochs, validation_data=(x_test, y_test), callbacks=[journal, backup(args)],
        validation_batch_size=args.batch_size,
    )  # fmt: skip
    model.save(args.output / "model.zip")

    # What it recognises: ten probabilities for each test image; the largest one is the answer.
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    p, truth = model.predict(x_test, verbose=0), y_test.argmax(axis=1)
    right, wrong = (np.flatnonzero((p.argmax(axis=1) == truth) == is_right)[:6] for is_right in (True, False))
    some = np.concatenate([right, wrong])
    if args.record:
        journal.record(args.record, history, test_accuracy=round(accuracy, 4), test_loss=round(loss, 4))
    prediction_grid(x_test[some], p[some], truth[some], names, save=args.output / "predictions.png")
    misclassified(x_test, p, truth, names, save=args.output / "misclassified.png")
    confusion_matrix(truth, p, names, save=args.output / "confusion_matrix.png")
    training_curves(history, classes=len(names), save=args.output / "training_curves.png")
    print(f"Pictures and model are in {args.output}\nTest accuracy: {accuracy:.4f} (loss {loss:.4f})")


if __name__ == "__main__":
    try:
        main(parser.parse_args())
    except minicnn.errors.InputError as error:
        raise SystemExit(f"error: {error}") from None
