"""Fashion-MNIST: 70,000 photos of clothes, 28 x 28 grey.

Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine
learning algorithms", 2017.
"""

from __future__ import annotations

from minicnn.arguments import in_words
from minicnn.datasets import idx_sets
from minicnn.datasets.fetch import Data

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@in_words
def load_data() -> Data:
    """((x_train, y_train), (x_test, y_test)): x (60000 and 10000, 28, 28) uint8, y (60000 and 10000,) uint8.

    Looked for in MINICNN_DATA/fashion-mnist, then in the user's cache folder, then downloaded (31 MB). Raises
    DownloadError, and BrokenFileError for a file that is something else.
    """
    return idx_sets.load(idx_sets.FASHION_MNIST)
