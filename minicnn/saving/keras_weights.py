"""Weights that Keras wrote: its older .h5 files, Keras 3's .weights.h5, and the latter inside a .keras archive.

    older (.h5)    <layer's name>/…                  attributes layer_names and weight_names tell the order
    Keras 3        layers/<class>_<number>/vars/0    numbered by class: conv2d, conv2d_1, dense; vars/0, 1, … in order
                   layers/functional/layers/…        a model inside the model

First a plan is made: which data set goes into which array. Then all of it is checked and read; only then does the model
change. How the file itself is read, and what is refused: `minicnn/saving/hdf5.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from minicnn.backend import Array, xp_of
from minicnn.errors import BrokenFileError
from minicnn.layers.base import Layer
from minicnn.layers.network import Network
from minicnn.reading import check_finite
from minicnn.registry import snake_case
from minicnn.saving.hdf5 import File, holds_hdf5, listed, opened

_IN_ARCHIVE = "model.weights.h5"
_KERAS_NAMES = {"w": "kernel", "b": "bias"}  # where they differ from ours
_KNOWN = {"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"}
_FIX = "load the file into the architecture that it was saved from; or, to take over only what fits, "
_FIX += "pass by_name=True or skip_mismatch=True."


class Slot(NamedTuple):
    """An array of our model that waits for numbers. layer: its key in the model, such as "vgg16/block1_conv1"."""

    layer: str
    name: str
    array: Array
    learned: bool

    @property
    def keras_name(self) -> str:
        return _KERAS_NAMES.get(self.name, self.name)


class Stored(NamedTuple):
    """A data set in the file. path: as the file calls it, such as "block1_conv1/kernel"."""

    path: str
    data: Any

    @property
    def layer(self) -> str:
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2].removesuffix(":0")


class Plan:
    """What goes where, and what does not fit. Nothing is read or changed yet."""

    def __init__(self, file: File):
        self.file = file
        self.pairs: list[tuple[Slot, Stored]] = []
        self.problems: list[tuple[str, BrokenFileError]] = []  # (our layer's key, what is wrong)

    def add(self, pairs: Sequence[tuple[Slot, Stored]]) -> None:
        self.pairs += pairs
        for slot, stored in pairs:
            if slot.array.shape != stored.data.shape:
                self.refuse(
                    slot.layer, f"{slot.layer} does not fit: its {slot.name} has another shape.",
                    f"shape {slot.array.shape}.", f"{stored.path} of shape {stored.data.shape}.",
                )  # fmt: skip

    def refuse(self, layer: str, problem: str, expected: str, received: str) -> None:
        self.problems.append((layer, self.file.broken(problem, expected, received, _FIX)))

    def by_name(self, model: Any, theirs: dict[str, Any]) -> list[tuple[Layer, Any]]:
        """(layer, what the file has under its name), for the layers that are in both."""
        ours = {layer.name: layer for layer in model.layers if _slots(layer)}
        pairs = [(layer, theirs[name]) for name, layer in ours.items() if name in theirs]
        if not pairs:
            raise self.file.broken(
                "it has no layer of any name that the model has.", f"some of {listed(ours)}.", f"{listed(theirs)}.",
                "leave by_name out to load in order, or give the layers the names of the file.",
            )  # fmt: skip
        return pairs


def is_keras_file(filepath: Any) -> bool:
    """Whether a file is HDF5, or a zip with Keras' weights in it. Raises OSError where it cannot be opened."""
    return holds_hdf5(filepath, _IN_ARCHIVE)


def load_weights(model: Any, filepath: Any, skip_mismatch: bool = False, by_name: bool = False) -> None:
    """Read the weights of a file that Keras wrote into a built model.

    by_name: into the layers of the same names; others keep theirs. Otherwise in the order of the layers, of those that
    have weights. skip_mismatch: leave out, with a warning, the layers that do not fit. h5py is needed: InputError
    without it. BrokenFileError for a file that is damaged or does not fit; the model is then as it was.
    """
    with opened(filepath, _IN_ARCHIVE) as file:
        plan = Plan(file)
        (_plan_keras3 if "layers" in file.root else _plan_older)(plan, model, by_name)
        if plan.problems and not skip_mismatch:
            raise plan.problems[0][1]
        left_out = {layer for layer, _ in plan.problems}
        pairs = [(slot, stored) for slot, stored in plan.pairs if slot.layer not in left_out]
        arrays = [file.read(stored.data, stored.path) for _, stored in pairs]
        for (_, stored), array in zip(pairs, arrays, strict=True):
            check_finite(filepath, stored.path, array)
    for _, problem in plan.problems:
        warnings.warn(f"Left out: {problem}", stacklevel=4)
    for (slot, _), array in zip(pairs, arrays, strict=True):
        slot.array[...] = xp_of(slot.array).asarray(array, slot.array.dtype)


