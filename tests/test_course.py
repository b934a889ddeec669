"""The course, without its processes: what is cut, what is accepted, and that every bug is rejected by its name."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import test_negative_controls as museum
import test_negative_controls_training as museum_of_training

from minicnn import kernels
from minicnn.course import cut, files, grade, milestones, plug
from minicnn.course.table import STEPS, Slip

PARTS = [pytest.param(part, id=part.function) for step in STEPS for part in step.parts]


def exercise(part):
    return cut.exercise(files.step_of(part), part, 1, len(STEPS), "file.py")


def function(part, text):
    names = {}
    exec(compile(text, "file.py", "exec", dont_inherit=True), names)
    return names[part.function]


def last(part, mine):
    """The last stage that was reached."""
    return list(grade.grade(part, mine, "file.py"))[-1]


# ---- what is cut -----------------------------------------------------------------------------------------------------


def test_there_are_sixteen_steps():
    assert len(STEPS) == 16
    assert len({step.name for step in STEPS}) == 16
    assert len(files.PARTS) == sum(len(step.parts) for step in STEPS)


@pytest.mark.parametrize("part", PARTS)
def test_a_cut_file_has_one_todo_and_nothing_of_the_answer(part):
    text = exercise(part)
    assert text.count("TODO") == 1
    node = cut.function_in(ast.parse(text), part.function)
    assert node is not None and ast.get_docstring(node)
    answer = cut.answer(part)
    lines = {line.strip() for line in text.splitlines()}
    for line in answer.body.splitlines():
        assert not line.strip() or line.strip() not in lines
        assert len(line.strip()) < 20 or line.strip() not in text
    assert answer.signature + answer.docstring in text


@pytest.mark.parametrize("part", PARTS)
def test_an_unwritten_function_fails_with_its_todo_and_the_answer_passes(part):
    text = exercise(part)
    stage = last(part, function(part, text))
    assert (stage.number, stage.ok) == (1, False)
    assert "is not written yet (line" in stage.text and cut.todo(part.function) in stage.text
    written = cut.with_answer(part, text)
    assert "TODO" not in written
    assert cut.difference(part, written) == ""
    stage = last(part, function(part, written))
    assert (stage.number, stage.ok) == (5, True), stage.text


@pytest.mark.parametrize("part", PARTS)
def test_the_hints_grow_and_the_third_leaves_the_work_to_do(part):
    assert all(len(hint) > 20 for hint in part.hints)
    outline = cut.skeleton(part)
    assert "…" in outline
    lines = {line.strip() for line in cut.answer(part).body.splitlines() if "=" in line and "for " not in line}
    assert not lines & {line.strip() for line in outline.splitlines()}


@pytest.mark.parametrize("part", PARTS)
def test_the_notebook_has_the_same_function_and_checks_it(part):
    cells = cut.notebook(STEPS[0], part, 1, 16)["cells"]
    json.dumps(cells)
    assert [cell["cell_type"] for cell in cells] == ["markdown", "code", "code"]
    assert "".join(cells[1]["source"]).count("TODO") == 1
    assert "".join(cells[2]["source"]).endswith(f"check({part.function})")


@pytest.mark.parametrize("part", PARTS)
def test_the_fast_kernel_is_there_to_be_read(part):
    where, source = cut.place(part.fast)
    assert re.fullmatch(r"minicnn/[a-z/0-9_]+\.py, line \d+", where)
    assert source.lstrip().startswith(("def ", "@"))


def test_a_solution_keeps_what_else_is_in_the_file():
    part = files.PARTS["relu_forward"]
    text = 'import math\n\nBIG = 3\n\n\ndef relu_forward(x):\n    return abs(x)\n\n\ndef other():\n    return BIG\n'
    written = cut.with_answer(part, text)
    assert "BIG = 3" in written and "def other():\n    return BIG\n" in written and "abs" not in written
    assert function(part, written)(np.array([-1.0, 2.0])).tolist() == [0, 2]


# ---- bugs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_every_well_known_slip_is_rejected_by_its_name(part):
    assert len(part.slips) >= 3
    for slip in part.slips:
        source = cut.with_slip(part, slip)
        assert source is not None, f"the source has no {slip.old!r} any more"
        stage = last(part, cut.compiled(part, source))
        assert not stage.ok, slip
        assert stage.hint == slip.says


def test_a_slip_that_is_not_in_the_source_any_more_is_left_out():
    assert cut.with_slip(files.PARTS["relu_forward"], Slip("no such text", "", "")) is None


# As learners write them, in NumPy: (function, body, what the grader must say).
MUTANTS = [
    ("output_length", "return (lo + length + hi - (kernel - 1) * dilation - 1) / stride + 1", "whole number"),
    ("output_length", "return (lo + length + hi - (kernel - 1) * dilation - 1) // stride", "one window is missing"),
    ("same_padding", "return kernel // 2, kernel // 2", "half a kernel"),
    ("same_padding", "m = (-(-length // stride) - 1) * stride + (kernel - 1) * dilation + 1 - length\n"
     "return m // 2, m - m // 2", "never less than 0"),
    ("relu_forward", "return np.abs(x)", "lose their sign"),
    ("relu_forward", "x[x < 0] = 0\nreturn x", "writes into x"),
    ("relu_forward", "return (x > 0) * 1.0", "that is the slope"),
    ("relu_forward", "return np.maximum(x, np.zeros(1))", "y is float64"),
    ("relu_forward", "np.maximum(x, 0)", "is a `return` missing"),
    ("relu_forward", "return np.maximum(x, 0).tolist()", "expected an array"),
    ("relu_backward", "return dy * y", "dy is multiplied by y"),
    ("relu_backward", "return dy * (y >= 0)", "`>` and not `>=`"),
    ("relu_backward", "dy *= y > 0\nreturn dy", "writes into dy"),
    ("relu_backward", "return np.float32(dy) * (y > 0)", "right to 7 digits only"),
    ("dense_forward", "return x @ w", "the bias is left out"),
    ("dense_backward", "f = dy.reshape(-1, w.shape[1])\nreturn dy @ w.T, x.reshape(-1, w.shape[0]).T @ f, f.mean(0)",
     "db"),
    ("dense_backward", "f = dy.reshape(-1, w.shape[1])\nreturn dy @ w.T, f.T @ x.reshape(-1, w.shape[0]), f.sum(0)",
     "transposed"),
    ("dense_backward", "return dy @ w.T, x.T @ dy", "must return 3 results"),
    ("softmax_forward", "return np.exp(x) / np.exp(x).sum(-1, keepdims=True)", "overflows"),
    ("softmax_forward", "e = np.exp(x - x.max())\nreturn e / e.sum(-1, keepdims=True)", "each row's own"),
    ("softmax_backward", "return dy * y * (1 - y)", "only the diagonal"),
    ("softmax_cross_entropy_backward", "return softmax_forward(logits) - as_probabilities(target, logits.shape)",
     "the mean over the batch is missing"),
    ("sgd_step", "p -= lr * g\nreturn p", "writes into p"),
    ("momentum_step", "m = momentum * m + g\nreturn p - lr * m, m", "m holds the sum of gradients"),
    ("adam_step", "m = beta_1 * m + (1 - beta_1) * g\nv = beta_2 * v + (1 - beta_2) * g**2\n"
     "return p - lr * m / (np.sqrt(v) + epsilon), m, v", "the correction is missing"),
    ("adam_step", "m *= beta_1\nm += (1 - beta_1) * g\nv *= beta_2\nv += (1 - beta_2) * g * g\n"
     "a = lr * math.sqrt(1 - beta_2**t) / (1 - beta_1**t)\nreturn p - a * m / (np.sqrt(v) + epsilon), m, v",
     "writes into m"),
    ("conv2d_dw", "return -(im2col(x, w.shape[:2], stride, padding, dilation).T @ dy.reshape(-1, w.shape[3]))"
     ".reshape(w.shape)", "sign is wrong"),
    ("conv2d_dx_turned", "return conv2d_product(dy, w[::-1, ::-1].transpose(0, 1, 3, 2), None, 1, 'same')",
     "fits by luck only"),
    ("dropout_forward", "return x * mask", "the scale 1 / (1 - rate) is missing"),
    ("dropout_forward", "return np.where(mask, x / (1 - rate), x)", "must become 0"),
    ("batchnorm_moments", "t = x.reshape(-1, x.shape[-1])\nreturn t.mean(0), t.var(0, ddof=1), len(t)", "count - 1"),
    ("batchnorm_moments", "return x.mean(0), x.var(0), len(x)", "one mean for each pixel"),
    ("batchnorm_forward", "return gamma * (x - mean) / (np.sqrt(var) + eps) + beta", "eps is added after the root"),
    ("winograd_f23", "return np.stack([(d[:3] * g).sum(0), (d[1:] * g).sum(0)])", "6 times"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body", "said"), MUTANTS)
def test_mutants_in_numpy_are_rejected(name, body, said):
    part = files.PARTS[name]
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    text = exercise(part).replace(cut.stub(name), indented)
    stage = last(part, function(part, text.replace("\n\n\ndef", "\n\nimport math\n\nimport numpy as np\n\n\ndef", 1)))
    assert not stage.ok
    assert said in f"{stage.text}\n{stage.hint}"


def batchnorm_without(path):
    broken = {
        "mean": museum.batchnorm_backward_without_mean, "variance": museum.batchnorm_backward_without_variance,
        "both": lambda *a: (museum.batchnorm_backward_parts(*a)[0], *museum.batchnorm_backward_parts(*a)[3:]),
    }[path]  # fmt: skip
    return lambda dy, x, gamma, mean, var, eps: broken(dy, x, gamma, mean, var, eps)


def of_adam(kind):
    def step(p, g, m, v, t, lr, beta_1, beta_2, epsilon):
        optimizer = kind(lr, beta_1, beta_2, epsilon)
        optimizer.iterations, p, m, v = t, p.copy(), m.copy(), v.copy()
        optimizer.update(p, g, [m, v], lr)
        return p, m, v

    return step


def first_pixel(dy, winner, *geometry, **named):
    return kernels.maxpool2d_backward(dy, np.zeros(winner.shape, np.uint8), *geometry, **named)


def new_mask(dy, mask, rate):
    return kernels.dropout_backward(dy, kernels.dropout_mask(dy.shape, rate, 1), rate)


def turned_dx(dy, input_shape, w, padding="valid"):
    turned = np.ascontiguousarray(w[::-1, ::-1])
    return kernels.conv2d_backward(dy, np.zeros(input_shape), turned, 1, padding)[0]


def float64_dense(x, w, b=None):
    y = np.zeros((*x.shape[:-1], w.shape[1]))
    y += x @ w
    return y if b is None else y + b


# The museum of bugs -> (the course's function, the bug as that function, what the grader says).
MUSEUM = {
    "max pool pads with 0": ("maxpool2d_forward", museum.maxpool2d_padded_with_zero, "pad with -inf"),
    "max pool ignores the padding in backward": (
        "maxpool2d_backward", museum.maxpool2d_backward_without_padding, "padding is ignored"),
    "batch norm per pixel": (
        "batchnorm_forward", museum.batchnorm_forward_per_pixel, "one mean for each pixel"),
    "batch norm with the statistics of each pixel": (
        "batchnorm_moments", museum.batchnorm_moments_per_pixel, "one mean for each pixel"),
    "batch norm backward without the path through the mean": (
        "batchnorm_backward", batchnorm_without("mean"), "through the mean is missing"),
    "batch norm backward without the path through the variance": (
        "batchnorm_backward", batchnorm_without("variance"), "through the variance is missing"),
    "batch norm without mean and variance": ("batchnorm_backward", batchnorm_without("both"), "taken as constants"),
    "col2im with = for +=": ("col2im", museum.col2im_that_overwrites, "`+=` and not `=`"),
    "conv backward with dx wrong and dw right": ("conv2d_dx_turned", turned_dx, "filters are not turned"),
    "dx wrong and dw right": ("conv2d_dx_turned", turned_dx, "filters are not turned"),
    "dx wrong and dw right, in a model": ("conv2d_dx_turned", turned_dx, "filters are not turned"),
    "float64 creeps in forward": ("dense_forward", float64_dense, "y is float64"),
    "float64 in the output": ("dense_forward", float64_dense, "y is float64"),
    "float64 creeps in backward": ("relu_backward", museum.relu_backward_in_float64, "dx is float64"),
    "float64 in a gradient": ("relu_backward", museum.relu_backward_in_float64, "dx is float64"),
    "dropout that does not scale": ("dropout_forward", lambda x, mask, rate: x * mask, "scale 1 / (1 - rate)"),
    "dropout never scaled": ("dropout_forward", lambda x, mask, rate: x * mask, "scale 1 / (1 - rate)"),
    "dropout that scales forward but not backward": (
        "dropout_backward", lambda dy, mask, rate: dy * mask, "missing in the backward pass"),
    "dropout not scaled backward": (
        "dropout_backward", lambda dy, mask, rate: dy * mask, "missing in the backward pass"),
    "another dropout mask backward": ("dropout_backward", new_mask, ""),
    "upstream gradient changed in place": ("relu_backward", museum.relu_backward_in_place, "writes into dy"),
    "upstream gradient changed in place, in disguise": (
        "relu_backward", museum.relu_backward_in_place_in_disguise, "writes into dy"),
    "dy changed in place": ("relu_backward", museum.relu_backward_in_place, "writes into dy"),
    "input changed in place": ("relu_forward", museum.relu_forward_in_place, "writes into x"),
    "x changed in place": ("relu_forward", museum.relu_forward_in_place, "writes into x"),
    "softmax Jacobian taken as diagonal": (
        "softmax_backward", museum.softmax_backward_diagonal, "only the diagonal"),
    "softmax that overflows": ("softmax_forward", museum.softmax_that_overflows, "overflows"),
    "batch mean missing from the loss gradient": (
        "softmax_cross_entropy_backward", museum.cross_entropy_backward_divided_by(0), "over the batch is missing"),
    "batch mean missing, cross-entropy": (
        "softmax_cross_entropy_backward", museum.cross_entropy_backward_divided_by(0), "over the batch is missing"),
    "batch mean twice in the loss gradient": (
        "softmax_cross_entropy_backward", museum.cross_entropy_backward_divided_by(2), "taken twice"),
    "Adam that writes the corrected moment back": (
        "adam_step", of_adam(museum_of_training.AdamThatWritesTheCorrectedMomentBack), "written back"),
    "Adam without correction": (
        "adam_step", of_adam(museum_of_training.AdamWithoutCorrection), "the correction is missing"),
    "max pooling to the first pixel": ("maxpool2d_backward", first_pixel, "goes to the first pixel"),
}  # fmt: skip
# What no function of the course could do wrong: it is about layers, batches, other losses and activations.
ELSEWHERE = {
    "dropout scaled at test time too", "dropout scaled at neither time",
    "max pool: every tied maximum gets the gradient",  # backward is given the winner, and x is not
    "dropout active at test time",
    "batch statistics in evaluation", "ELU derivative by operator precedence", "ELU derivative for alpha = 1 only",
    "MAE gradient with the wrong sign", "batch mean missing, MSE", "batch mean twice, MSE",
    "batch mean twice, in a model", "only the first shard's gradient", "batches shuffled, but not samples",
    "shuffled once for all epochs", "samples shuffled, but not labels", "drawn with replacement",
    "x changed in place in the backward pass", "dw wrong and dx right",
}  # fmt: skip


def test_every_bug_of_the_museum_is_here_or_has_nothing_to_do_with_the_course():
    assert set(museum.CONTROLS) | set(museum_of_training.CONTROLS) <= set(MUSEUM) | ELSEWHERE


@pytest.mark.parametrize("bug", MUSEUM)
def test_the_bugs_of_the_museum_are_rejected(bug):
    name, broken, said = MUSEUM[bug]
    stage = last(files.PARTS[name], broken)
    assert not stage.ok
    assert said in f"{stage.text}\n{stage.hint}"


# ---- the grader itself -----------------------------------------------------------------------------------------------


def test_the_smallest_failing_geometry_is_shown():
    part = files.PARTS["relu_forward"]
    stage = last(part, lambda x: np.maximum(x, 0) + (x.shape == (2, 4)))
    assert stage.number == 2
    assert "differ. The smallest of these:\nx (2, 4):" in stage.text


def test_a_function_that_is_right_in_float64_only_is_caught_where_it_is_plugged_in():
    part = files.PARTS["relu_forward"]
    stage = last(part, lambda x: np.maximum(x, 0) if x.size < 30 else np.maximum(x, 0) * np.float32(1.01))
    assert stage.number == 5
    assert "must agree" in stage.text


def test_the_framework_is_put_back():
    before, x = kernels.relu_forward(np.array([-1.0, 2.0])), np.array([-1.0, 2.0])
    with plug.plugged(plug.relu_forward(lambda x: x + 100)):
        assert kernels.relu_forward(x).tolist() == [99, 102]
        assert kernels.activations.relu_forward(x).tolist() == [99, 102]
    assert kernels.relu_forward(x).tolist() == before.tolist()
    assert plug.CALLS == {}


def test_the_framework_is_put_back_after_an_error():
    def fails(x):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), plug.plugged(plug.relu_forward(fails)):
        kernels.relu_forward(np.ones(2))
    assert kernels.relu_forward(np.array([-1.0, 2.0])).tolist() == [0, 2]


def test_two_plugs_of_one_kernel_work_together():
    x, w, dy = np.ones((1, 3, 3, 1)), np.ones((2, 2, 1, 1)), np.ones((1, 2, 2, 1))
    both = plug.conv2d_dw(lambda *a: "dw"), plug.conv2d_dx(lambda *a: "dx")
    with plug.plugged(*both):
        assert kernels.conv2d_backward(dy, x, w)[:2] == ("dx", "dw")


def test_a_plug_for_nothing_is_an_error():
    with pytest.raises((LookupError, AttributeError)):
        plug.find("minicnn.kernels.activations.no_such_kernel")


def test_steps_are_found_by_name_number_function_and_file():
    for name in ("relu", "4", "04a_relu_forward.py", "relu_forward"):
        step, parts = files.named(name)
        assert step.name == "relu"
        assert parts[0].function == "relu_forward"
    with pytest.raises(ValueError, match="did you mean 'dropout'"):
        files.named("dropuot")


# ---- the milestones --------------------------------------------------------------------------------------------------


def test_a_network_learns_with_the_answers_in_all_places(tmp_path, capsys, monkeypatch):
    for part in files.PARTS.values():
        files.put_answer(part, tmp_path)
    monkeypatch.setattr(milestones.checking, "states", lambda folder: dict.fromkeys(files.PARTS, "passed"))
    assert milestones.run("toy", tmp_path, images=160, seconds=0.5) == 0
    said = capsys.readouterr().out
    assert "images it never saw" in said
    assert "batchnorm_backward" in said and "conv2d_product" in said
    assert re.search(r"conv2d_dx_turned\s+[1-9]", said)
    assert kernels.relu_forward(np.array([-1.0])).tolist() == [0]


def test_a_run_without_functions_says_where_to_begin(tmp_path, capsys):
    assert milestones.run("toy", tmp_path) == 1
    assert "course start" in capsys.readouterr().out


def test_a_run_of_what_is_not_right_says_so(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def relu_forward(x):\n    return x\n")
    assert milestones.run("toy", tmp_path) == 1
    assert "Not right yet: relu_forward" in capsys.readouterr().out


def test_names_of_networks_are_looked_at():
    with pytest.raises(ValueError, match="did you mean 'toy'"):
        milestones.run("tyo", Path())


# ---- the teacher's page ----------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[1] / "docs" / "teaching.md").read_text(encoding="utf-8")


def test_the_teachers_table_has_every_step_and_its_minutes():
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (\d+) \|", PAGE, re.MULTILINE)
    assert rows == [(step.name, str(step.minutes)) for step in STEPS]


def test_the_teachers_own_step_can_be_graded():
    names = {}
    exec(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1], names)
    (part,) = names["step"].parts
    text = cut.exercise(names["step"], part, 17, 17, "file.py")
    assert last(part, function(part, text)).number == 1
    stage = last(part, function(part, cut.with_answer(part, text)))
    assert (stage.number, stage.ok) == (5, True), stage.text
    for slip in part.slips:
        assert last(part, cut.compiled(part, cut.with_slip(part, slip))).hint == slip.says


def test_what_would_make_an_exercise_easy_is_known():
    assert {"output_size", "output_length", "im2col"} <= files.leading_to(files.PARTS["output_length"])
    assert "resolve_padding" in files.leading_to(files.PARTS["same_padding"])
    assert "im2col" not in files.leading_to(files.PARTS["conv2d_dw"])
    assert not {"pad", "pair", "resolve_padding", "output_size"} & files.leading_to(files.PARTS["conv2d_dw"])
    for part in files.PARTS.values():
        assert not {name for _, name in files.helpers(part)} & files.leading_to(part)


def test_a_function_that_stops_in_training_is_named(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def relu_forward(x):\n    return x[:, :, :, 99]\n")
    monkeypatch.setattr(milestones.checking, "states", lambda folder: {"relu_forward": "passed"})
    with pytest.raises(ValueError, match="relu_forward: your function stopped(.|\n)*IndexError"):
        milestones.run("toy", tmp_path, images=32)
    assert kernels.relu_forward(np.array([-1.0])).tolist() == [0]


def test_products_that_cannot_be_counted_are_not_held_against_it():
    right = cut.compiled(files.PARTS["winograd_f23"], cut.answer(files.PARTS["winograd_f23"]).whole)
    stage = last(files.PARTS["winograd_f23"], lambda d, g: right(d.astype(np.float64), g).astype(d.dtype))
    assert (stage.number, stage.ok) == (5, True)


def test_the_outline_keeps_the_shape_of_targets():
    lines = cut.skeleton(files.PARTS["col2im"]).splitlines()
    assert lines[0] == "    (KH, KW), (sh, sw), (dil_h, dil_w) = …"
    assert "    for row, (n, oh, ow) in enumerate(np.ndindex(N, OH, OW)):" in lines
