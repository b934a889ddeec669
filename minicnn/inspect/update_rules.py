"""What a step makes of a parameter: gradient, regularizer, clipping, the optimizer's rule, constraint.

The arithmetic is that of `minicnn/optimizers/rules.py`, written down once more for a single number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from minicnn.inspect.explanation import Case, Products, bare, base_key, grid, one, uses
from minicnn.inspect.record import LayerTrace
from minicnn.optimizers.base import names_of_parameter
from minicnn.optimizers.muon import orthogonal


def update(case: Case, name: str) -> None:
    """A parameter after the step: gradient, regularizer, clipping, the optimizer's rule, constraint."""
    t, layer, at = case.t, case.layer, case.index
    optimizer = t.optimizer or {}
    kind, config = optimizer["class_name"], optimizer["config"]
    p = layer.params[name].astype(float)
    if not layer.applied:
        case.formula = f"{name} stays: the layer is frozen (trainable=False)"
        case.sum(name, "as it was", one(name, at, p[at]))
        return
    if kind not in OPTIMIZERS and kind != "Muon":
        raise case.refuse("nothing is known about this optimizer.", f"the optimizer {kind}.")
    options = [n for n in ("gradient_accumulation_steps", "ema_overwrite_frequency") if config.get(n)]
    if options:
        raise case.refuse("a step with this option is not explained.", f"{kind}({options[0]}={config[options[0]]!r}).")
    constraint = layer.option(name, "constraint")
    if constraint is not None and constraint["class_name"] not in ("MaxNorm", "UnitNorm", "NonNeg"):
        raise case.refuse("nothing is known about this constraint.", f"the constraint {constraint['class_name']}.")
    g, gradient = _gradient_step(case, name)
    slots = {slot: layer.slots[f"{name}/{slot}"].astype(float) for slot in _slots_of(layer, name)}
    rate = float(optimizer["learning_rate"])
    symbol = f"d{name}" if len(case.steps) == 0 else "g"

    label = name if constraint is None else "p"
    decay = optimizer.get("decay", {}).get(f"{base_key(layer)}/{name}", config["weight_decay"])
    config, step = {**config, "weight_decay": decay}, optimizer["iterations"] + 1
    path = "/".join(names_of_parameter((base_key(layer), name)))
    as_matrix = kind == "Muon" and p.ndim > 1 and not any(re.search(each, path) for each in config["exclude_layers"])

    def rule(case: Case, g: float, whole: Callable[[], np.ndarray]) -> None:
        """The step of the parameter at the index of this case."""
        here = {slot: array[case.index] for slot, array in slots.items()}
        if as_matrix:
            _muon(case, label, name, symbol, p, g, whole(), slots["m_sum"], rate, config)
        elif kind == "Muon":
            _adam_of_muon(case, label, name, symbol, p[case.index], g, here, rate, config, step)
        else:
            OPTIMIZERS[kind](case, label, name, symbol, p[case.index], g, here, rate, config, step)

    rule(case, g, gradient)
    if constraint is None:
        return

    def raw(where: tuple) -> np.ndarray:
        """The parameter before the constraint, for all numbers of one weight vector: the same rule, one by one."""
        full, places = gradient(), np.arange(p.size).reshape(p.shape)[where]
        values = np.empty(places.shape)
        for i in np.ndindex(places.shape):
            aside = Case(t, layer, case.what, tuple(int(n) for n in np.unravel_index(places[i], p.shape)))
            rule(aside, full[aside.index], lambda: full)
            values[i] = aside.steps[-1].value
        return values

    _constrain(case, name, constraint, raw)


def _slots_of(layer: LayerTrace, name: str) -> list[str]:
    return [key.removeprefix(f"{name}/") for key in layer.slots if key.startswith(f"{name}/")]


