"""The same network from the same start, trained twice: on the CPU and on the GPU. How fast, and how equal?

Prints how much faster the GPU is, layer by layer, and draws how the two runs drift apart, step by step. Without a GPU
(--device cpu) the two runs are on one thread and on two: they drift apart for the same reason, which is printed, too;
and beside this CPU's times stand those of a GPU that were recorded, where there are any.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from journal import say_everything
from measurements import write_record

import minicnn
from minicnn.callbacks import Callback
from minicnn.errors import InputError
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
from minicnn.layers.base import Context

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--device", choices=["cpu", "gpu", "auto"], default="auto", help="auto: gpu where there is one")
parser.add_argument("--dataset", default="toy", help="or mnist, fashion_mnist, cifar10 (these are downloaded)")
for name, default in {"steps": 150, "batch-size": 64, "seed": 0}.items():
    parser.add_argument(f"--{name}", type=int, default=default)
parser.add_argument("--output", type=Path, default=Path("output/cpu_vs_gpu"), help="folder for the picture")
parser.add_argument("--record", type=Path, metavar="FILE", help="of the layers' times: written with a GPU, else shown")

RECORD = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "cpu_vs_gpu.json"  # what is read unless named

EXPLANATION = """
Why they differ at all: both add the same numbers, but in another order, and float32 rounds after every addition to
about seven digits. So (a + b) + c is not quite a + (b + c). The first step differs in the last digits; each later step
starts from weights that differ a little, and training magnifies that: a ReLU or a maximum that is nearly a tie falls
the other way. Neither run is more right than the other. What must agree is what they learn: the losses lie on one line.
"""


def new_model(shape, classes, seed):
    """A small CNN; the seed draws its weights, and later the shuffles and the dropout, for every device alike."""
    minicnn.utils.set_random_seed(seed)
    model = minicnn.Sequential([
        Input(shape),
        Conv2D(32, 3, padding="same", activation="relu", name="conv1"),
        BatchNormalization(name="norm1"),
        MaxPooling2D(name="pool1"),
        Conv2D(64, 3, padding="same", activation="relu", name="conv2"),
        BatchNormalization(name="norm2"),
        MaxPooling2D(name="pool2"),
        Dropout(0.3, name="dropout"),
        Flatten(name="flatten"),
        Dense(classes, activation="softmax", name="dense"),
    ])  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


class Diary(Callback):
    """After every step the mean loss so far and all weights, on the host."""

    def on_train_begin(self, logs=None):
        self.losses, self.weights = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])
        self.weights.append([[w.copy() for w in layer.get_weights()] for layer in self.model.flat_layers])


def train(model, data, args, device, threads):
    """Train for args.steps steps; returns what the diary says."""
    minicnn.set_num_threads(threads)
    x, y = (array[np.arange(args.steps * args.batch_size) % len(array)] for array in data)
    diary = Diary()
    model.to(device).fit(x, y, batch_size=args.batch_size, epochs=1, verbose=0, callbacks=[diary])
    minicnn.set_num_threads(None)
    return diary


def distances(ours, theirs):
    """(steps, layers): how far the weights of two runs are apart, relative to their size."""

    def norm(arrays):
        return np.sqrt(sum(float((a.astype(np.float64) ** 2).sum()) for a in arrays))

    def apart(a, b):
        return norm([p - q for p, q in zip(a, b, strict=True)]) / max(norm(a), 1e-30)

    return np.array([[apart(a, b) for a, b in zip(*step, strict=True)] for step in zip(ours, theirs, strict=True)])


def layer_times(model, x, device, repeats=5):
    """Milliseconds of each layer, there and back: the best of some repeats."""
    model.to(device)
    xp, times = minicnn.backend.module_for(device), []
    x = xp.asarray(x)
    for layer in model.flat_layers:
        best = np.inf
        for _ in range(repeats + 1):  # the first one compiles and warms up
            context = Context(training=True, seed=1)
            start = time.perf_counter()
            y = layer.forward(x, context)
            layer.backward(y, context)
            if xp is not np:
                xp.cuda.Device().synchronize()  # the GPU works on its own: wait until it is done
            best = min(best, time.perf_counter() - start)
        times.append(best * 1000)
        x = y
    return times


def print_speed(names, here, there, batch):
    """A table of the layers: CPU, GPU and how many times as fast."""
    print(f"\n{'layer':10} {'CPU':>9} {'GPU':>9} {'speed-up':>9}    one batch of {batch}, there and back")
    for name, cpu, gpu in zip([*names, "together"], [*here, sum(here)], [*there, sum(there)], strict=True):
        print(f"{name:10} {cpu:6.2f} ms {gpu:6.2f} ms {cpu / gpu:8.1f}x")


def recorded(path):
    """The record of a GPU's times that --record has written. Raises InputError where there is none in this file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        times = {str(layer["layer"]): float(layer["gpu_ms"]) for layer in record["layers"]}
        return {
            "times": times, "batch": int(record["batch"]), "shape": tuple(record["shape"]), "date": record["date"],
            "gpu": record["hardware"]["gpu"],
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "--record", "no times of a GPU can be read from this file.", "a file that --record has written on a GPU.",
            f"{path} ({type(error).__name__}: {error}).", "leave --record out, or name another file.",
        ) from error  # fmt: skip


