"""A first network for Fashion-MNIST: look at the pictures, train, judge, predict, and look again.

The lesson: Flatten, Dense(128), Dense(10); 5 epochs of batches of 32. --model cnn: convolutions; 10 epochs of 64.
Exercises: --epochs 1, --hidden 512 (units), --layers 3 (hidden dense layers), --no-normalize (pixels from 0 to 255),
--limit 6000 (fewer training images), --class-names A,B,... (your language). Without a download: --dataset toy
"""

import argparse
from pathlib import Path

from journal import say_everything

import minicnn
from minicnn.inspect import image_grid, prediction_grid, show_image, training_curves
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
from minicnn.preprocessing.image import ImageInput

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", choices=["dense", "cnn"], default="dense")
parser.add_argument("--dataset", default="fashion_mnist", help="or mnist, cifar10, toy, toy_color")
numbers = {"epochs": 0, "batch-size": 0, "hidden": 128, "layers": 1, "limit": 10**9, "threads": None, "seed": 0}
for name, default in numbers.items():
    parser.add_argument(f"--{name}", type=int, default=default)
parser.add_argument("--device", choices=["cpu", "gpu", "auto"], default="cpu", help="auto: gpu where there is one")
parser.add_argument("--no-normalize", action="store_true")
parser.add_argument("--class-names", metavar="A,B,...")
parser.add_argument("--resume", action="store_true", help="go on where a run that was killed had come to")
parser.add_argument("--output", type=Path, default=Path("output/fashion_mnist"), help="folder for what is written")


def main(args):
    say_everything()
    cnn, scale = args.model == "cnn", 1 if args.no_normalize else 255
    epochs, batch_size = args.epochs or (10 if cnn else 5), args.batch_size or (64 if cnn else 32)
    minicnn.set_num_threads(args.threads)
    minicnn.utils.set_random_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)

    # The data: images to learn from, and others to be judged by. Grey images get an axis for their one channel.
    (x_train, y_train), (x_test, y_test), class_names = minicnn.datasets.load(args.dataset)
    names = args.class_names.split(",") if args.class_names else list(class_names)
    if len(names) != len(class_names):
        parser.error(f"--class-names: {args.dataset} has {len(class_names)} classes, but these are {len(names)} names")
    if args.limit < 1:
        parser.error(f"--limit: at least 1 image is needed to train on, not {args.limit}")
    x_train, y_train, y_test = x_train[: args.limit], y_train[: args.limit].ravel(), y_test.ravel()
    show_image(x_train[0], save=args.output / "image.png")
    image_grid(x_train, y_train, names, rows=5, columns=5, save=args.output / "images.png")
    pictures, size = x_test[:15], (*x_train.shape[1:], 1)[:3]
    image_input = ImageInput(*size[:2], "grayscale" if size[2] == 1 else "rgb", rescale=1 / scale)
    image_input = image_input.learn(x_train, aspect=size[1] / size[0])  # what predict.py must know of them
    x_train, x_test = (x.reshape(-1, *size).astype("float32") / scale for x in (x_train, x_test))

    # The network. A cnn first looks for patterns, three times, and keeps the strongest match of every 2 x 2 places.
    conv = [(Conv2D(n, 3, padding="same", activation="relu"), MaxPooling2D(2), BatchNormalization(momentum=0.9))
            for n in (32, 64, 128)]  # fmt: skip
    body = [*conv[0], *conv[1], *conv[2], Flatten(), Dropout(0.4)] if cnn else [Flatten()]
    hidden = [Dense(args.hidden, activation="relu") for _ in range(args.layers)]
    model = minicnn.Sequential([Input(size), *body, *hidden, Dense(len(names), activation="softmax")])
    model.class_names, model.image_input = names, image_input
    model.summary()

    # Training. The cnn gains from steps that become ever smaller.
    rate = minicnn.schedules.CosineDecay(1e-3, epochs * -(-len(x_train) // batch_size)) if cnn else 1e-3
    model.compile(minicnn.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    backup = minicnn.callbacks.BackupAndRestore(args.output / "backup", delete_checkpoint=False)
    if not args.resume:
        backup.delete()
    model.to(args.device)
    history = model.fit(x_train, y_train, batch_size, epochs, callbacks=backup, validation_data=(x_test, y_test))
    model.save(args.output / "model.zip")

    # Ten probabilities for each image; the largest one is the answer. One image alone is a batch of 1.
    probabilities, one = model.predict(x_test[:32]), model.predict(x_test[:1])
    print(f"predict: {x_test[:32].shape} -> {probabilities.shape}, first answers {probabilities.argmax(axis=1)[:9]}")
    print(f"One image: {one.shape} -> {names[one.argmax()]} {one.max():.0%}, in truth {names[y_test[0]]}")
    prediction_grid(pictures, probabilities[:15], y_test[:15], names, columns=3, save=args.output / "predictions.png")
    training_curves(history, save=args.output / "training_curves.png")
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"Pictures and model are in {args.output}\nTest accuracy: {accuracy:.4f} (loss {loss:.4f})")
    return history, loss, accuracy


if __name__ == "__main__":
    try:
        main(parser.parse_args())
    except minicnn.errors.InputError as error:
        raise SystemExit(f"error: {error}") from None
