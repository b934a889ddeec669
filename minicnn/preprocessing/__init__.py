"""Images on their way to a model: files, folders of classes, augmentation, normalisation. See `image`.

`image_dataset_from_directory` stands here, too, as in Keras; and `patch_whitening`, a kernel for a first convolution.
"""

from typing import Any

__all__ = ["image_dataset_from_directory", "patch_whitening"]


def __getattr__(name: str) -> Any:
    if name == "patch_whitening":
        from minicnn.preprocessing.statistics import patch_whitening

        return patch_whitening
    if name in __all__:
        from minicnn.preprocessing import folder  # which reads files: not for those who have arrays

        return getattr(folder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
