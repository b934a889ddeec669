"""Images on their way to a model: files, folders of classes, augmentation, normalisation. See `image`.

`image_dataset_from_directory` stands here, too, as in Keras.
"""

from typing import Any

__all__ = ["image_dataset_from_directory"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from minicnn.preprocessing import folder  # which reads files: not for those who have arrays

        return getattr(folder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
