"""Nothing that is printed may kill the work, whatever the encoding of the terminal, or of the file in its place."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from minicnn.errors import visible

PROGRAM = """
import sys, tempfile, os, numpy as np, minicnn
from PIL import Image
from minicnn.callbacks import BackupAndRestore, EarlyStopping, ModelCheckpoint, ReduceLROnPlateau
from minicnn.gradcheck import check_layer
from minicnn.layers import Conv2D, Dense, Flatten, Input
from minicnn.preprocessing.image import image_dataset_from_directory

m = minicnn.Sequential([Input((8, 8, 1)), Conv2D(2, 3, activation="relu"), Flatten(), Dense(2, activation="softmax")],
                       name="Zürich")
m.class_names = ["cat 🐱", "日本"]
m.compile("adam", "sparse_categorical_crossentropy")
x, y = np.random.default_rng(0).random((40, 8, 8, 1)), np.arange(40) % 2
m.summary(), m.summary(details=True)
t = m.trace(x[:4], y[:4])
for what, index in (("y", (0, 1, 1, 1)), ("dw", (0, 1, 0, 1)), ("update", (0, 1, 0, 1)), ("dx", (0, 1, 1, 0))):
    print(t.explain("conv2d_1", what, index))
print(m.diagnose(x, y), check_layer(Conv2D(2, 3, activation="gelu"), (5, 5, 2)))
folder = os.path.join(tempfile.mkdtemp(), "größe ☃")
with minicnn.profile() as p:
    m.fit(x, y, epochs=3, verbose=2, validation_data=(x, y), callbacks=[
        ModelCheckpoint(folder + "/{epoch}.zip", verbose=1), EarlyStopping(patience=1, verbose=1),
        ReduceLROnPlateau(patience=1, verbose=1), BackupAndRestore(folder)])
print(p)
for name in m.class_names:
    os.makedirs(f"{folder}/images/{name}")
    Image.new("RGB", (8, 8)).save(f"{folder}/images/{name}/ö.png")
image_dataset_from_directory(folder + "/images", image_size=(8, 8))
"""


@pytest.mark.parametrize("encoding", ["cp1252", "cp932", "ascii"])
def test_all_that_the_library_prints_in_old_encodings(encoding):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": encoding}
    program = "import warnings; warnings.simplefilter('ignore')\n" + PROGRAM
    done = subprocess.run([sys.executable, "-X", "utf8=0", "-c", program], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(encoding, "replace")[-2000:]
    assert b"Found 2 images" in done.stdout


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "3 × 4 · ü 日 🐱"),
        ("cp1252", "3 × 4 · ü ? ?"),
        ("ascii", "3 x 4 * ? ? ?"),
        ("cp932", "3 × 4 * ? 日 ?"),
    ],
)
def test_what_an_output_lacks_is_replaced(monkeypatch, encoding, shown):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert visible("3 × 4 · ü 日 🐱") == shown
    assert visible("\x1b[2J") == "\\x1b[2J"


def test_without_an_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert visible("日") == "日"
