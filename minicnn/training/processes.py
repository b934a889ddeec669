"""Processes: a long `fit` lets its shards run in forks of this process, where Python's lock does not hold them up.

A thread that comes back from NumPy needs Python's global lock. If another one has it, it sleeps, and to wake it costs
some ten microseconds; a step of a convolutional network has hundreds of such waits. Each process has its own lock.

    fork          each process begins as a copy of this one: same model, same code
    a step        the batch, the parameters and the layers' state are copied into memory that all share; each process
                  runs `shard_gradients` on its shard, this one on the first; the others leave their gradients in shared
                  memory, where the optimizer, which works in this process alone, reads them
    all_reduce    each writes its part into its slot, rings at all others, waits until they have rung, and adds up the
                  slots in their order: the same bits everywhere, and the same as with threads

All else that a process knows is the model as it was at the fork. When something else has changed (a layer was frozen,
the loss is another one, a batch is larger), new ones are forked. When one is lost, or has failed, the step is done
again by threads, which raise what there is to be raised; and so is the rest of the fit.
"""

from __future__ import annotations

import gc
import json
import mmap
import operator
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from typing import Any, NoReturn

import numpy as np

from minicnn.activations import Function
from minicnn.arguments import in_words
from minicnn.backend import Array
from minicnn.errors import checked
from minicnn.layers.base import Layer
from minicnn.layers.context import Context
from minicnn.layers.network import Network
from minicnn.metrics.base import FunctionMetric
from minicnn.training.pipes import LostError, Pipe
from minicnn.training.plan import is_wanted
from minicnn.training.shards import in_order, is_dense
from minicnn.training.step import Batch, Share, shard_gradients

# A fork, and the memory that each process must first get, cost about as much as they save in so many steps.
MIN_STEPS = 20
# Forks in a row, none of which has lasted for so many steps, after which threads do the rest.
MAX_IN_VAIN = 3
PATIENCE = 60.0  # seconds after which a process that says nothing is taken for lost
ALIGNMENT = 64  # bytes: a line of the processor's cache

_wanted = True


@in_words
def set_processes(use: bool) -> None:
    """Whether a long `fit` may run in several processes, as it does on Linux unless you say False; from the next on.

    They are forks of this process, as many as there would be threads (`minicnn.set_num_threads`), and end with the fit.
    The numbers are the same to the bit. A model with a layer, an activation, a loss or a metric of your own trains in
    threads: what such code counts or draws would be lost with the process. So does everything that is observed
    (profile, check_finite), what several ranks train, and a model whose weights are of several dtypes or not in
    C's order. Raises InputError for anything but True and False.
    """
    global _wanted
    _wanted = checked("set_processes", "use", use, bool, False)