def _gradient_step(case: Case, name: str) -> tuple[float, Callable[[], np.ndarray]]:
    """The gradient as the optimizer takes it, at the index; and a function for the whole array."""
    t, layer, at = case.t, case.layer, case.index
    config = (t.optimizer or {})["config"]
    g, records = float(layer.grads[name][at]), uses(t, layer)
    if len(records) > 1:
        shares = (one(f"{use.key}.d{name}", at, use.grads[name][at]) for use in records)
        g = case.sum(f"d{name}", f"the sum over the {len(records)} uses of the layer", *shares)
    pull = _penalty_factors(case, layer, name)
    if pull:
        l1, l2 = pull
        p = float(layer.params[name][at])
        parts = [one(f"d{name}", at, g)]
        if l2:
            parts.append(one(name, at, p, "2 · l2", 2 * l2))
        if l1:
            parts.append(one(f"sign({name})", at, float(np.sign(p)), "l1", l1))
        g = case.sum("g", f"d{name} and the regularizer's gradient", *parts)
    value, norm, all_norm = config["clipvalue"], config["clipnorm"], config["global_clipnorm"]
    if value is not None:
        worked = f"{bare(g)}, kept between −{value:g} and {value:g}"
        g = case.value("g", "no larger than clipvalue", min(max(g, -value), value), worked)

    def whole(layer: LayerTrace, name: str, clipped: bool = True) -> np.ndarray:
        full = np.sum([use.grads[name].astype(float) for use in uses(t, layer)], axis=0)
        factors = _penalty_factors(case, layer, name)
        if factors:
            p = layer.params[name].astype(float)
            full = full + factors[0] * np.sign(p) + 2 * factors[1] * p
        if value is not None:
            full = np.clip(full, -value, value)
        if clipped and norm is not None:
            full = full * min(1.0, norm / max(math.sqrt(float((full * full).sum())), 1e-12))
        return full

    factor = 1.0
    if norm is not None:
        full = whole(layer, name, clipped=False)
        factor = _norm_factor(case, "clipnorm", norm, [(f"{name}'s g", full)])
        g = case.sum("g", "g, not longer than clipnorm", one("g", at, g, "min(1, clipnorm / norm)", factor))
    total = 1.0
    if all_norm is not None:
        every = [(f"{other.key}.{key}'s g", whole(other, key)) for other in t.layers for key in other.applied
                 if uses(t, other)[0] is other]  # fmt: skip
        total = _norm_factor(case, "global_clipnorm", all_norm, every)
        g = case.sum("g", "g, all together not longer than global_clipnorm",
                     one("g", at, g, "min(1, global_clipnorm / norm)", total))  # fmt: skip
    return g, lambda: whole(layer, name) * total


def _norm_factor(case: Case, rule: str, limit: float, arrays: list[tuple[str, np.ndarray]]) -> float:
    """min(1, limit / norm), the norm being that of all these arrays together."""
    squares = [Products(source, a.shape, a.reshape(-1), source, a.shape, a.reshape(-1)) for source, a in arrays]
    total = case.sum("norm²", "the sum of g · g", *squares)
    norm = case.value("norm", "√norm²", math.sqrt(total), f"√{bare(total)}")
    if norm <= limit:
        case.note(f"The norm is within {rule} = {limit:g}: nothing is clipped.")
    return min(1.0, limit / max(norm, 1e-12))


def _penalty_factors(case: Case, layer: LayerTrace, name: str) -> tuple[float, float] | None:
    """(l1, l2) of the parameter's regularizer."""
    regularizer = layer.option(name, "regularizer")
    if regularizer is None:
        return None
    if regularizer["class_name"] not in ("L1", "L2", "L1L2"):
        raise case.refuse("nothing is known about this regularizer.", f"the regularizer {regularizer['class_name']}.")
    return regularizer["config"].get("l1", 0.0), regularizer["config"].get("l2", 0.0)