def show_recorded(model, x, path):
    """This CPU's times beside the recorded ones of a GPU; or a line that says that there are none."""
    if path is None and not RECORD.exists():
        print("\nNo GPU's times are recorded yet. With a GPU, --record FILE writes them.")
        return
    record = recorded(path or RECORD)
    names = [layer.name for layer in model.flat_layers]
    if list(record["times"]) != names or record["shape"] != x.shape[1:]:
        shape = " x ".join(map(str, record["shape"]))
        print(f"\nThe recorded times of a GPU are those of another network, or of other images ({shape}): not shown.")
        return
    batch = x[np.arange(record["batch"]) % len(x)]
    print_speed(names, layer_times(model, batch, "cpu"), list(record["times"].values()), len(batch))
    print(f"GPU: recorded on {record['date']} on another machine, {record['gpu']}. CPU: this one, now.")


def draw(path, diaries, names, apart, layers):
    """Left the losses of both runs, right the distance of their weights, layer by layer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.arange(1, len(apart) + 1)
    styles = {"lw": 4, "alpha": 0.4}, {"lw": 1.2, "color": "black"}
    for diary, name, style in zip(diaries, names, styles, strict=True):
        left.plot(steps, diary.losses, label=name, **style)
    left.set(title="What they learn: mean loss so far", xlabel="step", ylabel="loss", ylim=(0, None))
    left.legend()
    for column, name in enumerate(layers):
        if apart[:, column].any():
            right.semilogy(steps, np.maximum(apart[:, column], 1e-12), label=name)
    right.axhline(np.finfo(np.float32).eps, color="gray", ls="--", lw=1)
    right.annotate("one float32 digit", (steps[-1], np.finfo(np.float32).eps), color="gray", ha="right", va="bottom")
    right.set(title="How far their weights are apart", xlabel="step", ylabel="distance / size of the weights")
    if apart.any():
        right.legend()
    figure.suptitle(f"{names[0]} and {names[1]}: the same start, the same batches, sums in another order")
    FigureCanvasAgg(figure).print_png(path)


def main(args):
    say_everything()
    device = minicnn.device(args.device)
    args.output.mkdir(parents=True, exist_ok=True)
    (x, y), _, classes = minicnn.datasets.load(args.dataset)
    x = np.divide(x if x.ndim == 4 else x[..., None], 255, dtype=np.float32)

    runs = {"CPU": ("cpu", None), "GPU": (device, None)}
    if device == "cpu":
        runs = {"one thread": ("cpu", 1), "two threads": ("cpu", 2)}
        print("No GPU is used: one thread of the CPU against two.")
    models = [new_model(x.shape[1:], len(classes), args.seed) for _ in runs]
    diaries = [train(m, (x, y), args, *where) for m, where in zip(models, runs.values(), strict=True)]
    if device == "cpu":
        show_recorded(models[1], x, args.record)
    else:
        batch, names = x[: args.batch_size], [layer.name for layer in models[1].flat_layers]
        there, here = (layer_times(models[1], batch, where) for where in (device, "cpu"))
        print_speed(names, here, there, len(batch))
        if args.record:
            layers = [
                {"layer": name, "cpu_ms": round(cpu, 4), "gpu_ms": round(gpu, 4)}
                for name, cpu, gpu in zip(names, here, there, strict=True)
            ]
            write_record(args.record, {"layers": layers}, batch=len(batch), shape=x.shape[1:], dataset=args.dataset)

    apart = distances(*(diary.weights for diary in diaries))
    as_one = [[[sum(step, start=[])] for step in diary.weights] for diary in diaries]  # all layers as one
    total = distances(*as_one)[:, 0]
    first, second = runs
    print(f"\n{'step':>5} {'loss, ' + first:>18} {'loss, ' + second:>18} {'weights apart':>14}")
    for step in sorted({1, 2, 5, 10, 20, 50, 100, args.steps} & set(range(1, args.steps + 1))):
        losses = [diary.losses[step - 1] for diary in diaries]
        print(f"{step:5} {losses[0]:18.6f} {losses[1]:18.6f} {total[step - 1]:14.1e}")
    print(EXPLANATION)
    picture = args.output / "divergence.png"
    draw(picture, diaries, (first, second), apart, [layer.name for layer in models[0].flat_layers])
    print(f"Drawn: {picture}")


if __name__ == "__main__":
    try:
        main(parser.parse_args())
    except InputError as error:
        parser.error(str(error))
