"""How an image file becomes what a model takes. It is saved with the model, so that nobody need remember it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicnn.errors import InputError
from minicnn.preprocessing.loading import (
    CHANNELS,
    INTERPOLATIONS,
    check_choice,
    check_size,
    img_to_array,
    load_img,
)


@dataclass(frozen=True)
class ImageInput:
    """The size of a model's images, their channels, and what their numbers are multiplied with.

        model.image_input = ImageInput(64, 64)
        model.save("model.zip")
        ...
        model = load_model("model.zip")
        model.predict(model.image_input.load("cat.jpg")[None])

    color_mode: "rgb", "grayscale" or "rgba". rescale: the default makes 0 … 255 to 0 … 1. interpolation: how files of
    another size are brought to this one, as in load_img. Raises InputError.
    """

    height: int
    width: int
    color_mode: str = "rgb"
    rescale: float = 1 / 255
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        check_size("image_size", (self.height, self.width))
        check_choice("color_mode", self.color_mode, CHANNELS)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        number = isinstance(self.rescale, (int, float)) and not isinstance(self.rescale, bool)
        if not number or not math.isfinite(self.rescale) or self.rescale == 0:
            raise InputError(
                "rescale", "it does not fit.", "a number other than 0.", f"{self.rescale!r}.", "for example 1 / 255."
            )

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.height, self.width, CHANNELS[self.color_mode]

    def scaled(self, x: Any) -> np.ndarray:
        """Numbers from 0 to 255, of one image or many, as float32 numbers for the model."""
        return np.multiply(x, np.float32(self.rescale), dtype=np.float32)

    def load(self, path: Any) -> np.ndarray:
        """The image in a file as the model takes it: (height, width, channels) float32. Raises as load_img does."""
        return self.scaled(img_to_array(load_img(path, self.color_mode, self.size, self.interpolation)))

    def check_fits(self, input_shape: tuple[int, ...]) -> None:
        """InputError unless an image has as many numbers as the model takes: as (H, W, C), or flattened."""
        if input_shape != self.shape and input_shape != (math.prod(self.shape),):
            raise InputError(
                "image_input", "it does not fit the model.", f"images for an input of shape {input_shape}.",
                f"images of shape {self.shape}.",
                "give ImageInput the height, width and channels of the model's first layer.",
            )  # fmt: skip
