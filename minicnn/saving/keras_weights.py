"""Weights that Keras wrote: its older .h5 files, Keras 3's .weights.h5, and the latter inside a .keras archive.

    older (.h5)    <layer's name>/…                  attributes layer_names and weight_names tell the order
    Keras 3        layers/<class>_<number>/vars/0    numbered by class: conv2d, conv2d_1, dense; vars/0, 1, … in order
                   layers/functional/layers/…        a model inside the model
    Keras 2.12     _layer_checkpoint_dependencies/…  the same, with numbers left out, and on Windows with backslashes

First a plan is made: which data set goes into which array. Then all of it is checked and read; only then does the model
change. How the file itself is read, and what is refused: `minicnn/saving/hdf5.py`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from minicnn.backend import Array, xp_of
from minicnn.errors import BrokenFileError
from minicnn.layers.base import Layer
from minicnn.layers.network import Network
from minicnn.reading import check_finite
from minicnn.registry import snake_case
from minicnn.saving import keras_compare, keras_config
from minicnn.saving.hdf5 import File, holds_hdf5, listed, opened
from minicnn.saving.keras_config import Built
from minicnn.saving.keras_layout import Layout, keras_order

IN_ARCHIVE = "model.weights.h5"
ROOTS = ("layers", "_layer_checkpoint_dependencies")  # of a network's groups, in Keras 3 and in 2.12
KERAS_NAMES = {  # where they differ from ours
    "w": "kernel", "b": "bias", "depthwise": "depthwise_kernel", "pointwise": "pointwise_kernel",
}  # fmt: skip
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
        return KERAS_NAMES.get(self.name, self.name)


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
    """What goes where, and what does not fit. Nothing is read or changed yet.

    layout: how the numbers lie in the file. notes: what is to be said, though it is no fault.
    """

    def __init__(self, file: File, layout: Layout):
        self.file, self.layout = file, layout
        self.pairs: list[tuple[Slot, Stored]] = []
        self.problems: list[tuple[str, BrokenFileError]] = []  # (our layer's key, what is wrong)
        self.notes: list[str] = []

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
        """(layer, what the file has under its name), for the layers that are in both.

        Names that are given automatically do not count: Keras' dense_1 may be its second, ours is the first.
        """
        ours = {layer.name: layer for layer in model.layers if slots_of(layer)}
        automatic = [name for name, layer in ours.items() if name in theirs and _is_automatic(layer)]
        pairs = [(layer, theirs[name]) for name, layer in ours.items() if name in theirs and name not in automatic]
        if not pairs:
            raise self.file.broken(
                "it has no layer of any name that the model has"
                + (", but for those that were given automatically, which may mean other layers." if automatic else "."),
                f"some of {listed(ours)}.", f"{listed(theirs)}.",
                "leave by_name out to load in order, or give the layers names of their own, here and in Keras.",
            )  # fmt: skip
        if automatic:
            self.notes.append(
                f"Left out: {listed(automatic)}. These names are given automatically, by Keras and by minicnn, and may "
                f"mean other layers in {self.file.filepath}."
            )
        return pairs

    def read(self) -> Callable[[], None]:
        """Read and check all that fits; the function that is returned fills the model with it."""
        left_out = {layer for layer, _ in self.problems}
        pairs = [(slot, stored) for slot, stored in self.pairs if slot.layer not in left_out]
        arrays = []
        for slot, stored in pairs:
            array = self.file.read(stored.data, stored.path)
            check_finite(self.file.filepath, stored.path, array)
            arrays.append(self.layout.turned(slot.layer, slot.name, array))

        def fill() -> None:
            for (slot, _), array in zip(pairs, arrays, strict=True):
                slot.array[...] = xp_of(slot.array).asarray(array, slot.array.dtype)

        return fill


def _is_automatic(layer: Layer) -> bool:
    return re.fullmatch(rf"{snake_case(type(layer).__name__)}(_\d+)?", layer.name) is not None


def is_keras_file(filepath: Any) -> bool:
    """Whether a file is HDF5, or a zip with Keras' weights in it. Raises OSError where it cannot be opened."""
    return holds_hdf5(filepath, IN_ARCHIVE)


