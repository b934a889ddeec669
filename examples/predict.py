"""What is on a picture? A model that train_mnist.py, train_fashion_mnist.py, train_cifar10.py or train_images.py left
says it.

    python examples/predict.py output/mnist/model.zip photo.jpg --prepare

The names of the classes, the size of the images and their scaling are in the model's file, and what the training images
looked like. A picture that looks different, as dark ink on white paper does beside MNIST's light digits on black, is
answered with great certainty, and wrongly: predict.py says so. --prepare makes each picture look like the training
images, as far as it needs that; the four flags do it by hand. Each picture is written to the folder --output with the
answer on it, and, prepared, beside it as the model saw it.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
from journal import say_everything

import minicnn
from minicnn.errors import InputError
from minicnn.preprocessing.image import load_img

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", type=Path, metavar="MODEL", help="a file of model.save()")
parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
parser.add_argument("--prepare", action="store_true", help="do to each picture what it needs of the following")
parser.add_argument("--invert", action="store_true", help="light becomes dark: for ink on white paper")
parser.add_argument("--contrast", action="store_true", help="an even background without shadows, full contrast on it")
parser.add_argument("--center", action="store_true", help="cut out what is on it, and lay it in the middle")
parser.add_argument("--keep-aspect-ratio", action="store_true", help="cut what does not fit instead of squeezing it")
parser.add_argument("--top", type=int, default=3, help="how many classes are printed")
parser.add_argument("--show", action="store_true", help="open the pictures, too")
parser.add_argument("--output", type=Path, default=Path("output/predictions"), help="folder for the pictures")
parser.add_argument("--device", choices=["cpu", "gpu", "auto"], default="cpu", help="auto: gpu where there is one")

SIDE = 600  # pixels of a picture's longer side
SWITCHES = ("invert", "contrast", "center", "keep_aspect_ratio")


def classifier(path):
    """The model in a file. Raises InputError where it does not say what it tells apart, or how it takes images."""
    model = minicnn.load_model(path)
    size = tuple(n for n in model.input_shape if n)
    image_input = "ImageInput(64, 64)"
    if len(size) == 3:
        image_input = f"ImageInput{(*size[:2], {1: 'grayscale', 4: 'rgba'}.get(size[2], 'rgb'))}"
    for name, example in (("class_names", '["cat", "dog"]'), ("image_input", image_input)):
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


def with_text(path, text, seen):
    """The picture in a file, with a line of text in its upper left corner; in the lower right one what the model saw,
    where that is another picture."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    picture = load_img(path)
    scale = SIDE / max(picture.size)
    picture = picture.resize([max(1, round(scale * side)) for side in picture.size])
    if seen is not None:
        small = Image.fromarray(np.clip(np.rint(seen[..., :3].squeeze()), 0, 255).astype(np.uint8)).convert("RGB")
        side = max(1, min(picture.size) // 3)
        small = small.resize((side, side), Image.Resampling.NEAREST)
        picture.paste(small, (picture.width - side, picture.height - side))
    text = text.encode("utf-8", "replace").decode()  # a file system's names may have bytes that are no letters
    file, size = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf", 32
    while size > 8 and ImageFont.truetype(file, size).getlength(text) > picture.width - 20:
        size -= 1
    font, draw = ImageFont.truetype(file, size), ImageDraw.Draw(picture, "RGBA")
    draw.rectangle((0, 0, 20 + font.getlength(text), 1.5 * size), fill=(0, 0, 0, 170))
    draw.text((10, 0.15 * size), text, font=font, fill="white")
    return picture


def main(args):
    say_everything()
    model, failed = classifier(args.model).to(args.device), 0
    by_hand = dataclasses.replace(model.image_input, **{name: True for name in SWITCHES if getattr(args, name)})
    args.output.mkdir(parents=True, exist_ok=True)
    for i, path in enumerate(args.images):
        try:
            doubts = by_hand.doubts(path)
            image_input = by_hand.suited(path) if args.prepare else by_hand
            image = image_input.load(path)
        except (InputError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)  # the other pictures can still be named
            failed += 1
            continue
        # A batch of one image, in the shape that the model takes; of the batch of answers, the only one.
        p = model.predict(image.reshape(1, *model.sample_shape), verbose=0)[0]
        print(path)
        for switch, why in doubts.items():
            print(f"    {'done' if args.prepare else 'careful'}: {why}: --{switch.replace('_', '-')}")
        if doubts and not args.prepare:
            print("    The training images looked different, so do not trust this answer; --prepare does all that.")
        for k in (-p).argsort()[: max(1, args.top)]:
            print(f"    {model.class_names[k]}: {100 * p[k]:.2f} %")
        seen = image / image_input.rescale if image_input != model.image_input else None
        picture = with_text(path, f"{model.class_names[p.argmax()]}: {100 * p.max():.2f} %", seen)
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
