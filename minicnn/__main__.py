"""The command line: python -m minicnn explain MODEL --image FILE --at "conv2d_1[0, 4, 5, 3]"."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

from minicnn.course import command as course
from minicnn.errors import InputError, unknown_name, visible

DESCRIPTION = "minicnn: convolutional neural networks in NumPy, written to be read."
EXAMPLES = """\
which number may be named by --at, for a layer called conv2d_1 (images come first; the one you chose is 0):
  conv2d_1[0, 4, 5, 3]             an output, also conv2d_1:y[0, 4, 5, 3]
  conv2d_1:dw[0, 1, 2, 3]          a weight's gradient; db, dgamma, dbeta alike
  conv2d_1:dx[0, 4, 5, 0]          the gradient with respect to an input; dy, dz alike
  conv2d_1:update[0, 1, 2, 3]      the weight after the optimizer's step; update:b for the bias

examples:
  python -m minicnn explain model.zip --image shoe.png --at "conv2d_1[0, 4, 5, 3]"
  python -m minicnn explain model.zip --dataset toy --index 7 --batch 8 --training --html step.html
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 2 where something that the user gave does not fit."""
    parser = argparse.ArgumentParser("python -m minicnn", description=DESCRIPTION)
    commands = parser.add_subparsers(title="commands", metavar="")
    _add_explain(commands)
    course.add(commands)
    options = parser.parse_args(arguments)
    if "run" not in options:
        parser.print_help()
        return 0
    try:
        return options.run(options) or 0
    except (InputError, OSError) as error:
        print(f"minicnn: {error}", file=sys.stderr)
        return 2


def _add_explain(commands: Any) -> None:
    text, raw = "which numbers made this number", argparse.RawDescriptionHelpFormatter
    about = "Which numbers made this number, in one step of a trained model on one image."
    parser = commands.add_parser("explain", help=text, description=about, epilog=EXAMPLES, formatter_class=raw)
    add = parser.add_argument
    add("model", help="a file that model.save() wrote")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--image", metavar="FILE", help="an image; converted to the model's size and channels")
    source.add_argument("--dataset", metavar="NAME", help="take the image from the test part of this data set")
    add("--index", type=int, default=0, metavar="I", help="which image of the data set (default: 0)")
    add("--at", metavar="PLACE", action="append", default=[], help="the number to explain, see below")
    add("--label", metavar="CLASS", help="the target, a name or number (default: the label of the data set's image; "
        "the predicted class of any other image)")  # fmt: skip
    add("--batch", type=int, default=1, metavar="N", help="take the image in a batch of N: with those after it in the "
        "data set (default: 1)")  # fmt: skip
    add("--training", action="store_true", help="as in a step of fit, with dropout and the statistics of this batch "
        "(default: as in predict)")  # fmt: skip
    add("--html", metavar="FILE", help="write the whole step as a page for the browser")
    parser.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> None:
    from minicnn.inspect.explain import explain, parse
    from minicnn.models import load_model

    if not options.at and not options.html:
        raise InputError(
            "explain", "there is nothing to do.", "a number to explain (--at), a page to write (--html), or both.",
            "neither.", 'for example --at "conv2d_1[0, 4, 5, 3]"; see python -m minicnn explain --help.',
        )  # fmt: skip
    model = load_model(options.model)
    pixels, labels, names, source = _pictures(model, options)
    x, scaling = _scaled(model, pixels)
    y, sentence = _targets(model, x, labels, names, options)
    if names is not None and model.class_names is None:
        model.class_names = names
    t = model.trace(x, y, training=options.training)
    batch = "this one image" if len(x) == 1 else f"these {len(x)} images"
    mode = f"training mode: dropout, and the statistics of {batch}"
    if not options.training:
        mode = "evaluation mode, as in predict"
    print(visible(f"{options.model}, {mode}\n{source}; {scaling}\n{sentence}"))
    for place in options.at:
        print(visible(f"\n{explain(t, *parse(t, place))}"))
    if options.html:
        t.to_html(options.html, image=0)
        print(f"\nThe whole step is in {options.html}: open it in a browser.")


def _pictures(model: Any, options: argparse.Namespace) -> tuple[np.ndarray, list[int] | None, list[str] | None, str]:
    """(pixels 0…255 of the batch, labels or None, class names or None, a sentence about the first one's origin)."""
    shape = model.sample_shape
    if options.batch < 1 or (options.image is not None and options.batch > 1):
        raise InputError(
            "--batch", "there are not so many images.", "1 for --image, 1 or more for --dataset.", f"{options.batch}.",
            "take the image from a data set: --dataset NAME --index I --batch N.",
        )  # fmt: skip
    if options.image is not None:
        pixels, size = _read_image(options.image, shape)
        kind = "grey" if len(shape) == 2 or shape[2] == 1 else "colour"
        source = f"{options.image}, {size}, as {shape[0]}×{shape[1]} pixels in {kind}"
        return pixels[None], None, model.class_names, source
    from minicnn import datasets

    _, (images, labels), names = datasets.load(options.dataset)
    if not 0 <= options.index < len(images):
        raise InputError(
            "--index", f"there is no such image in the test part of {options.dataset}.",
            f"a number from 0 to {len(images) - 1}.", f"{options.index}.", "choose another one.",
        )  # fmt: skip
    chosen = np.arange(options.index, options.index + options.batch) % len(images)
    image = images[options.index]
    if image.size != np.prod(shape):
        raise InputError(
            "--dataset", f"the images of {options.dataset} do not fit the model.", f"samples of shape {shape}.",
            f"images of shape {image.shape}.", "choose the data set that the model was trained on, or --image.",
        )  # fmt: skip
    source = f"test image {options.index} of {options.dataset}"
    source += f", with the {options.batch - 1} after it" if options.batch > 1 else ""
    targets = [int(label) for label in labels.reshape(-1)[chosen]]
    return images[chosen].reshape(-1, *shape), targets, model.class_names or list(names), source


def _read_image(path: str, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """(the image as uint8 of the shape (H, W), (H, W, 1) or (H, W, 3), a sentence about its size)."""
    from PIL import Image

    from minicnn.reading import open_image

    if not (len(shape) == 2 or len(shape) == 3 and shape[2] in (1, 3)):
        raise InputError(
            "--image", "this model does not take images.", "a model of samples (H, W), (H, W, 1) or (H, W, 3).",
            f"one of samples {shape}.", "use --dataset, or model.trace(x, y) in Python.",
        )  # fmt: skip
    with open_image(path) as file:
        image = file.convert("RGB" if shape[2:] == (3,) else "L")
    size = f"{image.height}×{image.width} pixels"
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)).reshape(shape), size


