"""Our own kernels for NVIDIA GPUs, where CuPy's array operations would pass over the memory too often.

The `.cu` files are the lesson: common.cu first, then windows.cu (im2col, col2im, max pooling), elementwise.cu (ReLU,
dropout), norm.cu, softmax.cu and step.cu (the optimizer). Beside each stands a `.py` that starts it.
Matrix products are left to cuBLAS, NVIDIA's library (`matmul`): nothing of this size beats it.

The functions of `minicnn.kernels` come here when they are given CuPy arrays. Tests run the same sources on the CPU.
"""

from minicnn.kernels.cuda.elementwise import Mask, bias_relu, dropout, relu_backward, relu_forward
from minicnn.kernels.cuda.launch import serves
from minicnn.kernels.cuda.norm import batchnorm_forward, input_gradient, moments, parameter_gradients
from minicnn.kernels.cuda.softmax import cross_entropy, cross_entropy_gradient, softmax_forward
from minicnn.kernels.cuda.step import fused_step
from minicnn.kernels.cuda.windows import col2im, im2col, maxpool2d_backward, maxpool2d_forward

__all__ = [
    "Mask",
    "batchnorm_forward",
    "bias_relu",
    "col2im",
    "cross_entropy",
    "cross_entropy_gradient",
    "dropout",
    "fused_step",
    "im2col",
    "input_gradient",
    "maxpool2d_backward",
    "maxpool2d_forward",
    "moments",
    "parameter_gradients",
    "relu_backward",
    "relu_forward",
    "serves",
    "softmax_forward",
]