def load_weights(model: Any, filepath: Any, skip_mismatch: bool = False, by_name: bool = False) -> None:
    """Read the weights of a file that Keras wrote into a built model.

    by_name: into the layers of the same names; others keep theirs. Otherwise in the order of the layers, of those that
    have weights. skip_mismatch: leave out, with a warning, the layers that do not fit. Where the file has the network's
    configuration, channels_first is converted, and a warning names what is different in the model. h5py is needed:
    InputError without it. BrokenFileError for a file that is damaged or does not fit; the model is then as it was.
    """
    with opened(filepath, IN_ARCHIVE) as file:
        described = keras_config.described(file)
        plan = Plan(file, Layout.of(file, described, model))
        groups = _groups(file)
        if groups is None:
            _plan_older(plan, model, by_name)
        else:
            _plan_keras3(plan, model, groups, by_name)
        if plan.problems and not skip_mismatch:
            raise plan.problems[0][1]
        fill = plan.read()
        if described is not None and not by_name and not skip_mismatch:
            plan.notes += keras_compare.differences(described, model)
    for text in [*(f"Left out: {problem}" for _, problem in plan.problems), *plan.notes]:
        warnings.warn(text, stacklevel=5)
    fill()


def load_built(file: File, described: keras_config.Description, built: Built) -> None:
    """Read the weights of a whole-model file into the network that was made of its configuration."""
    plan = Plan(file, Layout.of(file, described, built.model))
    groups = _groups(file)
    if groups is None:
        stored = _older_groups(file)
        for _, name, part in built.parts:
            layer: Any = part.model if isinstance(part, Built) else part
            if layer is not None and slots_of(layer):
                if name not in stored:
                    plan.refuse(layer.name, f"{name} has no weights in it.", f"a group {name}.", f"{listed(stored)}.")
                else:
                    _match_older(plan, layer, stored[name])
    else:
        _match_built(plan, built, groups, "", "layers")
    if plan.problems:
        raise plan.problems[0][1]
    plan.read()()


def _match_built(plan: Plan, built: Built, groups: Group, key: str, where: str) -> None:
    """Each layer and the group of its own: the n-th of its class."""
    for (_, _, part), group in zip(built.parts, groups.numbered([kind for kind, _, _ in built.parts]), strict=True):
        layer: Any = part.model if isinstance(part, Built) else part
        if layer is None or not slots_of(layer):
            continue
        if group is None:
            plan.refuse(layer.name, f"{layer.name} has no weights in it.", f"a group for it in {where}.",
                        f"{listed(groups)}.")  # fmt: skip
        elif isinstance(part, Built):
            _match_built(plan, part, groups[group].inner(), f"{key}{layer.name}/", f"{where}/{group}")
        else:
            _match_group(plan, layer, groups[group], key, f"{where}/{group}")


# ---- our side --------------------------------------------------------------------------------------------------------


def slots_of(layer: Layer, key: str = "") -> list[Slot]:
    """All arrays of a layer, or of all layers of an inner model: of each layer the parameters, then the state."""
    if isinstance(layer, Network):
        return [slot for inner in keras_order(layer) for slot in slots_of(inner, f"{key}{layer.name}/")]
    return [Slot(key + layer.name, name, array, True) for name, array in layer.params.items()] + [
        Slot(key + layer.name, name, array, False) for name, array in layer.state.items()
    ]


def frozen_layers(layer: Layer, key: str = "") -> set[str]:
    """The keys of the layers in it that do not learn."""
    if isinstance(layer, Network):
        return set().union(*(frozen_layers(inner, f"{key}{layer.name}/") for inner in layer.layers))
    return set() if layer.trainable else {key + layer.name}


