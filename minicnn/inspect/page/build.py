"""From a trace to the page: which numbers are embedded, and how.

The page recomputes what it shows, so the operands must be there. They are, as far as MOST_BYTES allows: LEVELS are
tried one after the other, from everything to little, and the page says which one it is. What is left out is left out by
whole rows and columns; no number that is embedded is rounded.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from minicnn import kernels, layers, losses, optimizers
from minicnn.errors import InputError
from minicnn.files import atomic_write
from minicnn.inspect.trace import LayerTrace, Trace
from minicnn.kernels.geometry import pair, resolve_padding
from minicnn.layers.base import ActivatedLayer, Context

MOST_BYTES = 4_000_000

# More images than this, and the share of each in a gradient is not listed: this image's, and that of all others.
MOST_SHARES = 32

# The differences of the gradient check: multiply-accumulates that all of them together may take, and their steps.
MOST_MACS = 2_000_000_000
STEPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10)

# Parameter arrays up to this size are never trimmed.
SMALL = 4096


@dataclass(frozen=True)
class Level:
    """How much is embedded. None: no limit.

    forward, backward: edge of the window of each map (activations, gradients) that is embedded with all channels.
    channels: how many channels of a layer are chosen; of those the weights are embedded, and whole maps if `maps`.
    """

    forward: int | None = None
    backward: int | None = None
    channels: int | None = None
    maps: bool = True


LEVELS = (
    Level(),
    Level(channels=16),
    Level(channels=8),
    Level(backward=16, channels=8),
    Level(backward=10, channels=4),
    Level(backward=8, channels=4),
    Level(forward=16, backward=12, channels=4),
    Level(forward=12, backward=8, channels=3),
    Level(forward=8, backward=6, channels=2),
    Level(forward=8, backward=5, channels=2, maps=False),
    Level(forward=6, backward=4, channels=1, maps=False),
)


def write_page(trace: Trace, path: Any, image: int = 0) -> None:
    """Write the page about sample `image` of the traced batch to `path`. Raises as page_html, or OSError."""
    text = page_html(trace, image)
    with atomic_write(path) as file:
        file.write(text.encode())


def page_html(trace: Trace, image: int = 0) -> str:
    """The page as one string: HTML, style, script and numbers; at most MOST_BYTES. The same trace gives the same page.

    Raises InputError where there is no such image, or where even the smallest page would be too large.
    """
    if not 0 <= image < len(trace.x):
        raise InputError(
            "page", "there is no such image in the trace.", f"a number from 0 to {len(trace.x) - 1}.",
            f"image={image}.", "choose one of the traced batch.",
        )  # fmt: skip
    checks = _gradient_checks(trace)
    for number, level in enumerate(LEVELS):
        record = _Record(trace, image, level)
        data = record.build() | {"level": number, "check": checks}
        if record.pool.encoded_size() < MOST_BYTES:
            text = _assemble(trace, data | {"pool": record.pool.encoded()})
            if len(text.encode()) <= MOST_BYTES:
                return text
    raise InputError(
        "page", "the page would be too large.", f"at most {MOST_BYTES} bytes.", "a larger one, after all trimming.",
        "trace a smaller batch or a smaller model.",
    )  # fmt: skip


def _assemble(trace: Trace, data: dict[str, Any]) -> str:
    folder = resources.files(__package__)
    style, script = ((folder / name).read_text("utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; script-src '{_sha256(script)}'; style-src '{_sha256(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "POLICY": policy, "TITLE": html.escape(f"{trace.model_name}: inside one step"),
        "STYLE": style, "SCRIPT": script,
        # With < written as an escape, nothing in the numbers or names can end the script block or open a comment.
        "DATA": json.dumps(_plain(data), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    }  # fmt: skip
    pieces = (folder / "template.html").read_text("utf-8").split("@")
    text = "".join(parts.get(piece, piece) for piece in pieces)
    return text.encode(errors="replace").decode()  # names of files may hold what no text may


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _plain(value: Any) -> Any:
    """As JSON can hold it; numbers that are not finite become their names."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.integer, np.bool_)):
        return value.item()
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else {"nan": "NaN", "inf": "Infinity"}.get(str(value), "-Infinity")
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


