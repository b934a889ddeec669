"""Images on their way to a model: files, folders of classes, augmentation, normalisation. See `image`.

`image_dataset_from_directory` stands here, too, as in Keras.
"""

from minicnn.preprocessing.folder import image_dataset_from_directory

__all__ = ["image_dataset_from_directory"]
