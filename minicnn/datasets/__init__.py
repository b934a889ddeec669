"""Data sets as NumPy arrays, in Keras' shapes and dtypes.

    mnist          60,000 + 10,000 digits, 28 x 28 grey                 downloaded, 12 MB
    fashion_mnist  60,000 + 10,000 clothes, 28 x 28 grey                downloaded, 31 MB
    cifar10        50,000 + 10,000 photos, 32 x 32 colour               downloaded, 170 MB
    toy            clothes drawn by code, in the form of Fashion-MNIST  no download
    toy_color      the same in colour, in the form of CIFAR-10          no download

Each of mnist, fashion_mnist, cifar10 and toy is a module with `load_data()` and CLASS_NAMES; `load(name)`
gives any of the five. Files are looked for in the folder MINICNN_DATA, then in the user's cache folder,
then downloaded. They may be unpacked or not, and have the names and folders of torchvision, Keras or Kaggle.
`read_idx` and `read_csv` read data of your own in MNIST's formats.
"""

from __future__ import annotations

from collections.abc import Callable

from minicnn.arguments import in_words
from minicnn.datasets import cifar10, fashion_mnist, mnist, toy
from minicnn.datasets.fetch import Data, DownloadError, Split
from minicnn.datasets.idx import read_idx
from minicnn.datasets.idx_sets import read_csv
from minicnn.errors import unknown_name

__all__ = ["DownloadError", "cifar10", "fashion_mnist", "load", "mnist", "read_csv", "read_idx", "toy"]

_SETS: dict[str, tuple[Callable[[], Data], tuple[str, ...]]] = {
    "mnist": (mnist.load_data, mnist.CLASS_NAMES),
    "fashion_mnist": (fashion_mnist.load_data, fashion_mnist.CLASS_NAMES),
    "cifar10": (cifar10.load_data, cifar10.CLASS_NAMES),
    "toy": (toy.load_data, toy.CLASS_NAMES),
    "toy_color": (lambda: toy.load_data(color=True), toy.CLASS_NAMES),
}


@in_words
def load(name: str) -> tuple[Split, Split, tuple[str, ...]]:
    """(train, test, class_names) of a data set by its name; train and test are (x, y).

    Raises UnknownNameError, and what the set's own `load_data` raises.
    """
    if name not in _SETS:
        raise unknown_name("data set", name, _SETS)
    load_data, class_names = _SETS[name]
    train, test = load_data()
    return train, test, class_names
