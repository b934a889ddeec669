"""Optimizers: how a gradient changes a parameter.

Each rule is a few lines in `update`, with plain formulas. `apply` calls it for pieces of the parameters that fit into
the processor's cache, all pieces of one array being independent: there the plain formulas' temporaries cost little, and
the threads can share the work.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minicnn import schedules
from minicnn.backend import Array, xp_of
from minicnn.errors import InputError, checked_number
from minicnn.kernels import cuda
from minicnn.registry import Configured, names_of, resolve, serialize
from minicnn.schedules import InverseTimeDecay, LearningRateSchedule

# Numbers in a piece. Its parameter, gradient, state and temporaries should stay in the cache; but between operations
# the threads pass Python's lock to and fro, so the pieces must not be too small either.
BLOCK = 1 << 16

# The running mean of a gradient that has become 0 (a dead unit) fades for ever, into numbers so small that processors
# need fifty times as long for them. Every FLUSH_EVERY steps, adding and subtracting TINY rounds those to 0.
FLUSH_EVERY, TINY = 64, 1e-22


class Optimizer(Configured):
    """Base class.

    learning_rate: a number, or a schedule of the step. weight_decay: each step first shrinks the parameters by
    learning_rate * weight_decay (decoupled, as in AdamW). clipnorm: the largest norm of one array's gradient.
    clipvalue: the largest size of a number in it. global_clipnorm: the largest norm of all gradients together.

    iterations: how many steps were made. state: for each parameter (layer name, parameter name) its arrays, in the
    order of `slots`.
    """

    slots: tuple[str, ...] = ()

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        **unknown,
    ):
        self._refuse(unknown)
        self.schedule: LearningRateSchedule | None = None
        self.learning_rate = learning_rate
        self.weight_decay = self._optional("weight_decay", weight_decay, "of 0 or more", 0.004)
        self.clipnorm = self._optional("clipnorm", clipnorm, "above 0", 1)
        self.clipvalue = self._optional("clipvalue", clipvalue, "above 0", 0.5)
        self.global_clipnorm = self._optional("global_clipnorm", global_clipnorm, "above 0", 1)
        self.iterations = 0
        self.state: dict[tuple[str, str], list[Array]] = {}

    @property
    def learning_rate(self) -> float:
        """The rate of the coming step."""
        return self._rate if self.schedule is None else float(self.schedule(self.iterations))

    @learning_rate.setter
    def learning_rate(self, value: float | dict | LearningRateSchedule) -> None:
        if isinstance(value, (LearningRateSchedule, dict)):
            self.schedule = schedules.get(value)
            return
        if self.schedule is not None:
            raise InputError(
                type(self).__name__, "the learning rate follows a schedule, it cannot be set.",
                "an optimizer whose rate is a number.", f"{value!r} for one with {type(self.schedule).__name__}.",
                "use either a schedule or a callback that sets the rate.",
            )  # fmt: skip
        self._rate = self._number("learning_rate", value, "of 0 or more", 0.001)

    def _number(self, argument: str, value: Any, wanted: str, example: float) -> float:
        """See minicnn.errors.checked_number."""
        return checked_number(type(self).__name__, argument, value, wanted, example)

    def _optional(self, argument: str, value: Any, wanted: str, example: float) -> float | None:
        return None if value is None else self._number(argument, value, wanted, example)

    def update(self, p: Array, g: Array, slots: list[Array], lr: float) -> None:
        """One step for one piece: changes p and the slots in place. p, g and slots are 1-D, of one length."""
        raise NotImplementedError(f"{type(self).__name__} must define update(p, g, slots, lr)")

    def new_slots(self, p: Array) -> list[Array]:
        """The state of a parameter that has not been updated yet: zeros of its shape."""
        return [xp_of(p).zeros_like(p) for _ in self.slots]

    def apply(
        self,
        params: dict[tuple[str, str], Array],
        grads: dict[tuple[str, str], list[Array]],
        workers: Any = None,
    ) -> None:
        """One step for all parameters, in place.

        params: by (layer name, parameter name). grads: of each parameter the shares of the shards, to be summed; the
        first share is used up as scratch. workers: a minicnn.training.shards.Workers that shares the work, or None.
        """
        if self.clipnorm is not None or self.clipvalue is not None or self.global_clipnorm is not None:
            self._clip(grads)
        lr = self.learning_rate
        self.iterations += 1
        if self._apply_on_gpu(params, grads, lr):
            return
        n = 1 if workers is None else workers.threads
        pieces, copied = [], []  # copied: what does not lie in one row in memory, such as a transposed array
        for key, p in params.items():
            if key not in self.state:
                self.state[key] = self.new_slots(p)
            arrays = [a.reshape(-1) for a in (p, *self.state[key], *grads[key])]
            changed = zip((p, *self.state[key]), arrays, strict=False)
            copied += [(a, flat) for a, flat in changed if not a.flags.c_contiguous]
            step = min(BLOCK, -(-p.size // n)) if xp_of(p) is np else p.size
            pieces += [(arrays, start, min(start + step, p.size)) for start in range(0, p.size, step)]
        n_slots = len(self.slots)

        def work(k: int, _: Any = None) -> None:
            for arrays, start, stop in pieces[k::n]:
                p, *rest = (a[start:stop] for a in arrays)
                slots, (g, *shares) = rest[:n_slots], rest[n_slots:]
                for share in shares:
                    g += share
                if self.weight_decay:
                    p -= p * (self.weight_decay * lr)
                self.update(p, g, slots, lr)
                if self.iterations % FLUSH_EVERY == 0:
                    for slot in slots:
                        slot += TINY
                        slot -= TINY

        if workers is None:
            work(0)
        else:
            workers.run(work, n)
        for a, flat in copied:
            a[...] = flat.reshape(a.shape)

    def gpu_rule(self, lr: float) -> tuple[str, tuple[float, ...]] | None:
        """The kernel of kernels/cuda/step.cu that makes this step for all parameters at once, and its numbers."""
        return None

    def _apply_on_gpu(self, params: dict, grads: dict, lr: float) -> bool:
        """The step in one launch, where the parameters are on a GPU and there is a kernel for the rule."""
        rule = self.gpu_rule(lr) if all(cuda.serves(p) and p.flags.c_contiguous for p in params.values()) else None
        if rule is None or len({p.dtype for p in params.values()}) != 1:
            return False
        rows = []
        for key, p in params.items():
            if key not in self.state:
                self.state[key] = self.new_slots(p)
            g = sum(grads[key][1:], start=grads[key][0])
            rows.append([p, xp_of(p).ascontiguousarray(g, p.dtype), *self.state[key]])
        cuda.fused_step(rule[0], rows, rule[1])
        return True

    def _clip(self, grads: dict[tuple[str, str], list[Array]]) -> None:
        """Sum the shares, and make gradients smaller that are too large. R. Pascanu et al. (2013), section 3.2."""
        for key, (g, *shares) in grads.items():
            for share in shares:
                g += share
            grads[key] = [g]
            if self.clipvalue is not None:
                xp_of(g).clip(g, -self.clipvalue, self.clipvalue, out=g)
            if self.clipnorm is not None:
                g *= _shrink(_squares(g), self.clipnorm).astype(g.dtype)
        if self.global_clipnorm is not None:
            total = sum(_squares(g) for (g,) in grads.values())
            for (g,) in grads.values():
                g *= _shrink(total, self.global_clipnorm).astype(g.dtype)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; the learning rate as it stands now."""
        config = super().get_config()
        if self.schedule is not None:
            config["learning_rate"] = serialize(self.schedule)
        return config


