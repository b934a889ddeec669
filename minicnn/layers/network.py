"""What all networks of layers have in common: the rooms below `models.py` know them by this class."""

from __future__ import annotations

from typing import Any

from minicnn.layers.base import Layer, Shape


class Network(Layer):
    """A layer that is made of layers."""

    layers: list[Layer]
    device: Any

    @property
    def shapes(self) -> list[Shape]:
        """The shape of a sample before the first layer and after each one."""
        raise NotImplementedError

    @property
    def flat_layers(self) -> list[Layer]:
        """The layers that compute, in order, those of inner networks in their places."""
        raise NotImplementedError

    @property
    def layer_keys(self) -> list[str]:
        """A name for each of flat_layers that is unique in the whole network."""
        raise NotImplementedError
