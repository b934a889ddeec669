"""Every algorithm for convolution against the same oracle, by the same checks, over the same shapes."""

from functools import partial

import numpy as np
import pytest
from helpers import assert_adjoint, assert_same, check_conv2d, noncontiguous, random
from test_kernels_conv import CASES, arrays

from minicnn.backend import current_device, serves
from minicnn.errors import InputError, UnknownNameError
from minicnn.kernels import conv2d_backward, conv2d_forward, conv_im2col, conv_winograd
from minicnn.kernels.conv_choice import ALGORITHMS, WINOGRAD_CHANNELS, choose
from minicnn.kernels.geometry import Windows
from minicnn.layers import Conv2D, Dense, Flatten, Input, ReLU
from minicnn.models import Sequential

# Beyond the common grid: sizes that neither tile of Winograd divides, and a border wider than 1.
WINOGRAD_CASES = [
    ((2, 9, 7, 3), (3, 3), {"padding": "same"}),
    ((1, 13, 6, 2), (3, 3), {}),
    ((3, 8, 8, 2), (3, 3), {"padding": "same"}),
    ((1, 5, 9, 2), (3, 3), {"padding": ((2, 0), (1, 2))}),
    ((1, 2, 2, 2), (3, 3), {"padding": "same"}),
    ((1, 3, 3, 1), (3, 3), {}),
    ((2, 5, 4, 1), (3, 3), {"padding": ((3, 0), (0, 4))}),  # a border wider than the kernel
]


def windows(x, w, geometry):
    return Windows.of(x.shape, w.shape[:2], **{"stride": 1, "padding": "valid", **geometry})


def refuses_here(algorithm):
    """A word of the error where this algorithm does not compute on the device of the test at all, else None."""
    here = current_device()
    if algorithm == "loops" and here != "cpu":
        return "plain Python"
    if algorithm == "implicit" and (here == "cpu" or not serves(here.xp.zeros(1))):
        return "NVIDIA"
    return None


