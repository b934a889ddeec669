"""MNIST: 70,000 handwritten digits, 28 x 28 grey.

Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition",
1998.
"""

from __future__ import annotations

from minicnn.arguments import in_words
from minicnn.datasets import idx_sets
from minicnn.datasets.fetch import Data

CLASS_NAMES = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


@in_words
def load_data() -> Data:
    """((x_train, y_train), (x_test, y_test)): x (60000 and 10000, 28, 28) uint8, y (60000 and 10000,) uint8.

    Looked for in MINICNN_DATA/mnist, then in the user's cache folder, then downloaded (12 MB). Raises
    DownloadError, and BrokenFileError for a file that is something else.
    """
    return idx_sets.load(idx_sets.MNIST)