class SGD(Optimizer):
    """Stochastic gradient descent: p -= lr * g.

    momentum: m = momentum * m - lr * g, p += m. nesterov: p += momentum * m - lr * g, a look ahead.
    decay: the old Keras argument; the rate is learning_rate / (1 + decay * step).
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        decay: float = 0.0,
        **optimizer,
    ):
        super().__init__(learning_rate, **optimizer)
        self.momentum = self._number("momentum", momentum, "from 0 to 1", 0.9)
        self.nesterov, self.decay = nesterov, self._number("decay", decay, "of 0 or more", 1e-4)
        self.slots = ("momentum",) if momentum else ()
        if decay:
            self.schedule = InverseTimeDecay(self._rate, 1, decay)

    def update(self, p: Array, g: Array, slots: list[Array], lr: float) -> None:
        if not self.momentum:
            p -= lr * g
            return
        (m,) = slots
        m *= self.momentum
        m -= lr * g
        p += self.momentum * m - lr * g if self.nesterov else m

    def gpu_rule(self, lr: float) -> tuple[str, tuple[float, ...]] | None:
        if type(self).update is not SGD.update:  # somebody's own rule
            return None
        return "sgd", (lr, (self.weight_decay or 0.0) * lr, self.momentum, self.nesterov)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if self.decay:
            config["learning_rate"] = self._rate
        return config


class Adam(Optimizer):
    """Adam: the gradient's running mean m, divided by the square root of its running square v.

    m += (1 - beta_1) (g - m)      v += (1 - beta_2) (g² - v)      p -= alpha * m / (sqrt(v) + epsilon)
    alpha = lr * sqrt(1 - beta_2^t) / (1 - beta_1^t), t = 1, 2, …

    m and v start at 0 and are too small at first: alpha corrects that, and m and v themselves stay as they are.
    D. Kingma, J. Ba, "Adam" (2015), algorithm 1 in the form at the end of section 2 (epsilon is "epsilon hat" there).
    """

    slots = ("m", "v")

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **optimizer,
    ):
        super().__init__(learning_rate, **optimizer)
        self.beta_1 = self._number("beta_1", beta_1, "from 0 up to, but not including, 1", 0.9)
        self.beta_2 = self._number("beta_2", beta_2, "from 0 up to, but not including, 1", 0.999)
        self.epsilon = self._number("epsilon", epsilon, "of 0 or more", 1e-7)

    def update(self, p: Array, g: Array, slots: list[Array], lr: float) -> None:
        m, v = slots
        alpha = self._alpha(lr)
        xp, t = xp_of(p), g - m  # t: one temporary array for all three formulas
        t *= 1 - self.beta_1
        m += t
        xp.multiply(g, g, out=t)
        t -= v
        t *= 1 - self.beta_2
        v += t
        xp.sqrt(v, out=t)
        t += self.epsilon
        xp.divide(m, t, out=t)
        t *= alpha
        p -= t

    def _alpha(self, lr: float) -> float:
        steps = self.iterations
        return lr * math.sqrt(1 - self.beta_2**steps) / (1 - self.beta_1**steps)

    def gpu_rule(self, lr: float) -> tuple[str, tuple[float, ...]] | None:
        if type(self).update is not Adam.update:  # somebody's own rule
            return None
        decay = (self.weight_decay or 0.0) * lr
        return "adam", (self._alpha(lr), decay, 1 - self.beta_1, 1 - self.beta_2, self.epsilon)


class AdamW(Adam):
    """Adam with decoupled weight decay. I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization" (2019)."""

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **optimizer,
    ):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, weight_decay=weight_decay, **optimizer)


