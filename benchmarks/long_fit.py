"""Rounds of training as epochs of one long `fit`: what fit does once, such as to fork processes, is no part of them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from protocol import Rounds

from minicnn.callbacks import Callback

FOR_EVER = 10**6


class LongFit(Callback):
    """A fit each of whose epochs is one of the rounds; it ends the program when no more are asked for."""

    def __init__(self, rounds: Rounds):
        super().__init__()
        self.rounds = rounds

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if not self.rounds.begin():
            sys.exit()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.rounds.end({})


def run(model: Any, x: np.ndarray, y: np.ndarray, batch: int, rounds: Rounds) -> None:
    """Train until no more rounds are asked for."""
    model.fit(x, y, batch_size=batch, epochs=FOR_EVER, verbose=0, callbacks=[LongFit(rounds)])
