"""summary(): the documents' CIFAR-10 network to the last number, and the columns on request."""

from __future__ import annotations

import re

import pytest

from minicnn.constraints import maxnorm
from minicnn.errors import InputError
from minicnn.layers import Activation, BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input, MaxPooling2D
from minicnn.models import Sequential
from minicnn.summary import trainable_params


def documents_cnn() -> Sequential:
    model = Sequential()

    def block(layer, pool=False):
        model.add(layer)
        model.add(Activation("relu"))
        if pool:
            model.add(MaxPooling2D(pool_size=(2, 2)))
        model.add(Dropout(0.2))
        model.add(BatchNormalization())

    block(Conv2D(32, (3, 3), input_shape=(32, 32, 3), padding="same"))
    block(Conv2D(64, (3, 3), padding="same"), pool=True)
    block(Conv2D(64, (3, 3), padding="same"), pool=True)
    block(Conv2D(128, (3, 3), padding="same"))
    model.add(Flatten())
    model.add(Dropout(0.2))
    block(Dense(256, kernel_constraint=maxnorm(3)))
    block(Dense(128, kernel_constraint=maxnorm(3)))
    model.add(Dense(10))
    model.add(Activation("softmax"))
    return model


ROWS = """
conv2d_1 (Conv2D) | (None, 32, 32, 32) | 896
activation_1 (Activation) | (None, 32, 32, 32) | 0
dropout_1 (Dropout) | (None, 32, 32, 32) | 0
batch_normalization_1 (BatchNormalization) | (None, 32, 32, 32) | 128
conv2d_2 (Conv2D) | (None, 32, 32, 64) | 18,496
activation_2 (Activation) | (None, 32, 32, 64) | 0
max_pooling2d_1 (MaxPooling2D) | (None, 16, 16, 64) | 0
dropout_2 (Dropout) | (None, 16, 16, 64) | 0
batch_normalization_2 (BatchNormalization) | (None, 16, 16, 64) | 256
conv2d_3 (Conv2D) | (None, 16, 16, 64) | 36,928
activation_3 (Activation) | (None, 16, 16, 64) | 0
max_pooling2d_2 (MaxPooling2D) | (None, 8, 8, 64) | 0
dropout_3 (Dropout) | (None, 8, 8, 64) | 0
batch_normalization_3 (BatchNormalization) | (None, 8, 8, 64) | 256
conv2d_4 (Conv2D) | (None, 8, 8, 128) | 73,856
activation_4 (Activation) | (None, 8, 8, 128) | 0
dropout_4 (Dropout) | (None, 8, 8, 128) | 0
batch_normalization_4 (BatchNormalization) | (None, 8, 8, 128) | 512
flatten_1 (Flatten) | (None, 8192) | 0
dropout_5 (Dropout) | (None, 8192) | 0
dense_1 (Dense) | (None, 256) | 2,097,408
activation_5 (Activation) | (None, 256) | 0
dropout_6 (Dropout) | (None, 256) | 0
batch_normalization_5 (BatchNormalization) | (None, 256) | 1,024
dense_2 (Dense) | (None, 128) | 32,896
activation_6 (Activation) | (None, 128) | 0
dropout_7 (Dropout) | (None, 128) | 0
batch_normalization_6 (BatchNormalization) | (None, 128) | 512
dense_3 (Dense) | (None, 10) | 1,290
activation_7 (Activation) | (None, 10) | 0
""".strip().splitlines()


def printed(model: Sequential, **options) -> list[str]:
    lines: list[str] = []
    model.summary(print_fn=lines.append, **options)
    return lines


