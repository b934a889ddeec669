"""The mathematics: pure functions on arrays, forward and backward.

A kernel keeps its inputs' dtype, returns C-contiguous arrays and remembers nothing. It changes none of its inputs,
except where its first line says so: `bias_relu` overwrites z, and what is given as `out` is written to. Images are
(N, H, W, C), convolution kernels (KH, KW, C_in, C_out), dense kernels (in, out). `dy` is the gradient of the loss with
respect to the output y; a backward kernel turns it into dx, dw, db. Every kernel has a reference implementation in
plain loops, of the same name, in `minicnn.kernels.reference`: read that one first.
"""

from minicnn.kernels.activations import (
    bias_relu,
    elu_backward,
    elu_forward,
    leaky_relu_backward,
    leaky_relu_forward,
    relu_backward,
    relu_forward,
    sigmoid_backward,
    sigmoid_forward,
    tanh_backward,
    tanh_forward,
)
from minicnn.kernels.activations_more import (
    exponential_backward,
    exponential_forward,
    hard_sigmoid_backward,
    hard_sigmoid_forward,
    mish_backward,
    mish_forward,
    relu6_backward,
    relu6_forward,
    selu_backward,
    selu_forward,
    silu_backward,
    silu_forward,
    softplus_backward,
    softplus_forward,
    softsign_backward,
    softsign_forward,
)
from minicnn.kernels.conv import conv2d_backward, conv2d_forward
from minicnn.kernels.dense import dense_backward, dense_forward
from minicnn.kernels.dropout import dropout_backward, dropout_forward, dropout_mask, mask_for
from minicnn.kernels.gelu import gelu_backward, gelu_forward, gelu_with_slope
from minicnn.kernels.im2col import col2im, im2col
from minicnn.kernels.norm import (
    batchnorm_backward,
    batchnorm_eval_backward,
    batchnorm_forward,
    batchnorm_moments,
)
from minicnn.kernels.pool import (
    avgpool2d_backward,
    avgpool2d_forward,
    global_avgpool2d_backward,
    global_avgpool2d_forward,
    maxpool2d_backward,
    maxpool2d_forward,
)
from minicnn.kernels.softmax import (
    log_softmax,
    log_softmax_backward,
    softmax_backward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
    softmax_forward,
)

__all__ = [
    "avgpool2d_backward",
    "avgpool2d_forward",
    "batchnorm_backward",
    "batchnorm_eval_backward",
    "batchnorm_forward",
    "batchnorm_moments",
    "bias_relu",
    "col2im",
    "conv2d_backward",
    "conv2d_forward",
    "dense_backward",
    "dense_forward",
    "dropout_backward",
    "dropout_forward",
    "dropout_mask",
    "elu_backward",
    "elu_forward",
    "exponential_backward",
    "exponential_forward",
    "gelu_backward",
    "gelu_forward",
    "gelu_with_slope",
    "global_avgpool2d_backward",
    "global_avgpool2d_forward",
    "hard_sigmoid_backward",
    "hard_sigmoid_forward",
    "im2col",
    "leaky_relu_backward",
    "leaky_relu_forward",
    "log_softmax",
    "log_softmax_backward",
    "mask_for",
    "maxpool2d_backward",
    "maxpool2d_forward",
    "mish_backward",
    "mish_forward",
    "relu6_backward",
    "relu6_forward",
    "relu_backward",
    "relu_forward",
    "selu_backward",
    "selu_forward",
    "sigmoid_backward",
    "sigmoid_forward",
    "silu_backward",
    "silu_forward",
    "softmax_backward",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "softmax_forward",
    "softplus_backward",
    "softplus_forward",
    "softsign_backward",
    "softsign_forward",
    "tanh_backward",
    "tanh_forward",
]
