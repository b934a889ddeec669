"""Everything about images under the name that it has in Keras: `from minicnn.preprocessing.image import load_img`.

Read in this order: loading.py (one file), folder.py (a folder of classes), transforms.py (what is done to an image),
statistics.py (normalisation and whitening), generator.py (ImageDataGenerator), iterators.py and dataframe.py (its
batches), image_input.py (how a model takes images), look.py and prepare.py (pictures that look different).
"""

from minicnn.preprocessing.dataframe import DataFrameIterator
from minicnn.preprocessing.folder import image_dataset_from_directory
from minicnn.preprocessing.generator import ImageDataGenerator
from minicnn.preprocessing.image_input import ImageInput
from minicnn.preprocessing.iterators import DirectoryIterator, Iterator, NumpyArrayIterator
from minicnn.preprocessing.loading import array_to_img, img_to_array, load_img, save_img
from minicnn.preprocessing.look import Look

__all__ = [
    "DataFrameIterator",
    "DirectoryIterator",
    "ImageDataGenerator",
    "ImageInput",
    "Iterator",
    "Look",
    "NumpyArrayIterator",
    "array_to_img",
    "image_dataset_from_directory",
    "img_to_array",
    "load_img",
    "save_img",
]
