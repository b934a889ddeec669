"""Our own kernels for NVIDIA GPUs, where CuPy's array operations would pass over the memory too often.

The `.cu` files are the lesson: common.cu first, then windows.cu (im2col, col2im, max pooling), convolution.cu (how a
matrix product is computed, and a convolution by it), elementwise.cu (ReLU, GELU, dropout), norm.cu, softmax.cu and
step.cu (the optimizer). Beside each stands a `.py` that starts it.
All other matrix products are left to cuBLAS, NVIDIA's library (`matmul`): nothing of this size beats it.

A kernel that has a variant here says so above its name: `@cuda.on_gpu(cuda.im2col)`. Given CuPy arrays, the variant of
the same arguments computes in its place. Tests run the same sources on the CPU.
"""

from minicnn.backend import on_gpu, serves
from minicnn.kernels.cuda.convolution import conv_forward, conv_input_gradient, conv_kernel_gradient
from minicnn.kernels.cuda.elementwise import (
    Mask,
    bias_relu,
    bias_relu_dropout,
    dropout_forward,
    gelu_backward,
    gelu_forward,
    gelu_with_slope,
    mask_for,
    relu_backward,
    relu_forward,
)
from minicnn.kernels.cuda.norm import (
    batchnorm_forward,
    column_sums,
    input_gradient,
    max_norm,
    moments,
    parameter_gradients,
    relu_backward_sums,
    statistics,
    workspace,
)
from minicnn.kernels.cuda.softmax import softmax_cross_entropy_backward, softmax_cross_entropy_forward, softmax_forward
from minicnn.kernels.cuda.step import fused_step
from minicnn.kernels.cuda.windows import (
    col2im,
    global_avgpool2d_forward,
    im2col,
    im2col_tiles,
    maxpool2d_backward,
    maxpool2d_forward,
)

__all__ = [
    "Mask",
    "batchnorm_forward",
    "bias_relu",
    "bias_relu_dropout",
    "col2im",
    "column_sums",
    "conv_forward",
    "conv_input_gradient",
    "conv_kernel_gradient",
    "dropout_forward",
    "fused_step",
    "gelu_backward",
    "gelu_forward",
    "gelu_with_slope",
    "global_avgpool2d_forward",
    "im2col",
    "im2col_tiles",
    "input_gradient",
    "mask_for",
    "max_norm",
    "maxpool2d_backward",
    "maxpool2d_forward",
    "moments",
    "on_gpu",
    "parameter_gradients",
    "relu_backward",
    "relu_backward_sums",
    "relu_forward",
    "serves",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "softmax_forward",
    "statistics",
    "workspace",
]
