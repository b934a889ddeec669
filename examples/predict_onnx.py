"""What is on a picture? A network that was trained with minicnn says it, with onnxruntime alone.

    python -c "import minicnn; minicnn.load_model('output/mnist/model.zip').to_onnx('mnist.onnx')"
    python examples/predict_onnx.py mnist.onnx photo.jpg

minicnn is not imported: this is the program that goes where the network is used. The names of the classes, and how a
picture becomes an input, are in the file's metadata, as JSON. What predict.py does besides (telling pictures that look
different from the training images, and preparing them) is left out. Needs: pip install onnxruntime pillow
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", type=Path, metavar="MODEL", help="a file of model.to_onnx()")
parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
parser.add_argument("--top", type=int, default=3, help="how many classes are printed")

MODES = {"grayscale": "L", "rgb": "RGB", "rgba": "RGBA"}


def loaded(path):
    """(The network ready to run, the names of its classes, how it takes pictures, its layout). SystemExit if not."""
    try:
        import onnxruntime
    except ImportError:
        raise SystemExit("error: onnxruntime is not installed: python -m pip install onnxruntime") from None
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common class for its errors
        raise SystemExit(f"error: {path}: this is no ONNX file that can be run: {error}") from None
    told = session.get_modelmeta().custom_metadata_map
    missing = [name for name in ("class_names", "image_input") if name not in told]
    if missing:
        raise SystemExit(
            f"error: {path}: the file does not tell its {' and '.join(missing)}. "
            "Set them before model.to_onnx(): model.class_names = [...], model.image_input = ImageInput(...)."
        )
    return session, json.loads(told["class_names"]), json.loads(told["image_input"]), json.loads(told["layout"])


def as_input(path, how, shape, layout):
    """A picture as the network takes it: a batch of one, float32."""
    picture = ImageOps.exif_transpose(Image.open(path))  # photos that were taken with the camera turned
    if picture.mode in ("P", "PA", "LA", "RGBA") and how["color_mode"] != "rgba":  # what is transparent, on white
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert(MODES[how["color_mode"]])
    (width, height), (w, h) = picture.size, (how["width"], how["height"])
    if (width, height) != (w, h):
        box = 0, 0, width, height
        if how["keep_aspect_ratio"]:  # the largest part in the middle that has the right shape
            box_width, box_height = min(width, height * w // h), min(height, width * h // w)
            left, top = (width - box_width) // 2, (height - box_height) // 2
            box = left, top, left + box_width, top + box_height
        picture = picture.resize((w, h), Image.Resampling[how["interpolation"].upper()], box)
    x = np.asarray(picture, np.float32).reshape(1, how["height"], how["width"], -1)
    x = (255 - x if how["invert"] else x) * np.float32(how["rescale"])
    if layout == "nchw":
        x = x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x).reshape(1, *shape[1:])


def main(args):
    session, names, how, layout = loaded(args.model)
    entry, failed = session.get_inputs()[0], 0
    for path in args.images:
        try:
            x = as_input(path, how, entry.shape, layout)
        except OSError as error:
            print(f"error: {path}: {error}", file=sys.stderr)  # the other pictures can still be named
            failed += 1
            continue
        p = session.run(None, {entry.name: x})[0][0]
        print(path)
        for k in (-p).argsort()[: max(1, args.top)]:
            print(f"    {names[k]}: {100 * p[k]:.2f} %")
    return failed


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # names may have letters that a terminal lacks
    sys.exit(1 if main(parser.parse_args()) else 0)
