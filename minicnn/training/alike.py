"""What must be the same on all ranks: checked before the first step, begun from rank 0, compared after each epoch."""

from __future__ import annotations

import json
import platform
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

import minicnn
from minicnn.backend import Array, to_host, xp_of
from minicnn.batches import Epochs
from minicnn.errors import InputError
from minicnn.ranks import Group, apart, known, within
from minicnn.training.trainer_state import difference, identity, put_aside, put_back

LOOKED_AT = 64  # samples of the data, evenly spread

_FIXES = {
    "Python, NumPy, minicnn": "install the same versions on all machines; a different one rounds differently.",
    "the data": "what shuffles or splits it needs a seed that is the same on all ranks.",
}


def check_alike(group: Group, model: Any, place: Any, **more: Any) -> None:
    """InputError, on all ranks, where they are about to train different models, or on different data."""
    if group.size == 1:
        return
    versions = [platform.python_version(), np.__version__, minicnn.__version__]
    own = {
        "Python, NumPy, minicnn": versions, "the device": model.device.partition(":")[0],
        **identity(model, place.batches),
        "the callbacks": [type(callback).__name__ for callback in place.callbacks], **more,
        "the number of validation samples": None if place.validation is None else place.validation.n,
        "the data": _fingerprint(place.batches),
    }  # fmt: skip
    ranks = [json.loads(text) for text in group.texts(json.dumps(own, default=str))]
    for what in own:
        other = next((k for k, facts in enumerate(ranks) if facts[what] != ranks[0][what]), None)
        if other is not None:
            group.speaker = 0
            here, there = difference(ranks[0][what], ranks[other][what])
            raise known(
                InputError(
                    "ranks", f"they cannot train together; what differs: {what}.", f"{here}, as on rank 0.",
                    f"{there} on rank {other}.",
                    _FIXES.get(what, "run the same script on all ranks, with the same arguments; or "
                               "minicnn.set_group(None), where each is to train a model of its own."),
                )
            )  # fmt: skip


def _fingerprint(batches: Any) -> int | None:
    """A number that changes with the data: of some samples, and all their targets."""
    arrays = getattr(batches, "arrays", None)
    if arrays is None:
        return None
    x, *others = arrays
    some = x[np.linspace(0, len(x) - 1, min(LOOKED_AT, len(x))).astype(int)]
    number = 0
    for array in (some, *others):
        number = zlib.crc32(np.ascontiguousarray(array).data, number)
    return number


def begin_alike(group: Group, model: Any, place: Any = None) -> None:
    """Everything that training changes is that of rank 0 now: drawn at the beginning, or read from a backup."""
    if group.size == 1:
        return
    optimizer: Any = model.optimizer
    arrays: dict[str, np.ndarray] = {}
    state: dict[str, Any] = {"rng": model.rng.bit_generator.state, "built": model.built}
    if optimizer is not None:
        state["iterations"] = optimizer.iterations
        state["rate"] = None if optimizer.schedule else float(optimizer.learning_rate)
        state["slots"] = [[*key, len(slots)] for key, slots in optimizer.state.items()]
        state["stored"] = optimizer._stored
    if place is not None:
        state["epochs"] = [source.state_dict() for source in _sources(place)]
        state["place"] = put_aside(place.state_dict(), arrays) if place.restored else None
        state["arrays"] = [[name, str(array.dtype), array.shape] for name, array in arrays.items()]
    told = json.loads(group.first_text(json.dumps(state)))
    if model.built:
        for array in _arrays(model):
            array[...] = group.broadcast(array)
    if optimizer is not None:
        optimizer.iterations = told["iterations"]
        optimizer._stored = None if told["stored"] is None else tuple(told["stored"])
        if told["rate"] is not None:
            optimizer.learning_rate = told["rate"]
        layers, old = model.layers_by_key, optimizer.state
        optimizer.state = {}
        for key, name, count in told["slots"]:
            p = layers[key].params[name]
            slots = old.get((key, name), ())
            slots = slots if len(slots) == count else [xp_of(p).zeros_like(p) for _ in range(count)]
            optimizer.state[key, name] = [group.broadcast(slot) for slot in slots]
    model.rng.bit_generator.state = told["rng"]
    if place is not None:
        received = {name: group.broadcast(arrays.get(name, np.empty(shape, dtype)))
                    for name, dtype, shape in told["arrays"]}  # fmt: skip
        if group.rank > 0:
            for source, epochs in zip(_sources(place), told["epochs"], strict=True):
                source.load_state_dict(epochs)
            if told["place"] is not None:
                with within(apart(group.rank)):  # what a callback writes then, rank 0 has written
                    place.load_state_dict(put_back(told["place"], received))
    group.models.add(model)


def _sources(place: Any) -> list[Epochs]:
    """The data that is shuffled and changed by a seed of its own."""
    sources = [getattr(batches, "source", None) for batches in (place.batches, place.validation)]
    return [source for source in sources if isinstance(source, Epochs)]


def _arrays(model: Any) -> Iterator[Array]:
    for layer in model.layers_by_key.values():
        yield from layer.params.values()
        yield from layer.state.values()


def check_still_alike(group: Group, model: Any, epoch: int) -> None:
    """InputError, on all ranks, where their models are no longer the same bits."""
    if group.size == 1:
        return
    number = zlib.crc32(repr([layer.trainable for layer in model.layers_by_key.values()]).encode())
    for array in _arrays(model):
        number = zlib.crc32(np.ascontiguousarray(to_host(array)).data, number)
    numbers = group.meet(f"the end of epoch {epoch + 1}", [number])[:, 0]
    others = [str(k) for k in range(group.size) if numbers[k] != numbers[0]]
    if others:
        raise known(
            InputError(
                "ranks", f"their models have become different in epoch {epoch + 1}.",
                "the same weights, to the bit, on all ranks.", f"others than rank 0's on rank {', '.join(others)}.",
                "a callback or a layer of yours draws random numbers, or looks at the rank or the clock: give it a "
                "seed that is the same on all ranks.",
            )
        )  # fmt: skip
