"""How an image file becomes what a model takes. It is saved with the model, so that nobody need remember it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minicnn.arguments import in_words
from minicnn.errors import InputError
from minicnn.preprocessing.loading import (
    CHANNELS,
    INTERPOLATIONS,
    check_choice,
    check_size,
    img_to_array,
    load_img,
)
from minicnn.preprocessing.look import Look, differences, look_of, sheet

SWITCHES = ("keep_aspect_ratio", "invert", "contrast", "center")


@in_words
@dataclass(frozen=True)
class ImageInput:
    """The size of a model's images, their channels, what their numbers are multiplied with, and what they look like.

        model.image_input = ImageInput(64, 64).learn(x_train)
        model.save("model.zip")
        ...
        model = load_model("model.zip")
        print(model.image_input.doubts("cat.jpg"))
        model.predict(model.image_input.load("cat.jpg")[None])

    color_mode: "rgb", "grayscale" or "rgba". rescale: the default makes 0 … 255 to 0 … 1. interpolation: how files of
    another size are brought to this one, as in load_img. Four switches say how a picture is prepared before:
    keep_aspect_ratio: cut, not squeezed. invert: light becomes dark. contrast: an even background without shadows, and
    full contrast on it. center: what is on it is cut out and laid in the middle. The last two make it look like the
    training images, so they need `look`, which `learn` finds. Raises InputError.
    """

    height: int
    width: int
    color_mode: str = "rgb"
    rescale: float = 1 / 255
    interpolation: str = "bilinear"
    keep_aspect_ratio: bool = False
    invert: bool = False
    contrast: bool = False
    center: bool = False
    look: Look | None = None

    def __post_init__(self) -> None:
        check_size("image_size", (self.height, self.width))
        check_choice("color_mode", self.color_mode, CHANNELS)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        number = isinstance(self.rescale, (int, float)) and not isinstance(self.rescale, bool)
        if not number or not math.isfinite(self.rescale) or self.rescale == 0:
            raise InputError(
                "rescale", "it does not fit.", "a number other than 0.", f"{self.rescale!r}.", "for example 1 / 255."
            )
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                given = f"{getattr(self, name)!r:.60}."
                raise InputError(name, "it does not fit.", "True or False.", given, f"for example {name}=True.")
        if isinstance(self.look, dict):  # as a model's file has it
            object.__setattr__(self, "look", Look(**self.look))
        if self.look is not None and not isinstance(self.look, Look):
            raise InputError("look", "it does not fit.", "a Look, or None.", f"{self.look!r:.60}.",
                             "let image_input.learn(x) find it.")  # fmt: skip
        if self.look is None and (self.contrast or self.center):
            raise InputError(
                "ImageInput", "it does not know what the training images look like.",
                "a look, for contrast and center.", "look=None.", "image_input = image_input.learn(x_train) first.",
            )  # fmt: skip

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.height, self.width, CHANNELS[self.color_mode]

    def learn(self, x: Any, aspect: float | None = None) -> ImageInput:
        """This, with the look of the training images x (N, H, W) or (N, H, W, C), 0 to 255, kept in it.

        aspect: width / height of the pictures that x was made of, if that was the same for all. Photographs, which have
        no one background, leave the look None.
        """
        x = np.asarray(x)
        if x.ndim not in (3, 4) or x.dtype.kind not in "buif" or x.size == 0:
            raise InputError(
                "ImageInput.learn", "these are no images.", "an array (N, height, width) or (N, height, width, C).",
                f"{x.dtype}, shape {x.shape}.", "pass the training images as they were read, from 0 to 255.",
            )  # fmt: skip
        return replace(self, look=look_of(x, aspect))

    def doubts(self, path: Any) -> dict[str, str]:
        """In what a picture differs from the training images: which switches would help, and why. {} where in nothing,
        or where their look is not known. Raises as load_img does.
        """
        if self.look is None:
            return {}
        found = differences(self._picture(path), self.look, self.size)
        return {name: why for name, why in found.items() if not getattr(self, name)}

    def suited(self, path: Any) -> ImageInput:
        """This, with the switches on that `doubts` names for a picture."""
        switches: dict[str, Any] = dict.fromkeys(self.doubts(path), True)
        return replace(self, **switches)

    def scaled(self, x: Any) -> np.ndarray:
        """Numbers from 0 to 255, of one image or many, as float32 numbers for the model."""
        return np.multiply(x, np.float32(self.rescale), dtype=np.float32)

    def load(self, path: Any) -> np.ndarray:
        """The image in a file as the model takes it: (height, width, channels) float32. Raises as load_img does."""
        if not (self.contrast or self.center):
            x = img_to_array(load_img(path, self.color_mode, self.size, self.interpolation, self.keep_aspect_ratio))
            return self.scaled(255 - x if self.invert else x)
        from minicnn.preprocessing.prepare import centred, fitted, flattened

        assert self.look is not None
        x = self._picture(path)
        x = sheet(x, self.look) if self.center else x
        x = 255 - x if self.invert else x
        x = flattened(x, self.look) if self.contrast else x
        if self.center:
            return self.scaled(centred(x, self.look, self.size))
        return self.scaled(fitted(x, self.size, self.interpolation, self.keep_aspect_ratio))

    def _picture(self, path: Any) -> np.ndarray:
        """The picture (H, W, C) before it is brought to the model's size, but not larger than is of use."""
        from minicnn.preprocessing.prepare import shrunk

        return img_to_array(shrunk(load_img(path, self.color_mode)), dtype=np.float64)

    def check_fits(self, input_shape: tuple[int, ...]) -> None:
        """InputError unless an image has as many numbers as the model takes: as (H, W, C), or flattened."""
        if input_shape != self.shape and input_shape != (math.prod(self.shape),):
            raise InputError(
                "image_input", "it does not fit the model.", f"images for an input of shape {input_shape}.",
                f"images of shape {self.shape}.",
                "give ImageInput the height, width and channels of the model's first layer.",
            )  # fmt: skip
