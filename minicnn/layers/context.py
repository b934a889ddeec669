"""Context: what a layer remembers of one shard of a batch, from its forward pass to its backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from minicnn.backend import Array


class Context:
    """What a layer writes in its forward pass and reads in its backward pass.

    training: training or evaluation; None for a network each of whose layers decides by `augments`. need_backward:
    whether a backward pass follows. need_dx: whether anybody will ask for the gradient with respect to the layer's
    input. step: how many training steps came before. seed: the layer's random seed in this step. first: which sample of
    the batch is the shard's first one.
    overwrite: whether the result may take the place of x in memory, which only evaluation allows.
    trace: whether z and dz, which only pass through an activation, are to be kept for somebody who looks inside.
    all_reduce: sums an array over all shards of the batch; None where the batch is in one piece.
    grads: parameter name -> gradient, filled in the backward pass. state: new values of `layer.state`, filled in the
    forward pass; whoever runs the step applies them. A layer adds what it needs: ctx.x, ctx.y, ctx.mask, …
    """

    def __init__(
        self,
        training: bool | None = False,
        need_backward: bool = True,
        need_dx: bool = True,
        step: int = 0,
        seed: int = 0,
        first: int = 0,
        all_reduce: Callable[[Array], Array] | None = None,
        overwrite: bool = False,
    ):
        self.overwrite, self.trace = overwrite, False
        self.training, self.need_backward, self.need_dx = training, need_backward, need_dx
        self.step, self.seed, self.first = step, seed, first
        self.all_reduce = all_reduce
        self.grads: dict[str, Array] = {}
        self.state: dict[str, Array] = {}

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"nobody has written {name!r} into this context; it holds {', '.join(vars(self))}")

    if TYPE_CHECKING:  # a layer may write whatever it likes

        def __setattr__(self, name: str, value: Any) -> None: ...