def on_grid(cases):
    return pytest.mark.parametrize(
        ("shape", "kernel", "geometry"), cases, ids=[f"{case}".replace(" ", "") for case in cases]
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("algorithm", ["auto", "shifted", "winograd", "fft", "implicit", "loops"])
@on_grid(CASES)
def test_every_algorithm_is_the_convolution(shape, kernel, geometry, algorithm, dtype):
    x, w, b = arrays(shape, kernel, dtype)
    by = {"algorithm": algorithm}
    if refuses_here(algorithm):
        with pytest.raises(InputError, match=refuses_here(algorithm)):
            conv2d_forward(x, w, b, **geometry, **by)
        return
    if algorithm != "auto" and not ALGORITHMS[algorithm].can(windows(x, w, geometry)):
        with pytest.raises(InputError, match="3×3, stride 1"):
            conv2d_forward(x, w, b, **geometry, **by)
        return
    check_conv2d(partial(conv2d_forward, **by), partial(conv2d_backward, **by), x, w, b, **geometry)


@pytest.mark.parametrize("m", [2, 4])
@on_grid(WINOGRAD_CASES)
def test_both_tiles_of_winograd(shape, kernel, geometry, m, monkeypatch):
    monkeypatch.setattr(conv_winograd, "tile_size", lambda windows: m)
    x, w, b = (noncontiguous(a) for a in arrays(shape, kernel))
    by = {"algorithm": "winograd"}
    check_conv2d(partial(conv2d_forward, **by), partial(conv2d_backward, **by), x, w, b, **geometry)


@pytest.mark.parametrize("algorithm", ["shifted", "winograd", "fft"])
@on_grid(WINOGRAD_CASES)
def test_the_backward_maps_are_adjoint_to_the_forward_map(shape, kernel, geometry, algorithm):
    x, w, _ = arrays(shape, kernel)
    how, by = windows(x, w, geometry), ALGORITHMS[algorithm]
    y_shape = by.forward(x, w, None, how).shape
    assert_adjoint(lambda x: by.forward(x, w, None, how), lambda dy: by.backward(dy, x, w, how, True)[0], x, y_shape)
    assert_adjoint(lambda w: by.forward(x, w, None, how), lambda dy: by.backward(dy, x, w, how, True)[1], w, y_shape)


@pytest.mark.parametrize("v_bytes", [1, 5_000, 50_000])
@pytest.mark.parametrize("m", [2, 4])
def test_winograd_in_pieces_is_winograd_at_once(v_bytes, m, monkeypatch):
    """From one row of tiles a piece to several images a piece, with a smaller one at the end."""
    x, w, b = random((5, 13, 9, 3), 1), random((3, 3, 3, 2), 2), random((2,), 3)
    how = windows(x, w, {"padding": "same"})
    dy = random((5, 13, 9, 2), 4)
    monkeypatch.setattr(conv_winograd, "V_BYTES", v_bytes)
    assert_same(conv_winograd.forward(x, w, b, how, m), conv_im2col.forward(x, w, b, how), 1e-12)
    expected = conv_im2col.backward(dy, x, w, how, True)
    for ours, theirs in zip(conv_winograd.backward(dy, x, w, how, True, m), expected, strict=True):
        assert_same(ours, theirs, 1e-12)


@pytest.mark.parametrize(("m", "tolerance"), [(2, 2e-6), (4, 2e-5)])
def test_what_winograd_costs_in_float32(m, tolerance):
    x, w = random((2, 16, 16, 64), 1, np.float32), random((3, 3, 64, 64), 2, np.float32)
    how = windows(x, w, {"padding": "same"})
    exact = conv_im2col.forward(x.astype(np.float64), w.astype(np.float64), None, how)
    error = np.abs(conv_winograd.forward(x, w, None, how, m) - exact).max() / np.abs(exact).max()
    assert error < tolerance


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("columns", [1, 7, 24])
def test_long_rows_are_cut_for_blas_and_come_out_the_same(m, columns, monkeypatch):
    """With rests that are shorter, and without."""
    x, w, b = arrays((3, 9, 7, 3), (3, 3))
    how, dy = windows(x, w, {"padding": "same"}), random((3, 9, 7, w.shape[3]), 9)
    whole = (conv_winograd.forward(x, w, b, how, m), *conv_winograd.backward(dy, x, w, how, True, m))
    monkeypatch.setattr(conv_winograd, "SMALL_PRODUCT", 0)
    monkeypatch.setattr(conv_winograd, "COLUMNS", columns)
    cut = (conv_winograd.forward(x, w, b, how, m), *conv_winograd.backward(dy, x, w, how, True, m))
    for ours, theirs in zip(cut, whole, strict=True):
        assert_same(ours, theirs, 1e-12)


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_wrong_number_in_a_winograd_matrix_is_rejected(m, which, monkeypatch):
    """Negative control: one sign of one matrix turned."""
    matrices = [[list(row) for row in matrix] for matrix in conv_winograd.MATRICES[m]]
    matrices[which][1][1] *= -1
    monkeypatch.setitem(conv_winograd.MATRICES, m, tuple(matrices))
    conv_winograd._matrices.cache_clear()
    try:
        x, w, b = arrays((2, 9, 7, 3), (3, 3))
        how = windows(x, w, {})
        with pytest.raises(AssertionError):
            assert_same(conv_winograd.forward(x, w, b, how, m), conv_im2col.forward(x, w, b, how), 1e-6)
    finally:
        conv_winograd._matrices.cache_clear()


def test_results_are_fresh_arrays_and_not_scratch_memory():
    x, w = random((2, 8, 8, 2), 1), random((3, 3, 2, 3), 2)
    for name, by in ALGORITHMS.items():
        if refuses_here(name):
            continue
        how = windows(x, w, {"padding": "same"})
        y = by.forward(x, w, None, how)
        results = (y, *by.backward(y, x, w, how, True))
        before = [a.copy() for a in results]
        by.forward(2 * x, w, None, how)
        by.backward(3 * y, 2 * x, w, how, True)
        for ours, theirs in zip(results, before, strict=True):
            assert_same(ours, theirs, 0)


@pytest.mark.cpu
def test_auto_says_what_it_picks_and_why():
    def pick(n, size, c_in, c_out, kernel=3, stride=1):
        return choose(n, c_in, c_out, Windows.of((n, size, size, c_in), kernel, stride, "same"))

    enough = WINOGRAD_CHANNELS
    assert pick(32, 32, enough, enough)[0] == "winograd"
    assert pick(32, 32, 3, enough)[0] == "im2col"
    assert "3 channels in" in pick(32, 32, 3, enough)[1]
    assert pick(32, 32, enough, enough, stride=2)[0] == "im2col"
    assert pick(1, 4, enough, enough)[0] == "im2col"
    assert "1 tiles" in pick(1, 4, enough, enough)[1]
    assert pick(8, 40, 16, 16, kernel=21)[0] == "fft"


def test_the_layer_and_the_model_take_an_algorithm():
    x = random((2, 6, 6, 3), 1, np.float32)
    model = Sequential([Input((6, 6, 3)), Conv2D(4, 3), Conv2D(4, 2, algorithm="shifted"), Flatten()])
    first, second = model.layers[:2]
    assert first.algorithm == "auto" and second.get_config()["algorithm"] == "shifted"
    expected = model.predict(x, verbose=0)
    for name in ("im2col", "winograd", "fft", "shifted", "implicit", "loops", "auto"):
        if refuses_here(name):
            continue
        model.set_algorithm(name)
        assert first.algorithm == name
        assert second.algorithm == ("auto" if name == "winograd" else name)  # a kernel of 2×2
        np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)
    assert first.choice((6, 6, 3)) == choose(32, 3, 4, Windows.of((32, 6, 6, 3), 3, 1, "valid"))