def _kept_and_decayed(case: Case, name: str, p: float, rate: float, config: dict[str, Any]) -> list[Products]:
    """The terms p and, with weight decay, −learning_rate · weight_decay · p."""
    parts = [one(name, case.index, p)]
    if config["weight_decay"]:
        parts.append(one(name, case.index, p, "−weight_decay · learning_rate", -config["weight_decay"] * rate))
    return parts


def _sgd(
    case: Case, label: str, name: str, symbol: str, p: float, g: float, slots: dict[str, float], rate: float,
    config: dict[str, Any], step: int,
) -> None:  # fmt: skip
    at, parts = case.index, _kept_and_decayed(case, name, p, rate, config)
    gradient = one(symbol, at, g, "−learning_rate", -rate)
    if not slots:
        case.formula = f"{name} = {name} − learning_rate · {symbol}"
        case.sum(label, f"one step against {symbol}", *parts, gradient)
    else:
        mu = config["momentum"]
        old = one("m", at, slots["momentum"], "momentum", mu)
        m = case.sum("m", f"momentum · m − learning_rate · {symbol}", old, gradient)
        if config["nesterov"]:
            case.formula = f"{name} = {name} + momentum · m − learning_rate · {symbol},  m being the new momentum"
            case.sum(label, "one step, looking ahead", *parts, one("m (new)", at, m, "momentum", mu), gradient)
        else:
            case.formula = f"{name} = {name} + m,  m = momentum · m − learning_rate · {symbol}"
            case.sum(label, "one step along m", *parts, one("m (new)", at, m))
        case.scale += case.steps[-2].size
    case.scale += case.steps[-1].size


def _adam(
    case: Case, label: str, name: str, symbol: str, p: float, g: float, slots: dict[str, float], rate: float,
    config: dict[str, Any], step: int,
) -> None:  # fmt: skip
    at, b1, b2, eps = case.index, config["beta_1"], config["beta_2"], config["epsilon"]
    m = case.sum("m", f"beta_1 · m + (1 − beta_1) · {symbol}: the running mean",
                 one("m", at, slots["m"], "beta_1", b1), one(symbol, at, g, "1 − beta_1", 1 - b1))  # fmt: skip
    m_size = case.steps[-1].size
    old, new = one("v", at, slots["v"], "beta_2", b2), one(symbol, at, g, f"(1 − beta_2) · {symbol}", (1 - b2) * g)
    v = case.sum("v", f"beta_2 · v + (1 − beta_2) · {symbol}²: the running square", old, new)
    root = "v"
    if config.get("amsgrad"):
        before, root = slots["v_max"], "v_max"
        v = case.value(root, "max(v_max, v): the largest v so far", max(before, v), f"max({bare(before)}, {bare(v)})")
    parts = _kept_and_decayed(case, name, p, rate, config)
    ratio, words = config.get("adam_lr_ratio", 1.0), "learning_rate"  # the ratio is Muon's
    if ratio != 1.0:
        rate, words = rate * ratio, f"adam_lr_ratio · {words}"
    alpha = rate * math.sqrt(1 - b2**step) / (1 - b1**step)
    case.value("alpha", f"{words} · √(1 − beta_2^t) / (1 − beta_1^t), step t = {step}: m and v start too small",
               alpha, f"{rate:g} · √(1 − {b2:g}^{step}) / (1 − {b1:g}^{step})")  # fmt: skip
    worked = f"{bare(m)} / (√{bare(v)} + {eps:g})"
    q = case.value("q", f"m / (√{root} + epsilon)", m / (math.sqrt(v) + eps), worked)
    case.formula = f"{name} = {name} − alpha · m / (√{root} + epsilon)"
    case.sum(label, "one step of Adam", *parts, one("q", at, q, "−alpha", -alpha))
    case.scale += case.steps[-1].size + alpha * m_size / (math.sqrt(v) + eps)


