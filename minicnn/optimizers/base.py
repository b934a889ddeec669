"""What all optimizers share: the learning rate, clipping, weight decay, and how a step is cut into pieces.

Each rule is a few lines in `update`, with plain formulas. `apply` calls it for pieces of the parameters that fit into
the processor's cache, all pieces of one array being independent: there the plain formulas' temporaries cost little, and
the threads can share the work.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from minicnn import schedules
from minicnn.backend import Array, xp_of
from minicnn.errors import InputError, checked
from minicnn.kernels import cuda
from minicnn.registry import Configured, serialize
from minicnn.schedules import LearningRateSchedule

# Numbers in a piece. Its parameter, gradient, state and temporaries should stay in the cache; but between operations
# the threads pass Python's lock to and fro, so the pieces must not be too small either.
BLOCK = 1 << 16

# The running mean of a gradient that has become 0 (a dead unit) fades for ever, into numbers so small that processors
# need fifty times as long for them. Every FLUSH_EVERY steps, adding and subtracting TINY rounds those to 0.
FLUSH_EVERY, TINY = 64, 1e-22

Key = tuple[str, str]  # (name of the layer, name of the parameter)
Arrays = dict[Key, Array]


class Rate(float):
    """A learning rate: a number, also for code that takes it for Keras' variable.

    optimizer.learning_rate.assign(0.01) sets it; .value and .numpy() are the number.
    """

    optimizer: Optimizer

    @property
    def value(self) -> float:
        return float(self)

    def numpy(self) -> float:
        return float(self)

    def assign(self, value: float) -> None:
        self.optimizer.learning_rate = value

    def __reduce__(self) -> Any:  # what is stored or copied is the number
        return float, (float(self),)


class Optimizer(Configured):
    """Base class.

    learning_rate: a number, or a schedule of the step. weight_decay: each step first shrinks the parameters by
    learning_rate * weight_decay (decoupled, as in AdamW). clipnorm: the largest norm of one array's gradient.
    clipvalue: the largest size of a number in it. global_clipnorm: the largest norm of all gradients together. Of
    several (Keras takes one only), clipvalue comes first, then clipnorm.
    use_ema: keep a running average of the parameters too, average = ema_momentum * average + (1 - ema_momentum) * p,
    which takes their place when fit ends, and every ema_overwrite_frequency steps.
    gradient_accumulation_steps: make one step of the mean gradient of so many batches.

    iterations: how many batches were learned from. state: for each parameter (layer name, parameter name) its arrays,
    in the order of `slots_of(key)`.
    """

    slots: Sequence[str] = ()  # the arrays that `update` is given, by name
    # Slots that are fading sums, s = beta s + g, and not the textbooks' means, (1 - beta) s: the mean's name, its beta.
    sums: ClassVar[Mapping[str, tuple[str, str]]] = {}
    whole = False  # whether `update` takes whole parameters, in their own shape, instead of pieces of them
    ranges: ClassVar[dict[str, Any]] = {
        "weight_decay": (["of 0 or more"], 0.004),
        "clipnorm": (["above 0"], 1),
        "clipvalue": (["above 0"], 0.5),
        "global_clipnorm": (["above 0"], 1),
        "use_ema": (bool, True),
        "ema_momentum": ("from 0 to 1", 0.99),
        "ema_overwrite_frequency": ([1], 100),
        "gradient_accumulation_steps": ([2], 4),
        "iterations": (0, 0),
        "name": ([str], "my_optimizer"),
    }

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        **unknown,
    ):
        self._refuse(unknown)
        self.schedule: LearningRateSchedule | None = None
        self.learning_rate = learning_rate
        self.weight_decay, self.clipnorm, self.clipvalue = weight_decay, clipnorm, clipvalue
        self.global_clipnorm = global_clipnorm
        self.use_ema, self.ema_momentum = use_ema, ema_momentum
        self.ema_overwrite_frequency = ema_overwrite_frequency
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.loss_scale_factor, self.name = loss_scale_factor, name
        self.name = self.name or type(self).__name__.lower()
        if loss_scale_factor is not None:
            raise InputError(
                type(self).__name__, "loss_scale_factor is not used here.", "None.", f"{loss_scale_factor!r}.",
                "leave it out: it keeps the gradients of 16-bit numbers from vanishing, and these have 32.",
            )  # fmt: skip
        self.iterations = 0
        self.state: dict[Key, list[Array]] = {}
        self._stored: tuple[str, ...] | None = None  # the slots that the arrays in `state` are for
        self._undecayed: list[str] = []
        self._owner: Any = None
        self.swapped = False  # whether the averages of use_ema are in the parameters' places

    def __setattr__(self, name: str, value: Any) -> None:
        """Where another beta is set between two steps, the means stay as they are: their sums are changed for it."""
        slots, old = [slot for slot, (_, beta) in self.sums.items() if beta == name], vars(self).get(name)
        super().__setattr__(name, value)
        if not slots or old is None or old == value:
            return
        for key, arrays in self.state.items():
            for slot, array in zip(self.slots_of(key), arrays, strict=True):
                if slot in slots:
                    array *= (1 - old) / (1 - value)

    # ---- the learning rate -------------------------------------------------------------------------------------------

    @property
    def learning_rate(self) -> float:
        """The rate of the coming step."""
        rate = Rate(self._rate if self.schedule is None else self.schedule(self.updates))
        rate.optimizer = self
        return rate

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
        self._rate = checked(type(self).__name__, "learning_rate", value, "of 0 or more", 0.001)

    @property
    def updates(self) -> int:
        """How many steps were made: fewer than `iterations` where gradients are accumulated."""
        return self.iterations // (self.gradient_accumulation_steps or 1)

    @property
    def lr(self) -> float:
        """The learning rate by its old name."""
        return self.learning_rate

    @lr.setter
    def lr(self, value: float) -> None:
        self.learning_rate = value

    # ---- whose steps these are ---------------------------------------------------------------------------------------

    def attach(self, model: Any) -> None:
        """Called by compile and fit. InputError where the steps and the state are those of another model."""
        owner = self._owner() if self._owner is not None else None
        if self._owner is not None and owner is not model and self.iterations > 0:
            raise InputError(
                type(self).__name__, "this optimizer has trained another model; its state belongs to that one.",
                "a new optimizer for each model.", f"one with {self.iterations} steps behind it.",
                f"make it where the model is made: model.compile({type(self).__name__}(…), …).",
            )  # fmt: skip
        self._owner = weakref.ref(model)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_owner": None}  # a copy belongs to nobody yet

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Sequence[str] | None = None) -> None:
        """Parameters that weight_decay leaves alone: var_names are searched for in "layer/kernel", "layer/bias", …"""
        if var_list is not None or not isinstance(var_names, (list, tuple)):
            raise InputError(
                type(self).__name__, "parameters are excluded by their names.", 'var_names=["bias", "gamma"].',
                f"var_list={var_list!r}, var_names={var_names!r}.", "give parts of names, or regular expressions.",
            )  # fmt: skip
        self._undecayed = [str(name) for name in var_names]

    def decay_of(self, key: Key, p: Array) -> float:
        """What share of this parameter times the rate each step takes away."""
        return 0.0 if self._undecayed and self._is_undecayed(key) else self.weight_decay or 0.0

    def _is_undecayed(self, key: Key) -> bool:
        path = "/".join(names_of_parameter(key))
        return any(re.search(name, path) for name in self._undecayed)

    # ---- the step ----------------------------------------------------------------------------------------------------

    def update(self, p: Array, g: Array, slots: list[Array], lr: float) -> None:
        """One step for one piece: changes p and the slots in place. p, g and slots are 1-D, of one length."""
        raise NotImplementedError(f"{type(self).__name__} must define update(p, g, slots, lr)")

    def update_parameter(self, key: Key, p: Array, g: Array, slots: list[Array], lr: float) -> None:
        """`update` for those who ask whose parameter it is; with `whole`, not a piece but the whole one."""
        self.update(p, g, slots, lr)

    def new_slots(self, p: Array) -> list[Array]:
        """The first values of `slots` for a parameter: zeros of its shape."""
        return [xp_of(p).zeros_like(p) for _ in self.slots]

    def slots_of(self, key: Key | None = None) -> tuple[str, ...]:
        """The names of a parameter's arrays in `state`: those of the rule, and what the options add."""
        extra = ["accumulated"] if self.gradient_accumulation_steps else []
        return (*self.slots, *extra, *(["average"] if self.use_ema else []))

    def new_state(self, key: Key, p: Array) -> list[Array]:
        """The arrays of `slots_of(key)` before the first step of a parameter."""
        first = dict(zip(self.slots, self.new_slots(p), strict=True))
        make = {"accumulated": lambda: xp_of(p).zeros_like(p), "average": p.copy}  # only what is wanted: it is large
        return [first[name] if name in first else make[name]() for name in self.slots_of(key)]

    def means_of(self, key: Key, arrays: Sequence[Array]) -> dict[str, Array]:
        """The arrays of a parameter's `state` as textbooks have them, by name: Adam's m and v."""
        means = {}
        for slot, array in zip(self.slots_of(key), arrays, strict=True):
            name, beta = self.sums.get(slot, (slot, ""))
            means[name] = array * (1 - getattr(self, beta)) if beta else array
        return means

    def state_of(self, key: Key, means: Mapping[str, Array]) -> list[Array]:
        """The opposite of means_of: arrays for `state`. KeyError where one is missing."""
        arrays = []
        for slot in self.slots_of(key):
            name, beta = self.sums.get(slot, (slot, ""))
            arrays.append(means[name] / (1 - getattr(self, beta)) if beta else means[name])
        return arrays

    def apply(self, params: Arrays, grads: dict[Key, list[Array]], workers: Any = None) -> None:
        """One step for all parameters, in place.

        params: by (layer name, parameter name). grads: of each parameter the shares of the shards, to be summed; the
        first share is used up as scratch. workers: a minicnn.training.shards.Workers that shares the work, or None.
        """
        self._make_state(params)
        complete, lr = not self.gradient_accumulation_steps or self._accumulate(grads), float(self.learning_rate)
        vars(self)["iterations"] += 1  # what is set from outside is checked; our own count need not be
        if complete:
            if self.clipnorm is not None or self.clipvalue is not None or self.global_clipnorm is not None:
                self._clip(grads)
            if not self._apply_on_gpu(params, grads, lr):
                self._apply_in_pieces(params, grads, lr, workers)
        if self.use_ema:
            self._average(params)

    def _make_state(self, params: Arrays) -> None:
        """Arrays for parameters that have none; where an option was switched on or off, those of its name."""
        names = self.slots_of()
        stored = names if self._stored is None else self._stored
        if stored == names and self.state.keys() >= params.keys():
            return
        if stored != names:
            self.state = {key: arrays for key, arrays in self.state.items() if key in params}
        for key, p in params.items():
            if key not in self.state or stored != names:
                kept = dict(zip(stored, self.state.get(key, ()), strict=False))
                fresh = zip(names, self.new_state(key, p), strict=True)
                self.state[key] = [kept.get(name, array) for name, array in fresh]
        self._stored = names

    def _apply_in_pieces(self, params: Arrays, grads: dict[Key, list[Array]], lr: float, workers: Any) -> None:
        n = 1 if workers is None else workers.threads
        pieces: list[tuple[Key, list[Array], Any, float]] = []
        copied = []  # what does not lie in one row in memory, such as a transposed array
        n_slots = len(self.slots)
        for key, p in params.items():
            used = [p, *self.state[key][:n_slots]]
            decay = self.decay_of(key, p) * lr
            if self.whole:
                pieces.append((key, [*used, *grads[key]], ..., decay))
                continue
            arrays = []
            for a in (*used, *grads[key]):
                arrays.append(a.reshape(-1))
                if len(arrays) <= len(used) and not a.flags.c_contiguous:
                    copied.append((a, arrays[-1]))
            step = min(BLOCK, -(-p.size // n)) if xp_of(p) is np else p.size
            for start in range(0, p.size, step):
                pieces.append((key, arrays, slice(start, min(start + step, p.size)), decay))

        def work(k: int, _: Any = None) -> None:
            for key, arrays, place, decay in pieces[k::n]:
                p, *rest = [a[place] for a in arrays]
                slots, (g, *shares) = rest[:n_slots], rest[n_slots:]
                for share in shares:
                    g += share
                if decay:
                    p -= p * decay
                self.update_parameter(key, p, g, slots, lr)
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

    def _apply_on_gpu(self, params: Arrays, grads: dict[Key, list[Array]], lr: float) -> bool:
        """The step in one launch, where the parameters are on a GPU and there is a kernel for the rule."""
        ours = all(cuda.serves(p) and p.flags.c_contiguous for p in params.values())
        rule = self.gpu_rule(lr) if ours and not self._undecayed else None
        if rule is None or len({p.dtype for p in params.values()}) != 1:
            return False
        rows = []
        for key, p in params.items():
            g = sum(grads[key][1:], start=grads[key][0])
            rows.append([p, xp_of(p).ascontiguousarray(g, p.dtype), *self.state[key][: len(self.slots)]])
        cuda.fused_step(rule[0], rows, rule[1])
        return True

    # ---- what the options add ----------------------------------------------------------------------------------------

    def _clip(self, grads: dict[Key, list[Array]]) -> None:
        """Make gradients smaller that are too large. R. Pascanu et al. (2013), section 3.2."""
        _sum_shares(grads)
        for (g,) in grads.values():
            if self.clipvalue is not None:
                xp_of(g).clip(g, -self.clipvalue, self.clipvalue, out=g)
            if self.clipnorm is not None:
                g *= _shrink(sum_of_squares(g), self.clipnorm).astype(g.dtype)
        if self.global_clipnorm is not None:
            total = sum(sum_of_squares(g) for (g,) in grads.values())
            for (g,) in grads.values():
                g *= _shrink(total, self.global_clipnorm).astype(g.dtype)

    def _accumulate(self, grads: dict[Key, list[Array]]) -> bool:
        """Add the gradients up. When enough batches have come, grads become their mean: whether that is so."""
        steps = self.gradient_accumulation_steps or 1
        _sum_shares(grads)
        complete = (self.iterations + 1) % steps == 0
        for key, (g,) in grads.items():
            total = self.state[key][self.slots_of(key).index("accumulated")]
            total += g
            if complete:
                xp_of(g).divide(total, steps, out=g)
                total[...] = 0
        return complete

    def _average(self, params: Arrays) -> None:
        """Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992), with fading weights."""
        before = (self.iterations - 1) // (self.gradient_accumulation_steps or 1)
        share = 1.0 if before == 0 else 1 - self.ema_momentum
        for key, p in params.items():
            average = self.state[key][-1]
            average += (p - average) * share
        if self.ema_overwrite_frequency and (before + 1) % self.ema_overwrite_frequency == 0:
            self.finalize(params)

    def finalize(self, params: Arrays) -> None:
        """With use_ema, the averages take the parameters' places: fit calls it at its end."""
        for key, p in params.items():
            average = self._average_of(key)
            if average is not None and self.swapped:
                average[...] = p
            elif average is not None:
                p[...] = average
        self.swapped = False

    def swap_averages(self, params: Arrays) -> None:
        """With use_ema, parameters and averages change places, all at once; the second time they are as before."""
        for key, p in params.items():
            average = self._average_of(key)
            if average is not None:
                weights = p.copy()
                p[...], average[...] = average, weights
        self.swapped = not self.swapped

    def _average_of(self, key: Key) -> Array | None:
        """The running average of a parameter; None where there is none, or none yet."""
        return self.state[key][-1] if self.use_ema and key in self.state else None

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; the learning rate as it stands now."""
        rate = float(self.learning_rate) if self.schedule is None else serialize(self.schedule)
        return {**super().get_config(), "learning_rate": rate}


def names_of_parameter(key: Key) -> tuple[str, str]:
    """("dense_1", "w") as Keras says it: ("dense_1", "kernel")."""
    return key[0], {"w": "kernel", "b": "bias"}.get(key[1], key[1])


def _sum_shares(grads: dict[Key, list[Array]]) -> None:
    """Leave one array of each parameter, the sum of all shares."""
    for key, (g, *shares) in grads.items():
        for share in shares:
            g += share
        grads[key] = [g]


def sum_of_squares(g: Array) -> Array:
    """The sum of g * g in float64: the square of a float32 number above 1.8e19 is infinite in float32."""
    wide = g.astype(np.float64)
    return (wide * wide).sum()


def _shrink(squares: Array, largest: float) -> Array:
    """The factor that makes a norm, given by its square, `largest` at most. On the GPU nobody waits for it."""
    xp = xp_of(squares)
    return xp.minimum(1.0, largest / xp.maximum(xp.sqrt(squares), 1e-12))
