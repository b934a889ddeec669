"""The training step on a GPU, plain and as a CUDA graph: are the losses equal, and what does each take?

    python benchmarks/cuda_graph.py [--steps 200]

A small network in small batches, where launching costs the most, and the CIFAR-10 network of the documents' kind in
batches of 64. Fails where the losses differ by more than 1e-4.
"""

import argparse
import time

import numpy as np

import minicnn
from minicnn.layers import BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=200, help="an epoch")
ROUNDS = 5  # each is timed; the fastest is printed


def network(widths):
    """Two convolutions, normalised, pooled and thinned out, for each width."""
    layers = [Input((32, 32, 3))]
    for width in widths:
        for _ in range(2):
            layers += [Conv2D(width, 3, padding="same", activation="relu"), BatchNormalization()]
        layers += [MaxPooling2D(2), Dropout(0.3)]
    return [*layers, Flatten(), Dense(10, activation="softmax")]


def trained(widths, batch_size, steps, with_graph):
    """(the loss of each epoch, seconds of the fastest epoch a step)."""
    cupy = minicnn.backend.module_for("gpu")
    minicnn.utils.set_random_seed(0)
    images = np.random.default_rng(0)
    y = np.arange(batch_size * steps) % 10
    x = (images.standard_normal((len(y), 32, 32, 3)) * 0.3 + y[:, None, None, None] / 10).astype(np.float32)
    model = minicnn.Sequential(network(widths)).to("gpu")
    model.compile("adam", "sparse_categorical_crossentropy")
    minicnn.set_cuda_graph(with_graph)

    class Clock(minicnn.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            cupy.cuda.Device().synchronize()
            self.begin = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            cupy.cuda.Device().synchronize()
            seconds.append((time.perf_counter() - self.begin) / steps)

    seconds = []
    losses = model.fit(x, y, batch_size=batch_size, epochs=1 + ROUNDS, verbose=0, callbacks=[Clock()]).history["loss"]
    minicnn.set_cuda_graph(False)
    return np.array(losses), min(seconds[1:])  # the first epoch compiles kernels, and records


def main():
    steps = parser.parse_args().steps
    worst = 0.0
    for widths, batch_size in (((8, 16), 16), ((32, 64, 128), 64)):
        plain, plain_seconds = trained(widths, batch_size, steps, False)
        graph, graph_seconds = trained(widths, batch_size, steps, True)
        worst = max(worst, float(abs(graph - plain).max()))
        print(f"{'-'.join(map(str, widths))}, batch {batch_size}: plain {1e3 * plain_seconds:.2f} ms a step, graph "
              f"{1e3 * graph_seconds:.2f} ms; losses differ by {abs(graph - plain).max():.1e}")  # fmt: skip
    if worst > 1e-4:
        raise SystemExit("the losses differ")


if __name__ == "__main__":
    main()
