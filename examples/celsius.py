"""The first thing a network can learn: degrees Celsius to Fahrenheit, from seven examples, with one neuron.

Nobody tells it that F = 1.8 C + 32. A dense layer of one unit computes w * C + b, and training looks for w and b. After
500 epochs it is near; with epochs=3000 it is there.
"""

import argparse

import numpy as np

from minicnn.errors import InputError
from minicnn.layers import Dense
from minicnn.models import Sequential
from minicnn.optimizers import Adam
from minicnn.utils import set_random_seed


def main(device: str) -> None:
    set_random_seed(0)
    celsius = np.array([[-40], [-10], [0], [8], [15], [22], [38]], dtype=np.float32)
    fahrenheit = np.array([[-40], [14], [32], [46.4], [59], [71.6], [100.4]], dtype=np.float32)

    model = Sequential([Dense(1, input_shape=(1,))])
    model.compile(optimizer=Adam(0.1), loss="mean_squared_error")
    history = model.fit(celsius, fahrenheit, epochs=500, verbose=0, device=device)

    losses = history.history["loss"]
    print(f"Mean squared error: {losses[0]:.0f} after the first epoch, {losses[-1]:.1f} after epoch {len(losses)}")
    print(f"100 C are {model.predict(np.array([[100.0]]))[0, 0]:.1f} F (exact: 212.0)")
    (w,), b = model.get_weights()
    print(f"It found F = {w[0]:.3f} C + {b[0]:.2f} (exact: 1.8 C + 32)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One neuron learns degrees Fahrenheit.")
    parser.add_argument("--device", choices=["cpu", "gpu", "auto"], default="cpu", help="auto: gpu where there is one")
    try:
        main(parser.parse_args().device)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