# ---- our side --------------------------------------------------------------------------------------------------------


def _slots(layer: Layer, key: str = "") -> list[Slot]:
    """All arrays of a layer, or of all layers of an inner model: of each layer the parameters, then the state."""
    if isinstance(layer, Network):
        return [slot for inner in layer.layers for slot in _slots(inner, f"{key}{layer.name}/")]
    return [Slot(key + layer.name, name, array, True) for name, array in layer.params.items()] + [
        Slot(key + layer.name, name, array, False) for name, array in layer.state.items()
    ]


def _frozen(layer: Layer, key: str = "") -> set[str]:
    if isinstance(layer, Network):
        return set().union(*(_frozen(inner, f"{key}{layer.name}/") for inner in layer.layers))
    return set() if layer.trainable else {key + layer.name}


# ---- older files -----------------------------------------------------------------------------------------------------


def _plan_older(plan: Plan, model: Any, by_name: bool) -> None:
    file, root = plan.file, plan.file.root
    if "model_weights" in root:
        root = file.child(root, "model_weights")
    groups = {}
    for name in file.names(root, "layer_names"):
        group = file.child(root, name)
        weights = [Stored(path, file.child(group, path)) for path in file.names(group, "weight_names")]
        if weights:
            groups[name] = weights
    if by_name:
        pairs = plan.by_name(model, groups)
    else:
        ours = [layer for layer in model.layers if _slots(layer)]
        if len(ours) != len(groups):
            raise file.broken(
                "the file has weights for another number of layers.",
                f"{len(ours)}: {listed(layer.name for layer in ours)}.", f"{len(groups)}: {listed(groups)}.", _FIX,
            )  # fmt: skip
        pairs = list(zip(ours, groups.values(), strict=True))
    for layer, weights in pairs:
        _match_older(plan, layer, weights)


def _match_older(plan: Plan, layer: Layer, weights: list[Stored]) -> None:
    """Of one layer, or of one inner model, whose arrays an older file holds in a single list."""
    slots = _slots(layer)
    if len(slots) != len(weights):
        plan.refuse(
            layer.name, f"{layer.name} does not fit: the file has another number of arrays for it.",
            f"{len(slots)}: {listed(f'{slot.layer}/{slot.name}' for slot in slots)}.",
            f"{len(weights)}: {listed(stored.path for stored in weights)}.",
        )  # fmt: skip
        return
    candidates = [list(zip(order, weights, strict=True)) for order in _orders(layer, slots, weights)]
    best = min(candidates, key=lambda pairs: sum(not _alike(*pair) for pair in pairs))
    for slot, stored in best:
        if slot.array.shape == stored.data.shape and not _alike(slot, stored):
            plan.refuse(layer.name, f"{slot.layer} does not fit: the file has something else in its place.",
                        f"a {slot.keras_name}.", f"{stored.path}.")  # fmt: skip
            return
    plan.add(best)


def _orders(layer: Layer, slots: list[Slot], weights: list[Stored]) -> list[list[Slot]]:
    """The orders in which Keras may have written a layer or an inner model.

    By the file's names, where they are ours. Else learned arrays first, and the others after them; what was frozen when
    it was saved counts as not learned, so frozen here as Keras wants it, or nothing frozen, or all.
    """
    named = {(slot.layer.rpartition("/")[2], slot.keras_name): slot for slot in slots}
    names = [(stored.layer.rpartition("/")[2], stored.name) for stored in weights]
    if len(named) == len(slots) and set(named) == set(names):
        return [[named[name] for name in names]]
    orders = []
    for frozen in (_frozen(layer), set(), {slot.layer for slot in slots}):
        orders.append(sorted(slots, key=lambda slot: not slot.learned or slot.layer in frozen))  # stable
    return orders


def _alike(slot: Slot, stored: Stored) -> bool:
    """Whether shape and, where the file tells, name agree."""
    return slot.array.shape == stored.data.shape and (stored.name == slot.keras_name or stored.name not in _KNOWN)


# ---- Keras 3 ---------------------------------------------------------------------------------------------------------


