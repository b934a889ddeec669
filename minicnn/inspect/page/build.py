"""From a trace to the page: which numbers are embedded, and how.

The page recomputes what it shows, so the operands must be there. They are, as far as MAX_BYTES allows: LEVELS are
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
from typing import TYPE_CHECKING, Any

import numpy as np

from minicnn import constraints, kernels, optimizers
from minicnn.errors import InputError
from minicnn.files import atomic_write
from minicnn.inspect.explanation import base_key, uses
from minicnn.inspect.page import story
from minicnn.inspect.page.checks import STEPS, Place, gradient_checks
from minicnn.inspect.record import LayerTrace
from minicnn.inspect.rules import Windows, activation_of
from minicnn.training.shards import Workers

if TYPE_CHECKING:
    from minicnn.inspect.trace import Trace

MAX_BYTES = 4_000_000

# More images than this, and the share of each in a gradient is not listed: this image's, and that of all others.
MAX_SHARES = 32

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


# The weighted layers whose sums the page works out. Of the others it shows what was recorded.
WORKED_OUT = ("Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "Dense")

# The script, in the order in which its parts are joined.
SCRIPT = ("numbers.js", "arithmetic.js", "drawing.js", "views.js", "walk.js", "frame.js")


def write_page(trace: Trace, path: Any, image: int | None = None) -> None:
    """Write the page about sample `image` of the traced batch to `path`. Raises as page_html, or OSError."""
    text = page_html(trace, image)
    with atomic_write(path) as file:
        file.write(text.encode())


def page_html(trace: Trace, image: int | None = None) -> str:
    """The page as one string: HTML, style, script and numbers; at most MAX_BYTES. The same trace gives the same page.

    image: which one of the batch it shows; None: the one with the largest loss, of which most can be learned.
    Raises InputError where there is no such image, or where even the smallest page would be too large.
    """
    if image is None:
        image = story.image_of(trace)
    if not isinstance(image, (int, np.integer)) or not 0 <= image < len(trace.x):
        raise InputError(
            "page", "there is no such image in the trace.", f"a number from 0 to {len(trace.x) - 1}.",
            f"image={image!r}.", "choose one of the traced batch.",
        )  # fmt: skip
    with Workers(1):  # small products, for which BLAS with several threads would wait more than it computes
        weight = story.weight_of(trace, image)
        checks = gradient_checks(trace, weight)
        for number, level in enumerate(LEVELS):
            record = _Record(trace, image, level, weight)
            data = record.build() | {"level": number, "check": checks}
            if record.pool.encoded_size() < MAX_BYTES:
                text = _assemble(trace, data | {"pool": record.pool.encoded()})
                if len(text.encode()) <= MAX_BYTES:
                    return text
    raise InputError(
        "page", "the page would be too large.", f"at most {MAX_BYTES} bytes.", "a larger one, after all trimming.",
        "trace a smaller batch or a smaller model.",
    )  # fmt: skip


def _assemble(trace: Trace, data: dict[str, Any]) -> str:
    folder = resources.files(__package__)
    style = (folder / "page.css").read_text("utf-8")
    script = '"use strict";\n(() => {\n' + "".join((folder / name).read_text("utf-8") for name in SCRIPT) + "})();\n"
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

    def __init__(self, trace: Trace, image: int, level: Level, weight: Place | None):
        self.trace, self.image, self.level, self.weight = trace, image, level, weight
        self.pool = _Pool()
        self.tensors: list[dict[str, Any]] = []
        self.before, self.after = self._choose()

    def build(self) -> dict[str, Any]:
        t, n = self.trace, len(self.trace.x)
        one = [self.image]
        self.rows = [[k] for k in range(n)] if n <= MAX_SHARES else [one, [k for k in range(n) if k != self.image]]
        result: dict[str, Any] = {
            "model": t.model_name, "training": t.training, "classes": t.class_names, "image": self.image, "batch": n,
            "rows": [r[0] if len(r) == 1 else -1 for r in self.rows], "steps": STEPS, "story": self.weight is not None,
            "loss": t.loss, "penalty": t.penalty, "loss_after": t.loss_after, "loss_function": t.loss_function,
            "optimizer": t.optimizer,
            "trim": {"forward": self.level.forward, "backward": self.level.backward, "channels": self.level.channels,
                     "maps": self.level.maps},
        }  # fmt: skip
        result["x"] = self._map(t.x[self.image], self.level.forward, self._strongest(t.x, self.level.channels))
        result["layers"] = [self._layer(i, layer) for i, layer in enumerate(t.layers)]
        if t.y_true is not None and t.losses is not None:
            result["losses"] = self._add(t.losses)
            result["target"] = self._add(self._target())
            if t.y_true.ndim == 1 and t.y_true.dtype.kind in "iu":
                result["label"] = int(t.y_true[self.image])
        result["tensors"] = self.tensors
        return result

    # ---- choosing -------------------------------------------------------------------------------------------------

    def _choose(self) -> tuple[list[Choice], list[Choice]]:
        """For what each layer reads and writes, the channels of which weights and whole maps are embedded."""
        k = self.level.channels
        before: list[Choice] = []
        after: list[Choice] = []
        for i, layer in enumerate(self.trace.layers):
            source = layer.inputs[0]
            before.append(self._strongest(self.trace.x, k) if source < 0 else after[source])
            x = layer.x[0] if isinstance(layer.x, list) else layer.x
            mixed = layer.kind == "Flatten" or (layer.weighted and layer.kind != "DepthwiseConv2D")
            same = x.shape[-1] == layer.y.shape[-1] and not mixed
            after.append(before[-1] if same else self._strongest(layer.y, k))
            if self.weight is not None and self.weight[0] == i:  # the walk's weight is in the file
                *_, c, o = np.unravel_index(self.weight[2], layer.params[self.weight[1]].shape)
                before[-1], after[-1] = _with(before[-1], int(c)), _with(after[-1], int(o))
        return before, after

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
        k, before, after = self.image, self.before[i], self.after[i]
        out: dict[str, Any] = {
            "key": layer.key, "kind": layer.kind, "config": layer.config, "inputs": layer.inputs,
            "in": before, "out": after,
            "size": sum(p.size for p in layer.params.values()) + sum(s.size for s in layer.state.values()),
        }  # fmt: skip
        ids: dict[str, int] = {}
        kept = layer.kept if not layer.weighted or layer.kind in WORKED_OUT else {}
        maps = {**_parts("x", layer.x), "y": layer.y, "z": kept.get("z")}
        gradients = {**_parts("dx", layer.dx), "dy": layer.dy, "dz": kept.get("dz")}
        for named, window in ((maps, self.level.forward), (gradients, self.level.backward)):
            for name, array in named.items():
                if array is None:
                    continue
                head, _, number = name.partition("/")
                chosen = before if head in ("x", "dx") else after
                if number:
                    source = layer.inputs[int(number)]
                    chosen = self._strongest(self.trace.x, self.level.channels) if source < 0 else self.after[source]
                ids[name] = self._map(array[k], window, chosen)
        if layer.kind == "Dropout" and "mask" in layer.kept:
            ids["mask"] = self._map(layer.kept["mask"][k], self.level.forward, after)
        if "winner" in layer.kept:
            ids["winner"] = self._map(layer.kept["winner"][k], self.level.forward, after)
        groups = {"p": layer.params, "g": layer.grads, "a": layer.applied, "u": layer.updated}
        groups |= {"s": layer.slots, "t": layer.slots_after, "r": layer.state, "q": layer.state_after}
        for group, arrays in groups.items():
            for name, array in arrays.items():
                ids[f"{group}/{name}"] = self._parameter(group, array, *_of_kernel(layer, array, before, after))
        if layer.kind == "BatchNormalization":
            out["of_batch"] = bool(layer.kept["of_batch"])
            for name in ("mean", "var"):
                ids[name] = self._parameter("r", layer.kept[name], before, after)
        out["weighted"] = layer.weighted and layer.kind in WORKED_OUT
        if layer.kind in ("Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "MaxPooling2D", "AveragePooling2D"):
            w = Windows(layer)
            out["geo"] = {"k": w.kernel, "s": w.stride, "d": w.dilation, "pads": w.pads}
        if layer.kind == "ZeroPadding2D":
            made: Any = layer.made()
            out["pads"] = made.pads
        records = uses(self.trace, layer)
        shared = [i for i, other in enumerate(self.trace.layers) if any(other is use for use in records)]
        if len(shared) > 1:
            out["uses"] = shared
        if kept.get("z") is not None:
            out["act"] = vars(activation_of(layer))
        out["fused"] = self.trace.fused and layer is self.trace.layers[-1]
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
        if layer.kind in ("Conv2D", "Conv2DTranspose", "DepthwiseConv2D") and dz is not None:
            self._convolution_shares(layer, before, after, ids)
        if layer.kind == "BatchNormalization":
            axes = tuple(range(1, x.ndim))[:-1]
            mean, x_hat = layer.kept["mean"].astype(np.float64), layer.kept["x_hat"]
            sums = {"x": x.astype(np.float64), "xx": (x - mean) ** 2}
            if layer.dy is not None:
                assert layer.dx is not None
                sums |= {"dy": layer.dy.astype(np.float64), "dyx": layer.dy * x_hat.astype(np.float64)}
                dx = layer.dx.astype(np.float64)
                sums |= {"dx": dx, "dxx": dx * x_hat, "adx": np.abs(dx)}
            for name, array in sums.items():
                each = array.sum(axis=axes)
                share = np.stack([each[images].sum(axis=0) for images in self.rows]).astype(x.dtype)
                ids[f"share/{name}"] = self._add(share, (None, after))
        for name, factor in _constraint_factors(self.trace, layer).items():
            full = np.broadcast_to(factor, layer.params[name].shape)
            ids[f"factor/{name}"] = self._parameter("g", full, *_of_kernel(layer, full, before, after))

    def _convolution_shares(self, layer: LayerTrace, before: Choice, after: Choice, ids: dict[str, int]) -> None:
        """The gradients of w and b that each image of the batch gives, of the chosen channels."""
        w, x, dz, windows = layer.params["w"], layer.x, layer.kept["dz"], Windows(layer)
        if w.size <= SMALL:
            before = after = None
        chosen = (*(None for _ in w.shape[:-2]), *_of_kernel(layer, w, before, after))
        for axis, choice in enumerate(chosen):
            w = w if choice is None else w.take(choice, axis=axis)
        if layer.kind == "DepthwiseConv2D" or layer.config.get("groups", 1) > 1:
            before = after = None
        x, dz = x[..., _all(before, x.shape[-1])], dz[..., _all(after, dz.shape[-1])]
        dw, db = np.zeros((len(self.rows), *w.shape), w.dtype), np.zeros((len(self.rows), dz.shape[-1]), w.dtype)
        moves: dict[str, Any] = {
            "stride": windows.stride, "padding": windows.pads, "dilation": windows.dilation, "need_dx": False
        }  # fmt: skip
        for row, images in enumerate(self.rows):
            part = dz[images], x[images], w
            if layer.kind == "Conv2DTranspose":  # the gradient of a convolution of dz, whose dy is x
                dw[row] = kernels.conv2d_backward(x[images], dz[images], w, **moves)[1]
                db[row] = dz[images].sum(axis=(0, 1, 2), dtype=np.float64)
            elif layer.kind == "DepthwiseConv2D":
                _, dw[row], db[row] = kernels.depthwise_conv2d_backward(*part, **moves)
            else:
                groups = layer.config.get("groups", 1)
                _, dw[row], db[row] = kernels.grouped_conv2d_backward(*part, groups=groups, **moves)
        ids["share/w"] = self._given(dw, (len(self.rows), *layer.params["w"].shape), (None, *chosen))
        ids["share/b"] = self._given(db, (len(self.rows), layer.kept["dz"].shape[-1]), (None, after))

    def _given(self, array: np.ndarray, shape: tuple[int, ...], selection: tuple[Choice, ...]) -> int:
        """Embed an array that was computed for the selected indices only."""
        number, kind = self.pool.add(array)
        self.tensors.append({"shape": list(shape), "parts": [{"at": list(selection), "pool": number, "kind": kind}]})
        return len(self.tensors) - 1


def _of_kernel(layer: LayerTrace, array: np.ndarray, before: Choice, after: Choice) -> tuple[Choice, Choice]:
    """Which places of the last two axes of a parameter belong to these channels of the input and of the output."""
    if array.ndim < 2 or not layer.weighted:
        return before, after
    if layer.kind == "Conv2DTranspose":
        return after, before
    if layer.kind == "DepthwiseConv2D" or layer.config.get("groups", 1) > 1:
        return None, None
    return before, after


def _middle(size: int, window: int) -> Choice:
    if size <= window:
        return None
    start = (size - window) // 2
    return list(range(start, start + window))


def _all(choice: Choice, size: int) -> list[int]:
    return list(range(size)) if choice is None else choice


def _with(choice: Choice, index: int) -> Choice:
    return choice if choice is None else sorted({*choice, index})


def _parts(name: str, value: Any) -> dict[str, Any]:
    """{name: array}, or "name/0", "name/1", … for the list of a layer that joins several inputs."""
    return {f"{name}/{k}": part for k, part in enumerate(value)} if isinstance(value, list) else {name: value}


def _constraint_factors(t: Trace, layer: LayerTrace) -> dict[str, np.ndarray]:
    """What MaxNorm and UnitNorm multiply the stepped weights by: the page cannot know it from a few of them."""
    factors: dict[str, np.ndarray] = {}
    for name in layer.applied:
        constraint = layer.option(name, "constraint")
        if constraint is None or t.optimizer is None:
            continue
        known = constraint["class_name"] in ("MaxNorm", "UnitNorm") and hasattr(optimizers, t.optimizer["class_name"])
        if not known:
            continue
        config = t.optimizer["config"] | {"clipnorm": None, "clipvalue": None, "global_clipnorm": None}
        optimizer = optimizers.get({"class_name": t.optimizer["class_name"], "config": config})
        optimizer.schedule, optimizer.learning_rate = None, t.optimizer["learning_rate"]
        optimizer.iterations = t.optimizer["iterations"]
        means = {
            slot.removeprefix(f"{name}/"): array.copy()
            for slot, array in layer.slots.items()
            if slot.startswith(f"{name}/")
        }
        p, key = layer.params[name].copy(), (base_key(layer), name)
        if not t.optimizer.get("decay", {}).get("/".join(key), 1):
            optimizer.exclude_from_weight_decay(var_names=[""])  # as the user had done with this parameter
        optimizer.state = {key: optimizer.state_of(key, means)}
        optimizer.apply({key: p}, {key: [layer.applied[name].copy()]})
        rule = constraints.get(constraint)
        assert rule is not None
        factors[name] = np.divide(rule(p.copy()), p, out=np.ones_like(p), where=p != 0)  # 0 stays 0
    return factors