# ---- older files -----------------------------------------------------------------------------------------------------


def _plan_older(plan: Plan, model: Any, by_name: bool) -> None:
    groups = _older_groups(plan.file)
    if by_name:
        pairs = plan.by_name(model, groups)
    else:
        ours = [layer for layer in keras_order(model) if slots_of(layer)]
        if len(ours) != len(groups):
            raise plan.file.broken(
                "the file has weights for another number of layers.",
                f"{len(ours)}: {listed(layer.name for layer in ours)}.", f"{len(groups)}: {listed(groups)}.", _FIX,
            )  # fmt: skip
        pairs = list(zip(ours, groups.values(), strict=True))
    for layer, weights in pairs:
        _match_older(plan, layer, weights)


def _older_groups(file: File) -> dict[str, list[Stored]]:
    """The arrays of each layer that has any, by the layer's name."""
    root = file.child(file.root, "model_weights") if "model_weights" in file.root else file.root
    groups = {}
    for name in file.names(root, "layer_names"):
        group = file.child(root, name)
        weights = [Stored(path, file.child(group, path)) for path in file.names(group, "weight_names")]
        if weights:
            groups[name] = weights
    return groups


def _match_older(plan: Plan, layer: Layer, weights: list[Stored]) -> None:
    """Of one layer, or of one inner model, whose arrays an older file holds in a single list."""
    slots = slots_of(layer)
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
    for frozen in (frozen_layers(layer), set(), {slot.layer for slot in slots}):
        orders.append(sorted(slots, key=lambda slot: not slot.learned or slot.layer in frozen))  # stable
    return orders


def _alike(slot: Slot, stored: Stored) -> bool:
    """Whether shape and, where the file tells, name agree."""
    return slot.array.shape == stored.data.shape and (stored.name == slot.keras_name or stored.name not in _KNOWN)


# ---- Keras 3, and 2.12 -----------------------------------------------------------------------------------------------


class Group(dict[str, Any]):
    """A group of the file: its groups and data sets by name. given: the name that the layer has in Keras, if noted.

    skips: whether some numbers are left out in its names, as Keras 2.12 did, which counted each layer twice.
    """

    given: str | None = None
    skips = False

    def inner(self) -> Group:
        """The groups of the layers of an inner network."""
        return next((self[name] for name in ROOTS if isinstance(self.get(name), Group)), Group())

    def holds_weights(self) -> bool:
        """Whether it has arrays, or any layer inside it. Seeds of dropout lie elsewhere."""
        return bool(self.get("vars")) or any(group.holds_weights() for group in self.inner().values())

    def numbered(self, kinds: Sequence[str]) -> list[str | None]:
        """The names of the groups of layers of these classes: dense, dense_1, …; None where there is none."""
        counts: dict[str, int] = {}
        names: list[str | None] = []
        for kind in map(snake_case, kinds):
            number = counts[kind] = counts.get(kind, -1) + 1
            name: str | None = f"{kind}_{number}" if number else kind
            if self.skips:
                found = [n for n in self if re.fullmatch(rf"{kind}(_\d+)?", n)]
                found.sort(key=lambda n: int(n.removeprefix(kind).lstrip("_") or 0))
                name = found[number] if number < len(found) else None
            names.append(name if name in self else None)
        return names


def _groups(file: File) -> Group | None:
    """The groups of the network's layers; None of an older file."""
    if "model_weights" in file.root or any(name.startswith("layer_names") for name in file.root.attrs):
        return None
    found = _tree(file, file.root, [name for name in file.root if name.split("\\")[0] in ROOTS])
    return found.inner() if found else None


