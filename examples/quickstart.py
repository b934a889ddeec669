"""Train a small CNN on pictures of clothes, and see what it recognises. No download, well under a minute.

Run it with: python examples/quickstart.py [--output DIR] [--device gpu]
"""

import argparse
from pathlib import Path

from minicnn.datasets import toy
from minicnn.errors import InputError
from minicnn.inspect import prediction_grid, training_curves
from minicnn.layers import Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
from minicnn.models import Sequential
from minicnn.preprocessing.image import ImageInput
from minicnn.utils import set_random_seed


def main(output: Path, device: str) -> None:
    output.mkdir(parents=True, exist_ok=True)
    set_random_seed(0)  # the same numbers in every run

    # 6000 pictures to learn from, and 1000 others to be judged by. A picture is 28 x 28 pixels from 0 to 255;
    # networks like numbers from 0 to 1. The new last axis counts colour channels: grey has one.
    (x_train, y_train), (x_test, y_test) = toy.load_data()
    image_input = ImageInput(28, 28, "grayscale").learn(x_train, aspect=1.0)  # what predict.py must know of them
    x_train = x_train[..., None].astype("float32") / 255
    x_test = x_test[..., None].astype("float32") / 255

    # A convolution looks for small patterns everywhere in the picture; pooling keeps the strongest match of every
    # 2 x 2 places. The dense layers weigh what was found, and softmax turns that into ten probabilities.
    model = Sequential([
        Input((28, 28, 1)),
        Conv2D(16, 3, padding="same", activation="relu"),
        MaxPooling2D(2),
        Conv2D(32, 3, padding="same", activation="relu"),
        MaxPooling2D(2),
        Flatten(),
        Dropout(0.3),  # forgets a part while learning, so as not to learn by heart
        Dense(64, activation="relu"),
        Dense(10, activation="softmax"),
    ])  # fmt: skip
    model.class_names, model.image_input = list(toy.CLASS_NAMES), image_input
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.summary()

    history = model.fit(x_train, y_train, epochs=5, validation_data=(x_test, y_test), device=device)
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)

    # What does it see? Nine test pictures, then the first three of those that it gets wrong.
    probabilities = model.predict(x_test, verbose=0)  # (1000, 10): a row for each picture, a column for each class
    guesses = probabilities.argmax(axis=1)
    wrong = [i for i in range(9, len(x_test)) if guesses[i] != y_test[i]]
    shown = [*range(9), *wrong[:3]]
    print("\n  picture   recognised as   probability                  it is")
    for i in shown:
        guess, truth, p = model.class_names[guesses[i]], model.class_names[y_test[i]], probabilities[i].max()
        mark = "" if guess == truth else "  <-- wrong"
        print(f"  {i:7}   {guess:13}   {'#' * round(20 * p):20} {p:4.0%}   {truth}{mark}")
    print(f"\nOf all {len(x_test)} test pictures it recognises {accuracy:.1%}; guessing would be right in 10%.\n")

    training_curves(history, save=output / "training_curves.png")
    prediction_grid(
        x_test[shown], probabilities[shown], y_test[shown], model.class_names, save=output / "predictions.png"
    )
    model.save(output / "model.zip")  # read it back with minicnn.load_model

    # One more training step, recorded with all of its numbers: a picture that it gets wrong, and seven others.
    batch = [*wrong[:1], *range(8)][:8]
    model.trace(x_test[batch], y_test[batch]).to_html(output / "step.html")
    for name in ("training_curves.png", "predictions.png", "model.zip", "step.html"):
        print(f"Written: {output / name}")
    print("\nNext:")
    print(f"  look inside one step      open {output / 'step.html'} in a browser, and press Start")
    print('  follow it in a notebook   python -m pip install ".[notebook]"')
    print("                            jupyter notebook examples/inside_a_cnn.ipynb")
    print("  learn why it works        read LEARN.md, fifteen questions of a page each")
    print("  write it yourself         python -m minicnn course")
    print(f"  ask it about a picture    python examples/predict.py {output / 'model.zip'} IMAGE --prepare")
    print("  train on real photos      python examples/train_fashion_mnist.py --model cnn")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a small CNN and see what it recognises.")
    parser.add_argument("--output", type=Path, default=Path("output/quickstart"), help="folder for what is written")
    parser.add_argument("--device", choices=["cpu", "gpu", "auto"], default="cpu", help="auto: gpu where there is one")
    args = parser.parse_args()
    try:
        main(args.output, args.device)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