def _rmsprop(
    case: Case, label: str, name: str, symbol: str, p: float, g: float, slots: dict[str, float], rate: float,
    config: dict[str, Any], step: int,
) -> None:  # fmt: skip
    at, rho, eps = case.index, config["rho"], config["epsilon"]
    old, new = one("v", at, slots["v"], "rho", rho), one(symbol, at, g, f"(1 − rho) · {symbol}", (1 - rho) * g)
    v = case.sum("v", f"rho · v + (1 − rho) · {symbol}²: the running square", old, new)
    spread, lost = v, 0.0
    if config["centered"]:
        old, new = one("mean", at, slots["mean"], "rho", rho), one(symbol, at, g, "1 − rho", 1 - rho)
        mean = case.sum("mean", f"rho · mean + (1 − rho) · {symbol}: the running mean", old, new)
        spread = case.sum("spread", "v − mean²", one("v", at, v), one("mean", at, mean, "−mean", -mean))
        lost = case.steps[-1].size
    rule = f"learning_rate · {symbol} / √({'spread' if config['centered'] else 'v'} + epsilon)"
    worked = f"{rate:g} · {bare(g)} / √({bare(spread)} + {eps:g})"
    move = case.value("move", rule, rate * g / math.sqrt(spread + eps), worked)
    case.formula = f"{name} = {name} − {rule}"
    size = abs(move) * (1 + lost / (spread + eps))
    source = "move"
    if "momentum" in slots:
        old = one("m", at, slots["momentum"], "momentum", config["momentum"])
        move, source = case.sum("m", "momentum · m + move", old, one("move", at, move)), "m (new)"
        case.formula = f"{name} = {name} − m,  m = momentum · m + {rule}"
        size += case.steps[-1].size
    parts = _kept_and_decayed(case, name, p, rate, config)
    case.sum(label, "one step of RMSprop", *parts, one(source, at, move, "−1", -1.0))
    case.scale += case.steps[-1].size + size


def _nadam(
    case: Case, label: str, name: str, symbol: str, p: float, g: float, slots: dict[str, float], rate: float,
    config: dict[str, Any], step: int,
) -> None:  # fmt: skip
    at, b1, b2, eps = case.index, config["beta_1"], config["beta_2"], config["epsilon"]
    m = case.sum("m", f"beta_1 · m + (1 − beta_1) · {symbol}: the running mean",
                 one("m", at, slots["m"], "beta_1", b1), one(symbol, at, g, "1 − beta_1", 1 - b1))  # fmt: skip
    m_size = case.steps[-1].size
    old, new = one("v", at, slots["v"], "beta_2", b2), one(symbol, at, g, f"(1 − beta_2) · {symbol}", (1 - b2) * g)
    v = case.sum("v", f"beta_2 · v + (1 − beta_2) · {symbol}²: the running square", old, new)
    u = [b1 * (1 - 0.5 * 0.96**k) for k in range(1, step + 2)]
    done = math.prod(u[:step])  # the product of the weights of all steps so far
    ahead = case.sum("ahead", f"u' · m / (1 − U') + (1 − u) · {symbol} / (1 − U), step t = {step}",
                     one("m", at, m, "u' / (1 − U')", u[step] / (1 - done * u[step])),
                     one(symbol, at, g, "(1 − u) / (1 − U)", (1 - u[step - 1]) / (1 - done)))  # fmt: skip
    below = math.sqrt(v / (1 - b2**step)) + eps
    worked = f"{bare(ahead)} / (√({bare(v)} / (1 − {b2:g}^{step})) + {eps:g})"
    q = case.value("q", "ahead / (√(v / (1 − beta_2^t)) + epsilon)", ahead / below, worked)
    case.formula = f"{name} = {name} − learning_rate · ahead / (√(v / (1 − beta_2^t)) + epsilon)"
    case.sum(label, "one step of Nadam", *_kept_and_decayed(case, name, p, rate, config),
             one("q", at, q, "−learning_rate", -rate))  # fmt: skip
    case.scale += case.steps[-1].size + rate * (m_size + abs(g)) / below


