"""Teach a network your own images: a folder with one folder of images for each class, such as animals/cats/tom.jpg.

--model simple: two hidden layers on images of 32 x 32, quick, and the yardstick for --model smallvgg: six convolutions
on images of 64 x 64, turned, shifted and stretched at random, so that no image is ever seen twice. A quarter of the
images is kept for the test. Before, `diagnose` looks for the usual faults of data: copies of test images among the
training images, classes of very different sizes, and the like. Afterwards predict.py names what is on a picture.
"""

import argparse
from pathlib import Path

import numpy as np
from journal import Journal, add_flags, backup, data_md5, say_everything

import minicnn
from minicnn.applications import SmallVGGNet
from minicnn.inspect import confusion_matrix, image_grid, misclassified, prediction_grid, training_curves
from minicnn.layers import Dense, Flatten, Input
from minicnn.optimizers import SGD
from minicnn.preprocessing.image import ImageDataGenerator, ImageInput, image_dataset_from_directory

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=Path)
parser.add_argument("--model", choices=["simple", "smallvgg"], default="smallvgg")
parser.add_argument("--size", type=int, help="of the images, in pixels; default 32 (simple), 64 (smallvgg)")
parser.add_argument("--learning-rate", type=float, default=0.01)
for name, default in {"epochs": 75, "batch-size": 32, "seed": 0}.items():
    parser.add_argument(f"--{name}", type=int, default=default)
add_flags(parser, "output/images")


def simple(size, classes):
    """Every pixel weighed up at once: no sense of what is beside what."""
    return minicnn.Sequential([
        Input((size, size, 3)),
        Flatten(),
        Dense(1024, activation="sigmoid"),
        Dense(512, activation="sigmoid"),
        Dense(classes, activation="softmax"),
    ])  # fmt: skip


def load(folder, image_input, seed):
    """(x_train, y_train), (x_test, y_test), class names: three quarters to learn from, one to be judged by.

    Another seed keeps other images for the test.
    """
    datasets = image_dataset_from_directory(
        folder, label_mode="categorical", image_size=image_input.size, interpolation=image_input.interpolation,
        color_mode=image_input.color_mode, seed=seed, validation_split=0.25, subset="both",
    )  # fmt: skip
    train, test = (dataset.arrays(np.uint8) for dataset in datasets)
    names, counts = datasets[0].class_names, train[1].sum(axis=0)
    if len(names) < 2 or not counts.all():
        counted = ", ".join(f"{name} {count:.0f}" for name, count in zip(names, counts, strict=True))
        raise minicnn.errors.InputError(
            folder, "there is nothing to tell apart.", "two classes or more, with images in each.",
            f"training images: {counted}.", "add images, or remove the folders that are no classes.",
        )  # fmt: skip
    return train, test, names


def scikit_learn():
    """Its function that makes the table of precision and recall."""
    try:
        from sklearn.metrics import classification_report
    except ImportError:
        raise minicnn.errors.InputError(
            "scikit-learn", "it is not installed.", "scikit-learn, for the table of precision and recall.", "none.",
            "python -m pip install scikit-learn",
        ) from None  # fmt: skip
    return classification_report


def print_findings(diagnosis):
    """What may be wrong, with reasons and remedies; training goes on."""
    findings = [finding for finding in diagnosis if finding.severity in ("warning", "error")]
    print("\n".join(map(str, findings)) or "Diagnosis: nothing unusual in the data and the model.")


def main(args):
    say_everything()
    classification_report = scikit_learn()  # missing, it is better missed now than after hours of training
    minicnn.set_num_threads(args.threads)
    minicnn.utils.set_random_seed(args.seed)
    vgg = args.model == "smallvgg"
    size = args.size or (64 if vgg else 32)
    image_input = ImageInput(size, size)
    (x_train, y_train), (x_test, y_test), names = load(args.folder, image_input, args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    image_input = image_input.learn(x_train)  # what predict.py must know of them
    md5 = data_md5(x_train, y_train, x_test, y_test)
    x_train, x_test = image_input.scaled(x_train), image_input.scaled(x_test)

    # The steps become smaller for the long network: at the end of the last epoch, a fraction of the first ones.
    model = SmallVGGNet(size, size, 3, len(names)) if vgg else simple(size, len(names))
    decay = args.learning_rate / max(1, args.epochs) if vgg else 0
    model.class_names, model.image_input = names, image_input
    model.compile(SGD(args.learning_rate, decay=decay), "categorical_crossentropy", metrics=["accuracy"])

    settings = {"dataset": args.folder.name, "train_images": len(x_train), "test_images": len(x_test), "md5": md5,
                "model": args.model, "size": size, "learning_rate": args.learning_rate, "decay": decay,
                "batch_size": args.batch_size, "seed": args.seed}  # fmt: skip
    journal = Journal(settings)
    model.summary()
    print_findings(model.diagnose(x_train, y_train, validation_data=(x_test, y_test)))
    x, y, batch_size = x_train, y_train, args.batch_size
    if vgg:
        varied = ImageDataGenerator(
            rotation_range=30, width_shift_range=0.1, height_shift_range=0.1, shear_range=0.2, zoom_range=0.2,
            horizontal_flip=True, fill_mode="nearest",
        )  # fmt: skip
        x, y, batch_size = varied.flow(x_train, y_train, args.batch_size, seed=args.seed), None, None
        image_grid(x[0][0], x[0][1].argmax(axis=1), names, save=args.output / "varied.png")
    history = model.to(args.device).fit(
        x, y, batch_size, args.epochs, validation_data=(x_test, y_test), callbacks=[journal, backup(args)],
        validation_batch_size=args.batch_size,
    )  # fmt: skip
    model.save(args.output / "model.zip")

    # Of each class: how many of the answers are right (precision), how many of its images are found (recall), the mean
    # of both (F1), and how many images it has (support).
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    p, truth = model.predict(x_test, verbose=0), y_test.argmax(axis=1)
    about = {"labels": range(len(names)), "target_names": names, "zero_division": 0}
    print(classification_report(truth, p.argmax(axis=1), digits=3, **about))
    table = classification_report(truth, p.argmax(axis=1), output_dict=True, **about)
    if args.record:
        rounded = {name: {key: round(float(value), 4) for key, value in row.items()}
                   for name, row in table.items() if isinstance(row, dict)}  # fmt: skip
        journal.record(args.record, history, test_accuracy=round(accuracy, 4), test_loss=round(loss, 4), report=rounded)

    prediction_grid(x_test[:12], p[:12], truth[:12], names, save=args.output / "predictions.png")
    misclassified(x_test, p, truth, names, save=args.output / "misclassified.png")
    confusion_matrix(truth, p, names, save=args.output / "confusion_matrix.png")
    training_curves(history, classes=len(names), save=args.output / "training_curves.png")
    print(f"Pictures and model are in {args.output}\nTest accuracy: {accuracy:.4f} (loss {loss:.4f})")


if __name__ == "__main__":
    try:
        main(parser.parse_args())
    except minicnn.errors.InputError as error:
        raise SystemExit(f"error: {error}") from None