class _Pool:
    """Arrays as base64, each once: the output of one layer is the input of the next."""

    def __init__(self) -> None:
        self.index: dict[tuple[str, bytes], int] = {}
        self.chunks: list[bytes] = []

    def add(self, array: np.ndarray) -> tuple[int, str]:
        kind = {"b": "u1", "u": "u1"}.get(array.dtype.kind) or {"f8": "f8"}.get(array.dtype.str[1:])
        if array.dtype.kind in "iu" and array.dtype.itemsize > 1:
            kind = "i4"
        kind = kind or "f4"
        raw = np.ascontiguousarray(array).astype("<" + kind if kind != "u1" else "u1").tobytes()
        key = (kind, hashlib.sha256(raw).digest())
        if key not in self.index:
            self.index[key] = len(self.chunks)
            self.chunks.append(raw)
        return self.index[key], kind

    def encoded_size(self) -> int:
        return sum(-(-len(chunk) // 3) * 4 for chunk in self.chunks)

    def encoded(self) -> list[str]:
        return [base64.b64encode(chunk).decode() for chunk in self.chunks]


Choice = list[int] | None  # indices along an axis; None: all


class _Record:
    """The numbers of one page at one level of trimming."""

    def __init__(self, trace: Trace, image: int, level: Level):
        self.trace, self.image, self.level = trace, image, level
        self.pool = _Pool()
        self.tensors: list[dict[str, Any]] = []
        self.chosen = self._choose()

    def build(self) -> dict[str, Any]:
        t, n = self.trace, len(self.trace.x)
        one = [self.image]
        self.rows = [[k] for k in range(n)] if n <= MOST_SHARES else [one, [k for k in range(n) if k != self.image]]
        result: dict[str, Any] = {
            "model": t.model_name, "training": t.training, "classes": t.class_names, "image": self.image, "batch": n,
            "rows": [r[0] if len(r) == 1 else -1 for r in self.rows], "steps": STEPS,
            "loss": t.loss, "penalty": t.penalty, "loss_after": t.loss_after, "loss_function": t.loss_function,
            "optimizer": t.optimizer,
            "trim": {"forward": self.level.forward, "backward": self.level.backward, "channels": self.level.channels,
                     "maps": self.level.maps},
        }  # fmt: skip
        result["layers"] = [self._layer(i, layer) for i, layer in enumerate(t.layers)]
        if t.y_true is not None and t.losses is not None:
            result["losses"] = self._add(t.losses)
            result["target"] = self._add(self._target())
            if t.y_true.ndim == 1 and t.y_true.dtype.kind in "iu":
                result["label"] = int(t.y_true[self.image])
        result["tensors"] = self.tensors
        return result

    # ---- choosing -------------------------------------------------------------------------------------------------

    def _choose(self) -> list[Choice]:
        """For each place between two layers, the channels of which weights and whole maps are embedded."""
        k = self.level.channels
        chosen = [self._strongest(self.trace.x, k)]
        for layer in self.trace.layers:
            same = layer.x.shape[-1] == layer.y.shape[-1] and layer.kind not in ("Conv2D", "Dense", "Flatten")
            chosen.append(chosen[-1] if same else self._strongest(layer.y, k))
        return chosen

    def _strongest(self, array: np.ndarray, k: int | None) -> Choice:
        sample = array[self.image].astype(np.float64)
        if k is not None and sample.ndim == 1:
            k *= 2  # a channel is a number here, not a map
        if k is None or sample.shape[-1] <= max(k, 16 if sample.ndim == 1 else 0):
            return None
        score = np.nan_to_num(sample.reshape(-1, sample.shape[-1]).std(axis=0) if sample.ndim > 1 else np.abs(sample))
        return sorted(int(c) for c in np.argsort(-score, kind="stable")[:k])

    def _target(self) -> np.ndarray:
        """This image's target in the shape of its prediction."""
        t = self.trace
        assert t.y_true is not None
        if t.y_true.ndim == 1 and t.y_true.dtype.kind in "iu":
            return np.eye(t.y_pred.shape[-1], dtype=t.y_pred.dtype)[t.y_true[self.image]]
        return t.y_true[self.image]

    # ---- embedding ------------------------------------------------------------------------------------------------

    def _add(self, array: np.ndarray, *selections: tuple[Choice, ...]) -> int:
        """Embed the selected parts of an array (all of it without selections); returns the tensor's number."""
        parts = []
        for selection in selections or (tuple(None for _ in array.shape),):
            part = array
            for axis, choice in enumerate(selection):
                if choice is not None:
                    part = part.take(choice, axis=axis)
            number, kind = self.pool.add(part)
            parts.append({"at": list(selection), "pool": number, "kind": kind})
        spec = {"shape": list(array.shape), "parts": parts}
        if spec in self.tensors:
            return self.tensors.index(spec)
        self.tensors.append(spec)
        return len(self.tensors) - 1

    def _map(self, array: np.ndarray, window: int | None, chosen: Choice) -> int:
        """One sample: whole, or a window in the middle with all channels and the chosen channels whole."""
        if array.ndim != 3 or window is None or max(array.shape[:2]) <= window:
            return self._add(array)
        middle = tuple(_middle(size, window) for size in array.shape[:2])
        whole = ((None, None, chosen),) if self.level.maps else ()
        return self._add(array, (*middle, None), *whole)

    def _layer(self, i: int, layer: LayerTrace) -> dict[str, Any]:
        k, before, after = self.image, self.chosen[i], self.chosen[i + 1]
        out: dict[str, Any] = {
            "key": layer.key, "kind": layer.kind, "config": layer.config, "in": before, "out": after,
            "size": sum(p.size for p in layer.params.values()) + sum(s.size for s in layer.state.values()),
        }  # fmt: skip
        ids: dict[str, int] = {}
        for name, array in (("x", layer.x), ("y", layer.y), ("z", layer.kept.get("z"))):
            if array is not None:
                ids[name] = self._map(array[k], self.level.forward, before if name == "x" else after)
        for name, array in (("dy", layer.dy), ("dx", layer.dx), ("dz", layer.kept.get("dz"))):
            if array is not None:
                ids[name] = self._map(array[k], self.level.backward, before if name == "dx" else after)
        if layer.kind == "Dropout" and "mask" in layer.kept:
            ids["mask"] = self._map(layer.kept["mask"][k], self.level.forward, after)
        if "winner" in layer.kept:
            ids["winner"] = self._map(layer.kept["winner"][k], self.level.forward, after)
        groups = {"p": layer.params, "g": layer.grads, "a": layer.applied, "u": layer.updated}
        groups |= {"s": layer.slots, "t": layer.slots_after, "r": layer.state, "q": layer.state_after}
        for group, arrays in groups.items():
            for name, array in arrays.items():
                ids[f"{group}/{name}"] = self._parameter(group, array, before, after)
        if layer.kind == "BatchNormalization":
            out["of_batch"] = bool(layer.kept["of_batch"])
            for name in ("mean", "var"):
                ids[name] = self._parameter("r", layer.kept[name], before, after)
        if layer.kind in ("Conv2D", "MaxPooling2D", "AveragePooling2D"):
            out["geo"] = _geometry(layer)
        if layer.kept.get("z") is not None:
            out["act"] = _activation(layer)
        out["fused"] = layer is self.trace.layers[-1] and _fused(self.trace.loss_function, out.get("act"))
        self._shares(layer, before, after, ids)
        out["t"] = ids
        return out

    def _parameter(self, group: str, array: np.ndarray, before: Choice, after: Choice) -> int:
        if array.size <= SMALL or (before is None and after is None):
            return self._add(array)
        if array.ndim == 1:
            return self._add(array, (after,))
        rest = (None,) * (array.ndim - 2)
        if group == "p":  # an output needs all weights of its column, an input those of its row
            return self._add(array, (*rest, None, after), (*rest, before, None))
        return self._add(array, (*rest, before, after))

    def _shares(self, layer: LayerTrace, before: Choice, after: Choice, ids: dict[str, int]) -> None:
        """What each image of the batch adds to sums over the batch."""
        dz = layer.kept.get("dz", layer.dy)
        x = layer.x
        if layer.kind == "Dense" and dz is not None:
            x, dz = x.reshape(-1, x.shape[-1]), dz.reshape(-1, dz.shape[-1])
            ids["bx"] = self._add(x, *(() if x.size <= SMALL else ((None, before),)))
            ids["bdz"] = self._add(dz, *(() if dz.size <= SMALL else ((None, after),)))
        if layer.kind == "Conv2D" and dz is not None:
            w = layer.params["w"]
            if w.size <= SMALL:
                before = after = None
            ins, outs = _all(before, w.shape[2]), _all(after, w.shape[3])
            geo, some = _geometry(layer), w[:, :, ins][:, :, :, outs]
            dw = np.zeros((len(self.rows), *some.shape), w.dtype)
            db = np.zeros((len(self.rows), len(outs)), w.dtype)
            for row, images in enumerate(self.rows):
                _, dw[row], db[row] = kernels.conv2d_backward(
                    dz[images][..., outs], x[images][..., ins], some, geo["s"], geo["pads"], geo["d"], need_dx=False
                )
            ids["share/w"] = self._given(dw, (len(self.rows), *w.shape), (None, None, None, before, after))
            ids["share/b"] = self._given(db, (len(self.rows), w.shape[3]), (None, after))
        if layer.kind == "BatchNormalization":
            axes = tuple(range(1, x.ndim))[:-1]
            mean, x_hat = layer.kept["mean"].astype(np.float64), layer.kept["x_hat"]
            sums = {"x": x.astype(np.float64), "xx": (x - mean) ** 2}
            if layer.dy is not None:
                sums |= {"dy": layer.dy.astype(np.float64), "dyx": layer.dy * x_hat.astype(np.float64)}
            for name, array in sums.items():
                each = array.sum(axis=axes)
                share = np.stack([each[images].sum(axis=0) for images in self.rows]).astype(x.dtype)
                ids[f"share/{name}"] = self._add(share, (None, after))
        for name, factor in _constraint_factors(self.trace, layer).items():
            full = np.broadcast_to(factor, layer.params[name].shape)
            ids[f"factor/{name}"] = self._parameter("g", full, before, after)

    def _given(self, array: np.ndarray, shape: tuple[int, ...], selection: tuple[Choice, ...]) -> int:
        """Embed an array that was computed for the selected indices only."""
        number, kind = self.pool.add(array)
        self.tensors.append({"shape": list(shape), "parts": [{"at": list(selection), "pool": number, "kind": kind}]})
        return len(self.tensors) - 1


def _middle(size: int, window: int) -> Choice:
    if size <= window:
        return None
    start = (size - window) // 2
    return list(range(start, start + window))


def _all(choice: Choice, size: int) -> list[int]:
    return list(range(size)) if choice is None else choice


def _geometry(layer: LayerTrace) -> dict[str, Any]:
    c = layer.config
    if layer.kind == "Conv2D":
        k, s, d = layer.params["w"].shape[:2], pair(c["strides"]), pair(c["dilation_rate"])
    else:
        k, d = pair(c["pool_size"]), (1, 1)
        s = k if c["strides"] is None else pair(c["strides"])
    return {"k": k, "s": s, "d": d, "pads": resolve_padding(layer.x.shape[1:3], k, s, d, c["padding"])}


def _activation(layer: LayerTrace) -> dict[str, Any]:
    """The activation's name and its options, wherever the layer keeps them."""
    c = layer.config
    if layer.kind in ("ReLU", "LeakyReLU"):
        return {"name": "relu", "slope": c["negative_slope"], "max": c.get("max_value")}
    if layer.kind in ("ELU", "Softmax"):
        return {"name": layer.kind.lower(), "alpha": c.get("alpha", 1.0)}
    name = c["activation"]
    return {"name": "relu", "slope": 0.2} if name == "leaky_relu" else {"name": name, "slope": 0.0, "alpha": 1.0}


def _fused(loss: dict[str, Any] | None, act: dict[str, Any] | None) -> bool:
    """Whether the loss differentiates by the logits of this last layer (see minicnn/losses.py)."""
    if loss is None or act is None or loss["config"].get("from_logits"):
        return False
    own = {"softmax": ("CategoricalCrossentropy", "SparseCategoricalCrossentropy"), "sigmoid": ("BinaryCrossentropy",)}
    return loss["class_name"] in own.get(act["name"], ())


def _constraint_factors(t: Trace, layer: LayerTrace) -> dict[str, np.ndarray]:
    """What MaxNorm and UnitNorm multiply the stepped weights by: the page cannot know it from a few of them."""
    factors: dict[str, np.ndarray] = {}
    for name, argument in (("w", "kernel_constraint"), ("b", "bias_constraint")):
        constraint = layer.config.get(argument)
        if not layer.applied or name not in layer.applied or not isinstance(constraint, dict) or t.optimizer is None:
            continue
        known = constraint["class_name"] in ("MaxNorm", "UnitNorm") and hasattr(optimizers, t.optimizer["class_name"])
        if not known:
            continue
        config = t.optimizer["config"] | {"clipnorm": None, "clipvalue": None, "global_clipnorm": None}
        optimizer = optimizers.get({"class_name": t.optimizer["class_name"], "config": config})
        optimizer.schedule, optimizer.learning_rate = None, t.optimizer["learning_rate"]
        optimizer.iterations = t.optimizer["iterations"]
        slots = [layer.slots[f"{name}/{slot}"].copy() for slot in optimizer.slots]
        p = layer.params[name].copy()
        optimizer.state = {("", name): slots}
        optimizer.apply({("", name): p}, {("", name): [layer.applied[name].copy()]})
        axis = constraint["config"].get("axis", 0)
        norms = np.sqrt(np.sum(np.square(p), axis=axis if isinstance(axis, int) else tuple(axis), keepdims=True))
        most = constraint["config"].get("max_value") if constraint["class_name"] == "MaxNorm" else 1
        top = norms.clip(0, most) if constraint["class_name"] == "MaxNorm" else np.ones_like(norms)
        factors[name] = top / (1e-7 + norms)
    return factors


# ---- the gradient check: losses at w + h and w - h, which the page makes a quotient of -----------------------------


def _gradient_checks(t: Trace) -> list[dict[str, Any]]:
    """For some weights of each parameter array: the loss at w ± h in float64 and float32, and the exact gradient.

    Computed from the last layer to the first, until MOST_MACS is used up. Layers that minicnn does not know end it.
    """
    if t.loss_function is None or not hasattr(losses, t.loss_function["class_name"]):
        return []
    checks: list[dict[str, Any]] = []
    macs, left = 0, MOST_MACS
    for i in range(len(t.layers) - 1, -1, -1):
        record = t.layers[i]
        if layers.named(record.kind) is None or record.config.get("activation", "") not in _known_activations():
            break
        macs += _macs(record)
        for name in record.grads:
            for index in _weights_to_check(record.grads[name]):
                left -= 3 * len(STEPS) * macs  # a float32 run counts half
                if left >= 0:
                    checks.append(_check_weight(t, i, name, index))
    return checks


def _known_activations() -> set[Any]:
    return {"", "linear", "relu", "sigmoid", "tanh", "elu", "gelu", "softmax", "leaky_relu"}


def _macs(record: LayerTrace) -> int:
    w = record.params.get("w")
    return record.y.size * (1 if w is None else w.size // w.shape[-1])


def _weights_to_check(grad: np.ndarray) -> list[int]:
    """The weight of the largest gradient, and one in the middle."""
    order = np.argsort(-np.abs(grad).reshape(-1), kind="stable")
    return sorted({int(order[0]), int(order[len(order) // 3])}, key=lambda k: int(np.flatnonzero(order == k)[0]))


def _check_weight(t: Trace, i: int, name: str, index: int) -> dict[str, Any]:
    at = tuple(int(v) for v in np.unravel_index(index, t.layers[i].params[name].shape))
    recorded = t.layers[i].grads[name][at]
    result: dict[str, Any] = {"layer": i, "param": name, "index": at, "recorded": recorded}
    # Added: what the difference of two losses, each near 1 in float64, cannot tell from 0.
    result["noise"] = _noise(t.layers[i], name, at, 1e-6 + _lost_digits(t)) + 2.0**-39
    for kind in ("float64", "float32"):
        tail = _Tail(t, i, kind)
        w = tail.layers[0].params[name]
        start, pairs = w[at].copy(), []
        for h in STEPS:
            values = []
            for sign in (1, -1):
                w[at] = start + w.dtype.type(sign * h)
                values.append(tail.loss())
            w[at] = start
            pairs.append(values)
        result[kind] = pairs
        if kind == "float64":
            result["exact"] = tail.gradient(name, at)
    return result


def _lost_digits(t: Trace) -> float:
    """The relative error of p - t, where the way back begins: of a p close to t, float32 keeps few digits beyond t."""
    dz = t.layers[-1].kept.get("dz")
    if not t.fused or dz is None:
        return 0.0
    largest = len(dz) * np.abs(dz.reshape(len(dz), -1)).max(axis=1)  # of each sample; the most certain one counts
    return 2.0**-22 / max(float(largest.min()), 2.0**-24)


def _noise(record: LayerTrace, name: str, at: tuple[int, ...], share: float) -> float:
    """What the float32 gradient of a parameter may be off by: this share of all that was added up for it.

    In front of a batch normalisation a bias has gradient 0: there the recorded number is nothing but this.
    """
    dz = record.kept.get("dz", record.dy)
    assert dz is not None
    factor = {"w": record.x, "gamma": record.kept.get("x_hat")}.get(name)
    largest = 1.0 if factor is None else float(np.abs(factor).max())
    return share * largest * float(np.abs(dz[..., at[-1]], dtype=np.float64).sum())


class _Tail:
    """The layers from one on, in another precision, on what this one read: a function of its parameters."""

    def __init__(self, t: Trace, first: int, kind: str):
        self.t, self.first, self.dtype = t, first, np.dtype(kind)
        self.layers = []
        for record in t.layers[first:]:
            layer = record.made()
            assert layer is not None  # _gradient_checks ends at a layer that is unknown
            layer.params = {name: p.astype(kind) for name, p in record.params.items()}
            layer.state = {name: s.astype(kind) for name, s in record.state.items()}
            self.layers.append(layer)
        self.x = t.layers[first].x.astype(kind)
        loss = t.loss_function
        assert loss is not None and t.optimizer is not None and t.y_true is not None
        self.cost = losses.get(loss)
        self.target = t.y_true if t.y_true.dtype.kind in "iu" else t.y_true.astype(kind)
        self.step = t.optimizer["iterations"]

    def _forward(self) -> tuple[np.ndarray, list[Context]]:
        pages, y = [], self.x
        for k, layer in enumerate(self.layers, start=self.first):
            page = Context(training=self.t.training, need_backward=True, step=self.step, seed=self.t.seed + k)
            y = layer.forward(y, page)
            pages.append(page)
        return y, pages

    def loss(self) -> float:
        y, pages = self._forward()
        each = self.cost.per_sample(self.target, y, pages[-1] if isinstance(self.layers[-1], ActivatedLayer) else None)
        return float(each.mean(dtype=self.dtype))

    def gradient(self, name: str, at: tuple[int, ...]) -> float:
        y, pages = self._forward()
        dy = self.cost.gradient(self.target, y, pages[-1])
        for layer, page in zip(reversed(self.layers), reversed(pages), strict=True):
            dy = layer.backward(dy, page)
        return float(pages[0].grads[name][at])