def _tree(file: File, group: Any, names: Sequence[str]) -> Group:
    """What lies under these names of a group. On Windows, Keras 2.12 wrote paths with backslashes as single names."""
    tree = Group()
    for name in names:
        child, place = file.child(group, name), tree
        *path, last = name.split("\\")
        for step in path:
            place = place.setdefault(step, Group())
            place.skips = step == ROOTS[1]
        if hasattr(child, "keys"):
            inside = _tree(file, child, list(child))
            inside.skips = last == ROOTS[1]
            if last == "vars" and isinstance(child.attrs.get("name"), str):
                place.given = child.attrs["name"]
            if isinstance(place.get(last), Group):
                place[last].update(inside)
            else:
                place[last] = inside
        else:
            place[last] = child
    return tree


def _plan_keras3(plan: Plan, model: Any, groups: Group, by_name: bool) -> None:
    if not by_name:
        _match_keras3(plan, model, groups, "", "layers")
        return
    named = {group.given: name for name, group in groups.items() if isinstance(group, Group) and group.given}
    if not named:
        raise plan.file.broken(
            "this file does not tell the names of its layers.", "a file of a newer Keras, to load it by name.",
            f"numbered groups: {listed(groups)}.", "leave by_name out: the layers are then taken in order.",
        )  # fmt: skip
    for layer, name in plan.by_name(model, named):
        _match_group(plan, layer, groups[name], "", f"layers/{name}")


def _match_keras3(plan: Plan, model: Any, groups: Group, key: str, where: str) -> None:
    """The n-th layer of its class here is the n-th of its class there."""
    taken: list[str | None] = []
    inner = _inner_models(plan, model, groups)
    layers = keras_order(model)
    names = groups.numbered([type(layer).__name__ for layer in layers])
    for layer, name in zip(layers, names, strict=True):
        if isinstance(layer, Network) and inner:
            name = inner.pop(0)
        if not slots_of(layer):
            continue
        taken.append(name)
        if name is not None:
            _match_group(plan, layer, groups[name], key, f"{where}/{name}")
        else:
            plan.refuse(key + layer.name, f"{key}{layer.name} does not fit: the file has no such layer.",
                        f"a group for it in {where}.", f"{listed(groups)}.")  # fmt: skip
    for name, group in groups.items():
        if name not in taken and isinstance(group, Group) and group.holds_weights():
            plan.refuse(key + name, f"{where}/{name} has no place in the model.",
                        f"only {listed(taken)}.", f"weights of {name}, too.")  # fmt: skip


def _match_group(plan: Plan, layer: Layer, group: Group, key: str, where: str) -> None:
    """One layer, or one inner model, and its group."""
    if isinstance(layer, Network):
        _match_keras3(plan, layer, group.inner(), f"{key}{layer.name}/", f"{where}/layers")
        return
    slots, numbered = slots_of(layer, key), group.get("vars", {})
    if set(numbered) != {str(i) for i in range(len(slots))}:
        plan.refuse(
            key + layer.name, f"{key}{layer.name} does not fit: the file has another number of arrays for it.",
            f"{len(slots)}: {listed(slot.name for slot in slots)}.", f"{len(numbered)} in {where}.",
        )  # fmt: skip
        return
    plan.add([(slot, Stored(f"{where}/vars/{i}", numbered[str(i)])) for i, slot in enumerate(slots)])


def _inner_models(plan: Plan, model: Any, groups: Group) -> list[str]:
    """The groups of the inner models, in the model's order. Each class of models has been numbered on its own."""
    found = [name for name, group in groups.items() if isinstance(group, Group) and group.inner()]
    given = {groups[name].given: name for name in found}
    ours = [layer.name for layer in keras_order(model) if isinstance(layer, Network)]
    if set(ours) == set(given):
        return [given[name] for name in ours]
    if len({name.rstrip("0123456789").rstrip("_") for name in found}) > 1:
        raise plan.file.broken(
            "the order of its inner models cannot be told.", "inner models of one class, or with the names of ours.",
            f"{listed(found)}.", f"give the inner models of {model.name} the names that they have in Keras.",
        )  # fmt: skip
    return sorted(found, key=lambda name: (len(name), name))