def _adagrad(
    case: Case, label: str, name: str, symbol: str, p: float, g: float, slots: dict[str, float], rate: float,
    config: dict[str, Any], step: int,
) -> None:  # fmt: skip
    at, eps = case.index, config["epsilon"]
    total = case.sum("sum", f"sum + {symbol}²: over all steps so far", one("sum", at, slots["sum"]),
                     one(symbol, at, g, symbol, g))  # fmt: skip
    worked = f"{rate:g} · {bare(g)} / √({bare(total)} + {eps:g})"
    rule = f"learning_rate · {symbol} / √(sum + epsilon)"
    move = case.value("move", rule, rate * g / math.sqrt(total + eps), worked)
    case.formula = f"{name} = {name} − {rule}"
    parts = _kept_and_decayed(case, name, p, rate, config)
    case.sum(label, "one step of Adagrad", *parts, one("move", at, move, "−1", -1.0))
    case.scale += case.steps[-1].size + abs(move)


def _lion(
    case: Case, label: str, name: str, symbol: str, p: float, g: float, slots: dict[str, float], rate: float,
    config: dict[str, Any], step: int,
) -> None:  # fmt: skip
    at, b1 = case.index, config["beta_1"]
    c = case.sum("c", f"beta_1 · m + (1 − beta_1) · {symbol}",
                 one("m", at, slots["m"], "beta_1", b1), one(symbol, at, g, "1 − beta_1", 1 - b1))  # fmt: skip
    case.formula = f"{name} = {name} − learning_rate · sign(c)"
    parts = _kept_and_decayed(case, name, p, rate, config)
    case.sum(label, "one step of the rate", *parts, one("sign(c)", at, float(np.sign(c)), "−learning_rate", -rate))
    case.scale += case.steps[-1].size


def _adam_of_muon(
    case: Case, label: str, name: str, symbol: str, p: float, g: float, slots: dict[str, float], rate: float,
    config: dict[str, Any], step: int,
) -> None:  # fmt: skip
    """What Muon does with a parameter that is no kernel. Its arrays are sums: m / (1 − beta_1), v / (1 − beta_2).

    The step has adam_lr_ratio times the rate, weight decay the rate itself.
    """
    b1, b2 = config["adam_beta_1"], config["adam_beta_2"]
    means = {"m": (1 - b1) * slots["m_sum"], "v": (1 - b2) * slots["v_sum"]}
    _adam(case, label, name, symbol, p, g, means, rate, {**config, "beta_1": b1, "beta_2": b2}, step)
    case.note("Muon moves kernels; this parameter goes by AdamW. m and v are m_sum and v_sum times 1 − beta.")