def _scaled(model: Any, pixels: np.ndarray) -> tuple[np.ndarray, str]:
    """(the batch, a sentence about its scale): 0 to 1, unless the model itself divides by about 255."""
    first = model.nodes[0]
    if type(first.layer).__name__ == "Rescaling" and abs(first.layer.scale) < 0.1:
        return pixels.astype(np.float64), f"pixels 0 to 255, since {first.key} scales them"
    return pixels / 255.0, "pixels scaled to 0…1"


def _targets(
    model: Any, x: np.ndarray, labels: list[int] | None, names: list[str] | None, options: argparse.Namespace
) -> tuple[np.ndarray | None, str]:
    """(the targets of the batch, None where the model has no loss; a sentence about the first one's prediction)."""
    p = model.predict(x[:1], verbose=0)[0]
    if p.ndim != 1:
        raise InputError(
            "explain", "the model's output is not one row of classes.", "an output of shape (N, classes).",
            f"one of shape (N, {', '.join(map(str, p.shape))}).", "use model.trace(x, y) in Python.",
        )  # fmt: skip
    classes = max(2, len(p))
    guess = int(p.argmax()) if len(p) > 1 else int(p[0] >= 0.5)
    sentence = f"prediction: {_class(guess, names)}, output {p[guess if len(p) > 1 else 0]:.4g}"
    if options.label is not None:
        label = _label(options.label, names, classes)
        origin = "as given"
    elif labels is not None:
        origin, label = "the image's label", labels[0]
    else:
        origin, label = "the predicted class, since no --label was given", guess
    if model.loss is None:
        return None, sentence + "; the model was not compiled, so there is no backward pass"
    batch = [label, *(labels or [])[1:]]
    if max(batch) >= classes:
        raise InputError(
            "--label", "the model has no output for this class.", f"a class from 0 to {classes - 1}.", f"{max(batch)}.",
            "pass --label with a class of this model.",
        )  # fmt: skip
    sentence += f"\ntarget: {_class(label, names)}, {origin}"
    if model.loss.sparse:
        return np.array(batch), sentence
    return (np.eye(len(p))[batch] if len(p) > 1 else np.array(batch, float)[:, None]), sentence


def _label(text: str, names: list[str] | None, classes: int) -> int:
    """The class number for a name or a number."""
    known = list(names or ())
    if text in known:
        return known.index(text)
    if text.isdigit() and int(text) < classes:
        return int(text)
    raise unknown_name("class (--label)", text, [*known, *map(str, range(classes))])


def _class(k: int, names: list[str] | None) -> str:
    return f"class {k} ({names[k]})" if names and k < len(names) else f"class {k}"


if __name__ == "__main__":
    sys.exit(main())
