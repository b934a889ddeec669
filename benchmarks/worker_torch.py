"""One side of benchmarks/models.py: PyTorch. See protocol.py.

variant: words of nchw (the default layout), channels_last, flushed, tf32; kept, which models.py minds.
    flushed: numbers too small for float32's full precision count as 0 (torch.set_flush_denormal), which PyTorch does
    not do by itself. The running means in Adam fade into such numbers where a unit is dead.
    tf32: a GPU may round the inputs of products to TF32. Without it nobody may; by itself, PyTorch allows cuDNN to.

The bare loop: forward, loss, backward, step, on batches that lie ready in memory. Forward: eval and inference_mode.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import workloads
from protocol import CHECKED_STEPS, arguments, work
from torch import nn
from workloads import Op, Workload


class MaxNormLinear(nn.Linear):
    """A linear layer, each of whose outputs' weights have at most norm `limit` after `constrain`."""

    def __init__(self, inputs: int, outputs: int, limit: float):
        super().__init__(inputs, outputs)
        self.limit = limit

    @torch.no_grad()
    def constrain(self) -> None:
        norms = self.weight.norm(dim=1, keepdim=True)
        self.weight.mul_(norms.clamp(max=self.limit) / (norms + 1e-7))


class Residual(nn.Module):
    """The input plus what `inner` makes of it. Where that has a stride: every second pixel, and zeros as new channels.

    Every second pixel begins with the second one, because the images are mirrored: see `is_mirrored`.
    """

    def __init__(self, inner: nn.Sequential, stride: int):
        super().__init__()
        self.inner, self.stride = inner, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        if self.stride > 1:
            x = nn.functional.pad(x[:, :, 1::2, 1::2], (0, 0, 0, 0, 0, x.shape[1]))
        return x + y


ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}


def is_mirrored(workload: Workload) -> bool:
    """Whether images and kernels are turned about, which changes no loss.

    With a stride of 2, "same" pads the bottom and the right alone. PyTorch's padding, which costs nothing there, is on
    all sides, but what it pads at the bottom and the right is never read: it is the same in a mirror.
    """
    return any(op.stride > 1 for op in workload.ops)


@torch.no_grad()
def build(workload: Workload, dropout: bool) -> nn.Sequential:
    """The network with the workload's first weights, turned into PyTorch's order of axes."""
    kernels = map(torch.from_numpy, workloads.weights(workload))
    if is_mirrored(workload):
        kernels = (kernel.flip(0, 1) if kernel.ndim == 4 else kernel for kernel in kernels)
    layers = _layers(workload.ops, workload.shape, kernels, dropout)
    if workload.mode == "forward" and workload.classes is not None:
        layers.append(nn.Softmax(1))
    return nn.Sequential(*layers)


def _layers(
    ops: Iterable[Op], shape: tuple[int, ...], kernels: Iterator[torch.Tensor], dropout: bool
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    flat_of = None  # the image shape that a Flatten before this dense layer had
    for op in ops:
        if op.kind == "conv":
            padding = op.kernel // 2 if op.padding == "same" else 0
            layers.append(nn.Conv2d(shape[-1], op.width, op.kernel, op.stride, padding, bias=op.bias))
            layers[-1].weight.copy_(next(kernels).permute(3, 2, 0, 1))
            if op.bias:
                layers[-1].bias.zero_()
        elif op.kind == "residual":
            layers.append(Residual(nn.Sequential(*_layers(op.inner, shape, kernels, dropout)), op.stride))
        elif op.kind == "dense":
            if op.max_norm is None:
                layers.append(nn.Linear(shape[-1], op.width, bias=op.bias))
            else:
                layers.append(MaxNormLinear(shape[-1], op.width, op.max_norm))
            kernel = next(kernels)
            if flat_of is not None:  # PyTorch flattens (C, H, W), the others (H, W, C)
                kernel = kernel.reshape(*flat_of, op.width).permute(2, 0, 1, 3).reshape(-1, op.width)
                flat_of = None
            layers[-1].weight.copy_(kernel.T)
            if op.bias:
                layers[-1].bias.zero_()
        elif op.kind == "norm":
            layers.append((nn.BatchNorm1d if len(shape) == 1 else nn.BatchNorm2d)(shape[-1], eps=1e-3, momentum=0.01))
        elif op.kind == "drop" and dropout:
            layers.append(nn.Dropout(op.size))
        elif op.kind == "pool":
            layers.append(nn.MaxPool2d(op.width))
        elif op.kind == "average":
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        elif op.kind == "flatten":
            layers.append(nn.Flatten())
            flat_of = shape if len(shape) == 3 else None
        if op.activation is not None:
            layers.append(ACTIVATIONS[op.activation]())
        shape = workloads.output_shape(op, shape)
    return layers


class Side:
    """PyTorch's side of a workload."""

    def __init__(self, workload: Workload, variant: str, device: str, dropout: bool):
        self.device = "cuda" if device == "gpu" else "cpu"
        memory_format = torch.channels_last if "channels_last" in variant else torch.contiguous_format
        x, y = workloads.data(workload)
        images, labels = torch.from_numpy(x), torch.from_numpy(y).to(self.device)
        is_image = images.ndim == 4
        if is_image:
            images = images.permute(0, 3, 1, 2)
            images = (images.flip(2, 3) if is_mirrored(workload) else images).contiguous()
        images = images.to(self.device)
        model = build(workload, dropout).to(self.device)
        if is_image:
            model = model.to(memory_format=memory_format)
        self.workload, self.model = workload, model
        self.batches = []
        for i in range(0, len(x), workload.batch):
            part = images[i : i + workload.batch]
            part = part.contiguous(memory_format=memory_format) if is_image else part
            self.batches.append((part, labels[i : i + workload.batch]))
        self.constrained = [layer for layer in self.model if isinstance(layer, MaxNormLinear)]
        if workload.optimizer == "adam":
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-7)
        else:
            self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        self.loss = nn.CrossEntropyLoss()
        model.train(workload.mode == "train")

    def _train(self, batch: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.model(batch), target)
        loss.backward()
        self.optimizer.step()
        for layer in self.constrained:
            layer.constrain()
        return loss

    def round(self) -> dict[str, float]:
        if self.workload.mode == "train":
            for batch, target in self.batches:
                self._train(batch, target)
        else:
            with torch.inference_mode():
                for batch, _ in self.batches:
                    self.model(batch)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return {}

    def check(self) -> list[float]:
        if self.workload.mode == "train":
            steps = range(CHECKED_STEPS)
            return [self._train(*self.batches[step % len(self.batches)]).item() for step in steps]
        with torch.inference_mode():
            y = self.model(self.batches[0][0])
        y = y.permute(0, 2, 3, 1) if y.ndim == 4 else y
        return y.reshape(math.prod(y.shape))[:20].tolist()

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}


if __name__ == "__main__":
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.set_flush_denormal("flushed" in args.variant)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = "tf32" in args.variant
    work(Side, args)
