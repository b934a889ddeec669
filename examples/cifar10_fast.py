"""94 % on CIFAR-10 within minutes, by four ideas: each is a rung of a ladder, and a few lines here.

Without flags the top rung sees 20,000 photos once: about a minute on two cores, and 78 % of the test photos are right.
--full: 8 epochs of all 50,000, 12 minutes on two cores, 94 %. --rung says how far up: plain, whitening, dirac or muon.
--mirror, --views: each test photo is judged from two or six sides, and the answers are averaged.
Without a download: --dataset toy_color --limit 1000

The recipe is K. Jordan's: "94% on CIFAR-10 in 3.29 seconds on a single GPU" (2024), and "Muon" (2024).
"""

import argparse

import numpy as np
from journal import Journal, add_flags, backup, data_md5, say_everything

import minicnn
from minicnn.batches import Epochs
from minicnn.initializers import Dirac, RandomUniform, VarianceScaling
from minicnn.layers import Activation, BatchNormalization, Conv2D, Dense, Flatten, Input, MaxPooling2D
from minicnn.losses import CategoricalCrossentropy
from minicnn.optimizers import SGD, MultiOptimizer, Muon, OptimizerMap
from minicnn.optimizers.schedules import CosineDecay, PolynomialDecay
from minicnn.preprocessing import patch_whitening
from minicnn.preprocessing.image import ImageInput
from minicnn.utils import to_categorical

RUNGS = ["plain", "whitening", "dirac", "muon"]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rung", choices=RUNGS, default="muon", help="all ideas up to this one")
parser.add_argument("--full", action="store_true", help="8 epochs of 50,000 photos in batches of 2,000")
parser.add_argument("--mirror", action="store_true", help="judge each test photo and its mirror image")
parser.add_argument("--views", action="store_true", help="and both again, shifted by a pixel: six views")
parser.add_argument("--dataset", default="cifar10", choices=["cifar10", "toy_color"], help="toy_color is drawn")
parser.add_argument("--seed", type=int, default=0)
for name in ("epochs", "limit", "batch-size"):
    parser.add_argument(f"--{name}", type=int, help="default 1, 20000, 500; with --full 8, all, 2000")
add_flags(parser, "output/cifar10_fast")

MEAN, STD = np.float32([0.4914, 0.4822, 0.4465]), np.float32([0.2470, 0.2435, 0.2616])  # of the pixels, 0 to 1


def normalized(x):
    return (x / np.float32(255) - MEAN) / STD


class Varied(Epochs):
    """Batches of photos, each shifted by up to 2 pixels; what is missing at the edge is mirrored.

    Each photo is turned left to right in every second epoch, by chance in the odd or in the even ones: so two epochs
    show it from both sides, where chance alone would show every second photo the same way twice.
    """

    def __init__(self, x, y, batch_size, seed):
        super().__init__(len(x), batch_size, True, seed)
        self.x, self.y, self.mirrored = x, y, np.random.default_rng(seed).random(len(x)) < 0.5

    def __getitem__(self, i):
        k = self.samples_of(i)
        padded = np.pad(normalized(self.x[k]), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.x.shape[1:3], axis=(1, 2))
        down, right = self.random_of(i).integers(0, 5, (2, len(k)))
        x = np.moveaxis(windows[np.arange(len(k)), down, right], 1, -1)  # the channels come last again
        turned = self.mirrored[k] ^ (self.epoch % 2 == 1)
        return np.where(turned[:, None, None, None], x[:, :, ::-1], x), self.y[k]


def network(classes, rung):
    """Seven convolutions; the first looks at 2 x 2 pixels, and the last pooling leaves a single place."""
    small = VarianceScaling(1 / 3, "fan_in", "uniform")
    # Dirac: of the filters of a convolution, the first ones hand their input on as it is. So at the beginning all of
    # the photo reaches the last layer, and the gradient all layers: 53.8 -> 63.9 %.
    begin = Dirac(rest=small) if RUNGS.index(rung) >= RUNGS.index("dirac") else small
    layers = [Conv2D(24, 2, activation="gelu", kernel_initializer=small, bias_initializer=RandomUniform(-0.29, 0.29),
                     name="patches")]  # fmt: skip
    for block, filters in enumerate((64, 256, 256), 1):
        for i in (1, 2):
            name = f"block{block}_conv{i}"
            layers.append(Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer=begin, name=name))
            if i == 1:
                layers.append(MaxPooling2D(2))
            layers += [BatchNormalization(momentum=0.6, epsilon=1e-12, scale=False), Activation("gelu")]
    head = RandomUniform(-(3**0.5) / 256, 3**0.5 / 256)  # small answers at first: certain ones would be wrong ones
    head = Dense(classes, use_bias=False, kernel_initializer=head, name="head")
    return minicnn.Sequential([Input((32, 32, 3)), *layers, MaxPooling2D(3), Flatten(), head])