def _muon(
    case: Case, label: str, name: str, symbol: str, p: np.ndarray, g: float, whole: np.ndarray, m_sum: np.ndarray,
    rate: float, config: dict[str, Any],
) -> None:  # fmt: skip
    """A kernel's step by Muon needs the whole gradient (`whole`), momentum and kernel; g is the number at the index."""
    at, mu = case.index, config["momentum"]
    a, b, c, rounds = config["muon_a"], config["muon_b"], config["muon_c"], config["ns_steps"]
    m = case.sum("m", f"momentum · m + {symbol}", one("m_sum", at, m_sum[at], "momentum", mu), one(symbol, at, g))
    ahead, source = mu * m_sum + whole, "m (new)"
    if config["nesterov"]:
        case.sum("ahead", f"{symbol} + momentum · m, m being the new one",
                 one(symbol, at, g), one("m (new)", at, m, "momentum", mu))  # fmt: skip
        ahead, source = whole + mu * ahead, "ahead"
    matrix = ahead.reshape(-1, p.shape[-1])
    row, column = int(np.ravel_multi_index(at[:-1], p.shape[:-1])), at[-1]
    squares = Products(source, p.shape, ahead.reshape(-1), source, p.shape, ahead.reshape(-1))
    norm2 = case.sum("norm²", f"the sum of {source} · {source} over the whole kernel", squares)
    case.value("norm", "√norm²", math.sqrt(norm2), f"√{bare(norm2)}")

    # The last round as a sum of products, of what the rounds before it have made of the matrix.
    x = orthogonal(matrix, rounds - 1, a, b, c)
    wide, (i, j) = (x.T, (column, row)) if x.shape[0] > x.shape[1] else (x, (row, column))
    square = wide @ wide.T
    factors, others = b * square + c * (square @ square), range(len(wide))
    o = case.sum(
        "o", f"a · X + C · X, round {rounds} of {rounds}:  C = b · X Xᵀ + c · (X Xᵀ)²,  X from {source} / norm",
        one("X", (i, j), wide[i, j], "a", a),
        Products("X", grid(others, [j]), wide[:, j], "C", grid([i], others), factors[i]),
    )  # fmt: skip
    length = max(matrix.shape)
    size, words = 1.0, "−learning_rate"
    if config["rms_rate"] is not None:
        size, words = config["rms_rate"] * math.sqrt(length), f"−learning_rate · rms_rate · √{length}"
    parts = _kept_and_decayed(case, name, p[at], rate, config)
    if config["normalize"]:
        left = 1 - (config["weight_decay"] or 0.0) * rate
        every = Products(name, p.shape, p.reshape(-1), name, p.shape, p.reshape(-1))
        width = left * math.sqrt(case.sum("size²", f"the sum of {name} · {name} over the whole kernel", every))
        short = case.sum("p", "the kernel brought to the norm √C_out, after weight decay",
                         one(name, at, p[at], "√C_out / size", left * math.sqrt(p.shape[-1]) / (width + 1e-12)))
        parts = [one("p", at, short)]
    case.formula = f"{name} = {name} − learning_rate · orthogonal({source})"
    case.sum(label, "one step of Muon", *parts, one("o", at, o, words, -rate * size))
    case.scale += case.steps[-1].size + rate * size * max(1.0, abs(a)) ** rounds  # a: how much a round adds to rounding
    case.note(
        "The matrix is the kernel with all axes but the last as its rows (the other way round in X, where it is "
        "higher than wide). Each round brings its singular values nearer to 1."
    )


def _constrain(case: Case, name: str, constraint: dict[str, Any], raw: Callable[[tuple], np.ndarray]) -> None:
    """What a constraint makes of the parameter p that the optimizer left."""
    at, kind, config, p = case.index, constraint["class_name"], constraint["config"], case.steps[-1].value
    case.formula += f"; then {kind}"
    if kind == "NonNeg":
        case.value(name, "p, but not below 0", max(p, 0.0), f"max({bare(p)}, 0)")
        return
    axes = config["axis"]
    axes = {k % len(at) for k in (axes if isinstance(axes, (list, tuple)) else [axes])}
    vector = raw(tuple(slice(None) if k in axes else n for k, n in enumerate(at))).reshape(-1)
    lengths = [range(case.layer.params[name].shape[k]) if k in axes else [n] for k, n in enumerate(at)]
    places = grid(*lengths)
    squares = Products("p", places, vector, "p", places, vector)
    square = case.sum("norm²", "the sum of p · p over the weight vector", squares)
    norm = case.value("norm", "√norm²", math.sqrt(square), f"√{bare(square)}")
    if kind == "MaxNorm":
        rule, factor = "min(norm, max_value) / (1e-7 + norm)", min(norm, config["max_value"]) / (1e-7 + norm)
    else:
        rule, factor = "1 / (1e-7 + norm)", 1 / (1e-7 + norm)
    case.sum(name, f"p · {rule}", one("p", at, p, rule, factor))
    case.scale = case.scale * max(factor, 1.0) + case.steps[-1].size


OPTIMIZERS = {
    "SGD": _sgd, "Adam": _adam, "AdamW": _adam, "Nadam": _nadam, "RMSprop": _rmsprop, "Adagrad": _adagrad,
    "Lion": _lion,
}  # fmt: skip