def cells(lines: list[str]) -> list[list[str]]:
    """The rows of the table; a shape's commas stay, the frame goes."""
    rows = [re.split("[│┃|]", line)[1:-1] for line in lines if line[0] in "│┃|"]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_documents_network_row_by_row():
    lines = printed(documents_cnn())
    header, *rows = cells(lines)
    assert header == ["Layer (type)", "Output Shape", "Param #"]
    assert [" | ".join(row) for row in rows] == ROWS
    assert lines[0] == 'Model: "sequential"'
    assert lines[-3:] == [
        " Total params: 2,264,458 (8.64 MB)",
        " Trainable params: 2,263,114 (8.63 MB)",
        " Non-trainable params: 1,344 (5.25 KB)",
    ]


def test_the_table_is_a_rectangle():
    table = [line for line in printed(documents_cnn()) if line[0] in "┏┃┡│├└"]
    assert len({len(line) for line in table}) == 1
    assert len(table) == 3 + 2 * len(ROWS)


def test_details_count_the_work_and_the_memory():
    lines = printed(documents_cnn(), details=True)
    header, first, *rows = cells(lines)
    assert header[3:] == ["MACs", "Output bytes", "im2col bytes", "Convolution by"]
    assert first[3:] == [f"{32 * 32 * 32 * 27:,}", f"{32 * 32 * 32 * 4:,}", f"{32 * 32 * 27 * 4:,}", "im2col"]
    assert [row[6] for row in rows if "(Conv2D)" in row[0]] == ["winograd"] * 3
    total = sum(int(row[3].replace(",", "")) for row in (first, *rows))
    assert lines[-1] == f" MACs of one sample: {total:,}"
    assert rows[-2][0] == "dense_3 (Dense)" and rows[-2][3:] == ["1,280", "40", "0", ""]


def test_details_show_how_the_counts_come_about():
    model = Sequential([
        Input((8, 6, 2)), Conv2D(4, (3, 2)), BatchNormalization(), Dense(5, use_bias=False), Flatten(), Dense(3)
    ])  # fmt: skip
    lines = printed(model, details=True)
    formulas = [line.strip() for line in lines if "parameters" in line]
    assert formulas == [
        "conv2d_1: 3·2·2·4 + 4 = 52 parameters; 6·5 · 3·2·2·4 = 1,440 MACs",
        "batch_normalization_1: 4 + 4 + 4 + 4 = 16 parameters",
        "dense_1: 4·5 = 20 parameters; 6·5 · 4·5 = 600 MACs",
        "dense_2: 150·3 + 3 = 453 parameters; 150·3 = 450 MACs",
    ]
    for line in formulas:
        for left, right in re.findall(r"([\d·+ ]+) = ([\d,]+)", line):
            assert eval(left.replace("·", "*")) == int(right.replace(",", ""))
    assert any("multiply-accumulates" in line for line in lines)
    assert "multiply-accumulates" not in "".join(printed(model))


def test_frozen_layers_do_not_count_as_trainable():
    model = documents_cnn()
    model.layers[0].trainable = False
    assert trainable_params(model) == 2_263_114 - 896
    model.trainable = False
    assert " Trainable params: 0 (0.00 B)" in printed(model)


def test_an_inner_model_is_one_row():
    inner = Sequential([Conv2D(4, 3), Conv2D(4, 3), Flatten()], name="features")
    model = Sequential([Input((8, 8, 1)), inner, Dense(2)])
    row = cells(printed(model, details=True))[1]
    macs, im2col = 36 * 9 * 4 + 16 * 36 * 4, 4 * (36 * 9 + 16 * 36)
    assert row == ["features (Sequential)", "(None, 64)", "188", f"{macs:,}", "256", f"{im2col:,}", ""]


def test_a_terminal_that_knows_no_boxes_gets_plain_signs(monkeypatch):
    import io
    import sys

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    documents_cnn().summary()
    sys.stdout.flush()
    text = raw.getvalue().decode("ascii")
    assert "conv2d_1 (Conv2D)" in text and "+---" in text


def test_a_model_that_is_not_built_says_so():
    with pytest.raises(InputError, match="has not been built") as caught:
        Sequential([Dense(3)]).summary()
    assert "Input(" in caught.value.fix
