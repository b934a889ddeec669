"""The steps of the course: one entry each. Everything else (files, checks, hints, list) is made from this table.

A step has one part or several; a part is one function that the learner writes. It is cut out of the source, so all that
is said here is what the source does not say:

    function   its name in `module`, the reference implementation
    case       the worked case: arguments of small whole numbers
    draw       arguments of one random geometry, from a random generator
    outputs    what it returns, by name
    gradient   the gradient check: function -> (forward, backward, inputs) for minicnn.gradcheck.check_function
    plug       how it takes its place in the framework (minicnn/course/plug.py)
    fast       the kernel that does the same in the framework, to be read afterwards
    hints      two sentences; the third grade of hint is made from the source
    demand     what else is asked of it: a sentence that says how it fails, or ""
    slips      well-known bugs: (text in the source, what a slip makes of it, the sentence that names the bug)

A slip whose text is no longer in the source is silently left out by the grader; a test complains.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minicnn.course import cases, plug
from minicnn.course.cases import Arguments, Rng, array, image, kernel
from minicnn.kernels import reference as r


class Slip(NamedTuple):
    """A well-known bug: `old` in the source becomes `new`."""

    old: str
    new: str
    says: str


@dataclass(frozen=True)
class Part:
    """One function to write. See above."""

    function: str
    case: Callable[[], Arguments]
    draw: Callable[[Rng], Arguments]
    outputs: tuple[str, ...]
    hints: tuple[str, str]
    fast: str
    plug: Callable[[Callable[..., Any]], plug.Plug]
    gradient: Callable[[Callable[..., Any]], tuple[Callable[..., Any], Callable[..., Any], Arguments]] | None = None
    slips: tuple[Slip, ...] = ()
    demand: Callable[[Callable[..., Any]], str] = lambda f: ""
    module: str = "minicnn.kernels.reference"


@dataclass(frozen=True)
class Step:
    """A step of the course. minutes: what it takes. why: what it is good for, in a sentence or two."""

    name: str
    title: str
    minutes: int
    why: str
    parts: tuple[Part, ...]


# ---- the steps -------------------------------------------------------------------------------------------------------

_NO_DILATION = "the cells of the window lie `dilation` apart: multiply kh and kw by it."
_STRIDE = "output (oh, ow) starts at (oh * stride, ow * stride): the stride is left out."

_OUTPUT_SIZE = Step(
    "output-size", "how many windows fit", 10,
    "Every layer that slides a window needs to know how large its output is. It is also the first thing to look at "
    "when shapes do not fit.",
    (
        Part(
            "output_length",
            lambda: {"length": 6, "kernel": 3, "stride": 2, "dilation": 1, "lo": 0, "hi": 1},
            cases.draw_length,
            ("count",),
            (
                "Draw the axis on paper: lo cells, length cells, hi cells. Lay the window at 0, stride, 2 * stride, … "
                "and count how often its last cell is still on the paper.",
                "The last cell of a window that starts at s is s + (kernel - 1) * dilation. It must be less than lo + "
                "length + hi. Count in a loop, or divide with // and think about the + 1.",
            ),
            "minicnn.kernels.geometry.output_size",
            plug.output_length,
            slips=(
                Slip("(kernel - 1) * dilation <", "kernel * dilation <",
                     "the last cell of a window is (kernel - 1) * dilation after its first, not kernel * dilation."),
                Slip("return count", "return (lo + length + hi - kernel * dilation) // stride + 1",
                     "from its first to its last cell the window is (kernel - 1) * dilation + 1 cells long, not kernel "
                     "* dilation."),
                Slip("dilation < lo", "dilation <= lo", "one window too many: the last cell must lie inside, so `<`."),
                Slip("start + stride, count + 1", "start + 1, count + 1", _STRIDE),
                Slip("(kernel - 1) * dilation", "kernel - 1",
                     "the dilation is left out: the window is (kernel - 1) * dilation + 1 cells long."),
                Slip("lo + length + hi", "length", "the padding is left out: lo and hi cells belong to the axis."),
                Slip("lo + length + hi", "lo + length",
                     "only the padding before the axis is counted, not `hi` after it."),
                Slip("return count", "return count - 1",
                     "one window is missing: the first one, at 0, counts, too (the + 1 of the formula)."),
            ),
        ),
    ),
)  # fmt: skip

_PADDING = Step(
    "padding", "padding=\"same\"", 10,
    "\"same\" padding keeps an image's size with stride 1. With even sizes and strides the two sides differ by a cell, "
    "and frameworks disagree: here the odd cell goes after, as in Keras.",
    (
        Part(
            "same_padding",
            lambda: {"length": 6, "kernel": 3, "stride": 2, "dilation": 1},
            cases.axis,
            ("padding",),
            (
                "First how many windows there shall be: length / stride, rounded up. Then where the last one ends. "
                "What is missing to there is the padding of both sides together.",
                "The last window starts at (windows - 1) * stride and reaches over (kernel - 1) * dilation + 1 cells. "
                "missing = that end - length, but never below 0. Half of it (//) before, the rest after.",
            ),
            "minicnn.kernels.geometry._same",
            plug.same_padding,
            slips=(
                Slip("return missing // 2, missing - missing // 2", "return kernel // 2, kernel // 2",
                     "half a kernel on each side: that is right for odd kernels with stride 1 only."),
                Slip("return missing // 2, missing - missing // 2", "return missing - missing // 2, missing // 2",
                     "the odd cell is before the axis; in Keras it goes after (PyTorch pads both sides alike)."),
                Slip("return missing // 2, missing - missing // 2", "return missing // 2, missing // 2",
                     "where the missing cells are odd, one is lost: the second half is missing - missing // 2."),
                Slip("max(reach - length, 0)", "reach - length",
                     "a window that ends early needs no padding: never less than 0."),
                Slip("math.ceil(length / stride)", "length // stride",
                     "the number of windows is rounded down; it must be rounded up."),
                Slip("(windows - 1) * stride", "windows * stride",
                     "the first window starts at 0, so the last one starts at (windows - 1) * stride."),
                Slip("(kernel - 1) * dilation", "kernel - 1", "the dilation is left out."),
                Slip("missing = max(reach - length, 0)", "missing = (kernel - 1) * dilation",
                     "that is right for stride 1 only: with a stride, less is missing."),
            ),
        ),
    ),
)  # fmt: skip

_CONVOLUTION = Step(
    "convolution", "convolution in loops", 25,
    "One number at a time, nothing hidden: all that follows (im2col, Winograd) computes the same numbers faster. In "
    "deep learning the filter is not turned round, so strictly this is a cross-correlation.",
    (
        Part(
            "conv2d_forward",
            lambda: {"x": image([1, 2, 0], [0, 1, 3], [2, 1, 1]), "w": kernel([1, 0], [2, -1]),
                     "b": array(1), "stride": 1, "padding": "valid", "dilation": 1},
            cases.draw_conv,
            ("y",),
            (
                "Pad x, then four loops over the outputs (n, oh, ow, f). For each, a sum over the window (kh, kw, c), "
                "which starts with the bias of f, or with 0 where b is None.",
                "y[n, oh, ow, f] = b[f] + sum of padded[n, oh * sh + kh * dilation_h, ow * sw + kw * dilation_w, c] * "
                "w[kh, kw, c, f]. resolve_padding, output_size and pad give you the sizes; np.ndindex(a, b, c) writes "
                "nested loops in one line.",
            ),
            "minicnn.kernels.conv_im2col.forward",
            plug.conv2d_forward,
            cases.check_conv_forward,
            (
                Slip("w[kh, kw, c, f]", "w[KH - 1 - kh, KW - 1 - kw, c, f]",
                     "the filter is turned by 180 degrees: in deep learning it is not."),
                Slip("x_padded[n, oh * sh + kh", "x_padded[n, oh + kh", _STRIDE),
                Slip("oh * sh + kh * dil_h, ow * sw + kw * dil_w", "oh * sh + kh, ow * sw + kw", _NO_DILATION),
                Slip("0.0 if b is None else float(b[f])", "0.0", "the bias is left out: each sum starts with b[f]."),
                Slip("total += x_padded", "total = x_padded",
                     "each product replaces the sum: `+=` and not `=`."),
                Slip("np.ndindex(KH, KW, C)", "np.ndindex(KH, KW, 1)",
                     "only the first channel is read: the sum goes over all channels of the window, too."),
                Slip("oh * sh + kh * dil_h, ow * sw + kw * dil_w", "ow * sw + kw * dil_w, oh * sh + kh * dil_h",
                     "rows and columns are swapped: the height comes first."),
            ),
        ),
    ),
)  # fmt: skip

_RELU = Step(
    "relu", "ReLU and its backward pass", 10,
    "The simplest activation, and the first backward pass. dy is the gradient of the loss with respect to y; a "
    "backward pass turns it into dx, the gradient with respect to x.",
    (
        Part(
            "relu_forward",
            lambda: {"x": array([3, -2], [0, 5])},
            lambda rng: {"x": cases.numbers(rng, 2, int(rng.integers(1, 5)))},
            ("y",),
            (
                "Look at each number alone: what becomes of 3, of -2, of 0? Make a new array; x belongs to the caller.",
                "Start with np.zeros of x's shape and dtype, and copy what is positive; or let np.maximum do it.",
            ),
            "minicnn.kernels.activations.relu_forward",
            plug.relu_forward,
            lambda f: cases.check_relu(f, r.relu_backward),
            (
                Slip("if x[index] > 0", "if x[index] < 0", "the negative numbers stay and the positive ones are lost."),
                Slip("y[index] = x[index]", "y[index] = 1", "that is the slope (0 or 1); y is the number itself."),
                Slip("if x[index] > 0:\n            y[index] = x[index]", "y[index] = abs(x[index])",
                     "negative numbers lose their sign; they shall become 0."),
                Slip("y = np.zeros(x.shape, dtype=x.dtype)", "y = 0.01 * x",
                     "that is a leaky ReLU: here negative numbers become 0."),
            ),
        ),
        Part(
            "relu_backward",
            lambda: {"dy": array([10, 20], [30, 40]), "y": array([3, 0], [0, 5])},
            cases.draw_relu_backward,
            ("dx",),
            (
                "Where y moved along with x, dy is handed on; where y stayed 0, a small change of x changed nothing.",
                "dx = dy * slope, and the slope is 1 where y > 0, else 0. A product with (y > 0) does it, but mind the "
                "dtype, and do not write into dy.",
            ),
            "minicnn.kernels.activations.relu_backward",
            plug.relu_backward,
            lambda f: cases.check_relu(r.relu_forward, f),
            (
                Slip("if y[index] > 0", "if y[index] >= 0",
                     "at the kink, y = 0, the slope is taken as 0: `>` and not `>=`. (y is never negative: so this "
                     "hands on everything.)"),
                Slip("if y[index] > 0", "if dy[index] > 0", "it looks at the sign of dy; the slope depends on y."),
                Slip("dx[index] = dy[index]", "dx[index] = 1", "that is the slope alone: it must be multiplied by dy."),
                Slip("dx[index] = dy[index]", "dx[index] = dy[index] * y[index]",
                     "dy is multiplied by y; the slope of ReLU is 1 or 0."),
            ),
        ),
    ),
)  # fmt: skip

_DENSE = Step(
    "dense", "the dense layer and its backward pass", 15,
    "Every output is a weighted sum of all inputs. Its backward pass is the model for all others: each product hands "
    "dy to both of its factors.",
    (
        Part(
            "dense_forward",
            lambda: {"x": array([1, 2], [3, 0]), "w": array([1, 0, 2], [0, 1, -1]), "b": array(10, 20, 30)},
            cases.draw_dense,
            ("y",),
            (
                "Row n of y belongs to sample n, column o to output o: a sum over the inputs, plus b[o].",
                "In NumPy that is a matrix product: x @ w; then add b, if there is one.",
            ),
            "minicnn.kernels.dense.dense_forward",
            plug.dense_forward,
            lambda f: cases.check_dense(f, r.dense_backward),
            (
                Slip("0.0 if b is None else float(b[o])", "0.0", "the bias is left out."),
                Slip("total += float", "total = float", "each product replaces the sum: `+=` and not `=`."),
                Slip("else float(b[o])", "else float(b[0])", "all outputs get the first bias."),
            ),
        ),
        Part(
            "dense_backward",
            lambda: {"dy": array([1, 0, 2], [0, 1, 1]), "x": array([1, 2], [3, 0]),
                     "w": array([1, 0, 2], [0, 1, -1])},
            cases.draw_dense_backward,
            ("dx", "dw", "db"),
            (
                "y = x @ w + b. Each product x[n, i] * w[i, o] hands dy[n, o] to both of its factors: times w to x, "
                "times x to w. b is only added: it gets dy itself.",
                "dx = dy @ w.T, dw = x.T @ dy, db = the sum of dy's rows. Check the shapes: they can only be "
                "multiplied in one way. With further axes, first reshape x and dy to rows.",
            ),
            "minicnn.kernels.dense.dense_backward",
            plug.dense_backward,
            lambda f: cases.check_dense(r.dense_forward, f),
            (
                Slip("db[o] += g", "db[o] = g",
                     "db is that of the last sample alone: samples add up, `+=` and not `=`."),
                Slip("dw[i, o] += g * x[(*n, i)]", "dw[i, o] = g * x[(*n, i)]",
                     "dw is that of the last sample alone: samples add up, `+=` and not `=`."),
                Slip("dx[(*n, i)] += g * w[i, o]", "dx[(*n, i)] = g * w[i, o]",
                     "dx is the share of the last output alone: an input reaches all outputs, and their shares add "
                     "up."),
                Slip("dw.astype(w.dtype)", "(dw / len(x)).astype(w.dtype)",
                     "dw is divided by the batch size: that division belongs to the loss, and dy already holds it."),
                Slip("db.astype(w.dtype)", "(db / len(x)).astype(w.dtype)",
                     "db is divided by the batch size: that division belongs to the loss, and dy already holds it."),
                Slip("g * w[i, o]", "g * x[(*n, i)]", "dx must be dy times w: each factor gets the other one."),
            ),
        ),
    ),
)  # fmt: skip

_SOFTMAX = Step(
    "softmax", "softmax and cross-entropy", 15,
    "Softmax turns the last layer's numbers (logits) into probabilities; cross-entropy says how surprising the truth "
    "is to them. Both overflow if they are written as in the textbook.",
    (
        Part(
            "softmax_forward",
            lambda: {"x": array([0, 0], [5, 5], [1000, 0])},
            lambda rng: {"x": cases.draw_logits(rng)},
            ("y",),
            (
                "e^1000 is too large for a computer. What happens to the fraction if every number of a row becomes "
                "smaller by the same amount?",
                "Subtract the row's maximum, take np.exp, divide by the row's sum: keepdims=True keeps the shapes "
                "fitting. Rows lie along the last axis.",
            ),
            "minicnn.kernels.softmax.softmax_forward",
            plug.softmax_forward,
            lambda f: cases.check_softmax(f, r.softmax_backward),
            (
                Slip("math.exp(v - max(row))", "float(np.exp(np.float64(v)))",
                     "e^x overflows for large x: subtract the row's largest number first."),
                Slip("return y", "return (np.exp(x - x.max(0)) / np.exp(x - x.max(0)).sum(0)).astype(x.dtype)",
                     "the columns sum to 1 instead of the rows: the classes lie along the last axis, axis=-1."),
                Slip("power / sum(powers)", "power", "the numbers of a row do not sum to 1: divide by their sum."),
                Slip("math.exp(v - max(row))", "np.exp(v - x.max())",
                     "the largest number of the whole batch is subtracted: rows far below it become 0 / 0; take each "
                     "row's own."),
            ),
        ),
        Part(
            "softmax_cross_entropy_forward",
            lambda: {"logits": array([0, 0, 0, 0], [0, 1000, 0, 0]), "target": np.array([2, 0])},
            cases.draw_cross_entropy,
            ("loss",),
            (
                "For a label k the loss is -log(p[k]). But p may have become 0, whose log is infinite: log_softmax "
                "gives the log without taking p first.",
                "log_p = log_softmax(logits), (N, K). A label is a distribution with a single 1 (as_probabilities). "
                "loss[n] = - sum over k of target[n, k] * log_p[n, k]: one loss a sample, no mean.",
            ),
            "minicnn.kernels.softmax.softmax_cross_entropy_forward",
            plug.softmax_cross_entropy_forward,
            cases.check_cross_entropy_forward,
            (
                Slip("loss[n] = -sum", "loss[n] = sum", "the sign: a loss is -log p, which is never negative."),
                Slip("return loss", "return loss / len(loss)",
                     "divided by the batch size: here is one loss a sample; the mean is taken later."),
                Slip("return loss", "return loss.mean() * np.ones_like(loss)",
                     "all losses are the mean: one loss a sample is asked for."),
                Slip("return loss", "return loss / np.log(2).astype(loss.dtype)",
                     "the logarithm to the base 2; here it is the natural one, np.log."),
                Slip("log_p = log_softmax(logits.astype(np.float64))",
                     "log_p = np.log(np.maximum(softmax_forward(logits.astype(np.float64)), 1e-7))",
                     "the log of a probability that has become 0, cut off or infinite: use log_softmax."),
            ),
        ),
    ),
)  # fmt: skip

_LOSS_GRADIENT = Step(
    "softmax-backward", "the backward passes of softmax and cross-entropy", 20,
    "Every probability depends on every logit of its row. That looks bad, and becomes the simplest formula of deep "
    "learning once the loss joins in: prediction minus truth.",
    (
        Part(
            "softmax_backward",
            lambda: {"dy": array([4, 0], [1, 3]), "y": array([0.5, 0.5], [0.25, 0.75])},
            cases.draw_softmax_backward,
            ("dx",),
            (
                "The slopes of one row form a K x K matrix: the docstring has its two cases. dx is dy times that "
                "matrix.",
                "dx[j] = sum over i of dy[i] * y[i] * ((i == j) - y[j]). Sorted: dx = y * (dy - sum(dy * y)) for each "
                "row, with the sum over the last axis.",
            ),
            "minicnn.kernels.softmax.softmax_backward",
            plug.softmax_backward,
            lambda f: cases.check_softmax(r.softmax_forward, f),
            (
                Slip("for i in range(K))", "for i in [j])",
                     "only the diagonal of the Jacobian: every output depends on every input of its row."),
                Slip("out[i] * ((i == j) - out[j])", "out[i] * ((i == j) + out[j])",
                     "a sign: raising one input lowers the other outputs."),
                Slip("out[i] * ((i == j) - out[j])", "((i == j) - out[j])", "the factor y_i is missing."),
            ),
        ),
        Part(
            "softmax_cross_entropy_backward",
            lambda: {"logits": array([0, 0], [0, 0]), "target": np.array([1, 0])},
            cases.draw_cross_entropy,
            ("dlogits",),
            (
                "The docstring comes to p_j * (sum of t) - t_j. What is left is to divide by the batch size, since "
                "the loss is the mean over the batch.",
                "p = softmax_forward(logits), t = as_probabilities(target, logits.shape); (p - t) / N, where N is "
                "batch_size, or len(logits) if that is None. If p is given, use it.",
            ),
            "minicnn.kernels.softmax.softmax_cross_entropy_backward",
            plug.softmax_cross_entropy_backward,
            cases.check_cross_entropy_backward,
            (
                Slip(" / (batch_size or len(logits))", "",
                     "the mean over the batch is missing: divide by the batch size N."),
                Slip("/ (batch_size or len(logits))", "/ (batch_size or len(logits)) ** 2",
                     "the mean over the batch is taken twice: divide by N once."),
                Slip("(p[n, k] * float(t[n].sum()) - float(t[n, k]))", "(float(t[n, k]) - p[n, k])",
                     "the sign: prediction minus truth, not truth minus prediction."),
                Slip("/ (batch_size or len(logits))", "/ logits.size",
                     "divided by N * K: the mean is taken over samples, not over classes."),
                Slip(" - float(t[n, k])", "", "the truth is never subtracted."),
            ),
        ),
    ),
)  # fmt: skip

_STEP_RULES = Step(
    "optimizers", "SGD, momentum, Adam", 15,
    "A gradient says which way is down. These three rules say how far to go: a small step; a step that remembers; a "
    "step of about the same size for every weight.",
    (
        Part(
            "sgd_step",
            lambda: {"p": array(10, 20, 30), "g": array(1, -2, 0), "lr": 2.0},
            lambda rng: {**cases.draw_step(rng), "lr": 0.1},
            ("p",),
            (
                "The gradient points to where the loss grows. Go the other way, lr times as far.",
                "p - lr * g, as a new array: `p -= …` would change the caller's.",
            ),
            "minicnn.optimizers.SGD.update",
            plug.sgd_step,
            slips=(
                Slip("p - lr * g", "p + lr * g", "uphill: the gradient points to where the loss grows."),
                Slip("p - lr * g", "p - g", "the learning rate is left out."),
                Slip("p - lr * g", "p * (1 - lr) - lr * g", "the parameters shrink, too: that is weight decay."),
            ),
        ),
        Part(
            "momentum_step",
            lambda: {"p": array(10, 20), "g": array(1, -2), "m": array(4, 4), "lr": 2.0, "momentum": 0.5},
            lambda rng: {**cases.draw_step(rng, "m"), "lr": 0.1, "momentum": 0.9},
            ("p", "m"),
            (
                "m is the last step. The new step is a part of it, and a plain step downhill. Then walk it.",
                "new m = momentum * m - lr * g; new p = p + new m. Return both, in this order.",
            ),
            "minicnn.optimizers.SGD.update",
            plug.momentum_step,
            slips=(
                Slip("momentum * m - lr * g", "momentum * m + lr * g",
                     "the sign of the gradient: a step goes downhill."),
                Slip("return p + m, m", "return p - m, m",
                     "m already points downhill here: it is added (elsewhere m holds gradients and is subtracted)."),
                Slip("momentum * m - lr * g", "momentum * m - (1 - momentum) * lr * g",
                     "1 - momentum does not belong here: that would be a running mean, as in Adam."),
                Slip("return p + m, m", "return p - lr * ((m + lr * g) + g), (m + lr * g) + g",
                     "m holds the sum of gradients; here it holds the step itself, with its sign and lr in it."),
                Slip("return p + m, m", "return p + momentum * m - lr * g, m",
                     "that is Nesterov's form, a look ahead."),
            ),
        ),
        Part(
            "adam_step",
            lambda: {"p": array(10, 20), "g": array(3, -4), "m": array(0, 0), "v": array(0, 0), "t": 1,
                     "lr": 1.0, "beta_1": 0.5, "beta_2": 0.75, "epsilon": 0.0},
            lambda rng: {**cases.draw_step(rng, "m", "v"), "t": int(rng.integers(1, 5)), "lr": 0.1, "beta_1": 0.9,
                         "beta_2": 0.95, "epsilon": 0.001},
            ("p", "m", "v"),
            (
                "Three lines as in the docstring: the running mean, the running square, the step. Only the step is "
                "corrected by alpha.",
                "First the new m and v; then alpha with beta_1**t and beta_2**t; then p - alpha * m / (np.sqrt(v) + "
                "epsilon). Return the new p, m and v.",
            ),
            "minicnn.optimizers.Adam.update",
            plug.adam_step,
            slips=(
                Slip("(np.sqrt(v) + epsilon), m, v", "(np.sqrt(v) + epsilon), m / (1 - beta_1**t), v / (1 - beta_2**t)",
                     "the corrected moments are written back: m and v themselves stay uncorrected."),
                Slip("return p - alpha * m / (np.sqrt(v) + epsilon), m, v",
                     "m, v = m / (1 - beta_1**t), v / (1 - beta_2**t)\n"
                     "    return p - lr * m / (np.sqrt(v) + epsilon), m, v",
                     "the corrected moments are written back: m and v themselves stay uncorrected."),
                Slip("p - alpha * m / (np.sqrt(v) + epsilon)",
                     "p - lr * (m / (1 - beta_1**t)) / (np.sqrt(v / (1 - beta_2**t)) + epsilon)",
                     "that is Adam's other form, in which epsilon is added to the corrected root; here alpha corrects, "
                     "and epsilon is added to sqrt(v) itself."),
                Slip("alpha = lr * math.sqrt(1 - beta_2**t) / (1 - beta_1**t)", "alpha = lr",
                     "the correction is missing: m and v start at 0 and are too small at first."),
                Slip("np.sqrt(v) + epsilon", "np.sqrt(v + epsilon)",
                     "epsilon stands inside the root; it is added after."),
                Slip("(1 - beta_2) * g * g", "(1 - beta_2) * g", "v is the running mean of the square of g."),
                Slip("p - alpha * m / (np.sqrt(v) + epsilon)", "p - alpha * m / (v + epsilon)",
                     "the root of v is left out."),
                Slip("math.sqrt(1 - beta_2**t) / (1 - beta_1**t)", "(1 - beta_1**t) / math.sqrt(1 - beta_2**t)",
                     "the correction is upside down."),
                Slip("math.sqrt(1 - beta_2**t) / (1 - beta_1**t)", "math.sqrt(1 - beta_2) / (1 - beta_1)",
                     "the powers are missing: beta_1**t and beta_2**t, so that the correction fades."),
                Slip("return p - alpha", "return p + alpha", "uphill: a step goes against the gradient."),
            ),
        ),
    ),
)  # fmt: skip

_IM2COL = Step(
    "im2col", "im2col: the windows in rows", 15,
    "Written so, a convolution is one matrix product, which computers do faster than anything else. The price is "
    "memory: with a 3x3 window each pixel is copied about nine times.",
    (
        Part(
            "im2col",
            lambda: {"x": image([1, 2, 3], [4, 5, 6], [7, 8, 9]), "kernel_size": (2, 2), "stride": 1,
                     "padding": "valid", "dilation": 1},
            cases.draw_im2col,
            ("cols",),
            (
                "One row for each output pixel (n, oh, ow), one column for each cell of the window (kh, kw, c), in "
                "this order. It only copies.",
                "Two nested loops over rows and columns, as in `for row, (n, oh, ow) in enumerate(np.ndindex(N, OH, "
                "OW))`. Faster: loop over (kh, kw) alone, and copy a slice padded[:, kh : … : stride, kw : … : stride] "
                "of all images at once.",
            ),
            "minicnn.kernels.im2col.im2col",
            plug.im2col,
            lambda f: (
                lambda x: f(x, (2, 2), padding="same"),
                lambda dy, x: r.col2im(dy, x.shape, (2, 2), padding="same"),
                {"x": cases.X},
            ),
            (
                Slip("np.ndindex(KH, KW, C)", "[(kh, kw, c) for c in range(C) for kh in range(KH) for kw in range(KW)]",
                     "the columns are in the order (c, kh, kw); here it is (kh, kw, c), which w.reshape(-1, F) has, "
                     "too."),
                Slip("oh * sh + kh * dil_h, ow * sw + kw * dil_w", "oh + kh * dil_h, ow + kw * dil_w", _STRIDE),
                Slip("oh * sh + kh * dil_h, ow * sw + kw * dil_w", "oh * sh + kh, ow * sw + kw", _NO_DILATION),
                Slip("np.ndindex(KH, KW, C)", "[(kh, kw, c) for kw in range(KW) for kh in range(KH) for c in range(C)]",
                     "the columns are in the order (kw, kh, c): rows of the window come first."),
                Slip("np.ndindex(N, OH, OW)", "[(n, oh, ow) for oh in range(OH) for ow in range(OW) for n in range(N)]",
                     "the rows are in the order (oh, ow, n): the images come first."),
            ),
        ),
    ),
)  # fmt: skip

_PRODUCT = Step(
    "product", "the convolution as a product", 10,
    "With im2col done, the seven loops of a convolution are one line.",
    (
        Part(
            "conv2d_product",
            lambda: {"x": image([1, 2, 0], [0, 1, 3], [2, 1, 1]), "w": kernel([1, 0], [2, -1]),
                     "b": array(1), "stride": 1, "padding": "valid", "dilation": 1},
            cases.draw_conv,
            ("y",),
            (
                "im2col gives (N*OH*OW, KH*KW*C). What shape must w have for the product to give F numbers a row?",
                "cols @ w.reshape(-1, F), then + b if there is one, then reshape to (N, OH, OW, F); output_size knows "
                "OH and OW.",
            ),
            "minicnn.kernels.conv_im2col.forward",
            plug.conv2d_forward,
            cases.check_conv_forward,
            (
                Slip("w.reshape(-1, F)", "w.transpose(2, 0, 1, 3).reshape(-1, F)",
                     "the rows of the matrix are in the order (c, kh, kw); cols has (kh, kw, c)."),
                Slip("cols @ w.reshape(-1, F)", "cols @ w[::-1, ::-1].reshape(-1, F)",
                     "the filter is turned by 180 degrees: only dx needs that."),
                Slip("cols @ w.reshape(-1, F)", "cols @ w.reshape(F, -1).T",
                     "reshape(F, -1).T mixes the numbers up: the filters are the last axis, so reshape(-1, F)."),
                Slip("        rows = rows + b", "        pass", "the bias is left out."),
                Slip("rows.reshape(N, OH, OW, F)",
                     "np.ascontiguousarray(rows.reshape(N, OW, OH, F).swapaxes(1, 2))",
                     "rows and columns of the image are swapped: the height comes first."),
            ),
        ),
    ),
)  # fmt: skip

_DW = Step(
    "dw", "the gradient of the filters", 15,
    "Each weight is used at every position of every image. Its gradient is the sum over all of them.",
    (
        Part(
            "conv2d_dw",
            lambda: {"dy": image([1, 0], [0, 2]), "x": image([1, 2, 0], [0, 1, 3], [2, 1, 1]),
                     "w": kernel([1, 0], [2, -1]), "stride": 1, "padding": "valid", "dilation": 1},
            cases.draw_dw,
            ("dw",),
            (
                "It is a dense layer whose samples are the output pixels and whose inputs are the cells of the window: "
                "cols takes the place of x.",
                "dense: dw = x.T @ dy. So cols.T @ dy.reshape(-1, F), then back into the shape of w.",
            ),
            "minicnn.kernels.conv_im2col.backward",
            plug.conv2d_dw,
            cases.check_dw,
            (
                Slip("dmatrix.reshape(w.shape)", "(dmatrix / len(x)).reshape(w.shape)",
                     "divided by the batch size: that division belongs to the loss, and dy already holds it."),
                Slip("dmatrix.reshape(w.shape)", "dmatrix.reshape(w.shape)[::-1, ::-1].copy()",
                     "dw is turned by 180 degrees: only dx needs the turned filter."),
                Slip("dmatrix = cols.T @ dy.reshape(-1, F)",
                     "dmatrix = cols.reshape(len(x), -1, cols.shape[1])[-1].T @ dy[-1].reshape(-1, F)",
                     "dw is that of the last image alone: images add up."),
                Slip("im2col(x, (KH, KW), stride, padding, dilation)",
                     "im2col(x[:, ::-1, ::-1], (KH, KW), stride, padding, dilation)",
                     "the images are turned by 180 degrees: nothing is turned for dw."),
                Slip("dmatrix = cols.T @ dy.reshape(-1, F)",
                     "dmatrix = cols.T @ dy.transpose(0, 2, 1, 3).reshape(-1, F)",
                     "rows and columns of dy are swapped."),
                Slip("return dmatrix.reshape(w.shape)", "return -dmatrix.reshape(w.shape)", "the sign is wrong."),
            ),
        ),
    ),
)  # fmt: skip

_DX = Step(
    "dx", "the gradient of the images, in two ways", 30,
    "Each pixel lies under many windows: what they all want of it adds up. Gathered pixel by pixel, the same sum is a "
    "convolution with the filters turned by 180 degrees. This is where most hand-written networks are wrong.",
    (
        Part(
            "col2im",
            lambda: {"cols": np.ones((4, 4)), "input_shape": (1, 3, 3, 1), "kernel_size": (2, 2), "stride": 1,
                     "padding": "valid", "dilation": 1},
            cases.draw_col2im,
            ("dx",),
            (
                "The same loops as im2col, in the other direction: each entry goes back to the pixel it was copied "
                "from.",
                "An array of zeros of the padded size; padded[…] += cols[row, column], with the places of im2col; crop "
                "cuts the border off.",
            ),
            "minicnn.kernels.im2col.col2im",
            plug.col2im,
            lambda f: (
                lambda x: r.im2col(x, (2, 2), padding="same"),
                lambda dy, x: f(dy, x.shape, (2, 2), padding="same"),
                {"x": cases.X},
            ),
            (
                Slip("] += cols[row, column]", "] = cols[row, column]",
                     "where windows overlap, only the last one counts: the shares must be added, `+=` and not `=`."),
                Slip("return crop(x_padded, pads, cols.dtype)",
                     "return x_padded[:, : input_shape[1], : input_shape[2]].astype(cols.dtype)",
                     "the border is cut off at the wrong end: pixels start at (top, left)."),
                Slip("oh * sh + kh * dil_h, ow * sw + kw * dil_w", "oh + kh * dil_h, ow + kw * dil_w", _STRIDE),
                Slip("oh * sh + kh * dil_h, ow * sw + kw * dil_w", "oh * sh + kh, ow * sw + kw", _NO_DILATION),
                Slip("np.ndindex(KH, KW, C)", "[(kh, kw, c) for c in range(C) for kh in range(KH) for kw in range(KW)]",
                     "the columns are read in the order (c, kh, kw); im2col writes (kh, kw, c)."),
            ),
        ),
        Part(
            "conv2d_dx",
            lambda: {"dy": image([1, 0], [0, 2]), "input_shape": (1, 3, 3, 1), "w": kernel([1, 0], [2, -1]),
                     "stride": 1, "padding": "valid", "dilation": 1},
            cases.draw_dx,
            ("dx",),
            (
                "Again the dense layer: its dx is dy @ w.T. Here that gives the gradient of cols; who brings it home?",
                "dcols = dy.reshape(-1, F) @ w.reshape(-1, F).T, then col2im with the geometry.",
            ),
            "minicnn.kernels.conv_im2col.backward",
            plug.conv2d_dx,
            cases.check_dx,
            (
                Slip("w.reshape(-1, F).T", "w[::-1, ::-1].reshape(-1, F).T",
                     "the filter is turned, but col2im turns already: each entry goes back to where it came from."),
                Slip("w.reshape(-1, F).T", "w.reshape(F, -1)",
                     "reshape(F, -1) mixes the numbers up: it is the transposed of reshape(-1, F), so .T."),
                Slip("dy.reshape(-1, F) @", "dy.reshape(-1, F) / len(dy) @",
                     "divided by the batch size: that division belongs to the loss, and dy already holds it."),
                Slip("dy.reshape(-1, F) @", "dy.transpose(0, 2, 1, 3).reshape(-1, F) @",
                     "rows and columns of dy are swapped."),
            ),
        ),
        Part(
            "conv2d_dx_turned",
            lambda: {"dy": image([1, 0], [0, 2]), "input_shape": (1, 3, 3, 1), "w": kernel([1, 0], [2, -1]),
                     "padding": "valid"},
            cases.draw_dx_turned,
            ("dx",),
            (
                "Turn the filters by 180 degrees, let channels and filters change places, put a border round dy, and "
                "convolve. The border is what makes the result as large as x.",
                "w[::-1, ::-1].transpose(0, 1, 3, 2); the border is ((KH - 1 - top, KH - 1 - bottom), (KW - 1 - left, "
                "KW - 1 - right)), which conv2d_product takes as its padding; stride 1, no bias.",
            ),
            "minicnn.kernels.conv_im2col.backward",
            plug.conv2d_dx_turned,
            cases.check_dx_turned,
            (
                Slip("w[::-1, ::-1].transpose(0, 1, 3, 2)", "w.transpose(0, 1, 3, 2)",
                     "the filters are not turned: reverse them in height and in width, w[::-1, ::-1]."),
                Slip("w[::-1, ::-1].transpose(0, 1, 3, 2)", "w[::-1].transpose(0, 1, 3, 2)",
                     "the filters are reversed in height only: turn them in width, too."),
                Slip("w[::-1, ::-1].transpose(0, 1, 3, 2)", "w[:, ::-1].transpose(0, 1, 3, 2)",
                     "the filters are reversed in width only: turn them in height, too."),
                Slip("None, 1, border)", "None, 1, \"same\")",
                     "the border depends on x's own padding (KH - 1 - top, and so on): \"same\" fits by luck only."),
                Slip("(KH - 1 - top, KH - 1 - bottom), (KW - 1 - left, KW - 1 - right)",
                     "(KH - 1 - bottom, KH - 1 - top), (KW - 1 - right, KW - 1 - left)",
                     "top and bottom are swapped in the border: with an even filter and \"same\" they differ."),
            ),
        ),
    ),
)  # fmt: skip

_POOL = Step(
    "max-pooling", "max pooling and its backward pass", 20,
    "Each window hands on its largest number, and remembers where that stood: only there does the gradient go.",
    (
        Part(
            "maxpool2d_forward",
            lambda: {"x": image([1, 5, 2, 0], [3, 4, 2, 2], [-1, -2, 7, 7], [-3, -4, 6, 7]), "pool_size": 2,
                     "stride": None, "padding": "valid"},
            cases.draw_pool,
            ("y", "winner"),
            (
                "Loops over (n, oh, ow, c) and over the window, as in a convolution, but with a comparison in place of "
                "the product. Keep the best value, and kh * KW + kw of where it was.",
                "pad with value=-np.inf, start with best = -np.inf, and take a value only if it is larger (>): so the "
                "first of equal ones wins. stride None means pool_size.",
            ),
            "minicnn.kernels.pool.maxpool2d_forward",
            plug.maxpool2d_forward,
            lambda f: cases.check_pool(f, r.maxpool2d_backward),
            (
                Slip("pad(x, pads, value=-np.inf)", "pad(x, pads)",
                     "the padding is 0 and wins over negative numbers: pad with -inf."),
                Slip("best = -np.inf", "best = 0.0",
                     "the best starts at 0 and beats negative numbers: start with -inf."),
                Slip("if value > best", "if value >= best",
                     "of equal maxima the last one wins; it shall be the first: `>`."),
                Slip("if value > best", "if value < best or best == -np.inf", "that is the smallest of the window."),
                Slip("kh * KW + kw", "kh * KH + kw",
                     "the winner's number is kh * KW + kw: a row of the window has KW cells."),
                Slip("kh * KW + kw", "kw * KH + kh", "the winner is counted column by column; here it is row by row."),
                Slip("pool_size if stride is None else stride", "1 if stride is None else stride",
                     "stride None means pool_size, not 1."),
                Slip("oh * sh + kh, ow * sw + kw", "oh + kh, ow + kw", _STRIDE),
            ),
        ),
        Part(
            "maxpool2d_backward",
            lambda: {"dy": image([10, 20], [30, 40]), "winner": np.array([[1, 0], [0, 0]])[None, :, :, None],
                     "input_shape": (1, 4, 4, 1), "pool_size": 2, "stride": None, "padding": "valid"},
            cases.draw_pool_backward,
            ("dx",),
            (
                "For each output: where in the window was the winner? The whole dy goes to that pixel.",
                "divmod(winner, KW) gives (kh, kw). Add dy (+=) at (oh * stride + kh, ow * stride + kw) of a padded "
                "array of zeros; crop it in the end.",
            ),
            "minicnn.kernels.pool.maxpool2d_backward",
            plug.maxpool2d_backward,
            lambda f: cases.check_pool(r.maxpool2d_forward, f),
            (
                Slip("c] += dy[n, oh, ow, c]", "c] = dy[n, oh, ow, c]",
                     "a pixel that wins in several windows keeps only the last share: `+=` and not `=`."),
                Slip("return crop(dx_padded, pads, dy.dtype)",
                     "return dx_padded[:, : input_shape[1], : input_shape[2]].astype(dy.dtype)",
                     "the padding is ignored: pixels start at (top, left) of the padded image."),
                Slip("KW)\n", "KH)\n", "divmod by KH: a row of the window has KW cells."),
                Slip("kh, kw = divmod(int(winner[n, oh, ow, c]), KW)", "kh, kw = 0, 0",
                     "the gradient goes to the first pixel of the window, not to the winner."),
                Slip("    dx_padded = pad(np.zeros(input_shape), pads)\n",
                     "    dx_padded = pad(np.zeros(input_shape), pads)\n    dy = dy / (KH * KW)\n",
                     "dy is divided by the cells of the window: that is average pooling."),
            ),
        ),
    ),
)  # fmt: skip

_DROPOUT = Step(
    "dropout", "dropout", 10,
    "In training, numbers are dropped at random, so that the network cannot rely on any single one. What stays grows, "
    "so that nothing is left to do when the trained network is used.",
    (
        Part(
            "dropout_forward",
            lambda: {"x": array([1, 2, 3, 4]), "mask": np.array([[True, False, True, True]]), "rate": 0.5},
            cases.draw_dropout,
            ("y",),
            (
                "Where the mask is False: 0. Where it is True: x, but larger. With rate 0.5, how much larger keeps the "
                "mean the same?",
                "x * mask / (1 - rate), in x's dtype.",
            ),
            "minicnn.kernels.dropout.dropout_forward",
            plug.dropout_forward,
            lambda f: cases.check_dropout(f, r.dropout_backward),
            (
                Slip(" / (1 - rate)", "", "the scale 1 / (1 - rate) is missing: in training the mean becomes smaller."),
                Slip("/ (1 - rate)", "/ rate", "divided by rate, the share that is dropped: divide by 1 - rate."),
                Slip("/ (1 - rate)", "* (1 - rate)", "multiplied by 1 - rate instead of divided by it."),
                Slip("    for index", "    y[...] = x\n    for index",
                     "what the mask drops stays as it is; it must become 0."),
                Slip("if mask[index]", "if not mask[index]", "the mask is read the wrong way round: True means keep."),
                Slip("/ (1 - rate)", "/ (1 - rate) ** 2", "the scale is applied twice."),
            ),
        ),
        Part(
            "dropout_backward",
            lambda: {"dy": array([10, 20, 30, 40]), "mask": np.array([[True, False, True, True]]), "rate": 0.5},
            lambda rng: cases.draw_dropout(rng, "dy"),
            ("dx",),
            (
                "y = x * something, and that something does not depend on x: so dx is dy times the same.",
                "dy * mask / (1 - rate), in dy's dtype.",
            ),
            "minicnn.kernels.dropout.dropout_backward",
            plug.dropout_backward,
            lambda f: cases.check_dropout(r.dropout_forward, f),
            (
                Slip(" / (1 - rate)", "",
                     "the scale 1 / (1 - rate) of the forward pass is missing in the backward pass."),
                Slip("if mask[index]", "if True", "what was dropped gets a gradient: there the slope is 0."),
                Slip("/ (1 - rate)", "/ (1 - rate) ** 2", "the scale is applied twice."),
            ),
        ),
    ),
)  # fmt: skip

_NORM = Step(
    "batch-norm", "batch normalization and its backward pass", 40,
    "Every channel gets mean 0 and variance 1 over the batch. So each output depends on the whole batch, and the "
    "gradient takes three paths. all_reduce adds up an array over several parts of a batch: here there is one, so it "
    "is None.",
    (
        Part(
            "batchnorm_moments",
            lambda: {"x": array([1, 10], [3, 10], [5, 40], [7, 40])},
            lambda rng: {"x": cases.numbers(rng, *cases.rows(rng)) + 1},
            ("mean", "var", "count"),
            (
                "A channel is the last axis; all other axes together are its rows. Make a table of rows and channels.",
                "table = x.reshape(-1, C); mean over axis 0; the variance is the mean of the squared distances "
                "(divided by the count, not by count - 1); the count is the number of rows.",
            ),
            "minicnn.kernels.norm.batchnorm_moments",
            plug.batchnorm_moments,
            lambda f: cases.check_norm(f, r.batchnorm_forward, r.batchnorm_backward),
            (
                Slip("var = add_up(squares) / count", "var = add_up(squares) / (count - 1)",
                     "divided by count - 1: batch normalization divides by the count."),
                Slip("var = add_up(squares) / count", "var = np.sqrt(add_up(squares) / count)",
                     "that is the standard deviation; the variance is its square."),
                Slip("(table[r, c] - mean[c]) ** 2", "table[r, c] ** 2",
                     "the mean is not subtracted before the square."),
                Slip("    C = x.shape[-1]\n", "    return x.mean(0), x.var(0), len(x)\n    C = x.shape[-1]\n",
                     "one mean for each pixel (axis=0): it must be one for each channel, over all axes but the last."),
                Slip("mean = add_up(total) / count", "mean = add_up(total) / len(x)",
                     "divided by the images, not by all rows: a channel has N * H * W numbers."),
                Slip("int(add_up(np.array([float(len(table))]))[0])", "len(x)",
                     "the count is that of the images: a channel has N * H * W rows."),
            ),
        ),
        Part(
            "batchnorm_forward",
            lambda: {"x": array([1, 10], [3, 10], [5, 40], [7, 40]), "gamma": array(1, 15), "beta": array(0, 1),
                     "mean": array(4, 25), "var": array(4, 225), "eps": 0.0},
            cases.draw_norm,
            ("y",),
            (
                "Subtract the mean, divide by the standard deviation, then times gamma, plus beta: channel by channel.",
                "gamma * (x - mean) / np.sqrt(var + eps) + beta: the channels are the last axis, so NumPy lines them "
                "up by itself.",
            ),
            "minicnn.kernels.norm.batchnorm_forward",
            plug.batchnorm_forward,
            lambda f: cases.check_norm(r.batchnorm_moments, f, r.batchnorm_backward),
            (
                Slip("math.sqrt(float(var[c]) + eps)", "(float(var[c]) + eps)",
                     "divided by the variance: it must be its root, the standard deviation."),
                Slip("math.sqrt(float(var[c]) + eps)", "(math.sqrt(float(var[c])) + eps)",
                     "eps is added after the root; it belongs inside: sqrt(var + eps)."),
                Slip("math.sqrt(float(var[c]) + eps)", "math.sqrt(float(var[c]) or 1e-9)", "eps is left out."),
                Slip(" + float(beta[c])", "", "beta is left out."),
                Slip("float(gamma[c]) * x_hat", "x_hat", "gamma is left out."),
                Slip("(float(x[index]) - float(mean[c]))", "float(x[index])", "the mean is not subtracted."),
                Slip("    y = np.zeros(x.shape, dtype=x.dtype)\n    for index in np.ndindex(x.shape):",
                     "    y = (gamma * (x - x.mean(0)) / np.sqrt(x.var(0) + eps) + beta).astype(x.dtype)\n"
                     "    for index in np.ndindex(0):",
                     "one mean for each pixel (axis=0): it must be one for each channel, over all axes but the last."),
            ),
        ),
        Part(
            "batchnorm_backward",
            lambda: {"dy": array([1], [0], [0], [3]), "x": array([1], [1], [5], [5]), "gamma": array(2),
                     "mean": array(3), "var": array(4), "eps": 0.0},
            cases.draw_norm_backward,
            ("dx", "dgamma", "dbeta"),
            (
                "dgamma and dbeta are sums, as in a dense layer. For dx take the three paths one after the other: "
                "straight to y; through the mean (each x moves it by 1/m); through the variance (each x moves it by 2 "
                "(x - mean) / m).",
                "With x_hat and the std: dx = gamma / std * (dy - mean of dy - x_hat * mean of (dy * x_hat)), the "
                "means over all rows of a channel. dgamma = sum of dy * x_hat, dbeta = sum of dy.",
            ),
            "minicnn.kernels.norm.batchnorm_backward",
            plug.batchnorm_backward,
            lambda f: cases.check_norm(r.batchnorm_moments, r.batchnorm_forward, f),
            (
                Slip("direct + through_mean + through_variance", "direct + through_variance",
                     "the path through the mean is missing."),
                Slip("direct + through_mean + through_variance", "direct + through_mean",
                     "the path through the variance is missing."),
                Slip("direct + through_mean + through_variance", "direct",
                     "mean and variance are taken as constants: they depend on x, and both paths are missing."),
                Slip("direct + through_mean + through_variance", "direct - through_mean + through_variance",
                     "the sign of the path through the mean."),
                Slip("direct + through_mean + through_variance", "direct + through_mean - through_variance",
                     "the sign of the path through the variance."),
                Slip("dmean[c] / m", "dmean[c]", "each x moves the mean by 1/m: divide by the number of rows."),
                Slip("dvar[c] * 2 * (table", "dvar[c] * (table",
                     "each x moves the variance by 2 (x - mean) / m: the 2 is missing."),
                Slip("dgamma[c] += dtable[r, c] * distance / std[c]", "dgamma[c] += dtable[r, c] * distance",
                     "dgamma is the sum of dy * x_hat: the division by the standard deviation is missing."),
                Slip("dx_hat = dtable[r, c] * gamma[c]", "dx_hat = dtable[r, c]",
                     "gamma is missing in the paths through mean and variance."),
                Slip("dbeta[c] += dtable[r, c]", "dbeta[c] += dtable[r, c] / m",
                     "dbeta is the mean of dy; it must be the sum."),
                Slip("dgamma[c] += dtable[r, c] * distance / std[c]",
                     "dgamma[c] += dtable[r, c] * distance / std[c] / m",
                     "dgamma is a mean over the rows; it must be the sum."),
            ),
        ),
    ),
)  # fmt: skip

_WINOGRAD = Step(
    "winograd", "Winograd's F(2, 3)", 20,
    "Two neighbouring outputs of a filter of three weights cost 6 multiplications, or 4. In two dimensions that is 36 "
    "against 16: this is why 3x3 convolutions are as fast as they are.",
    (
        Part(
            "winograd_f23",
            lambda: {"d": array(1, 2, 3, 4), "g": array(2, 4, 6)},
            lambda rng: {"d": cases.numbers(rng, 4, int(rng.integers(1, 4))), "g": cases.numbers(rng, 3, 1)},
            ("y",),
            (
                "Call the four products of the docstring m1 to m4, in that order. Add the second and the third, "
                "written out: most of it cancels, and y0 - m1 is left.",
                "y0 = m1 + m2 + m3 and y1 = m2 - m3 - m4. Return both in one array of shape (2, …): np.stack([y0, "
                "y1]).",
            ),
            "minicnn.kernels.conv_winograd.forward",
            plug.winograd_f23,
            cases.check_winograd,
            (
                Slip("m2 - m3 - m4", "m2 - m3 + m4", "the sign of the last product in y1."),
                Slip("m1 + m2 + m3", "m1 + m2 - m3", "the sign of the third product in y0."),
                Slip("(g[0] + g[1] + g[2]) / 2", "(g[0] + g[1] + g[2])",
                     "the half is missing from the second product."),
                Slip("(g[0] - g[1] + g[2]) / 2", "(g[0] - g[1] + g[2])", "the half is missing from the third product."),
                Slip("(d[2] - d[1])", "(d[1] - d[2])", "the sign of the third product: d2 - d1."),
                Slip("[m1 + m2 + m3, m2 - m3 - m4]", "[m2 - m3 - m4, m1 + m2 + m3]", "the two outputs are swapped."),
                Slip("    return np.stack([m1 + m2 + m3, m2 - m3 - m4])",
                     "    return np.stack([d[2] * g[0] + d[1] * g[1] + d[0] * g[2],\n"
                     "                     d[3] * g[0] + d[2] * g[1] + d[1] * g[2]])",
                     "the weights are read from the end: that is a convolution with the turned filter."),
            ),
            cases.four_products,
        ),
    ),
)  # fmt: skip

STEPS: tuple[Step, ...] = (
    _OUTPUT_SIZE, _PADDING, _CONVOLUTION, _RELU, _DENSE, _SOFTMAX, _LOSS_GRADIENT, _STEP_RULES, _IM2COL, _PRODUCT, _DW,
    _DX, _POOL, _DROPOUT, _NORM, _WINOGRAD,
)  # fmt: skip
