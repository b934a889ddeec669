"""Every picture that minicnn can draw of a CNN, in one folder. No download, well under a minute.

Without --model a small CNN is trained on generated pictures of clothes first. With it, that model is shown: the size of
its images says which data it sees; --dataset names other data.

Run it with: python examples/gallery.py [--model MODEL_FILE] [--dataset NAME] [--output DIR] [--device gpu]
"""

import argparse
from pathlib import Path

import numpy as np
from journal import say_everything

import minicnn
from minicnn import inspect
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", type=Path, metavar="MODEL_FILE", help="a file of model.save(); else one is trained")
parser.add_argument("--dataset", help="toy (28x28 grey), toy_color (32x32), fashion_mnist, mnist, cifar10")
parser.add_argument("--output", type=Path, default=Path("output/gallery"), help="folder for the pictures")
parser.add_argument("--device", choices=["cpu", "gpu", "auto"], default="cpu", help="auto: gpu where there is one")

NEW_SHAPE = (28, 28, 1)  # what the model that is trained here takes


def trained(x, y, x_test, y_test, names):
    """A small CNN, and how its training went."""
    minicnn.utils.set_random_seed(0)
    model = minicnn.Sequential([
        Input(x.shape[1:]),
        Conv2D(16, 3, padding="same", activation="relu"),
        MaxPooling2D(2),
        BatchNormalization(momentum=0.9),
        Conv2D(32, 3, padding="same", activation="relu"),
        MaxPooling2D(2),
        Flatten(),
        Dropout(0.3),
        Dense(64, activation="relu"),
        Dense(len(names), activation="softmax"),
    ])  # fmt: skip
    model.class_names = names
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model, model.fit(x, y, batch_size=64, epochs=3, validation_data=(x_test, y_test))


def initialisations(x, y, classes):
    """Traces of the same deep network, begun in three ways."""
    starts = {"too small": "random_normal", "glorot_uniform": "glorot_uniform", "he_normal": "he_normal"}
    traces = {}
    for name, start in starts.items():
        minicnn.utils.set_random_seed(0)
        hidden = [Dense(100, activation="relu", kernel_initializer=start) for _ in range(6)]
        model = minicnn.Sequential([Input(x.shape[1:]), Flatten(), *hidden, Dense(classes, activation="softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy")
        traces[name] = model.trace(x, y)
    return traces


def main(args):
    say_everything()
    args.output.mkdir(parents=True, exist_ok=True)
    model = minicnn.load_model(args.model) if args.model else None
    shape = NEW_SHAPE if model is None else tuple(model.sample_shape)
    dataset = args.dataset or ("toy_color" if shape[-1] == 3 else "toy")
    (x, y), (x_test, y_test), names = minicnn.datasets.load(dataset)
    size = (*x.shape[1:], 1)[:3]
    x, x_test = (images.reshape(-1, *size).astype("float32") / 255 for images in (x, x_test))
    y, y_test, names = y.ravel(), y_test.ravel(), list(names)
    if model is not None and (shape != size or model.shapes[-1] != (len(names),)):
        parser.error(f"the model takes {shape} and gives {model.shapes[-1]}, but {dataset} has images of {size} and "
                     f"{len(names)} classes: pass another --dataset")  # fmt: skip

    def path(name):
        return args.output / name

    history = None
    if model is None:
        model, history = trained(x, y, x_test, y_test, names)
    names = model.class_names = model.class_names or names
    if model.loss is None:
        model.compile("adam", "sparse_categorical_crossentropy")
    targets = y_test if model.loss.sparse else minicnn.utils.to_categorical(y_test, len(names))

    # One pass over the test images, and the record of one training step: most pictures are made of these.
    p = model.predict(x_test, verbose=0)
    guesses = p.argmax(axis=1)
    t = model.trace(x_test[:32], targets[:32])
    one = x_test[np.argmax(guesses == y_test)]  # the first that it recognises
    unsure = int(p[:32].max(axis=1).argmin())  # what is known already has hardly a gradient
    convolutions = [r.key for r in t.layers if r.kind == "Conv2D"]

    if history is not None:
        inspect.training_curves(history, save=path("training_curves.png"))
    inspect.image_grid(x, y, names, save=path("images.png"))
    inspect.show_image(one, save=path("image.png"))
    inspect.prediction_grid(x_test[:9], p[:9], y_test[:9], names, save=path("predictions.png"))
    inspect.misclassified(x_test, p, y_test, names, save=path("misclassified.png"))
    inspect.confusion_matrix(y_test, p, names, save=path("confusion_matrix.png"))

    inspect.architecture(model, save=path("architecture.svg"))
    inspect.im2col_figure(save=path("im2col.png"))
    for which in ("y", "dw", "dx"):
        inspect.convolution_figure(which, at=(2, 1), save=path(f"convolution_{which}.png"))
    inspect.winograd_figure(save=path("winograd.png"))
    inspect.padding_figure((5, 6, 7, 8), save=path("padding.png"))
    if convolutions:
        inspect.receptive_field_figure(model, save=path("receptive_field.png"))
    for key in convolutions[:3]:
        file = key.replace("/", "_")
        inspect.filters(model, key, save=path(f"filters_{file}.png"))
        inspect.feature_maps(t, key, save=path(f"feature_maps_{file}.png"))
        inspect.gradient_maps(t, key, unsure, save=path(f"gradient_maps_{file}.png"))
    if convolutions:
        inspect.gradient_maps(t, sample=unsure, save=path("gradient_maps.png"))
        inspect.top_patches(model, x_test, labels=y_test, class_names=names, save=path("top_patches.png"))
        inspect.grad_cam(model, one, save=path("grad_cam.png"))
    inspect.saliency(model, one, save=path("saliency.png"))
    inspect.occlusion(model, one, save=path("occlusion.png"))

    inspect.gradient_flow(t, save=path("gradient_flow.png"))
    inspect.update_ratios(t, save=path("update_ratios.png"))
    inspect.activation_histograms(t, save=path("activations.png"))
    inspect.activation_histograms(initialisations(x[:200], y[:200], len(names)), save=path("initialisations.png"))
    for file in sorted(args.output.iterdir()):
        if file.suffix in (".png", ".svg"):
            print(file)


if __name__ == "__main__":
    try:
        args = parser.parse_args()
        with minicnn.device(args.device):  # all models are made there
            main(args)
    except (minicnn.errors.InputError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
