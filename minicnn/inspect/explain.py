"""Which numbers made this number? For any number of a trace, in the forward pass, the backward pass and the update.

    print(t.explain("conv2d_1", "y", (0, 4, 5, 3)))
    print(t.explain("conv2d_1", "dw", (0, 1, 2, 3)))
    print(t.explain("dense_1", "update:b", 3))

An explanation is a list of steps, the last of which gives the number. Most steps are sums of products: every product
names the tensor and the index of both its factors. The others (an exponential, a square root) show the numbers filled
in. All is computed again, in float64, from the recorded operands, and compared with the recorded result: what a float32
kernel has rounded is the difference. So an explanation is also a check of the trace, and of the kernel that wrote it.

what: "y"; "z", before an activation; with a backward pass also "dy", "dx", "dz", "dw" and so on for every parameter,
and "update:w" and so on for a parameter after the step, or a moving statistic ("update" alone: the first parameter).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn.errors import InputError, unknown_name
from minicnn.inspect.explanation import Case, Explanation, Index, index_text, one, place_text
from minicnn.inspect.record import LayerTrace
from minicnn.inspect.rules import RULES, input_gradient, loss_gradient, moving_statistic
from minicnn.inspect.update_rules import update

if TYPE_CHECKING:
    from minicnn.inspect.trace import Trace


def explain(t: Trace, layer: str, what: str, index: Any) -> Explanation:
    """The explanation of one number of the trace: of `what` (see above) of the layer of this name, at `index`.

    index: one whole number for each axis, the batch axis first; a negative one counts from the end. Raises
    UnknownNameError for a name that is not there, InputError for an index that does not fit, for what needs a
    backward pass where the trace has none, and for a layer, loss or optimizer class that is not minicnn's.
    """
    record = t[layer]
    known = _whats(t, record)
    if what == "update" and record.params:
        what = f"update:{next(iter(record.params))}"
    if what not in known:
        if t.optimizer is None and str(what).startswith(("d", "update")):
            raise InputError(
                f"{layer}.{what}", "this trace has no backward pass.", "a trace with targets.", "one without.",
                "trace again with targets: model.trace(x, y), for a compiled model.",
            )  # fmt: skip
        raise unknown_name(f"what to explain of {layer}", what, known)
    array = known[what]
    case = Case(t, record, what, _checked_index(f"{layer}.{what}", index, array.shape))
    _solve(case)
    scale = max(case.scale, case.steps[-1].size)
    title = f"{layer}.{place_text(what, case.index)}"
    return Explanation(
        title, case.formula, case.steps, float(array[case.index]), scale, str(array.dtype), "\n".join(case.notes)
    )


def parse(t: Trace, text: str) -> tuple[str, str, Index]:
    """(layer, what, index) of "conv2d_1[0, 4, 5, 3]", "conv2d_1:dw[0, 1, 2, 3]" or "dense_1:update:b[3]".

    Without what it is y. Raises InputError, and UnknownNameError for the name of a layer.
    """
    found = re.fullmatch(r"(.+?)\s*\[\s*(-?\d+(?:\s*,\s*-?\d+)*)\s*,?\s*\]", text.strip())
    if found is None:
        raise InputError(
            "at", "this is not the place of a number.", "LAYER[INDEX] or LAYER:WHAT[INDEX], for example "
            '"conv2d_1[0, 4, 5, 3]", "conv2d_1:dw[0, 1, 2, 3]" or "dense_1:update:b[3]".', f"{text!r}.",
            f"name one of the layers {', '.join(layer.key for layer in t.layers)}.",
        )  # fmt: skip
    head, index = found[1], tuple(int(n) for n in found[2].split(","))
    for layer in sorted(t.layers, key=lambda layer: -len(layer.key)):  # a name may hold a colon itself
        if head == layer.key or head.startswith(f"{layer.key}:"):
            return layer.key, head[len(layer.key) + 1 :].strip() or "y", index
    name, _, what = head.partition(":")
    return t[name].key, what, index


def _whats(t: Trace, layer: LayerTrace) -> dict[str, np.ndarray]:
    """What can be explained of a layer, and the recorded arrays."""
    known = {"y": layer.y}
    known |= {name: layer.kept[name] for name in ("h", "z") if layer.weighted and name in layer.kept}
    if layer.dy is not None and layer.dx is not None:
        parts = {f"dx{k}": part for k, part in enumerate(layer.dx)} if isinstance(layer.dx, list) else {"dx": layer.dx}
        known |= {"dy": layer.dy, **parts}
        known |= {name: layer.kept[name] for name in ("dh", "dz") if name in layer.kept}
        known |= {f"d{name}": g for name, g in layer.grads.items()}
        known |= {f"update:{name}": p for name, p in (layer.updated | layer.state_after).items()}
    return known


def _checked_index(where: str, index: Any, shape: Index) -> Index:
    numbers = tuple(index) if isinstance(index, (Sequence, np.ndarray)) and not isinstance(index, str) else (index,)
    whole = all(hasattr(n, "__index__") and not isinstance(n, bool) for n in numbers)
    if whole and len(numbers) == len(shape) and all(-s <= n < s for n, s in zip(numbers, shape, strict=True)):
        return tuple(int(n) % s for n, s in zip(numbers, shape, strict=True))
    problem, fix = "this is not an index.", "pass whole numbers."
    if whole and len(numbers) != len(shape):
        problem = f"the index has {len(numbers)} numbers, the array {len(shape)} axes."
        fix = f"for example {index_text([s // 2 for s in shape])}."
    elif whole:
        axis = next(k for k, (n, s) in enumerate(zip(numbers, shape, strict=True)) if not -s <= n < s)
        problem = f"the index is out of range on axis {axis}."
        fix = f"on axis {axis} count from 0 to {shape[axis] - 1}."
    expected = f"one whole number for each axis of the shape {shape}."
    received = index_text(numbers) if whole else repr(index)
    raise InputError(where, problem, expected, f"{received}.", fix)


def _solve(case: Case) -> None:
    """Find the rule for what is asked, and let it answer."""
    what, kind = case.what, case.layer.kind
    if what.startswith("update:"):
        name = what.removeprefix("update:")
        moving_statistic(case, name) if name in case.layer.state_after else update(case, name)
        return
    if kind not in RULES:
        raise case.refuse("nothing is known about this layer class.", f"a layer of class {kind}.")
    if what == "dy":
        _dy(case)
    elif what == "dz":
        input_gradient(case)
    elif what in ("y", "z"):
        RULES[kind]["y"](case)
    else:
        RULES[kind][what if what in RULES[kind] else what.rstrip("0123456789")](case)  # "dx1": dx of an input


def _dy(case: Case) -> None:
    """The gradient with respect to a layer's output: dx of the layers that read it, or that of the loss."""
    t = case.t
    here = next(i for i, layer in enumerate(t.layers) if layer is case.layer)
    readers = [(layer, k) for layer in t.layers for k, source in enumerate(layer.inputs) if source == here]
    cases = [Case(t, layer, f"dx{k}" if isinstance(layer.dx, list) else "dx", case.index) for layer, k in readers]
    if len(cases) > 1:
        case.formula = "dy = the sum of what all readers of y send back: here gradients meet"
        sent = [_whats(t, inner.layer)[inner.what][case.index] for inner in cases]
        parts = (one(f"{inner.layer.key}.{inner.what}", case.index, dx) for inner, dx in zip(cases, sent, strict=True))
        case.sum("dy", "the sum of the dx of its readers", *parts)
        return
    if cases:
        inner = cases[0]
        _solve(inner)
        case.steps, case.formula, case.scale = inner.steps, inner.formula, inner.scale
        head = f"This is {inner.what} of the next layer, {inner.layer.key}, whose numbers these are."
        case.notes = [head, *inner.notes]
        return
    if t.fused:
        case.note(
            "This is dz, the gradient with respect to the logits, not to y: the loss and the last activation are "
            "differentiated as one, and the gradient with respect to y itself is never computed."
        )
    loss_gradient(case)
