"""Callbacks: what happens between the steps of `fit`, `evaluate` and `predict`.

A callback talks to the model through a few names only: get_weights, set_weights, save, save_weights,
stop_training and optimizer.learning_rate. All callbacks of a call see the same `logs`, in the order of the
list: what one adds to them (ReduceLROnPlateau: the learning rate), the next ones find.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from minicnn.arguments import in_words
from minicnn.errors import InputError, unknown_name
from minicnn.ranks import get_group
from minicnn.training.profiling import stage

Logs: TypeAlias = dict[str, Any] | None  # name -> number: "loss", the metrics' names, "val_loss", ...


class Callback:
    """Base class: override the hooks that are wanted; each is called with what Keras calls it with.

    model: the model in training. params: {"verbose", "epochs", "steps"}. Epochs and batches count from 0.
    A hook may set self.model.stop_training = True: training stops after the epoch's current batch.

    state_keys: the names of the attributes that change as training goes on. With a BackupAndRestore beside it they are
    written down and come back when the run is resumed (after on_train_begin; in the middle of an epoch without a
    second on_epoch_begin). They may be numbers, texts, arrays, and lists and dicts of those.
    """

    state_keys: tuple[str, ...] = ()
    priority = 0  # hooks are called in the order of the list; those of a higher priority after the others'
    needs_nan_check = False  # whether fit shall look where NaN or infinity begins, and leave it in place.not_finite

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = in_words(cls.__init__)  # type: ignore[method-assign]

    @in_words
    def __init__(self) -> None:
        self.model: Any = None
        self.params: dict[str, Any] = {}
        self.place: Any = None

    def set_model(self, model: Any) -> None:
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def set_place(self, place: Any) -> None:
        """place: a minicnn.training.trainer_state.TrainerState: how far this call of fit has come."""
        self.place = place

    def state_dict(self) -> dict[str, Any]:
        """What has to be known to go on as if nothing had happened."""
        return {name: getattr(self, name) for name in self.state_keys}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what state_dict returned in an earlier run."""
        for name in self.state_keys:
            setattr(self, name, state[name])

    def on_train_begin(self, logs: Logs = None) -> None: ...

    def on_train_end(self, logs: Logs = None) -> None: ...

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None: ...

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None: ...

    def on_batch_begin(self, batch: int, logs: Logs = None) -> None: ...

    def on_batch_end(self, batch: int, logs: Logs = None) -> None: ...

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self.on_batch_end(batch, logs)

    def on_test_begin(self, logs: Logs = None) -> None: ...

    def on_test_end(self, logs: Logs = None) -> None: ...

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None: ...

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None: ...

    def on_predict_begin(self, logs: Logs = None) -> None: ...

    def on_predict_end(self, logs: Logs = None) -> None: ...

    def on_predict_batch_begin(self, batch: int, logs: Logs = None) -> None: ...

    def on_predict_batch_end(self, batch: int, logs: Logs = None) -> None: ...


# The hooks, and how many arguments each takes: (logs), or (epoch, logs) and (batch, logs).
HOOKS = {name: 1 + ("epoch" in name or "batch" in name) for name in vars(Callback) if name.startswith("on_")}


class CallbackList:
    """Calls the same hook of several callbacks, in order.

    Only callbacks that override a hook are called: an unused hook costs nothing at every batch.
    """

    def __init__(self, callbacks: Iterable[Callback] | Callback | None = None, model: Any = None, **params: Any):
        self.callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                name = getattr(callback, "__name__", type(callback).__name__)
                raise InputError(
                    "callbacks",
                    problem="this is not a callback.",
                    expected="instances of minicnn.callbacks.Callback.",
                    received=f"{callback!r}.",
                    fix=f"create an instance, {name}(...)."
                    if inspect.isclass(callback)
                    else "derive it from minicnn.callbacks.Callback, or wrap functions in a LambdaCallback.",
                )
            callback.set_model(model)
            callback.set_params(params)
        self.model, self.group = model, get_group()
        self.callbacks.sort(key=lambda callback: callback.priority)
        self._listeners = {
            hook: [getattr(callback, hook) for callback in self.callbacks if _listens(callback, hook)] for hook in HOOKS
        }

    def listens(self, hook: str) -> bool:
        """Whether a callback overrides this hook. If not, nobody need compute the logs for it."""
        return bool(self._listeners[hook])

    def set_place(self, place: Any) -> None:
        for callback in self.callbacks:
            callback.set_place(place)

    def call(self, hook: str, *args: Any) -> None:
        """Call this hook of all callbacks: events.call("on_epoch_end", epoch, logs). Logs that are left out are {}."""
        if len(args) < HOOKS[hook]:
            args = (*args, {})
        for listener in self._listeners[hook]:
            with stage("callbacks"):
                listener(*args)
        if self.group.size > 1 and self._listeners[hook]:
            self._agree(hook)

    def _agree(self, hook: str) -> None:
        """What the callbacks of rank 0 have decided holds on all ranks."""
        model, optimizer = self.model, self.model.optimizer
        sets_rate = optimizer is not None and not optimizer.schedule
        flags = ("stop_training", "stop_evaluating", "stop_predicting")
        own = [*(getattr(model, flag) for flag in flags), float(optimizer.learning_rate) if sets_rate else 0.0]
        *decided, rate = self.group.meet(f"what follows {hook}", own)[0, : len(own)]
        for flag, value in zip(flags, decided, strict=True):
            setattr(model, flag, bool(value))
        if sets_rate and rate != own[-1]:
            optimizer.learning_rate = float(rate)


def _listens(callback: Callback, hook: str) -> bool:
    """Whether a callback overrides a hook; those of training batches call the older on_batch_... ones."""
    names = (hook, hook.replace("train_", "")) if hook.startswith("on_train_batch") else (hook,)
    cls = type(callback)
    return any(name in vars(callback) or getattr(cls, name) is not getattr(Callback, name) for name in names)


class LambdaCallback(Callback):
    """A callback made of functions: LambdaCallback(on_epoch_end=lambda epoch, logs: print(logs["loss"]))."""

    def __init__(self, **hooks: Callable[..., Any] | None):
        super().__init__()
        for name, function in hooks.items():
            if name not in HOOKS:
                raise unknown_name("LambdaCallback hook", name, HOOKS)
            if function is not None:
                setattr(self, name, function)
