"""Handwritten digits, and when to stop: training ends by itself when it no longer helps.

One hidden layer of 800 units. A fifth of the training images is held back. While the accuracy on these grows, the
network learns what digits look like; when it stops growing, it only learns the training images by heart.
Without a download: --dataset toy
"""

import argparse

import numpy as np
from journal import Journal, add_flags, backup, data_md5, say_everything

import minicnn
from minicnn.callbacks import EarlyStopping
from minicnn.inspect import confusion_matrix, misclassified, prediction_grid, training_curves
from minicnn.layers import Dense, Input
from minicnn.preprocessing.image import ImageInput
from minicnn.utils import to_categorical

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dataset", default="mnist", help="or fashion_mnist, toy")
for name, default in {"epochs": 25, "batch-size": 200, "patience": 2, "seed": 0, "limit": 10**9}.items():
    parser.add_argument(f"--{name}", type=int, default=default)
add_flags(parser, "output/mnist")


def main(args):
    if args.limit < 2:
        parser.error(f"--limit: at least 2 images are needed, one of them to validate, not {args.limit}")
    say_everything()
    minicnn.set_num_threads(args.threads)
    minicnn.utils.set_random_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)

    # The data: each image a row of 784 pixels from 0 to 1, each label a row such as 0 0 1 0 0 0 0 0 0 0.
    (x_train, y_train), (x_test, y_test), names = minicnn.datasets.load(args.dataset)
    x_train, y_train = x_train[: args.limit], y_train[: args.limit]
    image_input = ImageInput(28, 28, "grayscale").learn(x_train, aspect=1.0)  # what predict.py must know of them
    md5, pictures = data_md5(x_train, y_train, x_test, y_test), x_test
    x_train, x_test = (np.divide(x.reshape(len(x), -1), 255, dtype=np.float32) for x in (x_train, x_test))
    y_train, y_test = (to_categorical(y, len(names)) for y in (y_train, y_test))

    model = minicnn.Sequential([
        Input(x_train.shape[1:]),
        Dense(800, activation="relu"),
        Dense(len(names), activation="softmax"),
    ])  # fmt: skip
    model.class_names, model.image_input = list(names), image_input
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    model.summary()

    settings = {"dataset": args.dataset, "train_images": len(x_train), "test_images": len(x_test), "md5": md5,
                "batch_size": args.batch_size, "seed": args.seed, "patience": args.patience}  # fmt: skip
    journal = Journal(settings)
    stopping = EarlyStopping("val_accuracy", patience=args.patience, restore_best_weights=True)
    history = model.to(args.device).fit(
        x_train, y_train, args.batch_size, args.epochs, validation_split=0.2,
        callbacks=[journal, stopping, backup(args)],
    )  # fmt: skip
    best, last = stopping.best_epoch + 1, len(history.epoch)
    if stopping.stopped_epoch:
        print(f"Stopped after epoch {last} of {args.epochs}: val_accuracy was not above {stopping.best:.4f}, that of "
              f"epoch {best}, for {stopping.wait} epochs.")  # fmt: skip
    else:
        print(f"All {last} epochs are done: val_accuracy was still growing, or had stopped only just now.")
    print(f"The model has the weights of its best epoch, {best}: val_accuracy {stopping.best:.4f}")

    model.save(args.output / "model.zip")

    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    p, truth = model.predict(x_test, verbose=0), y_test.argmax(axis=1)
    if args.record:
        journal.record(args.record, history, best_epoch=best, val_accuracy_of_best=round(stopping.best, 4),
                       test_accuracy=round(accuracy, 4), test_loss=round(loss, 4))  # fmt: skip
    prediction_grid(pictures[:12], p[:12], truth[:12], names, save=args.output / "predictions.png")
    misclassified(pictures, p, truth, names, save=args.output / "misclassified.png")
    confusion_matrix(truth, p, names, save=args.output / "confusion_matrix.png")
    training_curves(history, classes=len(names), save=args.output / "training_curves.png")
    print(f"Pictures and model are in {args.output}\nTest accuracy: {accuracy:.4f} (loss {loss:.4f})")


if __name__ == "__main__":
    try:
        main(parser.parse_args())
    except minicnn.errors.InputError as error:
        raise SystemExit(f"error: {error}") from None