def optimizer(rung, batch_size, steps, epochs):
    """How each kind of parameter learns. The rates are given for a photo, so a batch's are as many times as large."""

    def falling(rate, share=1.0):  # to 0, along a line
        return PolynomialDecay(rate, max(1, round(share * steps)), 0.0)

    fixed = {} if rung == "plain" else {"patches/kernel": SGD(0.0)}
    # Muon: each step of a kernel is made orthogonal, so that what many photos want and what few want is learned equally
    # fast. It bears higher rates, and needs no slow beginning: 63.9 -> 78.2 %.
    if rung == "muon":
        kernels = Muon(falling(0.24), momentum=0.6, ns_steps=3, rms_rate=None, normalize=True, weight_decay=None)
        rate, decay = 0.053 * batch_size, 3.77e-5 / 0.15
        shift = SGD(falling(rate, min(1, 3 / epochs)), 0.85, True, decay)
        return MultiOptimizer(OptimizerMap(kernels, {
            "patches/bias": shift, ".*/beta": SGD(falling(rate), 0.85, True, decay),
            "head/kernel": SGD(falling(0.67 * batch_size / 256**2), 0.85, True, 0.196 / 0.15), **fixed,
        }))  # fmt: skip
    # Plain: momentum that looks ahead; the rate rises for a fifth of the steps, and then falls.
    rate, decay, up = 1.465e-3 * batch_size, 1.33e-3 / 0.15, max(1, steps // 5)

    def rising(rate):
        return CosineDecay(rate / 5, max(1, steps - up), warmup_target=rate, warmup_steps=up)

    head = SGD(rising(rate / 81), 0.85, True, 81 * decay)  # the published network divides its answers by 9
    return MultiOptimizer(OptimizerMap(SGD(rising(rate), 0.85, True, decay), {"head/kernel": head, **fixed}))


def judged(model, x, count):
    """Answers (count, N, classes) for 1, 2 or 6 views of photos: also mirrored, and both shifted by a pixel, twice."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    shifted = [padded[:, i : i + x.shape[1], i : i + x.shape[2]] for i in (1, 0, 2)]
    views = [view for photo in shifted for view in (photo, photo[:, :, ::-1])]
    return np.stack([model.predict(view, batch_size=500, verbose=0) for view in views[:count]])


def accuracies(p, truth):
    """Of the photos alone; with their mirror images; and with all views, of which the unshifted count double."""
    answers = {"plain": p[0]}
    if len(p) > 1:
        answers["mirror"] = p[:2].mean(axis=0)
    if len(p) > 2:
        answers["views"] = (p[:2].mean(axis=0) + p[2:].mean(axis=0)) / 2
    return {name: round(float((answer.argmax(axis=1) == truth).mean()), 4) for name, answer in answers.items()}


def main(args):
    say_everything()
    minicnn.set_num_threads(args.threads)
    minicnn.utils.set_random_seed(args.seed)
    epochs, limit, batch_size = (8, 50000, 2000) if args.full else (1, 20000, 500)
    epochs, limit, batch_size = args.epochs or epochs, args.limit or limit, args.batch_size or batch_size
    if min(epochs, limit, batch_size) < 1:
        parser.error("--epochs, --limit and --batch-size: numbers of 1 or more")
    args.output.mkdir(parents=True, exist_ok=True)

    (x, y), (x_test, y_test), names = minicnn.datasets.load(args.dataset)
    x, y = x[:limit], y[:limit]
    batch_size, md5 = min(batch_size, len(x)), data_md5(x, y, x_test, y_test)
    x_test, truth = normalized(x_test), y_test.ravel()
    y, y_test = to_categorical(y, len(names)), to_categorical(y_test, len(names))

    settings = {"dataset": args.dataset, "train_images": len(x), "test_images": len(x_test), "md5": md5,
                "rung": args.rung, "batch_size": batch_size, "seed": args.seed}  # fmt: skip
    journal, steps = Journal(settings), epochs * -(-len(x) // batch_size)
    model = network(len(names), args.rung)
    # Whitening: the first convolution begins with the patterns of which photos consist, all brought to one size, and
    # stays so. Nothing need be learned there, and later steps are as long in all directions: 49.4 -> 53.8 %.
    if args.rung != "plain":
        first = model.get_layer("patches")
        first.set_weights([patch_whitening(normalized(x[:5000]), size=2), first.get_weights()[1]])
    # Label smoothing: an answer need not be more certain than 82 %, which leaves room for photos that are hard.
    loss = CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    model.compile(optimizer(args.rung, batch_size, steps, epochs), loss, metrics=["accuracy"])
    model.summary()
    history = model.to(args.device).fit(
        Varied(x, y, batch_size, args.seed), epochs=epochs, callbacks=[journal, backup(args)],
        validation_data=(x_test[:2000], y_test[:2000]), validation_batch_size=500,
    )  # fmt: skip

    save(model, names, x, args.output / "model.zip")
    accuracy = accuracies(judged(model, x_test, 6 if args.views else 2 if args.mirror else 1), truth)
    if args.record:
        best = list(accuracy.values())[-1]
        journal.record(args.record, history, test_accuracy=best, **{f"test_{k}": v for k, v in accuracy.items()})
    print(f"Model: {args.output / 'model.zip'}\nTest accuracy: {accuracy}")


def save(model, names, x, path):
    """The network as predict.py takes it: pixels from 0 to 1, and probabilities."""
    whole = minicnn.Sequential([Input((32, 32, 3)), *network(len(names), "plain").layers, Activation("softmax")])
    whole.set_weights(model.get_weights())
    first = whole.get_layer("patches")
    kernel, bias = first.get_weights()  # w * (x - mean) / std + b is w / std * x + (b - w * mean / std)
    kernel = kernel / STD[:, None]
    first.set_weights([kernel, bias - (kernel * MEAN[:, None]).sum(axis=(0, 1, 2))])
    whole.class_names, whole.image_input = list(names), ImageInput(32, 32).learn(x, aspect=1.0)
    whole.save(path)


if __name__ == "__main__":
    try:
        main(parser.parse_args())
    except minicnn.errors.InputError as error:
        raise SystemExit(f"error: {error}") from None
