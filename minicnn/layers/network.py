"""What all networks of layers have in common: the rooms below `models.py` know them by this class."""

from __future__ import annotations

from minicnn.layers.base import Layer, Shape


class Network(Layer):
    """A layer that is made of layers."""

    layers: list[Layer]

    @property
    def shapes(self) -> list[Shape]:
        """The shape of a sample before the first layer and after each one."""
        raise NotImplementedError
