"""What is wrong with this training? Checks that find the usual faults, each with a number, a reason and a fix.

    print(model.diagnose(x_train, y_train, validation_data=(x_test, y_test)))
    print(model.sanity_check(x_train, y_train))

`diagnose` looks at the data, and at a few forward passes and training steps of a copy. `sanity_check` trains copies for
longer: is the first loss that of guessing, and can 20 images be learned by heart? Neither changes the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from minicnn.errors import InputError, NotFiniteError, visible
from minicnn.inspect.trace import copy_of
from minicnn.layers.base import Layer
from minicnn.layers.context import Context
from minicnn.layers.core import Dropout
from minicnn.layers.normalization import BatchNormalization
from minicnn.layers.walk import Node, Observer, forward, new_contexts
from minicnn.layers.weighted import ActivatedLayer
from minicnn.losses import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
)
from minicnn.objective import prepare_targets, sample_losses
from minicnn.optimizers import Adam
from minicnn.training.checks import check_array, check_input, check_targets
from minicnn.training.finite import Guard
from minicnn.training.shards import Workers
from minicnn.training.step import gradients, train_step
from minicnn.training.trainer_state import TrainerState

SEVERITIES = ("error", "warning", "note", "ok")
SAMPLES, BATCH, STEPS = 128, 32, 10  # how much of the data is looked at; by how many steps; in batches of
FEW_STEPS = 200  # a model with fewer steps behind it is not expected to know anything yet
OVERFIT_IMAGES, OVERFIT_STEPS = 20, 150
VANISHED = 1e-3  # a gradient that is smaller than this, as a share of the last layer's


@dataclass(frozen=True)
class Finding:
    """One check's result.

    check: its name, such as "dead ReLUs". severity: "ok", "note", "warning" or "error". where: a layer, "x", "y", ….
    measured: the number that it is about. text: what was found. reason, fix: one sentence each, "" where all is well.
    """

    check: str
    severity: str
    where: str
    measured: float
    text: str
    reason: str = ""
    fix: str = ""

    def __str__(self) -> str:
        label = f"{self.severity.upper() if self.severity in ('error', 'warning') else self.severity:8}"
        lines = [f"{label} {self.check} ({self.where}): {self.text}"]
        lines += [f"{'':9}{word} {text}" for word, text in (("Why:", self.reason), ("Fix:", self.fix)) if text]
        return visible("\n".join(lines))


@dataclass
class Diagnosis:
    """Findings, the worst first. ok: no warning and no error among them."""

    title: str
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))

    @property
    def ok(self) -> bool:
        return all(finding.severity in ("ok", "note") for finding in self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __getitem__(self, check: str) -> list[Finding]:
        """All findings of one check, by its name."""
        return [finding for finding in self.findings if finding.check == check]

    def __str__(self) -> str:
        counts = [(sum(f.severity == s for f in self.findings), s) for s in SEVERITIES]
        words = [f"{n} {s}{'s' if n > 1 and s != 'ok' else ''}" for n, s in counts if n]
        return visible("\n".join([f"{self.title}: {', '.join(words)}", *map(str, self.findings)]))


def diagnose(model: Any, x: Any, y: Any, validation_data: Any = None) -> Diagnosis:
    """Look for the usual faults in a compiled model and its training data. The model does not change.

    x (N, …), y: the training data, as for fit, in the order in which fit gets it. validation_data: (x, y), of which x
    is looked at, for samples that are in the training data too. Of the data, 128 samples are run through a copy of the
    model, which then makes ten steps. Raises InputError where x or y does not fit, or the model has no loss.
    """
    title = f"Diagnosis of {model.name}"
    x, y = check_array("x", x), check_array("y", y)
    broken = _not_finite_data(x, y)
    if broken:
        return Diagnosis(title, broken)
    case = _Case(model, x, y)
    last, flow, dead = _last_layer(case), _gradient_flow(case), _dead_relus(case)
    findings = [*_input_scale(case), *_order(case), *_balance(case), *last]
    if validation_data is not None:
        findings += _overlap(case, validation_data)
    if all(finding.severity == "ok" for finding in last):  # else the loss is no loss yet, and says nothing
        findings += _loss_now(case)
    findings += [*_one_class(case), *_batch_norm(case), *dead]
    findings += [finding for finding in flow if not any(f.severity == "error" for f in dead)]
    findings += _steps(case, any(finding.severity != "ok" for finding in flow))
    return Diagnosis(title, findings)


def sanity_check(model: Any, x: Any, y: Any) -> Diagnosis:
    """Train copies: is the first loss that of guessing, and can 20 images be learned by heart?

    x (N, …), y: as for fit. Copies begin with fresh weights (frozen layers keep theirs) and run without dropout and
    regularizers, at most 150 steps with the model's optimizer, and as many with Adam where that is not enough. Raises
    InputError where x or y does not fit, or the model has no loss.
    """
    x, y = check_array("x", x), check_array("y", y)
    broken = _not_finite_data(x, y)
    title = f"Sanity check of {model.name}"
    return Diagnosis(title, broken or _trained_copies(_Case(model, x, y, fresh=True)))


# ---- what is measured ------------------------------------------------------------------------------------------------


class _Case:
    """A copy of the model, the data, and what forward passes over some of it show.

    classes: how many, C, or 0. guess: the loss of guessing, ln C, and labels: the class of each sample, or None.
    trained: the steps that the model has behind it.
    """

    def __init__(self, model: Any, x: np.ndarray, y: np.ndarray, fresh: bool = False):
        if model.loss is None:
            raise InputError(
                model.name, "the model has no loss.", "a compiled model.", "one that was not compiled.",
                "call model.compile(...) first.",
            )  # fmt: skip
        if len(x) != len(y):
            raise InputError(
                "y", "x and y have different lengths.", f"one target for each of the {len(x)} samples.",
                f"{len(y)} targets.", "check that both were sliced or shuffled alike.",
            )  # fmt: skip
        self.model = copy_of(model)
        self.x, self.y = check_input(self.model, x, "x"), y
        self.loss = self.model.loss
        shape = self.model.shapes[-1]
        check_targets(self.loss, y, shape)
        self.trained = 0 if fresh else self.model.optimizer.iterations
        if fresh:
            _renew(self.model)
        self.classes, self.labels = _classes(self.loss, y, shape)
        self.guess = math.log(self.classes) if self.classes else None
        self.rng = np.random.default_rng(0)
        chosen = np.arange(len(x))
        if len(x) > SAMPLES:
            chosen = np.sort(self.rng.choice(len(x), SAMPLES, replace=False))
        self.chosen = chosen
        self.relus: dict[str, np.ndarray] = {}  # of each unit or channel: was it ever above 0?
        # The first layer for which the scale of the inputs matters, and the range of what reaches it.
        layers = [node.layer for node in self.model.nodes]
        self.entrance = next((i for i, a in enumerate(layers) if a.params or a.state), 0)
        self.low, self.high = math.inf, -math.inf
        with np.errstate(all="ignore"):
            self.losses, self.y_pred, self.logits = self._judge(training=False)
            self.losses_in_training, self.y_pred_in_training, _ = self._judge(training=True)

    def _judge(self, training: bool) -> tuple[np.ndarray, ...]:
        """Losses, outputs, and what the loss's softmax takes, of the chosen samples. Without dropout in both modes."""
        nodes = self.model.nodes
        losses: list[Any] = []
        outputs: list[Any] = []
        logits: list[Any] = []
        for chosen in np.array_split(self.chosen, -(-len(self.chosen) // BATCH)):
            contexts = new_contexts(nodes, training)
            y_pred = forward(nodes, contexts, self.model.as_input(self.x[chosen]), _Look(self, training))
            target = prepare_targets(self.loss, self.y[chosen], y_pred)
            losses.append(sample_losses(self.loss, target, y_pred, contexts[-1]))
            outputs.append(y_pred)
            from_logits = getattr(self.loss, "from_logits", False)
            logits.append(y_pred if from_logits else vars(contexts[-1]).get("logits", y_pred))
        return tuple(np.concatenate(parts) for parts in (losses, outputs, logits))

    def accuracy(self, y_pred: np.ndarray) -> float:
        return float((_predicted(y_pred) == self.labels[self.chosen]).mean())


class _Look(Observer):
    """Runs without dropout; notes the range of what reaches the entrance and, in training, which ReLUs are alive."""

    def __init__(self, case: _Case, training: bool):
        super().__init__()
        self.case, self.training = case, training

    def forward(self, i: int, node: Node, x: Any, ctx: Context) -> Any:
        case = self.case
        if isinstance(node.layer, Dropout):
            ctx.training = False
        for value in (x if node.layer.merges else [x]) if i == case.entrance else ():
            case.low, case.high = min(case.low, float(value.min())), max(case.high, float(value.max()))
        y = super().forward(i, node, x, ctx)
        if self.training and _is_relu(node.layer):
            alive = (y > 0).reshape(-1, y.shape[-1]).any(axis=0)
            case.relus[node.key] = case.relus.get(node.key, False) | alive
        return y


def _is_relu(layer: Layer) -> bool:
    leaks = getattr(layer, "negative_slope", 0) != 0
    return isinstance(layer, ActivatedLayer) and layer.activation.name == "relu" and not leaks


def _classes(loss: Any, y: np.ndarray, shape: tuple[int, ...]) -> tuple[int, Any]:
    """How many classes (0: none), and that of each sample (or None)."""
    if len(shape) == 1 and isinstance(loss, SparseCategoricalCrossentropy):
        return shape[0], y.reshape(-1).astype(int)
    if len(shape) == 1 and isinstance(loss, CategoricalCrossentropy):
        return shape[0], y.reshape(len(y), -1).argmax(axis=1)
    if isinstance(loss, BinaryCrossentropy):
        return 2, (y.reshape(-1) > 0.5).astype(int) if shape == (1,) else None
    return 0, None


def _predicted(y_pred: np.ndarray) -> np.ndarray:
    """The class of each sample."""
    return (y_pred[:, 0] > 0.5).astype(int) if y_pred.shape[1] == 1 else y_pred.argmax(axis=1)


# ---- the data --------------------------------------------------------------------------------------------------------


def _not_finite_data(x: np.ndarray, y: np.ndarray) -> list[Finding]:
    found = []
    for name, array in (("x", x), ("y", y)):
        first, count = _not_finite(array)
        if first is not None:
            found.append(Finding(
                "NaN", "error", name, count,
                f"{count} numbers of {name} are NaN or infinite, the first at {first}.",
                "One of them is enough: every weight that it reaches becomes NaN in the first step.",
                "Find where they come from (a division by 0, a missing value), and leave those samples out.",
            ))  # fmt: skip
    return found


def _not_finite(array: np.ndarray) -> tuple[tuple[int, ...] | None, int]:
    """The index of the first number that is NaN or infinite, and how many are; in pieces, as data may be large."""
    first, count = None, 0
    if array.dtype.kind == "f":
        step = max(1, (1 << 22) // max(1, array[:1].size))
        for start in range(0, len(array), step):
            bad = ~np.isfinite(array[start : start + step])
            if first is None and bad.any():
                place, *rest = np.argwhere(bad)[0].tolist()
                first = (place + start, *rest)
            count += int(bad.sum())
    return first, count


def _input_scale(case: _Case) -> list[Finding]:
    node = case.model.nodes[case.entrance]
    where, text = "x", f"{case.low:.4g} to {case.high:.4g}"
    largest = max(abs(case.low), abs(case.high))
    if isinstance(node.layer, BatchNormalization) or largest <= 100:
        return [Finding("input scale", "ok", where, largest, f"{text}.")]
    pixels = case.low >= 0 and case.high <= 255
    return [Finding(
        "input scale", "warning", where, largest,
        f"{text} reaches {node.key}{': pixels of 0 to 255' if pixels else ''}.",
        "Weights and learning rates are made for inputs of about size 1; with larger ones the first steps overshoot.",
        'Scale them: x = x.astype("float32") / 255, or Rescaling(1 / 255) as the first layer; the test data alike.'
        if pixels else "Scale them: x = (x - x_train.mean(axis=0)) / x_train.std(axis=0); the test data alike.",
    )]  # fmt: skip


def _order(case: _Case) -> list[Finding]:
    labels = case.labels
    if labels is None or len(labels) < 20:
        return []
    runs = 1 + int((labels[1:] != labels[:-1]).sum())
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    expected = 1 + (len(labels) - 1) * (1 - float((shares**2).sum()))
    if len(shares) == 1 or runs > 0.5 * expected:
        text = f"{runs} runs of equal labels; in a random order about {expected:.0f}."
        return [Finding("order of the labels", "ok", "y", runs, text)]
    return [Finding(
        "order of the labels", "warning", "y", runs,
        f"the labels are sorted: {runs} runs of equal ones, where a random order has about {expected:.0f}.",
        "Without shuffling, every batch shows one class only; and validation_split takes the last samples, that is the "
        "last classes.",
        "Shuffle once before: order = np.random.default_rng(0).permutation(len(x)); x, y = x[order], y[order].",
    )]  # fmt: skip


def _balance(case: _Case) -> list[Finding]:
    if case.labels is None:
        return []
    counts = np.bincount(case.labels, minlength=case.classes)
    share, most = counts.max() / len(case.labels), int(counts.argmax())
    named = case.model.class_names
    name = f"class {most}" if named is None else f"class {most} ({named[most]})"
    limit = 1 - (1 - 1 / case.classes) / 5  # 0.9 for two classes, 0.82 for ten
    if len(case.labels) < 20 or share < limit:
        return [Finding("class balance", "ok", "y", share, f"the largest class has {share:.0%} of the samples.")]
    return [Finding(
        "class balance", "warning", "y", share, f"{share:.1%} of the samples are {name}.",
        f"Who always answers {name} is right in {share:.1%}: an accuracy near that says nothing.",
        "Give the rare classes more samples, and look at the accuracy of each class.",
    )]  # fmt: skip


def _overlap(case: _Case, validation_data: Any) -> list[Finding]:
    pair = isinstance(validation_data, (tuple, list)) and len(validation_data) == 2
    if not pair or hasattr(validation_data[0], "__next__"):
        raise InputError(
            "validation_data", "it cannot be compared.", "two arrays: (x_test, y_test).",
            f"a {type(validation_data).__name__}.", "pass validation_data=(x_test, y_test), or leave it out.",
        )  # fmt: skip
    held = check_input(case.model, check_array("validation_data", validation_data[0]), "validation_data")
    seen = set(_hashes(case.x))
    count = sum(sample in seen for sample in _hashes(held))
    share = count / len(held)
    if count == 0:
        return [Finding("train/validation overlap", "ok", "validation_data", 0, "no sample is in both.")]
    return [Finding(
        "train/validation overlap", "warning" if share >= 0.01 else "note", "validation_data", count,
        f"{count} of its {len(held)} samples ({share:.1%}) are in the training data, too.",
        "What was learned by heart is no test: the validation accuracy comes out too high.",
        "Split first, then augment or repeat; and leave the duplicates out of one of the two.",
    )]  # fmt: skip


def _hashes(x: np.ndarray) -> Iterator[bytes]:
    """A fingerprint of each sample's numbers, the same for uint8 and float32."""
    for start in range(0, len(x), 1000):
        block = x[start : start + 1000].astype(np.float32) + np.float32(0)  # -0 becomes 0
        for sample in block:
            yield blake2b(sample.tobytes(), digest_size=16).digest()


# ---- what the model makes of it --------------------------------------------------------------------------------------


def _last_layer(case: _Case) -> list[Finding]:
    """What the cross-entropy takes for logits or probabilities must be that."""
    loss, (last, _, key, _) = case.loss, case.model.nodes[-1]
    logits = case.logits.reshape(-1, case.logits.shape[-1])
    binary = isinstance(loss, BinaryCrossentropy)
    if case.guess is None or not np.isfinite(logits).all():
        return []
    from_logits, classes = loss.from_logits, logits.shape[-1]
    if binary:
        squashed = from_logits and isinstance(last, ActivatedLayer) and last.activation.name == "sigmoid"
        floor, function, other = math.log1p(math.exp(-1)), "sigmoid", 'activation="sigmoid"'
    else:
        squashed = _are_probabilities(logits) and (from_logits or _ends_in_softmax(case.model))
        floor, function, other = -math.log(math.e / (math.e + classes - 1)), "softmax", 'activation="softmax"'
    if squashed:
        how = f"from_logits=True takes a {function} of it" if from_logits else f"another {function} follows"
        return [Finding(
            f"{function} twice", "error", key, floor,
            f"what should be logits are probabilities already, and {how}.",
            f"Of numbers between 0 and 1 a {function} makes almost equal ones: the loss"
            f"{'' if binary else f' of {classes} classes'} cannot fall below {floor:.3f}, whatever the model learns.",
            f"Leave from_logits=True out, or the last layer's {other}." if from_logits
            else f"Remove one of the two: let the layer before {key} have no activation, or take {key} away.",
        )]  # fmt: skip
    y_pred = case.y_pred.reshape(-1, classes)
    fine = bool((y_pred >= 0).all() and (y_pred <= 1).all()) if binary else _are_probabilities(y_pred)
    if binary and classes > 1 and _ends_in_softmax(case.model):
        return [Finding(
            "last layer", "warning", key, float(classes),
            f"a softmax over {classes} outputs, each of which {type(loss).__name__} judges alone.",
            'Softmax makes one choice of all of them; "accuracy" then counts outputs, and is high where most are 0.',
            'For one class among several loss="categorical_crossentropy"; for several at once activation="sigmoid".',
        )]  # fmt: skip
    if from_logits or fine:
        text = "logits, as the loss expects." if from_logits else "probabilities, as the loss expects."
        return [Finding("last layer", "ok", key, float(y_pred.max()), text)]
    return [Finding(
        "last layer", "error", key, float(y_pred.min()),
        f"the outputs, {y_pred.min():.3g} to {y_pred.max():.3g}, are no probabilities.",
        f"{type(loss).__name__} takes the logarithm of probabilities"
        f"{'' if binary else ', which are positive and have the sum 1'}.",
        f"Give the last layer {other}, or compile with loss={type(loss).__name__}(from_logits=True).",
    )]  # fmt: skip


def _are_probabilities(rows: np.ndarray) -> bool:
    return bool((rows >= 0).all() and (np.abs(rows.sum(axis=-1) - 1) < 1e-3).all())


def _ends_in_softmax(model: Any) -> bool:
    last = model.nodes[-1].layer
    return isinstance(last, ActivatedLayer) and last.activation.name == "softmax"


def _loss_now(case: _Case) -> list[Finding]:
    """Before training the loss should be that of guessing; after many steps it should not be."""
    guess = case.guess
    if guess is None:
        return []
    loss = float(np.mean(case.losses if case.trained else case.losses_in_training, dtype=np.float64))
    compared = f"{loss:.3f}; guessing has ln {case.classes} = {guess:.3f}"
    if not math.isfinite(loss):
        return []  # said with more detail by the steps
    if case.trained == 0:
        return [_first_loss(loss, guess, compared)]
    if case.trained < FEW_STEPS or loss < 0.97 * guess:
        return [Finding("loss", "ok", "loss", loss, f"{compared} (after {case.trained} steps).")]
    return [Finding(
        "loss", "warning", "loss", loss, f"{compared}: after {case.trained} steps it knows no more than that.",
        "In evaluation, the model has learned nothing from these samples, or what it learned does not count there.",
        "Look at the other findings; run model.sanity_check(x, y); try a learning rate ten times smaller.",
    )]  # fmt: skip


def _first_loss(loss: float, guess: float, compared: str) -> Finding:
    if loss <= guess + 2:
        return Finding("initial loss", "ok", "loss", loss, f"{compared}.")
    return Finding(
        "initial loss", "warning", "loss", loss, f"{compared}.",
        "A model that knows nothing should be unsure; this one is sure of wrong answers: its logits are too large.",
        'Scale the inputs to about 0 to 1, and use the usual initializers ("glorot_uniform", "he_normal").',
    )  # fmt: skip


def _one_class(case: _Case) -> list[Finding]:
    if case.labels is None or not case.trained or not np.isfinite(case.y_pred).all():
        return []
    predicted = np.bincount(_predicted(case.y_pred), minlength=case.classes)
    share, true = predicted.max() / predicted.sum(), len(np.unique(case.labels[case.chosen]))
    if predicted.sum() < 20 or share < 0.99 or true == 1:
        return [Finding("one class only", "ok", "y_pred", share, f"the most frequent answer is given to {share:.0%}.")]
    early = case.trained < FEW_STEPS
    return [Finding(
        "one class only", "note" if early else "warning", "y_pred", share,
        f"class {predicted.argmax()} is the answer to {share:.0%} of {predicted.sum()} samples of {true} classes.",
        f"After {case.trained} steps that is not unusual." if early
        else "The output does not depend on the input any more: too large steps, dead ReLUs or useless labels.",
        "Train on." if early else "Try a learning rate ten times smaller on a fresh model; check x and y side by side.",
    )]  # fmt: skip


def _batch_norm(case: _Case) -> list[Finding]:
    """Good with the batch's statistics and near chance with the running ones."""
    norms = [
        (key, layer)
        for key, layer in case.model.layers_by_key.items()
        if isinstance(layer, BatchNormalization) and layer.trainable
    ]
    if not norms or case.labels is None or len(case.chosen) < 20 or not case.trained:
        return []
    training, evaluation = case.accuracy(case.y_pred_in_training), case.accuracy(case.y_pred)
    share = max(np.bincount(case.labels[case.chosen])) / len(case.chosen)
    compared = f"{training:.0%} right with the batch's statistics, {evaluation:.0%} with the running ones"
    if training - share < 0.15 or evaluation - share > 0.3 * (training - share):
        return [Finding("batch normalisation", "ok", norms[0][0], training - evaluation, f"{compared}.")]
    key, layer = max(norms, key=lambda norm: norm[1].momentum)
    left = layer.momentum**case.trained
    early = case.trained < FEW_STEPS and layer.momentum <= 0.99
    return [Finding(
        "batch normalisation", "note" if early else "warning", key, training - evaluation, f"{compared}.",
        f"After {case.trained} steps, momentum {layer.momentum:g} has left {left:.0%} of the running mean and variance "
        "as they began." if left > 0.05 else "The running mean and variance are not those of these samples.",
        "Train for more steps, or use BatchNormalization(momentum=0.9)." if left > 0.05
        else "Prepare training and test data alike, use larger batches, or BatchNormalization(momentum=0.9).",
    )]  # fmt: skip


def _dead_relus(case: _Case) -> list[Finding]:
    shares = {key: float(1 - alive.mean()) for key, alive in case.relus.items()}
    if not shares or not np.isfinite(case.y_pred).all():
        return []
    found = [
        Finding(
            "dead ReLUs", "error" if share == 1 else "warning", key, share,
            f"{share:.0%} of its units are 0 for all {len(case.chosen)} samples.",
            "A ReLU that is always 0 passes no gradient back: " + ("nothing before it can learn any more."
            if share == 1 else "its weights stay as they are for ever."),
            'Begin again with a smaller learning rate, scaled inputs and kernel_initializer="he_normal"; or LeakyReLU.',
        )
        for key, share in shares.items()
        if share >= 0.5
    ]  # fmt: skip
    worst = max(shares, key=lambda key: shares[key])
    return found or [Finding("dead ReLUs", "ok", worst, shares[worst], f"{shares[worst]:.0%} of its units at most.")]


def _gradient_flow(case: _Case) -> list[Finding]:
    """Does the gradient reach the first layers? dL/dw of the first kernel that learns against the last one's.

    It is measured before the optimizer: Adam divides by the gradient's size, and its steps hide what is missing.
    """
    model, chosen = case.model, case.chosen[:BATCH]
    with Workers(1) as workers, np.errstate(all="ignore"):
        shards, _, _ = gradients(model, case.x[chosen], case.y[chosen], workers, case.trained, 0)
    sizes = {
        node.key: _norm(ctx.grads["w"]) / math.sqrt(ctx.grads["w"].size)
        for node, ctx in zip(model.nodes, shards[0], strict=True)
        if "w" in ctx.grads and node.layer.trainable
    }
    if len(sizes) < 2 or not all(map(math.isfinite, sizes.values())) or max(sizes.values()) == 0:
        return []
    (first, small), *_, (last, large) = sizes.items()
    ratio = small / large if large else math.inf
    compared = f"dL/dw of {first}, the first, is {ratio:.1e} times that of {last}, the last"
    if VANISHED <= ratio <= 1 / VANISHED:
        return [Finding("gradient flow", "ok", first, ratio, f"{compared}.")]
    if ratio < VANISHED:
        return [Finding(
            "vanishing gradients", "warning", first, ratio, f"{compared} ({small:.1e} and {large:.1e}, rms).",
            "Each layer multiplies the gradient that passes through it, a sigmoid by at most 1/4: the first layers "
            "hardly learn. Adam hides that: it makes steps of the usual length from tiny gradients.",
            'Use activation="relu" with kernel_initializer="he_normal", or BatchNormalization between the layers.',
        )]  # fmt: skip
    return [Finding(
        "exploding gradients", "warning", first, ratio, f"{compared} ({small:.1e} and {large:.1e}, rms).",
        "Each layer multiplies the gradient that passes through it, here by more than 1: the first layers jump about.",
        'Use the usual initializers ("glorot_uniform", "he_normal"), BatchNormalization, or clipnorm=1.0.',
    )]  # fmt: skip


# ---- steps -----------------------------------------------------------------------------------------------------------


def _steps(case: _Case, flow_disturbed: bool) -> list[Finding]:
    """Ten steps of the copy: where NaN comes up first, and by how much a step changes the weights.

    flow_disturbed: the gradients vanish or explode; then steps that are too small or large have that reason.
    """
    model, ratios = case.model, {}
    key = _first_broken({f"{key}: {name}": p for key, layer in _trained(model) for name, p in layer.params.items()})
    if key:
        return [_nan(key.split(": ")[0], 0, f"{key} holds NaN or infinity already, before any step.")]
    order = np.concatenate([case.rng.permutation(len(case.x)) for _ in range(-(-STEPS * BATCH // len(case.x)))])
    guard = Guard(model, TrainerState(model, None, None, [], 0), thorough=True)
    with Workers(1) as workers, np.errstate(all="ignore"):
        for step in range(STEPS):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            before = {key: layer.params["w"].copy() for key, layer in _trained(model) if "w" in layer.params}
            try:
                guard.step(model, case.x[chosen], case.y[chosen], workers)
            except NotFiniteError as error:
                text = f"{error.array} is the first to be NaN or infinite: step {step + 1}, {error.direction}."
                return [_nan(error.where, step + 1, text)]
            layers = dict(_trained(model))
            ratios = {key: _norm(layers[key].params["w"] - w) / max(_norm(w), 1e-30) for key, w in before.items()}
    fine = Finding("NaN", "ok", "steps", 0, f"none in {STEPS} steps of a copy.")
    return [fine] if flow_disturbed else [fine, *_update_ratios(case, ratios)]


def _first_broken(arrays: dict[str, Any]) -> str:
    return next((name for name, a in arrays.items() if a is not None and not np.isfinite(a).all()), "")


def _nan(where: str, step: int, text: str) -> Finding:
    return Finding(
        "NaN", "error", where, step, text,
        "From one such number on, all others become NaN, and nothing is learned any more.",
        "Use a learning rate ten times smaller on a fresh model, scaled inputs, or clipnorm=1.0 in the optimizer.",
    )  # fmt: skip


def _update_ratios(case: _Case, ratios: dict[str, float]) -> list[Finding]:
    learned = case.guess is not None and float(case.losses.mean()) < 0.2 * case.guess
    most = 1e-1 if case.trained < FEW_STEPS else 1e-2  # Adam's first steps are its largest
    found = []
    for key, ratio in ratios.items():
        small, large = ratio < 1e-4 and not learned, ratio > most
        if not small and not large:
            continue
        if large:
            reason, fix = "Steps that large forget what was learned before.", "Use a smaller learning rate."
        elif ratio == 0:
            reason = "Nothing moves: is the learning rate 0, or the gradient?"
            fix = "Set a learning rate above 0; where it is, look for dead ReLUs or frozen layers."
        else:
            reason = "So slow a layer is as good as frozen."
            fix = "Use a larger learning rate; where only the early layers are slow, ReLU or batch normalisation."
        found.append(Finding(
            "update:weight ratio", "warning" if ratio > 1e-1 or ratio < 1e-5 else "note", key, ratio,
            f"a step changes the weights by {ratio:.1e} of their size; usual is 1e-4 to 1e-2.", reason, fix,
        ))  # fmt: skip
    if not ratios:
        return []
    worst = max(ratios, key=lambda key: abs(math.log10(max(ratios[key], 1e-30)) + 3))
    text = f"{min(ratios.values()):.1e} to {max(ratios.values()):.1e} over the layers."
    return found or [Finding("update:weight ratio", "ok", worst, ratios[worst], text)]


def _trained(model: Any) -> list[tuple[str, Layer]]:
    return [(key, layer) for key, layer in model.layers_by_key.items() if layer.params and layer.trainable]


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.reshape(-1).astype(np.float64)))


# ---- copies that are trained -----------------------------------------------------------------------------------------


def _renew(model: Any) -> None:
    """Fresh weights, and an optimizer that has made no step. Frozen layers keep what they have learned elsewhere."""
    for layer in model.flat_layers:
        if layer.trainable:
            layer.build(layer.built_for, model.rng)
    model.optimizer.state, model.optimizer.iterations = {}, 0


def _trained_copies(case: _Case) -> list[Finding]:
    loss, images = float(np.mean(case.losses_in_training, dtype=np.float64)), min(OVERFIT_IMAGES, len(case.x))
    findings = []
    if case.guess is not None and math.isfinite(loss):
        findings.append(_first_loss(loss, case.guess, f"{loss:.3f}; guessing has ln {case.classes} = {case.guess:.3f}"))
    for layer in case.model.flat_layers:
        layer.regularizers = {}
        if isinstance(layer, Dropout):
            layer.rate = 0.0
    chosen = case.rng.choice(len(case.x), images, replace=False)
    x, y, baseline = case.x[chosen], case.y[chosen], case.guess
    if baseline is None:  # regression: who always answers the mean
        target = prepare_targets(case.loss, y, case.y_pred[:1].repeat(images, axis=0))
        baseline = float(case.loss.per_sample(target, target.mean(axis=0, keepdims=True).repeat(images, 0)).mean())
    own, rescue, untrained = (copy_of(case.model) for _ in range(3))
    rescue.optimizer = Adam()
    losses = _overfit(own, x, y, baseline / 2)
    what, goal = f"learning {images} images by heart", f"half the loss of guessing, {baseline / 2:.3g}"
    name = f"{type(own.optimizer).__name__}, learning rate {own.optimizer.learning_rate:g}"
    if losses[-1] <= baseline / 2:
        text = f"loss {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} steps ({name})."
        return [*findings, Finding(what, "ok", case.model.name, losses[-1], text)]
    with_adam = _overfit(rescue, x, y, baseline / 2)
    text = f"loss {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} steps ({name}); {goal}, was not reached"
    if with_adam[-1] <= baseline / 2:
        moves = losses[-1] < 0.99 * losses[0]
        return [*findings, Finding(
            what, "note" if moves else "warning", "optimizer", losses[-1],
            f"{text}; Adam with 0.001 needs {len(with_adam)}.",
            "The model can learn them: the steps are too small." if moves or losses[-1] < 1.01 * losses[0]
            else "The model can learn them, but these steps are too large.",
            'Try another learning rate (ten times larger, ten times smaller), or optimizer="adam".',
        )]  # fmt: skip
    said = {finding.check for finding in findings}
    seen = diagnose(untrained, case.x, case.y)
    causes = [f for f in seen if f.severity in ("error", "warning") and f.check not in said]
    found = " and ".join(dict.fromkeys(finding.check for finding in causes))
    return [*findings, *causes, Finding(
        what, "error", case.model.name, min(losses[-1], with_adam[-1]), f"{text}, by Adam with 0.001 neither.",
        f"A sound network learns {images} images by heart at once: here something is in the way from x to the loss"
        f"{f', see {found}' if found else ''}.",
        f"Mend first what is said of: {found}." if found else
        "model.diagnose(x, y) finds no cause: look at x and y side by side, at what is frozen, and check layers that "
        "you wrote with minicnn.gradcheck.",
    )]  # fmt: skip


def _overfit(model: Any, x: np.ndarray, y: np.ndarray, goal: float) -> list[float]:
    """The loss at each step on the same batch, until it reaches the goal, breaks, or 150 steps are made."""
    losses: list[float] = []
    with Workers.for_model(model, len(x)) as workers, np.errstate(all="ignore"):
        while len(losses) < OVERFIT_STEPS:
            losses.append(float(train_step(model, x, y, workers)[0]) / len(x))
            if losses[-1] <= goal or not math.isfinite(losses[-1]):
                break
    return losses