def _plan_keras3(plan: Plan, model: Any, by_name: bool) -> None:
    layers = plan.file.child(plan.file.root, "layers")
    if not by_name:
        _match_keras3(plan, model, layers, "", "layers")
        return
    named = {given: name for name in layers if (given := _given_name(plan, layers, name))}
    if not named:
        raise plan.file.broken(
            "this file does not tell the names of its layers.", "a file of a newer Keras, to load it by name.",
            f"numbered groups: {listed(layers)}.", "leave by_name out: the layers are then taken in order.",
        )  # fmt: skip
    for layer, name in plan.by_name(model, named):
        _match_group(plan, layer, plan.file.child(layers, name), "", f"layers/{name}")


def _match_keras3(plan: Plan, model: Any, layers: Any, key: str, where: str) -> None:
    """The n-th layer of its class here is the n-th of its class there. layers: the group `where`."""
    numbers: dict[str, int] = {}
    taken: list[str] = []
    inner = _inner_models(plan, model, layers)
    for layer in model.layers:
        kind = snake_case(type(layer).__name__)
        number = numbers[kind] = numbers.get(kind, -1) + 1
        name = f"{kind}_{number}" if number else kind
        if isinstance(layer, Network) and inner:
            name = inner.pop(0)
        if not _slots(layer):
            continue
        taken.append(name)
        if name in layers:
            _match_group(plan, layer, plan.file.child(layers, name), key, f"{where}/{name}")
        else:
            plan.refuse(key + layer.name, f"{key}{layer.name} does not fit: the file has no such layer.",
                        f"a group {where}/{name}.", f"{listed(layers)}.")  # fmt: skip
    for name in layers:
        if name not in taken and _holds_weights(plan, plan.file.child(layers, name)):
            plan.refuse(key + name, f"{where}/{name} has no place in the model.",
                        f"only {listed(taken)}.", f"weights of {name}, too.")  # fmt: skip


def _match_group(plan: Plan, layer: Layer, group: Any, key: str, where: str) -> None:
    """One layer, or one inner model, and its group."""
    if isinstance(layer, Network):
        inner = plan.file.child(group, "layers") if "layers" in group else {}
        _match_keras3(plan, layer, inner, f"{key}{layer.name}/", f"{where}/layers")
        return
    slots, numbered = _slots(layer, key), plan.file.child(group, "vars") if "vars" in group else {}
    if set(numbered) != {str(i) for i in range(len(slots))}:
        plan.refuse(
            key + layer.name, f"{key}{layer.name} does not fit: the file has another number of arrays for it.",
            f"{len(slots)}: {listed(slot.name for slot in slots)}.", f"{len(numbered)} in {where}.",
        )  # fmt: skip
        return
    plan.add([
        (slot, Stored(f"{where}/vars/{i}", plan.file.child(numbered, str(i)))) for i, slot in enumerate(slots)
    ])  # fmt: skip


def _inner_models(plan: Plan, model: Any, layers: Any) -> list[str]:
    """The groups of the inner models, in the model's order. Each class of models has been numbered on its own."""
    found = [name for name in layers if "layers" in plan.file.child(layers, name)]
    given = {_given_name(plan, layers, name): name for name in found}
    ours = [layer.name for layer in model.layers if isinstance(layer, Network)]
    if set(ours) == set(given):
        return [given[name] for name in ours]
    if len({name.rstrip("0123456789").rstrip("_") for name in found}) > 1:
        raise plan.file.broken(
            "the order of its inner models cannot be told.", "inner models of one class, or with the names of ours.",
            f"{listed(found)}.", f"give the inner models of {model.name} the names that they have in Keras.",
        )  # fmt: skip
    return sorted(found, key=lambda name: (len(name), name))


def _holds_weights(plan: Plan, group: Any) -> bool:
    """Whether a group of a layer, or of any layer inside it, has arrays. Seeds of dropout lie elsewhere."""
    if "vars" in group and len(plan.file.child(group, "vars")):
        return True
    inner = plan.file.child(group, "layers") if "layers" in group else {}
    return any(_holds_weights(plan, plan.file.child(inner, name)) for name in inner)


def _given_name(plan: Plan, layers: Any, group: str) -> str | None:
    """The layer's own name, which newer versions of Keras 3 note beside its arrays."""
    child = plan.file.child(layers, group)
    name = plan.file.child(child, "vars").attrs.get("name") if "vars" in child else None
    return name if isinstance(name, str) else None