class RMSprop(Optimizer):
    """p -= lr * g / sqrt(v + epsilon), v being the gradient's running square.

    T. Tieleman, G. Hinton, "Neural Networks for Machine Learning", lecture 6.5 (2012).
    centered: v less the square of the running mean. momentum: of the steps.
    """

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **optimizer,
    ):
        super().__init__(learning_rate, **optimizer)
        self.rho = self._number("rho", rho, "from 0 up to, but not including, 1", 0.9)
        self.momentum = self._number("momentum", momentum, "from 0 to 1", 0.9)
        self.epsilon, self.centered = self._number("epsilon", epsilon, "of 0 or more", 1e-7), centered
        self.slots = ("v", *(["mean"] if centered else []), *(["momentum"] if momentum else []))

    def update(self, p: Array, g: Array, slots: list[Array], lr: float) -> None:
        named = dict(zip(self.slots, slots, strict=True))
        v = named["v"]
        v += (g * g - v) * (1 - self.rho)
        spread = v
        if self.centered:
            mean = named["mean"]
            mean += (g - mean) * (1 - self.rho)
            spread = v - mean * mean
        step = lr * g / xp_of(p).sqrt(spread + self.epsilon)
        if self.momentum:
            m = named["momentum"]
            m *= self.momentum
            m += step
            step = m
        p -= step


def _squares(g: Array) -> Array:
    return (g * g).sum().astype(np.float64)


def _shrink(squares: Array, largest: float) -> Array:
    """The factor that makes a norm, given by its square, `largest` at most. On the GPU nobody waits for it."""
    xp = xp_of(squares)
    return xp.minimum(1.0, largest / xp.maximum(xp.sqrt(squares), 1e-12))


_KNOWN = names_of(SGD, Adam, AdamW, RMSprop, sgd=SGD, adamw=AdamW, rmsprop=RMSprop)


def get(identifier: str | dict | Optimizer) -> Optimizer:
    """The optimizer for a name ("adam", "sgd", …), a config or an instance. Raises UnknownNameError."""
    if isinstance(identifier, Optimizer):
        return identifier
    name = identifier if isinstance(identifier, (str, dict)) else repr(identifier)
    return resolve("optimizer", name, _KNOWN, Optimizer)
