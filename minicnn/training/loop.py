"""fit, evaluate and predict: epochs, batches, callbacks and what is printed. One batch: `minicnn/training/step.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np

from minicnn.backend import to_host
from minicnn.batches import Epochs
from minicnn.ranks import get_group, in_step, together
from minicnn.training.alike import begin_alike, check_alike, check_still_alike
from minicnn.training.allocator import keep_memory
from minicnn.training.callbacks.base import CallbackList
from minicnn.training.callbacks.history import History
from minicnn.training.checks import (
    check_frequency,
    require_compiled,
    warn_of_a_single_sample,
    warn_of_hidden_weights,
    warn_that_it_is_lost,
    warn_unless_probabilities,
    whole,
)
from minicnn.training.data import ArrayBatches
from minicnn.training.finite import Guard
from minicnn.training.graph import Step, step_for
from minicnn.training.inference import Plan
from minicnn.training.inputs import Batches, hold_back, parts_of, prediction_batches, training_batches
from minicnn.training.interrupts import Interrupts
from minicnn.training.memory import check_step_fits
from minicnn.training.processes import Processes
from minicnn.training.profiling import each, run
from minicnn.training.progress import ProgressBar, check_verbose, progress_bar
from minicnn.training.shards import Workers
from minicnn.training.step import learned, train_step
from minicnn.training.trainer_state import RunningMeans, TrainerState
from minicnn.training.transfer import on_device

Logs = dict[str, float]


def fit(
    model: Any, x: Any, y: Any, batch_size: int | None, epochs: int, verbose: str | int, callbacks: Any,
    validation_split: float, validation_data: Any, shuffle: bool, class_weight: Any, sample_weight: Any,
    initial_epoch: int, steps_per_epoch: int | None, validation_steps: int | None, validation_batch_size: int | None,
    validation_freq: Any, finite: bool = False,
) -> History:  # fmt: skip
    """See `Model.fit`."""
    require_compiled(model, "fit")
    model.optimizer.attach(model)
    check_verbose(verbose)
    group = get_group()
    verbose = verbose if group.rank == 0 else 0
    batch_size = whole("batch_size", 32 if batch_size is None else batch_size)
    epochs, initial_epoch = whole("epochs", epochs, 0), whole("initial_epoch", initial_epoch, 0)
    if validation_split and validation_data is None:
        x, y, sample_weight, validation_data = hold_back(x, y, validation_split, sample_weight)
    names = "x", "y", "steps_per_epoch"
    batches = training_batches(
        model, x, y, batch_size, steps_per_epoch, shuffle, names, sample_weight, class_weight, epochs - initial_epoch
    )
    is_validated = check_frequency(validation_freq)
    validation = None
    if validation_data is not None:
        val_x, val_y, val_weights = parts_of(validation_data)
        val_size = batch_size if validation_batch_size is None else validation_batch_size
        val_size = whole("validation_batch_size", val_size)
        names = "val_x", "val_y", "validation_steps"
        times = sum(is_validated(epoch + 1) for epoch in range(initial_epoch, epochs))
        validation = training_batches(
            model, val_x, val_y, val_size, validation_steps, False, names, val_weights, epochs=times
        )

    layers = [node.layer for node in model.nodes]
    warn_unless_probabilities(model.loss, layers, stacklevel=5)
    warn_of_hidden_weights(layers, stacklevel=5)
    history = History()
    events = CallbackList(
        [*(callbacks if isinstance(callbacks, (list, tuple)) else [callbacks] if callbacks else []), history],
        model, verbose=verbose, epochs=epochs, steps=len(batches) or None,
    )  # fmt: skip
    model.history, model.stop_training = history, False
    place = TrainerState(model, batches, validation, events.callbacks, initial_epoch)
    events.set_place(place)
    check_alike(group, model, place, epochs=[initial_epoch, epochs], shuffle=shuffle)
    guard = None
    if finite or any(callback.needs_nan_check for callback in events.callbacks):
        guard = Guard(model, place, thorough=finite)
    lost = False
    with keep_memory(), _workers(model, batch_size, batches, "fit") as workers:
        check_step_fits(model, -(-_samples_of_a_batch(batches, batch_size) // group.size), workers.shards)
        step = step_for(model, workers) if guard is None else guard.step
        steps = (epochs - initial_epoch) * (len(batches) or math.inf)
        workers.processes = Processes.for_fit(model, workers.shards, steps, group.size)
        events.call("on_train_begin")  # a backup may now have moved `place` to where an earlier run ended
        begin_alike(group, model, place)
        while place.epoch < epochs and not model.stop_training:
            epoch = place.epoch
            if place.step == 0:
                events.call("on_epoch_begin", epoch)
            shown = progress_bar(batches.samples, len(batches) or None, epoch, epochs, verbose, done=place.done())
            with shown as bar:
                logs = _train_epoch(model, step, place, workers, events, bar)
                if not (lost or model.stop_training or math.isfinite(logs["loss"])):
                    lost = True
                    warn_that_it_is_lost(model, logs["loss"], epoch, stacklevel=5)
                if validation is not None and is_validated(epoch + 1):
                    judged = _evaluate(model, validation, workers, events)
                    logs.update({f"val_{name}": value for name, value in judged.items()})
                bar.finish(logs)
            place.end_epoch(logs)
            check_still_alike(group, model, epoch)
            events.call("on_epoch_end", epoch, logs)
        if epochs > initial_epoch:
            model.optimizer.finalize(learned(model))
        events.call("on_train_end", place.logs)
    return history


def _train_epoch(
    model: Any, step: Step, place: TrainerState, workers: Workers, events: CallbackList, bar: ProgressBar
) -> Logs:
    """One pass over the training batches: the mean loss and metrics over all samples, as they were being learned."""
    if place.step == 0:
        place.running = RunningMeans(model)
    epoch = place.batches.epoch(first=place.step)
    with Interrupts() as interrupts, closing(epoch) as batches:  # ends the thread that makes them, whatever happens
        for batch in each("data", on_device(batches, model.device)):
            events.call("on_train_batch_begin", place.step)
            with interrupts.waiting():
                what = f"step {place.step + 1} of epoch {place.epoch + 1}"
                x, y, *weights = workers.meet(what, place.batches.cut.lengths, *batch)
                if workers.samples == 0:
                    place.batches.leave_out()
                    continue
                if workers.samples == 1 and not place.warned:
                    place.warned = warn_of_a_single_sample(model, place.batches, stacklevel=6)
                with in_step(workers.group):
                    place.advance(*step(model, x, y, workers, *weights), workers.samples)
            if events.listens("on_train_batch_end"):
                events.call("on_train_batch_end", place.step - 1, place.running.logs())
            bar.update(workers.samples, place.running.logs)
            if model.stop_training:
                break
    return place.running.logs()


def evaluate(
    model: Any, x: Any, y: Any, batch_size: int | None, verbose: str | int, sample_weight: Any, steps: int | None,
    callbacks: Any,
) -> Logs:  # fmt: skip
    """See `Model.evaluate`."""
    require_compiled(model, "evaluate")
    check_verbose(verbose)
    verbose = verbose if get_group().rank == 0 else 0
    batch_size = whole("batch_size", 32 if batch_size is None else batch_size)
    batches = training_batches(model, x, y, batch_size, steps, False, ("x", "y", "steps"), sample_weight)
    shown = progress_bar(batches.samples, len(batches) or None, verbose=verbose, label="Evaluate")
    with _workers(model, batch_size, batches, "evaluate") as workers, shown as bar:
        logs = _evaluate(model, batches, workers, CallbackList(callbacks, model), bar)
        bar.finish(logs)
    return logs


def _evaluate(
    model: Any, batches: Batches, workers: Workers, events: CallbackList, bar: ProgressBar | None = None
) -> Logs:
    running, plan = RunningMeans(model), None
    model.stop_evaluating = False  # a callback may set it
    events.call("on_test_begin")
    with Interrupts() as interrupts, closing(batches.epoch()) as epoch:
        for step, batch in enumerate(each("data", on_device(epoch, model.device))):
            events.call("on_test_batch_begin", step)
            if plan is None or _may_change_weights(events, "test", batches):
                plan = Plan(model)  # only now: a generator may have shown just now what a sample is
            with interrupts.waiting():
                x, y, *weights = workers.meet(f"batch {step + 1} of evaluate", batches.cut.lengths, *batch)
                if workers.samples == 0:
                    batches.leave_out()
                    continue
                with in_step(workers.group):
                    running.add(*plan.evaluate(x, y, workers, *weights), workers.samples)
            batches.advance()
            if events.listens("on_test_batch_end"):
                events.call("on_test_batch_end", step, running.logs())
            if bar is not None:
                bar.update(workers.samples, running.logs)
            if model.stop_evaluating:
                break
    logs = running.logs()
    events.call("on_test_end", logs)
    return logs


def _may_change_weights(events: CallbackList, what: str, batches: Batches) -> bool:
    """Whether code of the user's own runs between the batches, a callback or what makes the data: then what the plan
    was made of may be another thing already.
    """
    own_data = not isinstance(batches, ArrayBatches) and not isinstance(batches.source, Epochs)
    return own_data or events.listens(f"on_{what}_batch_begin") or events.listens(f"on_{what}_batch_end")


def predict(
    model: Any, x: Any, batch_size: int | None, verbose: str | int, steps: int | None, callbacks: Any = None
) -> np.ndarray:
    """See `Model.predict`."""
    check_verbose(verbose)
    verbose = verbose if get_group().rank == 0 else 0
    batch_size = whole("batch_size", 32 if batch_size is None else batch_size)
    batches = prediction_batches(model, x, batch_size, steps)
    if len(batches) == 1 and verbose == "auto":
        verbose = 0
    shown = progress_bar(batches.samples, len(batches) or None, verbose=verbose, label="Predict")
    events, outputs, plan = CallbackList(callbacks, model), [], None
    running = _workers(model, batch_size, batches, "predict")
    with running as workers, Interrupts() as interrupts, closing(batches.epoch()) as epoch, shown as bar:
        model.stop_predicting = False  # a callback may set it
        events.call("on_predict_begin")
        inputs = ((x_batch,) for x_batch, _ in epoch)  # the targets stay where they are
        for step, (x_batch,) in enumerate(each("data", on_device(inputs, model.device))):
            events.call("on_predict_batch_begin", step)
            if plan is None or _may_change_weights(events, "predict", batches):
                plan = Plan(model)  # only now: a generator may have shown just now what a sample is
            with interrupts.waiting():
                (x_batch,) = workers.meet(f"batch {step + 1} of predict", batches.cut.lengths, x_batch)
                if workers.samples == 0:
                    batches.leave_out()
                    continue
                with in_step(workers.group):
                    outputs.append(workers.rows(to_host(plan.predict(x_batch, workers))))
            events.call("on_predict_batch_end", step, {"outputs": outputs[-1]})
            bar.update(workers.samples, dict)
            if model.stop_predicting:
                break
        events.call("on_predict_end")
        bar.finish({})
    return np.concatenate(outputs)


def train_on_batch(model: Any, x: Any, y: Any, sample_weight: Any, class_weight: Any) -> Logs:
    """See `Model.train_on_batch`."""
    require_compiled(model, "train_on_batch")
    model.optimizer.attach(model)
    return _on_batch(model, "train_on_batch", train_step, x, y, sample_weight, class_weight)


def test_on_batch(model: Any, x: Any, y: Any, sample_weight: Any) -> Logs:
    """See `Model.test_on_batch`."""
    require_compiled(model, "test_on_batch")
    return _on_batch(model, "test_on_batch", lambda model, *batch: Plan(model).evaluate(*batch), x, y, sample_weight)


def _on_batch(model: Any, name: str, step: Step, x: Any, y: Any, sample_weight: Any, class_weight: Any = None) -> Logs:
    """One step on one batch, and what it says of that."""
    if y is None and isinstance(x, (tuple, list)) and len(x) in (2, 3):
        x, y, sample_weight = (*x, sample_weight)[:3]
    names = "x", "y", "steps"
    batches = training_batches(model, x, y, max(1, len(x)), None, False, names, sample_weight, class_weight)
    running = RunningMeans(model)
    with together(f"the end of {name}"), model.device, _workers(model, len(x), batches, name) as workers:
        for batch in on_device(batches, model.device):
            x_batch, y_batch, *weights = workers.meet(name, batches.cut.lengths, *batch)
            with in_step(workers.group):
                running.add(*step(model, x_batch, y_batch, workers, *weights), workers.samples)
    return running.logs()


@contextmanager
def _workers(model: Any, batch_size: int, batches: Batches, name: str) -> Iterator[Workers]:
    """The threads for batches of this size; `minicnn.profile()` counts the block as a run of this name."""
    group = get_group()
    workers = Workers.for_model(model, -(-_samples_of_a_batch(batches, batch_size) // group.size))
    workers.group = group
    if group.size > 1 and name != "fit":
        group.meet(f"{name}, with {batches.n} samples in batches of {batches.batch_size}")
        if model not in group.models:
            begin_alike(group, model)
    with run(name, model, workers.threads), workers:
        yield workers


def _samples_of_a_batch(batches: Batches, batch_size: int) -> int:
    """As far as it is known: a generator's batches may be of any size."""
    size = batches.batch_size or batch_size
    return min(size, batches.samples or size)
