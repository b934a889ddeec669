"""Models on disk: one's own files, and the weights in those of Keras.

    archive.py        zip files of arrays, and JSON, read with care
    model_file.py     what model.save() and save_weights() write
    keras_weights.py  .h5, .weights.h5 and .keras
    hdf5.py           the file format of those, read with care; hdf5_probe.py looks at a file first, in a process apart
"""

from minicnn.saving.model_file import load_model, load_weights, save_model, save_weights

__all__ = ["load_model", "load_weights", "save_model", "save_weights"]
