"""Models on disk: one's own files, and those of Keras.

    archive.py        zip files of arrays, and JSON, read with care
    model_file.py     what model.save() and save_weights() write
    keras_model.py    whole models of Keras; keras_config.py makes the network of a file's configuration
    keras_weights.py  the weights in .h5, .weights.h5 and .keras; keras_layout.py knows how they lie there,
                      keras_compare.py whether the model computes what the file says
    keras_writer.py   .keras files that Keras 3 opens
    safetensors_file.py  weights as other programs have them; PyTorch's converted
    onnx_file.py      networks for onnxruntime and other programs: a rule for each layer
    hdf5.py           the file format of those, read with care; hdf5_probe.py looks at a file first, in a process apart
"""

from minicnn.saving.model_file import load_model, load_weights, save_model, save_weights

__all__ = ["load_model", "load_weights", "save_model", "save_weights"]