@pytest.mark.cpu
def test_what_cannot_be_is_refused_when_the_model_is_built():
    with pytest.raises(UnknownNameError, match="winograd"):
        Conv2D(4, 3, algorithm="winogard")
    for wrong in ([1], {}, None, 3):
        with pytest.raises(InputError, match="unknown name"):
            Conv2D(4, 3, algorithm=wrong)
    with pytest.raises(InputError, match='algorithm="auto"'):
        Sequential([Input((8, 8, 3)), Conv2D(4, 3, strides=2, algorithm="winograd")])
    with pytest.raises(InputError, match="not been built"):
        Sequential([Conv2D(4, 3)]).set_algorithm("im2col")


@pytest.mark.cpu
def test_a_kernel_for_a_gpu_is_refused_on_the_cpu():
    """Whether alone or in a plan, in training or prediction: before a weight has changed."""
    model = Sequential([Input((8, 8, 3)), Conv2D(4, 3, algorithm="implicit"), ReLU(), Flatten(), Dense(2)])
    model.compile("sgd", "mse")
    x, before = random((4, 8, 8, 3), 1, np.float32), model.get_weights()
    for use in (lambda: model.fit(x, np.zeros((4, 2)), verbose=0), lambda: model.predict(x, verbose=0)):
        with pytest.raises(InputError, match="the algorithm 'implicit' is a kernel for NVIDIA's GPUs") as error:
            use()
        assert all(part in str(error.value) for part in ("Expected: ", "float32 on the CPU.", 'set_algorithm("auto")'))
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    model.set_algorithm("auto")
    model.predict(x, verbose=0)


def test_the_same_bytes_from_two_threads():
    """Scratch memory belongs to the thread."""
    from concurrent.futures import ThreadPoolExecutor

    x, w = random((4, 16, 16, 32), 1, np.float32), random((3, 3, 32, 32), 2, np.float32)

    def work(k):
        return conv2d_forward((k + 1) * x, w, None, 1, "same", algorithm="winograd")

    alone = [work(k) for k in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for y, expected in zip(pool.map(work, range(4)), alone, strict=True):
            np.testing.assert_array_equal(y, expected)
