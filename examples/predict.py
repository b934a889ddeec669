"""What is on a picture? A model that train_images.py, train_cifar10.py or train_mnist.py left says it.

    python examples/predict.py output/images/model.zip cat.jpg dog.png

The names of the classes, the size of the images and their scaling are in the model's file. Each picture is written to
the folder --output with the answer on it.
"""

import argparse
import sys
from pathlib import Path

import minicnn
from minicnn.errors import InputError
from minicnn.preprocessing.image import load_img

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", type=Path, metavar="MODEL", help="a file of model.save()")
parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
parser.add_argument("--top", type=int, default=3, help="how many classes are printed")
parser.add_argument("--show", action="store_true", help="open the pictures, too")
parser.add_argument("--output", type=Path, default=Path("output/predictions"), help="folder for the pictures")
parser.add_argument("--device", choices=["cpu", "gpu", "auto"], default="cpu", help="auto: gpu where there is one")

SIDE = 600  # pixels of a picture's longer side


def classifier(path):
    """The model in a file. Raises InputError where it does not say what it tells apart, or how it takes images."""
    model = minicnn.load_model(path)
    for name, example in (("class_names", '["cat", "dog"]'), ("image_input", "ImageInput(64, 64)")):
        if getattr(model, name) is None:
            raise InputError(
                path, f"this model has no {name}.", "a model that says what it was trained for.", f"{name} is None.",
                f"set model.{name} = {example}, as it was trained, and save it again.",
            )  # fmt: skip
    if model.shapes[-1] != (len(model.class_names),):
        raise InputError(
            path, "this model does not give a probability for each class.", f"{len(model.class_names)} outputs.",
            f"outputs of shape {model.shapes[-1]}.", "use a model that ends in Dense(classes, activation='softmax').",
        )  # fmt: skip
    return model


def with_text(path, text):
    """The picture in a file, with a line of text in its upper left corner."""
    import matplotlib
    from PIL import ImageDraw, ImageFont

    picture = load_img(path)
    scale = SIDE / max(picture.size)
    picture = picture.resize([max(1, round(scale * side)) for side in picture.size])
    file, size = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf", 32
    while size > 8 and ImageFont.truetype(file, size).getlength(text) > picture.width - 20:
        size -= 1
    font, draw = ImageFont.truetype(file, size), ImageDraw.Draw(picture, "RGBA")
    draw.rectangle((0, 0, 20 + font.getlength(text), 1.5 * size), fill=(0, 0, 0, 170))
    draw.text((10, 0.15 * size), text, font=font, fill="white")
    return picture


def main(args):
    if hasattr(sys.stdout, "reconfigure"):  # class names may have letters that this terminal cannot show
        sys.stdout.reconfigure(errors="replace")
    model, failed = classifier(args.model).to(args.device), 0
    args.output.mkdir(parents=True, exist_ok=True)
    for i, path in enumerate(args.images):
        try:
            image = model.image_input.load(path)
        except (InputError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)  # the other pictures can still be named
            failed += 1
            continue
        # A batch of one image, in the shape that the model takes; of the batch of answers, the only one.
        p = model.predict(image.reshape(1, *model.input_shape), verbose=0)[0]
        print(path)
        for k in (-p).argsort()[: max(1, args.top)]:
            print(f"    {model.class_names[k]}: {100 * p[k]:.2f} %")
        picture = with_text(path, f"{model.class_names[p.argmax()]}: {100 * p.max():.2f} %")
        same = sum(other.stem == path.stem for other in args.images[:i])
        target = args.output / (f"{path.stem}-{same + 1}.png" if same else f"{path.stem}.png")
        picture.save(target)
        print(f"    written: {target}")
        if args.show:
            picture.show()
    return failed


if __name__ == "__main__":
    try:
        sys.exit(1 if main(parser.parse_args()) else 0)
    except (InputError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