class Processes:
    """The processes of one `fit`. `gradients` is what is called; `close` ends them.

    n: how many, with this one, whose number k is 0.
    """

    def __init__(self, model: Any, n: int):
        self.model, self.n, self.k = model, n, 0
        self.usable = True  # until one is lost
        self.steps = self.in_vain = 0
        self.pids: list[int] = []
        self.pipes: list[Pipe] = []
        self._forget()

    @classmethod
    def for_fit(cls, model: Any, shards: int, steps: float, ranks: int) -> Processes | None:
        """Those for a fit of so many steps; None where threads are to do it.

        Dense layers have so many weights for what they compute that to copy weights and gradients would cost more.
        """
        able = sys.platform == "linux" and model.device == "cpu" and ranks == 1
        wanted = _wanted and able and shards > 1 and steps >= MIN_STEPS and not (model.built and is_dense(model))
        return cls(model, shards) if wanted else None

    def gradients(self, batch: Batch, shards: Sequence[slice]) -> list[Share] | None:
        """`shard_gradients` for each shard; None where threads must do it."""
        if not self.usable or len(shards) != self.n or not self._can_share():
            return None
        try:
            if not self._know(batch):
                self.close()
                self._fork(batch)
                if not self.usable:
                    return None
            self.steps += 1
            for name, array in batch.arrays().items():
                self.inputs[name][: len(array)] = array
            for place, array in zip(self.weights, self._weights(), strict=True):
                place[...] = array
            order = [len(batch.x), batch.numbers(), [[samples.start, samples.stop] for samples in shards]]
            for child in range(1, self.n):
                self.orders[child].send(json.dumps(order))
            own = shard_gradients(self.model, batch, shards[0], self._all_reduce)
            return [own, *map(self._result, range(1, self.n))]
        except LostError as lost:
            self._give_up(str(lost))
            return None
        except BaseException:  # an error in the own shard, or a second Ctrl-C
            self.close()
            raise

    def close(self) -> None:
        """End the processes. They have nothing to bring to an end themselves."""
        for pid in self.pids:
            with suppress(ChildProcessError):  # somebody else's waitpid was there first
                _state(pid)  # else this number may be another process's by now
                os.kill(pid, signal.SIGKILL)
        while self.pids:
            with suppress(ChildProcessError):
                os.waitpid(self.pids[-1], 0)
            self.pids.pop()
        while self.pipes:
            self.pipes.pop().close()
        self._forget()

    def _forget(self) -> None:
        """Let go of what the processes share, and of what they know."""
        self.orders: list[Pipe] = []
        self.results: list[Pipe] = []
        self.bells: list[list[Pipe]] = []
        self.weights: list[Array] = []
        self.inputs: dict[str, Array] = {}
        self.grads: list[list[tuple[int, str, Array]]] = []
        self.slots: list[list[Array]] = []
        self.knows: list[Any] = []  # what the processes were forked with
        self.changeable: list[tuple[Any, Any]] = []  # the lists and arrays among their attributes, and what they were

    # ---- what the processes know -----------------------------------------------------------------------------------

    def _can_share(self) -> bool:
        """Whether copies of the weights are like themselves, and gradients like their weights: the order in memory
        decides in which order numbers are added up, and where one array is of float64, others become so.
        """
        weights = self._weights()
        return len({a.dtype for a in weights}) == 1 and all(a.flags.c_contiguous for a in weights)

    def _know(self, batch: Batch) -> bool:
        """Whether the processes are there, and were forked from a model that computes as it does now."""
        if not self.pids or self.parent != os.getpid():  # a fork of the user's, in the middle of a fit
            return False
        arrays, facts = batch.arrays(), self._facts()
        same = len(facts) == len(self.knows) and all(map(operator.is_, facts, self.knows))
        return (
            same and arrays.keys() == self.inputs.keys()
            and all(np.all(value == before) for value, before in self.changeable)
            and all(_fits(array, self.inputs[name]) for name, array in arrays.items())
            and [(a.shape, a.dtype) for a in self._weights()] == [(a.shape, a.dtype) for a in self.weights]
        )  # fmt: skip

    def _facts(self) -> list[Any]:
        """What makes a step beside the batch and the weights: objects, each of which is the same while it is itself."""
        judges = self._judges()
        settings = [value for judge in judges for value in vars(judge).values()]
        return [self.model.nodes, Layer.settings, is_wanted(), *judges, *settings]

    def _judges(self) -> list[Any]:
        return [self.model.loss, *self.model.metrics]

    def _weights(self) -> list[Array]:
        """All parameters, and all state: anybody may have written there."""
        layers = {id(node.layer): node.layer for node in self.model.nodes}.values()
        return [array for layer in layers for held in (layer.params, layer.state) for array in held.values()]

    # ---- the fork --------------------------------------------------------------------------------------------------

    def _fork(self, batch: Batch) -> None:
        self.in_vain = self.in_vain + 1 if self.steps < MIN_STEPS else 0
        parts = [*self._judges(), *(node.layer for node in self.model.nodes)]
        if self.in_vain > MAX_IN_VAIN or not all(map(_is_ours, parts)):  # the first fork counts, too
            self.usable = False
            return
        self.steps, self.parent, self.meetings = 0, os.getpid(), 0
        weights, inputs, nodes = self._weights(), batch.arrays(), self.model.nodes
        learned = [
            (i, name, p) for i, (layer, *_) in enumerate(nodes) if layer.trainable for name, p in layer.params.items()
        ]
        # The largest array that is summed on the way: a few rows of float64, one for each sum, over the channels.
        slot = np.empty(4 * 8 * max(map(max, self.model.node_shapes)), np.uint8)
        knows = self._facts()  # before the fork: what another thread changes meanwhile is found by the next step
        changeable = [
            (value, copy(value)) for part in parts for name, value in vars(part).items()
            if isinstance(value, list | np.ndarray) and not name.startswith("_")
        ]  # fmt: skip
        used = [*weights, *inputs.values(), *[p for *_, p in learned] * (self.n - 1), *[slot] * (2 * self.n)]
        try:
            share = _Shared(used)
            self.weights = [share.like(array) for array in weights]
            self.inputs = {name: share.like(array) for name, array in inputs.items()}
            self.grads = [[(i, name, share.like(p)) for i, name, p in learned] for _ in range(1, self.n)]
            # Of one meeting and the next: the slots of the one are read while those of the other are being written.
            self.slots = [[share.like(slot) for _ in range(self.n)] for _ in range(2)]
            for _ in range(4 * self.n):  # one by one: if there is no file left, `close` must know of those before
                self.pipes.append(Pipe(self._look))
            self.orders, self.results, *self.bells = (self.pipes[i :: 4] for i in range(4))
            for k in range(1, self.n):
                self._fork_one(k)
        except (OSError, MemoryError) as error:  # no more processes, files or memory are to be had
            self._give_up(f"could not be started ({error})")
            return
        self.knows, self.changeable = knows, changeable

    def _fork_one(self, k: int) -> None:
        """Process k. No signal but SIGKILL reaches it: what Ctrl-C, SIGTERM and others are to do, this one does."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            with warnings.catch_warnings():  # "this process is multi-threaded": what a child runs takes no lock
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                self._serve(k)
            self.pids.append(pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _give_up(self, why: str) -> None:
        self.close()
        self.usable = False
        warnings.warn(
            f"a process of this fit {why}. It goes on in threads, from this step on, with the same numbers; "
            "minicnn.set_processes(False) begins with them.",
            RuntimeWarning, stacklevel=2,
        )  # fmt: skip

    # ---- this process ----------------------------------------------------------------------------------------------

    def _result(self, child: int) -> Share:
        loss, metrics = json.loads(self.results[child].receive())
        contexts = [Context() for _ in self.model.nodes]
        for i, name, gradient in self.grads[child - 1]:
            contexts[i].grads[name] = gradient
        return contexts, np.float64(loss), [np.array(values, dtype)[()] for values, dtype in metrics]

    # ---- all processes ---------------------------------------------------------------------------------------------

    def _all_reduce(self, part: Array) -> Array:
        turn = self.meetings % 2
        if part.nbytes > self.slots[0][0].nbytes:
            raise LostError("has more to add up than there is room for")
        slots = [slot[: part.nbytes].view(part.dtype).reshape(part.shape) for slot in self.slots[turn]]
        slots[self.k][...] = part
        for other in range(self.n):
            if other != self.k:
                self.bells[turn][other].ring()
        self.bells[turn][self.k].read(self.n - 1)
        self.meetings += 1
        return in_order(slots)

    def _look(self, waited: float) -> None:
        """What one does who has waited for so many seconds: are the others still there?"""
        if self.k:
            if os.getppid() != self.parent:
                os._exit(0)
            return
        for pid in self.pids:
            try:
                ended = _state(pid)
            except ChildProcessError:
                raise LostError("has gone") from None
            if ended is not None:
                signaled = ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
                raise LostError(f"was killed by signal {ended.si_status}" if signaled else "has failed")
        if waited > PATIENCE:
            raise LostError(f"has not answered for {PATIENCE:g} seconds")

    # ---- another process -------------------------------------------------------------------------------------------

    def _serve(self, k: int) -> NoReturn:
        """What a fork does until it is ended. Nothing that it inherits is flushed or finalized by it."""
        try:
            gc.freeze()
            self.k, self.pids = k, []
            self._close_others()
            places = iter(self.weights)
            for layer in {id(node.layer): node.layer for node in self.model.nodes}.values():
                for held in (layer.params, layer.state):
                    held.update((name, next(places)) for name in held)
            while True:
                n, numbers, shards = json.loads(self.orders[k].receive())
                batch = Batch.of({name: room[:n] for name, room in self.inputs.items()}, numbers)
                share = shard_gradients(self.model, batch, slice(*shards[k]), self._all_reduce)
                self._hand_in(*share)
                del share  # its memory is that of the next step
        finally:
            os._exit(1)  # and the parent looks for itself at what the trouble is

    def _close_others(self) -> None:
        """Close the files that this one does not need: who waits for the end of a pipe, or for a lock of a file, does
        not wait for this process; and the pipe that brings its orders ends with its parent.
        """
        bells = [end for row in self.bells for bell in row for end in (bell.reader, bell.writer)]
        needed = {0, 1, 2, self.orders[self.k].reader, self.results[self.k].writer, *bells}
        for file in map(int, os.listdir("/proc/self/fd")):
            if file not in needed:
                with suppress(OSError):  # that of the list itself is closed already
                    os.close(file)

    def _hand_in(self, contexts: Sequence[Context], loss: Any, metrics: Sequence[Any]) -> None:
        for i, name, place in self.grads[self.k - 1]:
            np.copyto(place, contexts[i].grads[name], casting="no")
        told = [(array.tolist(), array.dtype.str) for array in map(np.asarray, metrics)]
        self.results[self.k].send(json.dumps([float(loss), told]))


class _Shared:
    """Memory that this process shares with those that it forks, with room for arrays like these."""

    def __init__(self, arrays: Sequence[Array]):
        self.memory, self.used = mmap.mmap(-1, sum(_room(array) for array in arrays)), 0

    def like(self, array: Array) -> Array:
        """An array of this one's shape and dtype there, uninitialized."""
        place: Array = np.frombuffer(self.memory, array.dtype, array.size, self.used).reshape(array.shape)
        self.used += _room(array)
        return place


def _room(array: Array) -> int:
    return -(-array.nbytes // ALIGNMENT) * ALIGNMENT


def _fits(array: Array, room: Array) -> bool:
    return array.dtype == room.dtype and array.shape[1:] == room.shape[1:] and len(array) <= len(room)


def _state(pid: int) -> Any:
    """How this child has ended; None while it runs. Raises ChildProcessError where it is no child of this process."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def _is_ours(part: Any) -> bool:
    """Whether a layer, loss or metric is minicnn's own, in all that it computes."""
    kind = type(part)
    if isinstance(part, (Network, FunctionMetric)) or not kind.__module__.startswith("minicnn."):
        return False
    if any(callable(getattr(kind, name, None)) for name in vars(part)):  # a method was replaced
        return False
    functions = [value for value in vars(part).values() if isinstance(value, Function)]
    return all(getattr(f.forward, "func", f.forward).__module__.startswith("minicnn.") for f in functions)
