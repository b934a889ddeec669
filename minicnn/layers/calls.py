"""What happens when a layer is called: layer(array) computes, layer(symbolic value) describes a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from minicnn import random
from minicnn.arguments import in_words
from minicnn.backend import Array, xp_of
from minicnn.errors import InputError
from minicnn.layers.context import Context
from minicnn.layers.symbolic import SymbolicTensor, described, is_symbolic, symbolic_inputs


class Calls:
    """The part of every layer that is about being called. See Layer for the rest."""

    _outputs: list[SymbolicTensor]  # what the calls on symbolic values gave

    @in_words
    def __call__(self: Any, x: Any, training: bool | None = None) -> Any:
        """The output for x: an array of numbers for an array, a symbolic value for a symbolic value.

        A layer that was not built yet is built for the samples of x. Called on symbolic values it describes a network,
        see minicnn.models.Model; a layer that is called twice is used twice, with the same weights. training: with
        dropout and the batch's statistics; the running ones of batch normalisation move. None: not so, but the layers
        that draw new images (RandomFlip, …) do it, as in Keras. Raises InputError where x does not fit.
        """
        if is_symbolic(x):
            return self._symbolic_call(symbolic_inputs(self, x))
        if not self.merges:
            x, shape = self._samples(x), np.shape(x)[1:]
        else:
            x = self._lists_of_samples(x)
            shape = [item.shape[1:] for item in x]
        self.check_built(shape)
        self.output_shape(shape)  # raises InputError where it does not fit
        rng = random.new_generator()
        self.build_once(shape, rng)
        training = self.augments if training is None else training
        ctx = Context(training, need_backward=False, seed=rng.bit_generator.random_raw() >> 1)
        y = self.forward(x, ctx)
        for name, new in ctx.state.items():
            self.state[name][...] = new
        return y

    def _samples(self: Any, x: Any) -> Array:
        """x as an array of the parameters' dtype (float32 where there are none) with a batch axis."""
        try:
            array = x if hasattr(x, "dtype") else np.asarray(x)
        except (ValueError, TypeError):  # rows of different lengths
            array = np.asarray(None)
        if array.dtype.kind not in "fiub" or not array.ndim or not array.size:
            raise InputError(
                self.name, "this is nothing that a layer can take.",
                "an array of numbers, samples along its first axis.",
                f"{type(x).__name__} of shape {array.shape}, {array.dtype}.",
                "for a single sample: layer(x[None]). To describe a network begin with x = Input(shape), and call each "
                "layer on what the one before returned.",
            )  # fmt: skip
        dtypes = [p.dtype for p in (*self.params.values(), *self.state.values())]
        return xp_of(array).asarray(array, dtypes[0] if dtypes else array.dtype if array.dtype.kind == "f" else "f4")

    def _lists_of_samples(self: Any, x: Any) -> list[Array]:
        """The inputs of a merging layer as arrays: a list of them, not one array, and as many samples in each."""
        kind = type(self).__name__
        if not isinstance(x, (list, tuple)):
            raise InputError(
                self.name, f"{kind} joins several values.", "a list: layer([x, y]).",
                f"an array of shape {np.shape(x)}." if hasattr(x, "shape") else f"{type(x).__name__}.",
                "put the values into brackets.",
            )  # fmt: skip
        arrays = [self._samples(item) for item in x]
        if len({len(item) for item in arrays}) > 1:
            raise InputError(
                self.name, "its inputs have different numbers of samples.", "as many in each.",
                f"{', '.join(str(len(item)) for item in arrays)} samples.", "check that all were sliced alike.",
            )  # fmt: skip
        return arrays

    def _symbolic_call(self: Any, inputs: tuple[SymbolicTensor, ...]) -> SymbolicTensor:
        shapes = [value.sample_shape for value in inputs]
        shape = shapes if self.merges else shapes[0]
        try:
            self.check_built(shape)
            output_shape = self.output_shape(shape)
        except InputError as error:
            raise type(error)(
                error.where, error.problem, error.expected, f"{error.received} It was called on {described(inputs)}.",
                error.fix,
            ) from None  # fmt: skip
        self.build_once(shape, random.new_generator())
        self._outputs.append(SymbolicTensor(self, inputs, output_shape))
        return self._outputs[-1]

    @property
    def output(self: Any) -> SymbolicTensor:
        """The symbolic value that this layer makes, to cut a network there: Model(model.input, layer.output)."""
        return self._only_output("output")

    @property
    def input(self: Any) -> Any:
        """The symbolic value that this layer reads; of a merging layer the list of them."""
        inputs = self._only_output("input").inputs
        return list(inputs) if self.merges else inputs[0]

    def _only_output(self: Any, what: str) -> SymbolicTensor:
        if len(self._outputs) == 1:
            return self._outputs[0]
        uses = f"in {len(self._outputs)} places" if self._outputs else "nowhere yet"
        raise InputError(
            self.name, f"it has no single {what}.", "a layer that is used once in a network.",
            f"one that is used {uses}.",
            "keep the value that the call returned: y = layer(x)." if self._outputs
            else "call it on a symbolic value, or put it into a model that knows its input shape.",
        )  # fmt: skip

    def check_built(self: Any, shape: Any) -> None:
        """InputError where the layer has its parameters already, and they are for samples with another last axis."""
        made_for = self.built_for
        if made_for is not None and (self.params or self.state) and made_for[-1:] != shape[-1:]:
            raise InputError(
                self.name, "the layer was built for another shape.", f"samples with {made_for[-1]} in the last axis.",
                f"samples of shape {shape}.", f"make a new {type(self).__name__} for this place.",
            )  # fmt: skip

    def build_once(self: Any, shape: Any, rng: np.random.Generator) -> None:
        """Build the layer for samples of this shape, unless it is built."""
        if not self.built:
            self.build(shape, rng)
            self.built, self.built_for = True, shape
