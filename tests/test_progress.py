"""The progress bar: what a terminal, a file and a notebook show; how rarely it looks at the logs."""

import io
import math
import sys
import types

import pytest

from minicnn.errors import InputError
from minicnn.training import progress
from minicnn.training.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def frames(self):
        """What was drawn, in order; empty frames left out."""
        return [frame for frame in self.getvalue().replace("\n", "\r").split("\r") if frame.strip()]


class Clock:
    """Stands for perf_counter: moves on by `tick` at every look."""

    def __init__(self, tick):
        self.now, self.tick = 100.0, tick

    def __call__(self):
        self.now += self.tick
        return self.now


def open_terminal(monkeypatch):
    # Not a fixture: pytest sets sys.stdout anew between a fixture and its test.
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    return terminal


def test_one_line_an_epoch_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(progress, "perf_counter", Clock(0.5))
    bar = ProgressBar(300, 3, epoch=2, epochs=5)
    for _ in range(3):
        bar.update(100, {"loss": 9.0})
    assert capsys.readouterr().out == ""
    bar.finish({"loss": 0.312, "accuracy": 0.88714, "val_loss": 0.0})
    bar.close()
    out = "Epoch 3/5  300 images in 1.5 s (200 img/s)  loss 0.3120  accuracy 0.8871  val_loss 0.0000\n"
    assert capsys.readouterr() == (out, "")


def test_seconds_are_those_of_the_batches_not_of_the_validation_after_them(capsys, monkeypatch):
    clock = Clock(0.5)
    monkeypatch.setattr(progress, "perf_counter", clock)
    bar = ProgressBar(100, 1)
    bar.update(100)
    clock.now += 1000
    bar.finish()
    assert capsys.readouterr().out == "Epoch 1/1  100 images in 0.5 s (200 img/s)\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.5000"), (12.34567, "12.3457"), (9e-4, "9.0000e-04"), (-1e-4, "-1.0000e-04"), (math.nan, "nan")],
)
def test_small_numbers_keep_their_digits(value, text, capsys):
    ProgressBar(1, 1, verbose=2).finish({"x": value})
    assert capsys.readouterr().out.endswith(f"  x {text}\n")


def test_bar_on_a_terminal(monkeypatch):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr(progress, "perf_counter", Clock(0.5))
    bar = ProgressBar(400, 4, epoch=0, epochs=2)
    bar.update(100, {"loss": 0.75})
    bar.update(100, lambda: {"loss": 0.5, "accuracy": 0.25})
    first, *_, last = terminal.frames()
    assert first.startswith("Epoch 1/2 |") and "0/400 img" in first
    assert last.endswith("| 200/400 img, loss 0.5000 accuracy 0.2500 200 img/s 00:01 left batch 2/4")
    bar.update(200, {})
    bar.finish({"loss": 0.5, "val_{x}": 1.0})
    assert terminal.frames()[-1] == "Epoch 1/2  400 images in 1.5 s (267 img/s)  loss 0.5000  val_{x} 1.0000"
    assert terminal.getvalue().endswith("\n") and terminal.getvalue().count("images in") == 1


def test_bar_without_totals(monkeypatch):
    terminal = open_terminal(monkeypatch)
    bar = ProgressBar(label="Predict")
    bar.update(32)
    assert terminal.frames()[-1].startswith("Predict 32 img, ") and terminal.frames()[-1].endswith(" batch 1")
    bar.close()


def test_verbose_2_gives_the_line_only_and_0_nothing(monkeypatch):
    terminal = open_terminal(monkeypatch)
    for verbose in (0, 2):
        bar = ProgressBar(10, 1, verbose=verbose)
        bar.update(10, {"loss": 1.0})
        bar.finish({"loss": 1.0})
        assert len(terminal.frames()) == verbose // 2


def test_logs_are_looked_at_ten_times_a_second_at_most(monkeypatch):
    open_terminal(monkeypatch)
    monkeypatch.setattr(progress, "perf_counter", Clock(1 / 1024))
    looks = []
    bar = ProgressBar(2048, 2048)
    for _ in range(2048):  # two seconds
        bar.update(1, lambda: looks.append(1) or {})
    assert 15 <= len(looks) <= 20
    bar.close()


@pytest.mark.parametrize("verbose", [0, 2])
def test_logs_are_never_looked_at_without_a_bar(verbose):
    bar = ProgressBar(10, 10, verbose=verbose)
    for _ in range(10):
        bar.update(1, lambda: pytest.fail("the logs were computed for nothing"))


def test_close_after_an_exception_leaves_the_bar_and_ends_the_line(monkeypatch):
    terminal = open_terminal(monkeypatch)
    bar = ProgressBar(100, 2)
    bar.update(50, {"loss": 1.0})
    bar.close()
    bar.close()
    text = terminal.getvalue()
    assert text.endswith("\n") and "50/100 img" in text
    bar.update(50, {"loss": 2.0})
    bar.finish({"loss": 2.0})
    assert terminal.getvalue() == text


def test_terminal_of_no_width_counts_as_none(monkeypatch):
    monkeypatch.setattr(progress.os, "get_terminal_size", lambda fd: types.SimpleNamespace(columns=0))
    stream = types.SimpleNamespace(isatty=lambda: True, fileno=lambda: 1)
    assert not progress._is_terminal(stream)
    monkeypatch.setattr(progress.os, "get_terminal_size", lambda fd: types.SimpleNamespace(columns=80))
    assert progress._is_terminal(stream)
    assert not progress._is_terminal(None)


def test_notebook_gets_a_bar_too(monkeypatch, capsys):
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    bar = ProgressBar(100, 2)
    bar.update(50, {"loss": 1.0})
    bar.close()
    assert "50/100 img, loss 1.0000" in capsys.readouterr().out


def test_interactive_python_without_a_kernel_is_no_notebook(monkeypatch):
    for shell in (None, types.SimpleNamespace(config={})):
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda s=shell: s))
        assert not progress._in_notebook()


@pytest.mark.parametrize("verbose", [3, "yes", None])
def test_unknown_verbosity(verbose):
    with pytest.raises(InputError, match="verbose: this is no verbosity"):
        ProgressBar(1, 1, verbose=verbose)
